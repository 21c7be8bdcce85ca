"""Listening and connecting, below any protocol. A failure ends one connection, and is told in one line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

import trio

from psession._cli._console import complain
from psession._cli._problem import Exit, Problem, reason
from psession._listeners import PatientListener, open_listeners
from psession.protocol.bucket import Lines

Channel: TypeAlias = trio.abc.Channel[Any]
Handler: TypeAlias = Callable[[Channel], Awaitable[None]]
StreamHandler: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Listening:
    """The report of a server that listens.

    Attributes:
        port: The TCP port.
        stop: Stops listening; connections stay.
    """

    port: int
    stop: Callable[[], None]


async def connect(host: str, port: int, *, within: float) -> trio.SocketStream:
    """Open a TCP connection.

    Args:
        host: A name or an address.
        port: The TCP port.
        within: Seconds that it may take, the look-up of the address included.

    Raises:
        Problem: No connection; the text says why.
    """
    with trio.move_on_after(within):
        try:
            return await trio.open_tcp_stream(host, port)
        except (OSError, UnicodeError) as error:
            raise Problem(f"cannot connect to {host} port {port}: {reason(error)}", Exit.CONNECTION) from error
    raise Problem(f"no connection to {host} port {port} in {within:g} s", Exit.CONNECTION)


async def serve_streams(
    handler: StreamHandler, host: str, port: int, *, task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Call `handler` with each connection, as a task of its own, until cancelled.

    Raises:
        Problem: It cannot listen there; the text says why.
    """
    try:
        listeners = await open_listeners(host, port)
    except (OSError, UnicodeError) as error:
        raise Problem(f"cannot listen on {host} port {port}: {reason(error)}", Exit.CONNECTION) from error
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as listening:
            task_status.started(Listening(listeners[0].socket.getsockname()[1], listening.cancel))
            lines = Lines(trio.current_time())
            patient = [PatientListener(listener, lambda: False, lines) for listener in listeners]
            await trio.serve_listeners(partial(_alone, handler), patient, handler_nursery=nursery)
        await trio.sleep_forever()
    raise AssertionError("sleep_forever never returns")


async def _alone(handler: StreamHandler, stream: trio.SocketStream) -> None:
    """Serve one connection. An error in it ends that connection and no other."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        await trio.aclose_forcefully(stream)  # the peer left before this task started
        return
    try:
        async with stream:
            await handler(stream)
    except Exception as error:
        complain(f"{host} port {port}: connection closed: {reason(error)}")
