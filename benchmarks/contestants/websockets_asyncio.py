"""websockets on asyncio, and by hand a dict of futures."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from contestants.sharing import HOST, PATIENCE, Ready, Work, asyncio_work, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready, *, first: bool = False) -> None:
    """Decode, and send it back encoded."""

    async def answer(connection: ServerConnection) -> None:
        async for data in connection:
            await connection.send(encode(decode(data)), text=True)

    async def answer_first(connection: ServerConnection) -> None:
        async for data in connection:
            await connection.send(json.dumps(json.loads(data)))

    async with serve_websocket(answer_first if first else answer, HOST, 0, **_options(first)) as server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()


def _options(first: bool) -> dict[str, Any]:
    return {} if first else {"compression": None}


class Requests:
    """Replies by their numbers."""

    decode = staticmethod(decode)

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)

    async def read(self) -> None:
        """The one reader."""
        async for data in self.connection:
            reply = self.decode(data)
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


class FirstRequests(Requests):
    """The same with the standard library's codec and its way to time out."""

    decode = staticmethod(json.loads)

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request and its reply."""
        number = next(self.numbers)
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self.connection.send(json.dumps({**message, "id": number}))
            return await asyncio.wait_for(future, PATIENCE)
        finally:
            del self.waiting[number]


@asynccontextmanager
async def client(port: int, in_flight: int, *, first: bool = False) -> AsyncIterator[Work]:
    """One connection and its reader."""
    async with connect(f"ws://{HOST}:{port}", **_options(first)) as connection:
        requests = (FirstRequests if first else Requests)(connection)
        reader = asyncio.create_task(requests.read())
        try:
            yield asyncio_work([requests.ask] * in_flight)
        finally:
            reader.cancel()
