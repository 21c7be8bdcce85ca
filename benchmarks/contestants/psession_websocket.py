"""psession over one connection of its own WebSocket channel; the rest as over TCP."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from contestants.psession_tcp import ANSWERS, asks, options
from contestants.sharing import HOST, Ask, Ready
from psession import SessionManager
from psession.channels import open_websocket, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_CONNECTIONS = 2000


async def serve(ready: Ready, *, way: str = "send", exact: bool = False, awake: bool = True) -> None:
    """A port for each connection; of the options only `way` and `awake` make a difference here."""
    manager = SessionManager(**ANSWERS[way], busy_wait=awake)
    numbers = itertools.count()

    async def meet(channel: trio.abc.Channel[Any]) -> None:
        async with manager.port(f"peer {next(numbers)}", channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        start = partial(serve_websocket, meet, HOST, 0, max_connections=MOST_CONNECTIONS)
        ready((await nursery.start(start)).port)


@asynccontextmanager
async def client(
    port: int, in_flight: int, *, way: str = "send", exact: bool = False, awake: bool = True
) -> AsyncIterator[list[Ask]]:
    """One port."""
    async with (
        open_websocket(f"ws://{HOST}:{port}") as channel,
        SessionManager(busy_wait=awake).port("server", channel, **options(exact)) as opened,
    ):
        yield asks(opened, way, in_flight)
