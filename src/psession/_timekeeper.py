"""When turns time out and idle sessions end: one task of the port's, and one ``trio.move_on_at``, for all of them.

A cancel scope for each turn is the plain way, and was 40 % of what a turn cost (docs/performance.md). Here a turn that
is answered in time costs an assignment: a session has one entry in the heap, which is put right when it comes to the
front, once in a timeout and not once a turn.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession._exchange import Exchange
    from psession._port import Port
    from psession._session import Session
    from psession._turn import Turn

MOST_LOOKS = 256
"""Looks in a row, where bytes never stop coming: a TLS record of 16 KiB each makes 4 MiB, a large socket buffer."""

SLACK = 100
"""Entries without a turn, beyond as many as are waiting, before they are swept out: each push pays for two looks at
the most, and what the entries hold is near at hand."""


SOON = 0.05
"""Seconds that a handler may run before its scope has its deadline: 40 wake-ups a second at the most, a port's all."""


class Timekeeper:
    """The deadlines of a port's turns, and the lives of its idle sessions.

    Attributes:
        shortest_life: `watch_life` need not be called for one that is no shorter.
    """

    def __init__(self, port: Port, start: Callable[[], None]) -> None:
        self._port = port
        self._start: Callable[[], None] | None = start
        self._heap: list[tuple[float, int, Session]] = []
        self._waiting = 0
        self._handlers: list[Exchange] = []
        self._handlers_due = math.inf
        self._ticket = count()
        self._asleep_until = math.inf
        self.shortest_life = math.inf
        self._wake = trio.Event()

    def __len__(self) -> int:
        return self._waiting

    def watch(self, turn: Turn, due: float) -> None:
        """`turn` is told of silence at `due`, unless it has an outcome or is forgotten before."""
        if turn.due is None:
            self._waiting += 1
        turn.due = due
        session = turn.session
        if due < session.entry_due:
            self._enter(session, due)
            if due < self._asleep_until:
                self._look_sooner(due)

    def _enter(self, session: Session, due: float) -> None:
        session.entry_due = due
        heappush(self._heap, (due, next(self._ticket), session))

    def forget(self, turn: Turn) -> None:
        """`turn` waits no more."""
        turn.due = None
        self._waiting -= 1
        if len(self._heap) > 2 * self._waiting + SLACK:
            self._sweep()

    def _sweep(self) -> None:
        kept = []
        for entry in self._heap:
            due, _, session = entry
            if session.entry_due != due:
                continue
            if session._turn is not None and session._turn.due is not None:
                kept.append(entry)
            else:
                session.entry_due = math.inf
        heapify(kept)
        self._heap = kept

    def watch_life(self, life: float) -> None:
        """From now on sessions may end that were idle for `life` seconds.

        What becomes idle while the task sleeps is due later than it wakes, so only a life shorter than any before has
        to wake it: the watch costs a message nothing, and a port one wake-up a life.
        """
        if life < self.shortest_life:  # who calls has most often looked
            self.shortest_life = life
            self._look_sooner(trio.current_time() + life)

    def watch_handler(self, exchange: Exchange, now: float) -> None:
        """A handler began a turn that has a deadline: its scope is given that once it has run for `SOON` seconds.

        Setting and lifting the deadline of a cancel scope costs as much as a tenth of a turn, and most are answered
        before it matters. Who asks somebody in turn, or has less time than twice that, has it at once. All that run
        when the task looks are given theirs: it looks once in `SOON` seconds, however many turns there are.
        """
        exchange.watched = True
        self._handlers.append(exchange)
        if len(self._handlers) == 1:
            self._handlers_due = now + SOON
            if self._handlers_due < self._asleep_until:
                self._look_sooner(self._handlers_due)

    def _show_deadlines(self) -> None:
        if self._handlers_due <= trio.current_time():
            handlers, self._handlers, self._handlers_due = self._handlers, [], math.inf
            for exchange in handlers:
                exchange.watched = False
                exchange.show_deadline()

    def _look_sooner(self, due: float) -> None:
        self._asleep_until = due
        if self._start is not None:
            self._start()
            self._start = None
        else:
            self._wake.set()

    async def run(self) -> None:
        """The task. Never returns."""
        while True:
            idle_due, self.shortest_life = self._port._expire()
            turn_due = self._heap[0][0] if self._heap else math.inf
            self._show_deadlines()
            self._asleep_until = min(turn_due, idle_due, self._handlers_due, trio.current_time() + self.shortest_life)
            self._wake = trio.Event()
            with trio.move_on_at(self._asleep_until):
                await self._wake.wait()
            self._asleep_until = -math.inf
            await self._tell_of_silence()

    async def _tell_of_silence(self) -> None:
        now = trio.current_time()
        due: list[tuple[float, Turn]] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, session = heappop(self._heap)
            if session.entry_due != at:
                continue  # a later turn of it had less time, and an entry of its own
            session.entry_due = math.inf
            turn = session._turn
            if turn is None or turn.due is None:
                continue
            if turn.due <= now:
                due.append((turn.due, turn))
            else:
                self._enter(session, turn.due)
        # The last look: a deadline and a reply may come in the same tick, and the reader is `hops` passes behind. It
        # goes on while replies to these very turns keep coming, or bytes do: the reply may lie behind them.
        port, seen = self._port, None
        for _ in range(MOST_LOOKS):
            if not due or seen == (seen := (len(due), port._outbox.wire_bytes()[1])):
                break
            for _ in range(port._hops + 1):
                await trio.lowlevel.checkpoint()
            due = [(at, turn) for at, turn in due if turn.due == at and not turn.filled]
        for _, turn in due:
            turn.silence()
