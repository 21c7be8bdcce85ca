"""What one writes by hand on asyncio over any connection: a dict of futures."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from contestants.sharing import PATIENCE, decode, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Requests:
    """Replies by their numbers.

    Args:
        send: Sends one message, or begins to.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None] | None]) -> None:
        self.send = send
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)

    def deliver(self, data: str | bytes | memoryview) -> None:
        """What the one reader does with each message."""
        reply = decode(data)
        future = self.waiting.get(reply["id"])
        if future is not None and not future.done():
            future.set_result(reply)

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request and its reply."""
        number = next(self.numbers)
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PATIENCE):
                sending = self.send(encode({**message, "id": number}))
                if sending is not None:
                    await sending
                return await future
        finally:
            del self.waiting[number]
