"""Trio's streams and nothing else: newline JSON, no sessions, no timeouts, a connection for each request in flight."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from contestants.sharing import HOST, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready) -> None:
    """Send back what comes."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host=HOST))
        ready(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """As many connections as requests in flight."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await trio.open_tcp_stream(HOST, port)) for _ in range(in_flight)]
        yield [_ask(stream) for stream in streams]


def _ask(stream: trio.SocketStream) -> Ask:
    async def ask(message: dict[str, Any]) -> dict[str, Any]:
        await stream.send_all(encode(message) + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            data += await stream.receive_some(65536)
        return decode(data)

    return ask
