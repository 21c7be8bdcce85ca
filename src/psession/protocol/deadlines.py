"""One heap for the deadlines of turns and the lives of idle sessions. Pure: time is an argument.

A cancel scope for each turn is the plain way, and was 40 % of the cost of a turn (docs/design.md). Here a turn that is
answered in time costs an assignment: a session has one entry in the heap, which is put right when it comes to the
front, once in a timeout and not once a turn. Being idle again is an assignment as well.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from psession.protocol.dialogue import Dialogue

SLACK: Final = 100
"""Void entries, of sessions that are over or have an earlier one, beyond as many as count, before they are swept out:
each push pays for two looks at the most, and what the entries hold is near at hand."""


class Deadlines:
    """When something is due in each session, the earliest in front."""

    __slots__ = ("_heap", "_numbers", "_void")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Dialogue]] = []
        self._numbers = count()
        self._void = 0

    def __len__(self) -> int:
        return len(self._heap)

    def watch(self, dialogue: Dialogue, due: float) -> bool:
        """Note that something is due in `dialogue` at that moment. Return True if nothing is due before it.

        Most often there is an entry that comes earlier, and nothing needs to be done.
        """
        if due >= dialogue.entry or dialogue.ending is not None:
            return False
        if dialogue.entry != math.inf:
            self._entry_is_void()
        dialogue.entry = due
        heap = self._heap
        heappush(heap, (due, next(self._numbers), dialogue))
        return heap[0][2] is dialogue

    def forget(self, dialogue: Dialogue) -> None:
        """Watch a session no more, which is over."""
        if dialogue.entry != math.inf:
            dialogue.entry = math.inf
            self._entry_is_void()

    def _entry_is_void(self) -> None:
        """Count an entry that says nothing any more, and sweep them out where they are more than the others."""
        self._void += 1
        if 2 * self._void > len(self._heap) + SLACK:
            self._heap = [entry for entry in self._heap if entry[2].entry == entry[0]]
            heapify(self._heap)
            self._void = 0

    def next(self) -> float:
        """The moment to look next; infinity where nothing is due."""
        return self._heap[0][0] if self._heap else math.inf

    def pop(self, now: float) -> list[Dialogue]:
        """Take out the sessions in which something is due at `now`, and put the others right that came to the front."""
        heap, due = self._heap, list["Dialogue"]()
        while heap and heap[0][0] <= now:
            at, _, dialogue = heappop(heap)
            if dialogue.entry != at:
                self._void -= 1
                continue  # it is over, or an earlier entry took its place
            dialogue.entry = math.inf
            real = dialogue.due
            if real <= now:
                due.append(dialogue)
            elif real != math.inf:
                self.watch(dialogue, real)
        return due
