"""A port and its sessions, as users see them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Never, final, overload

import trio

from psession import checks, errors
from psession.hooks import Waiting
from psession.options import checked, checked_life
from psession.protocol.endings import CANCELLED, CLEARED, TIMED_OUT, aborted, port_left
from psession.protocol.states import Turn as State
from psession.protocol.turn_dialect import TurnDialect
from psession.shell.live_session import LiveSession
from psession.shell.replies import replies_to
from psession.shell.stream import NEEDS_EXACT, plan
from psession.shell.turn import Turn
from psession.text import short
from psession.typed import Ask, Reply, form_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from typing import Self, TypeVar, Unpack

    from psession.hooks import Event, Listener, Observation
    from psession.options import TurnOptions
    from psession.protocol.counters import Statistics
    from psession.protocol.dialogue import Dialogue
    from psession.protocol.retry import Patience, Retry
    from psession.shell.engine import Engine
    from psession.shell.replies import Replies
    from psession.shell.stream import StreamOptions

    T = TypeVar("T")

_protected = trio.lowlevel.enable_ki_protection

ENTER_IT: Final = "port.session() is to be entered: `async with port.session() as session`"

CLOSED_BY_CLOSE: Final = "the port was closed by close()"

MAX_LABEL_CHARS: Final = 200
"""As much as an error repeats of a text (`psession.text.SHORT_CHARS`): it is in each of a port's lines."""


@final
class Session(Generic[Ask, Reply]):
    """One dialogue with the peer of a port.

    Made by `Port.session`, `Port.create` or, for what the peer opens, handed to ``on_session``. Leaving its ``with`` or
    ``async with`` block ends it. Turns are one at a time: a second ``send`` waits for the first.

    The application sends and receives payloads, with nothing of psession's in them. ``Session[Command, Status]`` tells
    type checkers what is sent and what is replied; plain ``Session`` is ``Session[Any, Any]``.

    Attributes:
        port: The port it belongs to.
    """

    __slots__ = ("__weakref__", "_live", "port")

    port: Port[Ask, Reply]
    _live: LiveSession

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Session is made by `async with port.session()` or `port.create()`")

    def __repr__(self) -> str:
        dialogue = self._live.dialogue
        turn = dialogue.turn
        if dialogue.ending is not None:
            state = f"ended: {dialogue.ending.why}"
        elif turn is not None and turn.state is not State.IDLE:
            age = self._live.engine.now() - turn.started
            state = f"open, a turn waits for {age:.3g} s (attempt {turn.attempts})"
            if self._live.waiting_turns:
                state += f", {len(self._live.waiting_turns)} more behind it"
        else:
            state = "open"
        return f"<psession.Session {self.sid} of {engine_of(self.port).said.who}, {state}>"

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def sid(self) -> int:
        """Its number. After a turn whose reply may still come the next ``send`` takes a fresh one."""
        return self._live.dialogue.sid

    @property
    def incoming(self) -> bool:
        """True where the peer opened it."""
        return self._live.dialogue.incoming

    @property
    def closed(self) -> bool:
        """True once the session is over."""
        return self._live.dialogue.ending is not None

    # -- turns -------------------------------------------------------------------------------------------------------

    @overload
    def send(
        self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]
    ) -> Coroutine[Any, Any, Reply]: ...
    @overload
    def send(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> Coroutine[Any, Any, T]: ...
    @overload
    def send(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Coroutine[Any, Any, Any]: ...
    def send(
        self,
        payload: Ask,
        *,
        reply_type: Any = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Send `payload` and return the peer's reply to it; await it.

        A second ``send`` in the same session waits until the first is over, and its own time starts then. The caller's
        payload is not changed.

        Args:
            payload: A mapping, a `msgspec.Struct`, a dataclass, or whatever else the channel's codec makes an object
                of; without a field of psession's own.
            reply_type: What the reply is read as, and checked: a Struct, a dataclass, a TypedDict or whatever else
                msgspec reads. ``None``: the reply as it came.
            timeout: Seconds each attempt waits, not the call. Like the others: ``None`` takes the session's, the port's
                or the manager's value, 0 means 0, ``math.inf`` no limit.
            retry: How often it is tried again, and when; a reply that comes between two attempts is the reply. Only
                silence is retried, and what `retry_on` names.
            retry_count: Attempts after the first; the short form of `retry`'s ``count``, over which it wins.
            retry_interval: Seconds between two attempts, likewise.
            retry_on: Exceptions of the sender that are tried again.

        Returns:
            The payload of the reply.

        Cancelled before the port's writer had the message, it is never sent; after that it is sent whole. The turn is
        gone from every table either way.

        Raises:
            SessionTimeoutError: No reply in ``(retry_count + 1) * timeout + retry_count * retry_interval`` seconds;
                `Retry` says how long it is with waits that grow.
            SessionCancelError: ``cancel()`` or ``end()`` was called, or the session was recycled.
            SessionAbortError: The port was left, or ``abort()`` or ``clear()`` called; `PortClosedError` when the
                channel ended or broke.
            SessionInvalidError: The session is over, or its peer's number may not be used again.
            SessionRemoteError: The peer answered with an error (exact wire).
            MessageError: The payload cannot be encoded, is too large, or has a field of psession's own.
            MalformedMessageError: The reply does not fit `reply_type`; the text says where, and what was expected. The
                turn is over: nothing is tried again, and the session goes on.
            Exception: What the sender raised. Whether the message left then is not known: it counts as not answered.
            TypeError, ValueError: An argument that will not do, from the call itself.
        """
        live = self._live
        if reply_type is not None:
            patience = checked(live.patience, timeout, retry, retry_count, retry_interval, retry_on)
            return Turn(live).run_typed(payload, patience, form_of(reply_type))
        return Turn(live).run(payload, checked(live.patience, timeout, retry, retry_count, retry_interval, retry_on))

    @overload
    def stream(self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]) -> Replies[Reply]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]) -> Replies[T]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]) -> Replies: ...
    def stream(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]) -> Replies:
        """Send `payload` and receive many replies to it: ``async with session.stream(payload) as replies``.

        A stream is a turn: a ``send`` of the same session waits. `psession.Replies` says how it ends and what it
        raises, `psession.StreamOptions` what it may take; with `reply_type` each reply is read as in `send`. On the
        classic wire: SessionInvalidError.
        """
        live = self._live
        if not live.engine.connection.is_exact(live.dialogue):
            raise live.error(errors.SessionInvalidError, NEEDS_EXACT)
        form = None if reply_type is None else form_of(reply_type)
        return replies_to(payload, plan(live.patience, options), form, live, self._opened)

    async def _opened(self) -> LiveSession:
        return self._live

    # -- messages that are no turns ----------------------------------------------------------------------------------

    def post(self, payload: Ask) -> Coroutine[Any, Any, None]:
        """Send `payload` and want no reply; await it. It returns when the message is accepted for sending, in order.

        Cancelled before it was accepted, it is never sent. Waits while ``max_queued_bytes`` are queued; with an async
        sender, until that has returned. A cancellation point always; may return without yielding to other tasks, and
        yields at least every 16th call, or every 32nd to a `stream`.

        Raises:
            SessionInvalidError: The session is over.
            PortClosedError: The channel ended or broke.
            MessageError: The payload cannot be encoded, is too large, or has a field of psession's own.
            Exception: What the sender raised.
        """
        return self._live.post(payload)

    @_protected
    async def finish(self, payload: Ask | None = None) -> None:
        """End the answer to the turn that was received, with `payload` if there is one. Waits and raises as `post`.

        To a `stream` each ``post`` is one answer, and this, the next ``receive`` or the handler's return the end. To a
        ``send`` it is `post`, or nothing. Cancelled before it was accepted, it has ended nothing.
        """
        await self._live.finish(payload)

    @_protected
    async def receive(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as in send
        """Receive the next message of the peer that is no reply to a ``send``: its payload.

        Args:
            timeout: Seconds to wait; ``None``: until the session is over, which ``session_max_life`` sees to.

        Cancelling loses nothing. A checkpoint always.

        Raises:
            SessionTimeoutError: Nothing came in `timeout` seconds.
            SessionInvalidError: The session is over, and all that had come was received.
            SessionOverrunError: The peer sent more than the inbox holds, which is let go of.
            SessionAbortError: The port was left, or its channel broke.
        """
        live = self._live
        if timeout is None:
            return await live.next_message()
        checks.seconds("timeout", timeout)
        with trio.move_on_after(timeout):
            return await live.next_message()
        if not await live.engine.timekeeper.look_for(lambda: not live.has_message):
            return live.take_message()
        raise live.error(errors.SessionTimeoutError, f"no message came in {timeout:g} s")

    def __aiter__(self) -> Self:
        """Iterate over what the peer says; stops when the session or the channel ends cleanly."""
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        return self._live.next_message(stops=True)

    @_protected
    def next(self, message: Any) -> None:
        """Hand in a message that came for this session, from a receive loop of one's own. Never waits, never raises.

        A turn that waits gets it as its reply; otherwise ``receive`` does. After the session's end it is counted, no
        more.
        """
        engine = self._live.engine
        engine.check_run()
        engine.perform_unweighed(engine.connection.deliver(self._live.dialogue, message, engine.now()))

    # -- the end -----------------------------------------------------------------------------------------------------

    @_protected
    def cancel(self) -> None:
        """Give up the sends that wait: each gets `SessionCancelError`. The session lives on."""
        self._live.settle(CANCELLED)

    @_protected
    def abort(self, error: BaseException | None = None) -> None:
        """Cut off the sends that wait: each gets a `SessionAbortError` of its own, caused by `error`."""
        self._live.settle(aborted(error))

    @_protected
    def timeout(self) -> None:
        """Let the sends that wait time out now, their remaining attempts included."""
        self._live.settle(TIMED_OUT)

    @_protected
    def end(self) -> None:
        """End the session. Sends that wait get `SessionCancelError`; an exact peer is told. Idempotent."""
        self._live.end()

    def __enter__(self) -> Self:
        return self

    @_protected
    def __exit__(self, *_: object) -> None:
        self._live.end()

    async def __aenter__(self) -> Self:
        return self

    @_protected
    async def __aexit__(self, *_: object) -> None:
        self._live.end()


def session_of(port: Port[Ask, Reply], live: LiveSession) -> Session[Ask, Reply]:
    """Return the `Session` by which users know a session, made when they first meet it."""
    session: Session[Ask, Reply] | None = live.face
    if session is None:
        session = Session.__new__(Session)
        session.port = port
        session._live = live
        if live.dialogue.ending is None:
            live.face = session
    return session


class Opening(Generic[Ask, Reply]):
    """``async with port.session()``: a session, opened on entering and ended on leaving."""

    __slots__ = ("_open", "_session")

    def __init__(self, open_session: Callable[[], Awaitable[Session[Ask, Reply]]]) -> None:
        self._open = open_session

    @_protected
    async def __aenter__(self) -> Session[Ask, Reply]:
        self._session = await self._open()
        return self._session

    @_protected
    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._session.end()

    if not TYPE_CHECKING:  # to type checkers neither is there

        def __getattr__(self, name: str) -> Never:
            raise AttributeError(f"{ENTER_IT}, then session.{name}; or port.create(), which makes a session at once")

        def __enter__(self) -> Never:
            raise TypeError(f"{ENTER_IT}, not by a plain `with`")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("never entered")


class SessionsView(Mapping[int, Session]):
    """The open sessions of a port by number, as they are at any time. Where both sides use a number, this side's."""

    def __init__(self, own: dict[int, Dialogue], peers: dict[int, Dialogue], port: Port) -> None:
        self._own = own
        self._peers = peers
        self._port = port

    def __getitem__(self, sid: int) -> Session:
        dialogue = self._own.get(sid) or self._peers[sid]
        if not isinstance(dialogue.owner, LiveSession):
            raise KeyError(sid)  # its questions are answered one by one (on_request)
        return session_of(self._port, dialogue.owner)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the sessions that are open when it is their turn; those that come meanwhile are left out."""
        own, peers = self._own, self._peers
        sids = [*own, *(sid for sid in peers if sid not in own and isinstance(peers[sid].owner, LiveSession))]
        return (sid for sid in sids if sid in own or sid in peers)

    def __len__(self) -> int:
        own, peers = self._own, self._peers
        return len(own) + sum(sid not in own and isinstance(peers[sid].owner, LiveSession) for sid in peers)

    def __repr__(self) -> str:
        return f"<{len(self)} open sessions of {engine_of(self._port).said.who}>"


@final
class Port(Generic[Ask, Reply]):
    """One peer, for as long as its ``async with manager.port(...)`` block lasts.

    ``Port[Command, Status]`` tells type checkers what is sent and what is replied, where the channel's codec reads
    replies as a ``Status``; plain ``Port`` is ``Port[Any, Any]``.

    Attributes:
        name: The name it has in the manager.
    """

    name: str
    _engine: Engine

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Port is made by `async with manager.port(name, channel)`")

    def __repr__(self) -> str:
        engine = self._engine
        named = engine.said.who.replace("port", "psession.Port", 1)
        if engine.ending is not None:
            return f"<{named}, closed: {engine.ending.why}>"
        now, turns = engine.now(), [dialogue.turn for dialogue in engine.connection.sessions.all()]
        waiting = [turn for turn in turns if turn is not None and turn.state is not State.IDLE]
        state = f"open, {len(engine.connection.sessions)} sessions"
        if waiting:
            oldest = max(now - turn.started for turn in waiting)
            state += f", {len(waiting)} turns wait, the oldest for {oldest:.3g} s"
        return f"<{named}, {state}>"

    @property
    def label(self) -> str:
        """The words of the application's for this port, such as the name that a device logged in by; ``""`` at first.

        It stands beside the name wherever people read it: in errors, lines of the log, ``repr``, `waiting` and the
        inspector. May be set at any time, to at most 200 characters; what programs find the port by stays its name.

        Raises:
            TypeError: It is set to something else than a str.
            ValueError: It is set to more than 200 characters.
        """
        return self._engine.said.label

    @label.setter
    def label(self, label: str) -> None:
        if not isinstance(label, str):
            raise TypeError(f"a port's label must be a str, not {label!r:.100}")
        if len(label) > MAX_LABEL_CHARS:
            raise ValueError(f"a port's label must have {MAX_LABEL_CHARS} characters or less, not {len(label)}")
        self._engine.said.label = label

    # -- sessions ----------------------------------------------------------------------------------------------------

    @property
    def sessions(self) -> Mapping[int, Session]:
        """The open sessions by number, the peer's among them; live."""
        sessions = self._engine.connection.sessions
        return SessionsView(sessions.own, sessions.peers, self)

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
        """An async context manager: a new session, ended on leaving.

        Args:
            timeout: Seconds for each attempt of its sends. Like the others, the port's value where it is ``None``.
            retry: How often they are tried again, and when.
            retry_count: Attempts after the first; the short form of `retry`'s ``count``, over which it wins.
            retry_interval: Seconds between two attempts, likewise.
            retry_on: Exceptions of the sender that are retried.
            session_max_life: Seconds it may be idle.

        Raises:
            SessionOverflowError: On entering: no number is free, and ``on_session_overflow`` does not help. With
                ``"wait"`` entering waits, for as long as the caller's own scopes allow.
            PortClosedError: On entering: the port is closed.
        """
        patience = checked(self._engine.patience, timeout, retry, retry_count, retry_interval, retry_on)
        max_life = checked_life(session_max_life)
        return Opening(lambda: self._open(patience, max_life))

    @_protected
    def create(
        self,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> Session[Ask, Reply]:
        """Make a new session at once; ``end()`` it, or use it in a ``with``. Arguments and errors as in `session`.

        Under ``on_session_overflow="wait"`` it cannot wait and raises `SessionOverflowError`.
        """
        patience = checked(self._engine.patience, timeout, retry, retry_count, retry_interval, retry_on)
        self._engine.check_open()
        live = self._open_now(patience, checked_life(session_max_life))
        self._engine.rests(live.dialogue)
        return session_of(self, live)

    @overload
    async def request(self, payload: Ask, *, reply_type: None = None, **options: Unpack[TurnOptions]) -> Reply: ...
    @overload
    async def request(self, payload: Ask, *, reply_type: type[T], **options: Unpack[TurnOptions]) -> T: ...
    @overload
    async def request(self, payload: Ask, *, reply_type: Any, **options: Unpack[TurnOptions]) -> Any: ...
    @_protected
    async def request(
        self,
        payload: Ask,
        *,
        reply_type: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Session.send
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """Send one message in a session of its own, and return its reply. Arguments and errors as in `Session.send`."""
        patience = checked(self._engine.patience, timeout, retry, retry_count, retry_interval, retry_on)
        form = None if reply_type is None else form_of(reply_type)
        live = open_at_once(self._engine, patience) or self._open_once(patience) or await self._open_in_time(patience)
        try:
            if form is not None:
                return await Turn(live).run_typed(payload, patience, form)
            return await Turn(live).run(payload, patience)
        finally:
            live.end_once()

    @overload
    def stream(self, payload: Ask, *, reply_type: None = None, **options: Unpack[StreamOptions]) -> Replies[Reply]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: type[T], **options: Unpack[StreamOptions]) -> Replies[T]: ...
    @overload
    def stream(self, payload: Ask, *, reply_type: Any, **options: Unpack[StreamOptions]) -> Replies: ...
    def stream(self, payload: Ask, *, reply_type: Any = None, **options: Unpack[StreamOptions]) -> Replies:
        """Send one message with many replies in a session of its own. Arguments and errors as in `Session.stream`."""
        engine = self._engine
        if not engine.connection.streams:
            raise engine.error(errors.SessionInvalidError, NEEDS_EXACT)
        stream, form = plan(engine.patience, options), None if reply_type is None else form_of(reply_type)
        return replies_to(payload, stream, form, None, lambda: self._open_for_stream(stream.patience))

    @_protected
    async def post(self, payload: Ask) -> None:
        """Send a payload that is no session's, as it is. Waits and raises as `Session.post`."""
        engine = self._engine
        engine.check_open()
        try:
            frame = engine.connection.plain(payload)
        except errors.MessageError as error:
            engine.place(error)
            raise
        await engine.outbox.post(frame, engine.check_open)
        if engine.told.listens:
            engine.told.posted(None, payload, incoming=False)

    async def _open_for_stream(self, patience: Patience) -> LiveSession:
        return open_at_once(self._engine, patience) or self._open_once(patience) or await self._open_in_time(patience)

    # -- how sessions are opened -------------------------------------------------------------------------------------

    def _open_now(self, patience: Patience, max_life: float | None, *, once: bool = False) -> LiveSession:
        engine = self._engine
        policy = engine.options.on_session_overflow
        choose = partial(policy, self) if callable(policy) else None
        recycles = choose is not None or policy == "recycle"
        try:
            dialogue = engine.connection.open(max_life, engine.now(), recycles=recycles, choose=choose, once=once)
        except errors.SessionError as error:
            engine.place(error)
            raise
        finally:
            left = engine.connection.take()
            if left:
                engine.perform(left)
        if not once and engine.told.listens:
            engine.told.session_opened(dialogue)
        return LiveSession(engine, dialogue, patience)

    async def _open_when_free(self, patience: Patience, max_life: float | None, *, once: bool = False) -> LiveSession:
        """A session; under ``on_session_overflow="wait"`` as soon as a number is free."""
        engine = self._engine
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            engine.check_open()
            try:
                return self._open_now(patience, max_life, once=once)
            except errors.SessionOverflowError:
                if engine.options.on_session_overflow != "wait":
                    raise
            await engine.wait_for_number()

    async def _open(self, patience: Patience, max_life: float | None) -> Session[Ask, Reply]:
        live = await self._open_when_free(patience, max_life)
        self._engine.rests(live.dialogue)
        return session_of(self, live)

    def _open_once(self, patience: Patience) -> LiveSession | None:
        """A session for one turn, made room for as the policy says; under ``"wait"`` ``None``."""
        try:
            return self._open_now(patience, None, once=True)
        except errors.SessionOverflowError:
            if self._engine.options.on_session_overflow != "wait":
                raise
            return None

    async def _open_in_time(self, patience: Patience) -> LiveSession:
        """A session for one turn, as soon as a number is free, within one attempt's time."""
        engine = self._engine
        with trio.move_on_after(patience.timeout):
            return await self._open_when_free(patience, None, once=True)
        engine.connection.counters.timed_out += 1
        error = engine.error(errors.SessionTimeoutError, "not sent: no session number came free in time")
        error.waited, error.outcome = patience.timeout, "not_sent"
        raise error

    # -- messages that came ------------------------------------------------------------------------------------------

    def is_session(self, message: Any) -> bool:
        """Return True if `message` has a session's number in it."""
        return self._sid_of(message) is not None

    def _sid_of(self, message: Any) -> int | None:
        dialect = self._engine.options.wire
        if isinstance(self._engine.options.dialect, TurnDialect):
            return None  # its protocol knows no sessions
        fields = dialect.fields_of(message)
        return None if fields is None else dialect.sid_of(fields)

    def get_session(self, message: Any) -> Session | None:
        """The open session that `message` belongs to; ``None`` when there is none."""
        sid = self._sid_of(message)
        return None if sid is None else self.sessions.get(sid)

    @_protected
    def dispatch(self, message: Any) -> bool:
        """Give a message that came to its session; one that the peer opens is started. Never waits, never raises.

        Returns:
            ``False`` when it is no session's: then it is the caller's. A late or stray reply is a session's: it is
            counted, and goes nowhere.
        """
        return self._engine.dispatch(message)

    # -- all sessions at once ----------------------------------------------------------------------------------------

    @_protected
    def cancel(self) -> None:
        """Give up every send that waits: each gets its own `SessionCancelError`. The sessions live on."""
        for dialogue in self._engine.connection.sessions.all():
            dialogue.owner.settle(CANCELLED)

    @_protected
    def abort(self, error: BaseException | None = None) -> None:
        """Cut off every send that waits: each gets its own `SessionAbortError`, caused by `error`."""
        for dialogue in self._engine.connection.sessions.all():
            dialogue.owner.settle(aborted(error))

    @_protected
    def timeout(self) -> None:
        """Let every send that waits time out now."""
        for dialogue in self._engine.connection.sessions.all():
            dialogue.owner.settle(TIMED_OUT)

    @_protected
    def clear(self, behavior: Literal["abort", "cancel", "timeout"] = "abort") -> None:
        """End every session; a send that waits gets the error that `behavior` names. Their numbers stay used."""
        if behavior not in CLEARED:
            raise ValueError(f"behavior must be one of {', '.join(map(repr, CLEARED))}, not {behavior!r}")
        self._engine.check_run()
        for dialogue in self._engine.connection.sessions.all():
            self._engine.end(dialogue, CLEARED[behavior])

    @_protected
    def close(self, reason: str = "") -> None:
        """Close the port before its block is left: every send that waits gets `SessionAbortError`. Idempotent.

        Args:
            reason: Why, in words for this side's errors and listeners: ``"the device was started anew"``. The peer is
                not told.

        Raises:
            TypeError: The reason is no str.
        """
        if not isinstance(reason, str):
            raise TypeError(
                f"a reason is words, a str, not {reason!r:.100}; abort(error) gives sends that wait a cause"
            )
        self._engine.check_run()
        self._engine.close(port_left(f"the port was closed: {short(reason)}" if reason else CLOSED_BY_CLOSE))
        self._engine.stop()

    @_protected
    async def drain(self, timeout: float = math.inf) -> bool:  # noqa: ASYNC109 - it closes the port in the end, always
        """Leave gracefully: take no new sessions, wait for those there are, close the port.

        An exact peer is told the last turn that was taken: what it asks above that to open a session is safe to ask
        elsewhere, and fails there at once with the outcome ``"refused"``. What it opens on the classic wire is dropped.
        New sessions of this side get a `PortClosedError`.

        Args:
            timeout: Seconds to wait; then what is left is cut off as by `close`. Cancelling is the same at once.

        Returns:
            True if every session and handler had come to its end.
        """
        checks.seconds("timeout", timeout)
        engine = self._engine
        engine.check_open()
        drained = engine.drain()
        try:
            with trio.move_on_after(timeout):
                await drained.wait()
            has_ended = drained.is_set()  # to close ends at once what is passed on without a task
        finally:
            self.close()
        return has_ended

    async def wait_closed(self) -> None:
        """Return when the peer has gone, the channel broke, or the port was closed."""
        self._engine.check_run()
        await self._engine.closed.wait()

    @property
    def closed(self) -> bool:
        """True once the peer has gone, the channel broke, or the port was closed."""
        return self._engine.ending is not None

    def statistics(self) -> Statistics:
        """A snapshot of the counters. May be called from any thread."""
        return self._engine.statistics()

    @property
    def waiting(self) -> list[Waiting]:
        """The turns of this side that wait for their answer, the oldest first, as they are now."""
        now = self._engine.now()
        turns = sorted(self._engine.waiting_turns(), key=lambda turn: turn.started)
        return [
            Waiting(
                turn.dialogue.sid,
                turn.number,
                turn.payload,
                now - turn.started,
                turn.attempts,
                turn.sent,
                turn.started,
                self.label,
            )
            for turn in turns
            if isinstance(turn, Turn)
        ]

    @_protected
    def observe(self, listener: Listener, *kinds: type[Event]) -> Observation:
        """Call `listener` with each event of this port from now on; see `psession.hooks`.

        Args:
            listener: A plain function, called in the step that the event belongs to. What it raises is logged.
            kinds: Kinds of events, such as `psession.hooks.TurnFailed`; the others are not even made. None: all.

        Returns:
            What ends it: by ``end()``, or as a context manager. The port's end does as well.

        Raises:
            TypeError: It is no function, or a kind is none.
        """
        self._engine.check_run()
        return self._engine.told.observe(listener, kinds)


def port_over(engine: Engine) -> Port:
    """Make the `Port` by which users know a port."""
    port = Port.__new__(Port)
    port.name = engine.name
    port._engine = engine
    return port


def open_at_once(engine: Engine, patience: Patience) -> LiveSession | None:
    """A session for one turn; ``None`` where no number is free now.

    Raises:
        SessionError: The port is over.
    """
    engine.check_open()
    dialogue = engine.connection.open_once(engine.now())
    if dialogue is None:
        return None
    spare: LiveSession | None = dialogue.owner
    if spare is None:
        return LiveSession(engine, dialogue, patience)
    spare.patience = patience
    return spare


def engine_of(port: Port) -> Engine:
    """The middle of a port, for calls from outside Trio."""
    return port._engine


def live_of(session: Session) -> LiveSession:
    """The shell's side of a session, for the same."""
    return session._live
