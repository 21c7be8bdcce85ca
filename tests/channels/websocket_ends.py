"""WebSockets for the tests: ends whose handshake was skipped, and a peer that says just the bytes it is told to."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side

from psession.channels import WebSocketChannel, WebSocketServer, serve_websocket
from psession.channels._websocket_options import Opening, WebSocketOptions

HERE = "127.0.0.1"


async def echo(channel: WebSocketChannel) -> None:
    async for message in channel:
        await channel.send(message)


@asynccontextmanager
async def serving(handler: Callable[[Any], Any] = echo, host: str = HERE, **options: Any) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(lambda **kw: serve_websocket(handler, host, 0, **options, **kw))
        yield server
        nursery.cancel_scope.cancel()


def url(server: WebSocketServer, path: str = "/") -> str:
    return f"ws://{HERE}:{server.port}{path}"


def agreed(side: Side, *, compression: str | None = None, max_size: int | None = 2**20, rest: bytes = b"") -> Opening:
    """A handshake that both sides skipped."""
    protocol = Protocol(side, max_size=max_size)
    if compression:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    return Opening(protocol, Request("/", Headers()), Response(101, "", Headers()), rest)


class Raw:
    """The far end of a channel, byte by byte; as a server it need not mask."""

    def __init__(self, stream: trio.abc.Stream, channel: WebSocketChannel) -> None:
        self.stream = stream
        self.channel = channel

    async def say(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def hear(self) -> bytes:
        return bytes(await self.stream.receive_some(65536))


@asynccontextmanager
async def raw_end(
    side: Side = Side.SERVER, streams: Any = None, *, rest: bytes = b"", **options: Any
) -> AsyncIterator[Raw]:
    """A channel on that side, and the raw end of its stream: in memory, or one that was given."""
    near, far = streams or trio.testing.memory_stream_pair()
    told = WebSocketOptions(**options)
    async with trio.open_nursery() as nursery:
        opening = agreed(side, compression=told.compression, max_size=told.max_size, rest=rest)
        yield Raw(far, WebSocketChannel(near, opening, told, nursery=nursery))
        nursery.cancel_scope.cancel()
