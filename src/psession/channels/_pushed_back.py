"""A channel from which something was read already, and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from psession.channels._base import FrameChannel
from psession.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN_HOPS = 3
"""Scheduler passes granted to a late reply on a channel that does not say how many tasks it passes through."""


async def receive_some(channel: trio.abc.Channel[Any]) -> list[Any]:
    """The next messages of any channel, at least one; a bad one stands in its place as its error."""
    if isinstance(channel, FrameChannel):
        return await channel.receive_batch()
    try:
        return [await channel.receive()]
    except MessageError as error:
        return [error]


class PushedBackChannel(FrameChannel):
    """`channel`, with what was read from it in front."""

    def __init__(self, channel: trio.abc.Channel[Any], batch: list[Any]) -> None:
        self._channel = channel
        self._frames = channel if isinstance(channel, FrameChannel) else None
        self._batch = batch
        self.joins = self._frames is not None and self._frames.joins
        self.hops = self._frames.hops if self._frames is not None else UNKNOWN_HOPS

    @property
    def bytes_sent(self) -> int:  # type: ignore[override]
        """As the channel has it."""
        return self._frames.bytes_sent if self._frames is not None else 0

    @property
    def bytes_received(self) -> int:  # type: ignore[override]
        """As the channel has it."""
        return self._frames.bytes_received if self._frames is not None else 0

    def encode(self, message: Any) -> Any:
        """As the channel does."""
        return message if self._frames is None else self._frames.encode(message)

    async def send(self, value: Any) -> None:
        """As the channel does."""
        await self._channel.send(value)

    async def send_frames(self, frames: Sequence[Any]) -> None:
        """As the channel does."""
        if self._frames is not None:
            await self._frames.send_frames(frames)
            return
        for frame in frames:
            await self._channel.send(frame)

    def send_frame_now(self, frame: Any) -> Any:
        """As the channel does."""
        return None if self._frames is None else self._frames.send_frame_now(frame)

    def receive_batch_now(self) -> list[Any]:
        """As the channel does, but nothing overtakes what was put back."""
        return [] if self._frames is None or self._batch else self._frames.receive_batch_now()

    async def receive(self) -> Any:
        """What was put back, then what the channel receives."""
        if not self._batch:
            return await self._channel.receive()
        await trio.lowlevel.checkpoint()
        first = self._batch.pop(0)
        if isinstance(first, MessageError):
            raise first
        return first

    async def receive_batch(self) -> list[Any]:
        """What was put back, then what the channel receives."""
        if not self._batch:
            return await receive_some(self._channel)
        await trio.lowlevel.checkpoint()
        batch, self._batch = self._batch, []
        return batch

    async def aclose(self) -> None:
        """Close the channel."""
        await self._channel.aclose()
