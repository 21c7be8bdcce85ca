"""The one task of a port that sleeps for all its deadlines: one ``trio.move_on_at``, whatever waits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from psession.protocol.states import Turn
from psession.shell.handler_scope import SOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.deadlines import Deadlines
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.shell.handler_scope import HandlerScope

MOST_LOOKS: Final = 256
"""Looks in a row, where bytes never stop coming: a TLS record of 16 KiB each makes 4 MiB, a large socket buffer."""

_AT_WORK = (Turn.WAITING, Turn.LISTENING)


class Timekeeper:
    """Tells turns of silence, ends sessions that are idle too long, and gives handlers their deadlines.

    Args:
        deadlines: When something is due.
        start: Starts the task, when something is due for the first time.
        hops: Scheduler passes from the socket to the port.
        look: Takes what has come already, without waiting.
        received_bytes: How many bytes have come.
        silence: Tells a turn that its time is over.
        expire: Ends a session that was idle too long.
    """

    __slots__ = (
        "_asleep_until",
        "_deadlines",
        "_expire",
        "_handlers",
        "_handlers_due",
        "_hops",
        "_look",
        "_received_bytes",
        "_silence",
        "_start",
        "_wake",
    )

    def __init__(
        self,
        deadlines: Deadlines,
        *,
        start: Callable[[], None],
        hops: int,
        look: Callable[[], object],
        received_bytes: Callable[[], int],
        silence: Callable[[AskedTurn], None],
        expire: Callable[[Dialogue], None],
    ) -> None:
        self._deadlines = deadlines
        self._start: Callable[[], None] | None = start
        self._hops = hops
        self._look = look
        self._received_bytes = received_bytes
        self._silence = silence
        self._expire = expire
        self._handlers: list[HandlerScope] = []
        self._handlers_due = math.inf
        self._asleep_until = math.inf
        self._wake = trio.Event()

    def let_go(self) -> None:
        """Tell nobody any more: the port is over."""
        self._start = None
        self._silence = self._expire = _tell_nobody
        self._received_bytes = int
        self._look = bool

    def look_by(self, due: float) -> None:
        """Something is due at that moment."""
        if due >= self._asleep_until:
            return
        self._asleep_until = due
        if self._start is not None:
            self._start()
            self._start = None
        else:
            self._wake.set()

    def watch_handler(self, handler: HandlerScope, now: float) -> None:
        """Give a handler its deadline once it has run for `SOON` seconds.

        Setting and lifting the deadline of a cancel scope costs as much as a tenth of a turn, and most are answered
        before it matters. A handler that asks somebody in turn, or has less time than twice that, has it at once. All
        that run when the task looks are given theirs: it looks once in `SOON` seconds, however many turns there are.
        """
        handler.is_watched = True
        self._handlers.append(handler)
        if len(self._handlers) == 1:
            self._handlers_due = now + SOON
            self.look_by(self._handlers_due)

    def _show_deadlines(self) -> None:
        if self._handlers_due <= trio.current_time():
            handlers, self._handlers, self._handlers_due = self._handlers, [], math.inf
            for handler in handlers:
                handler.is_watched = False
                handler.show_deadline()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """The task. Never returns."""
        while True:
            self._show_deadlines()
            self._asleep_until = min(self._deadlines.next(), self._handlers_due)
            self._wake = trio.Event()
            with trio.move_on_at(self._asleep_until):
                await self._wake.wait()
            self._asleep_until = -math.inf
            await self._tell()

    async def look_for(self, missing: Callable[[], int]) -> int:
        """Take a last look for what may have come already. Return how much of it is missing still, as `missing` says.

        The reader is `hops` passes behind, and more where many have something to read. The look goes on while less is
        missing each time, or bytes come: what is looked for may lie behind them.
        """
        seen = None
        for _ in range(MOST_LOOKS):
            if missing():
                self._look()
            left = missing()
            if not left or seen == (seen := (left, self._received_bytes())):
                return left
            for _ in range(self._hops + 1):
                await trio.lowlevel.checkpoint()
        return missing()

    async def _tell(self) -> None:
        """End what is due, after a last look for replies: a deadline and a reply may come in the same tick."""
        turns: list[tuple[float, AskedTurn]] = []
        for dialogue in self._deadlines.pop(trio.current_time()):
            turn = dialogue.turn
            if turn is None:
                self._expire(dialogue)
            else:
                turns.append((turn.due, turn))

        def unanswered() -> int:
            turns[:] = [(due, turn) for due, turn in turns if turn.due == due and turn.state in _AT_WORK]
            return len(turns)

        await self.look_for(unanswered)
        for _, turn in turns:
            self._silence(turn)


def _tell_nobody(_: object) -> None:
    pass
