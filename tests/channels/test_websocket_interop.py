"""A WebSocket of ours and other people's: websockets on Trio and on asyncio, trio-websocket, ws on Node; both roles."""

import contextlib
import functools
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio_websocket
import websockets.trio.client
import websockets.trio.server

from psession.channels import WebSocketChannel, open_websocket

from .websocket_ends import HERE, serving, url

MESSAGES = [{"n": number, "text": "\N{SNOWMAN}" * size} for number, size in enumerate([0, 1, 41, 42, 125, 30_000, 5])]


async def exchange(channel: WebSocketChannel) -> None:
    """Send all, then get all back."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send_frames, [channel.encode(message) for message in MESSAGES])
        assert [await channel.receive() for _ in MESSAGES] == MESSAGES


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_with_websockets_trio_in_both_roles(compression: Any) -> None:
    async with serving(compression=compression) as server:
        async with websockets.trio.client.connect(url(server), compression=compression) as theirs:
            for text in ('{"a":1}', b'{"a":2}'):
                await theirs.send(text)
            await theirs.send(['{"a"', ":3", "}"])
            await (await theirs.ping()).wait()
            assert [await theirs.recv() for _ in range(3)] == ['{"a":1}', '{"a":2}', '{"a":3}']
        assert theirs.close_code == 1000

    async def their_echo(connection: Any) -> None:
        async for data in connection:
            await connection.send([data[:3], data[3:]])

    async with trio.open_nursery() as nursery:
        their_server = await nursery.start(
            lambda **kw: websockets.trio.server.serve(their_echo, 0, host=HERE, compression=compression, **kw)
        )
        port = their_server.listeners[0].socket.getsockname()[1]
        async with open_websocket(f"ws://{HERE}:{port}", compression=compression, ping_interval=0.001) as channel:
            await exchange(channel)
            await trio.sleep(0.02)
            await exchange(channel)
        assert channel.close_code == 1000
        nursery.cancel_scope.cancel()


async def test_with_trio_websocket_in_both_roles() -> None:
    async with serving() as server, trio_websocket.open_websocket_url(url(server)) as theirs:
        await theirs.send_message('{"a":1}')
        await theirs.ping()
        assert await theirs.get_message() == '{"a":1}'

    async def their_echo(request: Any) -> None:
        connection = await request.accept()
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                await connection.send_message(await connection.get_message())

    async with trio.open_nursery() as nursery:
        their_server = await nursery.start(trio_websocket.serve_websocket, their_echo, HERE, 0, None)
        async with open_websocket(f"ws://{HERE}:{their_server.port}", ping_interval=0.001) as channel:
            await exchange(channel)
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()


ASYNCIO = """
import asyncio, sys
from websockets.asyncio.client import connect
async def main():
    async with connect(sys.argv[1]) as theirs:
        await theirs.send('{"a":1}'); await (await theirs.ping())
        print(await theirs.recv(), flush=True)
    print(theirs.close_code)
asyncio.run(main())
"""


async def test_with_websockets_on_asyncio() -> None:
    async with serving(compression="deflate") as server:
        done = await trio.run_process([sys.executable, "-c", ASYNCIO, url(server)], capture_stdout=True)
    assert done.stdout.split() == [b'{"a":1}', b"1000"]


NODE = """
const {WebSocket, WebSocketServer} = require("ws");
const server = new WebSocketServer({host: "127.0.0.1", port: 0, perMessageDeflate: true}, () => {
  const client = new WebSocket(process.argv[2]);
  client.on("open", () => { client.ping(); for (let n = 0; n < 3; n++) client.send(JSON.stringify({n})); });
  let got = 0;
  client.on("message", data => {
    if (JSON.parse(data).n !== got++) process.exit(1);
    if (got === 3) client.close(1000);
  });
  client.on("close", code => { if (code !== 1000) process.exit(2); console.log(server.address().port); });
});
server.on("connection", peer => {
  peer.on("message", (data, binary) => peer.send(data, {binary}));
  peer.on("close", code => { process.exit(code === 1000 ? 0 : 3); });
});
"""


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_with_the_library_ws_of_node_in_both_roles(node: Any, compression: Any) -> None:
    """Its client talks to our server first; then it tells the port of its own server to our client."""
    async with serving(compression=compression) as server, trio.open_nursery() as nursery:
        command = [node.program, "-e", NODE, "-", url(server)]
        with trio.fail_after(20):
            run = functools.partial(trio.run_process, command, cwd=node.folder, stdout=subprocess.PIPE)
            process = await nursery.start(run)
            port = int(await process.stdout.receive_some())
            async with open_websocket(f"ws://{HERE}:{port}", compression=compression) as channel:
                await exchange(channel)
            await process.wait()
        assert process.returncode == 0
        nursery.cancel_scope.cancel()
