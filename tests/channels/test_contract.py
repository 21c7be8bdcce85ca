"""Every channel keeps the contract, and the contract catches each way of breaking it."""

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.streams.stapled
import pytest
import trio

from psession.channels import (
    FrameChannel,
    anyio_stream,
    length_prefixed,
    lines,
    memory_pair,
    trio_websocket,
)
from psession.testing import check_channel

SOON = 0.05
"""Seconds that a real transport here waits for the goodbye of a peer that says nothing."""


@asynccontextmanager
async def memory(max_buffer: float = 64) -> AsyncIterator[tuple[FrameChannel, FrameChannel]]:
    left, right = memory_pair(max_buffer)
    async with left, right:
        yield left, right


@asynccontextmanager
async def framed(
    open_streams: Any, make: Callable[..., FrameChannel], **options: Any
) -> AsyncIterator[tuple[FrameChannel, FrameChannel]]:
    async with open_streams() as streams:
        left, right = (make(stream, close_timeout=SOON, **options) for stream in streams)
        async with left, right:
            yield left, right


async def test_memory_keeps_the_contract() -> None:
    await check_channel(memory)


async def test_memory_without_a_buffer_keeps_the_contract() -> None:
    await check_channel(functools.partial(memory, 0))


async def test_lines_keep_the_contract(open_streams: Any) -> None:
    await check_channel(functools.partial(framed, open_streams, lines))


async def test_length_prefixed_messagepack_keeps_the_contract(open_tcp: Any) -> None:
    await check_channel(functools.partial(framed, open_tcp, length_prefixed, codec="msgpack"))


@asynccontextmanager
async def websockets(open_websockets: Any, codec: Any) -> AsyncIterator[tuple[FrameChannel, FrameChannel]]:
    async with open_websockets() as (client, server):
        yield (
            trio_websocket(client, codec=codec, close_timeout=SOON),
            trio_websocket(server, codec=codec, close_timeout=SOON),
        )


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_trio_websocket_keeps_the_contract(open_websockets: Any, codec: str) -> None:
    await check_channel(functools.partial(websockets, open_websockets, codec))


@asynccontextmanager
async def anyio_bytes(framing: Any, codec: Any) -> AsyncIterator[tuple[FrameChannel, FrameChannel]]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as multi:
        accepted: list[anyio.abc.SocketStream] = []
        ready = trio.Event()

        async def accept(stream: anyio.abc.SocketStream) -> None:
            accepted.append(stream)
            ready.set()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(multi.listeners[0].serve, accept)
            port = multi.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
            connected = await anyio.connect_tcp("127.0.0.1", port)
            await ready.wait()
            left, right = (anyio_stream(end, framing=framing, codec=codec) for end in (connected, *accepted))
            async with left, right:
                yield left, right
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("framing", "codec"), [("lines", "json"), ("length_prefixed", "msgpack")])
async def test_an_anyio_byte_stream_keeps_the_contract(framing: str, codec: str) -> None:
    await check_channel(functools.partial(anyio_bytes, framing, codec))


@asynccontextmanager
async def anyio_objects(objects: Any) -> AsyncIterator[tuple[FrameChannel, FrameChannel]]:
    to_right, from_left = anyio.create_memory_object_stream[Any](8)
    to_left, from_right = anyio.create_memory_object_stream[Any](8)
    stapled = anyio.streams.stapled.StapledObjectStream
    left = anyio_stream(stapled(to_right, from_right), objects=objects)
    right = anyio_stream(stapled(to_left, from_left), objects=objects)
    async with left, right:
        yield left, right


@pytest.mark.parametrize("objects", ["messages", "text"])
async def test_an_anyio_object_stream_keeps_the_contract(objects: str) -> None:
    await check_channel(functools.partial(anyio_objects, objects))
