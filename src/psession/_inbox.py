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
    """A memory channel, and past it the tasks that wait: a message that is waited for wakes its task at once.

    The channel's own ``receive`` raises and catches `trio.WouldBlock` before each wait, and in a dialogue nearly every
    message is waited for. So the channel keeps what nobody waits for yet, and is opened for the first such message.

    Attributes:
        kept: How many messages nobody has received.
        receivers: The tasks that wait, in their order; none of them while a message is kept.
    """

    __slots__ = ("_limit", "_receive", "_send", "kept", "receivers")

    _receive: trio.MemoryReceiveChannel[Any]

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._send: trio.MemorySendChannel[Any] | None = None
        self.kept = 0
        self.receivers: dict[trio.lowlevel.Task, None] = {}

    def put(self, message: Any) -> bool:
        """Hand a message to who waits, or keep it. Whether there was room."""
        for task in self.receivers:
            del self.receivers[task]
            trio.lowlevel.reschedule(task, Handed(message))
            return True
        if self._send is None:
            self._send, self._receive = trio.open_memory_channel[Any](self._limit)
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            return False
        self.kept += 1
        return True

    def take(self) -> Any:
        """The first message that is kept."""
        self.kept -= 1
        return self._receive.receive_nowait()

    def line_up(self) -> Callable[[object], trio.lowlevel.Abort]:
        """Wait for the next message, while none is kept; for `trio.lowlevel.wait_task_rescheduled`.

        That returns the message, or `OVER` where the session ends first. Cancelling loses nothing.
        """
        task = trio.lowlevel.current_task()

        def abort_fn(_: object) -> trio.lowlevel.Abort:
            del self.receivers[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self.receivers[task] = None
        return abort_fn

    def close(self) -> None:
        """Nothing more will come."""
        for task in self.receivers:
            trio.lowlevel.reschedule(task, Handed(OVER))
        self.receivers.clear()
