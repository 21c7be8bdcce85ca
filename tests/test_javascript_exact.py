"""A peer on Node that was written from docs/protocol.md alone, on a bad line, in both roles: each turn once."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_websocket

from psession import Classic, Exact, Session, SessionManager
from psession.channels import lines
from psession.channels import trio_websocket as websocket_channel
from psession.testing import lossy

from .test_javascript import peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Node

PEER = Path(__file__).parent / "interop" / "exact.mjs"
BAD = {"seed": 1, "drop": 0.1, "duplicate": 0.2, "reorder": 0.2, "delay": (0.0, 0.02)}


@asynccontextmanager
async def connected(kind: str, number: int) -> AsyncIterator[trio.abc.Channel[Any]]:
    """A channel to the server at that TCP port."""
    if kind == "tcp":
        yield lines(await trio.open_tcp_stream("127.0.0.1", number))
    else:
        async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{number}") as connection:
            yield websocket_channel(connection)


@pytest.mark.parametrize("kind", ["tcp", "ws"])
async def test_a_javascript_server_runs_each_turn_once(node: Node, kind: str) -> None:
    manager = SessionManager(dialect=Exact(), session_timeout=0.1, retry_count=100, retry_interval=0)
    runs: list[int] = []
    with trio.fail_after(60):
        async with (
            peer(node, "serve", kind, script=PEER) as printed,
            connected(kind, int(await printed.receive_some())) as channel,
            lossy(channel, **BAD) as line,  # type: ignore[arg-type]
            manager.port("server", line) as port,
        ):
            async with port.session() as session:
                for turn in range(10):
                    reply = await session.send({"value": turn})
                    assert reply["value"] == turn
                    runs.append(reply["runs"])

            async def one(n: int) -> None:
                reply = await port.request({"value": f"token {n}"})
                assert reply["value"] == f"token {n}"
                runs.append(reply["runs"])

            async with trio.open_nursery() as nursery:
                for n in range(200):
                    nursery.start_soon(one, n)
            assert (port.statistics().matched, port.statistics().classic) == (210, 0)
    assert sorted(runs) == list(range(1, 211))


async def test_a_javascript_server_answers_exact_and_classic_ports(node: Node) -> None:
    with trio.fail_after(60):
        async with peer(node, "serve", "tcp", script=PEER) as printed:
            number = int(await printed.receive_some())
            for dialect in (Exact(), Classic()):
                async with connected("tcp", number) as channel:
                    manager = SessionManager(dialect=dialect, session_timeout=20)
                    async with manager.port("server", channel) as port, port.session() as session:
                        for turn in range(3):
                            assert (await session.send({"value": turn}))["value"] == turn


@pytest.mark.parametrize("kind", ["tcp", "ws"])
async def test_a_javascript_client_has_each_of_its_turns_run_once(node: Node, kind: str) -> None:
    runs: Counter[Any] = Counter()

    async def answer(session: Session) -> None:
        async for message in session:
            runs[message["value"]] += 1
            await session.post({"value": message["value"]})

    manager = SessionManager(on_session=answer)

    async def over(channel: trio.abc.Channel[Any]) -> None:
        async with lossy(channel, **BAD) as line, manager.port("client", line) as port:  # type: ignore[arg-type]
            await port.wait_closed()

    async def over_websocket(request: trio_websocket.WebSocketRequest) -> None:
        await over(websocket_channel(await request.accept()))

    async def over_tcp(stream: trio.SocketStream) -> None:
        await over(lines(stream))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            if kind == "tcp":
                listeners = await nursery.start(partial(trio.serve_tcp, over_tcp, 0, host="127.0.0.1"))
                number = listeners[0].socket.getsockname()[1]
            else:
                served = await nursery.start(trio_websocket.serve_websocket, over_websocket, "127.0.0.1", 0, None)
                number = served.port
            async with peer(node, "call", kind, str(number), script=PEER) as printed:
                assert await printed.receive_some() == b"ok 210\n"
            nursery.cancel_scope.cancel()
    assert len(runs) == 210
    assert set(runs.values()) == {1}
