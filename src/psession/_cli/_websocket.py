"""The commands' WebSocket. All they know of it is `open_ws` and `serve_ws`: the library is named here alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

import trio

from psession._cli._address import Address
from psession._cli._problem import Exit, Problem
from psession._cli._sockets import Channel, Handler, connect, serve_streams
from psession._nursery import open_quiet_nursery
from psession.channels import trio_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANDSHAKE_SECONDS = 10.0
"""How long a client may take to say that it wants a WebSocket: its first packet lost twice is 3 s (RFC 6298, 2.1)."""


def check_library() -> None:
    """Make sure that the library is there.

    Raises:
        Problem: It is not; it says how to get it.
    """
    if find_spec("trio_websocket") is None:
        text = 'ws:// needs the library trio-websocket: pip install "psession[trio-websocket]"'
        raise Problem(text, Exit.FAILED)


@asynccontextmanager
async def open_ws(url: str, *, within: float) -> AsyncIterator[Channel]:
    """A channel to the WebSocket server at `url`.

    Args:
        url: ``ws://HOST:PORT/PATH``.
        within: Seconds that connecting and the handshake may take.

    Raises:
        Problem: No connection, or no WebSocket there.
    """
    check_library()
    from trio_websocket import ConnectionRejected, wrap_client_stream

    address = Address.parse(url)
    deadline = trio.current_time() + within
    # Not the library's own open_websocket_url(), which leaves the socket open when it is not this side that closes.
    try:
        async with await connect(address.host, address.port, within=within) as stream, open_quiet_nursery() as nursery:
            connection = None
            with trio.move_on_at(deadline):
                connection = await wrap_client_stream(nursery, stream, address.netloc, address.path)
            if connection is None:
                raise Problem(f"no WebSocket handshake with {url} in {within:g} s", Exit.CONNECTION)
            async with trio_websocket(connection) as channel:
                yield channel
            nursery.cancel_scope.cancel()
    except ConnectionRejected as error:
        raise Problem(f"{url} is no WebSocket: it answered HTTP {error.status_code}", Exit.CONNECTION) from error


async def serve_ws(
    handler: Handler, host: str, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Call `handler` with the channel of each WebSocket, until cancelled. Reports the port it listens on.

    Raises:
        Problem: It cannot listen there.
    """
    check_library()
    from trio_websocket import wrap_server_stream

    async def upgrade(stream: trio.SocketStream) -> None:
        # Not the library's own server: there, garbage in one handshake can end all connections.
        async with open_quiet_nursery() as nursery:
            connection = None
            with trio.move_on_after(HANDSHAKE_SECONDS):
                request = await wrap_server_stream(nursery, stream)
                connection = await request.accept()
            if connection is None:
                raise Problem(f"no WebSocket handshake in {HANDSHAKE_SECONDS:g} s", Exit.CONNECTION)
            async with trio_websocket(connection) as channel:
                await handler(channel)
            nursery.cancel_scope.cancel()

    await serve_streams(upgrade, host, port, task_status=task_status)
