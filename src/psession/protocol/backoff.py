"""Waits before the next try, longer after each that failed. Pure: it measures nothing and draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from psession import checks


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that grow by a factor up to a cap, each with a random share added so that many callers spread out.

    ::

        wait(attempt, luck) = min(cap, interval * factor**attempt) * (1 + jitter * luck)

    The share comes after the cap: it spreads those out as well who have long arrived there, and the longest wait of all
    is ``cap * (1 + jitter)``.

    Attributes:
        interval: Seconds of the first wait, that of attempt 0.
        factor: What each further wait is multiplied by; 1 keeps it the same.
        cap: Seconds that no wait exceeds, its random share aside; ``math.inf`` for no limit.
        jitter: The largest random share: 0.5 adds up to half of the wait, 0 nothing.

    Raises:
        TypeError: A value is no number.
        ValueError: A value is out of its range.
    """

    interval: float
    factor: float = 2.0
    cap: float = math.inf
    jitter: float = 0.0

    def __post_init__(self) -> None:
        checks.number("interval", self.interval, at_least=0, or_inf=True)
        checks.number("factor", self.factor, at_least=1)
        checks.number("cap", self.cap, at_least=0, or_inf=True)
        checks.number("jitter", self.jitter, at_least=0)

    def wait(self, attempt: int, luck: float) -> float:
        """Seconds to wait after that many attempts before this one.

        Args:
            attempt: 0 for the first wait, then 1, 2 and so on, however far.
            luck: A random number from 0 to 1.

        Raises:
            ValueError: The attempt is negative, or the luck is not from 0 to 1.
        """
        if attempt < 0:
            raise ValueError(f"attempt must be 0 or more, not {attempt!r}")
        if not 0 <= luck <= 1:
            raise ValueError(f"luck must be a random number from 0 to 1, not {luck!r}")
        return min(self.cap, self._grown(attempt)) * (1.0 + self.jitter * luck)

    def _grown(self, attempt: int) -> float:
        """``interval * factor**attempt``; infinity where that is more than a float holds."""
        if not self.interval or self.factor == 1:  # neither grows, and 0 times infinity is no number
            return float(self.interval)
        try:
            return self.interval * float(self.factor) ** attempt
        except OverflowError:
            return math.inf
