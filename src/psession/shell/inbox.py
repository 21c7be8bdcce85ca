"""Messages that came for a session and answer nothing, until the application receives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from psession.budget import LONG
from psession.shell.waiting import Handed, Waiter, WaitingLine

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psession.budget import Account
    from psession.shell.waiting import Delivery

OVER: Final = object()
"""The item in place of a message when nothing more will come."""


class Inbox(Waiter):
    """Messages that nobody has received yet, and the tasks that wait: a message that is waited for wakes its task.

    The first message that nobody waits for is kept in hand, which is what opens a session most often; those behind it
    are in a memory channel, opened for the first of them. The channel's own ``receive`` raises and catches
    `trio.WouldBlock` before each wait, and in a dialogue nearly every message is waited for.

    Args:
        account: What the port's messages hold, those of this inbox included.
        lends: True where it is a handler that receives: then what it is at work on counts as well.

    Attributes:
        kept: The number of messages that nobody has received.
        held: The bytes that these hold.
        lent: The bytes of the long message that its handler is at work on; ``None`` where no handler receives.
    """

    __slots__ = ("_account", "_behind", "_channel", "_first", "held", "kept", "lent", "outcome", "task")

    def __init__(self, account: Account, *, lends: bool = False) -> None:
        self._account = account
        self.held: int = 0
        self.lent: int | None = 0 if lends else None
        self._first: tuple[Any, int] | None = None
        self._channel: tuple[trio.MemorySendChannel[Any], trio.MemoryReceiveChannel[Any]] | None = None
        self._behind: WaitingLine[object] | None = None
        self.kept: int = 0
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None

    @property
    def is_awaited(self) -> bool:
        """True while a task waits; then no message is kept."""
        return self.task is not None or bool(self._behind)

    def put(self, item: Any, payload: Any) -> bool:
        """Hand a message to the task that waits longest, or keep it. Return False if there is no room.

        Args:
            item: The message.
            payload: What of it counts.
        """
        account = self._account
        if self.task is not None or self._behind:
            if account.weight != 0 and self.lent is not None:
                size = account.lend(payload)
                if size is None:
                    return False
                self.lent += size
            if self.task is not None:
                self.wake(Handed(item))
            elif self._behind is not None:
                self._behind.wake_first(Handed(item))
            return True
        if self.kept >= account.most_messages:
            return False
        taken = account.take(payload) if self.kept or account.weight != 0 else account.take_first()
        if not taken:
            return False
        if not self.kept:
            self._first = item, taken
        else:
            if self._channel is None:
                self._channel = trio.open_memory_channel[Any](account.most_messages)
            self._channel[0].send_nowait((item, taken))
        self.kept += 1
        self.held += taken
        return True

    def take(self) -> Any:
        """Take the first message that is kept."""
        self.kept -= 1
        first, self._first = self._first, None
        if first is None:
            assert self._channel is not None
            first = self._channel[1].receive_nowait()
        item, size = first
        if self.held:
            self.held -= size
            if size > LONG and self.lent is not None:
                self._account.hand_over(size)
                self.lent += size
            else:
                self._account.give(size)
        return item

    def give_back(self) -> None:
        """The handler is done with what it had."""
        if self.lent:
            self._account.give_back(self.lent)
            self.lent = 0

    def release(self) -> None:
        """Account no more for what is kept: the session is over, and what it left is its owner's."""
        self._account.give(self.held)
        self.held = 0

    def drop(self) -> None:
        """Let go of what is kept."""
        self.release()
        self._first = self._channel = None
        self.kept = 0

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
