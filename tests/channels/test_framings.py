"""Frames survive any cut, and a bad one costs what it must and no more."""

import itertools
import math
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession.channels._framings import Framing, LengthFraming, LineFraming
from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError

LIMIT = 20

ends = st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\n\r\n"]))
payloads = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=12)
line_bytes = st.binary(min_size=1, max_size=2 * LIMIT).filter(lambda line: b"\n" not in line and line[-1:] != b"\r")
cuts = st.lists(st.integers(0, 400), max_size=30)


class Huge(bytes):
    """Bytes that say they are longer than four bytes can tell."""

    def __len__(self) -> int:
        return 2**32


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream cut at these places; a piece may be empty, as a read never is."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(edges)]


def feed_all(framing: Framing, pieces: list[bytes]) -> list[Any]:
    """What comes out of the pieces; an error as its type and text, so that two of a kind are equal."""
    found = [payload for piece in pieces for payload in framing.feed(piece)]
    return [(type(one), str(one)) if isinstance(one, MessageError) else one for one in found]


@pytest.mark.parametrize("make", [LineFraming, LengthFraming])
@settings(deadline=None)
@given(sent=payloads, cuts=cuts)
def test_frames_survive_any_cut(make: type[LineFraming | LengthFraming], sent: list[bytes], cuts: list[int]) -> None:
    framing = make(LIMIT)
    if make is LineFraming:
        sent = [payload.replace(b"\n", b"_").replace(b"\r", b"_") for payload in sent]
    stream = b"".join(framing.frame(payload) for payload in sent)
    assert feed_all(framing, pieces_of(stream, cuts)) == sent
    assert framing.end() is None
    assert framing.lost is None


@settings(deadline=None)
@given(
    sent=st.lists(line_bytes, max_size=8),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\n\r\n"])),
    cuts=cuts,
)
def test_a_line_too_long_stands_as_an_error_where_it_stood(
    sent: list[bytes], ends: list[bytes], cuts: list[int]
) -> None:
    ends = [*ends, *[b"\n"] * len(sent)]
    stream = b"".join(line + end for line, end in zip(sent, ends, strict=False))
    framing = LineFraming(LIMIT)
    found = [payload for piece in pieces_of(stream, cuts) for payload in framing.feed(piece)]
    assert len(found) == len(sent)
    for one, line in zip(found, sent, strict=True):
        assert one == line if len(line) <= LIMIT else isinstance(one, MessageTooLargeError)
    assert framing.end() is None


@settings(deadline=None)
@given(stream=st.binary(max_size=200) | st.text("ab\r\n", max_size=200).map(str.encode), cuts=cuts)
def test_lines_are_the_same_in_one_piece_and_in_many(stream: bytes, cuts: list[int]) -> None:
    whole, cut = LineFraming(LIMIT), LineFraming(LIMIT)
    assert feed_all(whole, [stream]) == feed_all(cut, pieces_of(stream, cuts))
    assert str(whole.end()) == str(cut.end())


@settings(deadline=None)
@given(
    stream=st.lists(st.binary(max_size=LIMIT + 5).map(lambda data: struct.pack(">I", len(data)) + data)).map(b"".join)
    | st.binary(max_size=200),
    cuts=cuts,
)
def test_length_prefixed_frames_are_the_same_in_one_piece_and_in_many(stream: bytes, cuts: list[int]) -> None:
    whole, cut = LengthFraming(LIMIT), LengthFraming(LIMIT)
    assert feed_all(whole, [stream]) == feed_all(cut, pieces_of(stream, cuts))
    assert str(whole.lost) == str(cut.lost)
    if whole.lost is None:
        assert str(whole.end()) == str(cut.end())


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("cut", range(LIMIT + 3))
def test_the_limit_counts_the_line_without_its_end(size: int, end: bytes, cut: int) -> None:
    framing = LineFraming(LIMIT)
    stream = b"x" * size + end
    (found,) = [payload for piece in (stream[:cut], stream[cut:]) for payload in framing.feed(piece)]
    assert found == b"x" * LIMIT if size == LIMIT else isinstance(found, MessageTooLargeError)


def test_a_long_line_is_skipped_without_being_kept() -> None:
    framing = LineFraming(LIMIT)
    for _ in range(1000):
        assert framing.feed(b"x" * 1000) == []
        assert len(framing._kept) <= LIMIT + 1
    (error, line) = framing.feed(b"x\nnext\n")
    assert str(error) == "a line of 1000001 bytes; max_message_bytes is 20"
    assert line == b"next"


def test_a_long_message_in_many_pieces_is_looked_at_once() -> None:
    """A scan from the start for each piece would look at 10 GB here, and take seconds."""
    piece, count = b"x" * 100, 14_000
    lines, lengths = LineFraming(math.inf), LengthFraming(math.inf)
    lengths.feed(struct.pack(">I", len(piece) * count))
    for _ in range(count - 1):
        assert lines.feed(piece) == lengths.feed(piece) == []
    assert lines.feed(piece + b"\n") == lengths.feed(piece) == [piece * count]


@pytest.mark.parametrize("payload", [b"", b"a\nb", b"\n", b"a\r"])
def test_what_would_not_come_back_as_one_line_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="line break"):
        LineFraming(LIMIT).frame(payload)


def test_an_empty_payload_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="empty"):
        LengthFraming(LIMIT).frame(b"")


def test_a_length_of_zero_is_a_malformed_message_between_others() -> None:
    first, empty, last = LengthFraming(LIMIT).feed(b"\0\0\0\1a" + b"\0\0\0\0" + b"\0\0\0\1b")
    assert (first, last) == (b"a", b"b")
    assert isinstance(empty, MalformedMessageError)


def test_a_length_over_the_limit_loses_the_edges_after_what_came_before() -> None:
    framing = LengthFraming(LIMIT)
    assert framing.feed(b"\0\0\0\1a" + b"GET / HTTP/1.1\r\n") == [b"a"]
    assert isinstance(framing.lost, MessageTooLargeError)
    assert "a length of 1195725856 bytes" in str(framing.lost)
    assert "If b'GET ' is not a length" in str(framing.lost)
    assert framing.feed(b"\0\0\0\1a") == []


@pytest.mark.parametrize(
    ("framing", "part", "says"),
    [
        (LineFraming(LIMIT), b"ab", "2 bytes came, and no newline"),
        (LineFraming(LIMIT), b"x" * 50, "50 bytes came, and no newline"),
        (LengthFraming(LIMIT), b"\0\0", "2 of 4 bytes came"),
        (LengthFraming(LIMIT), b"\0\0\0\5abc", "7 of 9 bytes came"),
    ],
)
def test_an_end_inside_a_message_says_how_far_it_came(framing: Framing, part: bytes, says: str) -> None:
    assert framing.end() is None
    framing.feed(part)
    assert isinstance(framing.end(), MalformedMessageError)
    assert says in str(framing.end())


def test_a_payload_longer_than_its_length_field_can_say_is_refused() -> None:
    with pytest.raises(MessageTooLargeError, match="a 4-byte length ends at 4294967295"):
        LengthFraming(math.inf).frame(Huge(b"x"))


# -- framings of one's own ---------------------------------------------------------------------------------------------


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


class Netstrings(Framing):
    """``2:{},`` (https://cr.yp.to/proto/netstrings.txt)."""

    def frame(self, payload: bytes) -> bytes:
        return netstring(payload)

    def cut(self, data: bytes, at: int) -> tuple[bytes | MessageError, int] | int:
        size, colon, _ = data[at : at + 10].partition(b":")
        if not colon and len(size) < 10:
            return len(data) + 1
        start = at + len(size) + 1
        end = start + int(size) + 1
        if end > len(data):
            return end
        if data[end - 1 : end] != b",":
            raise ValueError(f"{data[end - 1 : end]!r} instead of a comma")
        return data[start : end - 1], end


class Checked(Framing):
    """A length and a checksum, 4 bytes each."""

    head = struct.Struct(">II")
    max_header_bytes = 8

    def frame(self, payload: bytes) -> bytes:
        return self.head.pack(len(payload), zlib.crc32(payload)) + payload

    def cut(self, data: bytes, at: int) -> tuple[bytes | MessageError, int] | int:
        if len(data) < at + 8:
            return at + 8
        length, checksum = self.head.unpack_from(data, at)
        payload, end = data[at + 8 : at + 8 + length], at + 8 + length
        if end > len(data):
            return end
        return (payload if zlib.crc32(payload) == checksum else MalformedMessageError("a wrong checksum")), end


own = pytest.mark.parametrize("make", [Netstrings, Checked])


@own
@settings(deadline=None)
@given(sent=payloads, cuts=cuts)
def test_frames_of_ones_own_survive_any_cut(make: type[Framing], sent: list[bytes], cuts: list[int]) -> None:
    framing = make(LIMIT)
    stream = b"".join(framing.frame(payload) for payload in sent)
    assert feed_all(framing, pieces_of(stream, cuts)) == sent
    assert (framing.lost, framing.end(), framing.kept_bytes) == (None, None, 0)


@own
@settings(deadline=None)
@given(
    parts=st.lists(st.binary(max_size=30) | st.binary(max_size=LIMIT + 20).map(netstring)),
    sent=st.lists(st.binary(max_size=LIMIT + 20)),
    cuts=cuts,
)
def test_any_bytes_are_the_same_to_them_in_one_piece_and_in_many(
    make: type[Framing], parts: list[bytes], sent: list[bytes], cuts: list[int]
) -> None:
    whole, cut = make(LIMIT), make(LIMIT)
    stream = b"".join([*map(whole.frame, sent), *parts])
    assert feed_all(whole, [stream]) == feed_all(cut, pieces_of(stream, cuts))
    assert str(whole.lost) == str(cut.lost)
    assert cut.kept_bytes <= LIMIT + cut.max_header_bytes


def test_a_checksum_that_is_wrong_costs_its_message_alone() -> None:
    framing = Checked(LIMIT)
    bad = bytearray(framing.frame(b"bad"))
    bad[-1] ^= 1
    assert feed_all(framing, [framing.frame(b"a"), bytes(bad), framing.frame(b"b")]) == [
        b"a",
        (MalformedMessageError, "a wrong checksum"),
        b"b",
    ]


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"x:", "Netstrings finds no edges: invalid literal for int() with base 10: b'x'"),
        (b"1:ab", "Netstrings finds no edges: b'b' instead of a comma"),
        (b"xxxxxxxxxx", "Netstrings finds no edges: invalid literal"),
    ],
)
def test_whatever_a_cut_raises_says_why_the_edges_are_lost(stream: bytes, says: str) -> None:
    framing = Netstrings(LIMIT)
    assert framing.feed(b"1:a," + stream) == [b"a"]
    assert str(framing.lost).startswith(says)
    assert framing.lost is not None
    assert isinstance(framing.lost.__cause__, ValueError)
    assert framing.feed(b"1:a,") == []


def test_a_framing_need_not_look_at_the_limit() -> None:
    """What is known to be too large is not waited for; a payload too large in a frame that is small enough is told."""
    framing = Checked(LIMIT)
    assert feed_all(framing, [framing.frame(b"x" * LIMIT)]) == [b"x" * LIMIT]
    for pieces in ([framing.frame(b"x" * 21)], [framing.frame(b"x" * 21)[:9], b"y"]):
        framing = Checked(LIMIT)
        assert feed_all(framing, pieces) == []
        assert "29 bytes or more; max_message_bytes is 20" in str(framing.lost)
    netstrings = Netstrings(LIMIT)
    ((kind, text),) = feed_all(netstrings, [netstrings.frame(b"x" * 21)])
    assert (kind, text) == (MessageTooLargeError, "21 bytes; max_message_bytes is 20")
    assert netstrings.lost is None


def test_an_error_from_its_own_text_is_shortened() -> None:
    class Loud(Netstrings):
        def cut(self, data: bytes, at: int) -> int:
            raise LookupError(data.decode())

    framing = Loud(LIMIT)
    framing.feed(b"x" * 10_000)
    assert len(str(framing.lost)) < 300


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ((b"a", 0), "gave an end that is not behind the beginning"),
        ((b"a", 9), "gave a payload where 6 bytes of it have not come"),
        (("a", 1), "gave no bytes, but a str"),
        ((Huge(b"a"), 1), "gave no bytes, but a Huge"),
    ],
)
def test_a_cut_that_gives_nonsense_loses_the_edges_and_says_what_it_gave(gives: Any, says: str) -> None:
    class Wrong(Netstrings):
        def cut(self, data: bytes, at: int) -> Any:
            return gives

    framing = Wrong(LIMIT)
    assert framing.feed(b"abc") == []
    assert says in str(framing.lost)


def test_a_framing_with_neither_cut_nor_feed_says_so() -> None:
    class Nothing(Framing):
        def frame(self, payload: bytes) -> bytes:
            return payload

    framing = Nothing(LIMIT)
    framing.feed(b"a")
    assert "Nothing has neither cut() nor a feed() of its own" in str(framing.lost)


def test_a_bad_frame_is_skipped_as_it_comes() -> None:
    class Skipping(Checked):
        def cut(self, data: bytes, at: int) -> Any:
            end = super().cut(data, at)
            return (MalformedMessageError("not now"), end) if isinstance(end, int) and len(data) >= at + 8 else end

    framing = Skipping(LIMIT)
    frame = framing.frame(b"x" * 100_000)
    assert feed_all(framing, [frame[:1000], frame[1000:-1]]) == [(MalformedMessageError, "not now")]
    assert framing.kept_bytes == 0
    assert "1 bytes of it did not come" in str(framing.end())
    assert feed_all(framing, [frame[-1:] + framing.frame(b"a")]) == [b"a"]
