"""picows on uvloop, the fastest WebSocket there is for Python, and by hand a dict of futures."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server

from contestants.futures import Requests
from contestants.sharing import HOST, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Answers(WSListener):  # type: ignore[misc]
    """Decodes, and sends it back encoded."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """What picows calls."""
        if frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, encode(decode(frame.get_payload_as_memoryview())))


class Replies(WSListener):  # type: ignore[misc]
    """Hands what comes to those who wait."""

    requests: Requests

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """What picows calls."""
        if frame.msg_type == WSMsgType.TEXT:
            self.requests.deliver(frame.get_payload_as_memoryview())


async def serve(ready: Ready) -> None:
    """A listener for each connection."""
    server = await ws_create_server(lambda _request: Answers(), HOST, 0)
    try:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection."""
    transport, listener = await ws_connect(Replies, f"ws://{HOST}:{port}/")
    listener.requests = Requests(partial(transport.send, WSMsgType.TEXT))
    try:
        yield [listener.requests.ask] * in_flight
    finally:
        transport.disconnect()
        await transport.wait_disconnected()
