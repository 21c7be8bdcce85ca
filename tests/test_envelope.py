"""Where a session's number stands in a message: stamping, reading, and what is no number."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psession import Envelope, ExactFields, SessionManager

from .peers import Wire


@dataclass
class Order:
    """A message as a dataclass."""

    command: str
    sid: int = 0


class Status(msgspec.Struct):
    """A message as a Struct."""

    ok: bool
    sid: int | None = None


def test_the_number_is_put_last() -> None:
    assert list(Envelope().stamp({"b": 1, "a": 2}, 5).items()) == [("b", 1), ("a", 2), ("sid", 5)]


def test_an_old_number_is_replaced_and_moves_to_the_end() -> None:
    assert list(Envelope().stamp({"sid": 9, "a": 2}, 5).items()) == [("a", 2), ("sid", 5)]


@pytest.mark.parametrize("message", [{"a": 1}, OrderedDict(a=1), MappingProxyType({"a": 1})])
def test_any_mapping_becomes_a_new_dict(message: Any) -> None:
    stamped = Envelope("id").stamp(message, 5)
    assert (type(stamped), stamped, dict(message)) == (dict, {"a": 1, "id": 5}, {"a": 1})


@pytest.mark.parametrize("message", [Order("on"), Status(ok=True)])
def test_a_typed_message_is_copied_with_the_number(message: Any) -> None:
    stamped = Envelope().stamp(message, 5)
    assert (type(stamped), stamped.sid) == (type(message), 5)
    assert message.sid in (0, None)
    assert Envelope().read(stamped) == 5
    assert Envelope().read(message) is None


@pytest.mark.parametrize("message", [None, 3, "sid", [("sid", 1)], Order, object()])
def test_what_is_no_message_is_refused_by_name(message: object) -> None:
    with pytest.raises(TypeError, match=type(message).__name__):
        Envelope().stamp(message, 5)
    assert Envelope().read(message) is None


EXACT_NAMES = dataclasses.astuple(ExactFields())
NAMES = st.text(min_size=1).filter(lambda name: name not in EXACT_NAMES)


@given(st.integers(1), st.dictionaries(st.text(), st.integers()), NAMES)
def test_what_was_stamped_is_read_and_the_callers_message_is_unchanged(
    sid: int, message: dict[str, int], name: str
) -> None:
    before = list(message.items())
    envelope = Envelope(name)
    stamped = envelope.stamp(message, sid)
    assert envelope.read(stamped) == sid
    assert list(message.items()) == before
    assert {key: value for key, value in stamped.items() if key != name} == {
        key: value for key, value in message.items() if key != name
    }


@given(st.one_of(st.none(), st.booleans(), st.floats(), st.text(), st.integers(max_value=0), st.lists(st.integers())))
def test_only_an_int_above_zero_is_a_number(value: object) -> None:
    assert Envelope().read({"sid": value}) is None


@given(st.text())
def test_a_text_is_a_number_only_as_plain_decimal_digits(text: str) -> None:
    number = Envelope(text_ids=True).read({"sid": text})
    assert number is None or (number > 0 and str(number) == text)


@given(st.integers(1, 2**53))
def test_a_number_as_text_is_taken_where_the_envelope_says_so(sid: int) -> None:
    assert Envelope(text_ids=True).read({"sid": str(sid)}) == sid
    assert Envelope().read({"sid": str(sid)}) is None


def test_envelopes_of_the_same_wire_are_equal() -> None:
    assert Envelope("id") == Envelope.classic("id") != Envelope("id", text_ids=True)
    assert hash(Envelope("id")) == hash(Envelope.classic("id"))
    assert Envelope() != "sid"
    assert "text_ids=True" in repr(Envelope(text_ids=True))


@pytest.mark.parametrize(("name", "error"), [("", ValueError), (5, TypeError), (None, TypeError), (b"sid", TypeError)])
def test_a_field_name_that_is_no_text_is_refused(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="session_id_name"):
        Envelope(name)


async def test_what_is_sent_carries_an_int_even_to_a_peer_that_writes_text() -> None:
    wire = Wire()
    async with (
        SessionManager(wire, envelope=Envelope("id", text_ids=True)).port("p") as port,
        port.session() as session,
    ):
        await session.post({})
        port.dispatch({"id": "1", "n": 1})
        assert (await session.receive())["n"] == 1
    assert wire.sent == [{"id": 1}]
    assert type(wire.sent[0]["id"]) is int
