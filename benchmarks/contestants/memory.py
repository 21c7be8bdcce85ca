"""In memory: psession over a synchronous sender, and one bare memory channel, the least that a wait can cost."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from contestants.sharing import PATIENCE, Ask
from psession import SessionManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def bare() -> Ask:
    """A cancel scope, a message in and the same message out."""
    send, receive = trio.open_memory_channel[dict[str, Any]](10)

    async def ask(message: dict[str, Any]) -> dict[str, Any] | None:
        with trio.move_on_after(PATIENCE):
            send.send_nowait(message)
            return await receive.receive()

    return ask


@asynccontextmanager
async def client(_port: int, _in_flight: int, *, way: str) -> AsyncIterator[list[Ask]]:
    """The sender hands each message back as its own reply, through `dispatch`."""
    if way == "bare":
        yield [bare()]
        return

    def echo(message: dict[str, Any]) -> None:
        port.dispatch(message)

    async with SessionManager().port("memory", echo) as port:
        yield [port.request if way == "request" else port.create().send]
