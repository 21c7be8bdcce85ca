"""A TCP proxy that cuts its connections in the middle of a message, by seed."""

from __future__ import annotations

import random
import socket
import struct
from functools import partial
from typing import NoReturn

import trio

HERE = "127.0.0.1"


class CuttingProxy:
    """Passes on what it reads, either way, up to so many bytes of each connection; then it closes both ends of it.

    Half of the ends are closed so that what is still on its way is lost with them (RST), the others as by a process
    that exits.

    Args:
        target: The port that it connects to.
        seed: Of where it cuts.
        longest: Bytes after which it cuts, at the latest.

    Attributes:
        cutting: Whether it cuts the connections that begin from now on.
        cuts: How many it has cut.
    """

    def __init__(self, target: int, seed: object, longest: int) -> None:
        self.cutting = False
        self.cuts = 0
        self._target = target
        self._dice = random.Random(f"cuts {seed}")
        self._longest = longest
        self._cut_now = trio.Event()

    def cut(self) -> None:
        """Cut what stands."""
        self._cut_now.set()
        self._cut_now = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[int]) -> NoReturn:
        """Listen, and report where, until cancelled."""
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, self._pass, 0, host=HERE))
            task_status.started(listeners[0].socket.getsockname()[1])
        raise AssertionError("nobody cancelled it")

    async def _pass(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(HERE, self._target)
        left: float = self._dice.randrange(1, self._longest) if self.cutting else float("inf")
        async with trio.open_nursery() as nursery:

            async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                nonlocal left
                try:
                    while left and (data := await source.receive_some(4096)):
                        data = data[: int(min(left, len(data)))]
                        left -= len(data)
                        await sink.send_all(data)
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()

            async def wait() -> None:
                await self._cut_now.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, client, server)
            nursery.start_soon(pump, server, client)
            nursery.start_soon(wait)
        self.cuts += not left
        for stream in (client, server):
            if self._dice.random() < 0.5:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(stream)
