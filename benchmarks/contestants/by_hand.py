"""What one writes by hand on Trio over a WebSocket: a dict of memory channels."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import trio

from contestants.sharing import PATIENCE, decode, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Requests:
    """Replies by their numbers.

    Args:
        send: Sends one message of text.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self.send = send
        self.waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)

    def deliver(self, data: str | bytes) -> None:
        """What the one reader does with each message."""
        reply = decode(data)
        waiting = self.waiting.get(reply["id"])
        if waiting is not None:
            waiting.send_nowait(reply)

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request and its reply."""
        number = next(self.numbers)
        to_us, inbox = trio.open_memory_channel[dict[str, Any]](1)
        self.waiting[number] = to_us
        try:
            with trio.fail_after(PATIENCE):
                await self.send(encode({**message, "id": number}).decode())
                return await inbox.receive()
        finally:
            del self.waiting[number]
