"""aiorpcX: JSON-RPC 2.0, a message a line over one TCP connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiorpcx import RPCSession, connect_rs, handler_invocation, serve_rs

from contestants.sharing import HOST, PATIENCE, Ask, Ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Answers(RPCSession):  # type: ignore[misc]
    """Answers each request with itself; without the cost limit, which would close the connection after a while."""

    cost_hard_limit = 0

    async def handle_request(self, request: Any) -> Any:
        """What aiorpcX calls."""

        async def echo(message: dict[str, Any]) -> dict[str, Any]:
            return message

        return await handler_invocation(echo, request)()


async def serve(ready: Ready) -> None:
    """A session for each connection."""
    server = await serve_rs(Answers, HOST, 0)
    try:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One connection."""
    async with connect_rs(HOST, port) as session:

        async def ask(message: dict[str, Any]) -> object:
            async with asyncio.timeout(PATIENCE):
                return await session.send_request("echo", [message])

        yield [ask] * in_flight
