"""One peer: its sessions, and where each of its messages goes."""

from __future__ import annotations

import inspect
import logging
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import trio

from psession import errors
from psession._idle import IdleQueue
from psession._ids import SidPool
from psession._session import Ending, Session, checked
from psession._statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from psession._options import Options
    from psession._outbox import Outbox
    from psession._retry import Patience

log = logging.getLogger("psession")

ENDINGS = {
    "cancel": Ending(errors.SessionCancelError, "cancelled by clear()"),
    "abort": Ending(errors.SessionAbortError, "aborted by clear()", counter="aborted"),
    "timeout": Ending(errors.SessionTimeoutError, "timed out by clear()", counter="timed_out"),
}


class Port:
    """One peer, for as long as its ``async with manager.port(...)`` block lasts.

    Attributes:
        name: The name it has in the manager.
        sessions: The live table: every open session by its number, the peer's among them.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.sessions: dict[int, Session] = {}
        self._options = options
        self._patience = options.patience
        self._envelope = options.wire
        self._pool = SidPool(options.own_ids)
        self._by_age: OrderedDict[Session, None] = OrderedDict()
        self._freed = trio.lowlevel.ParkingLot()
        self._idle: IdleQueue[Session] = IdleQueue()
        self._idle_incoming: IdleQueue[Session] = IdleQueue()
        self._counters = Statistics()
        self._ending: Ending | None = None
        self._closed = trio.Event()
        self._shortest_life = math.inf
        self._turns = 0
        self._warned: set[str] = set()
        # What the life of the port (psession._life) sets before anyone else sees it:
        self._outbox: Outbox
        self._hops = 1
        self._start_handler: Callable[[Session], None]
        self._take_plain: Callable[[Any], None]
        self._watch_life: Callable[[], None]
        self._stop: Callable[[], None]

    def __repr__(self) -> str:
        state = "open" if self._ending is None else "closed"
        return f"<psession.Port {self.name!r}, {state}, {len(self.sessions)} sessions>"

    # -- sessions ----------------------------------------------------------------------------------------------------

    def session(
        self,
        *,
        timeout: float | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> AbstractAsyncContextManager[Session]:
        """An async context manager: a new session, ended on leaving.

        Args:
            timeout: Seconds for each attempt of its sends. Like the others, the port's value where it is ``None``.
            retry_count: Attempts after the first.
            retry_interval: Seconds between two attempts.
            retry_on: Exceptions of the sender that are retried.
            session_max_life: Seconds it may be idle.

        Raises (on entering):
            SessionOverflowError: No number is free, and ``on_session_overflow`` does not help. With ``"wait"`` entering
                waits, for as long as the caller's own scopes allow.
            PortClosedError: The port is closed.
        """
        patience = checked(self._patience, timeout, retry_count, retry_interval, retry_on)
        return _Opening(self, patience, session_max_life)

    def create(
        self,
        *,
        timeout: float | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
        session_max_life: float | None = None,
    ) -> Session:
        """A new session at once; ``end()`` it, or use it as a context manager. Arguments and errors as in `session`.

        Under ``on_session_overflow="wait"`` it cannot wait and raises `SessionOverflowError`.
        """
        patience = checked(self._patience, timeout, retry_count, retry_interval, retry_on)
        session = self._create(patience, session_max_life)
        self._idle_enter(session)
        return session

    async def request(
        self,
        message: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Session.send
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """One message and its reply, in a session of its own. Arguments, result and errors as in `Session.send`."""
        patience = self._patience
        if not (timeout is retry_count is retry_interval is retry_on is None):
            patience = checked(patience, timeout, retry_count, retry_interval, retry_on)
        if self._options.on_session_overflow == "wait":
            session = await self._create_within(patience)
        else:
            session = self._create(patience, None)
        session._once = True
        try:
            return await session.send(message)
        finally:
            session.end()

    async def post(self, message: Any) -> None:
        """Send a message that is no session's, as it is. Waits and raises as `Session.post`."""
        self._check_open()
        if not await self._outbox.post(self._outbox.encode(message)):
            self._check_open()

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
            return False
        session = self.sessions.get(sid)
        if session is not None:
            session._deliver(message)
        elif sid in self._pool:
            self._stray(sid)
        elif self._options.on_session is None or self._ending is not None:
            self._counters.unknown_sid += 1
        else:
            self._accept(sid, message)
        return True

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
        """End every session; a send that waits gets the error that `behavior` names. Numbers are not handed out anew."""
        if behavior not in ENDINGS:
            raise ValueError(f"behavior must be one of {', '.join(map(repr, ENDINGS))}, not {behavior!r}")
        for session in list(self.sessions.values()):
            session._end(ENDINGS[behavior])

    def close(self) -> None:
        """Close the port before its block is left: every send that waits gets `SessionAbortError`. Idempotent."""
        why = "the port was closed by close()"
        self._end(Ending(errors.SessionAbortError, why, after=errors.PortClosedError, counter="aborted"))
        self._stop()

    async def wait_closed(self) -> None:
        """Return when the peer has gone, the channel broke, or the port was closed."""
        await self._closed.wait()

    @property
    def closed(self) -> bool:
        """Whether the peer has gone, the channel broke, or the port was closed."""
        return self._ending is not None

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        now = Statistics(open=len(self.sessions), incoming=len(self.sessions) - len(self._by_age))
        now.resting = self._pool.resting
        now.queued_bytes = self._outbox.queued_bytes
        now.bytes_sent, now.bytes_received = self._outbox.wire_bytes()
        now.add(self._counters)
        return now

    # -- numbers -----------------------------------------------------------------------------------------------------

    def _create(self, patience: Patience, max_life: float | None) -> Session:
        self._check_open()
        sid, unsafe_until = self._take_sid()
        life = self._options.session_max_life if max_life is None else max_life
        session = self.sessions[sid] = Session(self, sid, patience, life)
        session._unsafe_until = unsafe_until
        self._by_age[session] = None
        self._counters.opened += 1
        return session

    async def _create_within(self, patience: Patience) -> Session:
        """Under ``"wait"``: a session, or a timeout when none came free within one attempt's patience."""
        with trio.move_on_after(patience.timeout):
            return await self._create_waiting(patience, None)
        self._counters.timed_out += 1
        raise errors.SessionTimeoutError(
            "not sent: no session number came free in time", port=self.name, waited=patience.timeout
        )

    async def _create_waiting(self, patience: Patience, max_life: float | None) -> Session:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                return self._create(patience, max_life)
            except errors.SessionOverflowError:
                if self._options.on_session_overflow != "wait":
                    raise
            next_safe = self._pool.next_safe()
            with trio.move_on_at(float("inf") if next_safe is None else next_safe):
                await self._freed.park()

    def _take_sid(self) -> tuple[int, float]:
        """A number, and until when its new owner must not send (0.0: it may)."""
        if len(self._by_age) < self._options.max_session_count:
            sid = self._pool.take(trio.current_time())
            if sid is not None:
                return sid, 0.0
        self._make_room()
        sid = self._pool.take(trio.current_time())
        if sid is not None:
            return sid, 0.0
        borrowed = self._pool.borrow()
        assert borrowed is not None, "a number that is neither free nor resting is in use, and one was just ended"
        return borrowed

    def _make_room(self) -> None:
        """Overflow: end a session as the policy says. With no session open, all numbers rest: nothing to end."""
        policy = self._options.on_session_overflow
        if policy in ("refuse", "wait"):
            self._raise_overflow("end sessions, or widen session_ids and max_session_count")
        victim: Session | None
        if callable(policy):
            chosen = policy(self)
            victim = self.sessions.get(chosen) if type(chosen) is int else None
            if victim is None or victim.incoming:
                self._raise_overflow(
                    f"on_session_overflow returned {chosen!r}, which is not the number of an open session of this side"
                )
        else:
            victim = next(iter(self._by_age), None)
        if victim is not None:
            self._counters.recycled += 1
            victim._end(Ending(errors.SessionCancelError, "the session was recycled: all numbers were in use or rested"))

    def _raise_overflow(self, advice: str) -> NoReturn:
        used, resting = len(self._by_age), self._pool.resting
        raise errors.SessionOverflowError(
            f"no session number is free, {used} are in use and {resting} rest: {advice}", port=self.name
        )

    def _renew(self, session: Session) -> float | None:
        """Give `session` a number that no late reply can reach.

        Returns:
            ``None`` when it has one, else when to ask again.
        """
        now = trio.current_time()
        if not session._owed and session._unsafe_until <= now:
            session._unsafe_until = 0.0
            return None
        if session._owed:
            session._unsafe_until = now + self._options.session_id_rest
        fresh = self._pool.take(now)
        if fresh is None:
            session._owed = 0
            return min(session._unsafe_until, self._pool.next_safe() or session._unsafe_until)
        del self.sessions[session.sid]
        self._pool.rest(session.sid, session._unsafe_until, session._owed or 1)
        session.sid = fresh
        session._owed, session._unsafe_until = 0, 0.0
        self.sessions[fresh] = session
        return None

    def _forget(self, session: Session) -> None:
        """A session is over: out of every table, its number free or resting."""
        del self.sessions[session.sid]
        self._idle_leave(session)
        if session.incoming:
            return
        del self._by_age[session]
        owed = session._replies_owed
        if owed:
            self._pool.rest(session.sid, trio.current_time() + self._options.session_id_rest, owed)
        elif session._unsafe_until:
            self._pool.rest(session.sid, session._unsafe_until, 1)
        else:
            self._pool.give_back(session.sid)
        if self._freed:
            self._freed.unpark()

    # -- what the peer opens, and what is nobody's -------------------------------------------------------------------

    def _accept(self, sid: int, message: Any) -> None:
        options = self._options
        if len(self.sessions) - len(self._by_age) >= options.max_incoming_sessions:
            idle = self._idle_incoming.oldest()
            if idle is None:
                self._counters.refused += 1
                self._warn("refused", "not taken: max_incoming_sessions (%d) are all at work", options.max_incoming_sessions)
                return
            self._counters.recycled += 1
            idle._end(Ending(errors.SessionCancelError, "the session was recycled: the peer opened another", clean=True))
        session = self.sessions[sid] = Session(self, sid, self._patience, options.session_max_life, incoming=True)
        self._counters.accepted += 1
        session._deliver(message)
        self._start_handler(session)

    def _stray(self, sid: int) -> None:
        """A message for a number of this side that no session has: a reply nobody waits for. It is never answered."""
        kind = self._pool.heard(sid)
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

    async def _handle(self, session: Session) -> None:
        """The task of one session that the peer opened."""
        try:
            result = self._options.on_session(session)  # type: ignore[misc]
            if not inspect.isawaitable(result):
                raise TypeError(f"on_session must be an async function, {self._options.on_session!r} returned {result!r}")
            await result
        except errors.SessionError as error:
            if session._ending is None or error.sid != session.sid:
                self._crashed(session.sid, error)
            else:
                log.debug("port %r: handler of session %d: %s", self.name, session.sid, error)
        except Exception as error:
            self._crashed(session.sid, error)
        finally:
            session.end()

    def _crashed(self, sid: int | None, error: Exception) -> None:
        """User code raised: its session ends alone, unless ``strict``."""
        self._counters.crashed += 1
        if self._options.strict:
            raise error
        what = "on_message" if sid is None else f"the handler of session {sid}"
        log.error("port %r: %s raised", self.name, what, exc_info=error)

    # -- turns, idleness, the end ------------------------------------------------------------------------------------

    def _encode(self, message: Any, sid: int) -> Any:
        return self._outbox.encode(self._envelope.stamp(message, sid))

    def _turn_begins(self, session: Session) -> None:
        self._turns += 1
        if not session._once:
            self._idle_leave(session)

    def _turn_ends(self, session: Session) -> None:
        self._turns -= 1
        if not session._once and not session.incoming and session._ending is None:
            self._idle_enter(session)

    def _idle_enter(self, session: Session) -> None:
        """`session` is idle from now on: watched until something happens in it."""
        queue = self._idle_incoming if session.incoming else self._idle
        queue.enter(session, session._max_life, trio.current_time())
        if session._max_life < self._shortest_life:
            self._shortest_life = session._max_life
            self._watch_life()

    def _idle_leave(self, session: Session) -> None:
        (self._idle_incoming if session.incoming else self._idle).leave(session, session._max_life)

    def _expire(self) -> float:
        """End what has been idle too long. Returns when to look again."""
        now = trio.current_time()
        for queue in (self._idle, self._idle_incoming):
            for session in queue.pop_due(now):
                self._counters.expired += 1
                why = f"it was idle for {session._max_life:g} s (session_max_life)"
                session._end(Ending(errors.SessionCancelError, why, clean=True))
        return min(self._idle.next_due(), self._idle_incoming.next_due())

    def _end(self, ending: Ending) -> None:
        """The port is over: every waiter gets its error now; the first ending counts."""
        if self._ending is not None:
            return
        self._ending = ending
        for session in list(self.sessions.values()):
            session._end(ending)
        self._outbox.close()
        self._freed.unpark_all()
        self._closed.set()

    def _check_open(self) -> None:
        if self._ending is not None:
            why = f"the port is closed: {self._ending.why}"
            raise self._ending.after(why, port=self.name) from self._ending.cause


class _Opening:
    """``async with port.session()``."""

    __slots__ = ("_max_life", "_patience", "_port", "_session")

    def __init__(self, port: Port, patience: Patience, max_life: float | None) -> None:
        self._port = port
        self._patience = patience
        self._max_life = max_life

    async def __aenter__(self) -> Session:
        self._session = await self._port._create_waiting(self._patience, self._max_life)
        self._port._idle_enter(self._session)
        return self._session

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._session.end()
