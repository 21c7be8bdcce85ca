"""Devices that several processes own, so that each connection ends the other: slowed down. Pure."""

from __future__ import annotations

from typing import Final

FREE: Final = 3
"""Times that a device may be taken away by a newer connection in a minute: a device that roams does."""

FORGET: Final = 60.0
"""Seconds without one more after which it is forgotten."""

MAX_DELAY: Final = 5.0
"""Seconds that a connection waits at the most before it is taken."""

MAX_KNOWN: Final = 4096
"""Devices that are remembered; of more the oldest are forgotten."""


class Flapping:
    """Which devices were taken away by newer connections lately, and how often."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def taken_away(self, device: str, now: float) -> bool:
        """A newer connection took a device away. Return True where it begins to flap by that."""
        times, last = self._known.pop(device, (0, now))
        times = 1 if now - last >= FORGET else times + 1
        self._known[device] = (times, now)
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return times == FREE + 1

    def delay(self, device: str, now: float) -> float:
        """Seconds that the next connection of a device has to wait."""
        times, last = self._known.get(device, (0, now))
        if times <= FREE or now - last >= FORGET:
            return 0.0
        return min(MAX_DELAY, 0.1 * 2.0 ** min(times - FREE, 10))
