"""Channels of any make: one message at a time, and no more is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psession.channels._base import FrameChannel
from psession.errors import MessageError

if TYPE_CHECKING:
    import trio

UNKNOWN_HOPS: Final = 3
"""Scheduler passes granted to a late reply on a channel that does not say how many tasks it passes through."""


async def receive_some(channel: trio.abc.Channel[Any]) -> list[Any]:
    """The next messages of any channel, at least one; a bad one stands in its place as its error."""
    if isinstance(channel, FrameChannel):
        return await channel.receive_batch()
    try:
        return [await channel.receive()]
    except MessageError as error:
        return [error]
