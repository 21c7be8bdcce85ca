"""Hands out session numbers so that no late reply meets the next owner of its number. Pure: time is an argument."""

from __future__ import annotations

from collections import OrderedDict

MAX_ROTATION = 2**20
"""Of a range longer than this the first 1,048,576 numbers are used: one byte each, 1 MiB a port at the most."""

_FIRST_ROOM = 64
_FREE, _IN_USE, _RESTING = range(3)


class SidPool:
    """The numbers of one port, handed out in rotation.

    A number is *free*, *in use*, or *resting*: given back while replies to it may still be on their way. A resting
    number is free again when its time is over. When nothing else is free, one whose late replies have all been seen is
    taken early.

    Every call is O(1); the search for a free number is one ``memchr`` over at most `MAX_ROTATION` bytes (2 µs for
    65,535 numbers).
    """

    __slots__ = ("_cursor", "_high", "_ids", "_resting", "_settled", "_size", "_state")

    def __init__(self, ids: range) -> None:
        self._ids = ids[:MAX_ROTATION]
        self._size = len(self._ids)
        self._state = bytearray()
        self._cursor = 0
        self._high = 0
        self._resting: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self._settled: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, sid: int) -> bool:
        return sid in self._ids

    @property
    def resting(self) -> int:
        """The number of numbers that rest."""
        return len(self._resting)

    def take(self, now: float) -> int | None:
        """The next free number in rotation; ``None`` when all are in use or rest."""
        if self._resting:
            self._wake(now)
        state = self._state
        index = state.find(_FREE, self._cursor)
        if index < 0:
            index = self._grow() if len(state) < self._size else state.find(_FREE)
        if index < 0:
            if not self._settled:
                return None
            sid, _ = self._settled.popitem(last=False)
            del self._resting[sid]
            index = self._ids.index(sid)
        state[index] = _IN_USE
        self._cursor = index + 1
        if index >= self._high:
            self._high = index + 1
        return self._ids[index]

    def give_back(self, sid: int) -> None:
        """`sid` is free: every reply to it was received."""
        self._state[self._ids.index(sid)] = _FREE

    def rest(self, sid: int, until: float, owed: float) -> None:
        """`sid` was given back while `owed` replies may still come (``math.inf``: who knows); it is safe at `until`."""
        self._state[self._ids.index(sid)] = _RESTING
        self._resting[sid] = (until, owed)

    def wake(self, sid: int) -> bool:
        """`sid` is safe sooner than it was to be. Whether it rested."""
        if sid not in self._resting:
            return False
        del self._resting[sid]
        self._settled.pop(sid, None)
        self._state[self._ids.index(sid)] = _FREE
        return True

    def borrow(self) -> tuple[int, float] | None:
        """The number that has rested longest, and when it is safe; ``None`` when none rests.

        Its new owner must not send before that time.
        """
        if not self._resting:
            return None
        sid, (until, _) = self._resting.popitem(last=False)
        self._settled.pop(sid, None)
        self._state[self._ids.index(sid)] = _IN_USE
        return sid, until

    def next_safe(self) -> float | None:
        """Return the moment at which the number that has rested longest is free again; ``None``: none rests."""
        for until, _ in self._resting.values():
            return until
        return None

    def heard(self, sid: int) -> str:
        """Tell what a message is that came for `sid`, a number of this pool that no session has now.

        Returns:
            ``"late"``: the reply to a turn that was given up. ``"duplicate"``: the number was used, and all its turns
            were answered. ``"unknown"``: the number was never handed out.
        """
        rest = self._resting.get(sid)
        if rest is not None:
            until, owed = rest
            self._resting[sid] = (until, owed - 1)
            if owed == 1:
                self._settled[sid] = None
            return "late"
        return "duplicate" if self._ids.index(sid) < self._high else "unknown"

    def _grow(self) -> int:
        index = len(self._state)
        self._state.extend(bytes(min(max(_FIRST_ROOM, index), self._size - index)))
        return index

    def _wake(self, now: float) -> None:
        resting = self._resting
        while resting:
            sid = next(iter(resting))
            if resting[sid][0] > now:
                return
            del resting[sid]
            self._settled.pop(sid, None)
            self._state[self._ids.index(sid)] = _FREE
