"""The sessions of a port by number, and who gets which number."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import trio

from psession import errors
from psession._ending import RECYCLED
from psession._ids import SidPool
from psession._session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psession._port import Port
    from psession._retry import Patience
    from psession._turn import Turn


class SessionTable:
    """What enters here leaves by `forget`, which every end of a session calls.

    Attributes:
        sessions: Every open session by its number.
        by_age: This side's own, the one opened first in front.
        pool: This side's numbers.
    """

    def __init__(self, port: Port) -> None:
        self.sessions: dict[int, Session] = {}
        self.by_age: OrderedDict[Session, None] = OrderedDict()
        self.pool = SidPool(port._options.own_ids)
        self._port = port
        self._options = port._options
        self._freed = trio.lowlevel.ParkingLot()
        self._needy: OrderedDict[Turn, None] = OrderedDict()

    @property
    def incoming(self) -> int:
        """How many sessions the peer has open."""
        return len(self.sessions) - len(self.by_age)

    def open(self, patience: Patience, max_life: float | None) -> Session:
        """A new session of this side.

        Raises:
            PortClosedError: This side or the peer takes no new ones.
            SessionOverflowError: There is no number for it.
        """
        self._check_openable()
        sid, unsafe_until = self._take_sid()
        life = self._options.session_max_life if max_life is None else max_life
        session = self.sessions[sid] = Session(self._port, sid, patience, life)
        session._unsafe_until = unsafe_until
        self.by_age[session] = None
        return session

    def _check_openable(self) -> None:
        port = self._port
        if port._drained is not None:
            why = "the port is being drained"
        elif port._exact is not None and port._exact.talk.peer_closing:
            why = "the peer takes none"
        else:
            return
        raise errors.PortClosedError(f"no new session: {why}", port=port.name, outcome="not_sent")

    async def open_when_free(self, patience: Patience, max_life: float | None) -> Session:
        """The same; under ``on_session_overflow="wait"`` as soon as a number is free."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._port._check_open()
            try:
                return self.open(patience, max_life)
            except errors.SessionOverflowError:
                if self._options.on_session_overflow != "wait":
                    raise
            next_safe = self.pool.next_safe()
            try:
                with trio.move_on_at(math.inf if next_safe is None else next_safe):
                    await self._freed.park()
            except trio.Cancelled:
                self._freed.unpark()  # who is next takes over: this one alone may have known when to look
                raise

    def accept(self, sid: int) -> Session:
        """A session that the peer opened."""
        options = self._options
        session = Session(self._port, sid, self._port._patience, options.session_max_life, incoming=True)
        self.sessions[sid] = session
        return session

    def renew(self, session: Session) -> float | None:
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
        fresh = self.pool.take(now)
        if fresh is None:
            # It keeps its number, which rests in its hands.
            session._owed = 0
            return min(session._unsafe_until, self.pool.next_safe() or math.inf)
        del self.sessions[session.sid]
        self.pool.rest(session.sid, session._unsafe_until, session._owed or math.inf)
        session.sid = fresh
        session._owed, session._unsafe_until = 0, 0.0
        self.sessions[fresh] = session
        return None

    def forget(self, session: Session) -> None:
        """A session is over: out of every table, its number free or resting."""
        del self.sessions[session.sid]
        if session.incoming:
            return
        del self.by_age[session]
        owed = session._replies_owed
        if owed:
            self.pool.rest(session.sid, trio.current_time() + self._options.session_id_rest, owed)
        elif session._exchange is not None and session._exchange.told:
            self.pool.rest(session.sid, trio.current_time() + self._options.session_id_rest, 1)  # until `both_done`
        elif session._unsafe_until:
            self.pool.rest(session.sid, session._unsafe_until, math.inf)  # how many are owed nobody knows any more
        else:
            self.pool.give_back(session.sid)
        self._offer()

    def _offer(self) -> None:
        """A number may be free: whoever waits for one looks again."""
        if self._freed:
            self._freed.unpark()
        elif self._needy:
            next(iter(self._needy)).silence()

    def both_done(self, sid: int) -> None:
        """The peer is done with a session that is over here: its number rests no longer."""
        if self.pool.wake(sid):
            self._offer()

    @contextmanager
    def told_when_free(self, turn: Turn) -> Iterator[None]:
        """Wake `turn` when a number is free, the one first that waits longest."""
        self._needy[turn] = None
        try:
            yield
        finally:
            del self._needy[turn]

    def close(self) -> None:
        """Whoever waits for a number finds the port closed."""
        self._freed.unpark_all()

    def _take_sid(self) -> tuple[int, float]:
        """A number, and until when its new owner must not send (0.0: it may)."""
        if len(self.by_age) < self._options.max_session_count:
            sid = self.pool.take(trio.current_time())
            if sid is not None:
                return sid, 0.0
        self._make_room()
        sid = self.pool.take(trio.current_time())
        if sid is not None:
            return sid, 0.0
        borrowed = self.pool.borrow()
        assert borrowed is not None, "a number that is neither free nor resting is in use, and one was just ended"
        return borrowed

    def _make_room(self) -> None:
        """Overflow: end a session as the policy says. With no session open, all numbers rest: nothing to end."""
        policy = self._options.on_session_overflow
        if not self.by_age and policy not in ("refuse", "wait"):
            return
        if policy in ("refuse", "wait"):
            self._raise_overflow("end sessions, or widen session_ids and max_session_count")
        victim = self._chosen(policy(self._port)) if callable(policy) else next(iter(self.by_age), None)
        if victim is not None:
            self._port._counters.recycled += 1
            victim._end(RECYCLED)

    def _chosen(self, sid: object) -> Session:
        """The session that the application's own policy named."""
        session = self.sessions.get(sid) if type(sid) is int else None
        if session is None or session.incoming:
            self._raise_overflow(
                f"on_session_overflow returned {sid!r}, which is not the number of an open session of this side"
            )
        return session

    def _raise_overflow(self, advice: str) -> NoReturn:
        used, resting = len(self.by_age), self.pool.resting
        raise errors.SessionOverflowError(
            f"no session number is free, {used} are in use and {resting} rest: {advice}", port=self._port.name
        )
