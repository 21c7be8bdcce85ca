"""The framing of LSP and DAP: what a header may say, what a bad one costs, and that no cut of the bytes matters."""

import itertools
import math
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from psession.channels import ContentLengthFraming, content_length
from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError

from ..effort import examples

LIMIT = 20


def header(length: object, *more: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*more, f"Content-Length: {length}", "")).encode("latin-1")


def small(**options: Any) -> ContentLengthFraming:
    return ContentLengthFraming(LIMIT, **{"max_header_bytes": 64, "max_skipped_bytes": 100, **options})


def plain(found: list[Any]) -> list[Any]:
    """The payloads; an error as its type and text, so that two of a kind are equal."""
    return [(type(one), str(one)) if isinstance(one, MessageError) else one for one in found]


def feed(stream: bytes, cuts: Any = (), **options: Any) -> tuple[list[Any], str, str]:
    """What comes of a stream that is cut at these places, why the edges are lost, and what its end is."""
    framing = small(**options)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found = [one for start, stop in itertools.pairwise(edges) for one in framing.feed(stream[start:stop])]
    return plain(found), str(framing.lost), str(framing.end()) if framing.lost is None else ""


# -- what is right -----------------------------------------------------------------------------------------------------


def test_a_message_is_written_as_the_specification_has_it() -> None:
    assert small().frame(b'{"a":1}') == b'Content-Length: 7\r\n\r\n{"a":1}'


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\n\r\n",
        b"content-length:2\r\n\r\n",
        b"CONTENT-LENGTH: \t 2 \t\r\n\r\n",
        b"Content-Length: 0002\r\n\r\n",
        b"Content-Length: 000000000002\r\n\r\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 2\r\n\r\n",
        b"Content-Length: 2\r\nContent-Type: a/b; charset=utf8\r\n\r\n",
        b'Content-Length: 2\r\nContent-Type: a/b;x=y ; Charset = "UTF-8"\r\n\r\n',
        b"Content-Length: 2\r\nContent-Type: anything\r\n\r\n",
        b"X-1: one\r\nX-1: two\r\nContent-Length: 2\r\nEmpty:\r\n\r\n",
    ],
)
def test_a_header_that_gives_the_length_is_accepted_however_it_is_written(head: bytes) -> None:
    stream = (head + b"{}") * 2
    expected = ([b"{}", b"{}"], "None", "None")
    assert feed(stream, max_header_bytes=200) == expected
    assert feed(stream, range(len(stream)), max_header_bytes=200) == expected


def test_a_body_that_looks_like_a_header_is_a_body() -> None:
    body = b"Content-Length: 1\r\n\r\n"
    assert feed(header(len(body)) + body, max_header_bytes=64)[0] == [(MessageTooLargeError, _too_large(len(body)))]
    framing = ContentLengthFraming(100)
    assert framing.feed(header(len(body)) + body + header(1) + b"x") == [body, b"x"]


def _too_large(length: int) -> str:
    return f"a Content-Length of {length} bytes; max_message_bytes is {LIMIT}"


# -- where the edges are known, a bad message costs itself alone -------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind", "says"),
    [
        (header(0), MalformedMessageError, "a Content-Length of 0"),
        (header(100), MessageTooLargeError, "a Content-Length of 100 bytes; max_message_bytes is 20"),
        (header(2, "Content-Length: 2"), MalformedMessageError, "given twice"),
        (header(2, "Content-Type: a/b; charset=utf-16"), MalformedMessageError, "the charset 'utf-16': give utf-8"),
        (header(2, "Content-Type: a/b; charset="), MalformedMessageError, "the charset ''"),
        (header(2, "X: caf\xe9"), MalformedMessageError, "the header x has characters that are not ASCII"),
        (header(2, "X: a\rb"), MalformedMessageError, "not ASCII"),
        (header(99, "X: \xe9"), MessageTooLargeError, "99 bytes"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_bad_message_whose_edges_are_known_stands_between_the_others(
    head: bytes, kind: type, says: str, whole: bool
) -> None:
    length = int(head.split(b"Content-Length: ")[-1])
    stream = header(1) + b"a" + head + b"x" * length + header(1) + b"b"
    (first, (found, text), last), lost, end = feed(stream, () if whole else range(len(stream)))
    assert (first, last, lost, end) == (b"a", b"b", "None", "None")
    assert found is kind
    assert says in text


def test_a_message_too_large_is_told_at_once_and_passed_over_without_being_kept() -> None:
    framing = ContentLengthFraming(LIMIT)
    (error,) = framing.feed(header(1_000_000) + b"x" * 10)
    assert isinstance(error, MessageTooLargeError)
    for _ in range(9):
        assert framing.feed(b"x" * 100_000) == []
        assert framing.kept_bytes == 0
    assert str(framing.end()) == "the stream ended inside a message: 99990 bytes of it did not come"
    assert framing.feed(b"x" * 99_990 + header(1) + b"a") == [b"a"]
    assert framing.end() is None


# -- where they are not, nothing after it is read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        (header("-1"), MalformedMessageError, "no number of bytes: b'-1'"),
        (header("+1"), MalformedMessageError, "no number of bytes: b'+1'"),
        (header("1.0"), MalformedMessageError, "no number of bytes"),
        (header("0x1"), MalformedMessageError, "no number of bytes"),
        (header("1 1"), MalformedMessageError, "no number of bytes"),
        (header("\xb2"), MalformedMessageError, "no number of bytes"),
        (header(""), MalformedMessageError, "no number of bytes: b''"),
        (header(101), MessageTooLargeError, "a Content-Length of 101 bytes; max_message_bytes is 20"),
        (header("9" * 30), MessageTooLargeError, "a Content-Length of 30 digits"),
        (header(2, "Content-Length: 3"), MalformedMessageError, "two Content-Length that differ"),
        (b"X: 1\r\nY: 2\r\n\r\n", MalformedMessageError, "without Content-Length: b'X: 1"),
        (b"\r\n", MalformedMessageError, r"b'\r' stands where a header"),
        (b": 5\r\n\r\n", MalformedMessageError, "b':' stands where a header"),
        (b"X\r\n" + header(2), MalformedMessageError, "b'X' stands where a header"),
        (b"X : 1\r\n" + header(2), MalformedMessageError, "b'X : 1' stands where"),
        (b"X: 1\r\n Folded: 2\r\n" + header(2), MalformedMessageError, "b' Folded: 2' stands where"),
        (b"X: 1\r\nno header\r\n" + header(2), MalformedMessageError, "b'no header' stands where"),
        (
            b"Content-Length: 2\n\n{}",
            MalformedMessageError,
            r"ends with \n alone, not with \r\n: b'Content-Length: 2\n",
        ),
        (b"X: 1\r\nContent-Length: 2\nY: 3\r\n\r\n{}", MalformedMessageError, r"ends with \n alone"),
        (b"X" * 64, MalformedMessageError, "without an end in max_header_bytes, 64: it begins with b'XXX"),
        (b"X: " + b"y" * 61, MalformedMessageError, "without an end"),
        (header(2, "X: " + "y" * 100), MalformedMessageError, "without an end"),
        (b'{"a":1}\n', MalformedMessageError, "b'{' stands where a header"),
        (b"\0\0\0\2{}", MalformedMessageError, "the peer speaks another protocol"),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", MalformedMessageError, "b'GET / HTTP/1.1' stands where"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_header_that_does_not_say_where_its_message_ends_loses_the_edges(
    bad: bytes, kind: type, says: str, whole: bool
) -> None:
    stream = header(1) + b"a" + bad + header(1) + b"b"
    framing = small()
    pieces = [stream] if whole else [bytes([byte]) for byte in stream]
    assert [one for piece in pieces for one in framing.feed(piece)] == [b"a"]
    assert type(framing.lost) is kind
    assert says in str(framing.lost)
    assert framing.kept_bytes < 64 + LIMIT


@pytest.mark.parametrize(
    ("told", "first", "says"),
    [
        (5, b'{"a":', "b'1}Content-Length: 7' stands where a header"),
        (9, b'{"a":1}Co', "a header without Content-Length: b'ntent-Length: 7'"),
    ],
)
def test_a_length_that_lies_is_found_out_at_the_next_header(told: int, first: bytes, says: str) -> None:
    framing = small()
    assert framing.feed(header(told) + b'{"a":1}' + header(7) + b'{"a":2}') == [first]
    assert says in str(framing.lost)


def test_the_first_byte_that_begins_no_header_is_enough() -> None:
    framing = ContentLengthFraming(LIMIT)
    assert framing.feed(b"{") == []
    assert framing.lost is not None


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_limit_of_a_header_counts_all_of_it() -> None:
    for size, kept in ((64, True), (65, False)):
        head = header(2, "X: " + "y" * (size - 26))
        assert len(head) == size
        for pieces in ([head], [bytes([byte]) for byte in head]):
            framing = small()
            for piece in pieces:
                framing.feed(piece)
            assert (framing.lost is None) is kept
            assert framing.feed(b"{}") == ([b"{}"] if kept else [])


def test_without_a_limit_a_message_may_be_as_long_as_it_says() -> None:
    framing = ContentLengthFraming(math.inf)
    body = b"x" * 3_000_000
    stream = framing.frame(body)
    found = [one for start in range(0, len(stream), 65536) for one in framing.feed(stream[start : start + 65536])]
    assert found == [body]


def test_a_header_limit_that_no_header_fits_in_is_refused() -> None:
    with pytest.raises(ValueError, match="max_header_bytes must be 64 or more, not 63"):
        ContentLengthFraming(LIMIT, max_header_bytes=63)


def test_an_empty_payload_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="empty"):
        small().frame(b"")


@pytest.mark.parametrize(
    ("part", "says"),
    [(b"Content-L", "9 of 10 bytes"), (header(2) + b"{", "22 of 23 bytes"), (header(2)[:-1], "20 of 21 bytes")],
)
def test_an_end_inside_a_message_says_how_far_it_came(part: bytes, says: str) -> None:
    framing = small()
    assert framing.end() is None
    framing.feed(part)
    assert f"the stream ended inside a message: {says} came" in str(framing.end())


# -- any bytes, any cut ------------------------------------------------------------------------------------------------

names = st.sampled_from(["Content-Length", "content-length", "Content-Type", "X", "", "a b", "\xe9", "Content-Length "])
values = st.sampled_from(["0", "1", "2", "7", "20", "21", "100", "101", "-1", "", "x", "\xe9", "2\n", "2\r", "9" * 20])
values |= st.sampled_from(["a/b; charset=utf-8", "a/b; charset=latin-1", 'a;charset="UTF8"', "y" * 60])
ends = st.sampled_from(["\r\n"] * 8 + ["\n", "\r", ""])
headers = st.lists(st.tuples(names, st.sampled_from([": ", ":", " "]), values, ends).map("".join), max_size=3)
parts = (
    st.binary(max_size=LIMIT).map(lambda body: header(len(body)) + body)
    | headers.map(lambda lines: ("".join(lines) + "\r\n").encode("latin-1"))
    | st.binary(max_size=30)
    | st.integers(0, 110).map(lambda length: header(length) + b"z" * length)
    | st.just(b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}")
)
streams = st.lists(parts, max_size=6).map(b"".join)
cuts = st.lists(st.integers(0, 300), max_size=30)


@settings(deadline=None)
@given(bodies=st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=12), cuts=cuts)
def test_messages_survive_any_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(small().frame(body) for body in bodies)
    assert feed(stream, cuts) == (bodies, "None", "None")


@settings(deadline=None, max_examples=examples(500))
@given(stream=streams, cuts=cuts)
def test_any_bytes_are_the_same_in_one_piece_and_in_many(stream: bytes, cuts: list[int]) -> None:
    whole = feed(stream)
    assert feed(stream, cuts) == whole
    assert feed(stream, range(len(stream))) == whole


@settings(deadline=None)
@given(stream=streams, cuts=cuts)
def test_no_more_is_kept_than_the_limits_say(stream: bytes, cuts: list[int]) -> None:
    framing = small()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        for one in framing.feed(stream[start:stop]):
            assert isinstance(one, MessageError) or 0 < len(one) <= LIMIT
        assert framing.kept_bytes <= 64 + LIMIT
        if framing.lost is not None:
            assert framing.feed(header(1) + b"a") == []


# -- the channel -------------------------------------------------------------------------------------------------------


async def test_many_messages_are_joined_into_one_write_and_read_as_one_batch() -> None:
    stream, near = trio.testing.memory_stream_pair()
    channel = content_length(near)
    await channel.send_frames([channel.encode({"n": n}) for n in range(3)])
    data = bytes(await stream.receive_some())
    assert data == b"".join(header(7) + b'{"n":%d}' % n for n in range(3))
    await stream.send_all(data)
    assert await channel.receive_batch() == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_body_that_is_no_message_costs_itself_alone_and_a_lying_length_breaks_the_channel() -> None:
    stream, near = trio.testing.memory_stream_pair()
    channel = content_length(near, max_message_bytes=100)
    await stream.send_all(header(4) + b"nope" + header(101) + b"x" * 101 + header(2) + b"{}" + header(5) + b'{"a":1}')
    await stream.send_all(header(2) + b"{}")
    for kind in (MalformedMessageError, MessageTooLargeError):
        with pytest.raises(kind):
            await channel.receive()
    assert await channel.receive() == {}
    with pytest.raises(MalformedMessageError):
        await channel.receive()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="the length of the message before it was wrong") as caught:
            await channel.receive()
        assert isinstance(caught.value.__cause__, MalformedMessageError)


async def test_the_limits_of_the_channel_are_those_of_its_framing() -> None:
    stream, near = trio.testing.memory_stream_pair()
    channel = content_length(near, max_header_bytes=64, max_message_bytes=10, max_skipped_bytes=20)
    await stream.send_all(header(11) + b"x" * 11 + header(21))
    with pytest.raises(MessageTooLargeError, match="of 11 bytes"):
        await channel.receive()
    with pytest.raises(trio.BrokenResourceError, match="of 21 bytes"):
        await channel.receive()
    with pytest.raises(ValueError, match="max_header_bytes"):
        content_length(near, max_header_bytes=1)
