"""psession over one TCP connection, a message a line; each request in flight has a session of its own."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from harness import Skipped

import psession
from contestants.sharing import HOST, Ready, Work, trio_work
from psession import Port, Session, SessionManager
from psession.channels import lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def answer(session: Session) -> None:
    """Answer each message with itself."""
    async for message in session:
        await session.post(message)


async def serve(ready: Ready, *, exact: bool = False) -> None:
    """A port for each connection, a handler for each session."""
    options(exact)
    manager = SessionManager(on_session=answer)
    numbers = itertools.count()

    async def meet(stream: trio.SocketStream) -> None:
        async with manager.port(f"peer {next(numbers)}", lines(stream)) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, meet, 0, host=HOST))
        ready(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def client(port: int, in_flight: int, *, exact: bool = False) -> AsyncIterator[Work]:
    """One port, as many sessions as requests in flight."""
    channel = lines(await trio.open_tcp_stream(HOST, port))
    async with SessionManager().port("server", channel, **options(exact)) as opened:
        yield turns(opened, in_flight)


def turns(port: Port, in_flight: int) -> Work:
    """So many sessions of one port, each with one turn at a time."""
    return trio_work([port.create().send for _ in range(in_flight)])


def options(exact: bool) -> dict[str, Any]:
    """What makes a port exact; our responder does as its peer does."""
    if not exact:
        return {}
    if not hasattr(psession, "Exact"):
        raise Skipped("this psession has no Exact()")
    return {"dialect": psession.Exact()}
