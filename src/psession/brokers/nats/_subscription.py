"""A subscription, as its reader sees it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, final

import trio

from psession.brokers.nats._errors import NatsError, NatsOverrunError
from psession.shell.waiting import SILENCE, Handed, WaitingLine

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from psession.brokers.nats._wire import NatsMessage

_protected = trio.lowlevel.enable_ki_protection

MESSAGES_A_PASS = 32
"""Messages that are taken, where so many wait, before the other tasks have a turn."""

_LOOK_AGAIN = Handed(SILENCE)


class Subscribing(Protocol):
    """A client, as far as a subscription needs it."""

    def end_subscription(self, subscription: Subscription) -> None:
        """Tell the server that nothing more is wanted."""
        ...

    def forget_subscription(self, subscription: Subscription) -> None:
        """Take nothing more for a subscription."""
        ...

    async def flush(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - as the public one has it
        """Wait until the server has done all that it was told."""
        ...

    def note_overrun(self, subscription: Subscription) -> None:
        """Count a subscription that was ended since its reader was too slow."""
        ...


@final
class Subscription:
    """The messages of a subject, in order; made by ``async with nats.subscribe(subject) as subscription``.

    ``async for message in subscription`` ends when the subscription does. Several tasks may receive: each message is
    one's alone.

    Attributes:
        subject: The subject, which may have wildcards.
        queue: The queue group; ``""``: none.
        sid: Its number on the wire.
        received: The number of messages that came for it.
        max_pending_messages: The messages that may wait in it.
        max_pending_bytes: Their bytes.
    """

    def __init__(
        self,
        client: Subscribing,
        subject: str,
        queue: str,
        sid: int,
        limit: int,
        max_pending_messages: int,
        max_pending_bytes: float,
    ) -> None:
        self.subject = subject
        self.queue = queue
        self.sid = sid
        self.received: int = 0
        self.max_pending_messages = max_pending_messages
        self.max_pending_bytes = max_pending_bytes
        self._client = client
        self._limit = limit
        self._pending: deque[NatsMessage] = deque()
        self._bytes = 0
        self._line: WaitingLine[object] = WaitingLine()
        self._is_over = False
        self._why: Callable[[], NatsError] | None = None
        self._at_work: set[trio.lowlevel.Task] = set()
        self._moved = trio.Event()
        self._since_yield = 0

    def __repr__(self) -> str:
        queue = f", queue {self.queue!r}" if self.queue else ""
        state = "over" if self._is_over else f"{len(self._pending)} messages wait"
        return f"<psession.brokers.nats.Subscription to {self.subject!r}{queue}, {state}>"

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
    async def receive(self) -> NatsMessage:
        """Return the next message. Cancelling loses nothing. A checkpoint always.

        Raises:
            trio.EndOfChannel: The subscription is over: its block was left, it was drained, or had as many messages as
                it was made for.
            NatsOverrunError: More waited than it holds.
            NatsPermissionError: The server does not allow it.
            NatsClosedError: No server takes this client any more.
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
                raise trio.EndOfChannel(f"the subscription to {self.subject!r} is over")
            else:
                handed: NatsMessage = await self._line.park(object())
                if handed is not SILENCE:
                    self._since_yield = 0
                    return handed

    @_protected
    async def receive_batch(self) -> list[NatsMessage]:
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
    async def __anext__(self) -> NatsMessage:
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
    async def drain(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - as everywhere in this package
        """Want no more messages, and return when all that were on their way have come; they can still be received.

        Args:
            timeout: Seconds to wait for the server.

        Raises:
            NatsTimeoutError: The server did not say that it is done in `timeout` seconds.
            NatsDisconnectedError: The connection broke, and what was on its way is lost.
            NatsClosedError: The client is closed.
        """
        if self._is_over:
            await trio.lowlevel.checkpoint()
            return
        self._client.end_subscription(self)
        try:
            await self._client.flush(timeout=timeout)
        finally:
            self._client.forget_subscription(self)
            self.end(None)

    @_protected
    def end(self, why: Callable[[], NatsError] | None) -> None:
        """Take no more messages; who waits hears of it. What waits can be received, then the end or `why`."""
        if self._is_over:
            return
        self._is_over, self._why = True, why
        while self._line:
            self._line.wake_first(_LOOK_AGAIN)

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

    def deliver(self, message: NatsMessage) -> None:
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
            self._client.forget_subscription(self)  # the server has counted as well
            self.end(None)

    def _overrun(self) -> None:
        text = (
            f"the subscription to {self.subject!r} was ended: {len(self._pending)} messages of {self._bytes} bytes "
            f"waited in it, and it holds {self.max_pending_messages} of {self.max_pending_bytes:g} bytes; receive them "
            "faster, in a queue group with others, or raise max_pending_messages and max_pending_bytes"
        )
        self._client.end_subscription(self)
        self._client.note_overrun(self)
        self.end(lambda: NatsOverrunError(text))
