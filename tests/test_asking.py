"""Turns asked on the exact wire: what the peer is told, how long it may take, and what an error knows."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from psession import (
    Exact,
    PortClosedError,
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionError,
    SessionManager,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import memory_pair

from .peers import Caught, Wire, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from psession import Port


@asynccontextmanager
async def asking(**options: Any) -> AsyncIterator[tuple[Port, Wire]]:
    """A port whose peer is the test."""
    wire = Wire()
    async with SessionManager(wire, dialect=Exact(), **options).port("p") as port:
        yield port, wire


def answer(question: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What answers it."""
    return {"sid": question["sid"], "_re": question["_turn"], "_life": question["_life"], **fields}


def ended(question: dict[str, Any]) -> dict[str, Any]:
    """What ends its session, in the words of a side that does not know the last turn."""
    return {"sid": question["sid"], "_end": True, "_life": question["_life"]}


ENDS: list[tuple[str, Callable[[Port, Session, trio.CancelScope], Any], Any]] = [
    ("cancelled", lambda port, session, scope: scope.cancel(), None),
    ("cancelled", lambda port, session, scope: session.cancel(), SessionCancelError),
    ("timeout", lambda port, session, scope: session.timeout(), SessionTimeoutError),
    ("aborted", lambda port, session, scope: session.abort(), SessionAbortError),
    ("ended", lambda port, session, scope: session.end(), SessionCancelError),
    ("closed", lambda port, session, scope: port.close(), SessionAbortError),
]


@pytest.mark.parametrize(("code", "deed", "error"), ENDS, ids=[f"{code}-{n}" for n, (code, *_) in enumerate(ENDS)])
async def test_however_a_turn_is_given_up_the_peer_is_told_once(code: str, deed: Any, error: Any) -> None:
    async with asking() as (port, wire):
        session, caught, scope = port.create(), Caught(), trio.CancelScope()

        async def ask() -> None:
            with scope:
                await caught.run(lambda: session.send({}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await settle()
            deed(port, session, scope)
            await settle()
        assert type(caught.error) is (error or type(None))
        told = [message for message in wire.sent if "_error" in message]
        assert [(message["_turn"], message["_error"]) for message in told] == [(1, code)]
        before = len(wire.sent)
        session.end()
        ends = [message for message in wire.sent if message.get("_end")]
        assert len(ends) == 1
        assert len(wire.sent) - before == (code not in ("ended", "closed"))
    assert len(wire.sent) == before + (code not in ("ended", "closed"))


@pytest.mark.parametrize("re", [True, False], ids=["naming its last turn", "naming none"])
@pytest.mark.parametrize("turns", [1, 2])
async def test_a_peer_that_answers_and_ends_the_session_in_one_breath_ends_it_here(turns: int, re: bool) -> None:
    async with asking() as (port, wire), trio.open_nursery() as nursery:
        session, caught, waiting = port.create(), [Caught() for _ in range(turns)], Caught()
        for turn in caught:
            nursery.start_soon(lambda turn=turn: turn.run(lambda: session.send({})))
            await settle()
            if turn is caught[-1]:
                nursery.start_soon(lambda: waiting.run(lambda: session.send({})))
                await settle()
            port.dispatch(answer(wire.sent[-1], n=5))
            if turn is caught[-1]:
                port.dispatch(answer(wire.sent[-1], _error="ended", _end=True) if re else ended(wire.sent[-1]))
            await settle()
        assert [turn.value["n"] for turn in caught] == [5] * turns
        assert session.closed
        assert type(waiting.error) is SessionCancelError
        assert waiting.error.outcome in (None, "not_sent")
        assert len(wire.sent) == turns
        assert_idle(port)


async def test_a_turn_that_times_out_tells_the_peer_when_it_does(autojump_clock: MockClock) -> None:
    async with asking(session_timeout=2, retry_count=1, retry_interval=1) as (port, wire):
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({})
        assert (trio.current_time(), caught.value.outcome, caught.value.attempts) == (5.0, "sent", 2)
        assert [message.get("_wait") for message in wire.sent] == [5.0, 2.0, None]
        assert (wire.sent[-1]["_error"], wire.sent[-1]["_end"]) == ("timeout", True)
        assert port.statistics().resting == 1
        port.dispatch({"sid": 1, "_re": 1, "_error": "ended", "_end": True, "_life": wire.sent[0]["_life"]})
        assert port.statistics().resting == 0


async def test_leaving_the_port_in_the_middle_of_a_turn_tells_the_peer_in_time() -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with trio.open_nursery() as nursery:
        async with manager.port("p", here) as port:
            caught = Caught()
            nursery.start_soon(lambda: caught.run(lambda: port.request({})))
            question = await there.receive()
        goodbye = await there.receive()
    assert (goodbye["_turn"], goodbye["_error"], goodbye["_end"]) == (question["_turn"], "closed", True)
    assert type(caught.error) is SessionAbortError
    assert_empty(manager, port)


@pytest.mark.parametrize("deadlines", [True, False])
async def test_the_callers_own_scopes_count_in_what_the_peer_is_given(
    autojump_clock: MockClock, deadlines: bool
) -> None:
    async with asking(deadlines=deadlines) as (port, wire):
        with trio.move_on_after(3):
            await trio.sleep(1)
            await port.request({}, timeout=10)
        assert wire.sent[0].get("_wait") == (2.0 if deadlines else None)
        assert wire.sent[1]["_error"] == "cancelled"


async def test_a_turn_that_waits_for_ever_says_nothing_of_time_and_one_without_any_still_wants_an_answer(
    autojump_clock: MockClock,
) -> None:
    async with asking() as (port, wire):
        with trio.move_on_after(0.5), pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=0)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: port.request({}, timeout=float("inf")))
                await settle()
                scope.cancel()
        asked = [message for message in wire.sent if "_error" not in message]
        assert [message.get("_wait") for message in asked] == [0.001, None]


async def test_what_was_never_sent_says_so() -> None:
    here, _there = memory_pair(1)
    async with SessionManager(dialect=Exact()).port("p", here) as port:
        session = port.create()
        session.end()
        with pytest.raises(SessionError) as caught:
            await session.send({})
        assert caught.value.outcome in (None, "not_sent")
        assert_idle(port)


async def test_a_sender_that_raises_has_its_error_at_its_caller_and_the_next_turn_works() -> None:
    sent: list[dict[str, Any]] = []

    def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) < 4:
            raise OSError("no line")
        if "_error" not in message:
            port.dispatch(answer(message))

    async with SessionManager(send, dialect=Exact()).port("p") as port:
        session = port.create()
        with pytest.raises(OSError, match="no line"):
            await session.send({})
        with pytest.raises(OSError, match="no line"):
            await session.post({})
        reply = await session.send({})
        assert (reply, sent[-1]["_new"]) == ({}, True)
        session.end()
        assert_idle(port)


async def test_the_statistics_say_what_came_of_the_turns(autojump_clock: MockClock) -> None:
    async with asking(session_timeout=1) as (port, wire):
        caught = Caught()
        with pytest.raises(SessionTimeoutError):
            await port.request({})
        port.dispatch(answer(wire.sent[0]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: port.request({})))
            await settle()
            port.dispatch(answer(wire.sent[-1], _error="crashed"))
        assert isinstance(caught.error, SessionRemoteError)
        port.dispatch(answer(wire.sent[-1], _error="crashed"))
        port.dispatch({**answer(wire.sent[-1]), "_life": 1})
        statistics = port.statistics()
        assert (statistics.timed_out, statistics.failed, statistics.late) == (1, 1, 1)
        assert (statistics.duplicate, statistics.stale_own, statistics.matched) == (1, 1, 0)


async def test_a_channel_that_breaks_ends_the_turns_and_nothing_is_said_to_it() -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=Exact()).port("p", here) as port:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: port.request({})))
            await there.receive()
            await there.aclose()
        assert isinstance(caught.error, PortClosedError)
        assert caught.error.outcome == "sent"


class Message(msgspec.Struct):
    """A typed payload."""

    n: int


async def test_typed_payloads_travel_exactly_without_any_field_of_the_wire() -> None:
    async def handle(session: Session) -> None:
        async for message in session:
            await session.post(Message(message.n + 1))

    here, there = memory_pair()
    async with (
        SessionManager(on_session=handle).port("client", there),
        SessionManager(dialect=Exact()).port("server", here) as port,
        port.session() as session,
    ):
        for n in range(3):
            assert await session.send(Message(n)) == Message(n + 1)
        assert await port.request(Message(7)) == Message(8)


async def test_fields_that_are_null_are_not_there() -> None:
    async with asking() as (port, wire):
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: port.request({})))
            await settle()
            port.dispatch({"sid": 1, "n": 5, "_re": None, "_turn": None, "_end": None})
            await settle()
            assert caught.value["n"] == 5
        assert port.statistics().classic == 1
        assert len(wire.sent) == 1
