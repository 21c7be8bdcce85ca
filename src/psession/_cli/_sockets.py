"""What the commands' two kinds of servers share. A failure ends one connection, and is told in one line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import trio

from psession._cli._console import complain
from psession._cli._problem import Exit, Problem, reason

if TYPE_CHECKING:
    from psession.channels import FramedChannel, TcpServer, WebSocketServer

Channel: TypeAlias = trio.abc.Channel[Any]
Handler: TypeAlias = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Listening:
    """The report of a server that listens.

    Attributes:
        port: The TCP port.
        stop: Stops listening; connections stay.
    """

    port: int
    stop: Callable[[], None]


async def serve_channels(
    serve: Callable[..., Awaitable[NoReturn]],
    handler: Handler,
    host: str,
    port: int,
    task_status: trio.TaskStatus[Listening],
) -> NoReturn:
    """Call `handler` with the channel of each connection, until cancelled.

    Args:
        serve: `psession.channels.serve_tcp` or `serve_websocket`.
        handler: Gets the channel.
        host: A name or an address.
        port: The TCP port.
        task_status: Gets the `Listening`.

    Raises:
        Problem: It cannot listen there; the text says why.
    """
    leaving = False

    async def notice_leaving() -> None:
        nonlocal leaving
        try:
            await trio.sleep_forever()
        finally:
            leaving = True

    async def handle(channel: FramedChannel) -> None:
        try:
            await handler(channel)
        except Exception as error:
            if leaving:  # handlers are cancelled a few steps later, and clients in the same process are gone by then
                return
            host, port = (channel.remote or ("?", "?"))[:2]
            complain(f"{host} port {port}: connection closed: {reason(error)}")

    async with trio.open_nursery() as nursery:
        try:
            server: TcpServer | WebSocketServer = await nursery.start(partial(serve, handle, host=host, port=port))
        except (OSError, UnicodeError) as error:
            raise Problem(f"cannot listen on {host} port {port}: {reason(error)}", Exit.CONNECTION) from error
        nursery.start_soon(notice_leaving)
        task_status.started(Listening(server.port, server.stop_listening))
    raise AssertionError("a server never returns")
