"""Tokens that something is paid from: the retries of a port, the lines of its log. Pure."""

from __future__ import annotations

from typing import Final

RETRY_TOKENS: Final = 10
"""Retries that a bucket holds: ``maxTokens`` in the example of gRPC's retry throttling (gRFC A6). Ten messages lost in
a row are asked again at once, whatever the budget; a peer that loses more is gone, or has more to do than it can."""

MILLIONTH: Final = 1_000_000
"""Tokens are counted in whole millionths: ten times 0.1 pay for one retry, which in floating point they do not."""


LINES_AT_ONCE: Final = 3
"""Lines of one kind, tracebacks of a page each, that may come at once: who looks for a fault needs no more."""

SECONDS_A_LINE: Final = 30.0
"""After these one line in so many seconds, with the number of those in between."""


class TokenBucket:
    """Tokens that something is paid from; it is full at first.

    Args:
        most: How many it holds.

    Attributes:
        millionths: What is in it, in millionths of a token.
    """

    __slots__ = ("_most", "millionths")

    def __init__(self, most: int) -> None:
        self._most = most
        self.millionths: int = most * MILLIONTH

    def put(self, tokens: float) -> None:
        """Put tokens in; what it does not hold spills."""
        added = round(min(tokens, self._most) * MILLIONTH)
        self.millionths = min(self._most * MILLIONTH, self.millionths + added)

    def take_many(self, tokens: int) -> float:
        """Take as many, or what there is. Return how many are missing."""
        wanted = max(0, tokens) * MILLIONTH
        taken = min(wanted, self.millionths)
        self.millionths -= taken
        return (wanted - taken) / MILLIONTH

    def take(self) -> bool:
        """Take one token. ``False`` when there is not a whole one: then nothing is taken."""
        if self.millionths < MILLIONTH:
            return False
        self.millionths -= MILLIONTH
        return True


class Lines:
    """The lines of one kind in the log: a few at once, then one in `SECONDS_A_LINE`, so that no peer fills the log.

    Args:
        now: The time, in seconds.

    Attributes:
        skipped: The number of lines since the last one that there was no token for.
    """

    __slots__ = ("_bucket", "_since", "skipped")

    def __init__(self, now: float) -> None:
        self.skipped: int = 0
        self._bucket = TokenBucket(LINES_AT_ONCE)
        self._since = now

    def take(self, now: float) -> str | None:
        """Pay for a line. Return what belongs at its end, about those that were skipped; ``None``: skip this one."""
        self._bucket.put(max(0.0, now - self._since) / SECONDS_A_LINE)  # a clock of the next run may be behind
        self._since = now
        if not self._bucket.take():
            self.skipped += 1
            return None
        more = f" (and {self.skipped:,} times more since the last such line)" if self.skipped else ""
        self.skipped = 0
        return more
