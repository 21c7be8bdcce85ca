"""One peer: its sessions, and where each of its messages goes."""

from __future__ import annotations

import logging
import math
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import trio

from psession import _rules as rules
from psession import errors
from psession._bucket import RetryBucket
from psession._ending import CLEARED, expired, port_left
from psession._exact import Exact
from psession._handlers import Handlers
from psession._idle import IdleQueue
from psession._opening import Opening
from psession._options import checked, checked_life, seconds
from psession._replies import replies_of
from psession._statistics import Statistics
from psession._table import SessionTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from psession._busywait import BusyWait
    from psession._ending import Ending
    from psession._options import Options
    from psession._outbox import Outbox
    from psession._replies import Replies
    from psession._retry import Patience, Retry
    from psession._session import Session
    from psession._stream import StreamOptions
    from psession._timekeeper import Timekeeper

log = logging.getLogger("psession")


class Port:
    """One peer, for as long as its ``async with manager.port(...)`` block lasts.

    Attributes:
        name: The name it has in the manager.
        sessions: The live table: every open session by its number, the peer's among them.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self._options = options
        self._patience = options.patience
        self._envelope = options.wire
        self._table = SessionTable(self)
        self.sessions = self._table.sessions
        self._idle: IdleQueue[Session] = IdleQueue()
        self._idle_incoming: IdleQueue[Session] = IdleQueue()
        self._counters = Statistics()
        self._exact = Exact(self) if options.wire.is_exact else None
        self._ending: Ending | None = None
        self._closed = trio.Event()
        self._drained: trio.Event | None = None
        self._now = trio.lowlevel.current_clock().current_time
        self._bucket = RetryBucket()
        self._luck: Callable[[], float] = random.random
        self._handlers = Handlers(self)
        self._warned: set[str] = set()
        # What the life of the port (psession._life) sets before anyone else sees it:
        self._outbox: Outbox
        self._to_frame: Callable[[Any], Any]
        self._hops = 1
        self._start_handler: Callable[[Session], None]
        self._take_plain: Callable[[Any], None]
        self._timekeeper: Timekeeper
        self._awake: BusyWait | None = None
        self._look: Callable[[], bool]
        self._stop: Callable[[], None]
        self._lines: object = None

    def __repr__(self) -> str:
        state = "open" if self._ending is None else "closed"
        return f"<psession.Port {self.name!r}, {state}, {len(self.sessions)} sessions>"

    # -- sessions ----------------------------------------------------------------------------------------------------

    def session(
        self,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> AbstractAsyncContextManager[Session]:
        """An async context manager: a new session, ended on leaving.

        Args:
            timeout: Seconds for each attempt of its sends. Like the others, the port's value where it is ``None``.
            retry: How often they are tried again, and when.
            retry_count: Attempts after the first, on top of `retry`.
            retry_interval: Seconds between two attempts, likewise.
            retry_on: Exceptions of the sender that are retried.
            session_max_life: Seconds it may be idle.

        Raises (on entering):
            SessionOverflowError: No number is free, and ``on_session_overflow`` does not help. With ``"wait"`` entering
                waits, for as long as the caller's own scopes allow.
            PortClosedError: The port is closed.
        """
        patience = checked(self._patience, timeout, retry, retry_count, retry_interval, retry_on)
        return Opening(self, patience, checked_life(session_max_life))

    def create(
        self,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> Session:
        """A new session at once; ``end()`` it, or use it as a context manager. Arguments and errors as in `session`.

        Under ``on_session_overflow="wait"`` it cannot wait and raises `SessionOverflowError`.
        """
        patience = checked(self._patience, timeout, retry, retry_count, retry_interval, retry_on)
        self._check_open()
        session = self._table.open(patience, checked_life(session_max_life))
        self._counters.opened += 1
        self._idle_enter(session)
        return session

    async def request(
        self,
        message: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Session.send
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """One message and its reply, in a session of its own. Arguments, result and errors as in `Session.send`."""
        patience = checked(self._patience, timeout, retry, retry_count, retry_interval, retry_on)
        session = await self._open_once(patience)
        try:
            return await session.send(message)
        finally:
            session.end()

    def stream(self, message: Any, **options: Unpack[StreamOptions]) -> Replies:
        """One message and many replies to it, in a session of its own. Arguments and errors as in `Session.stream`."""
        return replies_of(self, message, options)

    async def post(self, message: Any) -> None:
        """Send a message that is no session's, as it is. Waits and raises as `Session.post`."""
        self._check_open()
        await self._outbox.post(self._outbox.encode(message), self._check_open)

    # -- messages that came ------------------------------------------------------------------------------------------

    def is_session(self, message: Any) -> bool:
        """Whether `message` has a session's number in it."""
        return self._envelope.read(message) is not None

    def get_session(self, message: Any) -> Session | None:
        """The open session that `message` belongs to; ``None`` when there is none."""
        sid = self._envelope.read(message)
        return None if sid is None else self.sessions.get(sid)

    def dispatch(self, message: Any) -> bool:
        """Give a message that came to its session; one that the peer opens is started. Never waits, never raises.

        Returns:
            ``False`` when it is no session's: then it is the caller's. A late or stray reply is a session's: it is
            counted, and goes nowhere.
        """
        sid = self._envelope.read(message)
        if sid is None:
            return self._is_ports_own(message)
        session = self.sessions.get(sid)
        exact = self._exact
        if exact is not None and exact.take_plainly(session, message):
            return True
        if self._envelope.marks(message):
            self._speak_exactly().take(sid, message)
            return True
        if session is not None:
            if exact is None or not exact.asks(session):
                session._deliver(message)
            else:
                exact.asker.unmarked(session, message)
        elif sid in self._table.pool:
            self._stray(sid)
        elif self._options.on_session is None or self._ending is not None:
            self._counters.unknown_sid += 1
        elif (session := self._handlers.take_in(sid)) is not None:
            session._deliver(message)
            self._start_handler(session)
        return True

    def _is_ports_own(self, message: Any) -> bool:
        """Whether a message that is no session's is about the port itself; then it is dealt with."""
        return self._envelope.marks(message) and self._speak_exactly().talk.take(message)

    def _speak_exactly(self) -> Exact:
        """The exact wire of this port, from now on."""
        if self._exact is None:
            self._exact = Exact(self)
        return self._exact

    def _give(self, message: Any) -> None:
        """A message that came for this port, a session's or not."""
        if not self.dispatch(message):
            self._take_plain(message)

    # -- all sessions at once ----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Give up every send that waits: each gets its own `SessionCancelError`. The sessions live on."""
        for session in list(self.sessions.values()):
            session.cancel()

    def abort(self, error: BaseException | None = None) -> None:
        """Cut off every send that waits: each gets its own `SessionAbortError`, caused by `error`."""
        for session in list(self.sessions.values()):
            session.abort(error)

    def timeout(self) -> None:
        """Let every send that waits time out now."""
        for session in list(self.sessions.values()):
            session.timeout()

    def clear(self, behavior: Literal["abort", "cancel", "timeout"] = "abort") -> None:
        """End every session; a send that waits gets the error that `behavior` names. Their numbers stay used."""
        if behavior not in CLEARED:
            raise ValueError(f"behavior must be one of {', '.join(map(repr, CLEARED))}, not {behavior!r}")
        for session in list(self.sessions.values()):
            session._end(CLEARED[behavior])

    def close(self) -> None:
        """Close the port before its block is left: every send that waits gets `SessionAbortError`. Idempotent."""
        self._end(port_left("the port was closed by close()"))
        self._stop()

    async def drain(self, timeout: float = math.inf) -> bool:  # noqa: ASYNC109 - it closes the port in the end, always
        """Leave gracefully: take no new sessions, wait for those there are, close the port.

        An exact peer is told the last turn that was taken: what it asks above that to open a session is safe to ask
        elsewhere, and fails there at once with the outcome ``"refused"``. What it opens on the classic wire is dropped.
        New sessions of this side get a `PortClosedError`.

        Args:
            timeout: Seconds to wait; then what is left is cut off as by `close`. Cancelling is the same at once.

        Returns:
            Whether every session and handler had come to its end.
        """
        seconds("timeout", timeout)
        self._check_open()
        drained = self._drained = self._drained or trio.Event()
        if self._exact is not None and self._exact.peer is rules.EXACT:
            self._exact.talk.say_closing()
        self._note_drained()
        try:
            with trio.move_on_after(timeout):
                await drained.wait()
        finally:
            self.close()
        return drained.is_set()

    def _note_drained(self) -> None:
        if self._drained is not None and not self.sessions and not self._handlers.running:
            self._drained.set()

    async def wait_closed(self) -> None:
        """Return when the peer has gone, the channel broke, or the port was closed."""
        await self._closed.wait()

    @property
    def closed(self) -> bool:
        """Whether the peer has gone, the channel broke, or the port was closed."""
        return self._ending is not None

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        now = Statistics(open=len(self.sessions), incoming=self._table.incoming)
        now.resting = self._table.pool.resting
        now.queued_bytes = self._outbox.queued_bytes
        now.bytes_sent, now.bytes_received = self._outbox.wire_bytes()
        now.add(self._counters)
        return now

    # -- what the peer opens, and what is nobody's -------------------------------------------------------------------

    def _stray(self, sid: int) -> None:
        """A message for a number of this side that no session has: a reply nobody waits for. It is never answered."""
        kind = self._table.pool.heard(sid)
        if kind == "late":
            self._counters.late += 1
        elif kind == "duplicate":
            self._counters.duplicate += 1
        else:
            self._counters.unknown_sid += 1
            if self._options.on_session is not None:
                self._warn(
                    "overlap",
                    "session %d, which this side never opened, is in its own session_ids: do both sides open sessions "
                    "from the same range? Give them disjoint ones, such as range(1, 65536, 2) and range(2, 65536, 2)",
                    sid,
                )

    def _malformed(self, error: errors.MessageError) -> None:
        """A message that cannot be read, its edges known: it alone is lost."""
        error.port = self.name
        self._counters.malformed += 1
        self._warn("malformed", "message dropped: %s", error)

    def _warn(self, about: str, text: str, *values: object) -> None:
        """A warning the first time, then quiet: a hostile peer must not fill the log. The counters go on."""
        level = logging.DEBUG if about in self._warned else logging.WARNING
        self._warned.add(about)
        log.log(level, f"port %r: {text} (said once; see statistics())", self.name, *values)

    # -- turns, idleness, the end ------------------------------------------------------------------------------------

    def _forget(self, session: Session) -> None:
        """A session is over."""
        (self._idle_incoming if session.incoming else self._idle).leave(session)
        self._table.forget(session)
        self._note_drained()

    async def _open_once(self, patience: Patience) -> Session:
        """A session for one turn."""
        self._check_open()
        if self._options.on_session_overflow == "wait":
            session = await self._open_within(patience)
        else:
            session = self._table.open(patience, None)
        session._once = True
        self._counters.opened += 1
        return session

    async def _open_within(self, patience: Patience) -> Session:
        """Under ``"wait"``: a session, or a timeout when no number came free within one attempt's patience."""
        with suppress(errors.SessionOverflowError):
            return self._table.open(patience, None)
        with trio.move_on_after(patience.timeout):
            return await self._table.open_when_free(patience, None)
        self._counters.timed_out += 1
        raise errors.SessionTimeoutError(
            "not sent: no session number came free in time", port=self.name, waited=patience.timeout
        )

    def _turn_ends(self, session: Session) -> None:
        self._outbox.turns -= 1
        if not session._once and session._ending is None and (not session.incoming or session._waits_for_peer):
            self._idle_enter(session)

    def _idle_enter(self, session: Session) -> None:
        """`session` is idle from now on: watched until something happens in it."""
        session.idle_since = self._now()
        if not session.idle_entry:
            life = session._max_life
            (self._idle_incoming if session.incoming else self._idle).enter(session, life)
            if life < self._timekeeper.shortest_life:
                self._timekeeper.watch_life(life)

    def _expire(self) -> tuple[float, float]:
        """End what has been idle too long. Returns when the next is due, and the shortest life that is watched."""
        now = trio.current_time()
        for queue in (self._idle, self._idle_incoming):
            for session in queue.pop_due(now):
                if not session._is_idle:
                    continue  # what goes on in it will make it idle anew
                self._counters.expired += 1
                session._end(expired(session._max_life))
        queues = (self._idle, self._idle_incoming)
        return min(queue.next_due() for queue in queues), min(queue.shortest_life() for queue in queues)

    def _end(self, ending: Ending) -> None:
        """The port is over: every waiter gets its error now; the first ending counts."""
        if self._ending is not None:
            return
        self._ending = ending
        for session in list(self.sessions.values()):
            session._end(ending)
        if self._exact is not None and (self._exact.talk.ticket or self._exact.talk.secret) and self._exact.can_tell():
            self._exact.talk.say_goodbye()
        self._outbox.close()
        self._table.close()
        self._closed.set()

    def _check_open(self) -> None:
        if self._ending is not None:
            why = f"the port is closed: {self._ending.why}"
            raise self._ending.after(why, port=self.name) from self._ending.cause
