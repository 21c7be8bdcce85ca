"""The deadlines of requests: one task keeps the time for all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_IDLE_LANES: Final = 64
"""Timeouts of different lengths that are remembered before those that nothing waits in are let go."""


class Due(Protocol):
    """Something with a deadline."""

    @property
    def due(self) -> float:
        """The moment at which it is too late, on Trio's clock."""
        ...


K = TypeVar("K")
D = TypeVar("D", bound=Due)


class Lanes(Generic[K, D]):
    """The line of what waits, one lane for each length of a timeout: the first in a lane is due first.

    Args:
        too_late: Called for each whose time is over.

    Attributes:
        asleep_until: When `keep_time` looks next: who puts something in that is due before calls `wake`.
    """

    def __init__(self, too_late: Callable[[K, D], None]) -> None:
        self.asleep_until: float = math.inf
        self._too_late = too_late
        self._lanes: dict[float, dict[K, D]] = {}
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._lanes)

    def lane(self, timeout: float) -> dict[K, D]:
        """Return what waits with one timeout, to put something in at its end, or take it out."""
        lane = self._lanes.get(timeout)
        if lane is not None:
            return lane
        if len(self._lanes) >= MAX_IDLE_LANES:
            for empty in [key for key, lane in self._lanes.items() if not lane]:
                del self._lanes[empty]
        return self._lanes.setdefault(timeout, {})

    def wake(self) -> None:
        """Have `keep_time` look again."""
        self.asleep_until = -math.inf
        self._wake.set()

    async def keep_time(self) -> None:
        """Tell of all whose time is over, until cancelled."""
        while True:
            self._wake = trio.Event()
            self.asleep_until = min(
                (next(iter(lane.values())).due for lane in self._lanes.values() if lane), default=math.inf
            )
            with trio.move_on_at(self.asleep_until):
                await self._wake.wait()
            self.asleep_until = -math.inf
            now = trio.current_time()
            due: list[tuple[K, D]] = []
            for lane in self._lanes.values():
                for key, waiting in lane.items():
                    if waiting.due > now:
                        break
                    due.append((key, waiting))
            if due:
                for _ in range(3):  # an answer that came in the same tick beats the deadline
                    await trio.lowlevel.checkpoint()
            for key, waiting in due:
                self._too_late(key, waiting)
            if due:
                await trio.lowlevel.checkpoint()
