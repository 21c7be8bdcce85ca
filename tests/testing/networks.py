"""What the tests of bad networks share."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from psession.channels import memory_pair
from psession.testing import LossyChannel, lossy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FAULTS: dict[str, Any] = {"drop": 0.2, "duplicate": 0.2, "reorder": 0.2, "delay": (0.0, 1.0)}


async def receive_all(channel: trio.abc.Channel[Any], got: list[Any]) -> None:
    """What comes until the channel ends."""
    try:
        while True:
            got.append(await channel.receive())
    except (trio.EndOfChannel, trio.BrokenResourceError):
        return


async def carry(messages: list[Any], *, pause: float = 0.0, **options: Any) -> tuple[list[Any], LossyChannel]:
    """Send the messages through a bad network, and close it: what came out at the other end, and the channel."""
    left, right = memory_pair()
    got: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all, right, got)
        async with lossy(left, **options) as link:
            for message in messages:
                await link.send(message)
                await trio.sleep(pause)
        await right.aclose()
    return got, link


def run(job: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """Run it to its end on virtual time, for tests whose cases Hypothesis makes."""
    return trio.run(functools.partial(job, *args, **options), clock=trio.testing.MockClock(autojump_threshold=0))
