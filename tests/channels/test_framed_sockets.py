"""Messages over real streams: what is written and read without waiting, and how sockets, TLS and pipes end."""

import contextlib
import math
import os
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from psession.channels import _pace, _wire, length_prefixed, lines

OpenTcp = Callable[[], AbstractAsyncContextManager[tuple[trio.SocketStream, trio.SocketStream]]]


async def test_a_frame_goes_out_at_once_over_a_socket_alone(open_tcp: OpenTcp, open_tls: Any) -> None:
    async with open_tcp() as (left, right):
        channel = lines(left)
        assert channel.send_frame_now(b"{}\n") == b""
        assert channel.bytes_sent == 3
        assert await lines(right).receive() == {}
    async with open_tls() as (left, _):
        assert lines(left).send_frame_now(b"{}\n") is None
    stream, _ = trio.testing.memory_stream_pair()
    assert lines(stream).send_frame_now(b"{}\n") is None


async def test_a_channel_knows_the_address_of_its_peer_where_there_is_one(open_tcp: OpenTcp, open_tls: Any) -> None:
    async with open_tcp() as (left, right):
        assert lines(left).remote == length_prefixed(left).remote == right.socket.getsockname()
        await right.aclose()
        await left.aclose()
        assert lines(left).remote is None
    async with open_tls() as (left, right):
        assert lines(left).remote == right.transport_stream.socket.getsockname()
    one, other = trio.socket.socketpair()
    with one, other:
        assert lines(trio.SocketStream(one)).remote is None
    assert lines(trio.testing.memory_stream_pair()[0]).remote is None


async def test_a_frame_does_not_go_out_into_the_middle_of_another(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, right), trio.open_nursery() as nursery:
        channel = lines(left, max_message_bytes=math.inf)
        nursery.start_soon(channel.send, {"long": "x" * 20_000_000})
        await trio.testing.wait_all_tasks_blocked()
        with contextlib.suppress(BlockingIOError):
            while os.read(right.socket.fileno(), 65536):  # the socket has room again, and the sender has not run yet
                pass
        assert channel.send_frame_now(b"{}\n") is None
        nursery.cancel_scope.cancel()


async def test_a_broken_socket_is_found_out_by_the_next_send(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, right):
        channel = lines(left)
        await right.aclose()
        while channel.send_frame_now(b"{}\n") is not None:
            pass
        with pytest.raises(trio.BrokenResourceError):
            await channel.send_frames([b"{}\n"])


async def test_a_connection_reset_breaks_the_channel(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, right):
        right.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await right.aclose()
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await lines(left).receive()


async def test_a_reset_that_a_look_met_first_is_told_to_who_receives(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, right):
        channel = lines(left)
        right.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await right.aclose()
        assert channel.receive_batch_now() == channel.receive_batch_now() == []
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="reset"):
                await channel.receive()


async def test_a_look_leaves_the_end_to_who_receives(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, right):
        channel = lines(left)
        await right.send_all(b'{"a":1}\n{"a"')
        await right.aclose()
        assert channel.receive_batch_now() == [{"a": 1}]
        assert channel.receive_batch_now() == []
        with pytest.raises(trio.BrokenResourceError, match="ended inside a message"):
            await channel.receive()
        assert channel.receive_batch_now() == []


async def test_a_look_does_not_overtake_what_is_in_hand(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, right):
        channel = lines(left)
        await right.send_all(b'{"a":1}\n{"a":2}\n')
        assert await channel.receive() == {"a": 1}
        await right.send_all(b'{"a":3}\n')
        assert channel.receive_batch_now() == []
        assert [await channel.receive() for _ in range(2)] == [{"a": 2}, {"a": 3}]


async def test_a_look_takes_long_messages_one_by_one_and_all_of_them_where_somebody_sleeps_until_more_comes(
    open_tcp: OpenTcp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_wire, "TOGETHER_SECONDS", 0)
    async with open_tcp() as (left, right):
        channel = lines(left)
        channel._pace.read_bytes = _pace.MOST_BYTES
        long = channel.encode({"text": "x" * 5000})
        await right.send_all(3 * long)
        assert [len(channel.receive_batch_now()) for _ in range(4)] == [1, 1, 1, 0]
        got: list[Any] = []

        async def receive() -> None:
            while len(got) < 4:
                got.extend(await channel.receive_batch())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            assert os.write(right.socket.fileno(), 3 * long) == 3 * len(long)
            assert len(channel.receive_batch_now()) == 3
            await trio.testing.wait_all_tasks_blocked()
            await right.send_all(4 * long)
        assert len(got) == 4


async def test_a_look_takes_what_a_receiver_has_not_decoded_yet(
    open_tcp: OpenTcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "TOGETHER_SECONDS", 0)
    async with open_tcp() as (left, right):
        channel = lines(left)
        channel._pace.read_bytes = _pace.MOST_BYTES
        await right.send_all(3 * channel.encode({"text": "x" * 5000}))
        assert len(await channel.receive_batch()) == 1
        receiving = channel.receive_batch()
        receiving.send(None)  # as far as its checkpoint
        assert len(channel.receive_batch_now()) == 2, "the receiver would have to wait for the next read"
        receiving.close()
        await right.send_all(b'{"n":1}\n')
        assert await channel.receive_batch() == [{"n": 1}]


async def test_a_stream_that_somebody_else_closed_is_a_closed_one(open_tcp: OpenTcp) -> None:
    async with open_tcp() as (left, _):
        channel = lines(left)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await channel.receive()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await left.aclose()
        assert channel.receive_batch_now() == []
        for call in (channel.receive(), channel.send({})):
            with pytest.raises(trio.ClosedResourceError):
                await call


async def test_the_pipes_of_a_process_carry_lines() -> None:
    process = await trio.lowlevel.open_process(["cat"], stdin=-1, stdout=-1)
    assert process.stdio is not None
    async with lines(process.stdio) as channel:
        await channel.send({"a": 1})
        assert await channel.receive() == {"a": 1}
    assert await process.wait() == 0


async def test_a_tls_peer_that_goes_without_goodbye_breaks_the_channel(open_tls: Any) -> None:
    async with open_tls() as (left, right):
        await right.transport_stream.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await lines(left).receive()
