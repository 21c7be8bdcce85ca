"""Epochs: of two connections of one device the one with the higher epoch is the newer. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_NUMBER: Final = 2**63 - 1
"""The highest number that is believed: a wall clock gets there in the year 2262, and every codec has it."""


class Epoch(NamedTuple):
    """When a device connected, as far as all gateways agree on that.

    Attributes:
        number: Nanoseconds since 1970 by the gateway's clock, or one more than the highest that it had heard of.
        gateway: The id of the gateway, which decides between two equal numbers.
    """

    number: int
    gateway: str


class Clock:
    """A hybrid clock: it follows the wall clock, and never falls behind a number that it has heard of.

    Attributes:
        highest: The highest number so far.
    """

    __slots__ = ("highest",)

    def __init__(self) -> None:
        self.highest: int = 0

    def hear(self, number: int) -> None:
        """Take note of another gateway's number."""
        if self.highest < number <= MAX_NUMBER:
            self.highest = number

    def next(self, wall_ns: int, above: int = 0) -> int:
        """Return a number that is higher than all so far, and than `above`."""
        self.highest = max(wall_ns, self.highest + 1, above + 1)
        return self.highest
