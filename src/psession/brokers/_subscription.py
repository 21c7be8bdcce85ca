"""What a broker sends to one subscription, as its reader sees it."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from psession import checks
from psession.shell.waiting import LOOK_AGAIN, SILENCE, Handed, WaitingLine

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_protected = trio.lowlevel.enable_ki_protection

MESSAGES_A_PASS = 32
"""Messages that are taken, where so many wait, before the other tasks have a turn."""


class Sized(Protocol):
    """A message, as far as its subscription needs it."""

    @property
    def size(self) -> int:
        """Its bytes."""
        ...


class PendingOptions(Protocol):
    """The options of a client, as far as its subscriptions need them."""

    @property
    def max_pending_messages(self) -> int:
        """The messages that may wait in each."""
        ...

    @property
    def max_pending_bytes(self) -> float:
        """Their bytes."""
        ...


M = TypeVar("M", bound=Sized)


def checked_limits(
    options: PendingOptions, limit: int | None, max_pending_messages: int | None, max_pending_bytes: float | None
) -> tuple[int, int, float]:
    """Return how many messages a subscription takes in all (0: no limit), how many may wait in it, and their bytes.

    Raises:
        TypeError, ValueError: An argument that will not do; the text says why.
    """
    most = options.max_pending_messages if max_pending_messages is None else max_pending_messages
    most_bytes = options.max_pending_bytes if max_pending_bytes is None else max_pending_bytes
    checks.count("max_pending_messages", most)
    checks.number("max_pending_bytes", most_bytes, at_least=1, or_inf=True)
    if limit is not None:
        checks.count("limit", limit)
    return limit or 0, most, most_bytes


class BrokerSubscription(Generic[M]):
    """The messages of a subscription, in order. Several tasks may receive: each message is one's alone.

    Attributes:
        received: The number of messages that came for it.
        max_pending_messages: The messages that may wait in it.
        max_pending_bytes: Their bytes.
    """

    def __init__(self, name: str, limit: int, max_pending_messages: int, max_pending_bytes: float) -> None:
        self.received: int = 0
        self.max_pending_messages: int = max_pending_messages
        self.max_pending_bytes: float = max_pending_bytes
        self._name = name
        self._limit = limit
        self._pending: deque[M] = deque()
        self._bytes = 0
        self._line: WaitingLine[object] = WaitingLine()
        self._is_over = False
        self._why: Callable[[], Exception] | None = None
        self._at_work: set[trio.lowlevel.Task] = set()
        self._moved = trio.Event()
        self._since_yield = 0

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def pending_messages(self) -> int:
        """The number of messages that wait to be received."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Their bytes, payloads and headers."""
        return self._bytes

    @property
    def closed(self) -> bool:
        """True once nothing more can come; what waits may still be received."""
        return self._is_over

    @property
    def left(self) -> int:
        """The number of messages that are still wanted of those it was limited to; 0 where it has no limit."""
        return max(self._limit - self.received, 0) if self._limit else 0

    # -- receiving ---------------------------------------------------------------------------------------------------

    @_protected
    async def receive(self) -> M:
        """Return the next message. Cancelling loses nothing. A checkpoint always.

        Raises:
            trio.EndOfChannel: The subscription is over: its block was left, it was drained, or had as many messages as
                it was made for.
            SessionError: More waited than it holds; the broker does not allow it, or takes this client no more.
        """
        pending = self._pending
        while True:
            if pending:
                self._since_yield += 1
                if self._since_yield >= MESSAGES_A_PASS:
                    self._since_yield = 0
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.checkpoint_if_cancelled()
                if pending:  # else another task took it
                    message = pending.popleft()
                    self._bytes -= message.size
                    if self._is_over:
                        self._moved.set()
                    return message
            elif self._is_over:
                await trio.lowlevel.checkpoint()
                if self._why is not None:
                    raise self._why()
                raise trio.EndOfChannel(f"the subscription to {self._name!r} is over")
            else:
                handed: M = await self._line.park(object())
                if handed is not SILENCE:
                    self._since_yield = 0
                    return handed

    @_protected
    async def receive_batch(self) -> list[M]:
        """Return the next message and all that wait behind it. Cancelling loses nothing; raises as `receive`."""
        batch = [await self.receive(), *self._pending]
        self._pending.clear()
        self._bytes = 0
        if self._is_over:
            self._moved.set()
        return batch

    def __aiter__(self) -> Self:
        """Iterate over the messages; stops when the subscription is over, and raises as `receive` where it failed."""
        return self

    @_protected
    async def __anext__(self) -> M:
        task, pending = trio.lowlevel.current_task(), self._pending
        if pending and not self._is_over and self._since_yield < MESSAGES_A_PASS - 1:
            self._since_yield += 1  # as `receive`, without a coroutine of its own
            await trio.lowlevel.checkpoint_if_cancelled()
            message = pending.popleft()
            self._bytes -= message.size
            self._at_work.add(task)
            return message
        self._at_work.discard(task)
        if self._is_over:
            self._moved.set()
        try:
            message = await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        self._at_work.add(task)
        return message

    # -- the end -----------------------------------------------------------------------------------------------------

    @_protected
    def end(self, why: Callable[[], Exception] | None) -> None:
        """Take no more messages; who waits hears of it. What waits can be received, then the end or `why`."""
        if self._is_over:
            return
        self._is_over, self._why = True, why
        while self._line:
            self._line.wake_first(LOOK_AGAIN)

    def forget(self) -> None:
        """Let go of what waits: nobody will receive it."""
        self.end(None)
        self._pending.clear()
        self._at_work.clear()
        self._bytes = 0
        self._moved.set()

    async def until_done(self) -> None:
        """Return when all that waited was received, and each task that iterates, the caller's aside, has come back."""
        caller = trio.lowlevel.current_task()
        while self._pending or self._at_work - {caller}:
            self._moved = trio.Event()
            await self._moved.wait()

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def deliver(self, message: M) -> None:
        """Take a message that came."""
        if self._is_over:
            return
        self.received += 1
        if self._line:
            self._line.wake_first(Handed(message))
        else:
            pending, size = self._pending, message.size
            if len(pending) >= self.max_pending_messages or self._bytes + size > self.max_pending_bytes:
                self._overrun()
                return
            pending.append(message)
            self._bytes += size
        if self.received == self._limit:
            self._reached_limit()
            self.end(None)

    @abstractmethod
    def _reached_limit(self) -> None:
        """It has had as many messages as it was made for."""

    @abstractmethod
    def _overrun(self) -> None:
        """There is no room for a message that came: end it."""
