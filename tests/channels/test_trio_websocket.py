"""Messages over trio-websocket: its frames, its limits, its ways to end, and that it is imported only where used."""

import os
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing
import wsproto
import wsproto.events
from trio_websocket import WebSocketConnection, wrap_server_stream

from psession.channels import lines, trio_websocket
from psession.errors import MalformedMessageError, MessageTooLargeError


async def test_json_goes_as_text_and_messagepack_as_binary(open_websockets: Any) -> None:
    async with open_websockets() as (client, server):
        await trio_websocket(client).send({"a": "\N{SNOWMAN}"})
        assert await server.get_message() == '{"a":"\N{SNOWMAN}"}'
        channel = trio_websocket(client, codec="msgpack")
        await channel.send({"a": 1})
        assert await server.get_message() == b"\x81\xa1a\x01"
        assert channel.bytes_sent == 4


async def test_json_is_taken_from_text_and_from_binary(open_websockets: Any) -> None:
    async with open_websockets() as (client, server):
        channel = trio_websocket(client)
        await server.send_message('{"a":1}')
        await server.send_message(b'{"a":2}')
        assert [await channel.receive() for _ in range(2)] == [{"a": 1}, {"a": 2}]
        assert channel.bytes_received == 14


async def test_what_a_long_message_takes_is_estimated(open_websockets: Any) -> None:
    async with open_websockets() as (left, right):
        channel = trio_websocket(left)
        await right.send_message('{"text":"%s"}' % ("x" * 5000))
        await channel.receive_batch()
        assert channel.weights is not None
        assert channel.weights[0]() > 5000


async def test_a_bad_message_costs_itself_alone(open_websockets: Any) -> None:
    async with open_websockets() as (client, server):
        channel = trio_websocket(client, codec="msgpack")
        for data in ("text", b"\xc1", b"\x80"):
            await server.send_message(data)
        for _ in range(2):
            with pytest.raises(MalformedMessageError):
                await channel.receive()
        assert await channel.receive_batch() == [{}]


@pytest.mark.parametrize(("text", "length"), [("x", 21), ("\N{SNOWMAN}", 23)])
async def test_the_limit_counts_bytes_of_utf8(open_websockets: Any, text: str, length: int) -> None:
    async with open_websockets() as (client, server):
        channel = trio_websocket(client, max_message_bytes=length - 1)
        message = {"text": "x" * 9 + text}
        with pytest.raises(MessageTooLargeError, match=f"{length} bytes; max_message_bytes is {length - 1}"):
            await channel.send(message)
        await trio_websocket(server).send(message)
        with pytest.raises(MessageTooLargeError, match=f"{length} bytes; max_message_bytes is {length - 1}"):
            await channel.receive()
        await server.send_message("{}")
        assert await channel.receive() == {}


async def test_the_librarys_own_limit_breaks_the_channel(open_websockets: Any) -> None:
    async with open_websockets(max_message_size=100) as (client, server):
        await server.send_message("x" * 101)
        with pytest.raises(trio.BrokenResourceError, match="1009"):
            await trio_websocket(client).receive()


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_clean_close_is_the_end(open_websockets: Any, code: int) -> None:
    async with open_websockets() as (client, server), trio.open_nursery() as nursery:
        channel = trio_websocket(client)
        nursery.start_soon(server.aclose, code)
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
        with pytest.raises(trio.BrokenResourceError):
            await channel.send({})
        with trio.testing.assert_checkpoints():
            await channel.aclose()


@pytest.mark.parametrize("code", [1002, 1011, 4000])
async def test_any_other_close_breaks_the_channel(open_websockets: Any, code: int) -> None:
    async with open_websockets() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.aclose, code, "because")
        with pytest.raises(trio.BrokenResourceError, match=f"{code}.*because"):
            await trio_websocket(client).receive()


async def test_a_connection_that_breaks_off_breaks_the_channel(open_tcp: Any) -> None:
    async with open_tcp() as (near, far), trio.open_nursery() as nursery:
        channel = trio_websocket(await Peer(far).connect(nursery, near))
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError, match="1006"):
            await channel.receive()


async def test_a_close_without_a_code_is_the_end(open_tcp: Any) -> None:
    async with open_tcp() as (near, far), trio.open_nursery() as nursery:
        channel = trio_websocket(await Peer(far).connect(nursery, near))
        await far.send_all(b"\x88\x80\0\0\0\0")
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()


async def test_closing_waits_for_a_silent_peer_no_longer_than_close_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        channel = trio_websocket(await Peer(far).connect(nursery, near), close_timeout=3)
        await channel.aclose()
        assert trio.current_time() == 3.0
        with pytest.raises(trio.ClosedResourceError):
            await channel.send({})


async def test_a_send_cut_off_in_the_middle_ends_sending(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        channel = trio_websocket(await Peer(far).connect(nursery, near))
        with trio.move_on_after(1):
            await channel.send({"a": 1})
        with pytest.raises(trio.BrokenResourceError, match="an earlier send was cut off"):
            await channel.send({"a": 2})
        nursery.cancel_scope.cancel()


class Peer:
    """A WebSocket client written by hand, which does only what it is told to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    async def connect(self, nursery: trio.Nursery, near: Any) -> WebSocketConnection:
        """The other end of its connection, once both have seen the handshake through."""
        async with trio.open_nursery() as handshake:
            handshake.start_soon(self.greet)
            request = await wrap_server_stream(nursery, near)
            return await request.accept()

    async def greet(self) -> None:
        await self.stream.send_all(self.protocol.send(wsproto.events.Request(host="here", target="/")))
        while self.protocol.state is not wsproto.connection.ConnectionState.OPEN:
            self.protocol.receive_data(await self.stream.receive_some())
            list(self.protocol.events())

    def text_frame(self) -> bytes:
        return self.protocol.send(wsproto.events.TextMessage(data="{}"))


@pytest.mark.parametrize("kind", ["lines", "trio_websocket"])
async def test_hops_are_the_passes_from_the_socket_to_who_receives(open_tcp: Any, kind: str) -> None:
    """One pass more at most: the task that looks and the one that the socket woke run in either order."""
    async with open_tcp() as (near, far), trio.open_nursery() as nursery:
        if kind == "lines":
            channel: Any = lines(near)
            frames = [b"{}\n"] * 60
        else:
            peer = Peer(far)
            channel = trio_websocket(await peer.connect(nursery, near))
            frames = [peer.text_frame() for _ in range(60)]
        got: list[Any] = []

        async def receive() -> None:
            while True:
                got.extend(await channel.receive_batch())

        nursery.start_soon(receive)
        passes: set[int] = set()
        for number, frame in enumerate(frames):
            await trio.testing.wait_all_tasks_blocked()
            os.write(far.socket.fileno(), frame)
            count = 0
            while len(got) == number:
                await trio.lowlevel.checkpoint()
                count += 1
            passes.add(count)
        assert max(passes) == channel.hops + 1
        nursery.cancel_scope.cancel()


def test_what_is_no_connection_is_refused() -> None:
    with pytest.raises(TypeError, match=r"not a trio_websocket\.WebSocketConnection: 'ws://'"):
        trio_websocket("ws://")  # type: ignore[arg-type]


def test_a_missing_library_is_told_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "psession\[trio-websocket\]"'):
        trio_websocket("ws://")  # type: ignore[arg-type]


def test_importing_the_channels_imports_no_library_that_is_optional() -> None:
    code = "import sys, psession.channels, psession.testing; print({'anyio', 'trio_websocket'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
