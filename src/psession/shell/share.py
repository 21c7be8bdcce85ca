"""One channel, many writers: what each sends goes out whole, whoever is cancelled."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession.channels._base import FrameChannel
from psession.channels._plain import receive_some
from psession.checks import count, seconds
from psession.nursery import close_forcefully, close_quietly, open_quiet_nursery
from psession.protocol.counters import Counters
from psession.shell.channel_outbox import ANSWERS_IN_WRITES, FLUSHED_FRAMES, ChannelOutbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class SharedChannel(FrameChannel):
    """A channel that any number of tasks may send to; `share` makes one. One task at a time receives."""

    def __init__(self, channel: trio.abc.Channel[Any], outbox: ChannelOutbox) -> None:
        self._channel = channel
        self._outbox = outbox
        self._error: Exception | None = None

    @trio.lowlevel.enable_ki_protection
    async def send(self, value: Any) -> None:
        """Accept one message for sending, as soon as there is room. Cancelled before that, it is never sent.

        Raises:
            MessageError: It cannot be encoded, or is too large.
            trio.BrokenResourceError: The channel broke.
            trio.ClosedResourceError: The block of `share` was left.
        """
        await self._outbox.post(self._outbox.encode(value), self._check_open)

    def encode(self, message: Any) -> Any:
        """Make a frame as the channel does."""
        return self._outbox.encode(message)

    @trio.lowlevel.enable_ki_protection
    async def send_frames(self, frames: Sequence[Any]) -> None:
        """Accept whole frames, one after the other, as `send` does."""
        for frame in frames:
            await self._outbox.post(frame, self._check_open)

    async def receive(self) -> Any:
        """Receive as the channel does."""
        return await self._channel.receive()

    async def receive_batch(self) -> list[Any]:
        """Receive as the channel does; a bad message stands in its place as its error."""
        return await receive_some(self._channel)

    def pace(self, more: float = 0.0) -> None:
        """Let the channel read less at once, or more."""
        if isinstance(self._channel, FrameChannel):
            self._channel.pace(more)

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Accept nothing more. The channel itself is closed when the block of `share` is left."""
        self._outbox.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._error is not None:
            raise trio.BrokenResourceError(f"the shared channel broke: {self._error}") from self._error
        if self._outbox.closed:
            raise trio.ClosedResourceError("the shared channel was closed")

    @trio.lowlevel.enable_ki_protection
    async def write(self) -> None:
        """The writer task."""
        try:
            await self._outbox.run()
        except Exception as error:
            self._error = error
            self._outbox.close()
            self._outbox.discard()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def share(
    channel: trio.abc.Channel[Any], *, max_queued_bytes: int = 256 * 1024, grace: float = 1.0
) -> AsyncIterator[SharedChannel]:
    """``async with share(channel) as bus``: ``bus.send`` may be called, and cancelled, by many at a time.

    A channel of one's own writes one message at a time, and a cancelled write cuts it in half for everybody. Here one
    task writes, which nobody's cancellation reaches.

    Args:
        channel: What to write to and, by ``bus.receive()`` or ``manager.listen(bus, ...)``, to read. Closed on leaving.
        max_queued_bytes: How much may wait for the writer before ``send`` waits.
        grace: Seconds that leaving may take to flush what was accepted and to close the channel; shielded.
    """
    count("max_queued_bytes", max_queued_bytes)
    seconds("grace", grace)
    async with open_quiet_nursery() as nursery:
        outbox = ChannelOutbox(channel, max_queued_bytes, Counters(), lambda: nursery.start_soon(bus.write))
        outbox.burst = FLUSHED_FRAMES * ANSWERS_IN_WRITES  # who sends has no turn that waits: as many as may be
        bus = SharedChannel(channel, outbox)
        try:
            yield bus
        finally:
            outbox.close()
            try:
                with trio.CancelScope(deadline=trio.current_time() + grace, shield=True):
                    await outbox.finished.wait()
                    await close_quietly(channel)
            finally:
                outbox.scope.cancel()
            await close_forcefully(channel)
