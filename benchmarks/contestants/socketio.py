"""python-socketio: ``call``, which is an event and its acknowledgement, over one WebSocket; aiohttp on both sides."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import socketio
from aiohttp import web

from contestants.aiohttp_server import serve_application
from contestants.sharing import HOST, PATIENCE, Ask, Ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready) -> None:
    """Acknowledge each event with what it brought."""
    server = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"])

    @server.event
    async def echo(_sid: str, message: dict[str, Any]) -> dict[str, Any]:
        return message

    application = web.Application()
    server.attach(application)
    await serve_application(application, ready)


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection."""
    connection = socketio.AsyncClient()
    await connection.connect(f"http://{HOST}:{port}", transports=["websocket"])
    try:
        yield [partial(connection.call, "echo", timeout=PATIENCE)] * in_flight
    finally:
        await connection.disconnect()
