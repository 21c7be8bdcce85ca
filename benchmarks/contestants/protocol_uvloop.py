"""The limit: asyncio's lowest layer on uvloop, a message a line over one TCP connection.

No sessions, no back-pressure, no limits, no errors; with `patient` a timeout for each request, else not even that.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from contestants.futures import Requests
from contestants.sharing import HOST, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Lines(asyncio.Protocol):
    """Cuts what comes into lines."""

    transport: asyncio.Transport
    rest = b""

    def connection_made(self, transport: Any) -> None:
        """What asyncio calls first."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """What asyncio calls with each read."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.lines_received(lines)

    def lines_received(self, lines: list[bytes]) -> None:
        """Decode, and send it back encoded."""
        self.transport.write(b"".join([encode(decode(line)) + b"\n" for line in lines]))


class Replies(Lines):
    """The asking side."""

    def __init__(self) -> None:
        self.requests = Requests(self.send)

    def send(self, message: bytes) -> None:
        """Write at once: uvloop joins what one pass of the loop writes."""
        self.transport.write(message + b"\n")

    def lines_received(self, lines: list[bytes]) -> None:
        """Wake those who wait."""
        for line in lines:
            self.requests.deliver(line)

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request and its reply, however long it takes."""
        requests = self.requests
        number = next(requests.numbers)
        future = requests.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.transport.write(encode({**message, "id": number}) + b"\n")
            return await future
        finally:
            del requests.waiting[number]


async def serve(ready: Ready, *, patient: bool) -> None:
    """A protocol for each connection."""
    server = await asyncio.get_running_loop().create_server(Lines, HOST, 0)
    try:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


@asynccontextmanager
async def client(port: int, in_flight: int, *, patient: bool) -> AsyncIterator[list[Ask]]:
    """One connection."""
    transport, replies = await asyncio.get_running_loop().create_connection(Replies, HOST, port)
    try:
        yield [replies.requests.ask if patient else replies.ask] * in_flight
    finally:
        transport.close()
