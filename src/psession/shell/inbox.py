"""Messages that came for a session and answer nothing, until the application receives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from psession.shell.waiting import Handed, Waiter, WaitingLine

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psession.shell.waiting import Delivery

OVER: Final = object()
"""The item in place of a message when nothing more will come."""


class Inbox(Waiter):
    """Messages that nobody has received yet, and the tasks that wait: a message that is waited for wakes its task.

    The first message that nobody waits for is kept in hand, which is what opens a session most often; those behind it
    are in a memory channel, opened for the first of them. The channel's own ``receive`` raises and catches
    `trio.WouldBlock` before each wait, and in a dialogue nearly every message is waited for.

    Attributes:
        kept: The number of messages that nobody has received.
    """

    __slots__ = ("_behind", "_channel", "_first", "_limit", "kept", "outcome", "task")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._first: Any = OVER
        self._channel: tuple[trio.MemorySendChannel[Any], trio.MemoryReceiveChannel[Any]] | None = None
        self._behind: WaitingLine[object] | None = None
        self.kept = 0
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None

    @property
    def is_awaited(self) -> bool:
        """True while a task waits; then no message is kept."""
        return self.task is not None or bool(self._behind)

    def put(self, item: Any) -> bool:
        """Hand a message to the task that waits longest, or keep it. Return False if there is no room."""
        if self.task is not None:
            self.wake(Handed(item))
            return True
        if self._behind:
            self._behind.wake_first(Handed(item))
            return True
        if self.kept >= self._limit:
            return False
        if not self.kept:
            self._first = item
        else:
            if self._channel is None:
                self._channel = trio.open_memory_channel[Any](self._limit)
            self._channel[0].send_nowait(item)
        self.kept += 1
        return True

    def take(self) -> Any:
        """Take the first message that is kept."""
        self.kept -= 1
        item, self._first = self._first, OVER
        if item is OVER:
            assert self._channel is not None
            item = self._channel[1].receive_nowait()
        return item

    def next(self) -> Awaitable[Any]:
        """Wait for the next message, while none is kept; or for `OVER`, where the session ends.."""
        if self.task is None and not self._behind:
            return self.park()
        if self._behind is None:
            self._behind = WaitingLine()
        return self._behind.park(object())

    def close(self) -> None:
        """Wake everybody: nothing more will come."""
        if self.task is not None:
            self.wake(Handed(OVER))
        while self._behind:
            self._behind.wake_first(Handed(OVER))
