"""grpc.aio, a unary call: one HTTP/2 connection, JSON where Protocol Buffers usually are."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from contestants.sharing import HOST, PATIENCE, Ask, Ready, decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(ready: Ready) -> None:
    """Answer each call with itself."""

    async def echo(message: dict[str, Any], _context: object) -> dict[str, Any]:
        return message

    method = grpc.unary_unary_rpc_method_handler(echo, request_deserializer=decode, response_serializer=encode)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Lamp", {"Echo": method}),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    try:
        ready(port)
        await server.wait_for_termination()
    finally:
        await server.stop(0)


@asynccontextmanager
async def client(port: int, in_flight: int) -> AsyncIterator[list[Ask]]:
    """One channel."""
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        echo = channel.unary_unary("/Lamp/Echo", request_serializer=encode, response_deserializer=decode)
        yield [partial(echo, timeout=PATIENCE)] * in_flight
