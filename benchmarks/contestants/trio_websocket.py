"""trio-websocket, and by hand a dict of memory channels."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
import trio_websocket as library

from contestants.by_hand import Requests
from contestants.sharing import HOST, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready) -> None:
    """Decode, and send it back encoded."""

    async def answer(request: library.WebSocketRequest) -> None:
        connection = await request.accept()
        while True:
            try:
                data = await connection.get_message()
                await connection.send_message(encode(decode(data)).decode())
            except library.ConnectionClosed:
                return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(library.serve_websocket, answer, HOST, 0, None)
        ready(server.port)


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection and its reader."""
    async with library.open_websocket_url(f"ws://{HOST}:{port}") as connection, trio.open_nursery() as nursery:
        requests = Requests(connection.send_message)

        async def read() -> None:
            while True:
                requests.deliver(await connection.get_message())

        nursery.start_soon(read)
        yield [requests.ask] * in_flight
        nursery.cancel_scope.cancel()
