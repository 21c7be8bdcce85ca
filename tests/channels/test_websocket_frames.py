"""The frames of a WebSocket, byte by byte: what is read, what is refused and with which close code, and any cut."""

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from psession.errors import MalformedMessageError, MessageTooLargeError

from ..effort import examples
from .websocket_bytes import LIMIT, MASK, SNOWMAN, close_code, framing, raw

WELL = {
    "text": (raw(0x81, b"{}"), [b"{}"]),
    "binary": (raw(0x82, b"\xff\x00"), [b"\xff\x00"]),
    "empty": (raw(0x81), [b""]),
    "UTF-8": (raw(0x81, SNOWMAN), [SNOWMAN]),
    "125 bytes": (raw(0x81, b"x" * 125), [b"x" * 125]),
    "126 bytes, so 16 bits of length": (raw(0x81, b"x" * 126), [b"x" * 126]),
    "65,535 bytes": (raw(0x81, b"x" * 65535), [b"x" * 65535]),
    "65,536 bytes, so 64 bits of length": (raw(0x81, b"x" * 65536), [b"x" * 65536]),
    "as long as may be": (raw(0x81, b"x" * LIMIT), [b"x" * LIMIT]),
    "two fragments": (raw(0x01, b"ab") + raw(0x80, b"cd"), [b"abcd"]),
    "fragments of nothing": (raw(0x01) + raw(0x00) * 50 + raw(0x80), [b""]),
    "UTF-8 cut by a fragment": (raw(0x01, SNOWMAN[:1]) + raw(0x00, SNOWMAN[1:2]) + raw(0x80, SNOWMAN[2:]), [SNOWMAN]),
    "binary fragments": (raw(0x02, b"\xff") + raw(0x80, b"\xfe"), [b"\xff\xfe"]),
    "a ping between fragments": (raw(0x01, b"a") + raw(0x89, b"?") + raw(0x80, b"b"), [b"ab"]),
    "a pong nobody asked for": (raw(0x8A, b"!") + raw(0x81, b"a"), [b"a"]),
    "around fragments": (raw(0x81, b"1") + raw(0x01, b"2") + raw(0x80, b"3") + raw(0x82, b"4"), [b"1", b"23", b"4"]),
    "a ping of 125 bytes": (raw(0x89, b"x" * 125) + raw(0x81, b"a"), [b"a"]),
}  # fmt: skip - a table


@pytest.mark.parametrize("name", WELL)
@pytest.mark.parametrize("step", [1, 2, 7, 1 << 20])
def test_what_rfc_6455_allows_is_read_whatever_the_cut(name: str, step: int) -> None:
    data, messages = WELL[name]
    step = max(step, len(data) // 500)
    end = framing()
    got = [found for at in range(0, len(data), step) for found in end.feed(data[at : at + step])]
    assert got == messages
    assert end.open
    assert not end.ended


ILL = {
    "a reserved bit": (raw(0xC1, b"a"), 1002, "reserved bits"),
    "another reserved bit": (raw(0xA1, b"a"), 1002, "reserved bits"),
    "a third reserved bit": (raw(0x91, b"a"), 1002, "reserved bits"),
    "a reserved bit on a ping": (raw(0xC9, b"a"), 1002, "reserved bits"),
    "a reserved opcode": (raw(0x83, b"a"), 1002, "invalid opcode"),
    "a reserved control opcode": (raw(0x8B, b"a"), 1002, "invalid opcode"),
    "a masked frame from a server": (raw(0x81, b"a", mask=MASK), 1002, "incorrect masking"),
    "a masked long frame from a server": (raw(0x81, b"a" * 200, mask=MASK), 1002, "incorrect masking"),
    "a continuation of nothing": (raw(0x80, b"a"), 1002, "unexpected continuation"),
    "a new message inside of one": (raw(0x01, b"a") + raw(0x81, b"b"), 1002, "expected a continuation"),
    "a fragment of a ping": (raw(0x09, b"a"), 1002, "fragmented control"),
    "a ping of 126 bytes": (raw(0x89, b"a" * 126), 1002, "control frame too long"),
    "a close frame of 126 bytes": (raw(0x88, b"\x03\xe8" + b"a" * 124), 1002, "control frame too long"),
    "a close frame of one byte": (raw(0x88, b"\x03"), 1002, "close frame too short"),
    "16 bits for a length of 7": (raw(0x81, b"a", field=2), 1002, "a length of 1 in 2 bytes"),
    "64 bits for a length of 7": (raw(0x81, b"a", field=8), 1002, "a length of 1 in 8 bytes"),
    "64 bits for a length of 16": (raw(0x81, b"a" * 300, field=8), 1002, "a length of 300 in 8 bytes"),
    "a length of 2**63": (b"\x81\x7f" + struct.pack(">Q", 2**63), 1002, "a length of 9223372036854775808"),
    "a length of 2**63 - 1": (b"\x81\x7f" + struct.pack(">Q", 2**63 - 1), 1009, "exceeds limit"),
    "one byte too many": (raw(0x81, b"x" * (LIMIT + 1))[:10], 1009, f"max_message_bytes is {LIMIT}"),
    "fragments too many": (raw(0x01, b"x" * 60_000) + raw(0x80, b"x" * 60_000), 1009, "after reading 60000 bytes"),
    "text that is no UTF-8": (raw(0x81, b"\xff"), 1007, "invalid start byte at position 0"),
    "a surrogate": (raw(0x81, b"a\xed\xa0\x80"), 1007, "position 1"),
    "UTF-8 that breaks off": (raw(0x81, SNOWMAN[:2]), 1007, "unexpected end"),
    "overlong UTF-8": (raw(0x81, b"\xc0\xaf"), 1007, "invalid start byte"),
    "no UTF-8 over fragments": (raw(0x01, SNOWMAN[:2]) + raw(0x80, b"a"), 1007, "invalid continuation byte"),
    "a reason that is no UTF-8": (raw(0x88, b"\x03\xe8\xff"), 1007, "utf-8"),
}


@pytest.mark.parametrize("name", ILL)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_rfc_6455_forbids_ends_it_with_the_code_that_belongs_there(name: str, step: int) -> None:
    data, code, words = ILL[name]
    step = max(step, len(data) // 500)
    end = framing()
    assert end.feed(raw(0x81, b"before")) == [b"before"]
    for at in range(0, len(data), step):
        assert end.feed(data[at : at + step]) == []
    assert end.ended
    assert not end.open
    assert close_code(end.take_control()) == code
    assert words in str(end.lost)
    assert isinstance(end.lost, MessageTooLargeError if code == 1009 else MalformedMessageError)
    assert end.feed(raw(0x81, b"after")) == []


def test_an_unmasked_frame_from_a_client_is_refused() -> None:
    end = framing(Side.SERVER)
    assert end.feed(raw(0x81, b"a", mask=MASK)) == [b"a"]
    assert end.feed(raw(0x81, b"a")) == []
    assert end.take_control()[2:4] == b"\x03\xea"
    assert end.hangs_up


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 4999])
def test_a_close_frame_is_echoed(code: int) -> None:
    end = framing()
    assert end.feed(raw(0x81, b"a") + raw(0x88, struct.pack(">H", code) + b"bye") + raw(0x81, b"b")) == [b"a"]
    assert (end.close_code, end.close_reason, end.ended, end.open, end.lost) == (code, "bye", True, False, None)
    assert close_code(end.take_control()) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_refused(code: int) -> None:
    end = framing()
    end.feed(raw(0x88, struct.pack(">H", code)))
    assert close_code(end.take_control()) == 1002
    assert isinstance(end.lost, MalformedMessageError)


def test_a_close_frame_without_a_code_is_1005_and_answered_with_none() -> None:
    end = framing()
    end.feed(raw(0x88))
    assert end.close_code == 1005
    assert end.take_control()[:2] == b"\x88\x80"


def test_of_many_pings_the_last_is_answered() -> None:
    end = framing(Side.SERVER)
    end.feed(b"".join(raw(0x89, bytes([number]), mask=MASK) for number in range(100)))
    assert end.take_control() == b"\x8a\x01\x63"
    assert not end.control_waits


def test_pong_goes_before_ping_before_close() -> None:
    end = framing(Side.SERVER)
    end.close(1000)
    end.ping()
    end.feed(raw(0x89, b"?", mask=MASK))
    assert end.take_control() == b"\x8a\x01?" + b"\x88\x02\x03\xe8"
    assert not end.hangs_up


@pytest.mark.parametrize("text", [True, False])
def test_text_for_a_codec_of_bytes_comes_as_text(text: bool) -> None:
    end = framing(text=text)
    assert end.feed(raw(0x81, b"a") + raw(0x82, b"b")) == [b"a" if text else "a", b"b"]
    assert end.frame(b"{}")[0] == (0x81 if text else 0x82)


@pytest.mark.parametrize("size", [0, 125, 126, 127, 255, 256, 257, 1023, 1024, 65535, 65536])
@pytest.mark.parametrize("side", list(Side))
def test_a_frame_is_read_wherever_its_first_bytes_are_cut(size: int, side: Side) -> None:
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    sender = framing(Side(1 - side), text=False)
    stream = sender.frame(payload) + sender.frame(b"next")
    for cut in range(16):
        end = framing(side, text=False, limit=65536)
        assert end.feed(stream[:cut]) + end.feed(stream[cut:]) == [payload, b"next"]
    end = framing(side, text=False, limit=65536)
    found = [message for at in range(16) for message in end.feed(stream[at : at + 1])]
    assert found + end.feed(stream[16:]) == [payload, b"next"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("side", list(Side))
def test_frames_are_those_that_the_library_writes_and_reads(size: int, side: Side) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    frame = framing(side, text=False).frame(payload)
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    peer = Protocol(other)
    peer.receive_data(frame)
    (event,) = peer.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, bytes(event.data), event.fin) == (Opcode.BINARY, payload, True)
    if side is Side.SERVER:
        assert frame == Frame(Opcode.BINARY, payload).serialize(mask=False)


def test_no_two_masks_of_a_client_are_the_same() -> None:
    end = framing()
    assert len({end.frame(b"")[2:6] for _ in range(3000)}) > 2990


def test_a_bomb_of_zeros_stops_at_the_limit() -> None:
    sender, receiver = framing(Side.SERVER, deflate=True), framing(limit=1000, deflate=True)
    (small, bomb) = sender.finish([b"x" * 1000, b"0" * 1_000_000])
    assert len(bomb) < 2000
    assert receiver.feed(small) == [b"x" * 1000]
    assert receiver.feed(bomb[:1000]) + receiver.feed(bomb[1000:]) == []
    assert isinstance(receiver.lost, MessageTooLargeError)


def test_without_a_limit_none_holds() -> None:
    end = framing(limit=float("inf"))
    assert end.feed(raw(0x81, b"x" * 3_000_000)) == [b"x" * 3_000_000]


@given(
    messages=st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 4), st.booleans()), max_size=12),
    cuts=st.lists(st.integers(0, 5000), max_size=20),
    side=st.sampled_from(list(Side)),
    deflate=st.booleans(),
)
@settings(max_examples=examples(150), deadline=None)
def test_messages_survive_any_cut_and_any_fragments(
    messages: list[tuple[bytes, int, bool]], cuts: list[int], side: Side, deflate: bool
) -> None:
    """Each message whole or in fragments, with a ping before any of them."""
    sender, receiver = framing(side, text=False, deflate=deflate), framing(Side(1 - side), text=False, deflate=deflate)
    mask = MASK if side is Side.CLIENT else None
    stream = b""
    for payload, fragments, pinged in messages:
        if pinged:
            stream += raw(0x89, b"?", mask=mask)
        if not fragments:
            frame = sender.frame(payload)
            stream += sender.finish([frame])[0] if deflate else frame
            continue
        stream += raw(0x02, b"", mask=mask)
        for at in range(0, len(payload), fragments * 20 + 1):
            stream += raw(0x00, payload[at : at + fragments * 20 + 1], mask=mask)
            stream += raw(0x8A, b"!", mask=mask)
        stream += raw(0x80, b"", mask=mask)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    got = [found for one, two in itertools.pairwise(places) for found in receiver.feed(stream[one:two])]
    assert got == [payload for payload, _, _ in messages]
    assert receiver.open


@given(st.binary(max_size=200), st.integers(0, 200), st.sampled_from(list(Side)))
@settings(max_examples=examples(300), deadline=None)
def test_noise_in_any_cut_ends_the_same_way(data: bytes, cut: int, side: Side) -> None:
    """Whatever comes: no exception, nothing kept beyond the limit, and the cut changes nothing."""
    whole, cut_up = framing(side, limit=50), framing(side, limit=50)
    one = whole.feed(data)
    two = cut_up.feed(data[:cut]) + cut_up.feed(data[cut:])
    assert one == two
    assert str(whole.lost) == str(cut_up.lost)
    assert (whole.ended, whole.close_code) == (cut_up.ended, cut_up.close_code)
    assert len(whole._kept) <= 50 + 14
