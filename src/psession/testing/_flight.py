"""Messages in the air in one direction: when each lands, and which wait for others to go ahead. Pure."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from psession.testing._fate import Fate


class Copy(NamedTuple):
    """A message in the air. One that is duplicated is in the air twice."""

    due: float
    order: int
    fate: Fate
    cargo: Any
    waits_for: int
    """The number of the message that it lets go ahead; 0: it waits for none."""


class Flight:
    """The messages in the air, and the order they land in.

    They land when they are due, in the order in which they set out when they are due together. A reordered one waits on
    until the message that many after it is due too, or ``reorder_within`` seconds have passed.
    """

    def __init__(self, reorder_within: float) -> None:
        self._within = reorder_within
        self._due: list[Copy] = []
        self._waiting: list[Copy] = []  # by the end of their patience: what comes due later waits longer
        self._launched = 0
        self._highest = 0

    def __len__(self) -> int:
        return len(self._due) + len(self._waiting)

    def launch(self, now: float, fate: Fate, cargo: Any) -> None:
        """A message sets out; one that is lost does not get into the air."""
        if fate.copies:
            waits_for = fate.number + fate.reordered if fate.reordered else 0
            self._push(Copy(now + fate.delayed_by, self._launched, fate, cargo, waits_for))
        if fate.copies > 1:
            self._push(Copy(now + fate.again_delayed_by, self._launched, fate, cargo, 0))

    def _push(self, copy: Copy) -> None:
        heapq.heappush(self._due, copy)
        self._launched += 1

    def next_landing(self) -> float:
        """When `land` has something to do again; ``math.inf`` when nothing is in the air."""
        due = self._due[0].due if self._due else math.inf
        return min(due, self._waiting[0].due + self._within) if self._waiting else due

    def land(self, now: float) -> list[tuple[Fate, Any]]:
        """What has arrived by ``now``, in order."""
        landed: list[Copy] = []
        while len(self) and self.next_landing() <= now:
            if self._waiting and not (self._due and self._due[0].due <= self._waiting[0].due + self._within):
                landed.append(self._waiting.pop(0))
                continue
            copy = heapq.heappop(self._due)
            self._highest = max(self._highest, copy.fate.number)
            if copy.waits_for > self._highest:
                self._waiting.append(copy)
            else:
                landed.append(copy)
            landed += self._let_go()
        return [(copy.fate, copy.cargo) for copy in landed]

    def _let_go(self) -> list[Copy]:
        gone = [copy for copy in self._waiting if copy.waits_for <= self._highest]
        if gone:
            self._waiting = [copy for copy in self._waiting if copy.waits_for > self._highest]
        return sorted(gone, key=lambda copy: (copy.waits_for, copy.order))

    def clear(self) -> None:
        """Lose all that is in the air."""
        self._due.clear()
        self._waiting.clear()
