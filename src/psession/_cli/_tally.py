"""The count of many requests: how many were answered, how fast, and why the others were not. Pure."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from psession._cli._problem import Exit

FINENESS: Final = 1.01
"""Latencies are counted in classes, each one percent above the one before: a run of any length takes a few kB."""

MOST_KINDS: Final = 20
"""The kinds of errors that are told apart. A peer chooses its errors' codes, and could send any number of them."""

REST: Final = "other"


class Tally:
    """The outcomes of many requests.

    Attributes:
        asked: Messages that were read, those that are none included.
        answered: Those that got their reply.
        failed: The others by their kind of error, without those that are under way.
        status: The exit status: that of the first failure.
        slowest: The longest latency, in seconds.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.status = Exit.OK
        self.slowest = 0.0
        self._classes: Counter[int] = Counter()

    def answer(self, latency: float) -> None:
        """Count a message that was answered after `latency` seconds."""
        self.answered += 1
        self.slowest = max(self.slowest, latency)
        self._classes[math.ceil(math.log(max(latency, 1e-6), FINENESS))] += 1

    def fail(self, kind: str, status: Exit) -> bool:
        """Count one that failed. Return True if it is the first of its kind."""
        self.stop(status)
        if kind not in self.failed and len(self.failed) >= MOST_KINDS:
            kind = REST
        self.failed[kind] += 1
        return self.failed[kind] == 1

    def stop(self, status: Exit) -> None:
        """Take note of a failure that is no message's."""
        if self.status is Exit.OK:
            self.status = status

    @property
    def under_way(self) -> int:
        """The number of messages that wait for their reply."""
        return self.asked - self.answered - self.failed.total()

    def percentile(self, percent: float) -> float:
        """Return the latency in seconds within which so many of the answers came, to one percent of it."""
        missing = math.ceil(self.answered * percent / 100)
        for place in sorted(self._classes):
            missing -= self._classes[place]
            if missing <= 0:
                return min(FINENESS**place, self.slowest)
        return math.nan

    def summary(self, seconds: float) -> str:
        """Return all of it in one line."""
        rate = f" ({self.asked / seconds:.4g} a second)" if seconds > 0 else ""
        text = f"{self.asked} asked in {seconds:.2f} s{rate}: {self.answered} answered"
        if self.answered:
            p50, p99, most = (_brief(time) for time in (self.percentile(50), self.percentile(99), self.slowest))
            text += f" (p50 {p50}, p99 {p99}, most {most})"
        text += f", {self.failed.total()} failed"
        if self.failed:
            text += f" ({', '.join(f'{count} {kind}' for kind, count in self.failed.most_common())})"
        return f"{text}, {self.under_way} cut off" if self.under_way else text


def _brief(seconds: float) -> str:
    """Return a duration with three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
