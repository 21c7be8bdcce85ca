"""websockets on asyncio, one message after another from the server: `send` and `recv`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from contestants.sharing import HOST, REQUEST, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Work


async def serve(ready: Ready) -> None:
    """Say the same as often as is asked for."""

    async def say_many(connection: ServerConnection) -> None:
        async for data in connection:
            for _ in range(decode(data)["count"]):
                await connection.send(encode(REQUEST), text=True)

    async with serve_websocket(say_many, HOST, 0, compression=None) as server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def client(port: int, _: int) -> AsyncIterator[Work]:
    """One connection."""
    async with connect(f"ws://{HOST}:{port}", compression=None) as connection:

        async def work(count: int) -> None:
            await connection.send(encode({"count": count}), text=True)
            for _ in range(count):
                decode(await connection.recv(decode=False))

        yield work
