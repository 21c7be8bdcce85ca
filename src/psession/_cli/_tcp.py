"""The commands' TCP: a line of JSON for each message."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import trio

from psession._cli._sockets import Channel, Handler, Listening, connect, serve_streams
from psession.channels import lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_tcp(host: str, port: int, *, within: float) -> AsyncIterator[Channel]:
    """Open a channel to a TCP server.

    Args:
        host: A name or an address.
        port: The TCP port.
        within: Seconds that connecting may take.

    Raises:
        Problem: No connection.
    """
    async with lines(await connect(host, port, within=within)) as channel:
        yield channel


async def serve_tcp(
    handler: Handler, host: str, port: int, *, task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Call `handler` with the channel of each connection, until cancelled.

    Raises:
        Problem: It cannot listen there.
    """

    async def handle(stream: trio.SocketStream) -> None:
        async with lines(stream) as channel:
            await handler(channel)

    await serve_streams(handle, host, port, task_status=task_status)
