"""What the codecs carry, what they refuse, and how clearly they say so."""

import dataclasses
import decimal
import enum
import math
import struct
from collections import namedtuple
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession.channels import JsonCodec, MsgpackCodec
from psession.channels.codecs import find_codec
from psession.errors import MalformedMessageError, MessageTooLargeError

CODECS = [JsonCodec(), MsgpackCodec()]
NAMES = ["json", "msgpack"]
both = pytest.mark.parametrize("codec", CODECS, ids=NAMES)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
messages = st.dictionaries(st.text(), values, max_size=3)
odd_floats = st.sampled_from([math.nan, -math.nan, math.inf, -math.inf])


class Point(msgspec.Struct):
    x: float
    y: float | None = None


class Renamed(msgspec.Struct, rename="camel", tag="renamed"):
    the_value: Any


class Row(msgspec.Struct, array_like=True):
    x: float


@dataclasses.dataclass
class Reading:
    value: Any


@dataclasses.dataclass(slots=True)
class SlottedReading:
    value: Any


class Level(enum.Enum):
    UNKNOWN = math.nan


Pair = namedtuple("Pair", "left right")


@both
@settings(deadline=None)
@given(message=messages)
def test_what_is_encoded_comes_back(codec: Any, message: dict[str, Any]) -> None:
    assert codec.decode(codec.encode(message)) == message


@settings(deadline=None)
@given(message=messages)
def test_json_is_one_line_of_text(message: dict[str, Any]) -> None:
    assert not {"\n", "\r"} & set(JsonCodec().encode(message).decode())


@both
@settings(deadline=None)
@given(message=messages, odd=odd_floats, data=st.data())
def test_nan_and_infinities_are_found_wherever_they_stand(codec: Any, message: Any, odd: float, data: Any) -> None:
    places: list[Any] = [message]
    for place in places:
        children = place.values() if isinstance(place, dict) else place
        places += [child for child in children if isinstance(child, dict | list)]
    place = data.draw(st.sampled_from(places))
    if isinstance(place, dict):
        place[data.draw(st.text())] = odd
    else:
        place.insert(data.draw(st.integers(0, len(place))), odd)
    with pytest.raises(MalformedMessageError, match=r"(nan|inf) at \$.* cannot travel"):
        codec.encode(message)


@both
@pytest.mark.parametrize(
    "holder",
    [Point, Renamed, Row, Reading, SlottedReading, lambda odd: Pair(1, odd), lambda odd: {odd}, lambda odd: (1, odd)],
)
def test_nan_is_found_in_every_kind_of_container(codec: Any, holder: Any) -> None:
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.deep\[1\]"):
        codec.encode({"null": None, "deep": [1.0, holder(math.nan)]})
    assert codec.encode({"null": None, "deep": [1.0, holder(2.5)]})


@both
def test_nan_is_found_behind_an_enum(codec: Any) -> None:
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.level"):
        codec.encode({"level": Level.UNKNOWN})


@both
def test_the_error_names_the_first_place_under_its_name_on_the_wire(codec: Any) -> None:
    message = {"a": None, "b": [{"my key": Renamed([1, math.inf])}], "c": math.nan}
    with pytest.raises(MalformedMessageError) as caught:
        codec.encode(message)
    assert str(caught.value) == "inf at $.b[0]['my key'].theValue[1] cannot travel; send None or text instead"


@both
@pytest.mark.parametrize(
    "rest", ["x" * 100_000, "null " * 4000, 2**63, None, [1, 2] * 5000], ids=lambda rest: f"{rest!r:.9}"
)
@pytest.mark.parametrize("odd", [math.nan, -math.inf])
def test_nan_is_found_in_a_long_message_whatever_else_is_in_it(codec: Any, rest: Any, odd: float) -> None:
    finds_nan(codec, rest, odd)


@pytest.mark.parametrize("odd", [math.nan, -math.inf])
def test_nan_is_found_in_a_long_message_with_an_integer_that_msgpack_has_not(odd: float) -> None:
    finds_nan(JsonCodec(), 2**70, odd)


def finds_nan(codec: Any, rest: Any, odd: float) -> None:
    """Find a float that cannot travel at each place of a long message, and none where there is none."""
    message = {"before": "x" * 20_000, "rest": rest, "text": "it is null, and void", "behind": [None, 1.5]}
    assert codec.decode(codec.encode(message)) == message
    for place in ("before", "rest", "behind"):
        with pytest.raises(MalformedMessageError, match=rf"(nan|inf) at \$\.{place}"):
            codec.encode({**message, place: odd})
    with pytest.raises(MalformedMessageError, match=r"(nan|inf) at \$\.text\[2\]"):
        codec.encode({**message, "text": ["null", None, odd]})


@both
def test_none_and_the_word_null_are_no_nan(codec: Any) -> None:
    message = {"null": None, "text": "null", "list": [None, "null and null"], "number": 1.5}
    assert codec.decode(codec.encode(message)) == message


def test_an_integer_beyond_64_bits_beside_a_null_is_no_nan() -> None:
    message = {"big": 2**70, "nothing": None}
    assert JsonCodec().decode(JsonCodec().encode(message)) == message
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.odd"):
        JsonCodec().encode({**message, "odd": math.nan})


def test_messagepack_bytes_that_look_like_nan_are_carried() -> None:
    message = {"raw": b"\xcb\x7f\xf8" * 3 + b"\xca\xff\xff", "number": 0.5}
    assert MsgpackCodec().decode(MsgpackCodec().encode(message)) == message


@pytest.mark.parametrize(
    "packed",
    [
        struct.pack(">Bd", 0xCB, math.nan),
        struct.pack(">Bd", 0xCB, -math.inf),
        struct.pack(">Bf", 0xCA, math.nan),
        struct.pack(">Bf", 0xCA, math.inf),
        b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x01",
    ],
)
def test_messagepack_refuses_nan_from_the_peer_too(packed: bytes) -> None:
    with pytest.raises(MalformedMessageError, match=r"at \$\.a\[0\] cannot travel"):
        MsgpackCodec().decode(b"\x81\xa1a\x91" + packed)


def test_nan_as_a_key_of_messagepack_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.a\[nan\]"):
        MsgpackCodec().encode({"a": {math.nan: 1}})


def test_what_cannot_be_searched_for_nan_is_refused() -> None:
    class Key(msgspec.Struct, frozen=True):
        a: int

    assert MsgpackCodec().encode({"a": {Key(1): 1.5}})
    with pytest.raises(MalformedMessageError, match="cannot be searched"):
        MsgpackCodec().encode({"a": {Key(1): math.nan}})


@both
@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"a": {"b": [1, {"c": object()}]}}, r"\$\.a\.b\[1\]\.c"),
        ({"a": "\ud800"}, r"\$\.a"),
        ({"p": Point(1.0, object())}, r"\$\.p\.y"),  # type: ignore[arg-type]
        ({"r": Reading([complex(1, 1)])}, r"\$\.r\.value\[0\]"),
        (object(), r"\$"),
    ],
)
def test_what_has_no_form_is_refused_with_its_path(codec: Any, message: Any, where: str) -> None:
    with pytest.raises(MalformedMessageError, match=f"at {where}$") as caught:
        codec.encode(message)
    assert caught.value.__cause__ is not None


@both
def test_a_message_that_contains_itself_is_refused(codec: Any) -> None:
    message: dict[str, Any] = {}
    message["me"] = message
    with pytest.raises(MalformedMessageError, match="contains itself"):
        codec.encode(message)


@both
@pytest.mark.parametrize("message", [[], [1], "text", 1, None, 1.5, True, Row(1.0)])
def test_only_an_object_is_a_message(codec: Any, message: Any) -> None:
    with pytest.raises(MalformedMessageError, match=f"not a message: {type(message).__name__}; a message is an object"):
        codec.encode(message)
    bare = msgspec.json.encode(message) if codec.text else msgspec.msgpack.encode(message)
    with pytest.raises(MalformedMessageError, match=r"Expected `object`, got .*a message is an object"):
        codec.decode(bare)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b'{"a":', "truncated"),
        (b'{"a":1} x', "byte 8|byte 9"),
        (b'{"a":NaN}', "byte 5"),
        (b'{"a":Infinity}', "byte 5"),
        (b'{"a":1e400}', "out of range"),
        (b'{"a":-1e400}', "out of range"),
        (b'{"a":1e99999999999}', "out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "out of range"),
        (b"\xef\xbb\xbf{}", "byte 0"),
        (b'{"ok":"fine","bad":"x\xffy"}', r"not UTF-8, invalid start byte \(byte 21\)"),
        ('{"a":"\ud800"}', "surrogates not allowed"),
        (b'{"a":' + b"[" * 60_000, "nested too deeply"),
        (b'{"a":' * 60_000, "nested too deeply"),
    ],
)
def test_json_that_is_none_says_what_is_wrong(data: Any, says: str) -> None:
    with pytest.raises(MalformedMessageError, match=says):
        JsonCodec().decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"\x81\xa1a", "truncated"),
        (b"\x81\xa1a\xc1", "invalid opcode"),
        (b"\x81\xa1a\x01x", "trailing"),
        (b"\x81\x01\x02", "Expected `str`"),
        (b"\x81\xa1\xff\x01", "invalid start byte|Invalid UTF-8"),
        (b"\xdf\xff\xff\xff\xff", "truncated"),
        (b"\x81\xa1a" + b"\x91" * 60_000, "nested too deeply"),
        ("{}", "text came where MessagePack belongs"),
    ],
)
def test_messagepack_that_is_none_says_what_is_wrong(data: Any, says: str) -> None:
    with pytest.raises(MalformedMessageError, match=says):
        MsgpackCodec().decode(data)


@both
@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_whatever_comes_is_a_message_or_malformed(codec: Any, data: bytes) -> None:
    try:
        message = codec.decode(data)
    except MalformedMessageError:
        return
    assert isinstance(message, dict)


def test_of_a_key_given_twice_the_last_value_counts() -> None:
    assert JsonCodec().decode(b'{"a":1,"a":2}') == {"a": 2}


def test_text_is_decoded_as_its_bytes_are() -> None:
    assert JsonCodec().decode('{"a":"\N{SNOWMAN}"}') == {"a": "\N{SNOWMAN}"}


@pytest.mark.parametrize("make", [JsonCodec, MsgpackCodec], ids=NAMES)
def test_a_type_is_decoded_into(make: Any) -> None:
    codec = make(Point)
    assert codec.decode(codec.encode(Point(1.0, 2.0))) == Point(1.0, 2.0)
    reading = make(type=Reading)
    assert reading.decode(reading.encode(Reading("x"))) == Reading("x")
    row = make(Row)
    assert row.decode(row.encode(Row(1.0))) == Row(1.0)


@pytest.mark.parametrize("make", [JsonCodec, MsgpackCodec], ids=NAMES)
def test_a_field_of_the_wrong_type_is_named(make: Any) -> None:
    with pytest.raises(MalformedMessageError, match=r"Expected `float`, got `str` - at `\$\.x`"):
        make(Point).decode(make().encode({"x": "left"}))


def test_a_long_reason_is_cut_short() -> None:
    class Colour(enum.Enum):
        RED = "red"

    with pytest.raises(MalformedMessageError) as caught:
        JsonCodec(dict[str, Colour]).decode(b'{"a":"' + b"x" * 100_000 + b'"}')
    assert len(str(caught.value)) < 400


def test_a_decoders_own_failure_is_a_malformed_message() -> None:
    class Fragile(msgspec.Struct):
        a: int

        def __post_init__(self) -> None:
            raise LookupError("no such device")

    with pytest.raises(MalformedMessageError, match="no such device"):
        JsonCodec(Fragile).decode(b'{"a":1}')


def test_a_decimal_that_is_no_number_is_text_and_travels() -> None:
    assert JsonCodec().encode({"a": decimal.Decimal("NaN"), "b": None}) == b'{"a":"NaN","b":null}'


def test_a_codec_is_found_by_name() -> None:
    assert isinstance(find_codec("json"), JsonCodec)
    assert isinstance(find_codec("msgpack"), MsgpackCodec)
    codec = JsonCodec(Point)
    assert find_codec(codec) is codec


@pytest.mark.parametrize(
    ("codec", "error"),
    [("yaml", ValueError), (b"json", TypeError), (None, TypeError), (JsonCodec, TypeError), (3, TypeError)],
)
def test_what_is_no_codec_is_refused(codec: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match='give "json", "msgpack" or an object with'):
        find_codec(codec)


class Rude:
    """A codec that raises what it likes."""

    def encode(self, message: Any) -> bytes:
        if message == "too large":
            raise MessageTooLargeError("my own limit")
        raise ZeroDivisionError("rude")

    decode = encode

    def __repr__(self) -> str:
        return "Rude()"


def test_the_errors_of_a_foreign_codec_become_ours() -> None:
    codec = find_codec(Rude())
    assert not codec.text
    assert find_codec(codec) is codec
    for call in (codec.encode, codec.decode):
        with pytest.raises(MalformedMessageError, match=r"Rude\(\) cannot (en|de)code it: rude") as caught:
            call(b"")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(MessageTooLargeError, match="my own limit"):
            call("too large")  # type: ignore[arg-type]
