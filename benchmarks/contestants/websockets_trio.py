"""websockets on Trio, and by hand a dict of memory channels."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio
from websockets.trio.client import connect
from websockets.trio.server import ServerConnection
from websockets.trio.server import serve as serve_websocket

from contestants.by_hand import Requests
from contestants.sharing import HOST, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready) -> None:
    """Decode, and send it back encoded; no compression, as psession has none by default."""

    async def answer(connection: ServerConnection) -> None:
        async for data in connection:
            await connection.send(encode(decode(data)).decode())

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, answer, 0, host=HOST, compression=None))
        ready(server.listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection and its reader."""
    async with connect(f"ws://{HOST}:{port}", compression=None) as connection, trio.open_nursery() as nursery:
        requests = Requests(connection.send)

        async def read() -> None:
            async for data in connection:
                requests.deliver(data)

        nursery.start_soon(read)
        yield [requests.ask] * in_flight
        nursery.cancel_scope.cancel()
