"""How long a turn waits and how often it is tried. Pure: it yields durations, measures none and draws nothing."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Final

import msgspec

from psession import checks
from psession.protocol.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_SUMMED: Final = 64
"""Waits that are added up one by one, exactly; of more the sum is computed, to the last digit or two."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The rule by which a turn that is not answered is asked again.

    ::

        wait before retry k = min(max_interval, interval * backoff**k) * (1 + jitter * luck)      k = 0, 1, 2, ...

    with a random `luck` from 0 to 1 for each. The random share comes after the cap, so that those who wait the longest
    are spread out as well. A turn with a timeout of ``t`` that is never answered takes ``(count + 1) * t`` seconds and
    the waits; with the defaults of the other fields ``(count + 1) * t + count * interval``.

    Attributes:
        count: Attempts after the first; ``math.inf`` for no limit.
        interval: Seconds from the end of the first attempt to the second.
        backoff: What each further wait is multiplied by, 1 or more.
        max_interval: Seconds that no wait exceeds, its random share aside; ``math.inf`` for no limit.
        jitter: The largest random share: 0.5 adds up to half of the wait, 0 nothing.
        budget: How many retries a turn pays for, on the average. Each new turn puts so many tokens into a bucket of its
            port's, which is full at first and holds 10; each retry takes one. Where there is none the retry is not made
            (``statistics().unpaid``), and the turn goes on waiting for its reply until its time is over: 0.1 is one
            retry for ten turns, and a peer that is gone is not flooded with them. ``math.inf``: retries cost nothing.

    Raises:
        TypeError: A value is no number.
        ValueError: A value is out of its range.
    """

    count: float = 0
    interval: float = 1.0
    backoff: float = 1.0
    max_interval: float = math.inf
    jitter: float = 0.0
    budget: float = math.inf

    def __post_init__(self) -> None:
        checks.retries("count", self.count)
        checks.number("interval", self.interval, at_least=0, or_inf=True)
        checks.number("backoff", self.backoff, at_least=1)
        checks.number("max_interval", self.max_interval, at_least=0, or_inf=True)
        checks.number("jitter", self.jitter, at_least=0)
        checks.number("budget", self.budget, at_least=0, or_inf=True)

    def override(self, count: float | None, interval: float | None) -> Retry:
        """The same with another count and interval; ``None`` leaves a value as it is."""
        if count is None and interval is None:
            return self
        given = {"count": count, "interval": interval}
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})

    @property
    def waits(self) -> Backoff:
        """The formula of the waits."""
        return Backoff(self.interval, self.backoff, self.max_interval, self.jitter)

    @property
    def is_steady(self) -> bool:
        """True where all waits are the same."""
        return not self.jitter and (self.backoff == 1 or self.interval >= self.max_interval)

    @property
    def longest(self) -> float:
        """Seconds of all waits together, with the worst luck."""
        first, most = min(self.interval, self.max_interval), 1.0 + self.jitter
        if not self.count or not first:
            return 0.0
        if self.backoff == 1 or self.interval >= self.max_interval:
            return self.count * first * most
        if self.count <= MOST_SUMMED:
            waits = self.waits
            return math.fsum(waits.wait(attempt, 1.0) for attempt in range(int(self.count)))
        rate = math.log(self.backoff)
        growing: float = self.count
        if self.max_interval != math.inf:
            growing = min(growing, math.ceil((math.log(self.max_interval) - math.log(self.interval)) / rate))
        try:
            grown = self.interval * math.expm1(growing * rate) / (self.backoff - 1.0)
        except OverflowError:
            grown = math.inf
        if growing == self.count:
            return grown * most
        return (grown + (self.count - growing) * self.max_interval) * most


class Patience(msgspec.Struct, frozen=True):
    """The time and the attempts that one turn may take.

    Attributes:
        timeout: Seconds that each attempt waits for the reply.
        retry: How often it is tried again, and when.
        retry_on: What the sender may raise and be tried again; silence is always retried.
        total: Seconds that a turn takes at the most which is never answered, the random shares of its waits at their
            largest; ``math.inf`` where it has no end.
        waits: The formula of its waits, where they differ.
    """

    timeout: float
    retry: Retry
    retry_on: tuple[type[Exception], ...]
    total: float
    waits: Backoff | None

    @classmethod
    def of(cls, timeout: float, retry: Retry, retry_on: tuple[type[Exception], ...] = ()) -> Patience:
        """Patience with the total that follows from its other values."""
        attempts = retry.count + 1
        total = math.inf if attempts == math.inf else retry.longest + attempts * timeout
        return cls(timeout, retry, retry_on, total, None if retry.is_steady else retry.waits)

    def within(self, timeout: float) -> Patience:
        """The same with another timeout."""
        if timeout == self.timeout:
            return self
        if not self.retry.count:
            return Patience(timeout, self.retry, self.retry_on, timeout + 0.0, None)
        return Patience.of(timeout, self.retry, self.retry_on)

    def pauses(self, luck: Callable[[], float]) -> Iterator[float | None]:
        """The pause after each attempt in turn; ``None`` after the last.

        Args:
            luck: Gives a random number from 0 to 1 for each pause that has a random share.
        """
        retry = self.retry
        if not retry.count:
            return iter((None,))
        if self.waits is None:
            pause = min(retry.interval, retry.max_interval)
            if retry.count == math.inf:
                return repeat(pause)
            return chain(repeat(pause, int(retry.count)), (None,))
        return self._growing(self.waits, luck)

    def _growing(self, waits: Backoff, luck: Callable[[], float]) -> Iterator[float | None]:
        for attempt in count():
            if attempt >= self.retry.count:
                break
            yield waits.wait(attempt, luck() if waits.jitter else 0.0)
        yield None
