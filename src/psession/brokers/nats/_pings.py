"""The pings that a server has not answered yet: signs of life, and tasks that wait until it has done all before."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from outcome import Error

from psession.brokers.nats import _wire as wire
from psession.brokers.nats._options import MAX_PINGS_OUT
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._outgoing import Outgoing
    from psession.brokers.nats._errors import NatsError
    from psession.shell.waiting import Delivery


class Flushing(Waiter):
    """A task that waits for the server's PONG.

    Attributes:
        number: The number of the PING among what is written.
    """

    __slots__ = ("number", "outcome", "task")

    def __init__(self) -> None:
        self.number: int = 0
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None


class Pings:
    """The PINGs that were put among what is written, in order; a server answers each with a PONG."""

    def __init__(self, out: Outgoing) -> None:
        self._out = out
        self._asked: deque[Flushing | None] = deque()
        self._unanswered = 0

    def ask(self) -> Flushing:
        """Have a PING written behind all that was put before; return who waits for its PONG."""
        waiting = Flushing()
        self._asked.append(waiting)
        waiting.number = self._out.put_word(wire.PING)
        return waiting

    def answered(self) -> None:
        """A PONG came."""
        self._unanswered = 0
        waiting = self._asked.popleft() if self._asked else None
        if waiting is not None:
            waiting.wake(Handed(None))

    def fail(self, error: Callable[[], NatsError]) -> None:
        """There is no link any more: those PONGs do not come."""
        while self._asked:
            waiting = self._asked.popleft()
            if waiting is not None:
                waiting.wake(Error(error()))

    async def keep(self, interval: float) -> None:
        """See to it that the server of a link is there.

        Args:
            interval: Seconds between two pings.

        Raises:
            trio.BrokenResourceError: It has not answered `MAX_PINGS_OUT` in a row.
        """
        self._unanswered = 0
        while True:
            await trio.sleep(interval)
            if not self._out.has_link:
                continue  # it is being left
            if self._unanswered >= MAX_PINGS_OUT:
                raise trio.BrokenResourceError(
                    f"the server has not answered {MAX_PINGS_OUT} pings in {interval:g} s each"
                )
            self._unanswered += 1
            self._asked.append(None)
            self._out.put_word(wire.PING)
