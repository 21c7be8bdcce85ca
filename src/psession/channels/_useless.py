"""How much of what a peer sends is of no use: messages that cannot be read, control frames, empty fragments. Pure.

Reading one of them costs as much as a message, and a port never hears of it. A peer that sends few of them is a normal
one: a browser pings, a device has a fault. Where they are most of what a peer sends it is read more slowly, and after
some time not at all.
"""

from __future__ import annotations

from typing import Final

from psession.protocol.bucket import MILLIONTH, TokenBucket

AT_ONCE: Final = 1000
"""Useless ones that may come at once: 5 ms of work for the slowest of them, a ping."""

A_SECOND: Final = 100
"""Useless ones a second after these, beyond as many useful ones: ten peers like that cost a server half a percent."""

PATIENCE: Final = 5.0
"""Seconds that a peer may want to send more than that, before it is closed."""

LONGEST_PAUSE: Final = 1.0
"""Seconds between two reads of such a peer at most: what is useful among it still comes."""


class UselessLimit:
    """Says when a peer may be read again, and when no more.

    Attributes:
        seen: The useless ones so far.
    """

    __slots__ = ("_bucket", "_filled", "_since", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self._bucket = TokenBucket(AT_ONCE)
        self._filled = 0.0
        self._since: float | None = None

    def note(self, useless: int, useful: int, now: float) -> float | None:
        """Take note of what came with one read. Return the seconds to pause; ``None``: it is not to be read any more.

        Args:
            useless: How many were of no use; at least one.
            useful: How many messages came with it, and with the reads since the last one that had useless ones.
            now: The moment.
        """
        self.seen += useless
        bucket = self._bucket
        bucket.put((now - self._filled) * A_SECOND + max(0, useful - useless))
        self._filled = now
        missing = bucket.take_many(useless - useful)
        if not missing:
            if 2 * bucket.millionths >= AT_ONCE * MILLIONTH:
                self._since = None  # it has behaved for some time
            return 0.0
        if self._since is None:
            self._since = now
        return min(missing / A_SECOND, LONGEST_PAUSE) if now - self._since < PATIENCE else None
