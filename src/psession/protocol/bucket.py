"""Tokens that something is paid from: the retries of a port, the lines of its log. Pure."""

from __future__ import annotations

from typing import Final

RETRY_TOKENS: Final = 10
"""Retries that a bucket holds: ``maxTokens`` in the example of gRPC's retry throttling (gRFC A6). Ten messages lost in
a row are asked again at once, whatever the budget; a peer that loses more is gone, or has more to do than it can."""

MILLIONTH: Final = 1_000_000
"""Tokens are counted in whole millionths: ten times 0.1 pay for one retry, which in floating point they do not."""


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
        self.millionths = most * MILLIONTH

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
