"""The commands' TCP: a line of JSON for each message."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import trio

from psession import channels
from psession._cli._problem import Exit, Problem, reason
from psession._cli._sockets import serve_channels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession._cli._sockets import Channel, Handler, Listening


@asynccontextmanager
async def open_tcp(host: str, port: int, *, within: float) -> AsyncIterator[Channel]:
    """Open a channel to a TCP server.

    Args:
        host: A name or an address.
        port: The TCP port.
        within: Seconds that connecting may take, the look-up of the address included.

    Raises:
        Problem: No connection; the text says why.
    """
    async with AsyncExitStack() as stack:
        # Only errors on entering are translated: the body's own errors are not about connecting.
        try:
            channel = await stack.enter_async_context(channels.open_tcp(host, port, connect_timeout=within))
        except TimeoutError as error:
            raise Problem(str(error), Exit.CONNECTION) from error
        except (OSError, UnicodeError) as error:
            raise Problem(f"cannot connect to {host} port {port}: {reason(error)}", Exit.CONNECTION) from error
        yield channel


async def serve_tcp(
    handler: Handler, host: str, port: int, *, task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Call `handler` with the channel of each connection, until cancelled.

    Raises:
        Problem: It cannot listen there.
    """
    await serve_channels(channels.serve_tcp, handler, host, port, task_status)
