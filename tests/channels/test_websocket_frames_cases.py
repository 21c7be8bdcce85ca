"""The cases of the Autobahn test suite, by its own numbers, as bytes that one end is fed with, client and server."""

import functools
import random
import struct
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import Side
from websockets.uri import parse_uri

from psession.channels._websocket_frames import WebSocketFraming
from psession.channels._websocket_handshake import feed, server_protocol
from psession.channels._websocket_options import WebSocketOptions
from psession.errors import MalformedMessageError

from .websocket_bytes import MASK, framing, raw

Frames = list[tuple[int, bytes]]

TEXT, BINARY, CONT, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
NOT_LAST = 0x7F  # & it: the first byte of a fragment that others follow
RSV1 = 0x40
BYTES = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
BYE = (CLOSE, b"\x03\xe8")


def told(frames: Frames, side: Side) -> bytes:
    """The frames as this side's peer writes them."""
    return b"".join(raw(first, payload, mask=MASK if side is Side.SERVER else None) for first, payload in frames)


def said(end: Any, side: Side) -> Frames:
    """The short frames that this side has to say, unmasked."""
    data, frames = end.take_control(), []
    while data:
        first, size = data[0], data[1] & 0x7F
        mask, data = (b"\0" * 4, data[2:]) if side is Side.SERVER else (data[2:6], data[6:])
        frames.append((first, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data[:size]))))
        data = data[size:]
    return frames


def codes(frames: Frames) -> list[int]:
    return [int.from_bytes(payload[:2], "big") for first, payload in frames if first == CLOSE]


def each(text: bytes) -> Frames:
    """A text message in fragments of one byte."""
    return [(TEXT & NOT_LAST, b""), *((0, text[at : at + 1]) for at in range(len(text))), (CONT, b"")]


def parts(kind: int, message: bytes, size: int) -> Frames:
    """A message in fragments of so many bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return [(kind & NOT_LAST, pieces[0]), *((0, piece) for piece in pieces[1:-1]), (CONT, pieces[-1])]


def feed_in_steps(end: Any, data: bytes, step: int) -> list[Any]:
    step = max(step, len(data) // 500)
    return [found for at in range(0, len(data), step) for found in end.feed(data[at : at + step])]


both_sides = pytest.mark.parametrize("side", list(Side))
any_step = pytest.mark.parametrize("step", [1, 1 << 20])

# What is read: the messages, and the answers to be given.
READ: dict[str, tuple[Frames, list[bytes], Frames]] = {
    **{
        f"1.{kind - 0x80}, {size} bytes": ([(kind, b"*" * size)], [b"*" * size], [])
        for kind in (TEXT, BINARY)
        for size in (0, 125, 126, 127, 128, 65535, 65536)
    },
    "2.1 an empty ping": ([(PING, b"")], [], [(PONG, b"")]),
    "2.2 a ping with text": ([(PING, b"Hello")], [], [(PONG, b"Hello")]),
    "2.3 a ping with bytes": ([(PING, BYTES)], [], [(PONG, BYTES)]),
    "2.4 a ping of 125 bytes": ([(PING, b"\xfe" * 125)], [], [(PONG, b"\xfe" * 125)]),
    "2.7 an empty pong": ([(PONG, b"")], [], []),
    "2.8 a pong with a payload": ([(PONG, b"unasked")], [], []),
    "2.9 a pong, then a ping": ([(PONG, b"unasked"), (PING, b"ask")], [], [(PONG, b"ask")]),
    "2.10 ten pings, of which the last counts": ([(PING, b"%d" % n) for n in range(10)], [], [(PONG, b"9")]),
    "5.3 two fragments": (parts(TEXT, b"abcd", 2), [b"abcd"], []),
    "5.6 a ping between them": ([(0x01, b"ab"), (PING, b"?"), (CONT, b"cd")], [b"abcd"], [(PONG, b"?")]),
    "5.19 pings between five": (
        [(0x01, b"1"), (0, b"2"), (PING, b"x"), (0, b"3"), (0, b"4"), (PING, b"y"), (CONT, b"5")],
        [b"12345"],
        [(PONG, b"y")],
    ),
    "6.1.1 no text": ([(TEXT, b"")], [b""], []),
    "6.1.2 three fragments of none": ([(0x01, b""), (0, b""), (CONT, b"")], [b""], []),
    "6.1.3 only the middle has some": ([(0x01, b""), (0, b"middle"), (CONT, b"")], [b"middle"], []),
    "7.1.1 a message, then a close": ([(TEXT, b"a"), BYE], [b"a"], [BYE]),
    "7.1.2 two closes": ([BYE, BYE], [], [BYE]),
    "7.1.3 a ping after the close": ([BYE, (PING, b"?")], [], [BYE]),
    "7.1.4 a message after the close": ([BYE, (TEXT, b"a")], [], [BYE]),
    "7.1.6 256 KiB, a close, a ping": ([(TEXT, b"*" * 2**18), BYE, (PING, b"?")], [b"*" * 2**18], [BYE]),
    "7.3.1 a close that says nothing": ([(CLOSE, b"")], [], [(CLOSE, b"")]),
    "7.3.3 a close with a code": ([BYE], [], [BYE]),
    "7.3.4 a close with a reason": ([(CLOSE, b"\x03\xe8ok")], [], [(CLOSE, b"\x03\xe8ok")]),
    "7.3.5 a reason of 123 bytes": ([(CLOSE, b"\x03\xe8" + b"*" * 123)], [], [(CLOSE, b"\x03\xe8" + b"*" * 123)]),
    **{
        f"7.7 a close with code {code}": ([(CLOSE, struct.pack(">H", code))], [], [(CLOSE, struct.pack(">H", code))])
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    },
    **{f"9, {size} bytes": ([(BINARY, b"*" * size)], [b"*" * size], []) for size in (2**20, 2**22)},
    **{
        f"9, 1 MiB in fragments of {size}": (parts(TEXT, b"*" * 2**20, size), [b"*" * 2**20], [])
        for size in (64, 256, 4096, 65536, 2**19)
    },
}


@both_sides
@pytest.mark.parametrize("name", READ)
def test_what_is_allowed_is_read_and_answered(side: Side, name: str) -> None:
    frames, messages, answers = READ[name]
    for step in (1, 1 << 30):
        end = framing(side, limit=2**22)
        assert feed_in_steps(end, told(frames, side), step) == messages
        assert said(end, side) == answers
        assert end.lost is None
        assert end.open is (CLOSE not in dict(answers))


# What is refused with 1002, after the messages before it.
REFUSED: dict[str, tuple[Frames, list[bytes]]] = {
    "2.5 a ping of 126 bytes": ([(PING, b"\xfe" * 126)], []),
    **{
        f"3 reserved bits {bits} on opcode {opcode}": ([(TEXT, b"a"), (0x80 | bits << 4 | opcode, BYE[1])], [b"a"])
        for bits in range(1, 8)
        for opcode in (1, 2, 8, 9, 10)
    },
    **{
        f"4 opcode {opcode}{' with a payload' if payload else ''}": ([(TEXT, b"a"), (0x80 | opcode, payload)], [b"a"])
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for payload in (b"", b"reserved")
    },
    "5.1 a ping in fragments": (parts(PING, b"ab", 1), []),
    "5.2 a pong in fragments": (parts(PONG, b"ab", 1), []),
    "5.9 the end of no message": ([(CONT, b"a"), (TEXT, b"b")], []),
    "5.12 the middle of no message": ([(0, b"a"), (TEXT, b"b")], []),
    "5.15 more after the last fragment": ([*parts(TEXT, b"ab", 1), (0, b"c"), (TEXT, b"d")], [b"ab"]),
    "5.16 beginning with a continuation": ([(0, b"a"), (0x01, b"b"), (CONT, b"c")], []),
    "5.18 a second beginning": ([(0x01, b"a"), (TEXT, b"b")], []),
    "5.18 a second beginning, not the last": ([(0x01, b"a"), (0x01, b"b")], []),
    "7.3.2 a close of one byte": ([(CLOSE, b"a")], []),
    "7.3.6 a reason of 124 bytes": ([(CLOSE, b"\x03\xe8" + b"*" * 124)], []),
    "a close in fragments": ([(0x08, b"\x03\xe8"), (CONT, b"")], []),
    "a close of one byte inside of a message": ([(0x01, b"a"), (CLOSE, b"a")], []),
    **{
        f"7.9 a close with code {code}": ([(CLOSE, struct.pack(">H", code))], [])
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@both_sides
@any_step
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_forbidden_is_refused_after_what_came_before(side: Side, step: int, name: str) -> None:
    frames, messages = REFUSED[name]
    end = framing(side)
    assert feed_in_steps(end, told(frames, side), step) == messages
    assert codes(said(end, side)) == [1002]
    assert (end.ended, end.open, type(end.lost)) == (True, False, MalformedMessageError)


@both_sides
@any_step
def test_7_1_5_a_close_inside_of_a_message_is_answered_and_told(side: Side, step: int) -> None:
    """RFC 6455, 5.4: a control frame may come between fragments. The message will never be whole."""
    frames = [(TEXT & NOT_LAST, b"one"), (CLOSE, b"\x10\xe1enough"), (CONT, b"two")]
    end = framing(side)
    assert feed_in_steps(end, told(frames, side), step) == []
    assert said(end, side) == [(CLOSE, b"\x10\xe1enough")]
    assert (end.close_code, end.close_reason, end.ended) == (4321, "enough", True)
    assert str(end.lost) == "the peer closed the WebSocket inside of a message, with code 4321: enough"


# -- 6: UTF-8, from https://www.cl.cam.ac.uk/~mgk25/ucs/examples/UTF-8-test.txt ----------------------------------------

KOSME = "\u03ba\u1f79\u03c3\u03bc\u03b5".encode()

VALID = {
    "6.2 and 6.5": "24 c2a2 e282ac f0a4ada2 ceba e1bdb9 cf83 cebc ceb5",
    "6.7 the first of each length": "00 c280 e0a080 f0908080",
    "6.9 the last of each length": "7f dfbf efbfbf f48fbfbf",
    "6.11 on the edges": "ed9fbf ee8080 efbfbd f48fbfbf",
    "6.22 no characters": "efbfbe efbfbf f09fbfbe f09fbfbf f0afbfbe f0bfbfbf f18fbfbe f3bfbfbf f48fbfbe f48fbfbf",
    "6.23 specials": "efbfb9 efbfba efbfbb efbfbc efbfbd",
}

INVALID = {
    "6.3 in the midst of text": "cebae1bdb9cf83cebcceb5eda080656469746564",
    "6.4 beyond the last in the midst of text": "cebae1bdb9cf83cebcceb5f4908080656469746564",
    "6.8 the first of 5 and 6 bytes": "f888808080 fc8480808080",
    "6.10 the last of 4, 5 and 6 bytes": "f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf",
    "6.11 beyond the last": "f4908080",
    "6.12 continuations of nothing": "80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf "
    + bytes(range(0x80, 0xC0)).hex(),
    "6.13 lonely starts": " ".join(
        b"".join(b"%c " % byte for byte in range(*bounds)).hex()
        for bounds in ((0xC0, 0xE0), (0xE0, 0xF0), (0xF0, 0xF8), (0xF8, 0xFC), (0xFC, 0xFE))
    ),
    "6.14 the last byte missing": "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf",
    "6.15 all of these": "c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf",
    "6.16 impossible bytes": "fe ff fefeffff",
    "6.17 overlong ASCII": "c0af e080af f08080af f8808080af fc80808080af",
    "6.18 overlong to the utmost": "c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf",
    "6.19 overlong NUL": "c080 e08080 f0808080 f880808080 fc8080808080",
    "6.20 single surrogates": "eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf",
    "6.21 paired surrogates": "eda080edb080 eda080edbfbf edadbfedb080 edadbfedbfbf edae80edb080 edafbfedbfbf",
}
_WHOLE = {0, 2, 5, 7, 9, 11}  # where a character of KOSME ends
INVALID["6.6 prefixes"] = " ".join(KOSME[:stop].hex() for stop in range(len(KOSME)) if stop not in _WHOLE)
VALID["6.6 prefixes"] = " ".join(KOSME[:stop].hex() for stop in sorted(_WHOLE - {0}))


@both_sides
@pytest.mark.parametrize("name", VALID)
def test_text_is_read_whatever_its_fragments(side: Side, name: str) -> None:
    texts = [bytes.fromhex(text) for text in VALID[name].split()]
    for text in [*texts, b"".join(texts)]:
        end = framing(side)
        for frames in ([(TEXT, text)], each(text), [(BINARY, text)]):
            assert end.feed(told(frames, side)) == [text]
        end.feed(told([(CLOSE, b"\x03\xe8" + text[:123])], side))
        assert (end.lost, end.close_reason.encode()) == (None, text)


@both_sides
@pytest.mark.parametrize("name", INVALID)
def test_what_is_no_text_is_refused_with_1007_whatever_its_fragments(side: Side, name: str) -> None:
    for text in map(bytes.fromhex, INVALID[name].split()):
        for frames in ([(TEXT, text)], each(text), [(CLOSE, b"\x03\xe8" + text)]):
            end = framing(side)
            assert end.feed(told([(BINARY, text)], side)) == [text]
            assert end.feed(told(frames, side)) == []
            assert codes(said(end, side)) == [1007]
            assert (end.ended, type(end.lost)) == (True, MalformedMessageError)


@both_sides
@pytest.mark.parametrize("wrong", [b"\xf4\x90", b"\xed\xa0\x80", b"\xff", b"\xce\xce"])
def test_6_4_1_a_fragment_that_is_no_text_is_refused_before_the_last_has_come(side: Side, wrong: bytes) -> None:
    end = framing(side)
    assert end.feed(told([(TEXT & NOT_LAST, KOSME + wrong[:1])], side)) == []
    assert end.open is (wrong != b"\xff")
    end.feed(told([(0, wrong[1:])], side))
    assert codes(said(end, side)) == [1007]
    assert str(end.lost).endswith(f"at position {len(KOSME)}")


# -- 12 and 13: permessage-deflate (RFC 7692) --------------------------------------------------------------------------

HELLO = bytes.fromhex("f248cdc9c90700")
FINAL = bytes.fromhex("f348cdc9c9070000")  # its block says that it is the last of its stream

DEFLATED: dict[str, tuple[Frames, list[bytes]]] = {
    "7.2.3.1 one block": ([(TEXT | RSV1, HELLO)], [b"Hello"]),
    "7.2.3.1 in two fragments": ([((TEXT | RSV1) & NOT_LAST, HELLO[:3]), (CONT, HELLO[3:])], [b"Hello"]),
    "7.2.3.2 with the window before it": ([(TEXT | RSV1, HELLO), (TEXT | RSV1, b"\xf2\0\x11\0\0")], [b"Hello"] * 2),
    "7.2.3.3 a block that is not compressed": ([(TEXT | RSV1, bytes.fromhex("000500faff48656c6c6f00"))], [b"Hello"]),
    "7.2.3.4 a final block": ([(TEXT | RSV1, FINAL)], [b"Hello"]),
    "7.2.3.4 messages behind a final block": ([(TEXT | RSV1, FINAL), (TEXT | RSV1, HELLO)] * 2, [b"Hello"] * 4),
    "a final block with nothing behind": ([(TEXT | RSV1, FINAL[:-1]), (TEXT | RSV1, HELLO)], [b"Hello"] * 2),
    "a final block in fragments": (
        [*(((TEXT | RSV1) & NOT_LAST, FINAL[:3]), (0, FINAL[3:7]), (CONT, FINAL[7:])), (TEXT | RSV1, HELLO)],
        [b"Hello"] * 2,
    ),
    "7.2.3.5 two blocks": ([(TEXT | RSV1, bytes.fromhex("f248050000 00ffffcac9c90700"))], [b"Hello"]),
    "7.2.3.6 an empty message": ([(TEXT | RSV1, b"\0")], [b""]),
    "one that is not compressed": (
        [(TEXT | RSV1, HELLO), (TEXT, b"plain"), (TEXT | RSV1, HELLO)],
        [b"Hello", b"plain", b"Hello"],
    ),
    "a ping between fragments": (
        [((TEXT | RSV1) & NOT_LAST, HELLO[:3]), (PING, b"?"), (CONT, HELLO[3:])],
        [b"Hello"],
    ),
}  # fmt: skip - a table


@both_sides
@any_step
@pytest.mark.parametrize("name", DEFLATED)
def test_compressed_messages_are_read(side: Side, step: int, name: str) -> None:
    frames, messages = DEFLATED[name]
    end = framing(side, deflate=True)
    assert feed_in_steps(end, told(frames, side), step) == messages
    assert end.lost is None


@both_sides
@any_step
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([((TEXT | RSV1) & NOT_LAST, HELLO[:3]), (CONT | RSV1, HELLO[3:])], 1002),
        ([(TEXT & NOT_LAST, b"a"), (CONT | RSV1, HELLO)], 1002),
        ([(PING | RSV1, b"")], 1002),
        ([(CLOSE | RSV1, b"\x03\xe8")], 1002),
        ([(TEXT | 0x20, HELLO)], 1002),
        ([(TEXT | RSV1, b"\xff" * 10)], 1002),
        ([(TEXT | RSV1, HELLO), (TEXT | RSV1, FINAL + HELLO)], 1002),
        ([((TEXT | RSV1) & NOT_LAST, FINAL[:-1]), (CONT, HELLO)], 1002),
        ([(TEXT | RSV1, FINAL), (TEXT | RSV1, b"\xf2\0\x11\0\0")], 1002),
        ([(TEXT | RSV1, bytes.fromhex("000100feffff00"))], 1007),
    ],
)
def test_what_is_compressed_wrongly_is_refused(side: Side, step: int, frames: Frames, code: int) -> None:
    end = framing(side, deflate=True)
    assert set(feed_in_steps(end, told(frames, side), step)) <= {b"Hello"}
    assert codes(said(end, side)) == [code]
    assert isinstance(end.lost, MalformedMessageError)


def agreed(*offers: ClientPerMessageDeflateFactory) -> tuple[WebSocketFraming, WebSocketFraming]:
    """A client that makes these offers, and a server of ours that accepts one, both open."""
    options = WebSocketOptions(compression="deflate")
    client = ClientProtocol(parse_uri("ws://here/"), extensions=offers, max_size=options.max_size)
    server = server_protocol(options, origins=None, subprotocols=())
    client.send_request(client.connect())
    request, _ = feed(server, b"".join(client.data_to_send()))
    assert request is not None
    server.send_response(server.accept(request))
    feed(client, b"".join(server.data_to_send()))
    assert client.extensions
    frames = functools.partial(WebSocketFraming, text=True, max_message_bytes=options.max_message_bytes)
    return frames(client), frames(server)


offer = ClientPerMessageDeflateFactory
OFFERS = {
    "13.1": [offer()],
    "13.2": [offer(server_no_context_takeover=True)],
    "13.3": [offer(server_max_window_bits=9)],
    "13.4": [offer(server_max_window_bits=15)],
    "13.5": [offer(server_no_context_takeover=True, server_max_window_bits=9)],
    "13.6": [offer(server_no_context_takeover=True, server_max_window_bits=15)],
    "13.7": [offer(server_no_context_takeover=True, server_max_window_bits=9), offer(server_no_context_takeover=True)],
    "of the client": [offer(client_no_context_takeover=True, client_max_window_bits=9)],
    "as browsers do": [offer(client_max_window_bits=True)],
}


@pytest.mark.parametrize("name", OFFERS)
def test_messages_of_any_size_go_both_ways_whatever_was_agreed_on(name: str) -> None:
    """12.1 to 12.5: what compresses well, and what does not."""
    ends = agreed(*OFFERS[name])
    chance = random.Random(name)
    for size in [0, 16, 64, 256, 1024, 2043, 2044, 2045, 4096, 8192, 16384, 32768, 65536, 131072]:
        for message in (b'{"text": "again and again"}' * (size // 27), chance.randbytes(size // 2).hex().encode()):
            for one, other in (ends, ends[::-1]):
                assert other.feed(b"".join(one.finish([message, message]))) == [message, message]
    assert [end.lost for end in ends] == [None, None]
