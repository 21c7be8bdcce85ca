"""psession for programs without a loop: a port that plain functions call, from as many threads as there are.

::

    with psession.blocking.open_port("ws://127.0.0.1:8000/devices") as port:
        reply = port.request({"command": "status"}, timeout=3)

Trio runs in a thread of its own for as long as the block lasts (`anyio.from_thread.start_blocking_portal`).
"""

from __future__ import annotations

import os
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Never, final, overload
from urllib.parse import urlsplit

import trio

from psession.channels import open_tcp, open_unix, open_websocket
from psession.nursery import in_trio_task
from psession.shell.manager import SessionManager
from psession.typed import Ask, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self, TypeAlias, TypeVar, Unpack

    from anyio.from_thread import BlockingPortal

    import psession
    from psession.options import PortOptions, TurnOptions
    from psession.protocol.counters import Statistics
    from psession.shell.stream import StreamOptions

    T = TypeVar("T")

    Connect: TypeAlias = "Callable[[], AbstractAsyncContextManager[trio.abc.Channel[Any]]]"

__all__ = ["Port", "Replies", "Session", "open_port"]


class _Caller:
    """Calls into the thread that Trio runs in."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal

    def __call__(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Run an async function there, and return its result. What interrupts the wait, as Ctrl-C does, cancels it."""
        future: Future[Any] | None = None
        scope = trio.CancelScope()

        async def run() -> Any:
            with scope:
                return await function(*arguments)

        try:
            try:
                future = self._portal.start_task_soon(run)
            except RuntimeError as error:
                raise RuntimeError("the block of open_port was left: call its port inside it") from error
            return future.result()
        except CancelledError:
            raise RuntimeError("the block of open_port was left during the call") from None
        except BaseException:
            # Ctrl-C may have come before the future was known here, so it is the scope that is cancelled.
            if future is None or not future.done():
                with suppress(RuntimeError):
                    self._portal.start_task_soon(_async, scope.cancel)
            raise


@final
class Replies(Generic[Reply]):
    """The replies to one message: ``with port.stream(payload) as replies``, then ``for``. As `psession.Replies`."""

    _call: _Caller
    _replies: psession.Replies[Reply]

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("Replies are made by `session.stream(payload)` or `port.stream(payload)`")

    def __enter__(self) -> Self:
        self._call(self._replies.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._replies.__aexit__, kind, error, None)

    def __iter__(self) -> Iterator[Reply]:
        """Iterate over the replies as they come; stops after the last."""
        return _iterate(self._call, self._replies.__anext__)

    def receive(self) -> Reply:
        """Receive the next reply. Waits and raises as `psession.Replies.receive`."""
        reply: Reply = self._call(self._replies.receive)
        return reply


@final
class Session(Generic[Ask, Reply]):
    """One dialogue with the peer: ``with port.session() as session``. As `psession.Session`."""

    _call: _Caller
    _session: psession.Session[Ask, Reply]

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Session is made by `with port.session()`")

    @property
    def sid(self) -> int:
        """Its number."""
        return self._session.sid

    @property
    def closed(self) -> bool:
        """True once the session is over."""
        return self._session.closed

    @overload
    def send(self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]) -> Reply: ...
    @overload
    def send(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> T: ...
    @overload
    def send(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Any: ...
    def send(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[TurnOptions]) -> Any:
        """Send `payload` and return the peer's reply. Arguments and errors as in `psession.Session.send`."""
        return self._call(partial(self._session.send, payload, reply_type=reply_type, **options))

    def post(self, payload: Ask) -> None:
        """Send `payload` and want no reply. Waits and raises as `psession.Session.post`."""
        self._call(self._session.post, payload)

    @overload
    def stream(self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]) -> Replies[Reply]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]) -> Replies[T]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]) -> Replies: ...
    def stream(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]) -> Replies:
        """Send `payload` and receive many replies to it: as `psession.Session.stream`."""
        return _replies_from(self._call, self._session.stream(payload, reply_type=reply_type, **options))

    def receive(self, *, timeout: float | None = None) -> Any:
        """Receive the next message of the peer that is no reply: as `psession.Session.receive`."""
        return self._call(partial(self._session.receive, timeout=timeout))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over what the peer says; stops when the session or the channel ends cleanly."""
        return _iterate(self._call, self._session.__anext__)

    def end(self) -> None:
        """End the session. Idempotent."""
        self._call(_async, self._session.end)


@final
class Port(Generic[Ask, Reply]):
    """One peer, for plain functions in any thread. As `psession.Port`; `open_port` makes it.

    Attributes:
        name: Its name, which errors have.
    """

    name: str
    _call: _Caller
    _port: psession.Port[Ask, Reply]

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Port for plain functions is made by `with psession.blocking.open_port(...)`")

    def __repr__(self) -> str:
        return repr(self._port).replace("psession.", "psession.blocking.", 1)

    @property
    def label(self) -> str:
        """The application's words for this port, as `psession.Port.label`."""
        return self._port.label

    @label.setter
    def label(self, label: str) -> None:
        self._port.label = label

    @overload
    def request(self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]) -> Reply: ...
    @overload
    def request(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> T: ...
    @overload
    def request(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Any: ...
    def request(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[TurnOptions]) -> Any:
        """Send one message in a session of its own, and return its reply. As `psession.Port.request`.

        Ctrl-C while it waits gives the turn up, and an exact peer is told.
        """
        return self._call(partial(self._port.request, payload, reply_type=reply_type, **options))

    @overload
    def stream(self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]) -> Replies[Reply]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]) -> Replies[T]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]) -> Replies: ...
    def stream(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]) -> Replies:
        """Send one message with many replies: as `psession.Port.stream`."""
        return _replies_from(self._call, self._port.stream(payload, reply_type=reply_type, **options))

    @contextmanager
    def session(self, **options: Unpack[TurnOptions]) -> Iterator[Session[Ask, Reply]]:
        """``with port.session() as session``: one dialogue, ended on leaving. As `psession.Port.session`."""
        opened: psession.Session[Ask, Reply] = self._call(self._port.session(**options).__aenter__)
        session = Session.__new__(Session)
        session._call, session._session = self._call, opened
        try:
            yield session
        finally:
            session.end()

    def post(self, payload: Ask) -> None:
        """Send a payload that is no session's, as it is. Waits and raises as `psession.Port.post`."""
        self._call(self._port.post, payload)

    def wait_closed(self) -> None:
        """Return when the peer has gone, the channel broke, or the port was closed."""
        self._call(self._port.wait_closed)

    @property
    def closed(self) -> bool:
        """True once the peer has gone, the channel broke, or the port was closed."""
        return self._port.closed

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        found: Statistics = self._call(_async, self._port.statistics)
        return found


@contextmanager
def open_port(target: str | Connect, *, name: str = "peer", **options: Unpack[PortOptions]) -> Iterator[Port]:
    """``with open_port("ws://host/path") as port``: a port for plain functions, while the block lasts.

    Args:
        target: ``ws://`` or ``wss://``, ``tcp://host:port``, ``unix:///path``; or a function that opens a channel:
            ``lambda: open_tcp("device", 4000, framing="length_prefixed")``, or one of `reconnecting`.
        name: The port's name, which errors have.
        options: As of `psession.SessionManager.port`. Handlers run in Trio's thread: a plain function must be quick.

    Leaving the block ends the port as leaving ``manager.port`` does: calls that still wait in other threads raise
    `SessionAbortError`. All errors come out as they are.

    Raises:
        ValueError: The URL is of no such kind.
        OSError: No connection.
        TypeError: The target or an option will not do.
        RuntimeError: The caller is a Trio task, which waiting so would stop with all others.
    """
    if in_trio_task():
        raise RuntimeError("open_port is for plain functions, and this is a task of Trio's: use manager.port() there")
    from anyio.from_thread import start_blocking_portal

    connect = _connect(target) if isinstance(target, str) else target
    if not callable(connect):
        raise TypeError(f"open_port takes a URL, or a function that opens a channel, not {target!r}")
    manager = SessionManager(**options)
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(_opened(manager, name, connect)) as port,
    ):
        made = Port.__new__(Port)
        made.name, made._call, made._port = name, _Caller(portal), port
        yield made


@asynccontextmanager
async def _opened(manager: SessionManager, name: str, connect: Connect) -> AsyncIterator[psession.Port]:
    async with connect() as channel, manager.port(name, channel) as port:
        yield port


def _connect(url: str) -> Connect:
    parts = urlsplit(url)
    if parts.scheme in ("ws", "wss"):
        return partial(open_websocket, url)
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        return partial(open_tcp, parts.hostname, parts.port)
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return partial(open_unix, os.fspath(parts.path))
    raise ValueError(
        f"no address that open_port knows: {url!r}; write ws://host:port/path, wss://, tcp://host:port or unix:///path"
    )


def _iterate(call: _Caller, receive: Callable[[], Awaitable[Any]]) -> Iterator[Any]:
    while True:
        try:
            item = call(receive)
        except StopAsyncIteration:
            return
        yield item


def _replies_from(call: _Caller, replies: psession.Replies[Any]) -> Replies[Any]:
    made: Replies[Any] = Replies.__new__(Replies)
    made._call, made._replies = call, replies
    return made


async def _async(function: Callable[[], T]) -> T:
    return function()
