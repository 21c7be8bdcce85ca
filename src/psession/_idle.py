"""Which session has been idle longest, and until when it may be. Pure: time is an argument."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

SLACK: Final = 32
"""Entries of things that left, beyond as many as are in the queue, before they are swept out."""


class Restful(Protocol):
    """What an `IdleQueue` holds.

    Attributes:
        idle_since: When it became idle last; whose it is may move that on at any time, without a word to the queue.
        idle_entry: The number of its entry in the queue, 0 where there is none.
    """

    idle_since: float
    idle_entry: int


T = TypeVar("T", bound=Restful)


class IdleQueue(Generic[T]):
    """Idle things in the order in which they became so, one heap for each length of life.

    Becoming idle again is an assignment: where a thing stands in its heap is put right when it comes to the front, once
    in a life, so that a dialogue pays nothing for the watch. What is no longer idle may stay as well: who takes it out
    looks.
    """

    __slots__ = ("_gone", "_heaps", "_length", "_numbers")

    def __init__(self) -> None:
        self._heaps: dict[float, list[tuple[float, int, T]]] = {}
        self._length = 0
        self._gone = 0
        self._numbers = count(1)

    def __len__(self) -> int:
        return self._length

    def enter(self, thing: T, life: float) -> None:
        """`thing` is idle since `idle_since`; from now on it is in the queue."""
        thing.idle_entry = next(self._numbers)
        heappush(self._heaps.setdefault(life, []), (thing.idle_since, thing.idle_entry, thing))
        self._length += 1

    def leave(self, thing: T) -> None:
        """`thing` is not to be watched any more; it need not have been."""
        if not thing.idle_entry:
            return
        thing.idle_entry = 0
        self._length -= 1
        self._gone += 1
        if self._gone > self._length + SLACK or not self._length:
            self._gone = 0
            for life, heap in list(self._heaps.items()):
                heap[:] = [entry for entry in heap if entry[2].idle_entry == entry[1]]
                heapify(heap)
                if not heap:
                    del self._heaps[life]

    def next_due(self) -> float:
        """When to look next: no life is over before; ``math.inf`` when nothing is in the queue."""
        return min((heap[0][0] + life for life, heap in self._heaps.items()), default=float("inf"))

    def shortest_life(self) -> float:
        """The shortest life of anything in the queue; ``math.inf`` when there is nothing."""
        return min(self._heaps, default=float("inf"))

    def pop_due(self, now: float) -> list[T]:
        """Take out everything whose life is over at `now`, and the heaps that are empty."""
        over: list[T] = []
        for life in list(self._heaps):
            while (thing := self._first(life, now)) is not None:
                over.append(thing)
        return over

    def pop_oldest(self) -> T | None:
        """Take out what has been idle longest in the first heap that holds anything; ``None`` when nothing is idle."""
        for life in list(self._heaps):
            thing = self._first(life, float("inf"))
            if thing is not None:
                return thing
        return None

    def _first(self, life: float, now: float) -> T | None:
        """Take out what has been idle longest of those with this life, if its life is over at `now`."""
        heap = self._heaps.get(life, [])
        while heap and heap[0][0] + life <= now:
            since, number, thing = heap[0]
            if thing.idle_entry != number:
                heappop(heap)
                self._gone -= 1
            elif thing.idle_since != since:
                heapreplace(heap, (thing.idle_since, number, thing))
            else:
                heappop(heap)
                thing.idle_entry = 0
                self._length -= 1
                if not heap:
                    del self._heaps[life]
                return thing
        if not heap:
            self._heaps.pop(life, None)
        return None
