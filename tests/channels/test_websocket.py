"""A WebSocket from its first message to its last: limits, control frames, keepalive, closing, inline writes."""

import os
import struct
from typing import Any

import pytest
import trio
import trio.testing
from websockets.protocol import Side

from psession.channels import MsgpackCodec, WebSocketChannel
from psession.channels._websocket_options import WebSocketOptions
from psession.errors import MalformedMessageError, MessageTooLargeError

from .websocket_ends import raw_end

MockClock = trio.testing.MockClock
ONE = b'\x81\x07{"a":1}'
PING = b"\x89\x01?"


def close_frame(code: int, reason: bytes = b"") -> bytes:
    payload = struct.pack(">H", code) + reason
    return bytes([0x88, len(payload)]) + payload


def told(masked: bytes) -> tuple[int, bytes]:
    """The first byte and the payload of one short frame that a client wrote."""
    mask, body = masked[2:6], masked[6:]
    assert masked[1] == 0x80 | len(body)
    return masked[0], bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))


async def test_all_messages_of_one_read_come_in_one_batch() -> None:
    async with raw_end(Side.CLIENT) as raw:
        await raw.say(ONE, PING, b"\x82\x02{}", b'\x01\x03{"b', b'\x80\x04":2}', ONE[:4])
        assert await raw.channel.receive_batch() == [{"a": 1}, {}, {"b": 2}]
        await raw.say(ONE[4:])
        assert await raw.channel.receive() == {"a": 1}
        assert raw.channel.bytes_received == 2 * len(ONE) + len(PING) + 4 + 5 + 6
        assert told(await raw.hear()) == (0x8A, b"?")


async def test_what_came_with_the_handshake_is_the_first_message() -> None:
    async with raw_end(Side.CLIENT, rest=ONE + ONE[:3]) as raw:
        assert await raw.channel.receive() == {"a": 1}
        await raw.say(ONE[3:])
        assert await raw.channel.receive() == {"a": 1}


async def test_frames_are_joined_into_one_write() -> None:
    async with raw_end() as raw:
        frames = [raw.channel.encode({"a": number}) for number in range(1, 4)]
        await raw.channel.send_frames(frames)
        assert await raw.hear() == b"".join(frames) == ONE + ONE.replace(b"1", b"2") + ONE.replace(b"1", b"3")
        assert raw.channel.bytes_sent == 3 * len(ONE)


async def test_text_codecs_send_text_and_others_binary() -> None:
    async with raw_end(codec="msgpack") as raw:
        await raw.channel.send({"a": 1})
        assert await raw.hear() == b"\x82\x04\x81\xa1a\x01"
    async with raw_end(Side.CLIENT, codec=MsgpackCodec()) as raw:
        await raw.say(ONE, b"\x82\x01\x80")
        malformed, empty = await raw.channel.receive_batch()
        assert isinstance(malformed, MalformedMessageError)
        assert empty == {}


async def test_a_bad_message_costs_itself_alone() -> None:
    async with raw_end(Side.CLIENT) as raw:
        await raw.say(b"\x81\x04nope", b"\x81\x00", ONE)
        for _ in range(2):
            with pytest.raises(MalformedMessageError):
                await raw.channel.receive()
        assert await raw.channel.receive() == {"a": 1}


async def test_a_message_too_long_is_not_sent_and_breaks_the_channel_that_gets_it() -> None:
    async with raw_end(Side.CLIENT, max_message_bytes=6) as raw:
        with pytest.raises(MessageTooLargeError, match="7 bytes; max_message_bytes is 6"):
            await raw.channel.send({"a": 1})
        await raw.say(b"\x81\x02{}", ONE)
        assert await raw.channel.receive_batch() == [{}]
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match=r"7 bytes .* limit of 6") as caught:
                await raw.channel.receive()
            assert isinstance(caught.value.__cause__, MessageTooLargeError)
        assert told(await raw.hear())[1][:2] == struct.pack(">H", 1009)
        with pytest.raises(trio.BrokenResourceError, match="limit of 6"):
            await raw.channel.send({})


@pytest.mark.parametrize(("frame", "code"), [(b"\x83\x00", 1002), (b"\x81\x01\xff", 1007)])
async def test_a_breach_of_the_protocol_breaks_the_channel_and_is_told(frame: bytes, code: int) -> None:
    async with raw_end(Side.CLIENT) as raw:
        await raw.say(ONE, frame)
        assert await raw.channel.receive() == {"a": 1}
        with pytest.raises(trio.BrokenResourceError, match="the peer broke the WebSocket protocol") as caught:
            await raw.channel.receive()
        assert isinstance(caught.value.__cause__, MalformedMessageError)
        assert told(await raw.hear())[1][:2] == struct.pack(">H", code)


@pytest.mark.parametrize("frame", [close_frame(1000), close_frame(1001, b"later"), b"\x88\x00"])
async def test_a_clean_close_is_the_end(frame: bytes) -> None:
    async with raw_end(Side.CLIENT) as raw:
        await raw.say(ONE, frame, ONE)
        assert await raw.channel.receive_batch() == [{"a": 1}]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await raw.channel.receive()
        assert told(await raw.hear()) == (0x88, frame[2:])
        with pytest.raises(trio.BrokenResourceError, match="the peer closed the WebSocket"):
            await raw.channel.send({})
        assert (raw.channel.close_code, raw.channel.close_reason) in {(1000, ""), (1001, "later"), (1005, "")}


@pytest.mark.parametrize("code", [1002, 1009, 1011, 1012, 4000])
async def test_any_other_close_breaks_the_channel(code: int) -> None:
    async with raw_end(Side.CLIENT) as raw:
        await raw.say(close_frame(code, b"because"))
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match=f"closed the WebSocket with code {code}: because"):
                await raw.channel.receive()


@pytest.mark.parametrize("begun", [b"", b"\x81", ONE[:5]])
async def test_an_end_without_a_close_frame_breaks_the_channel(begun: bytes) -> None:
    async with raw_end(Side.CLIENT) as raw:
        await raw.say(begun)
        await raw.stream.aclose()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="without a close frame"):
                await raw.channel.receive()


# -- control frames and what is being written --------------------------------------------------------------------------


class Slow(trio.abc.Stream):
    """Takes a write when it is told to; shows each as it was made."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.taken = trio.Semaphore(0)
        self.say, self.heard = trio.open_memory_channel[bytes](10)
        self.closed = False

    async def send_all(self, data: Any) -> None:
        self.written.append(bytes(data))
        await self.taken.acquire()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.heard.receive()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_pongs_wait_for_the_message_that_is_being_written_and_only_the_last_goes() -> None:
    slow = Slow()
    async with raw_end(Side.SERVER, (slow, slow), close_timeout=0) as raw, trio.open_nursery() as nursery:
        nursery.start_soon(raw.channel.send, {"a": 1})
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(raw.channel.receive)
        for number in range(5):
            await slow.say.send(b"\x89\x81\0\0\0\0" + bytes([number]))
            await trio.testing.wait_all_tasks_blocked()
        assert slow.written == [ONE]
        slow.taken.release()
        await trio.testing.wait_all_tasks_blocked()
        assert slow.written == [ONE, b"\x8a\x01\x04"]
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_a_send_cut_off_in_the_middle_ends_sending_and_its_close_says_nothing() -> None:
    slow = Slow()
    async with raw_end(Side.SERVER, (slow, slow)) as raw:
        with trio.move_on_after(0.01):
            await raw.channel.send({"a": 1})
        with pytest.raises(trio.BrokenResourceError, match="an earlier send was cut off"):
            await raw.channel.send({"a": 2})
        await slow.say.send(b"\x89\x80\0\0\0\0" + b"\x81\x82\0\0\0\0{}")
        assert await raw.channel.receive() == {}
        await raw.channel.aclose()
        assert slow.written == [ONE]
        assert slow.closed


async def test_a_pong_keeps_out_of_a_frame_that_was_written_in_part(open_tcp: Any) -> None:
    async with open_tcp() as streams, raw_end(Side.SERVER, streams) as raw:
        large = {"x": "y" * 900_000}
        frame, left = raw.channel.encode(large), b""
        sent = 0
        while not left:
            left = raw.channel.send_frame_now(frame)
            assert left is not None
            sent += 1
        assert raw.channel.send_frame_now(frame) is None
        await raw.say(b"\x89\x80\0\0\0\0" + b"\x81\x82\0\0\0\0{}")
        assert await raw.channel.receive() == {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.channel.send_frames, [left, ONE])
            got = b""
            while len(got) < sent * len(frame) + 2 + len(ONE):
                got += await raw.hear()
        assert got == frame * sent + b"\x8a\x00" + ONE


async def test_inline_writes_go_out_at_once_and_after_a_waiting_pong_only(open_tcp: Any) -> None:
    async with open_tcp() as streams, raw_end(Side.SERVER, streams) as raw:
        assert raw.channel.joins
        assert raw.channel.send_frame_now(ONE + ONE) == b""
        assert await raw.hear() == ONE + ONE
        raw.channel._frames.ping()
        assert raw.channel.send_frame_now(ONE) is None
        await raw.channel.send_frames([ONE])
        assert await raw.hear() == b"\x89\x08psession" + ONE


async def test_compressed_frames_are_not_joined_before_their_turn(open_tcp: Any) -> None:
    async with open_tcp() as streams, raw_end(Side.SERVER, streams, compression="deflate") as raw:
        frame = raw.channel.encode({"a": 1})
        assert (raw.channel.joins, raw.channel.send_frame_now(frame), frame) == (False, None, ONE[2:])
        await raw.channel.send_frames([frame, frame])
        assert (await raw.hear())[0] == 0xC1


@pytest.mark.parametrize("passes", [0, 1, 2])
async def test_a_close_frame_found_by_a_poll_wakes_the_reader(open_tcp: Any, passes: int) -> None:
    """At once, though the connection stays open; also where the socket has woken the reader already."""
    async with open_tcp() as streams, raw_end(Side.CLIENT, streams) as raw, trio.open_nursery() as nursery:
        got: list[Any] = []
        ended = trio.Event()

        async def read() -> None:
            async for message in raw.channel:
                got.append(message)
            ended.set()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        os.write(streams[1].socket.fileno(), ONE + close_frame(1000))
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        got += raw.channel.receive_batch_now()
        with trio.fail_after(1):
            await ended.wait()
        assert got == [{"a": 1}]
        nursery.cancel_scope.cancel()


# -- keepalive ---------------------------------------------------------------------------------------------------------


async def test_a_silent_peer_is_pinged_and_then_given_up(autojump_clock: MockClock) -> None:
    async with raw_end(Side.CLIENT, ping_interval=10, ping_timeout=3) as raw:
        with pytest.raises(trio.BrokenResourceError, match="silent for 10 s, and for 3 s after a ping"):
            await raw.channel.receive()
        assert trio.current_time() == 13.0
        assert told(await raw.hear()) == (0x89, b"psession")
        for call in (raw.channel.receive, lambda: raw.channel.send({})):
            with pytest.raises(trio.BrokenResourceError, match="silent for 10 s"):
                await call()
        await raw.channel.aclose()
        assert trio.current_time() == 13.0


@pytest.mark.parametrize("sign", [b"\x8a\x08psession", PING, ONE[:3]])
async def test_any_sign_of_life_will_do(autojump_clock: MockClock, sign: bytes) -> None:
    async with raw_end(Side.CLIENT, ping_interval=10, ping_timeout=3) as raw, trio.open_nursery() as nursery:
        nursery.start_soon(raw.channel.receive)
        assert told(await raw.hear())[0] == 0x89
        await trio.sleep(2.9)
        await raw.say(sign)
        await trio.sleep(5)
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()


async def test_a_peer_that_talks_is_not_pinged(autojump_clock: MockClock) -> None:
    async with raw_end(Side.CLIENT, ping_interval=10, ping_timeout=3) as raw:
        for _ in range(5):
            await trio.sleep(6)
            await raw.say(ONE)
            await raw.channel.receive()
        with trio.move_on_after(0) as scope:
            await raw.hear()
        assert scope.cancelled_caught


async def test_silence_is_not_judged_while_nobody_listens(autojump_clock: MockClock) -> None:
    async with raw_end(Side.CLIENT, ping_interval=10, ping_timeout=3) as raw:
        await trio.sleep(100)
        await raw.say(ONE)
        assert await raw.channel.receive() == {"a": 1}


async def test_keepalive_on_a_real_socket_breaks_who_reads_and_who_writes(open_tcp: Any) -> None:
    async with (
        open_tcp() as streams,
        raw_end(Side.SERVER, streams, ping_interval=0.02, ping_timeout=0.02) as raw,
        trio.open_nursery() as nursery,
    ):

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - one of them
                while True:
                    await raw.channel.send({"x": "y" * 100_000})

        nursery.start_soon(flood)
        with pytest.raises(trio.BrokenResourceError, match="after a ping"):
            await raw.channel.receive()


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_closing_waits_for_a_silent_peer_no_longer_than_close_timeout(autojump_clock: MockClock) -> None:
    for side in Side:
        async with raw_end(side, close_timeout=3) as raw:
            before = trio.current_time()
            await raw.channel.aclose(4321, "enough")
            assert trio.current_time() == before + 3
            said = await raw.hear()
            assert (told(said) if side is Side.CLIENT else (said[0], said[2:])) == (0x88, b"\x10\xe1enough")
            assert await raw.hear() == b""
            with pytest.raises(trio.ClosedResourceError):
                await raw.channel.send({})


async def test_a_server_closes_when_both_have_said_goodbye(autojump_clock: MockClock) -> None:
    async with raw_end(Side.SERVER) as raw, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(raw.channel.aclose)
        assert await raw.hear() == close_frame(1000)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        await raw.say(b"\x81\x80\0\0\0\0", b"\x88\x82\0\0\0\0\x03\xe8")
        assert await raw.hear() == b""
        assert trio.current_time() == 0


async def test_a_client_lets_its_server_hang_up_first(autojump_clock: MockClock) -> None:
    async with raw_end(Side.CLIENT) as raw, trio.open_nursery() as nursery:
        await raw.say(close_frame(1001))
        with pytest.raises(trio.EndOfChannel):
            await raw.channel.receive()
        nursery.start_soon(raw.channel.aclose)
        await trio.sleep(1)
        assert nursery.child_tasks
        await raw.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_a_cancelled_close_still_says_goodbye_if_the_socket_takes_it(open_tcp: Any) -> None:
    async with open_tcp() as streams, raw_end(Side.SERVER, streams) as raw:
        with trio.move_on_after(1) as scope:
            scope.cancel()
            await raw.channel.aclose()
        assert await raw.hear() == close_frame(1000)
        assert await raw.hear() == b""


async def test_what_breaks_the_protocol_is_read_to_its_end_so_that_the_verdict_arrives(open_tcp: Any) -> None:
    """Closing a socket on bytes that nobody read resets it, and the close frame would be lost."""
    async with (
        open_tcp() as streams,
        raw_end(Side.SERVER, streams, max_message_bytes=10) as raw,
        trio.open_nursery() as nursery,
    ):

        async def flood() -> None:
            await raw.say(b"\x81\xff" + struct.pack(">Q", 3_000_000) + b"\0\0\0\0", b"x" * 3_000_000)
            assert (await raw.hear())[2:4] == struct.pack(">H", 1009)
            assert await raw.hear() == b""
            await raw.stream.aclose()

        nursery.start_soon(flood)
        with pytest.raises(trio.BrokenResourceError):
            await raw.channel.receive()
        await raw.channel.aclose()


@pytest.mark.parametrize("code", [1005, 1006, 1015, 999, 5000, 2000])
async def test_a_code_that_no_close_frame_may_have_is_refused(code: int) -> None:
    async with raw_end() as raw:
        with pytest.raises(ValueError, match="not a code to close with"):
            await raw.channel.aclose(code)
        with pytest.raises(ValueError, match="at most 123 bytes"):
            await raw.channel.aclose(1000, "\N{SNOWMAN}" * 42)
        await raw.channel.send({})


@pytest.mark.parametrize(
    "wrong",
    [
        {"compression": "gzip"},
        {"max_message_bytes": 0},
        {"ping_interval": 0},
        {"ping_timeout": -1},
        {"close_timeout": -1},
        {"codec": "yaml"},
    ],
)
def test_options_out_of_their_range_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values())) if "codec" in wrong else next(iter(wrong))):
        WebSocketOptions(**wrong)


USELESS = {
    "pings": PING,
    "pongs": b"\x8a\x00",
    "empty fragments": b"\x00\x00",
    "texts that are no message": b"\x81\x00",
}


async def read_all(channel: WebSocketChannel) -> None:
    """Read until the channel ends."""
    while True:
        await channel.receive_batch()


def masked(frame: bytes) -> bytes:
    """The frame of a client, under a mask of zeros."""
    return bytes([frame[0], frame[1] | 0x80]) + b"\0\0\0\0" + frame[2:]


@pytest.mark.parametrize("kind", USELESS)
@pytest.mark.parametrize("hostile", ["server", "client"])
async def test_a_peer_that_sends_little_of_use_is_told_why_it_is_listened_to_no_more(
    hostile: str, kind: str, autojump_clock: MockClock
) -> None:
    framed = masked if hostile == "client" else bytes
    side = Side.SERVER if hostile == "client" else Side.CLIENT
    async with raw_end(side) as raw, trio.open_nursery() as nursery:
        if kind == "empty fragments":
            await raw.say(framed(b"\x01\x01{"))

        async def flood() -> None:
            for _ in range(60):
                await raw.say(framed(USELESS[kind]) * 500)
                await trio.sleep(0.5)

        nursery.start_soon(flood)
        with pytest.raises(trio.BrokenResourceError, match="the peer sends little of use"):
            await read_all(raw.channel)
        assert 5 <= trio.current_time() < 7
        nursery.cancel_scope.cancel()
        heard = await raw.hear()
        said = struct.pack(">H", 1008) + b"too little of use"
        if hostile == "client":
            assert heard.endswith(b"\x88" + bytes([len(said)]) + said)
        else:
            assert told(heard[-6 - len(said) :]) == (0x88, said)


async def test_pings_now_and_then_are_no_nuisance(autojump_clock: MockClock) -> None:
    async with raw_end(Side.CLIENT) as raw:
        for _ in range(300):
            await raw.say(PING * 10, ONE)
            assert await raw.channel.receive() == {"a": 1}
            await trio.sleep(0.1)
        assert trio.current_time() == pytest.approx(30)
