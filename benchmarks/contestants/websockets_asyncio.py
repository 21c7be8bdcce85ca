"""websockets on asyncio, and by hand a dict of futures."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from contestants.sharing import HOST, PATIENCE, Ready, Work, asyncio_work, decode, encode


async def serve(ready: Ready) -> None:
    """Decode, and send it back encoded; no compression, as psession has none by default."""

    async def answer(connection: ServerConnection) -> None:
        async for data in connection:
            await connection.send(encode(decode(data)), text=True)

    async with serve_websocket(answer, HOST, 0, compression=None) as server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()


class Requests:
    """Replies by their numbers."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)

    async def read(self) -> None:
        """The one reader."""
        async for data in self.connection:
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
                await self.connection.send(encode({**message, "id": number}), text=True)
                return await future
        finally:
            del self.waiting[number]


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[Work]:
    """One connection and its reader."""
    async with connect(f"ws://{HOST}:{port}", compression=None) as connection:
        requests = Requests(connection)
        reader = asyncio.create_task(requests.read())
        try:
            yield asyncio_work([requests.ask] * in_flight)
        finally:
            reader.cancel()
