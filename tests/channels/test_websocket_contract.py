"""A WebSocket keeps the contract of every channel, over TCP and over TLS, compressed or not, whoever is the client."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from websockets.protocol import Side

from psession.channels import FrameChannel, WebSocketChannel
from psession.channels._websocket_options import WebSocketOptions
from psession.testing import check_channel

from .websocket_ends import agreed

SOON = 0.01
"""Seconds that a real transport here waits for the goodbye of a peer that says nothing."""


@asynccontextmanager
async def websockets(open_streams: Any, **options: Any) -> AsyncIterator[tuple[FrameChannel, FrameChannel]]:
    told = WebSocketOptions(close_timeout=SOON, **options)
    async with open_streams() as streams, trio.open_nursery() as nursery:
        left, right = (
            WebSocketChannel(stream, agreed(side, compression=told.compression), told, nursery=nursery)
            for stream, side in zip(streams, (Side.CLIENT, Side.SERVER), strict=True)
        )
        async with left, right:
            yield left, right
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("streams", ["open_tcp", "open_tls"])
async def test_over_tcp_and_tls(streams: str, request: pytest.FixtureRequest) -> None:
    await check_channel(functools.partial(websockets, request.getfixturevalue(streams)))


async def test_with_messagepack_and_with_deflate(open_tcp: Any) -> None:
    await check_channel(functools.partial(websockets, open_tcp, codec="msgpack", compression="deflate"))


async def test_while_pinging_all_the_time(open_tcp: Any) -> None:
    await check_channel(functools.partial(websockets, open_tcp, ping_interval=0.001))
