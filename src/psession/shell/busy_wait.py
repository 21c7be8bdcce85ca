"""Waiting awake, for as long as a local peer takes to answer.

Blocking in ``epoll_wait`` and waking again costs about as much as the whole answer of a peer on the same machine: the
processor goes idle, and on a virtual one leaving that state takes tens of microseconds. So a turn that is alone looks
into the socket again after each of a few passes of the scheduler, which other tasks and sockets use as they would any
pass. What comes of it decides how often it is tried: where answers take longer, soon only once in 256 waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PASSES = 16
"""The number of passes that one wait takes at most: some 100 µs where nothing else is done, which is a local answer
and a half."""

QUICK = 4
"""The number of those at the start that are not to be cancelled, for 0.4 us less of 5 each: a local answer comes in the
second or third."""

MOST_SKIPPED = 255


class _Watch:
    """A mark that some task of this run waits awake: one at a time, so that the passes stay as cheap as they look."""

    __slots__ = ("is_busy",)

    def __init__(self) -> None:
        self.is_busy = False


_watch: trio.lowlevel.RunVar[_Watch | None] = trio.lowlevel.RunVar("psession_busy_wait", default=None)


def _watch_of_this_run() -> _Watch:
    """Looked up once for each `BusyWait`: to get and set the variable at each wait was 4 us of a turn's 30."""
    watch = _watch.get()
    if watch is None:
        watch = _Watch()
        _watch.set(watch)
    return watch


class BusyWait:
    """One place that waits, with what it has learnt about its peer.

    Two habits: to look at once finds the answer where both ends share a processor, since writing lets the peer run; to
    look after some passes finds it where they do not, and would only keep the other kind of peer from running. Each is
    tried less and less often while it fails.
    """

    __slots__ = ("_at_once_in", "_at_once_skips", "_awake_in", "_awake_skips", "_watch")

    def __init__(self) -> None:
        self._at_once_in = self._at_once_skips = 0
        """The waits that go by before the next try, and those that went by before the last."""
        self._awake_in = self._awake_skips = 0
        self._watch = _watch_of_this_run()

    def is_due(self) -> bool:
        """Return True if the next `until` would look at all. Where it would not, that one is done with this."""
        is_busy = self._watch.is_busy
        if not self._at_once_in or not (self._awake_in or is_busy):
            return True
        self._at_once_in -= 1
        if not is_busy:
            self._awake_in -= 1
        return False

    async def until(
        self,
        done: Callable[[], bool],
        checkpoint: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        shielded: Callable[[], Awaitable[None]] = trio.lowlevel.cancel_shielded_checkpoint,
    ) -> bool:
        """Ask `done` for a while, and return True if it was. Cancelling loses nothing; a checkpoint where it was.

        Args:
            done: Looks.
            checkpoint: Lets the others of this thread have a turn, and the caller be cancelled.
            shielded: Likewise, where it is not to be cancelled.
        """
        if self._at_once_in:
            self._at_once_in -= 1
        else:
            found = done()
            self._at_once_in = self._at_once_skips = 0 if found else _more(self._at_once_skips)
            if found:
                await shielded()
                return True
        watch = self._watch
        if watch.is_busy:
            return False
        if self._awake_in:
            self._awake_in -= 1
            return False
        watch.is_busy = found = True
        try:
            for number in range(PASSES):
                await (shielded() if number < QUICK else checkpoint())
                if done():
                    break
            else:
                found = False
        finally:
            watch.is_busy = False
        self._awake_in = self._awake_skips = 0 if found else _more(self._awake_skips)
        return found


def _more(skips: int) -> int:
    return min(2 * skips + 1, MOST_SKIPPED)
