"""The queue of a port's frames, and the one task that writes them.

A channel is written by this task alone, which nobody's timeout or cancellation reaches, so a frame is never cut. Inline
writes happen only where a write is one synchronous call. See docs/design.md, "The path of a message".
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from psession import errors
from psession.shell.waiting import Handed, WaitingLine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from psession.protocol.counters import Counters

POSTS_A_PASS = 16
"""Posts that go through before one yields to other tasks: a handler's answer is on its way, and the pass of the
scheduler that a checkpoint costs (a tenth of a loopback round trip) would only delay its next message."""

PARTS_A_PASS = 32
"""Parts of a stream that go through, and may be taken, before other tasks have a turn; they make one write."""

UNSIZED_BYTES = 256
"""What a message counts whose encoded size nobody knows (a memory channel, a sender): a small JSON request's size."""


_PROMISED = Handed(True)
_TURNED_BACK = Handed(False)


def _do_nothing() -> None:
    pass


class Sending(Protocol):
    """The owner of a frame: a turn, which wants to know how it went."""

    sent: int

    def sender_failed(self, error: BaseException) -> None:
        """The channel or sender raised on the frame."""
        ...


def size_of(frame: Any) -> int:
    """The bytes that a frame takes; an estimate where it is none."""
    return len(frame) if type(frame) is bytes else UNSIZED_BYTES


class Ticket(msgspec.Struct, eq=False):
    """One frame in the queue. It can be withdrawn until the writer has it.

    Attributes:
        frame: The frame.
        turn: The turn that it asks, where somebody waits for the answer.
        size: The bytes that it counts.
        written: True once the writer has it.
        done: Set when the sender has returned, where somebody waits for that.
        error: What the sender raised.
    """

    frame: Any
    turn: Sending | None
    size: int
    written: bool = False
    done: trio.Event | None = None
    error: BaseException | None = None


class Outbox:
    """The queue and its writer; what a frame is and how it is written is for the two kinds below to say.

    ``queued_bytes`` is bounded for messages that nobody waits on (`post` waits for room). A message that a turn
    sends is queued at once: its caller waits anyway, so there is at most one for each waiting turn.

    Attributes:
        turns: The number of turns of this side that are under way.
        burst: The number of messages that came with the last read.
    """

    __slots__ = (
        "_asleep",
        "_counters",
        "_for_room",
        "_joined_bytes",
        "_limit_bytes",
        "_most_waiting_bytes",
        "_on_waiting",
        "_places",
        "_queue",
        "_rests",
        "_room_promised",
        "_since_yield",
        "_start",
        "_until_writable",
        "_waiting_bytes",
        "_wanting",
        "burst",
        "closed",
        "finished",
        "queued_bytes",
        "scope",
        "turns",
        "writing",
    )

    def __init__(
        self,
        limit_bytes: int,
        counters: Counters,
        start: Callable[[], None],
        most_waiting_bytes: float = math.inf,
        on_waiting: Callable[[], None] | None = None,
    ) -> None:
        self.turns: int = 0
        self.burst: int = 0
        self.queued_bytes: int = 0
        self.finished: trio.Event = trio.Event()
        self.writing: bool = False
        self.scope: trio.CancelScope = trio.CancelScope(shield=True)
        self._queue: OrderedDict[Ticket, None] = OrderedDict()
        self._limit_bytes = limit_bytes
        self._counters = counters
        self._start: Callable[[], None] | None = start
        self._asleep = trio.lowlevel.ParkingLot()
        self._rests = True
        self._for_room: WaitingLine[object] = WaitingLine()
        self._places: dict[object, set[object]] = {}
        """The posts that wait for room, by their owners."""
        self._wanting = 0
        self._waiting_bytes = 0
        self._most_waiting_bytes = most_waiting_bytes
        self._on_waiting = on_waiting or _do_nothing
        self._room_promised = False
        self._since_yield = 0
        self._until_writable: Callable[[], Awaitable[None]] | None = None
        self._joined_bytes = 0
        """The bytes that the writer takes at once: by default one frame, so that the others can still be withdrawn."""
        self.closed: bool = False

    def encode(self, message: Any) -> Any:
        """Make the frame that `put` takes; raises the `MessageError` that belongs to the caller."""
        raise NotImplementedError

    def put(self, frame: Any, turn: Sending | None, *, at_once: bool = False) -> Ticket | None:
        """Accept a frame for sending: ``None`` when it is on its way already, else its ticket.

        Args:
            frame: The frame.
            turn: The turn that it asks, where somebody waits for the answer.
            at_once: Whether it is not to wait for others which it could be joined to.
        """
        raise NotImplementedError

    def _write_now(self) -> bool:
        """Write the queue where that is one call that does not wait. Return True if nothing is left."""
        return False

    async def _write(self, batch: list[Ticket]) -> None:
        raise NotImplementedError

    def post_now(self, frame: Any) -> bool:
        """Accept a frame as `post` does, if that need not wait; the checkpoint is the caller's. Return True if so."""
        return False

    @property
    def has_room(self) -> bool:
        """True where `put` accepts a frame that nobody waits on: there is room, and no post waits before it."""
        return False

    def put_part(self, frame: Any, now: float) -> Ticket | None:
        """Accept one of many frames that follow one another; where they come close together, they are joined."""
        return self.put(frame, None)

    def flush(self) -> None:
        """Write what is queued, as far as that need not wait: whoever put it there has no more for now."""

    async def post(self, frame: Any, check: Callable[[], None], owner: object = None) -> None:
        """Accept a frame that no turn waits on, as soon as there is room, the posts before it first.

        Cancelled before there was room: never sent; after that: sent whole. A cancellation point in any case, and every
        `POSTS_A_PASS` posts at the latest the other tasks have a turn.

        Args:
            frame: What `put` takes.
            check: Raises when the poster may not send any more; called when there is room or never will be.
            owner: Whose post it is, for `turn_back`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed or self._wanting or self.queued_bytes >= self._limit_bytes:
            ticket = await self._put_when_room(lambda: self.put(frame, None), check, owner, size_of(frame))
        else:
            ticket = self.put(frame, None)
        if ticket is not None and ticket.done is not None:
            await self._written(ticket)
            if not ticket.written:
                check()
            return
        if self._is_turn_of_others():
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def post_made(
        self, put: Callable[[], Ticket | None], check: Callable[[], None], owner: object = None
    ) -> None:
        """Do as `post`, for a frame that `put` makes and puts when there is room for it; nothing takes that back."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed or self._wanting or self.queued_bytes >= self._limit_bytes:
            ticket = await self._put_when_room(put, check, owner)
        else:
            check()
            ticket = put()
        if ticket is not None and ticket.done is not None:
            await ticket.done.wait()
            if ticket.error is not None:
                raise ticket.error
            if not ticket.written:
                check()
            return
        if self._is_turn_of_others():
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _is_turn_of_others(self) -> bool:
        """Count a post. Return True if other tasks have a turn after it."""
        self._since_yield = (self._since_yield + 1) % POSTS_A_PASS
        return not self._since_yield

    async def _put_when_room(
        self,
        put: Callable[[], Ticket | None],
        check: Callable[[], None],
        owner: object,
        size: int = 0,
    ) -> Ticket | None:
        self._on_waiting()  # which may close this, or end the poster's session: nobody would turn this post back then
        if not self.closed:
            check()
            if self._waiting_bytes + size > self._most_waiting_bytes:
                self._counters.unread += 1
                raise errors.SessionOverrunError(
                    f"not sent: the peer does not read, and {self._waiting_bytes} bytes wait for it already; "
                    "wait for its next message before the next post, or raise max_held_bytes",
                    outcome="not_sent",
                )
            place = object()
            places = self._places.setdefault(owner, set())
            places.add(place)
            self._wanting += 1
            self._waiting_bytes += size
            promised = False
            try:
                promised = await self._for_room.park(place)
            finally:
                self._wanting -= 1
                self._waiting_bytes -= size
                places.discard(place)
                if not places:
                    self._places.pop(owner, None)
                if promised:
                    self._room_promised = False
                else:
                    self._offer_room()  # the next task may have waited for this one alone
        try:
            check()
            return put()
        finally:
            self._offer_room()

    def _offer_room(self) -> None:
        """Wake the first task that waits for room. It wakes the next, which keeps posts in order.

        A task that was cancelled wants room until it runs again, and waits for none.
        """
        if self._wanting and self._for_room and not self._room_promised and self.queued_bytes < self._limit_bytes:
            self._room_promised = True
            self._for_room.wake_first(_PROMISED)

    def turn_back(self, owner: object) -> None:
        """Wake the posts of an owner's that wait for room: they may not be sent any more, as they find out."""
        for place in self._places.get(owner, ()):
            self._for_room.wake(place, _TURNED_BACK)

    async def _written(self, ticket: Ticket) -> None:
        raise NotImplementedError

    def withdraw(self, ticket: Ticket) -> None:
        """Take an untaken frame back: it is never sent."""
        if ticket in self._queue and not ticket.written:
            del self._queue[ticket]
            self._unqueue_bytes(ticket.size)

    def close(self) -> None:
        """Accept nothing more; the writer ends when the queue is written."""
        self.closed = True
        self._asleep.unpark_all()
        while self._for_room:
            self._for_room.wake_first(_TURNED_BACK)
        if self._start is not None:
            self.finished.set()

    def discard(self) -> None:
        """Drop what is queued: the channel is gone."""
        for ticket in self._queue:
            if ticket.done is not None:
                ticket.done.set()
        self._queue.clear()
        self._unqueue_bytes(self.queued_bytes)

    def let_go(self) -> None:
        """Ask nothing of the port any more: it is over."""
        self._start, self._on_waiting = None, _do_nothing

    @property
    def held_bytes(self) -> int:
        """The bytes that are queued, and those of posts that wait for room."""
        return self.queued_bytes + self._waiting_bytes

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
                        self._rests = True
                        await self._asleep.park()
                        continue
                    if self._until_writable is not None:
                        await self._until_writable()  # so that what waits for a line can still be withdrawn
                        if not self._queue:
                            continue
                    if self._write_now():
                        continue
                    self.writing = True
                    await self._write(self._take())
                    self.writing = False
        finally:
            self.writing = False
            self.finished.set()

    def _enqueue(
        self, frame: Any, turn: Sending | None, *, written: bool = False, done: trio.Event | None = None
    ) -> Ticket:
        size = len(frame) if type(frame) is bytes else UNSIZED_BYTES  # `size_of`, without the call
        ticket = Ticket(frame, turn, size, written, done)
        self._queue[ticket] = None
        self.queued_bytes += size
        if self._rests:
            self._rouse()
        return ticket

    def _rouse(self) -> None:
        """Wake the writer; its task is started when there is something in the queue for the first time."""
        self._rests = False
        if self._start is not None:
            self._start()
            self._start = None
        else:
            self._asleep.unpark()

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
        sent = 0
        for ticket in tickets:
            if not ticket.written:
                ticket.written = True
                sent += 1
                turn = ticket.turn
                if turn is not None:
                    turn.sent += 1
        self._counters.sent += sent

    def _unqueue_bytes(self, size: int) -> None:
        self.queued_bytes -= size
        self._offer_room()
