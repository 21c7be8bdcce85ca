"""Messages over streams of bytes: what a bad one costs, how an end is told, what cancelling and closing leave."""

import gc
import math
import struct
from collections.abc import Callable
from typing import Any

import outcome
import pytest
import trio
import trio.testing

from psession.channels import FramedChannel, JsonCodec, MsgpackCodec, _pace, _wire, length_prefixed, lines
from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError

MockClock = trio.testing.MockClock
either = pytest.mark.parametrize("make", [lines, length_prefixed])


class Raw:
    """The far end of a channel, byte by byte."""

    def __init__(self, make: Callable[..., FramedChannel], **options: Any) -> None:
        self.stream, near = trio.testing.memory_stream_pair()
        self.channel = make(near, **options)

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)


class Stuck(trio.abc.Stream):
    """A stream that neither gives nor takes nor says goodbye; it counts what was asked of it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.takes = True
        self.closings: list[str] = []

    async def send_all(self, data: Any) -> None:
        if not self.takes:
            await trio.sleep_forever()
        self.written.append(bytes(data))
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await trio.sleep_forever()

    async def aclose(self) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.closings.append("forcefully")
            raise


async def test_a_line_that_is_no_message_costs_itself_alone() -> None:
    raw = Raw(lines)
    await raw.say(b'{"a":1}\nnot json\n\r\n[]\n{"a":2}\r\n')
    assert await raw.channel.receive() == {"a": 1}
    for _ in range(2):
        with pytest.raises(MalformedMessageError):
            await raw.channel.receive()
    assert await raw.channel.receive() == {"a": 2}


async def test_a_bad_message_stands_in_its_place_in_a_batch() -> None:
    raw = Raw(lines, max_message_bytes=10)
    await raw.say(b'{"a":1}\n' + b"x" * 11 + b'\nnope\n{"a":2}\n')
    first, too_large, malformed, last = await raw.channel.receive_batch()
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert isinstance(too_large, MessageTooLargeError)
    assert isinstance(malformed, MalformedMessageError)


async def test_a_line_too_long_is_skipped_however_long_it_is() -> None:
    raw = Raw(lines, max_message_bytes=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.say, b"x" * 3_000_000 + b'\n{"a":1}\n')
        with pytest.raises(MessageTooLargeError, match="a line of 3000000 bytes; max_message_bytes is 100"):
            await raw.channel.receive()
        assert await raw.channel.receive() == {"a": 1}


async def test_a_prefixed_message_that_cannot_be_decoded_costs_itself_alone() -> None:
    raw = Raw(length_prefixed, codec="msgpack")
    await raw.say(b"\0\0\0\1\xc1" + b"\0\0\0\0" + b"\0\0\0\1\x80")
    for _ in range(2):
        with pytest.raises(MalformedMessageError):
            await raw.channel.receive()
    assert await raw.channel.receive() == {}


async def test_a_length_over_the_limit_breaks_the_channel_after_what_came_before() -> None:
    raw = Raw(length_prefixed, max_message_bytes=100)
    await raw.say(b"\0\0\0\2{}" + struct.pack(">I", 101) + b"x" * 101)
    assert await raw.channel.receive_batch() == [{}]
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="a length of 101 bytes") as caught:
            await raw.channel.receive_batch()
        assert isinstance(caught.value.__cause__, MessageTooLargeError)


@either
async def test_an_end_between_messages_is_the_end_of_the_channel(make: Any) -> None:
    raw = Raw(make)
    await raw.say(b'{"a":1}\n' if make is lines else b"\0\0\0\7" + b'{"a":1}')
    await raw.stream.aclose()
    assert [message async for message in raw.channel] == [{"a": 1}]
    with pytest.raises(trio.EndOfChannel):
        await raw.channel.receive_batch()


@either
async def test_an_end_inside_a_message_breaks_the_channel(make: Any) -> None:
    raw = Raw(make)
    await raw.say(b"\0\0")
    await raw.stream.aclose()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="ended inside a message") as caught:
            await raw.channel.receive()
        assert isinstance(caught.value.__cause__, MalformedMessageError)


async def test_an_end_inside_a_line_too_long_breaks_the_channel() -> None:
    raw = Raw(lines, max_message_bytes=10)
    await raw.say(b"x" * 100)
    await raw.stream.aclose()
    with pytest.raises(trio.BrokenResourceError, match="100 bytes came, and no newline"):
        await raw.channel.receive()


@either
async def test_a_message_too_large_is_not_sent_and_the_next_one_is(make: Any) -> None:
    raw = Raw(make, max_message_bytes=100)
    with pytest.raises(MessageTooLargeError, match="max_message_bytes is 100"):
        await raw.channel.send({"text": "x" * 100})
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.a"):
        await raw.channel.send({"a": math.nan})
    await raw.channel.send({})
    assert await raw.stream.receive_some() in (b"{}\n", b"\0\0\0\2{}")


class Nameless:
    """A codec that does not say what its bytes are."""

    def encode(self, message: Any) -> bytes:
        return b"{}"

    def decode(self, data: bytes) -> Any:
        return {}


class Text(Nameless):
    text = True


async def test_a_codec_of_ones_own_says_that_it_is_text() -> None:
    raw = Raw(lines, codec=Text())
    await raw.channel.send({})
    assert await raw.stream.receive_some() == b"{}\n"


@pytest.mark.parametrize("codec", ["msgpack", MsgpackCodec(), Nameless()])
def test_a_binary_codec_is_not_for_lines(codec: Any) -> None:
    with pytest.raises(ValueError, match=r"carry it with length_prefixed\(\)"):
        lines(Stuck(), codec=codec)


class Indented(JsonCodec):
    """A codec that breaks its promise of one line."""

    def encode(self, message: Any) -> bytes:
        return super().encode(message).replace(b",", b",\n")


async def test_a_codec_that_breaks_lines_is_caught_before_the_peer_loses_the_edges() -> None:
    raw = Raw(lines, codec=Indented())
    with pytest.raises(MalformedMessageError, match="line break"):
        await raw.channel.send({"a": 1, "b": 2})


@either
@pytest.mark.parametrize("options", [{"max_message_bytes": 0}, {"max_message_bytes": math.nan}, {"close_timeout": -1}])
def test_an_option_out_of_range_is_refused(make: Any, options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(Stuck(), **options)


async def test_many_frames_are_one_write() -> None:
    stream = Stuck()
    channel = lines(stream)
    frames = [channel.encode({"n": n}) for n in range(3)]
    await channel.send_frames(frames)
    assert stream.written == [b'{"n":0}\n{"n":1}\n{"n":2}\n']
    assert channel.bytes_sent == 24


async def test_many_messages_of_one_read_are_one_batch() -> None:
    raw = Raw(lines)
    await raw.say(b'{"a":1}\n' * 100)
    assert await raw.channel.receive_batch() == [{"a": 1}] * 100
    assert raw.channel.bytes_received == 800


LONG = "x" * 5000


@pytest.fixture
def slow_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each long message takes its time."""
    monkeypatch.setattr(_wire, "TOGETHER_SECONDS", 0)


async def read_at_once(raw: Raw, data: bytes) -> None:
    """Have the channel's next read take all of this."""
    raw.channel._pace.read_bytes = _pace.MOST_BYTES
    await raw.say(data)


async def test_long_messages_that_are_soon_decoded_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10e-6, 15e-6, 21e-6, 0.0])
    monkeypatch.setattr(_wire, "perf_counter", lambda: next(now))
    raw = Raw(lines)
    await read_at_once(raw, 4 * raw.channel.encode({"text": LONG}))
    assert [len(await raw.channel.receive_batch()) for _ in range(2)] == [3, 1]


@either
@pytest.mark.usefixtures("slow_decoding")
async def test_long_messages_of_one_read_come_one_by_one_and_short_ones_together(make: Any) -> None:
    raw = Raw(make)
    channel = raw.channel
    messages = [{"n": 1}, {"n": 2, "text": LONG}, {"n": 3, "text": LONG}, {"n": 4}, {"n": 5}, {"n": 6, "text": LONG}]
    frames = [channel.encode(message) for message in [*messages, {"n": 7}]]
    await read_at_once(raw, b"".join(frames)[:-1])
    assert await channel.receive_batch() == messages[:2]
    assert channel.kept_bytes > sum(map(len, frames[2:])) - 40, "those that are not decoded, without their edges"
    assert channel.bytes_received < sum(map(len, frames[:2])) + 40
    assert await channel.receive_batch() == messages[2:3]
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.receive_batch()
    assert scope.cancelled_caught
    assert await channel.receive_batch() == messages[3:]
    assert channel.kept_bytes == len(frames[-1]) - 1
    assert channel.bytes_received == sum(map(len, frames)) - 1
    await raw.say(frames[-1][-1:])
    assert await channel.receive_batch() == [{"n": 7}]


@pytest.mark.usefixtures("slow_decoding")
async def test_a_bad_message_among_long_ones_stands_in_its_place_and_an_end_behind_them_comes_last() -> None:
    raw = Raw(lines, max_message_bytes=2 * len(LONG))
    channel = raw.channel
    frames = [channel.encode({"text": LONG}), b'{"text":' + LONG.encode() + b"\n", b"x" * 3 * len(LONG) + b"\n"]
    await read_at_once(raw, b"".join([*frames, b'{"n":1}\n', frames[0]]))
    await raw.stream.aclose()
    assert await channel.receive_batch() == [{"text": LONG}]
    malformed, too_large, one, long = [*await channel.receive_batch(), *await channel.receive_batch()]
    assert (type(malformed), type(too_large)) == (MalformedMessageError, MessageTooLargeError)
    assert (one, long) == ({"n": 1}, {"text": LONG})
    with pytest.raises(trio.EndOfChannel):
        await channel.receive_batch()


@pytest.mark.usefixtures("slow_decoding")
async def test_long_messages_that_are_not_decoded_yet_are_gone_when_this_side_closes() -> None:
    raw = Raw(lines)
    await read_at_once(raw, 3 * raw.channel.encode({"text": LONG}))
    assert len(await raw.channel.receive_batch()) == 1
    await raw.channel.aclose()
    assert raw.channel.kept_bytes == 0
    with pytest.raises(trio.ClosedResourceError):
        await raw.channel.receive_batch()


async def test_a_channel_keeps_nothing_of_the_long_messages_that_it_gave() -> None:
    raw = Raw(lines)
    for receive in (raw.channel.receive, raw.channel.receive):
        await read_at_once(raw, raw.channel.encode({"text": LONG}))
        await receive()
        assert raw.channel.weights == {}


async def test_a_read_grows_while_it_costs_little_and_shrinks_with_the_time_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(_pace, "perf_counter", lambda: now[0])
    raw = Raw(lines)
    sizes: list[int] = []
    for took in [0.0] * 8 + [0.064] * 3 + [1.0, 1.0, 0.0, 0.0]:
        await raw.say(b'{"a":1}\n' * 8192)
        sizes.append(8 * len(await raw.channel.receive_batch()))
        now[0] += took
        raw.channel.pace()
    assert sizes[:7] == [1024, 2048, 4096, 8192, 16384, 32768, 65536]
    assert sizes[7:10] == [65536, 65536, 1024], "a 64th of it, which took so much too long"
    assert sizes[10:] == [128, 128, 128, 128, 256], "no less than that"


async def test_a_read_does_not_grow_while_less_comes_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pace, "perf_counter", lambda: 0.0)  # reads that cost nothing would grow
    raw = Raw(lines)
    for _ in range(50):
        await raw.say(b'{"a":1}\n' * 100)
        assert len(await raw.channel.receive_batch()) == 100
        raw.channel.pace()
    await raw.say(b'{"a":1}\n' * 8192)
    assert len(await raw.channel.receive_batch()) == 1024 / 8


async def test_busy_channels_among_many_read_in_turns_and_any_other_reads_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(_pace, "perf_counter", lambda: now[0])
    passes: list[int] = [0]

    async def read(raw: Raw, took: float, read_in: list[int]) -> None:
        for _ in range(40):
            await raw.say(b'{"a":1}\n' * 1000)
            await raw.channel.receive_batch()
            now[0] += took
            raw.channel.pace()
            read_in.append(passes[0])

    async def count() -> None:
        while True:
            passes[0] += 1
            await trio.lowlevel.checkpoint()

    busy: list[int] = []
    alone: list[int] = []
    idle: list[int] = []
    async with trio.open_nursery() as counting:
        counting.start_soon(count)
        await read(Raw(lines), 0.0, alone)
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(read, Raw(lines), 0.002, busy)
            nursery.start_soon(read, Raw(lines), 0.0, idle)
        counting.cancel_scope.cancel()
    late = [in_pass for in_pass in busy if in_pass > busy[-1] / 2]
    assert max(late.count(in_pass) for in_pass in late) <= _pace.FEW
    assert idle[-1] - idle[0] <= alone[-1] - alone[0] + 2, "it takes no turns"


async def test_a_send_cut_off_in_the_middle_ends_sending_and_not_receiving(autojump_clock: MockClock) -> None:
    far, near = trio.testing.lockstep_stream_pair()
    channel = lines(near)
    with trio.move_on_after(1) as scope:
        await channel.send({"a": 1})
    assert scope.cancelled_caught
    assert channel.send_frame_now(b"{}\n") is None
    with pytest.raises(trio.BrokenResourceError, match="an earlier send was cut off"):
        await channel.send({})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send_all, b"{}\n")
        assert await channel.receive() == {}


async def test_a_send_cancelled_while_it_waits_for_its_turn_cuts_nothing(autojump_clock: MockClock) -> None:
    far, near = trio.testing.lockstep_stream_pair()
    channel = lines(near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, {"a": 1})
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await channel.send({"never": "sent"})
        nursery.start_soon(channel.send, {"a": 2})
        data = b""
        while data.count(b"\n") < 2:
            data += await far.receive_some()
    assert data == b'{"a":1}\n{"a":2}\n'


async def test_two_tasks_cannot_receive_at_once() -> None:
    raw = Raw(lines)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.channel.receive)
        await trio.testing.wait_all_tasks_blocked()
        for call in (raw.channel.receive, raw.channel.receive_batch):
            with pytest.raises(trio.BusyResourceError):
                await call()
        await raw.say(b"{}\n")


async def test_two_tasks_cannot_take_the_same_message_in_hand() -> None:
    raw = Raw(lines)
    await raw.say(b'{"a":1}\n{"a":2}\n')
    assert await raw.channel.receive() == {"a": 1}
    outcomes: list[Any] = []

    async def receive() -> None:
        outcomes.append(await outcome.acapture(raw.channel.receive))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
    (refused,) = [one.error for one in outcomes if isinstance(one, outcome.Error)]
    (taken,) = [one.value for one in outcomes if isinstance(one, outcome.Value)]
    assert isinstance(refused, trio.BusyResourceError)
    assert taken == {"a": 2}


async def test_closing_a_stream_that_does_not_say_goodbye_takes_close_timeout(autojump_clock: MockClock) -> None:
    stream = Stuck()
    await lines(stream, close_timeout=3).aclose()
    assert (stream.closings, trio.current_time()) == (["forcefully"], 3.0)


async def test_closing_while_cancelled_closes_at_once(autojump_clock: MockClock) -> None:
    stream = Stuck()
    channel = lines(stream)
    with trio.move_on_after(1) as scope:
        await channel.aclose()
    assert (stream.closings, scope.cancelled_caught, trio.current_time()) == (["forcefully"], True, 1.0)
    await channel.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


async def test_who_closes_second_waits_for_who_closes_first(autojump_clock: MockClock) -> None:
    """Else it would go on to close the stream under a goodbye that is being said."""
    stream = Stuck()
    channel = lines(stream, close_timeout=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await channel.aclose()
        assert (stream.closings, trio.current_time()) == (["forcefully"], 3.0)


async def test_who_closes_second_and_is_cancelled_ends_the_goodbye(autojump_clock: MockClock) -> None:
    stream = Stuck()
    channel = lines(stream, close_timeout=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.aclose)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await channel.aclose()
        assert scope.cancelled_caught
    assert (stream.closings, trio.current_time()) == (["forcefully"], 1.0)


async def test_messages_in_hand_are_gone_when_this_side_closes() -> None:
    raw = Raw(lines)
    await raw.say(b"{}\n{}\n")
    await raw.channel.receive()
    await raw.channel.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await raw.channel.receive()


async def test_an_abandoned_channel_is_silent() -> None:
    Raw(lines)
    gc.collect()


async def test_the_error_of_a_batch_is_a_fresh_object_each_time() -> None:
    raw = Raw(lines)
    await raw.say(b"x\nx\n")
    first, second = await raw.channel.receive_batch()
    assert isinstance(first, MessageError)
    assert first is not second


async def flood(raw: Raw, useless: bytes) -> None:
    """Send the same without end, until nobody listens any more."""
    while True:
        await raw.say(useless * 100)
        await trio.sleep(0.001)


async def read_all(channel: FramedChannel, seen: list[tuple[float, int]]) -> None:
    """Read messages that cannot be read, until the channel ends."""
    while True:
        batch = await channel.receive_batch()
        assert all(isinstance(message, MalformedMessageError) for message in batch)
        seen.append((trio.current_time(), len(batch)))


def useless_of(make: Callable[..., FramedChannel]) -> bytes:
    return b"!\n" if make is lines else b"\0\0\0\x01!"


@either
async def test_a_peer_that_sends_little_of_use_is_read_more_slowly_and_then_no_more(
    make: Callable[..., FramedChannel], autojump_clock: MockClock
) -> None:
    raw = Raw(make)
    seen: list[tuple[float, int]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, raw, useless_of(make))
        with pytest.raises(trio.BrokenResourceError, match=r"the peer sends little of use: .* messages that cannot"):
            await read_all(raw.channel, seen)
        assert 5 <= trio.current_time() < 7
        nursery.cancel_scope.cancel()
    assert sum(number for at, number in seen if at < 0.05) >= 1000
    assert sum(number for at, number in seen if at > 1.1) <= 150 * 6


@either
async def test_useless_messages_among_as_many_useful_ones_cost_nothing(
    make: Callable[..., FramedChannel], autojump_clock: MockClock
) -> None:
    raw = Raw(make)
    pair = b"!\n{}\n" if make is lines else b"\0\0\0\x01!\0\0\0\x02{}"
    for _ in range(100):
        await raw.say(pair * 100)
        got = 0
        while got < 200:
            got += len(await raw.channel.receive_batch())
    assert trio.current_time() == 0


@either
async def test_useless_messages_among_as_many_useful_ones_cost_nothing_where_each_is_read_alone(
    make: Callable[..., FramedChannel], autojump_clock: MockClock
) -> None:
    raw = Raw(make)
    useful = b"{}\n" if make is lines else b"\0\0\0\x02{}"
    for _ in range(1500):
        for message in (useful, useless_of(make)):
            await raw.say(message)
            assert len(await raw.channel.receive_batch()) == 1
    assert trio.current_time() == 0
    for _ in range(3000):
        await raw.say(useful)
        await raw.channel.receive_batch()
    for number in (1100, 1100, 1):
        await raw.say(useless_of(make) * number)
        got = 0
        while got < number:
            got += len(await raw.channel.receive_batch())
    assert trio.current_time() > 0.5, "useful ones pay for one read, and for no flood later"


@either
async def test_a_reader_that_is_made_to_wait_is_woken_when_the_channel_is_closed(
    make: Callable[..., FramedChannel], autojump_clock: MockClock
) -> None:
    raw = Raw(make)
    await raw.say(useless_of(make) * 2000)
    closed = outcome.Value[None](None)

    async def read() -> None:
        nonlocal closed
        closed = await outcome.acapture(read_all, raw.channel, [])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(0.5)
        assert raw.channel.receive_batch_now() == []
        await raw.channel.aclose()
    assert isinstance(closed, outcome.Error)
    assert isinstance(closed.error, trio.ClosedResourceError)
    assert trio.current_time() == 0.5
