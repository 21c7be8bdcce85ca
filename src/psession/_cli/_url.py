"""Channels by URL, of either kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

from psession._cli._tcp import open_tcp, serve_tcp
from psession._cli._websocket import open_ws, serve_ws

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from psession._cli._address import Address
    from psession._cli._sockets import Channel, Handler, Listening


def open_url(address: Address, *, within: float) -> AbstractAsyncContextManager[Channel]:
    """Open a channel to a server: ``async with open_url(address, within=5) as channel``.

    Raises:
        Problem: No connection in `within` seconds, or none at all; raised on entering.
    """
    if address.scheme == "tcp":
        return open_tcp(address.host, address.port, within=within)
    return open_ws(str(address), within=within)


async def serve_url(
    handler: Handler, address: Address, *, task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Call `handler` with the channel of each connection, until cancelled.

    Raises:
        Problem: It cannot listen there.
    """
    serve = serve_tcp if address.scheme == "tcp" else serve_ws
    await serve(handler, address.host, address.port, task_status=task_status)
