"""aiohttp on uvloop, server and client, and by hand a dict of futures."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import ClientSession, WSMsgType, web

from contestants.aiohttp_server import serve_application
from contestants.futures import Requests
from contestants.sharing import HOST, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready) -> None:
    """Decode, and send it back encoded; no compression."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False)
        await connection.prepare(request)
        async for message in connection:
            await connection.send_frame(encode(decode(message.data)), WSMsgType.TEXT)
        return connection

    application = web.Application()
    application.router.add_get("/", answer)
    await serve_application(application, ready, access_log=None)


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection and its reader."""
    async with ClientSession() as session, session.ws_connect(f"ws://{HOST}:{port}/", compress=0) as connection:
        requests = Requests(partial(connection.send_frame, opcode=WSMsgType.TEXT))

        async def read() -> None:
            async for message in connection:
                requests.deliver(message.data)

        reader = asyncio.create_task(read())
        try:
            yield [requests.ask] * in_flight
        finally:
            reader.cancel()
