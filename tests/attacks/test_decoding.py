"""What it costs to read a hostile message: in proportion to its size, whatever its bytes look like."""

from __future__ import annotations

import gc
import itertools
import random
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from psession.channels import JsonCodec, MsgpackCodec, _faults, _limits
from psession.errors import MalformedMessageError

LOOKS_LIKE_NAN = b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"
"""The bytes of an infinity in MessagePack, which are nothing of the kind inside of a text or bytes."""

MANY = [{"a": n + 0.5} for n in range(5_000)]
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "extra", [LOOKS_LIKE_NAN, {"k": LOOKS_LIKE_NAN}, [[LOOKS_LIKE_NAN] * 100], {1.5: LOOKS_LIKE_NAN}]
)
def test_bytes_that_look_like_nan_are_not_searched_for_in_python(extra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"many": MANY, "extra": extra}
    data = msgspec.msgpack.encode(message)
    monkeypatch.setattr(_faults, "math", None)  # without which no float can be looked at
    assert MsgpackCodec().decode(data) == message


@pytest.mark.parametrize("odd", [NAN, INFINITY, -INFINITY, [NAN], {"k": {"j": [INFINITY]}}, {NAN: 1}, {INFINITY: 1}])
@pytest.mark.parametrize("type_", [dict[str, Any], Any], ids=["objects", "any"])
def test_nan_is_refused_wherever_it_stands_and_the_search_for_its_place_is_short(type_: Any, odd: Any) -> None:
    codec = MsgpackCodec(type_)
    with pytest.raises(MalformedMessageError, match=r"(nan|inf) at \$\.odd"):
        codec.decode(msgspec.msgpack.encode({"odd": odd}))
    with pytest.raises(MalformedMessageError, match="NaN or an infinity in it cannot travel"):
        codec.decode(msgspec.msgpack.encode({"many": MANY, "odd": odd}))


def test_a_message_of_ones_own_is_searched_to_the_end() -> None:
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.odd"):
        MsgpackCodec().encode({"many": MANY, "odd": NAN})


@pytest.mark.parametrize("key", [(1, NAN), (LOOKS_LIKE_NAN, 1)], ids=["nan", "not nan"])
def test_keys_that_json_does_not_have_are_looked_at_one_by_one(key: tuple[Any, ...]) -> None:
    data = msgspec.msgpack.encode({"n": {key: 1.5}, "extra": LOOKS_LIKE_NAN})
    if key[1] == 1:
        assert MsgpackCodec().decode(data) == {"n": {key: 1.5}, "extra": LOOKS_LIKE_NAN}
    else:
        with pytest.raises(MalformedMessageError, match="nan at"):
            MsgpackCodec().decode(data)


@pytest.mark.parametrize("depth", [0, 900])
def test_nan_is_refused_in_a_long_message_whatever_else_is_in_it(depth: int) -> None:
    inner: Any = {(1, 2): MANY}
    for _ in range(depth):
        inner = [inner]
    message = {"n": inner, "many": MANY, "extra": LOOKS_LIKE_NAN}
    assert MsgpackCodec().decode(msgspec.msgpack.encode(message)) == {**message, "n": inner}
    with pytest.raises(MalformedMessageError, match="NaN or an infinity in it"):
        MsgpackCodec().decode(msgspec.msgpack.encode({**message, "z": NAN}))


# ----------------------------------------------------------------------------------------------- containers, and keys
MEGABYTE = 2**20
ROOT = b"\x82\xa3sid\x01\xa1n"
"""The beginning of a MessagePack message of the library's, as far as its member ``n``."""


def array(count: int, members: bytes = b"") -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + members


def big_map(count: int, members: bytes = b"") -> bytes:
    return b"\xdf" + count.to_bytes(4, "big") + members


def json_of(unit: bytes) -> bytes:
    count = (MEGABYTE - 30) // (len(unit) + 1)
    return b'{"sid":1,"n":[' + b",".join([unit] * count) + b"]}"


def msgpack_of(unit: bytes) -> bytes:
    count = (MEGABYTE - 30) // len(unit)
    return ROOT + array(count, unit * count)


def codecs(form: Any) -> list[Any]:
    """What a program of the user's calls to have a message decoded."""
    return [form().decode, form(Any).decode, form(Any).open, form(_Payload).open, form(_Payload).decode]


class _Payload(msgspec.Struct):
    sid: int = 0


def refused(form: Any, data: Any, match: str) -> None:
    for decode in codecs(form):
        with pytest.raises(MalformedMessageError, match=match) as caught:
            decode(data)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("unit", [b"[]", b"{}", b"[1]", b"[[]]", b"[[[]]]", b"[{}]", b'[[],""]', b'[[],[],"["]'])
def test_json_of_nothing_but_containers_is_refused(unit: bytes) -> None:
    data = json_of(unit)
    refused(JsonCodec, data, r"^\d+ lists and objects in \d+ bytes; 2097\d\d may be in it")
    refused(JsonCodec, data.decode(), "lists and objects")


@pytest.mark.parametrize(
    "unit",
    [
        b"\x90",
        b"\x80",
        b"\x91\x01",
        b"\x91\x90",
        b"\x81\xa0\x01",
        b"\xdc\0\0",
        b"\xde\0\0",
        b"\xc2\x90",
        b"\xe4\x90\x90",
    ],
)
def test_messagepack_of_nothing_but_containers_is_refused(unit: bytes) -> None:
    refused(MsgpackCodec, msgpack_of(unit), r"^about \d+ lists and objects in \d+ bytes; 2621\d\d may be in it")


def test_containers_behind_long_texts_are_counted_where_they_stand() -> None:
    bombs = array(MEGABYTE // 2, b"\x90" * (MEGABYTE // 2))
    for text in (b"\x90" * (MEGABYTE // 2), b"x" * (MEGABYTE // 2)):
        raw = b"\xc6" + len(text).to_bytes(4, "big") + text
        for members in (raw + bombs, bombs + raw):
            refused(MsgpackCodec, ROOT + array(2, members), "lists and objects in")


@pytest.mark.parametrize("form", [JsonCodec, MsgpackCodec])
@pytest.mark.parametrize("unit", [b"[", b'{"a":', b"\x91", b"\x81\xa1a"])
def test_a_message_as_deep_as_it_is_long_is_refused_and_nothing_of_it_stays(form: Any, unit: bytes) -> None:
    if (unit[0] < 0x80) == (form is JsonCodec):
        for size in (65_000, MEGABYTE):  # 13,000 objects deep: Python 3.13 allows for 10,000
            root = b'{"n":' if form is JsonCodec else b"\x81\xa1n"
            refused(form, root + unit * (size // len(unit)), "nested too deeply|lists and objects")


@pytest.mark.parametrize("form", [JsonCodec, MsgpackCodec])
@pytest.mark.parametrize("depth", [500, 900, 9_000])
def test_a_deep_message_is_decoded_and_let_go_or_refused(form: Any, depth: int) -> None:
    data = (
        b'{"n":' + b"[" * depth + b"]" * depth + b"}" if form is JsonCodec else b"\x81\xa1n" + b"\x91" * depth + b"\x01"
    )
    try:
        assert isinstance(form().decode(data)["n"], list)  # and it is freed
    except MalformedMessageError as error:
        assert "nested too deeply" in str(error)  # noqa: PT017 - it depends on the version of Python


def test_json_too_short_for_too_many_containers_is_not_searched_for_them() -> None:
    data = b'{"n":[' + b",".join([b"[]"] * 43_000) + b"]}"
    assert len(data) <= 2 * _limits.FEW_CONTAINERS
    assert len(JsonCodec().decode(data)["n"]) == 43_000
    with pytest.raises(MalformedMessageError, match="lists and objects in"):
        JsonCodec().decode(b'{"n":[' + b",".join([b"[]"] * 66_000) + b"]}")


RANDOM = random.Random(10)
HONEST: dict[str, Any] = {
    "a random text of bytes": b"".join(RANDOM.randbytes(2**16) for _ in range(16)),
    "random short bytes": [RANDOM.randbytes(20) for _ in range(40_000)],
    "bytes that are all headers": b"\x90\xdf\xdc\x80" * 2**18,
    "Cyrillic": "ПРИВЕТ, как дела? " * 30_000,
    "Cyrillic words": ["ПРИВЕТ"] * 80_000,
    "Chinese": "王小明在北京" * 50_000,
    "Chinese records": [{"名": "王小明", "v": n} for n in range(40_000)],
    "emoji": "\N{GRINNING FACE}\N{THUMBS UP SIGN}" * 100_000,
    "emoji texts": ["\N{GRINNING FACE}"] * 150_000,
    "N'Ko, whose letters begin with 0xDE and 0xDF": ["\u07de\u07c0\u07ff\u0780"] * 80_000,
    "coordinates": [[RANDOM.uniform(-180, 180), RANDOM.uniform(-90, 90)] for _ in range(50_000)],
    "pairs of digits": [[1, 2]] * 65_000,
    "points": [{"type": "Point", "coordinates": [n / 7, n / 9]} for n in range(20_000)],
    "records of one member": [{"v": 1}] * 65_000,
    "small integers": [1] * 500_000,
    "integers that look like headers": [0x90, 0x9090, 0xDF] * 100_000,
    "floats": [RANDOM.random() for _ in range(100_000)],
    "JSON in JSON": msgspec.json.encode(msgspec.json.encode([[[1], '"\\'] for _ in range(60_000)]).decode()).decode(),
    "C": 'if (a[i][j] == "\\"[[{{") { b[k[0]] = {{}}; }\n' * 20_000,
    "brackets": ["[["] * 150_000,
    "a text that ends in a backslash": ["[\\", '"[{'] * 60_000,
    "wide records": [{f"field{n}": n * row for n in range(40)} | {"all": [row]} for row in range(2_000)],
    "many names": {f"name{n}": [n] for n in range(50_000)},
    "many numbers": {str(n): n for n in range(100_000)},
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("form", [JsonCodec, MsgpackCodec])
def test_an_honest_message_is_not_refused(form: Any, name: str) -> None:
    value = HONEST[name]
    if form is MsgpackCodec or "bytes" not in name:
        message = {"sid": 1, "n": value}
        data = form().encode(message)
        assert form().decode(data) == message
        assert form(_Payload).decode(data) == _Payload(1)


@pytest.mark.parametrize(
    "keys", [[n for n in range(5_000)], [b"%d" % n for n in range(5_000)], [n / 2 for n in range(5_000)]]
)
def test_keys_that_are_no_arrays_may_be_many(keys: list[Any]) -> None:
    message = {"n": {key: [1] for key in keys}}
    assert MsgpackCodec().decode(msgspec.msgpack.encode(message)) == message


def test_keys_of_several_kinds_may_be_many_but_not_endless() -> None:
    mixed = {(1, 2): 1, b"x": 2, "x": 3, datetime.now(UTC): [4], **{n: [1] for n in range(40_000)}}
    data = msgspec.msgpack.encode({"n": mixed})
    assert MsgpackCodec().decode(data) == {"n": mixed}
    refused(
        MsgpackCodec,
        msgspec.msgpack.encode({"n": [mixed, mixed]}),
        "keys of several kinds; 65536 may be in one message",
    )


def colliding(count: int, length: int = 12, value: bytes = b"\x01") -> bytes:
    """A map whose keys are different arrays of one hash, as ``hash(-1) == hash(-2)``."""
    keys = itertools.islice(itertools.product(b"\xff\xfe", repeat=length), count)
    return big_map(count, b"".join(bytes([0x90 | length, *key]) + value for key in keys))


def test_colliding_keys_are_what_they_are_said_to_be() -> None:
    decoded = msgspec.msgpack.decode(colliding(200))
    assert len(decoded) == 200
    assert len(set(map(hash, decoded))) == 1


COLLIDING = colliding(1_000)


@pytest.mark.parametrize(
    "member",
    [
        COLLIDING,
        array(1, COLLIDING),
        array(3, b"\x01\x90" + COLLIDING),
        b"\x91" * 200 + COLLIDING,
        b"\x81\xa1k" + COLLIDING,
        b"\x82\x92\x01\x02" + COLLIDING + b"\x91\x01\x01",  # below an array as a key that is allowed
        big_map(40, b"".join(b"\xcd\x01" + bytes([n]) + b"\x01" for n in range(39)) + b"\xa1z" + COLLIDING),
        big_map(1_001, b"\xa1a\x01" + COLLIDING[5:]),  # a text as its first key
        big_map(1_001, COLLIDING[5:] + b"\xc4\x01a\x01"),  # bytes as its last
        b"\xde\x03\xe8" + COLLIDING[5:],
        array(10, colliding(100) * 10),  # each of them below the limit, not all together
        array(2, b"\xc4\x05\xdf\0\0\0\0" + COLLIDING),  # behind bytes that look like the header of an empty map
    ],
)
def test_a_map_with_many_arrays_as_keys_is_refused_wherever_it_stands(member: bytes) -> None:
    refused(
        MsgpackCodec, ROOT + member, r"^\d+ arrays as keys, of \d+ bytes, in maps of 32 entries or more; 256 may be"
    )


@pytest.mark.parametrize("short", [0, 1, 6_000])
def test_a_map_that_breaks_off_has_none_of_its_keys_looked_up(short: int) -> None:
    data = ROOT + big_map(2**32 - 1, COLLIDING[5 : len(COLLIDING) - short])
    refused(MsgpackCodec, data, "not MessagePack: .*truncated|maps of 4294967295 entries")


def test_arrays_as_keys_may_be_few_and_short() -> None:
    message = {"n": {(x, y): [x] for x in range(16) for y in range(16)}, "text": "x" * 3_000}
    assert MsgpackCodec().decode(msgspec.msgpack.encode(message)) == message
    message["n"] = {(n,) * 200: n for n in range(40)}
    refused(
        MsgpackCodec, msgspec.msgpack.encode(message), r"^40 arrays as keys, of \d+ bytes.*use text or numbers as keys"
    )


def test_colliding_keys_in_a_text_are_a_text() -> None:
    message = {"n": COLLIDING * 20, "m": [COLLIDING[:200]] * 50}
    assert MsgpackCodec().decode(msgspec.msgpack.encode(message)) == message


def test_maps_inside_of_each_other_are_not_walked_through_again_and_again() -> None:
    inner = array(100_000, b"\x01" * 100_000)
    for _ in range(20):
        inner = big_map(40, b"".join(bytes([n, 1]) for n in range(39)) + b"\x7f" + inner)
    refused(MsgpackCodec, ROOT + inner, "too many maps of 32 entries or more inside of each other")


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_text_is_no_messagepack_however_long(size: int) -> None:
    for decode in codecs(MsgpackCodec):
        with pytest.raises(MalformedMessageError, match=r"^text came where MessagePack belongs"):
            decode("x" * size)


def test_small_maps_with_the_header_of_big_ones_are_not_looked_at_without_end() -> None:
    units = (b"\xde\0\0" + b"\xa9123456789" * 2) * 6_000
    refused(MsgpackCodec, ROOT + array(18_000, units[:-10] + b"\x9a" + b"\x01" * 10), "more than 4096 maps")


@pytest.mark.parametrize("size", [3_000, 100_000])
def test_a_byte_that_begins_no_value_ends_the_look(size: int) -> None:
    data = ROOT + array(3) + b"\xc1" + big_map(40) + b"\x90" * size
    refused(MsgpackCodec, data, "invalid opcode|lists and objects")


def test_keys_that_are_no_text_are_malformed_and_not_more() -> None:
    bad = big_map(100, b"".join(bytes([n, 1]) for n in range(99)) + b"\xa1\xff\x91\x01")
    with pytest.raises(MalformedMessageError, match=r"'utf-8' codec can't decode|Invalid UTF-8"):
        MsgpackCodec().decode(ROOT + array(3_001, bad + b"\x01" * 3_000))


@pytest.mark.parametrize("form", [JsonCodec, MsgpackCodec])
def test_a_message_is_looked_through_once_whatever_type_is_asked_for(
    form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    for name in ("check_json", "check_msgpack"):
        monkeypatch.setattr(_limits, name, lambda data: looks.append(len(data)))
    data = form().encode({"sid": 1, "n": "x" * 70_000})
    for kind in (dict[str, Any], Any, _Payload, dict[str, str | int]):
        looks.clear()
        form(kind).decode(data)
        assert looks == [len(data)]
        looks.clear()
        opened = form(kind).open(data)
        opened.payload(frozenset(["sid"]))
        opened.decode()
        assert looks == [len(data)]
    looks.clear()
    form().decode(form().encode({"sid": 1}))
    assert looks == []


@pytest.mark.parametrize("size", [10, 100_000])
def test_the_collector_stays_as_it_was(size: int) -> None:
    seen: list[bool] = []

    class Watched(msgspec.Struct):
        n: str

        def __post_init__(self) -> None:
            seen.append(gc.isenabled())

    data = b'{"n":"' + b"x" * size + b'"}'
    JsonCodec(Watched).decode(data)
    assert seen == [size == 10 or sys.version_info >= (3, 12)], "since then the collector waits by itself"
    assert gc.isenabled()
    with pytest.raises(MalformedMessageError):
        JsonCodec().decode(data[:-1])
    assert gc.isenabled()
    gc.disable()
    try:
        JsonCodec().decode(data)
        assert not gc.isenabled()
    finally:
        gc.enable()
