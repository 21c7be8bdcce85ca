"""The commands' WebSocket. All they know of it is `open_ws` and `serve_ws`: the library is named here alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

import trio

from psession._cli._problem import Exit, Problem, reason
from psession._cli._sockets import Channel, Handler, serve_streams
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
    from trio_websocket import ConnectionRejected, ConnectionTimeout, HandshakeError, open_websocket_url

    try:
        async with open_websocket_url(url, connect_timeout=within) as connection:
            yield trio_websocket(connection)
    except ConnectionTimeout:
        raise Problem(f"no WebSocket handshake with {url} in {within:g} s", Exit.CONNECTION) from None
    except ConnectionRejected as error:
        raise Problem(f"{url} answered with HTTP status {error.status_code}", Exit.CONNECTION) from error
    except (HandshakeError, UnicodeError) as error:
        raise Problem(f"cannot connect to {url}: {reason(error)}", Exit.CONNECTION) from error


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
        async with trio.open_nursery() as nursery:
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
