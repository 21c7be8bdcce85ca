"""psession, one message after another from the server: the parts of a stream, or posts."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from contestants.sharing import HOST, REQUEST, Ready
from psession import Budget, Exact, Port, Session, SessionManager
from psession.channels import lines, open_websocket, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Work

LARGE = 2**40
"""Posts have no credit: whoever reads slower than its peer posts holds them all."""


async def say_many(session: Session) -> None:
    """Say the same as often as is asked for."""
    async for message in session:
        for _ in range(message["count"]):
            await session.post(REQUEST)


async def serve(ready: Ready, *, wire: str, **_: Any) -> None:
    """A port for each connection, a handler for each session."""
    manager = SessionManager(on_session=say_many, dialect=Exact())
    numbers = itertools.count()

    async def meet(channel: trio.abc.Channel[Any]) -> None:
        async with manager.port(f"peer {next(numbers)}", channel) as port:
            await port.wait_closed()

    async def meet_stream(stream: trio.SocketStream) -> None:
        await meet(lines(stream))

    async with trio.open_nursery() as nursery:
        if wire == "WebSocket":
            ready((await nursery.start(serve_websocket, meet, HOST, 0)).port)
        else:
            listeners = await nursery.start(partial(trio.serve_tcp, meet_stream, 0, host=HOST))
            ready(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def client(port: int, _: int, *, wire: str, way: str, credit: int | None = None) -> AsyncIterator[Work]:
    """One port, and in it one session."""
    async with AsyncExitStack() as stack:
        channel: trio.abc.Channel[Any]
        if wire == "WebSocket":
            channel = await stack.enter_async_context(open_websocket(f"ws://{HOST}:{port}"))
        else:
            channel = lines(await trio.open_tcp_stream(HOST, port))
        manager = SessionManager(dialect=Exact(), inbox_limit=LARGE, max_held_bytes=LARGE, budget=Budget(LARGE))
        opened = await stack.enter_async_context(manager.port("server", channel))
        yield posts(opened) if way == "posts" else stream(opened, credit)


def stream(port: Port, credit: int | None) -> Work:
    """So many parts of one stream."""

    async def work(count: int) -> None:
        number = 0
        async with port.stream({"count": count}, credit=credit) as replies:
            async for _ in replies:
                number += 1
        assert number == count

    return work


def posts(port: Port) -> Work:
    """So many posts."""

    async def work(count: int) -> None:
        async with port.session() as session:
            await session.post({"count": count})
            for _ in range(count):
                await session.receive()

    return work
