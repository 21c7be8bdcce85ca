"""``reply_type``: a reply is read as a type of the caller's, or the caller is told where it does not fit."""

from __future__ import annotations

import dataclasses
import datetime
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import pytest
import trio
import trio.testing

from psession import (
    Classic,
    Dialect,
    Exact,
    MalformedMessageError,
    MessageError,
    Port,
    Replies,
    Session,
    SessionManager,
    SessionTimeoutError,
)
from psession.channels import JsonCodec, MsgpackCodec, length_prefixed, lines, memory_pair
from psession.text import SHORT_CHARS
from psession.typed import KEPT, Form, form_of

from .peers import Wire, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    Handler = Callable[[Session], Awaitable[None]]

WIRES: dict[str, Dialect] = {"classic": Classic(), "exact": Exact()}
CODECS: dict[str, tuple[Any, Any]] = {"json": (lines, JsonCodec), "msgpack": (length_prefixed, MsgpackCodec)}

both_wires = pytest.mark.parametrize("wire", WIRES)
both_codecs = pytest.mark.parametrize("codec", CODECS)


class Status(msgspec.Struct):
    """A reply."""

    level: int


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """One that takes no field which is not its own, so none of psession's either."""

    level: int


class On(msgspec.Struct, tag=True):
    """One of two that a tag tells apart."""

    level: int


class Off(msgspec.Struct, tag=True):
    """The other one."""

    level: int


class Camel(msgspec.Struct, rename="camel"):
    """Fields with other names on the wire."""

    lamp_name: str
    moment: datetime.datetime


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    status: Status


class Named(TypedDict):
    """A mapping with a type."""

    name: str


MOMENT = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)
FITS: dict[str, tuple[Any, Any, Any]] = {
    "a Struct": (Status, {"level": 1, "more": 2}, Status(1)),
    "a strict Struct": (Strict, {"level": 1}, Strict(1)),
    "a dataclass": (Point, {"x": 1, "status": {"level": 2}}, Point(1, Status(2))),
    "a TypedDict": (Named, {"name": "lamp", "more": 1}, {"name": "lamp"}),
    "one of two": (On | Off, {"type": "Off", "level": 1}, Off(1)),
    "numbers as keys": (dict[int, Status], {"1": {"level": 1}}, {1: Status(1)}),
    "other names": (Camel, {"lampName": "a", "moment": "2026-03-01T12:30:00Z"}, Camel("a", MOMENT)),
    "with bounds": (
        Annotated[dict[str, Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=2)],
        {"a": 1},
        {"a": 1},
    ),
    "what a peer's own Struct says": (Status, Off(3), Status(3)),
    "anything": (Any, {"a": 1}, {"a": 1}),
}
MISFITS: dict[str, tuple[Any, Any, str]] = {
    "wrong": (Status, {"level": "high"}, "it is no Status: Expected `int`, got `str` - at `$.level`"),
    "missing": (Status, {}, "it is no Status: Object missing required field `level`"),
    "unknown": (Strict, {"level": 1, "a": 2}, "it is no Strict: Object contains unknown field `a`"),
    "wrong inside": (
        dict[str, list[Status]],
        {"a": [{"level": 1}, {"level": None}]},
        "Status]]: Expected `int`, got `null` - at `$[...][1].level`",
    ),
    "no object at all": (int, {"level": 1}, "it is no int: Expected `int`, got `object`"),
    "another tag": (On, Off(1), "it is no On: Invalid value 'Off' - at `$.type`"),
    "unprintable": (Strict, {"a\nb": 1}, "it is no Strict: Object contains unknown field `a\\nb`"),
}


@asynccontextmanager
async def asked(
    wire: str, codec: str, handler: Handler, kind: Any = dict[str, Any], **options: Any
) -> AsyncIterator[Port]:
    """A port whose codec reads that type, and whose peer has this handler; both are empty in the end."""
    here, there = trio.testing.memory_stream_pair()
    frame, make = CODECS[codec]
    asking, answering = SessionManager(dialect=WIRES[wire], **options), SessionManager(dialect=WIRES[wire])
    async with (
        answering.port("asker", frame(there, codec=make()), on_session=handler) as server,
        asking.port("lamp", frame(here, codec=make(kind))) as port,
    ):
        yield port
    assert_empty(answering, server)
    assert_empty(asking, port)


def answering(*answers: Any, seen: list[Any] | None = None) -> Handler:
    """A handler that gives the same answers to whatever it is asked."""

    async def handle(session: Session) -> None:
        async for payload in session:
            if seen is not None:
                seen.append(payload)
            for answer in answers:
                await session.post(answer)

    return handle


# -- send and request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "answer", "reply"), FITS.values(), ids=FITS)
@both_codecs
@both_wires
async def test_a_reply_is_read_as_the_type(wire: str, codec: str, kind: Any, answer: Any, reply: Any) -> None:
    async with asked(wire, codec, answering(answer)) as port:
        got = await port.request({}, reply_type=kind)
        assert got == reply
        assert type(got) is type(reply)
        async with port.session() as session:
            assert [await session.send({}, reply_type=kind) for _ in range(3)] == [reply] * 3
            assert await session.send({}, reply_type=None) == msgspec.to_builtins(answer)
            assert await session.send({}) == msgspec.to_builtins(answer)


@pytest.mark.parametrize(("kind", "answer", "text"), MISFITS.values(), ids=MISFITS)
@both_codecs
@both_wires
async def test_a_reply_that_does_not_fit_is_an_error_that_says_where_and_ends_the_turn(
    wire: str, codec: str, kind: Any, answer: Any, text: str, autojump_clock: MockClock
) -> None:
    seen: list[Any] = []
    async with asked(wire, codec, answering(answer, seen=seen)) as port:
        with pytest.raises(MalformedMessageError) as caught:
            await port.request({"n": 1}, reply_type=kind, retry_count=5, retry_interval=0)
        assert caught.value.why.startswith("the reply does not fit reply_type: ")
        assert text in caught.value.why
        assert (caught.value.port, caught.value.attempts, caught.value.outcome) == ("lamp", 1, "sent")
        assert isinstance(caught.value, MessageError)
        assert isinstance(caught.value.__cause__, msgspec.ValidationError)
        assert caught.value.__context__ is not None
        await trio.sleep(10)
        assert_idle(port)
        async with port.session() as session:
            with pytest.raises(MalformedMessageError):
                await session.send({"n": 2}, reply_type=kind, retry_count=5)
            assert await session.send({"n": 3}) == msgspec.to_builtins(answer)
            assert port.statistics().timed_out == 0
        await settle()
        assert [payload["n"] for payload in seen] == [1, 2, 3]


@both_codecs
@both_wires
async def test_a_reply_that_the_codec_has_read_as_another_type_is_read_again(wire: str, codec: str) -> None:
    async with asked(wire, codec, answering({"type": "Off", "level": 1}), On | Off) as port:
        assert await port.request({}) == Off(1)
        assert await port.request({}, reply_type=Status) == Status(1)
        assert await port.request({}, reply_type=Off) == Off(1)
        assert await port.request({}, reply_type=dict) == {"type": "Off", "level": 1}
        with pytest.raises(MalformedMessageError, match="Invalid value 'Off'"):
            await port.request({}, reply_type=On)


async def test_a_reply_that_came_as_an_object_of_this_process_is_checked_as_well() -> None:
    here, there = memory_pair()
    manager = SessionManager()
    answers = iter([Status(1), Off(2), Status("high")])  # type: ignore[arg-type]

    async def handle(session: Session) -> None:
        async for _ in session:
            await session.post(next(answers))

    async with manager.port("far", there, on_session=handle), manager.port("near", here) as port:
        assert await port.request({}, reply_type=Status) == Status(1)
        assert await port.request({}, reply_type=Status) == Status(2)
        with pytest.raises(MalformedMessageError, match="Expected `int`, got `str`"):
            await port.request({}, reply_type=Status)


NO_TYPES: list[tuple[Any, str]] = [
    (complex, "complex is no type that msgspec can read: .* is not supported"),
    ("Status", "Status is no type"),
    (5, "5 is no type"),
    (Status(1), r"Status\(level=1\) is no type"),
    (msgspec.Raw, "Raw is no type .* stands for bytes"),
    (list[msgspec.Raw], "Raw.* is no type"),
    (Status | Point, "may not contain more than one dict-like type"),
]


@pytest.mark.parametrize(("kind", "text"), NO_TYPES)
async def test_what_is_no_type_is_refused_before_anything_is_sent(kind: Any, text: str) -> None:
    wire = Wire()
    manager = SessionManager(wire, dialect=Exact())
    async with manager.port("p") as port, port.session() as session:
        with pytest.raises(TypeError, match=text):
            session.send({}, reply_type=kind)
        with pytest.raises(TypeError, match=text):
            await port.request({}, reply_type=kind)
        with pytest.raises(TypeError, match=text):
            session.stream({}, reply_type=kind)
        with pytest.raises(TypeError, match=text):
            port.stream({}, reply_type=kind)
        assert list(port.sessions.values()) == [session]
        assert wire.sent == []
    assert_empty(manager, port)


@both_wires
async def test_cancelling_a_send_with_a_type_leaves_nothing(wire: str, autojump_clock: MockClock) -> None:
    manager = SessionManager(Wire(), dialect=WIRES[wire])
    async with manager.port("p") as port:
        with trio.move_on_after(1):
            await port.request({}, reply_type=Status)
        assert_idle(port)
        async with port.session() as session:
            with trio.move_on_after(1):
                await session.send({}, reply_type=Status)
            with pytest.raises(SessionTimeoutError):
                await session.send({}, reply_type=Status, timeout=1)
        assert_idle(port)
        assert trio.current_time() == 3.0
    assert_empty(manager, port)


class Watched(msgspec.Struct):
    """A type that runs code of the user's."""

    protected: Any = None

    def __post_init__(self) -> None:
        self.protected = trio.lowlevel.currently_ki_protected()


async def test_ctrl_c_may_interrupt_what_the_type_itself_does(autojump_clock: MockClock) -> None:
    async with asked("exact", "json", answering({})) as port:
        assert (await port.request({}, reply_type=Watched)).protected is False
        async with port.session() as session:
            assert (await session.send({}, reply_type=Watched)).protected is False
        async with port.stream({}, reply_type=Watched, count=1) as replies:
            assert (await replies.receive()).protected is False


# -- streams -----------------------------------------------------------------------------------------------------------

STREAMED: dict[str, Callable[[Port, Session, Any], Replies]] = {
    "port.stream": lambda port, session, kind: port.stream({}, reply_type=kind),
    "session.stream": lambda port, session, kind: session.stream({}, reply_type=kind),
}
both_streams = pytest.mark.parametrize("stream", STREAMED.values(), ids=STREAMED)


@both_streams
@both_codecs
async def test_each_reply_of_a_stream_is_read_as_the_type(codec: str, stream: Any) -> None:
    answers = [{"level": level} for level in range(100)]
    async with asked("exact", codec, answering(*answers)) as port, port.session() as session:
        async with stream(port, session, Status) as replies:
            assert [reply async for reply in replies] == [Status(level) for level in range(100)]
        async with stream(port, session, None) as replies:
            assert [reply async for reply in replies] == answers


@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "the last"])
@both_streams
@both_codecs
async def test_a_reply_of_a_stream_that_does_not_fit_ends_it(
    codec: str, stream: Any, last: bool, autojump_clock: MockClock
) -> None:
    given_up: list[float] = []

    async def handle(session: Session) -> None:
        try:
            async for _ in session:
                await session.post({"level": 1})
                await session.post({"level": 2})
                await session.post({"level": "high"})
                if not last:
                    await trio.sleep(60)
                    await session.post({"level": 4})
        except trio.Cancelled:
            given_up.append(trio.current_time())
            raise

    async with asked("exact", codec, handle) as port, port.session() as session:
        async with stream(port, session, Status) as replies:
            assert [await replies.receive() for _ in range(2)] == [Status(1), Status(2)]
            for _ in range(2):
                with pytest.raises(MalformedMessageError, match=r"it is no Status: .* at `\$\.level`") as caught:
                    await replies.receive()
                assert (caught.value.port, caught.value.outcome, caught.value.attempts) == ("lamp", "sent", 1)
            if last:
                assert await session.send({}, reply_type=Status) == Status(1)
        with pytest.raises(trio.ClosedResourceError):
            await replies.receive()
        await settle()
        assert given_up == ([] if last else [0.0])
        assert trio.current_time() == 0.0


# -- the forms of types ------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_type_is_found_out_once() -> None:
    assert form_of(Status) is form_of(Status)
    unhashable = Annotated[int, ["a note"]]
    assert form_of(unhashable).kind is unhashable
    for number in range(KEPT + 1):
        form_of(msgspec.defstruct(f"S{number}", []))
    assert form_of(Status).read({"level": 1}) == Status(1)


def test_an_error_repeats_little_of_a_long_reply() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        Form(Strict).read({"x" * 1_000_000: 1})
    assert len(str(caught.value)) < 2 * SHORT_CHARS


def test_what_cannot_travel_is_no_reply() -> None:
    with pytest.raises(MalformedMessageError, match=r"it is no Status: .*object"):
        Form(Status).read(object())


def test_a_port_a_session_and_replies_may_have_their_types_named_at_run_time() -> None:
    named: Any = (Port[Status, Point], Session[Status, Any], Replies[Status])
    assert [one.__origin__ for one in named] == [Port, Session, Replies]
