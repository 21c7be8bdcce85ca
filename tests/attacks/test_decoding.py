"""What it costs to read a hostile message: in proportion to its size, whatever its bytes look like."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from psession.channels import MsgpackCodec, _faults
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
def test_a_long_message_that_json_cannot_hold_is_searched_to_the_end_before_it_is_refused(depth: int) -> None:
    inner: Any = {(1, 2): MANY}
    for _ in range(depth):
        inner = [inner]
    message = {"n": inner, "many": MANY, "extra": LOOKS_LIKE_NAN}
    assert MsgpackCodec().decode(msgspec.msgpack.encode(message)) == {**message, "n": inner}
    with pytest.raises(MalformedMessageError, match=r"nan at \$\.z"):
        MsgpackCodec().decode(msgspec.msgpack.encode({**message, "z": NAN}))
