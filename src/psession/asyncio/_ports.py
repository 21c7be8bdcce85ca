"""A port, its sessions and its streams for tasks of asyncio's."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, final, overload

import trio

from psession.asyncio._guest import NOTHING
from psession.asyncio._turn import AsyncioTurn
from psession.options import checked
from psession.shell.port import ENTER_IT, engine_of, live_of, open_at_once
from psession.shell.replies import leave, reply_now
from psession.typed import Ask, Reply, form_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self, TypeVar, Unpack

    import psession
    from psession.asyncio._guest import Guest
    from psession.options import TurnOptions
    from psession.protocol.counters import Statistics
    from psession.protocol.retry import Patience, Retry
    from psession.shell.engine import Engine
    from psession.shell.live_session import LiveSession
    from psession.shell.stream import StreamOptions

    T = TypeVar("T")


@final
class Replies(Generic[Reply]):
    """The replies to one message: use ``async with``, then ``async for``. As `psession.Replies`, for asyncio."""

    _guest: Guest
    _replies: psession.Replies[Reply]
    _unread: deque[Reply]

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("Replies are made by `session.stream(payload)` or `port.stream(payload)`")

    def __repr__(self) -> str:
        return repr(self._replies).replace("psession.", "psession.asyncio.", 1)

    async def __aenter__(self) -> Self:
        """Send the message. Raises as `psession.Replies`."""
        answer = self._guest.call(self._replies.__aenter__)
        try:
            await answer
        except asyncio.CancelledError:
            answer.forget()
            if answer.value is not NOTHING:
                leave(self._replies, trio.Cancelled)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        leave(self._replies, trio.Cancelled if cancelled else kind)

    async def aclose(self) -> None:
        """Give the turn up, as leaving the block does. Idempotent."""
        leave(self._replies, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        return await self._next(self._replies.__anext__)

    async def receive(self) -> Reply:
        """Receive the next reply. Cancelling loses nothing. Waits and raises as `psession.Replies.receive`."""
        return await self._next(self._replies.receive)

    async def _next(self, receive: Callable[[], Awaitable[Reply]]) -> Reply:
        if self._unread:
            return self._unread.popleft()
        reply = reply_now(self._replies)
        if reply is not None:
            return reply[0]
        received: Reply = await _kept(self._guest, self._unread, receive)
        return received


@final
class Session(Generic[Ask, Reply]):
    """One dialogue with the peer of a port. As `psession.Session`, for asyncio: ``async with``, and `end`.

    Attributes:
        port: The port it belongs to.
    """

    port: Port[Ask, Reply]
    _guest: Guest
    _session: psession.Session[Ask, Reply]
    _unread: deque[Any]

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Session is made by `async with port.session()`")

    def __repr__(self) -> str:
        return repr(self._session).replace("psession.", "psession.asyncio.", 1)

    @property
    def sid(self) -> int:
        """Its number."""
        return self._session.sid

    @property
    def incoming(self) -> bool:
        """True where the peer opened it."""
        return self._session.incoming

    @property
    def closed(self) -> bool:
        """True once the session is over."""
        return self._session.closed

    @overload
    async def send(self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]) -> Reply: ...
    @overload
    async def send(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> T: ...
    @overload
    async def send(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Any: ...
    async def send(
        self,
        payload: Ask,
        *,
        reply_type: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in psession.Session
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """Send `payload` and return the peer's reply. Arguments and errors as in `psession.Session.send`.

        Cancelled before the port's writer had the message, it is never sent; after that it is sent whole, and on the
        exact wire the peer is told.
        """
        live = live_of(self._session)
        if live.dialogue.turn is not None:  # a turn of another task's is first
            send: Any = partial(self._session.send, payload, reply_type=reply_type, timeout=timeout, retry=retry)
            options = {"retry_count": retry_count, "retry_interval": retry_interval, "retry_on": retry_on}
            return await self._guest.result(partial(send, **options))
        if live.dialogue.ending is None:
            self._guest.check()
        patience = checked(live.patience, timeout, retry, retry_count, retry_interval, retry_on)
        return await _ask(self._guest, live, payload, patience, reply_type)

    @overload
    def stream(self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]) -> Replies[Reply]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]) -> Replies[T]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]) -> Replies: ...
    def stream(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]) -> Replies:
        """Send `payload` and receive many replies to it: as `psession.Session.stream`."""
        return _replies_from(self._guest, self._session.stream(payload, reply_type=reply_type, **options))

    async def post(self, payload: Ask) -> None:
        """Send `payload` and want no reply. Waits and raises as `psession.Session.post`."""
        await self._guest.result(self._session.post, payload)

    async def finish(self, payload: Ask | None = None) -> None:
        """End the answer to the turn that was received: as `psession.Session.finish`."""
        await self._guest.result(self._session.finish, payload)

    async def receive(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as in send
        """Receive the next message of the peer that is no reply. Cancelling loses nothing.

        Arguments and errors as in `psession.Session.receive`.
        """
        return await self._next(partial(self._session.receive, timeout=timeout))

    def __aiter__(self) -> Self:
        """Iterate over what the peer says; stops when the session or the channel ends cleanly."""
        return self

    async def __anext__(self) -> Any:
        return await self._next(self._session.__anext__)

    async def _next(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        if self._unread:
            await asyncio.sleep(0)
            return self._unread.popleft()
        return await _kept(self._guest, self._unread, receive)

    def cancel(self) -> None:
        """Give up the sends that wait: each gets `SessionCancelError`. The session lives on."""
        self._session.cancel()

    def abort(self, error: BaseException | None = None) -> None:
        """Cut off the sends that wait: each gets a `SessionAbortError` of its own, caused by `error`."""
        self._session.abort(error)

    def timeout(self) -> None:
        """Let the sends that wait time out now, their remaining attempts included."""
        self._session.timeout()

    def end(self) -> None:
        """End the session: as `psession.Session.end`. Idempotent."""
        self._session.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._session.end()


class Opening(Generic[Ask, Reply]):
    """``async with port.session()``: a session, opened on entering and ended on leaving."""

    def __init__(self, port: Port[Ask, Reply], guest: Guest, opening: Any) -> None:
        self._port = port
        self._guest = guest
        self._opening = opening
        self._session: psession.Session[Ask, Reply] | None = None

    async def __aenter__(self) -> Session[Ask, Reply]:
        answer = self._guest.call(self._opening.__aenter__)
        try:
            self._session = await answer
        except asyncio.CancelledError:
            answer.forget()
            if answer.value is not NOTHING:
                answer.value.end()
            raise
        assert self._session is not None
        return session_from(self._guest, self._session, self._port)

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.end()

    if not TYPE_CHECKING:  # to type checkers neither is there

        def __getattr__(self, name: str) -> Never:
            raise AttributeError(f"{ENTER_IT}, then session.{name}")

        def __enter__(self) -> Never:
            raise TypeError(f"{ENTER_IT}, not by a plain `with`")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("never entered")


@final
class Port(Generic[Ask, Reply]):
    """One peer, for tasks of asyncio's. As `psession.Port`, which `Bridge.open` makes it of.

    Attributes:
        name: The name it has in the manager.
    """

    name: str
    _guest: Guest
    _port: psession.Port[Ask, Reply]
    _engine: Engine

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Port of asyncio's is made by `async with bridged.open(manager.port(name, channel))`")

    def __repr__(self) -> str:
        return repr(self._port).replace("psession.", "psession.asyncio.", 1)

    @property
    def label(self) -> str:
        """The application's words for this port, as `psession.Port.label`."""
        return self._port.label

    @label.setter
    def label(self, label: str) -> None:
        self._port.label = label

    @overload
    async def request(self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]) -> Reply: ...
    @overload
    async def request(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> T: ...
    @overload
    async def request(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Any: ...
    async def request(
        self,
        payload: Ask,
        *,
        reply_type: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in psession.Port
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """Send one message in a session of its own, and return its reply. Arguments and errors as in `Session.send`."""
        engine = self._engine
        if engine.ending is not None:
            engine.check_open()
        guest = self._guest
        guest.check()
        patience = checked(engine.patience, timeout, retry, retry_count, retry_interval, retry_on)
        live = open_at_once(engine, patience)
        if live is None:
            request: Any = partial(self._port.request, payload, reply_type=reply_type, timeout=timeout, retry=retry)
            options = {"retry_count": retry_count, "retry_interval": retry_interval, "retry_on": retry_on}
            return await guest.result(partial(request, **options))
        try:
            return await _ask(guest, live, payload, patience, reply_type)
        finally:
            live.end_once()

    @overload
    def stream(self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]) -> Replies[Reply]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]) -> Replies[T]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]) -> Replies: ...
    def stream(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]) -> Replies:
        """Send one message with many replies in a session of its own: as `psession.Port.stream`."""
        return _replies_from(self._guest, self._port.stream(payload, reply_type=reply_type, **options))

    def session(
        self,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> Opening[Ask, Reply]:
        """``async with port.session() as session``: one dialogue. Arguments and errors: `psession.Port.session`."""
        opening = self._port.session(
            timeout=timeout,
            retry=retry,
            retry_count=retry_count,
            retry_interval=retry_interval,
            retry_on=retry_on,
            session_max_life=session_max_life,
        )
        return Opening(self, self._guest, opening)

    async def post(self, payload: Ask) -> None:
        """Send a payload that is no session's, as it is. Waits and raises as `Session.post`."""
        await self._guest.result(self._port.post, payload)

    async def drain(self, timeout: float = math.inf) -> bool:  # noqa: ASYNC109 - as in psession.Port
        """Leave gracefully: as `psession.Port.drain`."""
        drained: bool = await self._guest.result(self._port.drain, timeout)
        return drained

    async def wait_closed(self) -> None:
        """Return when the peer has gone, the channel broke, or the port was closed."""
        if not self.closed:
            await self._guest.result(self._port.wait_closed)

    @property
    def closed(self) -> bool:
        """True once the peer has gone, the channel broke, or the port was closed."""
        return self._port.closed

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        return self._port.statistics()

    def cancel(self) -> None:
        """Give up every send that waits: each gets its own `SessionCancelError`. The sessions live on."""
        self._port.cancel()

    def abort(self, error: BaseException | None = None) -> None:
        """Cut off every send that waits: each gets its own `SessionAbortError`, caused by `error`."""
        self._port.abort(error)

    def timeout(self) -> None:
        """Let every send that waits time out now."""
        self._port.timeout()

    def clear(self, behavior: Literal["abort", "cancel", "timeout"] = "abort") -> None:
        """End every session; a send that waits gets the error that `behavior` names."""
        self._port.clear(behavior)

    def close(self, reason: str = "") -> None:
        """Close the port before its block is left, for a reason in words: as `psession.Port.close`. Idempotent."""
        self._port.close(reason)


async def _ask(guest: Guest, live: LiveSession, payload: Any, patience: Patience, reply_type: Any) -> Any:
    turn = AsyncioTurn(live, guest.loop)
    if reply_type is not None:
        return await turn.run_typed(payload, patience, form_of(reply_type))
    return await turn.run(payload, patience)


async def _kept(guest: Guest, unread: deque[Any], receive: Callable[[], Awaitable[Any]]) -> Any:
    """Receive by a call of Trio's. What came as this was cancelled is kept for the next call."""
    answer = guest.call(receive)
    try:
        return await answer
    except asyncio.CancelledError:
        answer.forget()
        if answer.value is not NOTHING:
            unread.append(answer.value)
        raise


def port_from(guest: Guest, port: psession.Port[Ask, Reply]) -> Port[Ask, Reply]:
    """Make the `Port` of asyncio's by which its tasks know a port."""
    made = Port.__new__(Port)
    made.name, made._guest, made._port, made._engine = port.name, guest, port, engine_of(port)
    return made


def session_from(
    guest: Guest, session: psession.Session[Ask, Reply], port: Port[Ask, Reply] | None = None
) -> Session[Ask, Reply]:
    """Make the `Session` of asyncio's by which its tasks know a session."""
    made = Session.__new__(Session)
    made.port = port or port_from(guest, session.port)
    made._guest, made._session, made._unread = guest, session, deque()
    return made


def _replies_from(guest: Guest, replies: psession.Replies[Any]) -> Replies[Any]:
    made: Replies[Any] = Replies.__new__(Replies)
    made._guest, made._replies, made._unread = guest, replies, deque()
    return made
