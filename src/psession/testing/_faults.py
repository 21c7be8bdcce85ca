"""The faults of a bad network: their probabilities, and the decision for each message. Pure.

Randomness comes from outside: each message uses `DRAWS` random numbers, whatever happens to it. So the faults of the
seventh message depend on the seed alone: not on time, on the messages before it, or on the other direction.
A fault is a draw below its probability, so a higher one keeps the faults that a lower one had, and adds some.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from psession.checks import count, seconds
from psession.testing._events import DEFAULT_LOG_LIMIT, NetworkEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psession.testing._events import Direction

Delay: TypeAlias = float | tuple[float, float]
"""Seconds, or the shortest and the longest time."""
Directions: TypeAlias = Literal["both", "send", "receive"]
"""The directions in which a network is bad, seen from the side that holds it."""

DRAWS: Final = 7
"""Each message uses this many random numbers from 0 up to 1: one for each question that `Faults.decide` may ask."""

MOST_OVERTAKEN: Final = 3
"""A reordered message lets at most this many later ones go ahead. TCP takes a packet that three later ones overtook for
lost (RFC 5681, section 3.2): less is everyday disorder, which a session has to live with."""

DEFAULT_MAX_IN_FLIGHT: Final = 1000
"""The most messages on their way in each direction: as many as Linux's own bad network holds packets (tc-netem(8))."""

DEFAULT_REORDER_WITHIN: Final = 0.1
"""Seconds. In a dialogue of one turn at a time nothing overtakes, so reordering alone should not look like a loss."""

DEFAULT_CLOSE_TIMEOUT: Final = 1.0
"""Seconds. Enough for a peer that reads slowly; a peer that does not read at all is not waited for."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The probability of each fault, from 0 to 1 for each message; ``delay`` is a range of seconds.

    Raises:
        ValueError: A probability is not one, or a delay is negative, infinite or upside down.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    disconnect: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate", "reorder", "disconnect"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, not {value!r}")
        low, high = self.delay
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"delay must be seconds, or (from, to) with 0 <= from <= to, not {self.delay!r}")

    def decide(
        self, draws: Sequence[float], *, number: int, direction: Direction, message: Any, time: float, order: int
    ) -> NetworkEvent:
        """Decide what happens to a message. A lost message has no other faults."""
        disconnect, drop, duplicate, reorder, overtaken, delay, again = draws
        lost = disconnect < self.disconnect or drop < self.drop
        twice = not lost and duplicate < self.duplicate
        return NetworkEvent(
            number=number,
            direction=direction,
            message=message,
            time=time,
            order=order,
            dropped=lost and not disconnect < self.disconnect,
            disconnected=disconnect < self.disconnect,
            duplicated=twice,
            delayed_by=0.0 if lost else self._seconds(delay),
            again_delayed_by=self._seconds(again) if twice else 0.0,
            reordered=1 + int(overtaken * MOST_OVERTAKEN) if not lost and reorder < self.reorder else 0,
        )

    def _seconds(self, draw: float) -> float:
        low, high = self.delay
        return low + (high - low) * draw


def delay_range(delay: object) -> tuple[float, float]:
    """Return a delay as a range of seconds.

    Raises:
        TypeError: It is neither a number nor two.
    """
    match delay:
        case float() | int():
            return float(delay), float(delay)
        case (float() | int() as low, float() | int() as high):
            return float(low), float(high)
        case _:
            raise TypeError(f"delay must be seconds, or (from, to), not {delay!r}")


@dataclass(frozen=True, slots=True)
class LossyOptions:
    """The arguments of `lossy`, in its order and with its defaults."""

    seed: int | str
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: Delay = 0.0
    disconnect: float = 0.0
    directions: Directions = "both"
    reorder_within: float = DEFAULT_REORDER_WITHIN
    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT
    log_limit: int = DEFAULT_LOG_LIMIT
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int | str):
            raise TypeError(f"seed must be an int or a text, which its repr gives back, not {self.seed!r}")
        if self.directions not in ("both", "send", "receive"):
            raise ValueError(f"directions must be 'both', 'send' or 'receive', not {self.directions!r}")
        if not self.reorder_within > 0:
            raise ValueError(f"reorder_within must be above 0 seconds, not {self.reorder_within!r}")
        seconds("close_timeout", self.close_timeout)
        count("max_in_flight", self.max_in_flight)
        count("log_limit", self.log_limit)
        self.faults("send")  # which checks them

    def faults(self, direction: Direction) -> Faults:
        """Return the faults of one direction."""
        faults = Faults(self.drop, self.duplicate, self.reorder, self.disconnect, delay_range(self.delay))
        return faults if self.directions in ("both", direction) else Faults()

    def __str__(self) -> str:
        given = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in dataclasses.fields(self)
            if getattr(self, each.name) != each.default
        ]
        return ", ".join(given)
