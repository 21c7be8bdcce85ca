"""The tokens that the retries of a port are paid from. Pure."""

from __future__ import annotations

from typing import Final

RETRY_TOKENS: Final = 10
"""Retries that a bucket holds: ``maxTokens`` in the example of gRPC's retry throttling (gRFC A6). Ten messages lost in
a row are asked again at once, whatever the budget; a peer that loses more is gone, or has more to do than it can."""

MILLIONTH: Final = 1_000_000
"""Tokens are counted in whole millionths: ten times 0.1 pay for one retry, which in floating point they do not."""


class RetryBucket:
    """The tokens that the retries of a port are paid from.

    Attributes:
        millionths: What is in it, in millionths of a retry.
    """

    __slots__ = ("millionths",)

    def __init__(self) -> None:
        self.millionths = RETRY_TOKENS * MILLIONTH

    def put(self, budget: float) -> None:
        """A new turn brings its budget; what is past `RETRY_TOKENS` spills."""
        added = round(min(budget, RETRY_TOKENS) * MILLIONTH)
        self.millionths = min(RETRY_TOKENS * MILLIONTH, self.millionths + added)

    def take(self) -> bool:
        """Pay for one retry. ``False`` when there is not enough for it: then nothing is taken."""
        if self.millionths < MILLIONTH:
            return False
        self.millionths -= MILLIONTH
        return True
