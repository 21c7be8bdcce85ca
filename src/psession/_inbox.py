"""What came for a session and is no reply, until somebody receives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from psession._handed import Handed

if TYPE_CHECKING:
    from collections.abc import Callable

OVER: Final = object()
"""What there is in place of a message when nothing more will come."""


class Inbox:
    """What nobody has received yet, and the tasks that wait: a message that is waited for wakes its task at once.

    The first message that nobody waits for is kept in hand, which is what opens a session most often; those behind it
    are in a memory channel, opened for the first of them. The channel's own ``receive`` raises and catches
    `trio.WouldBlock` before each wait, and in a dialogue nearly every message is waited for.

    Attributes:
        kept: How many messages nobody has received.
        receiver: The task that waits, the first of them where several do; none while a message is kept.
    """

    __slots__ = ("_behind", "_first", "_limit", "_receive", "_send", "kept", "receiver")

    _receive: trio.MemoryReceiveChannel[Any]

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._first: Any = OVER
        self._send: trio.MemorySendChannel[Any] | None = None
        self.kept = 0
        self.receiver: trio.lowlevel.Task | None = None
        self._behind: dict[trio.lowlevel.Task, None] | None = None

    def put(self, message: Any) -> bool:
        """Hand a message to who waits, or keep it. Whether there was room."""
        task = self.receiver
        if task is not None:
            self._next_one()
            trio.lowlevel.reschedule(task, Handed(message))
            return True
        if self.kept >= self._limit:
            return False
        if not self.kept:
            self._first = message
        else:
            if self._send is None:
                self._send, self._receive = trio.open_memory_channel[Any](self._limit)
            self._send.send_nowait(message)
        self.kept += 1
        return True

    def take(self) -> Any:
        """The first message that is kept."""
        self.kept -= 1
        if self._first is OVER:
            return self._receive.receive_nowait()
        message, self._first = self._first, OVER
        return message

    def line_up(self) -> Callable[[object], trio.lowlevel.Abort]:
        """Wait for the next message, while none is kept; for `trio.lowlevel.wait_task_rescheduled`.

        That returns the message, or `OVER` where the session ends first. Cancelling loses nothing.
        """
        task = trio.lowlevel.current_task()
        if self.receiver is None:
            self.receiver = task
            return self._leave
        if self._behind is None:
            self._behind = {}
        behind = self._behind
        behind[task] = None

        def leave_line(_: object) -> trio.lowlevel.Abort:
            if self.receiver is task:
                self._next_one()
            else:
                del behind[task]
            return trio.lowlevel.Abort.SUCCEEDED

        return leave_line

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        """The task that came when none waited does so no more; it was the first as long as it did."""
        self._next_one()
        return trio.lowlevel.Abort.SUCCEEDED

    def _next_one(self) -> None:
        """The first that waits is served, or gone."""
        self.receiver = None
        if self._behind:
            self.receiver = next(iter(self._behind))
            del self._behind[self.receiver]

    def close(self) -> None:
        """Nothing more will come."""
        while (task := self.receiver) is not None:
            self._next_one()
            trio.lowlevel.reschedule(task, Handed(OVER))
