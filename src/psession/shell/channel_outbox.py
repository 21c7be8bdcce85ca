"""The queue of a port over a channel: many frames to a write, some of them at once. See `outbox`."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import trio

from psession.channels._base import FrameChannel
from psession.channels._wire import LONG_BYTES
from psession.errors import MessageError
from psession.message import flat
from psession.shell.outbox import PARTS_A_PASS, POSTS_A_PASS, Outbox, Sending, Ticket, size_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.counters import Counters

log: logging.Logger = logging.getLogger("psession")

MAX_JOINED_BYTES = 64 * 1024
"""The bytes that one write joins: past this a system call costs its copying, not its entry."""

FLUSHED_FRAMES = 16
"""The number of frames that are joined at most before a write that need not wait for the writer's turn: while the other
tasks of this scheduler pass go on, the peer is at work on these. With 64 turns in flight 8 to 16 were best, 64 cost
20 %."""

LONG_FRAME = LONG_BYTES
"""The bytes from which on a frame is written at once, if none waits. Messages as long are decoded one by one: the
answer comes by itself, and so does what that makes be asked next, so the writer had a turn for each, a tenth of what
10 kB cost. With 2 kB a frame of 2.5 kB, of which many come together, lost 9 % (benchmarks/report.py)."""

JOINED_SECONDS = 0.001
"""In each so many seconds one part of a stream is written at once, with those that wait; the others are joined. A
handler that works between two posts gives the writer no turn."""

WRITES_UNDER_WAY = 4
"""The number of writes in which the turns in flight travel, at least. In one, both ends work in turns, each asleep
while the other works: 8,600 round trips a second with 2 in flight, where 2 writes make 36,000. With 4 the next is there
whenever an end looks: with 8 in flight 2 are as good as 4 and 8, with 64 in flight 8 cost a tenth."""

ANSWERS_IN_WRITES = 2
"""The number of writes in which the answers to what came in one read go back: with 1, two reads that met stay one for
good, and from 2 to 8 in flight both ends work in turns again; 4 are no better."""


class ChannelOutbox(Outbox):
    """Writes to a channel, many frames at a time where it can."""

    __slots__ = ("_answers", "_can_flush", "_channel", "_frames", "_joined_since", "_writes")

    def __init__(
        self,
        channel: trio.abc.Channel[Any],
        limit_bytes: int,
        counters: Counters,
        start: Callable[[], None],
        most_waiting_bytes: float = math.inf,
        on_waiting: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(limit_bytes, counters, start, most_waiting_bytes, on_waiting)
        self._channel = channel
        self._frames = channel if isinstance(channel, FrameChannel) else None
        if self._frames is not None:
            self._joined_bytes = MAX_JOINED_BYTES
        self._can_flush = self._frames is not None and self._frames.joins
        self._writes, self._answers = (WRITES_UNDER_WAY, ANSWERS_IN_WRITES) if self._can_flush else (1, 1)
        self._joined_since = -math.inf
        self._until_writable = getattr(channel, "until_writable", None)

    def encode(self, message: Any) -> Any:
        """Make a frame."""
        return flat(message) if self._frames is None else self._frames.encode(message)

    @trio.lowlevel.enable_ki_protection
    def put(self, frame: Any, turn: Sending | None, *, at_once: bool = False) -> Ticket | None:
        """Accept a frame, and write it at once where that is best."""
        if self._frames is None or self.writing:
            return self._enqueue(frame, turn)
        # How many frames are worth a write: with fewer the peer would wait for its work, with more the kernel's part is
        # too small to matter. What waits for more goes out with the writer's next turn in any case.
        together, answers = self.turns // self._writes, self.burst // self._answers
        if together < answers:
            together = answers
        if at_once:
            together = 0
        if not self._queue and (together <= 1 or (self._can_flush and size_of(frame) >= LONG_FRAME)):
            left = self._frames.send_frame_now(frame)
            if left is not None:
                self._counters.sent += 1
                if turn is not None:
                    turn.sent += 1
                if left:
                    self._finish_later(left)
                return None
        ticket = self._enqueue(frame, turn)
        if self._can_flush:
            queued = len(self._queue)
            if queued >= together or queued >= FLUSHED_FRAMES or self.queued_bytes >= MAX_JOINED_BYTES:
                self._flush()
        return ticket

    def put_part(self, frame: Any, now: float) -> Ticket | None:
        """Accept one of many frames that follow one another; where they come close together, they are joined."""
        if not self._can_flush or self.writing or now - self._joined_since > JOINED_SECONDS:
            self._joined_since = now
            return self.put(frame, None)
        ticket = self._enqueue(frame, None)
        if len(self._queue) >= PARTS_A_PASS or self.queued_bytes >= self._joined_bytes:
            self._flush()
        return ticket

    def flush(self) -> None:
        """Write what is queued, as far as that need not wait."""
        if self._can_flush and self._queue and not self.writing and self.queued_bytes <= self._joined_bytes:
            self._flush()

    def post_now(self, frame: Any) -> bool:
        """Accept a post, if there is room and no other task is due."""
        if self._since_yield >= POSTS_A_PASS - 1 or not self.has_room:
            return False
        self._since_yield += 1
        self.put(frame, None)
        return True

    @property
    def has_room(self) -> bool:
        """True where there is room, and no post waits for it."""
        return self.queued_bytes < self._limit_bytes and not self._wanting and not self.closed

    def _write_now(self) -> bool:
        if self._can_flush and self.queued_bytes <= self._joined_bytes:
            self._flush()
        return not self._queue

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
        """The channel's own figures."""
        return (0, 0) if self._frames is None else (self._frames.bytes_sent, self._frames.bytes_received)

    def _finish_later(self, left: Any) -> None:
        # The first part is on the wire: the rest must follow before anything else, and cannot be withdrawn. It goes by
        # `send_frames`, which knows where it belongs: joined to others it might begin the next line of a channel.
        self._can_flush = False
        self._enqueue(left, None, written=True)

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
        """Tell the turn that the channel refuses its message, or log it where nobody waits; the channel goes on."""
        if ticket.turn is not None:
            ticket.turn.sender_failed(error)
        else:
            self._counters.malformed += 1
            log.warning("a posted message was not sent: %s", error, extra={"event_name": "post_refused"})
