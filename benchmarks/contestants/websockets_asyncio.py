"""websockets on asyncio or uvloop, and by hand a dict of futures."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from contestants.futures import Requests
from contestants.sharing import HOST, PATIENCE, Ask, Ready, decode, encode

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


class FirstRequests:
    """The same as `Requests` with the standard library's codec and its way to time out."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)

    def deliver(self, data: str | bytes) -> None:
        """What the one reader does with each message."""
        reply = json.loads(data)
        future = self.waiting.get(reply["id"])
        if future is not None and not future.done():
            future.set_result(reply)

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
async def client(port: int, in_flight: int, *, first: bool = False) -> AsyncIterator[list[Ask]]:
    """One connection and its reader."""
    async with connect(f"ws://{HOST}:{port}", **_options(first)) as connection:
        requests = FirstRequests(connection) if first else Requests(partial(connection.send, text=True))

        async def read() -> None:
            async for data in connection:
                requests.deliver(data)

        reader = asyncio.create_task(read())
        try:
            yield [requests.ask] * in_flight
        finally:
            reader.cancel()
