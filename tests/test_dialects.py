"""Where psession's fields stand beside a payload: joining, splitting, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from psession import (
    Classic,
    Dialect,
    Exact,
    ExactFields,
    MalformedMessageError,
    SessionManager,
    SessionTimeoutError,
)
from psession.channels import memory_pair
from psession.message import Joined

from .peers import Wire, settle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Session

EXACT_NAMES = dataclasses.astuple(ExactFields())
DIALECTS = [Classic(), Exact()]


@dataclass
class Order:
    """A payload as a dataclass."""

    command: str


class Status(msgspec.Struct):
    """A payload as a Struct."""

    ok: bool


class Numbered(msgspec.Struct):
    """A payload with a field of psession's own."""

    sid: int = 0


class Renamed(msgspec.Struct, rename={"number": "sid"}):
    """The same, on the wire alone."""

    number: int = 0


class Tagged(msgspec.Struct, tag_field="sid", tag="x"):
    """The same, as the tag of a union."""


@dataclass
class Turned:
    """A payload with a name of the exact wire."""

    _turn: int = 0


def sid_of(dialect: Dialect, message: Any) -> int | None:
    fields = dialect.fields_of(message)
    return None if fields is None else dialect.sid_of(fields)


def test_the_number_is_put_last_and_the_header_behind_it() -> None:
    assert list(Classic().join({"b": 1, "a": 2}, 5, {}).items()) == [("b", 1), ("a", 2), ("sid", 5)]
    assert list(Exact().join({"a": 2}, 5, {"_re": 1}).items()) == [("a", 2), ("sid", 5), ("_re", 1)]


@pytest.mark.parametrize("payload", [{"a": 1}, OrderedDict(a=1), MappingProxyType({"a": 1})])
def test_any_mapping_becomes_a_new_dict(payload: Any) -> None:
    message = Classic("id").join(payload, 5, {})
    assert (type(message), message, dict(payload)) == (dict, {"a": 1, "id": 5}, {"a": 1})


@pytest.mark.parametrize("payload", [Order("on"), Status(ok=True)])
def test_a_typed_payload_keeps_its_fields_beside_it(payload: Any) -> None:
    message = Classic().join(payload, 5, {})
    assert (type(message), message.content, message.fields) == (Joined, payload, {"sid": 5})
    assert sid_of(Classic(), message) == 5
    assert Classic().payload_of(message, exact=False) is payload


@pytest.mark.parametrize("payload", [{"sid": 9, "a": 2}, Numbered(), Renamed(), Tagged()])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_payload_with_a_number_of_its_own_is_refused(dialect: Dialect, payload: Any) -> None:
    for header in ({}, {"_re": 1}):
        with pytest.raises(MalformedMessageError, match=r"'sid', which is psession's own here: leave it out"):
            dialect.join(payload, 5, header)
    with pytest.raises(MalformedMessageError, match="psession's own"):
        dialect.check_plain(payload)


@pytest.mark.parametrize("payload", [{"_turn": 1}, {"a": 1, "_error": "x"}, Turned()])
def test_names_of_the_exact_wire_are_refused_in_an_exact_message_alone(payload: Any) -> None:
    with pytest.raises(MalformedMessageError, match=r"psession's own here: rename it"):
        Exact().join(payload, 5, {"_re": 1})
    Classic().join(payload, 5, {})


@given(
    st.integers(1, 2**53 - 1),
    st.dictionaries(st.text().filter(lambda name: name not in (*EXACT_NAMES, "sid")), st.integers()),
    st.dictionaries(st.sampled_from(EXACT_NAMES[:9]), st.integers(1, 9)),
)
def test_a_message_is_split_into_what_it_was_joined_of(
    sid: int, payload: dict[str, int], header: dict[str, int]
) -> None:
    before = list(payload.items())
    message = Exact().join(payload, sid, header)
    assert sid_of(Exact(), message) == sid
    assert list(payload.items()) == before
    assert list(Exact().payload_of(message, exact=True).items()) == before
    assert Exact().is_bare(message) == (not payload) == Exact().is_empty(payload)


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(),
        st.integers(max_value=0),
        st.integers(2**53),
        st.lists(st.integers()),
    )
)
def test_only_an_int_above_zero_is_a_number(value: object) -> None:
    assert sid_of(Classic(), {"sid": value}) is None


@pytest.mark.parametrize("message", [None, 3, "sid", [("sid", 1)], Order, object()])
def test_what_is_no_object_has_no_number(message: object) -> None:
    assert sid_of(Classic(), message) is None
    assert Classic().whole(message) is message


@given(st.text())
def test_a_text_is_a_number_only_as_plain_decimal_digits(text: str) -> None:
    number = sid_of(Classic(text_ids=True), {"sid": text})
    assert number is None or (number > 0 and str(number) == text)


@given(st.integers(1, 2**53 - 1))
def test_a_number_as_text_is_taken_where_the_dialect_says_so(sid: int) -> None:
    assert sid_of(Classic(text_ids=True), {"sid": str(sid)}) == sid
    assert sid_of(Classic(), {"sid": str(sid)}) is None


def test_dialects_of_the_same_wire_are_equal() -> None:
    assert Classic("id") == Classic("id") != Classic("id", text_ids=True)
    assert Classic() != Exact()
    assert hash(Classic("id")) == hash(Classic("id"))
    assert Classic() != "sid"
    assert "text_ids=True" in repr(Classic(text_ids=True))


@pytest.mark.parametrize(("name", "error"), [("", ValueError), (5, TypeError), (None, TypeError), (b"sid", TypeError)])
def test_a_field_name_that_is_no_text_is_refused(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="session_id_name"):
        Classic(name)


async def test_what_is_sent_carries_an_int_even_to_a_peer_that_writes_text() -> None:
    wire = Wire()
    async with (
        SessionManager(wire, dialect=Classic("id", text_ids=True)).port("p") as port,
        port.session() as session,
    ):
        await session.post({})
        port.dispatch({"id": "1", "n": 1})
        assert (await session.receive())["n"] == 1
    assert wire.sent == [{"id": 1}]
    assert type(wire.sent[0]["id"]) is int


# -- payloads as users meet them ---------------------------------------------------------------------------------------


async def answer(session: Session) -> None:
    async for payload in session:
        await session.post({"answer": payload["n"] + 1})


@pytest.mark.parametrize("browser", DIALECTS, ids=["classic browser", "exact browser"])
@pytest.mark.parametrize("device", DIALECTS, ids=["classic device", "exact device"])
async def test_a_gateway_forwards_what_it_receives_on_all_four_pairs_of_wires(
    browser: Dialect, device: Dialect
) -> None:
    (near, gate), (out, far) = memory_pair(), memory_pair()
    async with (
        SessionManager(on_session=answer).port("device", far),
        SessionManager(dialect=device).port("to device", out) as to_device,
    ):

        async def forward(session: Session) -> None:
            async for payload in session:
                await session.post(await to_device.request(payload))

        async with (
            SessionManager(on_session=forward).port("to browser", gate),
            SessionManager(dialect=browser, session_timeout=5).port("gateway", near) as port,
        ):
            assert await port.request({"n": 1}) == {"answer": 2}
            async with port.session() as session:
                assert [await session.send({"n": n}) for n in range(3)] == [{"answer": n + 1} for n in range(3)]


PLAIN_NAMES = ("_error", "_port", "_end", "_part", "_new", "_wait", "_credit", "_resume")


@pytest.mark.parametrize("name", PLAIN_NAMES)
@pytest.mark.parametrize("dialect", DIALECTS, ids=["classic", "exact"])
async def test_a_plain_device_may_have_a_field_of_an_exact_name(dialect: Dialect, name: str) -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=dialect, session_timeout=5).port("p", here) as port, port.session() as session:

        async def reply() -> None:
            for _ in range(2):
                question = await there.receive()
                await there.send({"sid": question["sid"], name: 7, "n": question["n"]})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            assert [await session.send({"n": n}) for n in range(2)] == [{name: 7, "n": n} for n in range(2)]
            await settle()
        assert port.statistics().matched == 2


@pytest.mark.parametrize("name", PLAIN_NAMES)
async def test_a_plain_message_may_have_a_field_of_an_exact_name(name: str) -> None:
    plain: list[Any] = []
    async with SessionManager(Wire(), on_message=plain.append).port("p") as port:
        assert not port.dispatch({name: 7})
        assert not port.dispatch({name: True})


async def test_a_question_of_a_json_rpc_server_is_never_our_reply() -> None:
    asked: list[Any] = []
    here, there = memory_pair()

    async def handle(session: Session) -> None:
        async for question in session:
            asked.append((session.sid, question))
            await session.post({"jsonrpc": "2.0", "result": "pong"})

    manager = SessionManager(session_id_name="id", session_ids=range(1, 100), on_session=handle, session_timeout=5)
    async with manager.port("server", here) as port, trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await there.receive()
            await there.send({"jsonrpc": "2.0", "id": request["id"], "method": "ping"})
            assert await there.receive() == {"jsonrpc": "2.0", "result": "pong", "id": request["id"]}
            await there.send({"jsonrpc": "2.0", "id": request["id"], "result": 5})

        nursery.start_soon(serve)
        reply = await port.request({"jsonrpc": "2.0", "method": "add", "params": [2, 3]})
        assert reply == {"jsonrpc": "2.0", "result": 5}
        assert asked == [(1, {"jsonrpc": "2.0", "method": "ping"})]


class NamedByText(Classic):
    """A dialect whose peer names its sessions by text or bytes, as JSON-RPC allows."""

    def sid_of(self, fields: dict[str, Any]) -> Any:
        """The name, whatever it is made of."""
        sid = fields.get(self.session_id_name)
        return sid if isinstance(sid, str | bytes) else super().sid_of(fields)


async def test_a_peer_may_name_its_sessions_by_anything_that_has_a_hash(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    sids: list[Any] = []

    async def handle(session: Session) -> str | None:
        sids.append(session.sid)
        async for message in session:
            if "fail" in message:
                raise ValueError("no")
            if "return" in message:
                return "nothing"
            if "ask" in message:
                message = await session.send({"back": 1}, timeout=1)
            await session.post({"echo": message})
        return None

    here, there = memory_pair()
    async with SessionManager(dialect=NamedByText("id"), on_session=handle).port("p", here) as port:
        for message in (
            {"id": "abc", "method": 1},
            {"id": "abc", "method": 2, "ask": 1},
            {"id": "abc", "result": 4},
            {"id": b"\0", "method": 3, "fail": 1},
            {"id": "r", "method": 4, "return": 1},
            {"id": "abc", "method": 5, "_turn": 1, "_life": 4},
        ):
            await there.send(message)
            await settle()
        assert sids == ["abc", b"\0", "r"]
        assert [await there.receive() for _ in range(3)] == [
            {"echo": {"method": 1}, "id": "abc"},
            {"back": 1, "id": "abc"},
            {"echo": {"result": 4}, "id": "abc"},
        ]
        assert (port.statistics().malformed, port.statistics().crashed) == (1, 1)
        assert [*port.sessions] == ["abc"]
        assert port.get_session({"id": "abc"}) is port.sessions["abc"]  # type: ignore[index]
        with pytest.raises(SessionTimeoutError):
            await port.sessions["abc"].send({"n": 1}, timeout=1)  # type: ignore[index]
    assert "the handler of session b'\\x00' raised" in caplog.text
    assert "the handler of session r returned 'nothing'" in caplog.text
