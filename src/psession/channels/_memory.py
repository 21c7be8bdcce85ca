"""Messages between two tasks of one program: a connected pair without bytes, for tests and peers that live together."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from psession.channels._base import FrameChannel, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psession.errors import MessageError

DEFAULT_MAX_BUFFER: Final = 64
"""Messages on their way in each direction. As many as one batch of a busy port (the benchmarks keep 64 turns in
flight), so its writer need not wait for each reader's pass; few enough that a reader which stopped is noticed soon."""


class MemoryChannel(FrameChannel):
    """One end of a `memory_pair`. Several tasks may send, and several receive."""

    __slots__ = ("_incoming", "_outgoing")

    def __init__(self, outgoing: trio.MemorySendChannel[Message], incoming: trio.MemoryReceiveChannel[Message]) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def encode(self, message: Message) -> Message:
        """The message itself: nothing is encoded here, and nothing refused."""
        return message

    async def send(self, value: Message) -> None:
        """Hand one message over; waits while ``max_buffer`` messages are on their way. Cancelled: not sent.

        Raises:
            trio.BrokenResourceError: The other side closed.
            trio.ClosedResourceError: This side closed.
        """
        await self._outgoing.send(value)

    async def send_frames(self, frames: Sequence[Message]) -> None:
        """Hand the messages over in order. Cancelled: those that found room are sent, the rest are not.

        Raises:
            trio.BrokenResourceError: The other side closed.
            trio.ClosedResourceError: This side closed.
        """
        await trio.lowlevel.checkpoint()
        for frame in frames:
            if self.send_frame_now(frame) is None:
                await self._outgoing.send(frame)

    def send_frame_now(self, frame: Message) -> bytes | None:
        """Hand one message over if there is room.

        Returns:
            ``b""`` when it is on its way, or ``None`` when there is no room or a side is closed.
        """
        try:
            self._outgoing.send_nowait(frame)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        return b""

    async def receive(self) -> Message:
        """The next message. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The other side closed, and all it sent was received.
            trio.ClosedResourceError: This side closed.
        """
        return await self._incoming.receive()

    async def receive_batch(self) -> list[Message | MessageError]:
        """The next message, and all that stand behind it. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The other side closed, and all it sent was received.
            trio.ClosedResourceError: This side closed.
        """
        first = await self._incoming.receive()
        return [first, *self._rest()]

    # No receive_batch_now: it would overtake a message that Trio has handed to a task that waits but has not run yet.

    def _rest(self) -> list[Message | MessageError]:
        """Take what has arrived besides: up to ``max_buffer`` messages, and those of tasks that wait for room."""
        batch: list[Message | MessageError] = []
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                batch.append(self._incoming.receive_nowait())
        return batch

    async def aclose(self) -> None:
        """Close this side: the other one receives what was sent to it, then ends; what it sent is lost. Idempotent."""
        self._outgoing.close()
        self._incoming.close()
        await trio.lowlevel.checkpoint()


def memory_pair(max_buffer: float = DEFAULT_MAX_BUFFER) -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected channels: what one sends the other receives, the very same object, neither encoded nor copied.

    So neither side may change a message that it has sent or received. Leaving the two open when they are no longer used
    is harmless.

    Args:
        max_buffer: How many messages may be on their way in each direction before a sender waits; ``math.inf`` for no
            limit, 0 for a sender that always waits for its receiver.
    """
    to_right, from_left = trio.open_memory_channel[Message](max_buffer)
    to_left, from_right = trio.open_memory_channel[Message](max_buffer)
    return MemoryChannel(to_right, from_right), MemoryChannel(to_left, from_left)
