"""Payloads with a type, over real codecs: on both wires the type meets the payload alone, and nothing of psession's."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import logging
import re
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import msgspec
import pytest
import trio
import trio.testing

from psession import (
    Classic,
    Exact,
    MalformedMessageError,
    Port,
    Session,
    SessionInvalidError,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import JsonCodec, MsgpackCodec, length_prefixed, lines, memory_pair
from psession.channels.codecs import Undecoded, find_codec
from psession.message import Joined, flat

from .peers import settle
from .streams import consume
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from psession import Dialect

    Handler = Callable[[Session], Awaitable[None]]
    MakeCodec = Callable[[Any], Any]

DIALECTS = [Classic(), Exact()]
WIRES = ["classic", "exact"]
MAKERS = [JsonCodec, MsgpackCodec]
FORMS = ["json", "msgpack"]

both_wires = pytest.mark.parametrize("dialect", DIALECTS, ids=WIRES)
both_forms = pytest.mark.parametrize("make", MAKERS, ids=FORMS)


class Order(msgspec.Struct):
    """A question with a field that it must have."""

    command: str


class Status(msgspec.Struct):
    """An answer with one."""

    light: str


class Defaults(msgspec.Struct, omit_defaults=True):
    """Fields that need not be on the wire; where none is, the payload is an empty object."""

    level: int = 3
    colour: str = "white"


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A type that takes no field which is not its own, so none of psession's either."""

    command: str
    when: datetime.datetime
    blob: bytes
    counts: dict[int, int]


class On(msgspec.Struct, tag=True):
    """One of a union that a tag tells apart."""

    level: int


class Off(msgspec.Struct, tag=True):
    """The other one."""

    why: str = "asked to"


class StrictOn(msgspec.Struct, tag="on", forbid_unknown_fields=True):
    """One of a union of types that take no other field."""

    level: int


class StrictOff(msgspec.Struct, tag="off", forbid_unknown_fields=True):
    """The other one."""


class Camel(msgspec.Struct, rename="camel"):
    """Fields with other names on the wire."""

    session_number: int


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    inner: Status
    y: int = 0


class Named(TypedDict):
    """A mapping with a type."""

    name: str


class Row(msgspec.Struct, array_like=True):
    """No object on the wire."""

    number: int


class Case(NamedTuple):
    """What is asked and answered, and the types that the two ends read."""

    question: Any
    answer: Any
    asked: Any = None
    answered: Any = None

    @property
    def types(self) -> tuple[Any, Any]:
        """What the asker's codec reads, and what the answerer's does."""
        return self.answered or type(self.answer), self.asked or type(self.question)


MOMENT = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)
CASES = {
    "a required field": Case(Order("on"), Status("on")),
    "defaults": Case(Defaults(level=5), Defaults(colour="red")),
    "nothing but defaults": Case(Defaults(), Defaults()),
    "no unknown fields": Case(
        Strict("on", MOMENT, b"\x00\xff", {1: 2}), Strict("off", MOMENT, b"", {-3: 4}), Strict, Strict
    ),
    "a tagged union": Case(On(3), Off(), On | Off, On | Off),
    "a tagged union of strict types": Case(StrictOn(3), StrictOff(), StrictOn | StrictOff, StrictOn | StrictOff),
    "other names": Case(Camel(7), Camel(8)),
    "a dataclass": Case(Point(1, Status("dim")), Point(2, Status("on"), 3)),
    "a TypedDict": Case({"name": "lamp"}, {"name": "oven"}, Named, Named),
    "a dict of Structs": Case({"a": Status("on")}, {"b": Status("off")}, dict[str, Status], dict[str, Status]),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def framed(stream: trio.abc.Stream, codec: Any) -> trio.abc.Channel[Any]:
    """JSON in lines, anything else behind its length."""
    return lines(stream, codec=codec) if isinstance(codec, JsonCodec) else length_prefixed(stream, codec=codec)


def managers(dialect: Dialect) -> tuple[SessionManager, SessionManager]:
    """The asker's, which waits for 5 seconds, and the answerer's."""
    return SessionManager(dialect=dialect, session_timeout=5), SessionManager(dialect=dialect)


@asynccontextmanager
async def connected(
    ends: tuple[SessionManager, SessionManager], handler: Handler | None, near: Any, far: Any, **options: Any
) -> AsyncIterator[tuple[Port, Port]]:
    """An asker with the codec `near`, and an answerer with `far`."""
    here, there = trio.testing.memory_stream_pair()
    client, server = ends
    async with (
        server.port("asker", framed(there, far), on_session=handler, **options) as answerer,
        client.port("answerer", framed(here, near)) as asker,
    ):
        yield asker, answerer


@asynccontextmanager
async def served(
    dialect: Dialect, handler: Handler | None, near: Any, far: Any, **options: Any
) -> AsyncIterator[tuple[Port, Port]]:
    """The same, and in the end both are empty."""
    ends = managers(dialect)
    async with connected(ends, handler, near, far, **options) as ports:
        yield ports
    for manager, port in zip(ends, ports, strict=True):
        assert_empty(manager, port)


def answering(seen: list[Any], *answers: Any) -> Handler:
    """A handler that gives the same answers to whatever it is asked."""

    async def handle(session: Session) -> None:
        async for payload in session:
            seen.append(payload)
            for answer in answers:
                await session.post(answer)

    return handle


async def two_kinds(session: Session) -> None:
    """A handler that asks back: `On` needs an `Off` before it is done."""
    async for payload in session:
        assert payload == On(1)
        assert await session.send(Off("which one?")) == On(2)
        await session.post(Off("done"))


# -- both wires --------------------------------------------------------------------------------------------------------


@every_case
@both_forms
@both_wires
async def test_a_typed_question_and_its_typed_answer_arrive_as_they_were(
    dialect: Dialect, make: MakeCodec, case: Case
) -> None:
    seen: list[Any] = []
    near, far = map(make, case.types)
    async with served(dialect, answering(seen, case.answer), near, far) as (port, _):
        assert await port.request(case.question) == case.answer
        async with port.session() as session:
            assert [await session.send(case.question) for _ in range(3)] == [case.answer] * 3
    assert seen == [case.question] * 4


@both_forms
@both_wires
async def test_a_payload_keeps_its_type_when_a_handler_asks_back(dialect: Dialect, make: MakeCodec) -> None:
    async with (
        served(dialect, two_kinds, make(On | Off), make(On | Off)) as (port, _),
        port.session() as session,
    ):
        assert await session.send(On(1)) == Off("which one?")
        assert await session.send(On(2)) == Off("done")


@every_case
@both_forms
@both_wires
async def test_posts_and_messages_of_no_session_are_typed_as_well(
    dialect: Dialect, make: MakeCodec, case: Case
) -> None:
    seen: list[Any] = []
    plain: list[Any] = []
    near, far = map(make, case.types)
    handler = answering(seen, case.answer)
    async with served(dialect, handler, near, far, on_message=plain.append) as (port, _):
        await port.post(case.question)
        async with port.session() as session:
            for _ in range(2):
                await session.post(case.question)
            assert [await session.receive() for _ in range(2)] == [case.answer] * 2
        await settle()
    assert (seen, plain) == ([case.question] * 2, [case.question])


@both_forms
@both_wires
async def test_a_payload_that_is_no_object_is_refused_before_anything_is_sent(
    dialect: Dialect, make: MakeCodec
) -> None:
    async with served(dialect, answering([]), make(Row), make(Row)) as (port, far):
        with pytest.raises(MalformedMessageError, match="Row; a message is an object"):
            await port.request(Row(1))
        async with port.session() as session:
            with pytest.raises(MalformedMessageError, match="Row; a message is an object"):
                await session.post(Row(1))
        await settle()
        assert (port.statistics().bytes_sent, far.statistics().malformed) == (0, 0)


@both_wires
async def test_a_device_may_use_names_of_the_exact_wire_for_fields_of_its_own(dialect: Dialect) -> None:
    class Report(msgspec.Struct):
        _error: int
        _end: bool

    here, there = trio.testing.memory_stream_pair()
    device = lines(there)
    async with (
        SessionManager(dialect=dialect, session_timeout=5).port("p", lines(here, codec=JsonCodec(Report))) as port,
        trio.open_nursery() as nursery,
    ):

        async def report() -> None:
            question = await device.receive()
            await device.send({"_error": 7, "_end": True, "sid": question["sid"]})

        nursery.start_soon(report)
        assert await port.request({"command": "report"}) == Report(7, True)


@both_wires
async def test_a_gap_between_two_types_is_closed_by_defaults_and_by_ignoring(dialect: Dialect) -> None:
    """An older end lacks a field that a newer one has, and the other way round: neither minds."""
    seen: list[Any] = []

    class New(msgspec.Struct):
        command: str
        urgent: bool = False

    async with served(dialect, answering(seen, Order("old")), JsonCodec(New), JsonCodec(Order)) as (port, _):
        assert await port.request(New("new", urgent=True)) == New("old", urgent=False)
    assert seen == [Order("new")]


# -- what the codec refuses --------------------------------------------------------------------------------------------


WRONG = {
    "a wrong type": (Order, {"command": 3}, r"Expected `str`, got `int`.*\$\.command"),
    "a field that is missing": (Order, {}, "missing required field `command`"),
    "a field too many": (StrictOff | StrictOn, {"type": "off", "more": 1}, "unknown field `more`"),
    "an unknown tag": (On | Off, {"type": "Blink"}, "Invalid value 'Blink'"),
    "no tag": (On | Off, {"level": 3}, "missing required field `type`"),
}

each_wrong = pytest.mark.parametrize(("kind", "payload", "text"), WRONG.values(), ids=WRONG)


@each_wrong
@both_forms
async def test_a_question_that_the_codec_refuses_is_refused_at_its_exact_asker_at_once(
    make: MakeCodec, kind: Any, payload: Any, text: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    seen: list[Any] = []
    async with served(Exact(), answering(seen, {}), make(dict[str, Any]), make(kind)) as (port, far):
        with pytest.raises(SessionRemoteError) as caught:
            await port.request(payload, retry_count=3)
        with pytest.raises(SessionRemoteError):
            async with port.stream(payload) as replies:
                await replies.receive()
        assert (caught.value.code, caught.value.outcome) == ("refused.malformed", "refused")
        assert (caught.value.attempts, trio.current_time()) == (1, 0.0)
        assert (far.statistics().malformed, seen) == (2, [])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.search(text, record.getMessage())


@each_wrong
@both_forms
async def test_a_question_that_the_codec_refuses_is_counted_and_times_out_at_its_classic_asker(
    make: MakeCodec, kind: Any, payload: Any, text: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    seen: list[Any] = []
    async with served(Classic(), answering(seen, {}), make(dict[str, Any]), make(kind)) as (port, far):
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request(payload)
        assert (caught.value.outcome, trio.current_time()) == ("sent", 5.0)
        assert (far.statistics().malformed, seen) == (1, [])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.search(text, record.getMessage())


@both_forms
@both_wires
async def test_an_answer_that_the_codec_refuses_fails_its_turn_where_it_says_whose_it_is_and_is_named_by_the_timeout(
    dialect: Dialect, make: MakeCodec, autojump_clock: MockClock
) -> None:
    seen: list[Any] = []
    near, far = make(Status), make(Order)
    async with served(dialect, answering(seen, {"light": 3}), near, far) as (port, _):
        with pytest.raises((SessionTimeoutError, SessionRemoteError)) as caught:
            await port.request(Order("on"), retry_count=1, retry_interval=0)
        if isinstance(caught.value, SessionRemoteError):
            assert (caught.value.code, trio.current_time()) == ("unreadable", 0.0)
            assert "not the message that belongs here" in str(caught.value)
        else:
            assert (dialect.asks_exactly, trio.current_time()) == (False, 10.0)
            assert "dropped messages of this peer so far: 2 malformed" in str(caught.value)
        assert caught.value.outcome == "sent"
        assert port.statistics().malformed == len(seen)


@both_forms
async def test_a_dialogue_goes_on_after_an_answer_that_the_codec_refused(make: MakeCodec) -> None:
    async def light(session: Session) -> None:
        async for payload in session:
            await session.post({"light": 3} if payload.command == "bad" else Status(payload.command))

    async with served(Exact(), light, make(Status), make(Order)) as (port, far), port.session() as session:
        with pytest.raises(SessionRemoteError, match="unreadable"):
            await session.send(Order("bad"))
        assert await session.send(Order("good")) == Status("good")
        with pytest.raises(SessionRemoteError, match="unreadable"):
            await session.send(Order("bad"))
        assert await session.send(Order("good")) == Status("good")
        assert far.statistics().accepted == 1


@both_forms
@both_wires
async def test_a_dialogue_goes_on_after_a_payload_that_the_codec_refused(
    dialect: Dialect, make: MakeCodec, autojump_clock: MockClock
) -> None:
    async def light(session: Session) -> None:
        async for payload in session:
            await session.post(Status(payload.command))

    expected = SessionRemoteError if dialect.asks_exactly else SessionTimeoutError
    async with (
        served(dialect, light, make(Status), make(Order)) as (port, far),
        port.session() as session,
    ):
        assert await session.send(Order("first")) == Status("first")
        with pytest.raises(expected):
            await session.send({"command": 3})
        assert await session.send(Order("second")) == Status("second")
        await session.post({"command": 4})
        assert await session.send(Order("third")) == Status("third")
        assert far.statistics().malformed == 2


@both_forms
@both_wires
async def test_what_is_no_object_costs_a_typed_port_that_message_alone(dialect: Dialect, make: MakeCodec) -> None:
    plain: list[Any] = []
    here, there = trio.testing.memory_stream_pair()
    rude = framed(here, make(Any))
    manager = SessionManager(dialect=dialect, on_session=answering([], Status("on")), on_message=plain.append)
    async with manager.port("p", framed(there, make(Order))) as port:
        for message in ([1], 3, "text", None, {}, {"command": None}):
            await rude.send(message)
        await rude.send({"command": "plain"})
        await rude.send({"command": "asked", "sid": 5})
        assert await rude.receive() == {"light": "on", "sid": 5}
        assert (plain, port.statistics().malformed) == ([Order("plain")], 6)
    await rude.aclose()


# -- refusals and failures of a typed service --------------------------------------------------------------------------


async def locked(session: Session) -> None:
    """Refuses."""
    async for _ in session:
        raise SessionRefusedError("it is locked", code="locked")


async def crashing(session: Session) -> None:
    """Fails."""
    async for payload in session:
        raise KeyError(payload.command)


async def silent(session: Session) -> None:
    """Leaves without an answer."""
    await session.receive()


FAILURES: dict[str, tuple[Handler | None, str, str | None, str]] = {
    "refuses": (locked, "refused.locked", "it is locked", "refused"),
    "crashes": (crashing, "crashed", None, "sent"),
    "leaves without an answer": (silent, "unanswered", None, "sent"),
    "is not there": (None, "refused.no_handler", None, "refused"),
}


@pytest.mark.parametrize(("handler", "code", "text", "outcome"), FAILURES.values(), ids=FAILURES)
@both_forms
async def test_an_exact_asker_of_a_typed_service_is_told_how_its_handler_failed(
    make: MakeCodec, handler: Handler | None, code: str, text: str | None, outcome: str, autojump_clock: MockClock
) -> None:
    async with served(Exact(), handler, make(Status), make(Order)) as (port, far):
        with pytest.raises(SessionRemoteError) as caught:
            await port.request(Order("on"), retry_count=2)
        error = caught.value
        assert (error.code, error.text or None, error.outcome, error.attempts) == (code, text, outcome, 1)
        assert trio.current_time() == 0.0
        assert far.statistics().no_handler == (handler is None)
        assert port.statistics().malformed == 0


@pytest.mark.parametrize(("handler", "code", "text", "outcome"), FAILURES.values(), ids=FAILURES)
@both_forms
async def test_a_classic_asker_of_a_typed_service_times_out_where_its_handler_failed(
    make: MakeCodec, handler: Handler | None, code: str, text: str | None, outcome: str, autojump_clock: MockClock
) -> None:
    async with served(Classic(), handler, make(Status), make(Order)) as (port, _):
        with pytest.raises(SessionTimeoutError):
            await port.request(Order("on"))
        assert (trio.current_time(), port.statistics().malformed) == (5.0, 0)


# -- many typed replies ------------------------------------------------------------------------------------------------


def parts(*posted: Any, last: Any = None, fails: Exception | None = None, finishes: bool = True) -> Handler:
    """A handler that posts, and ends its answer in one of the ways that there are."""

    async def handle(session: Session) -> None:
        async for _ in session:
            for one in posted:
                await session.post(one)
            if fails is not None:
                raise fails
            if finishes:
                await session.finish(last)

    return handle


A, B, C = Status("a"), Status("b"), Status("c")

STREAMS: dict[str, tuple[Handler, list[Any]]] = {
    "an end mark alone": (parts(A, B), [A, B]),
    "the end with the last payload": (parts(A, B, last=C), [A, B, C]),
    "the end in the only payload": (parts(last=C), [C]),
    "an end and nothing else": (parts(), []),
    "the next receive": (parts(A, B, finishes=False), [A, B]),
}


@pytest.mark.parametrize(("handler", "expected"), STREAMS.values(), ids=STREAMS)
@both_forms
async def test_a_stream_of_structs_ends_as_its_handler_says(
    make: MakeCodec, handler: Handler, expected: list[Any], autojump_clock: MockClock
) -> None:
    async with served(Exact(), handler, make(Status), make(Order)) as (port, _):
        async with port.stream(Order("all")) as replies:
            assert [reply async for reply in replies] == expected
        async with port.session() as session:
            for _ in range(2):
                async with session.stream(Order("all")) as replies:
                    assert [reply async for reply in replies] == expected
        assert (trio.current_time(), port.statistics().malformed) == (0.0, 0)


@both_forms
async def test_a_stream_of_payloads_that_are_empty_on_the_wire_has_each_of_them(
    make: MakeCodec, autojump_clock: MockClock
) -> None:
    """An end mark alone has no payload; the last payload may have no field. The two are told apart."""
    handlers = [parts(Defaults(), Defaults()), parts(Defaults(), last=Defaults())]
    for handler in handlers:
        async with (
            served(Exact(), handler, make(Defaults), make(Defaults)) as (port, _),
            port.stream(Defaults()) as replies,
        ):
            assert [reply async for reply in replies] == [Defaults(), Defaults()]
        assert trio.current_time() == 0.0


@both_forms
async def test_a_stream_of_structs_ends_with_what_its_handler_raised_behind_the_replies_before_it(
    make: MakeCodec,
) -> None:
    got: list[Any] = []
    handler = parts(A, B, fails=SessionRefusedError("no more", code="empty"))
    async with (
        served(Exact(), handler, make(Status), make(Order)) as (port, _),
        port.stream(Order("all")) as replies,
    ):
        with pytest.raises(SessionRemoteError, match="no more") as caught:
            await consume(replies, got)
    assert (got, caught.value.code) == ([A, B], "refused.empty")


@pytest.mark.parametrize("handler", [parts(A, {"light": 3}, C), parts(A, last={"light": 3})], ids=["inside", "last"])
@both_forms
async def test_a_part_that_the_codec_refuses_ends_its_stream_behind_the_replies_before_it(
    make: MakeCodec, handler: Handler, autojump_clock: MockClock
) -> None:
    got: list[Any] = []
    async with served(Exact(), handler, make(Status), make(Order)) as (port, far):
        async with port.stream(Order("all"), timeout=2) as replies:
            with pytest.raises(SessionRemoteError, match="unreadable") as caught:
                await consume(replies, got)
        assert (got, caught.value.outcome, trio.current_time()) == ([A], "sent", 0.0)
        assert port.statistics().malformed >= 1
        await settle()
        assert far.statistics().incoming == 0, "the handler goes on, for nobody"


async def test_a_typed_stream_is_refused_on_the_classic_wire() -> None:
    async with served(Classic(), parts(A), JsonCodec(Status), JsonCodec(Order)) as (port, _):
        with pytest.raises(SessionInvalidError, match="exact wire"):
            port.stream(Order("all"))


# -- gateways ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def gateway(browser: Dialect, device: Dialect, forward: Callable[[Port], Handler]) -> AsyncIterator[Port]:
    """A browser that speaks JSON, a device that speaks MessagePack, and between them what passes payloads on."""

    async def light(session: Session) -> None:
        async for order in session:
            assert type(order) is Order
            if order.command == "break":
                raise SessionRefusedError("it is broken", code="broken")
            for number in range(3):
                await session.post(Status(f"{order.command} {number}"))
            await session.finish()

    async with (
        connected(managers(device), light, MsgpackCodec(Status), MsgpackCodec(Order)) as (to_device, _),
        connected(managers(browser), forward(to_device), JsonCodec(Status), JsonCodec(Order)) as (port, _),
    ):
        yield port


def one_by_one(to_device: Port) -> Handler:
    """Pass a question on, and its answer back: each the very object that came."""

    async def forward(session: Session) -> None:
        async for order in session:
            await session.post(await to_device.request(order))

    return forward


def all_of_them(to_device: Port) -> Handler:
    """Pass a question on, and all of its replies back."""

    async def forward(session: Session) -> None:
        async for order in session:
            try:
                async with to_device.stream(order) as replies:
                    async for reply in replies:
                        await session.post(reply)
            except SessionRemoteError as error:
                raise SessionRefusedError(error.text, code="device") from error

    return forward


@pytest.mark.parametrize("browser", DIALECTS, ids=["classic browser", "exact browser"])
@pytest.mark.parametrize("device", DIALECTS, ids=["classic device", "exact device"])
async def test_a_gateway_passes_structs_on_between_two_codecs_on_all_four_pairs_of_wires(
    browser: Dialect, device: Dialect
) -> None:
    async with gateway(browser, device, one_by_one) as port, port.session() as session:
        assert await port.request(Order("on")) == Status("on 0")
        assert [await session.send(Order(name)) for name in "abc"] == [Status(f"{name} 0") for name in "abc"]


async def test_a_gateway_passes_a_stream_of_structs_on_and_the_refusal_at_its_end() -> None:
    async with gateway(Exact(), Exact(), all_of_them) as port:
        async with port.stream(Order("on")) as replies:
            assert [reply async for reply in replies] == [Status(f"on {number}") for number in range(3)]
        with pytest.raises(SessionRemoteError, match="it is broken") as caught:
            await port.request(Order("break"))
        assert caught.value.code == "refused.device"


# -- a codec of the user's own -----------------------------------------------------------------------------------------


class Sealed:
    """Somebody's own codec: JSON behind a seal. It keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def __repr__(self) -> str:
        return "Sealed()"

    def encode(self, message: Any) -> bytes:
        """JSON behind the seal."""
        self.given.append(message)
        return b"sealed " + json.dumps(message, allow_nan=False).encode()

    def decode(self, data: Any) -> Any:
        """What is behind the seal."""
        seal, _, text = bytes(data).partition(b" ")
        if seal != b"sealed":
            raise ValueError("the seal is broken")
        return json.loads(text)


@pytest.mark.parametrize(
    ("payload", "members"),
    [
        ({"command": "on"}, {"command": "on"}),
        (Order("on"), {"command": "on"}),
        (Point(1, Status("dim")), {"x": 1, "inner": {"light": "dim"}, "y": 0}),
        (Off(), {"type": "Off", "why": "asked to"}),
        (Camel(7), {"sessionNumber": 7}),
        (Defaults(), {}),
    ],
    ids=["a dict", "a Struct", "a dataclass", "tagged", "other names", "empty"],
)
@both_wires
async def test_a_users_codec_gets_one_mapping_of_a_payload_and_the_fields_beside_it(
    dialect: Dialect, payload: Any, members: dict[str, Any]
) -> None:
    near, seen = Sealed(), list[Any]()
    async with served(dialect, answering(seen, {"ok": True}), near, Sealed()) as (port, _):
        assert await port.request(payload) == {"ok": True}
    (asked, *_) = near.given
    assert seen == [members]
    assert type(asked) is dict
    assert asked["sid"] == 1
    assert list(asked)[: len(members) + 1] == [*members, "sid"]
    assert ("_turn" in asked) == dialect.asks_exactly


async def test_a_stream_and_its_end_pass_through_a_users_codec(autojump_clock: MockClock) -> None:
    for handler, expected in ((parts(A, B), ["a", "b"]), (parts(A, last=C), ["a", "c"])):
        async with (
            served(Exact(), handler, Sealed(), Sealed()) as (port, _),
            port.stream(Order("all")) as replies,
        ):
            assert [reply["light"] async for reply in replies] == expected
        assert trio.current_time() == 0.0


@both_wires
async def test_what_a_users_codec_cannot_encode_is_refused_before_anything_is_sent(dialect: Dialect) -> None:
    async with served(dialect, answering([]), Sealed(), Sealed()) as (port, _):
        with pytest.raises(MalformedMessageError, match=r"Sealed\(\) cannot encode it: .*not JSON serializable"):
            await port.request({"command": object()})
        with pytest.raises(MalformedMessageError, match="cannot be made into an object: Encoding"):
            await port.request(Unknown(object()))
        with pytest.raises(MalformedMessageError, match="not an object: Row"):
            await port.request(Row(1))
        assert port.statistics().bytes_sent == 0


@dataclasses.dataclass
class Unknown:
    """A payload with something in it that has no form on any wire."""

    thing: object


@both_wires
async def test_what_a_users_codec_cannot_decode_costs_that_message_alone(dialect: Dialect) -> None:
    here, there = trio.testing.memory_stream_pair()
    rude, codec = length_prefixed(here, codec=JsonCodec()), Sealed()
    manager = SessionManager(dialect=dialect, on_session=answering([], A))
    async with manager.port("p", length_prefixed(there, codec=codec)) as port:
        await rude.send({"command": "on", "sid": 1})
        await here.send_all(len(good := codec.encode({"sid": 2})).to_bytes(4, "big") + good)
        await here.receive_some(1)
        assert port.statistics().malformed == 1
    await rude.aclose()


# -- without bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [Order("on"), Point(1, A), Defaults()], ids=["a Struct", "a dataclass", "empty"])
@both_wires
async def test_a_memory_channel_carries_a_typed_payload_as_the_object_that_it_is(
    dialect: Dialect, payload: Any
) -> None:
    seen: list[Any] = []
    here, there = memory_pair()
    client, server = managers(dialect)
    async with (
        server.port("asker", there, on_session=answering(seen, payload), on_message=seen.append),
        client.port("answerer", here) as port,
    ):
        assert await port.request(payload) is payload
        async with port.session() as session:
            await session.post(payload)
            assert await session.receive() is payload
        await port.post(payload)
        await settle()
    assert len(seen) == 3
    assert all(one is payload for one in seen)


@pytest.mark.parametrize("last", [None, C, Defaults()], ids=["an end mark", "a last payload", "an empty one"])
async def test_a_stream_in_memory_tells_an_end_mark_from_an_empty_payload(last: Any, autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    client, server = managers(Exact())
    async with (
        server.port("asker", there, on_session=parts(A, Defaults(), last=last)),
        client.port("answerer", here) as port,
        port.stream(Defaults()) as replies,
    ):
        assert [reply async for reply in replies] == [A, Defaults(), *([] if last is None else [last])]
    assert trio.current_time() == 0.0


# -- the two halves of a typed message ---------------------------------------------------------------------------------


BESIDE = {"sid": 5, "_turn": 9, "_new": True}


@every_case
@both_forms
def test_a_joined_message_is_opened_into_the_fields_beside_and_the_payload(make: MakeCodec, case: Case) -> None:
    codec = make(case.types[1])
    opened = codec.open(codec.encode(Joined(case.question, BESIDE)))
    assert type(opened) is Undecoded
    assert {name: opened.fields[name] for name in BESIDE} == BESIDE
    assert list(opened.fields)[-3:] == list(BESIDE)
    assert opened.payload(frozenset(BESIDE)) == case.question


@both_forms
def test_a_joined_message_is_on_the_wire_what_one_mapping_would_be(make: MakeCodec) -> None:
    codec = make(dict[str, Any])
    for size in (0, 1, 12, 13, 15, 16, 70_000):
        payload = {f"field {number}": number for number in range(size)}
        fields = {"sid": 5, "_turn": 1, "_life": 2}
        assert codec.encode(Joined(payload, fields)) == codec.encode({**payload, **fields})
    assert codec.decode(codec.encode(Joined(On(3), {"sid": 5}))) == {"type": "On", "level": 3, "sid": 5}


@both_forms
def test_an_undecoded_message_says_what_it_is_and_decodes_as_a_whole(make: MakeCodec) -> None:
    codec = make(Order)
    opened = codec.open(codec.encode({"command": "on"}))
    assert opened.decode() == Order("on")
    assert repr(opened) == "<psession.channels.codecs.Undecoded {'command': 'on'}>"
    assert codec.open(make(Any).encode([1])).fields == {}
    with pytest.raises(MalformedMessageError, match="missing required field"):
        codec.open(make(Any).encode({"sid": 1})).payload(frozenset({"sid"}))


def test_a_strict_type_does_not_see_the_fields_that_are_taken_out_and_does_see_the_others() -> None:
    codec = JsonCodec(StrictOn)
    opened = codec.open(b'{"type":"on","level":3,"sid":5,"_turn":1}')
    assert opened.payload(frozenset({"sid", "_turn"})) == StrictOn(3)
    with pytest.raises(MalformedMessageError, match="unknown field `_turn`"):
        opened.payload(frozenset({"sid"}))


KINDS: list[tuple[Any, Any]] = [
    (decimal.Decimal, "1.10"),
    (datetime.datetime, MOMENT),
    (datetime.datetime, "2026-03-01T12:30:00Z"),
    (bytes, b"x"),
    (bytes, "eA=="),
    (bytearray, "eA=="),
    (dict[int, int], {1: 2}),
    (int, 2**63),
    (float, 1),
    (float, "1.5"),
    (uuid.UUID, uuid.UUID(int=5)),
    (tuple[int, int], [1, 2]),
    (msgspec.Raw, {"any": ["thing"]}),
]


def read(codec: Any, data: bytes | str) -> Any:
    """What the codec makes of the payload, or the error."""
    try:
        value = codec.open(data).payload(frozenset(BESIDE)).value
    except MalformedMessageError as error:
        return re.sub("Kind|Strict", "", error.why)
    return bytes(value) if isinstance(value, msgspec.Raw) else value


@pytest.mark.parametrize(("kind", "value"), KINDS)
@both_forms
def test_a_strict_type_reads_what_any_other_does_and_refuses_the_same(make: MakeCodec, kind: Any, value: Any) -> None:
    loose = make(msgspec.defstruct("Kind", [("value", kind)]))
    strict = make(msgspec.defstruct("Kind", [("value", kind)], forbid_unknown_fields=True))
    data = make(Any).encode({"value": value, **BESIDE})
    assert read(strict, data) == read(loose, data)
    assert type(read(strict, data)) is type(read(loose, data))


def test_a_strict_type_has_the_digits_of_a_number_as_they_came() -> None:
    class Price(msgspec.Struct, forbid_unknown_fields=True):
        value: decimal.Decimal

    data = b'{"value":0.10000000000000000000001,"sid":5}'
    assert read(JsonCodec(Price), data) == decimal.Decimal("0.10000000000000000000001")
    assert read(JsonCodec(Price), data.decode()) == decimal.Decimal("0.10000000000000000000001")
    opened = JsonCodec(dict[str, decimal.Decimal]).open(data).payload(frozenset(BESIDE))
    assert opened == {"value": decimal.Decimal("0.10000000000000000000001")}


def test_a_joined_message_is_flat_for_whoever_knows_nothing_of_types() -> None:
    joined = Joined(Point(1, Status("on")), {"sid": 5})
    assert flat(joined) == {"x": 1, "inner": {"light": "on"}, "y": 0, "sid": 5}
    assert flat({"a": 1}) == {"a": 1}
    assert joined.payload(frozenset({"sid"})) is joined.content
    assert repr(joined) == f"<psession.message.Joined {joined.content!r} with {joined.fields!r}>"
    codec = Sealed()
    find_codec(codec).encode(joined)
    assert codec.given == [flat(joined)]


@both_forms
def test_a_joined_message_with_an_odd_number_in_it_is_refused(make: MakeCodec) -> None:
    with pytest.raises(MalformedMessageError, match="nan"):
        make(Any).encode(Joined(Reading(float("nan")), {"sid": 5}))


class Reading(msgspec.Struct):
    """A payload with a float."""

    degrees: float
