"""Peers on Node that know only the classic wire, in both roles, over TCP and over the WebSocket library `ws`."""

from __future__ import annotations

import subprocess
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio_websocket

from psession import Port, Session, SessionManager
from psession.channels import lines
from psession.channels import trio_websocket as websocket_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Node

PEER = Path(__file__).parent / "interop" / "peer.mjs"


@asynccontextmanager
async def peer(node: Node, *arguments: str, script: Path = PEER) -> AsyncIterator[trio.abc.ReceiveStream]:
    """A peer, and what it prints; it is gone when the block is left."""
    command = [node.program, str(script), *arguments]
    process = await trio.lowlevel.open_process(command, cwd=node.folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def answer(session: Session) -> None:
    async for message in session:
        await session.post({"type": "response", "value": message["value"]})


@pytest.mark.parametrize("kind", ["tcp", "ws"])
async def test_a_javascript_client_gets_its_own_replies(node: Node, kind: str) -> None:
    manager = SessionManager(on_session=answer)

    async def over_tcp(stream: trio.SocketStream) -> None:
        async with manager.port("client", lines(stream)) as port:
            await port.wait_closed()

    async def over_websocket(request: trio_websocket.WebSocketRequest) -> None:
        async with manager.port("client", websocket_channel(await request.accept())) as port:
            await port.wait_closed()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            if kind == "tcp":
                listeners = await nursery.start(partial(trio.serve_tcp, over_tcp, 0, host="127.0.0.1"))
                number = listeners[0].socket.getsockname()[1]
            else:
                served = await nursery.start(trio_websocket.serve_websocket, over_websocket, "127.0.0.1", 0, None)
                number = served.port
            async with peer(node, "call", kind, str(number)) as printed:
                assert await printed.receive_some() == b"ok 1010\n"
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(kind: str, number: int) -> AsyncIterator[Port]:
    """A port to the server at that TCP port."""
    manager = SessionManager(session_timeout=20)
    if kind == "tcp":
        stream = await trio.open_tcp_stream("127.0.0.1", number)
        async with manager.port("server", lines(stream)) as port:
            yield port
    else:
        async with (
            trio_websocket.open_websocket_url(f"ws://127.0.0.1:{number}") as connection,
            manager.port("server", websocket_channel(connection)) as port,
        ):
            yield port


@pytest.mark.parametrize("kind", ["tcp", "ws"])
async def test_a_javascript_server_answers_each_session(node: Node, kind: str) -> None:
    with trio.fail_after(60):
        async with (
            peer(node, "serve", kind) as printed,
            connected(kind, int(await printed.receive_some())) as port,
        ):
            async with port.session() as session:
                for turn in range(10):
                    assert (await session.send({"type": "request", "value": turn}))["value"] == turn

            async def one(n: int) -> None:
                reply = await port.request({"type": "request", "value": f"token {n}"})
                assert (reply["type"], reply["value"]) == ("response", f"token {n}")

            async with trio.open_nursery() as nursery:
                for n in range(1000):
                    nursery.start_soon(one, n)
            assert port.statistics().matched == 1010
