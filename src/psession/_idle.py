"""Which session has been idle longest, and until when it may be. Pure: time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class IdleQueue(Generic[T]):
    """Idle things in the order in which they became so, one queue for each length of life.

    Things with the same life expire in the order of their last touch, so the first of each queue is the only one to
    look at: a touch is O(1), and nothing is ever swept.
    """

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[float, OrderedDict[T, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def enter(self, thing: T, life: float, now: float) -> None:
        """`thing` is idle from `now` on, also where it was idle before."""
        queue = self._queues.get(life)
        if queue is None:
            queue = self._queues[life] = OrderedDict()
        queue[thing] = now
        queue.move_to_end(thing)

    def leave(self, thing: T, life: float) -> None:
        """`thing` is idle no more; it need not have been."""
        queue = self._queues.get(life)
        if queue is not None:
            queue.pop(thing, None)

    def next_due(self) -> float:
        """When the first life is over; ``math.inf`` when nothing is idle."""
        due = float("inf")
        for life, queue in self._queues.items():
            for since in queue.values():
                due = min(due, since + life)
                break
        return due

    def shortest_life(self) -> float:
        """The shortest life of anything idle; ``math.inf`` when nothing is."""
        return min((life for life, queue in self._queues.items() if queue), default=float("inf"))

    def pop_due(self, now: float) -> list[T]:
        """Take out everything whose life is over at `now`, and the queues that are empty."""
        over: list[T] = []
        for life, queue in list(self._queues.items()):
            while queue:
                thing, since = next(iter(queue.items()))
                if since + life > now:
                    break
                del queue[thing]
                over.append(thing)
            if not queue:
                del self._queues[life]
        return over

    def pop_oldest(self) -> T | None:
        """Take out what has been idle longest in the first queue that holds anything; ``None`` when nothing is idle."""
        for queue in self._queues.values():
            if queue:
                return queue.popitem(last=False)[0]
        return None
