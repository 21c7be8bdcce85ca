"""The commands' WebSocket: `open_ws` and `serve_ws` are all that they use."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import trio

from psession._cli._problem import Exit, Problem, reason
from psession._cli._sockets import serve_channels
from psession.channels import HandshakeError, open_websocket, serve_websocket
from psession.channels._websocket_options import check_library as find_websockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession._cli._sockets import Channel, Handler, Listening


def check_library() -> None:
    """Check that the WebSocket library is installed.

    Raises:
        Problem: It is not; the text says how to install it.
    """
    try:
        find_websockets()
    except ModuleNotFoundError as error:
        raise Problem(str(error), Exit.FAILED) from error


@asynccontextmanager
async def open_ws(url: str, *, within: float) -> AsyncIterator[Channel]:
    """Open a channel to the WebSocket server at `url`.

    Args:
        url: ``ws://HOST:PORT/PATH``.
        within: Seconds that connecting and the handshake may take.

    Raises:
        Problem: No connection, or no WebSocket there.
    """
    check_library()
    async with AsyncExitStack() as stack:
        # Only errors on entering are translated: the body's own errors are not about the handshake.
        try:
            channel = await stack.enter_async_context(open_websocket(url, connect_timeout=within))
        except HandshakeError as error:
            told = str(error) if error.status is None else f"it answered HTTP {error.status}"
            raise Problem(f"{url} is no WebSocket: {told}", Exit.CONNECTION) from error
        except TimeoutError as error:
            raise Problem(f"no WebSocket handshake with {url} in {within:g} s", Exit.CONNECTION) from error
        except (OSError, UnicodeError) as error:
            raise Problem(f"cannot connect to {url}: {reason(error)}", Exit.CONNECTION) from error
        yield channel


async def serve_ws(
    handler: Handler, host: str, port: int, *, task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Call `handler` with the channel of each WebSocket, until cancelled.

    Raises:
        Problem: It cannot listen there.
    """
    check_library()
    await serve_channels(serve_websocket, handler, host, port, task_status)
