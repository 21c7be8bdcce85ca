"""psession over one connection of its own WebSocket channel; the rest as over TCP."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from harness import Skipped

from contestants.psession_tcp import answer, options, turns
from contestants.sharing import HOST, Ready, Work
from psession import SessionManager, channels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready, *, exact: bool = False) -> None:
    """A port for each connection, a handler for each session."""
    options(exact)
    serve_websocket = _of_channels("serve_websocket")
    manager = SessionManager(on_session=answer)
    numbers = itertools.count()

    async def meet(channel: trio.abc.Channel[Any]) -> None:
        async with manager.port(f"peer {next(numbers)}", channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        ready(tcp_port(await nursery.start(serve_websocket, meet, HOST, 0)))


@asynccontextmanager
async def client(port: int, in_flight: int, *, exact: bool = False) -> AsyncIterator[Work]:
    """One port, as many sessions as requests in flight."""
    open_websocket = _of_channels("open_websocket")
    async with (
        open_websocket(f"ws://{HOST}:{port}") as channel,
        SessionManager().port("server", channel, **options(exact)) as opened,
    ):
        yield turns(opened, in_flight)


def tcp_port(started: Any) -> int:
    """The TCP port in what a server says when it has started: listeners, an object with a port, or the port."""
    if isinstance(started, list):
        return int(started[0].socket.getsockname()[1])
    return int(getattr(started, "port", started))


def _of_channels(name: str) -> Any:
    if not hasattr(channels, name):
        raise Skipped(f"this psession has no channels.{name}")
    return getattr(channels, name)
