"""Messages over AnyIO's streams: objects told by their type, bytes cut into messages, errors in Trio's words."""

import gc
from typing import Any

import anyio
import anyio.abc
import anyio.streams.stapled
import pytest
import trio
import trio.testing

from psession.channels import AnyioObjectChannel, FramedChannel, JsonCodec, anyio_stream
from psession.errors import MalformedMessageError, MessageTooLargeError

Objects = anyio.streams.stapled.StapledObjectStream[Any]


def object_pair() -> tuple[Objects, Objects]:
    to_right, from_left = anyio.create_memory_object_stream[Any](8)
    to_left, from_right = anyio.create_memory_object_stream[Any](8)
    return Objects(to_right, from_right), Objects(to_left, from_left)


class Bytes(anyio.abc.ByteStream):
    """An AnyIO byte stream over one of Trio's, which wakes nobody when it is closed, and may be told to fail."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.fails: Exception | None = None
        self.empty = 2

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.fails is not None:
            raise self.fails
        if self.empty:
            self.empty -= 1
            return b""
        data = await self.stream.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        await self.stream.send_all(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_objects_that_are_messages_pass_as_they_are() -> None:
    near, far = object_pair()
    async with anyio_stream(near) as channel, far:
        assert isinstance(channel, AnyioObjectChannel)
        message = {"a": object()}
        await channel.send(message)
        assert await far.receive() is message
        await far.send(message)
        assert await channel.receive() is message


@pytest.mark.parametrize(("objects", "sent"), [("text", '{"a":1}'), ("bytes", b'{"a":1}')])
async def test_messages_can_be_sent_encoded(objects: Any, sent: str | bytes) -> None:
    near, far = object_pair()
    async with anyio_stream(near, objects=objects) as channel, far:
        await channel.send({"a": 1})
        assert await far.receive() == sent


@pytest.mark.parametrize("data", ['{"a":1}', b'{"a":1}', bytearray(b'{"a":1}'), memoryview(b'{"a":1}')])
async def test_objects_of_text_and_bytes_are_decoded(data: Any) -> None:
    near, far = object_pair()
    async with anyio_stream(near) as channel, far:
        await far.send(data)
        assert await channel.receive() == {"a": 1}
        assert channel.bytes_received == 7


async def test_what_a_long_object_takes_is_estimated_and_nobody_knows_it_of_an_object_that_is_a_message() -> None:
    near, far = object_pair()
    async with anyio_stream(near) as channel, far:
        assert isinstance(channel, AnyioObjectChannel)
        await far.send(b'{"text":"%s"}' % (b"x" * 5000))
        await channel.receive_batch()
        assert channel.weights is not None
        assert channel.weights[0]() > 5000
        await far.send({"text": "x" * 5000})
        await channel.receive_batch()
        assert channel.weights is None


async def test_a_bad_object_costs_itself_alone() -> None:
    near, far = object_pair()
    async with anyio_stream(near, max_message_bytes=10) as channel, far:
        for item in ("nope", "x" * 11, b"\xff", "{}"):
            await far.send(item)
        for error in (MalformedMessageError, MessageTooLargeError, MalformedMessageError):
            with pytest.raises(error):
                await channel.receive()
        assert await channel.receive_batch() == [{}]


async def test_a_message_too_large_to_be_encoded_is_not_sent() -> None:
    near, far = object_pair()
    async with anyio_stream(near, objects="text", max_message_bytes=10) as channel, far:
        with pytest.raises(MessageTooLargeError):
            await channel.send({"text": "too long"})
        await channel.send({})
        assert await far.receive() == "{}"


async def test_a_cancelled_send_of_an_object_sends_nothing_and_breaks_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = object_pair()
    async with anyio_stream(near) as channel, far:
        for number in range(8):
            await channel.send(number)
        with trio.move_on_after(1) as scope:
            await channel.send("never")
        assert scope.cancelled_caught
        assert [await far.receive() for _ in range(8)] == list(range(8))
        await channel.send("later")
        assert await far.receive() == "later"


@pytest.mark.parametrize(("framing", "wire"), [("lines", b"{}\n"), ("length_prefixed", b"\0\0\0\2{}")])
async def test_a_byte_stream_is_framed(framing: Any, wire: bytes) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with anyio_stream(Bytes(near), framing=framing) as channel:
        assert isinstance(channel, FramedChannel)
        await channel.send({})
        assert await far.receive_some() == wire
        await far.send_all(wire)
        assert await channel.receive() == {}
        await far.aclose()
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()


async def test_closing_wakes_who_receives_where_the_stream_itself_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, _far = trio.testing.memory_stream_pair()
    channel = anyio_stream(Bytes(near))
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await channel.aclose()
    assert trio.current_time() == 0.0


@pytest.mark.parametrize(
    ("fails", "becomes"),
    [
        (anyio.BrokenResourceError(), trio.BrokenResourceError),
        (anyio.ClosedResourceError(), trio.ClosedResourceError),
    ],
)
async def test_the_errors_of_a_byte_stream_become_trios(fails: Exception, becomes: type[Exception]) -> None:
    near, _far = trio.testing.memory_stream_pair()
    stream = Bytes(near)
    channel = anyio_stream(stream)
    stream.fails = fails
    for call in (channel.receive(), channel.send({})):
        with pytest.raises(becomes) as caught:
            await call
        assert caught.value.__cause__ is fails


async def test_the_errors_of_an_object_stream_become_trios() -> None:
    near, far = object_pair()
    channel = anyio_stream(near)
    await far.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await channel.send({})
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()
    await channel.aclose()


async def test_a_connected_udp_socket_carries_text() -> None:
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as far:
        port = far.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio_stream(await anyio.create_connected_udp_socket("127.0.0.1", port), objects="bytes") as channel:
            await channel.send({"a": 1})
            data, address = await far.receive()
            assert data == b'{"a":1}'
            await far.sendto(b'{"a":2}', *address)
            assert await channel.receive() == {"a": 2}


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(TypeError, match="neither an anyio ByteStream nor an ObjectStream"):
        anyio_stream(object())  # type: ignore[arg-type]


async def test_choices_that_do_not_fit_are_refused() -> None:
    near, far = object_pair()
    stream, _ = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="'msgpack' makes bytes, not text"):
        anyio_stream(near, objects="text", codec="msgpack")
    with pytest.raises(ValueError, match="no form of objects is called 'json'"):
        anyio_stream(near, objects="json")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"carry it with length_prefixed\(\)"):
        anyio_stream(Bytes(stream), codec="msgpack")
    with pytest.raises(ValueError, match="no framing is called 'cobs'; give \"lines\", "):
        anyio_stream(Bytes(stream), framing="cobs")  # type: ignore[arg-type]
    await near.aclose()
    await far.aclose()


async def test_an_abandoned_byte_channel_is_silent() -> None:
    stream, _ = trio.testing.memory_stream_pair()
    anyio_stream(Bytes(stream), codec=JsonCodec())
    gc.collect()
