"""What waits to be written, and the one task that writes it.

A channel is written by this task alone, which nobody's timeout or cancellation reaches, so a frame is never cut. Inline
writes happen only where a write is one synchronous call. See docs/design.md, "The path of a message".
"""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio

from psession.channels._base import FrameChannel
from psession.errors import MessageError

if TYPE_CHECKING:
    from psession._statistics import Statistics
    from psession._turn import Turn

log = logging.getLogger("psession")

MAX_JOINED_BYTES = 64 * 1024
"""How much one write joins: past this a system call costs its copying, not its entry."""

FLUSHED_FRAMES = 16
"""How many frames are joined at most before a write that need not wait for the writer's turn: while the other tasks of
this scheduler pass go on, the peer is at work on these. With 64 turns in flight 8 to 16 were best, 64 cost 20 %."""

POSTS_A_PASS = 16
"""Posts that go through before one yields to other tasks: a handler's answer is on its way, and the pass of the
scheduler that a checkpoint costs (a tenth of a loopback round trip) would only delay its next message."""

UNSIZED_BYTES = 256
"""What a message counts whose encoded size nobody knows (a memory channel, a sender): a small JSON request's size."""


def size_of(frame: Any) -> int:
    """Bytes that a frame takes; an estimate where it is none."""
    return len(frame) if type(frame) is bytes else UNSIZED_BYTES


class Ticket:
    """One frame in the queue. It can be withdrawn until the writer has taken it."""

    __slots__ = ("done", "error", "frame", "size", "taken", "turn")

    def __init__(self, frame: Any, turn: Turn | None) -> None:
        self.frame = frame
        self.turn = turn
        self.size = len(frame) if type(frame) is bytes else UNSIZED_BYTES
        self.taken = False
        self.done: trio.Event | None = None
        self.error: BaseException | None = None


class Outbox:
    """The queue and its writer; what a frame is and how it is written is for the two kinds below to say.

    ``queued_bytes`` is bounded for messages that nobody waits on (`post` waits for room). A message that a turn
    sends is queued at once: its caller waits anyway, so there is at most one for each waiting turn.
    """

    _joined_bytes = 0
    """How much the writer takes at once: by default one frame, so that the others can still be withdrawn."""

    def __init__(self, limit_bytes: int, counters: Statistics, start: Callable[[], None]) -> None:
        self.queued_bytes = 0
        self.finished = trio.Event()
        self.writing = False
        self.scope = trio.CancelScope(shield=True)
        self._queue: OrderedDict[Ticket, None] = OrderedDict()
        self._limit_bytes = limit_bytes
        self._counters = counters
        self._start: Callable[[], None] | None = start
        self._asleep = trio.lowlevel.ParkingLot()
        self._sleeping = False
        self._for_room = trio.lowlevel.ParkingLot()
        self._room_promised = False
        self._since_yield = 0
        self._until_writable: Callable[[], Awaitable[None]] | None = None
        self.closed = False

    def encode(self, message: Any) -> Any:
        """What `put` takes; raises the `MessageError` that belongs to the caller."""
        raise NotImplementedError

    def put(self, frame: Any, turn: Turn | None) -> Ticket | None:
        """Accept a frame for sending: ``None`` when it is on its way already, else its ticket."""
        raise NotImplementedError

    async def _write(self, batch: list[Ticket]) -> None:
        raise NotImplementedError

    async def post(self, frame: Any, check: Callable[[], None]) -> None:
        """Accept a frame that no turn waits on, as soon as there is room, the posts before it first.

        Cancelled before there was room: never sent; after that: sent whole. A cancellation point in any case, and every
        `POSTS_A_PASS` posts at the latest the other tasks have a turn.

        Args:
            frame: What `put` takes.
            check: Raises when the poster may not send any more; called when there is room or never will be.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed or self._for_room or self.queued_bytes >= self._limit_bytes:
            ticket = await self._put_when_room(lambda: frame, check)
        else:
            ticket = self.put(frame, None)
        if ticket is not None and ticket.done is not None:
            await self._written(ticket)
            if not ticket.taken:
                check()
            return
        self._since_yield += 1
        if self._since_yield >= POSTS_A_PASS:
            self._since_yield = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def post_made(self, make: Callable[[], Any], check: Callable[[], None]) -> None:
        """As `post`, of a frame that `make` makes when there is room for it; from then on nothing takes it back."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed or self._for_room or self.queued_bytes >= self._limit_bytes:
            ticket = await self._put_when_room(make, check)
        else:
            check()
            ticket = self.put(make(), None)
        if ticket is not None and ticket.done is not None:
            await ticket.done.wait()
            if ticket.error is not None:
                raise ticket.error
            if not ticket.taken:
                check()
            return
        self._since_yield += 1
        if self._since_yield >= POSTS_A_PASS:
            self._since_yield = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _put_when_room(self, make: Callable[[], Any], check: Callable[[], None]) -> Ticket | None:
        if not self.closed:
            await self._for_room.park()
            self._room_promised = False
        try:
            check()
            return self.put(make(), None)
        finally:
            self._offer_room()

    def _offer_room(self) -> None:
        """Let the first that waits for room go on; the next is let go by it, so that posts keep their order."""
        if self._for_room and not self._room_promised and self.queued_bytes < self._limit_bytes:
            self._room_promised = True
            self._for_room.unpark()

    async def _written(self, ticket: Ticket) -> None:
        raise NotImplementedError

    def withdraw(self, ticket: Ticket) -> None:
        """Take an untaken frame back: it is never sent."""
        if ticket in self._queue and not ticket.taken:
            del self._queue[ticket]
            self._unqueue_bytes(ticket.size)

    def close(self) -> None:
        """Accept nothing more; the writer ends when the queue is written."""
        self.closed = True
        self._asleep.unpark_all()
        self._for_room.unpark_all()
        if self._start is not None:
            self.finished.set()

    def discard(self) -> None:
        """Drop what is queued: the channel is gone."""
        for ticket in self._queue:
            if ticket.done is not None:
                ticket.done.set()
        self._queue.clear()
        self._unqueue_bytes(self.queued_bytes)

    def wire_bytes(self) -> tuple[int, int]:
        """Bytes sent and received, where somebody counts them."""
        return 0, 0

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """The writer task. Returns when closed and empty; raises what the channel raises."""
        try:
            with self.scope:
                while self._queue or not self.closed:
                    if not self._queue:
                        self._sleeping = True
                        await self._asleep.park()
                        continue
                    if self._until_writable is not None:
                        await self._until_writable()  # so that what waits for a line can still be withdrawn
                        if not self._queue:
                            continue
                    self.writing = True
                    await self._write(self._take())
                    self.writing = False
        finally:
            self.writing = False
            self.finished.set()

    def _enqueue(self, ticket: Ticket) -> Ticket:
        self._queue[ticket] = None
        self.queued_bytes += ticket.size
        if self._start is not None:
            self._start()
            self._start = None
        elif self._sleeping:
            self._sleeping = False
            self._asleep.unpark()
        return ticket

    def _take(self) -> list[Ticket]:
        queue = self._queue
        batch: list[Ticket]
        if self.queued_bytes <= self._joined_bytes:
            batch = list(queue)
            queue.clear()
            size = self.queued_bytes
        else:
            batch, size = [], 0
            while queue and size <= self._joined_bytes:
                batch.append(queue.popitem(last=False)[0])
                size += batch[-1].size
        self._mark_taken(batch)
        self._unqueue_bytes(size)
        return batch

    def _mark_taken(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            if not ticket.taken:
                ticket.taken = True
                self._counters.sent += 1
                turn = ticket.turn
                if turn is not None:
                    turn.sent += 1

    def _unqueue_bytes(self, size: int) -> None:
        self.queued_bytes -= size
        self._offer_room()


class ChannelOutbox(Outbox):
    """Writes to a channel, many frames at a time where it can."""

    def __init__(
        self,
        channel: trio.abc.Channel[Any],
        together: Callable[[], int],
        limit_bytes: int,
        counters: Statistics,
        start: Callable[[], None],
    ) -> None:
        super().__init__(limit_bytes, counters, start)
        self._channel = channel
        self._together = together
        self._frames = channel if isinstance(channel, FrameChannel) else None
        if self._frames is not None:
            self._joined_bytes = MAX_JOINED_BYTES
        self._can_flush = self._frames is not None and self._frames.joins
        self._until_writable = getattr(channel, "until_stands", None)

    def encode(self, message: Any) -> Any:
        return message if self._frames is None else self._frames.encode(message)

    @trio.lowlevel.enable_ki_protection
    def put(self, frame: Any, turn: Turn | None) -> Ticket | None:
        if self._frames is None or self.writing:
            return self._enqueue(Ticket(frame, turn))
        together = self._together()
        if together <= 1 and not self._queue:
            left = self._frames.send_frame_now(frame)
            if left is not None:
                self._counters.sent += 1
                if turn is not None:
                    turn.sent += 1
                if left:
                    self._finish_later(left)
                return None
        ticket = self._enqueue(Ticket(frame, turn))
        if len(self._queue) >= together and self._can_flush:
            self._flush()
        return ticket

    def _flush(self) -> None:
        """Write what is queued, joined, as far as the transport takes it without waiting."""
        assert self._frames is not None
        left = self._frames.send_frame_now(b"".join([ticket.frame for ticket in self._queue]))
        if left is None:
            self._can_flush = False
            return
        self._mark_taken(self._queue)
        self._queue.clear()
        self._unqueue_bytes(self.queued_bytes)
        if left:
            self._finish_later(left)

    def wire_bytes(self) -> tuple[int, int]:
        return (0, 0) if self._frames is None else (self._frames.bytes_sent, self._frames.bytes_received)

    def _finish_later(self, left: Any) -> None:
        # The first part is on the wire: the rest must follow before anything else, and cannot be withdrawn.
        rest = Ticket(left, None)
        rest.taken = True
        self._enqueue(rest)

    async def _write(self, batch: list[Ticket]) -> None:
        if self._frames is not None:
            await self._frames.send_frames([ticket.frame for ticket in batch])
            self._can_flush = self._frames.joins
            return
        for ticket in batch:
            try:
                await self._channel.send(ticket.frame)
            except MessageError as error:
                self._refused(ticket, error)

    def _refused(self, ticket: Ticket, error: MessageError) -> None:
        """A message that the channel will not take: its sender's error, or nobody's any more; the channel goes on."""
        if ticket.turn is not None:
            ticket.turn.sender_failed(error)
        else:
            self._counters.malformed += 1
            log.warning("a posted message was not sent: %s", error)


class SenderOutbox(Outbox):
    """Calls a plain callable with each message: a synchronous one at once, an async one from the writer task.

    What the callable raises belongs to the caller of that message alone.
    """

    def __init__(
        self, sender: Callable[[Any], object], limit_bytes: int, counters: Statistics, start: Callable[[], None]
    ) -> None:
        super().__init__(limit_bytes, counters, start)
        self._sender = sender
        call = getattr(sender, "__call__", sender)  # noqa: B004 - an object whose __call__ is async counts as async
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(getattr(sender, "func", sender))) or (
            inspect.iscoroutinefunction(call)
        )

    def encode(self, message: Any) -> Any:
        return message

    def put(self, frame: Any, turn: Turn | None) -> Ticket | None:
        if self._is_async:
            return self._enqueue(self._ticket(frame, turn))
        self._counters.sent += 1
        if turn is not None:
            turn.sent += 1
        result = self._sender(frame)
        if result is None or not inspect.isawaitable(result):
            return None
        self._is_async = True  # from now on it is called when the writer is there to await it, so that it can wait
        ticket = self._ticket(result, turn)
        ticket.taken = True
        return self._enqueue(ticket)

    def _ticket(self, frame: Any, turn: Turn | None) -> Ticket:
        ticket = Ticket(frame, turn)
        if turn is None:
            ticket.done = trio.Event()  # a post waits for the sender, whose error is the poster's
        return ticket

    async def _written(self, ticket: Ticket) -> None:
        assert ticket.done is not None
        try:
            await ticket.done.wait()
        finally:
            self.withdraw(ticket)
        if ticket.error is not None:
            raise ticket.error

    async def _write(self, batch: list[Ticket]) -> None:
        for ticket in batch:
            try:
                result = ticket.frame if inspect.isawaitable(ticket.frame) else self._sender(ticket.frame)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                ticket.error = error
                if ticket.turn is not None:
                    ticket.turn.sender_failed(error)
            finally:
                if ticket.done is not None:
                    ticket.done.set()

    def discard(self) -> None:
        for ticket in self._queue:
            if ticket.taken and inspect.iscoroutine(ticket.frame):
                ticket.frame.close()
        super().discard()


def is_sender(thing: object) -> bool:
    """Whether `thing` is a plain callable rather than a channel."""
    return callable(thing) and not hasattr(thing, "receive")


Sender = Callable[[Any], Awaitable[object] | object]
