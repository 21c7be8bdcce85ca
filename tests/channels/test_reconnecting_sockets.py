"""A channel that reopens over real sockets: servers that are killed and start anew, and nothing open afterwards."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession.channels import HandshakeError, lines, open_websocket, reconnecting

from .reconnecting_ends import Log, assert_nothing_left
from .websocket_ends import HERE, echo, serving, url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psession.channels import FramedChannel, WebSocketChannel

AT_ONCE: Any = {"first_delay": 0.001, "max_delay": 0.01, "jitter": 0.0}
"""Waits of real time, as short as they may be: nothing below depends on how long they are."""


@pytest.fixture(autouse=True)
def no_socket_left() -> Iterator[None]:
    """As many sockets after the test as before; those that Trio itself needs go with the test's run."""
    before = open_sockets()
    yield
    assert open_sockets() == before


def open_sockets() -> int:
    """How many this process has."""
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


class TcpServer:
    """An echo server that can be killed, with a reset for each client, and started anew on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.streams: set[trio.SocketStream] = set()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.streams.add(stream)
        try:
            channel = lines(stream)
            async for message in channel:
                await channel.send(message)
        finally:
            self.streams.discard(stream)

    @asynccontextmanager
    async def running(self, *, reset: bool = True) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, self._serve, self.port, host=HERE))
            self.port = listener.socket.getsockname()[1]
            yield
            for stream in self.streams if reset else ():
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
            nursery.cancel_scope.cancel()

    async def dial(self) -> FramedChannel:
        return lines(await trio.open_tcp_stream(HERE, self.port))


@pytest.mark.parametrize("reset", [True, False])
async def test_a_tcp_server_that_is_killed_and_started_anew(reset: bool) -> None:
    server, log = TcpServer(), Log()
    async with reconnecting(server.dial, on_state=log, **AT_ONCE) as channel:
        for number in range(3):
            async with server.running(reset=reset):
                await channel.send({"n": number})
                assert await channel.receive() == {"n": number}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.receive)
                broken = await log.until("broken")
                assert isinstance(broken.error, trio.BrokenResourceError if reset else trio.EndOfChannel)
                while not isinstance((await log.until("waiting")).error, OSError):
                    pass
                nursery.cancel_scope.cancel()
    words = log.words()
    assert words.count("broken") == len([word for word in words if word.startswith("open")]) == 3
    assert words[-1] == "closed"
    assert_nothing_left()


async def test_who_receives_all_along_hears_a_server_that_came_back() -> None:
    server, log = TcpServer(), Log()
    heard = trio.open_memory_channel[Any](9)
    async with reconnecting(server.dial, on_state=log, **AT_ONCE) as channel, trio.open_nursery() as nursery:

        async def receive() -> None:
            async for message in channel:
                heard[0].send_nowait(message["n"])

        nursery.start_soon(receive)
        for number in range(3):
            async with server.running():
                await channel.send({"n": number})
                assert await heard[1].receive() == number
            await log.until("connecting")
        nursery.cancel_scope.cancel()
    assert_nothing_left()


async def test_a_websocket_server_that_drops_each_client_after_one_message() -> None:
    async def once(channel: WebSocketChannel) -> None:
        await channel.send({"answer": (await channel.receive())["question"]})

    log = Log()
    async with (
        serving(once) as server,
        reconnecting(lambda: open_websocket(url(server)), on_state=log, **AT_ONCE) as channel,
    ):
        for number in range(4):
            await channel.send({"question": number})
            assert await channel.receive() == {"answer": number}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.receive)
                assert isinstance((await log.until("broken")).error, trio.EndOfChannel)
                await log.until("open")
                nursery.cancel_scope.cancel()
    assert [state.state for state in log].count("open") == 5
    assert_nothing_left()


async def test_a_websocket_server_that_refuses_is_given_up_where_that_was_said() -> None:
    async with serving(process_request=lambda request: (401, "who are you?")) as server:
        async with reconnecting(lambda: open_websocket(url(server)), give_up_on=(HandshakeError,)) as channel:
            with pytest.raises(HandshakeError) as caught:
                await channel.send({})
            assert caught.value.status == 401
        assert_nothing_left()


async def test_leaving_says_goodbye_to_the_server() -> None:
    ended: list[int | None] = []

    async def handler(channel: WebSocketChannel) -> None:
        await echo(channel)
        ended.append(channel.close_code)

    async with serving(handler) as server:
        async with reconnecting(lambda: open_websocket(url(server))) as channel:
            await channel.send({"a": 1})
            assert await channel.receive() == {"a": 1}
        assert ended == [1000]


async def test_the_links_that_open_gives_are_the_websockets_themselves() -> None:
    async with serving() as server, reconnecting(lambda: open_websocket(url(server)), **AT_ONCE) as channel:
        for number in range(3):
            link: Any = await channel.open()
            link.send_frame_now(link.encode({"n": number}))
            assert await link.receive_batch() == [{"n": number}]
        assert server.connections <= 3
