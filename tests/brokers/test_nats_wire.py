"""The NATS protocol in any pieces, and what hostile servers say of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psession import MalformedMessageError
from psession.brokers.nats import NatsMessage, NatsProtocolError, token
from psession.brokers.nats._headers import decode_headers, encode_headers, status_of
from psession.brokers.nats._subjects import MAX_SUBJECT_BYTES, pattern_bytes, queue_bytes, subject_bytes
from psession.brokers.nats._wire import (
    MAX_INFO_BYTES,
    MAX_LINE_BYTES,
    Failure,
    Info,
    Parser,
    Ping,
    Pong,
    hpub,
    pub,
    split,
    sub,
    unsub,
)

if TYPE_CHECKING:
    from psession.brokers.nats._wire import Word

SUBJECTS = st.lists(st.text("abcXYZ019-_é$", min_size=1, max_size=5), min_size=1, max_size=4).map(".".join)


@st.composite
def words(draw: st.DrawFn) -> tuple[bytes, object]:
    """A word of a server's, and what is to be read in it."""
    kind = draw(st.sampled_from(["MSG", "HMSG", "PING", "PONG", "+OK", "-ERR", "INFO"]))
    if kind == "PING":
        return b"PING\r\n", Ping()
    if kind == "PONG":
        return b"PONG\r\n", Pong()
    if kind == "+OK":
        return b"+OK\r\n", None
    if kind == "-ERR":
        return b"-ERR 'Slow Consumer'\r\n", Failure("Slow Consumer")
    if kind == "INFO":
        urls = draw(st.lists(st.sampled_from(["10.0.0.1:4222", "[::1]:4222"]), max_size=3))
        return b"INFO " + json.dumps({"connect_urls": urls, "later": 1}).encode() + b" \r\n", Info(
            connect_urls=tuple(urls)
        )
    subject, reply, sid = draw(SUBJECTS), draw(st.one_of(st.just(""), SUBJECTS)), draw(st.integers(1, 10**9))
    data = draw(st.binary(max_size=60))
    back = f"{reply} " if reply else ""
    if kind == "MSG":
        line = f"MSG {subject} {sid} {back}{len(data)}\r\n".encode()
        return line + data + b"\r\n", (subject, reply, data, b"", sid)
    block = b"NATS/1.0\r\nA: " + draw(st.text("xyz :", max_size=9)).encode() + b"\r\n\r\n"
    line = f"HMSG {subject} {sid} {back}{len(block)} {len(block) + len(data)}\r\n".encode()
    return line + block + data + b"\r\n", (subject, reply, data, block, sid)


def plain(word: Word) -> object:
    """A word that can be compared."""
    if isinstance(word, NatsMessage):
        return word.subject, word.reply, word.data, word.header_bytes, word.sid
    return word


@given(st.lists(words(), max_size=12), st.data())
def test_the_same_bytes_give_the_same_words_in_one_piece_and_in_many(
    said: list[tuple[bytes, object]], data: st.DataObject
) -> None:
    whole = b"".join(raw for raw, _ in said)
    meant = [meaning for _, meaning in said if meaning is not None]
    assert [plain(word) for word in Parser().feed(whole)] == meant
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    parser = Parser()
    read = [
        word
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)
        for word in parser.feed(whole[start:end])
    ]
    assert [plain(word) for word in read] == meant
    assert parser.kept_bytes == 0


@given(st.lists(words(), max_size=5), st.data())
def test_bytes_that_are_damaged_anywhere_give_words_or_a_clear_error(
    said: list[tuple[bytes, object]], data: st.DataObject
) -> None:
    whole = bytearray(b"".join(raw for raw, _ in said) + b"PING\r\n")
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    parser = Parser()
    with suppress(NatsProtocolError):  # and nothing else
        read = parser.feed(bytes(whole))
        assert all(isinstance(word, NatsMessage | Info | Failure | Ping | Pong) for word in read)
        assert parser.kept_bytes <= len(whole)


@pytest.mark.parametrize(
    "said",
    [
        b"\r\n",
        b"HELLO\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 2 3 4\r\n",
        b"MSG a x 3\r\nabc\r\n",
        b"MSG a 1 -3\r\n",
        b"MSG a 1 3.0\r\nabc\r\n",
        b"MSG a 1 0x3\r\nabc\r\n",
        b"MSG a -1 3\r\nabc\r\n",
        b"MSG \xff\xfe 1 3\r\nabc\r\n",
        b"MSG a 1 " + b"9" * 4000 + b"\r\n",
        b"MSG a 1 " + b"9" * 5000 + b"\r\n",
        b"MSG a 1 3\r\nabcdef\r\n",
        b"MSG a 1 3\r\nabc\nMSG",
        b"HMSG a 1 3\r\nabc\r\n",
        b"HMSG a 1 9 3\r\nabc\r\n",
        b"HMSG a 1 x 3\r\nabc\r\n",
        b"HMSG a 1 2 4\r\nabcdef\r\n",
        b"INFO\r\n",
        b"INFO {\r\n",
        b"INFO []\r\n",
        b'INFO {"max_payload": "many"}\r\n',
        b'INFO {"max_payload": 0}\r\n',
        b'INFO {"connect_urls": [1]}\r\n',
        b"INFO " + b"[" * 100_000 + b"\r\n",
        b"A" * (MAX_LINE_BYTES + 1),
        b"-ERR '" + b"A" * MAX_LINE_BYTES + b"'\r\n",
        b"INFO {" + b" " * MAX_INFO_BYTES,
        b"INFO {" + b" " * MAX_INFO_BYTES + b"}\r\n",
    ],
    ids=lambda said: repr(said[:30]),
)
def test_what_is_not_the_protocol_is_a_clear_error(said: bytes) -> None:
    with pytest.raises(NatsProtocolError) as caught:
        Parser().feed(said)
    assert 10 < len(caught.value.why) < 500


def test_a_length_beyond_all_limits_is_refused_before_anything_of_it_is_kept() -> None:
    parser = Parser(max_message_bytes=1000)
    assert parser.feed(b"MSG a 1 1000\r\nxx") == []
    assert parser.kept_bytes == 16
    for line in (b"MSG a 1 1001\r\nxx", b"HMSG a 1 10 1001\r\nxx"):
        with pytest.raises(NatsProtocolError, match="a message of 1001 bytes; 1000 are the most"):
            Parser(max_message_bytes=1000).feed(line)


def test_a_long_message_in_small_pieces_is_put_together_once() -> None:
    parser, data = Parser(), bytes(range(256)) * 4000
    whole = b"MSG a 1 %d\r\n%b\r\nPING\r\n" % (len(data), data)
    read = [word for start in range(0, len(whole), 1000) for word in parser.feed(whole[start : start + 1000])]
    assert [plain(word) for word in read] == [("a", "", data, b"", 1), Ping()]


def test_words_of_a_server_may_be_written_small() -> None:
    assert Parser().feed(b"ping\r\npong\r\n+ok\r\n-err 'x'\r\n") == [Ping(), Pong(), Failure("x")]


# -- what a client writes ----------------------------------------------------------------------------------------------


def test_what_a_client_writes_is_the_protocol() -> None:
    assert pub(b"a.b", b"", b"xyz") == b"PUB a.b 3\r\nxyz\r\n"
    assert pub(b"a", b"r ", b"") == b"PUB a r 0\r\n\r\n"
    assert hpub(b"a", b"r ", b"NATS/1.0\r\n\r\n", b"xyz") == b"HPUB a r 12 15\r\nNATS/1.0\r\n\r\nxyz\r\n"
    assert sub(b"a.>", b"q", 7) == b"SUB a.> q 7\r\n"
    assert sub(b"a", b"", 7) == b"SUB a 7\r\n"
    assert (unsub(7), unsub(7, 3)) == (b"UNSUB 7\r\n", b"UNSUB 7 3\r\n")


# -- headers -----------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=9),
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=9),
            min_size=1,
            max_size=3,
        ),
        max_size=4,
    )
)
def test_headers_come_back_as_they_went(headers: dict[str, list[str]]) -> None:
    assert decode_headers(encode_headers(headers)) == {
        name: [one.strip() for one in values] for name, values in headers.items()
    }


def test_headers_have_their_documented_form() -> None:
    assert encode_headers({"A": "1", "B": ["2", "3"]}) == b"NATS/1.0\r\nA: 1\r\nB: 2\r\nB: 3\r\n\r\n"
    assert status_of(b"NATS/1.0 503\r\n\r\n") == (503, "")
    assert status_of(b"NATS/1.0 100 Idle Heartbeat\r\n\r\n") == (100, "Idle Heartbeat")
    assert status_of(b"NATS/1.0\r\nA: 1\r\n\r\n") == (0, "")


@pytest.mark.parametrize(
    "headers",
    [{"": "x"}, {"a b": "x"}, {"a:": "x"}, {"a\r\n": "x"}, {"a": "x\r\nb: y"}, {"a": "\ud800"}, {"a": 1}, {1: "a"}],
)
def test_a_header_that_cannot_travel_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(MalformedMessageError, match="header"):
        encode_headers(headers)


@pytest.mark.parametrize("block", [b"HTTP/1.1\r\n", b"NATS/1.0\r\nno colon\r\n", b"NATS/1.0\r\n: x\r\n", b"\xff\xfe"])
def test_headers_that_are_none_cost_their_reader_an_error_and_not_the_connection(block: bytes) -> None:
    line = b"HMSG a 1 %d %d\r\n%b\r\n" % (len(block), len(block), block)
    (message,) = Parser().feed(line)
    assert isinstance(message, NatsMessage)
    with pytest.raises(MalformedMessageError):
        _ = message.headers


def test_a_message_says_what_it_has() -> None:
    block = b"NATS/1.0 503\r\nA: 1\r\nA: 2\r\n\r\n"
    (message,) = Parser().feed(b"HMSG a 1 %d %d\r\n%b\r\n" % (len(block), len(block), block))
    assert isinstance(message, NatsMessage)
    assert message.headers == {"A": ["1", "2"]}
    assert (message.header("A"), message.header("B")) == ("1", None)
    assert message.status == (503, "")
    assert message.says_no_responders
    (bare,) = Parser().feed(b"MSG a 1 0\r\n\r\n")
    assert isinstance(bare, NatsMessage)
    assert (bare.headers, bare.status, bare.says_no_responders) == ({}, (0, ""), False)


# -- subjects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("", "must not be empty"),
        ("a b", "without spaces"),
        ("a\r\nPUB b 0", "without spaces"),
        ("a\x00", "control characters"),
        ("a\u2028b", "without spaces"),
        (".a", "empty token"),
        ("a..b", "empty token"),
        ("a.", "empty token"),
        ("\ud800", "control characters"),
        ("a" * (MAX_SUBJECT_BYTES + 1), "are the most"),
    ],
)
def test_what_is_no_subject_is_refused_everywhere(subject: str, text: str) -> None:
    for check in (subject_bytes, pattern_bytes):
        with pytest.raises(ValueError, match=text):
            check(subject)


@pytest.mark.parametrize("subject", ["*", ">", "a.*", "a.>", "*.b"])
def test_a_wildcard_may_be_subscribed_to_and_not_published_to(subject: str) -> None:
    assert pattern_bytes(subject) == subject.encode()
    with pytest.raises(ValueError, match="wildcard"):
        subject_bytes(subject)


def test_a_wildcard_for_the_rest_stands_at_the_end() -> None:
    with pytest.raises(ValueError, match="it is last"):
        pattern_bytes("a.>.b")


def test_stars_inside_a_token_are_no_wildcards() -> None:
    assert subject_bytes("a*b.c>") == b"a*b.c>"


@pytest.mark.parametrize("queue", ["", "a b", "a\n"])
def test_the_name_of_a_queue_has_no_spaces(queue: str) -> None:
    with pytest.raises(ValueError, match="queue"):
        queue_bytes(queue)


@pytest.mark.parametrize("value", [None, 1, b"a"])
def test_a_subject_is_text(value: object) -> None:
    for check in (subject_bytes, pattern_bytes, queue_bytes, token):
        with pytest.raises(TypeError):
            check(value)  # type: ignore[operator]


@given(st.text(min_size=1, max_size=50), st.text(min_size=1, max_size=50))
def test_any_name_is_one_token_and_no_two_names_are_the_same(one: str, other: str) -> None:
    assert subject_bytes(f"device.{token(one)}").count(b".") == 1
    assert (token(one) == token(other)) == (one == other)


def test_a_name_with_wildcards_is_one_plain_token() -> None:
    assert token("lamp-7") == "lamp-7"
    assert token("*") == "=2A"
    assert token("a.>") == "a=2E=3E"
    with pytest.raises(ValueError, match="empty"):
        token("")
    with pytest.raises(ValueError, match="may be in a subject"):
        token("." * 1000)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.sampled_from(["", "back.1"])), min_size=1, max_size=6),
    st.integers(1, 60),
)
def test_what_is_too_long_for_a_server_is_taken_out_of_what_was_joined(
    made: list[tuple[int, bool, str]], max_payload: int
) -> None:
    kept, gone = b"", []
    frames: list[bytes] = []
    for length, headed, reply in made:
        block = encode_headers({"A": "b"}) if headed else b""
        data, back = b"\r\n" * (length // 2), f"{reply} ".encode() if reply else b""
        size = len(block) + len(data)
        frames.append(hpub(b"to", back, block, data) if headed else pub(b"to", back, data))
        if size > max_payload:
            gone.append((reply, size))
        else:
            kept += frames[-1]
    assert split(b"".join(frames), max_payload) == (kept, gone)


def test_words_are_never_too_long_for_a_server() -> None:
    assert split(unsub(1, 5), 1) == (unsub(1, 5), [])
