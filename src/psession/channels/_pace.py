"""How much of a stream is read at once, and when, so that no peer keeps the others waiting.

64 KiB of requests of 100 bytes take 5 ms, of the smallest control frames 300. So it is time that counts, not bytes: a
read that took long is followed by a smaller one, and channels that take much of the processor read in turns.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

MOST_BYTES: Final = 65536
"""How much any read takes at most: what trio.SocketStream itself asks for."""

FIRST_BYTES: Final = 1024
"""How much the first read takes. In 1 KiB of the smallest frames there is work for 5 ms."""

LEAST_BYTES: Final = 128
"""How little a read takes, whatever it costs."""

LONG_SECONDS: Final = 0.002
"""How long all that came with one read may keep the other tasks waiting before the next reads less. With 1 ms, 64 turns
in flight lost 5 %."""

FEW: Final = 4
"""Busy channels that read in one pass of the scheduler, one after the other; if there are more, the others wait."""

SPARE: Final = 0.001
"""Seconds of work that a channel may make before it is a busy one."""

BUSY: Final = 0.005
"""The share of the processor's time from which on it may become one: there may be two hundred of them."""


class Load:
    """The channels of one run: how often they read, and whose turn it is among the busy ones.

    Attributes:
        reads: The number of reads so far.
    """

    def __init__(self) -> None:
        self.reads = 0
        self._places = trio.Semaphore(FEW)

    async def turn(self) -> None:
        """Wait until a busy channel may read: those that came before have read, in this pass or an earlier one."""
        async with self._places:
            await trio.lowlevel.checkpoint()


_load: trio.lowlevel.RunVar[Load | None] = trio.lowlevel.RunVar("psession_load", default=None)


def load_of_this_run() -> Load:
    """The load that all channels of a run share."""
    load = _load.get()
    if load is None:
        load = Load()
        _load.set(load)
    return load


class Pace:
    """How much one channel reads at once, and when.

    Attributes:
        read_bytes: How much the next read may take.
        waits: True where the channel is to wait for its `turn` before it reads.
    """

    __slots__ = ("_began", "_is_busy", "_is_crowded", "_is_done", "_is_full", "_load", "_noted", "_pause", "_seen",
                 "_spare", "_until", "read_bytes", "waits")  # fmt: skip

    def __init__(self) -> None:
        self.read_bytes = FIRST_BYTES
        self.waits = False
        self._load: Load | None = None
        self._seen = 0
        self._began = 0.0
        self._is_done = True
        self._is_full = False
        self._is_crowded = False
        self._is_busy = False
        self._spare = SPARE
        self._noted = 0.0
        self._until = 0.0
        self._pause: trio.CancelScope | None = None

    async def turn(self) -> None:
        """Wait until the channel may read. Cancelled, it may not."""
        if self._until:
            with trio.CancelScope(deadline=self._until) as self._pause:
                await trio.sleep_forever()
            self._until = 0.0
            self.waits = self._is_busy
        if self._is_busy and self._load is not None:
            await self._load.turn()

    def pause(self, until: float) -> None:
        """Read nothing before that moment, and little then."""
        self._until = until
        self.waits = True
        self.read_bytes = LEAST_BYTES

    def hurry(self) -> None:
        """End a pause: the channel is closed."""
        self._until = 0.0
        if self._pause is not None:
            self._pause.cancel()

    def begin(self, size: int) -> None:
        """So many bytes were read. Between two reads of a channel that has always more, each such channel has one."""
        is_full = size >= self.read_bytes
        if not self._is_done:
            self._grow()  # it is no port that reads, and nobody says how long it takes
        load = self._load
        if load is None:
            load = self._load = load_of_this_run()
            self._seen = load.reads
        load.reads += 1
        self._is_crowded = load.reads - self._seen > FEW
        self._seen = load.reads
        self._is_done = False
        self._is_full = is_full
        self._began = perf_counter()

    def done(self, more: float = 0.0) -> None:
        """All that was read is delivered, and leaves `more` seconds of work to other tasks."""
        if self._is_done:
            return
        self._is_done = True
        now = perf_counter()
        took = now - self._began + more
        self._spare = min(SPARE, self._spare + BUSY * (now - self._noted)) - took
        self._noted = now
        self._is_busy = self._is_crowded and self._spare < 0
        self.waits = self._is_busy or self._until > 0
        if took > LONG_SECONDS:
            self.read_bytes = max(LEAST_BYTES, int(self.read_bytes * LONG_SECONDS / 2 / took))
        else:
            self._grow()

    def _grow(self) -> None:
        if self._is_full:
            self.read_bytes = min(2 * self.read_bytes, MOST_BYTES)
