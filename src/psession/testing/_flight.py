"""The messages in the air in one direction, and the order in which they land. Pure."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from psession.testing._events import NetworkEvent


class Copy(NamedTuple):
    """A message in the air. A duplicated one is in the air twice."""

    due: float
    order: int
    event: NetworkEvent
    cargo: Any
    waits_for: int
    """The number of the message that it lets go ahead, or 0 if it waits for none."""


class Flight:
    """The messages in the air of one direction.

    A message lands when it is due; of several that are due together, the one that set out first lands first. A
    reordered message waits on until a certain later message is due too, or ``reorder_within`` seconds have passed.
    """

    def __init__(self, reorder_within: float) -> None:
        self._within = reorder_within
        self._due: list[Copy] = []
        self._waiting: list[Copy] = []  # ordered by the end of their patience: a copy that is due later waits longer
        self._launched = 0
        self._highest = 0

    def __len__(self) -> int:
        return len(self._due) + len(self._waiting)

    def launch(self, now: float, event: NetworkEvent, cargo: Any) -> None:
        """Put a message into the air, unless it is one that is lost."""
        if event.copies:
            waits_for = event.number + event.reordered if event.reordered else 0
            self._push(Copy(now + event.delayed_by, self._launched, event, cargo, waits_for))
        if event.copies > 1:
            self._push(Copy(now + event.again_delayed_by, self._launched, event, cargo, 0))

    def _push(self, copy: Copy) -> None:
        heapq.heappush(self._due, copy)
        self._launched += 1

    def next_landing(self) -> float:
        """Return the moment when `land` has something to do again; ``math.inf`` if nothing is in the air."""
        due = self._due[0].due if self._due else math.inf
        return min(due, self._waiting[0].due + self._within) if self._waiting else due

    def land(self, now: float) -> list[tuple[NetworkEvent, Any]]:
        """Remove the copies that have arrived by ``now``, and return their events and cargos in order."""
        landed: list[Copy] = []
        while len(self) and self.next_landing() <= now:
            if self._waiting and not (self._due and self._due[0].due <= self._waiting[0].due + self._within):
                landed.append(self._waiting.pop(0))
                continue
            copy = heapq.heappop(self._due)
            self._highest = max(self._highest, copy.event.number)
            if copy.waits_for > self._highest:
                self._waiting.append(copy)
            else:
                landed.append(copy)
            landed += self._let_go()
        return [(copy.event, copy.cargo) for copy in landed]

    def _let_go(self) -> list[Copy]:
        gone = [copy for copy in self._waiting if copy.waits_for <= self._highest]
        if gone:
            self._waiting = [copy for copy in self._waiting if copy.waits_for > self._highest]
        return sorted(gone, key=lambda copy: (copy.waits_for, copy.order))

    def clear(self) -> None:
        """Lose all that is in the air."""
        self._due.clear()
        self._waiting.clear()
