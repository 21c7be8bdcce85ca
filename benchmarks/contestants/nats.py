"""nats-py: ``request``, through a real nats-server to a responder in a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats
from harness import Skipped, free_port

from contestants.sharing import HOST, PATIENCE, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg


async def serve(ready: Ready) -> None:
    """Start the broker, and answer each request with itself."""
    program = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Skipped("there is no nats-server on this machine (Debian has it: apt-get install nats-server)")
    port = free_port()
    broker = await asyncio.create_subprocess_exec(
        program, "-a", HOST, "-p", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        connection = await _connect_when_up(port)

        async def answer(message: Msg) -> None:
            await message.respond(encode(decode(message.data)))

        await connection.subscribe("lamp", cb=answer)
        await connection.flush()
        ready(port)
        await asyncio.get_running_loop().create_future()
    finally:
        broker.kill()
        await broker.wait()


async def _connect_when_up(port: int) -> Client:
    async def not_up_yet(_error: Exception) -> None:
        """Without this nats-py prints a traceback for each try."""

    return await nats.connect(
        f"nats://{HOST}:{port}", error_cb=not_up_yet, max_reconnect_attempts=50, reconnect_time_wait=0.1
    )


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection to the broker."""
    connection = await nats.connect(f"nats://{HOST}:{port}")

    async def ask(message: dict[str, Any]) -> dict[str, Any]:
        return decode((await connection.request("lamp", encode(message), timeout=PATIENCE)).data)

    try:
        yield [ask] * in_flight
    finally:
        await connection.close()
