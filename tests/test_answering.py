"""Turns that the peer asks on the exact wire: run once, answered as often as asked, cancelled when given up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, SessionManager, SessionRefusedError, SessionRemoteError
from psession.channels import memory_pair

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from psession import Port, Session

LIFE = 5


@asynccontextmanager
async def answering(handler: Any, **options: Any) -> AsyncIterator[tuple[Port, Wire]]:
    """A port whose peer is the test: it asks by `dispatch`, and reads what was sent."""
    wire = Wire()
    async with SessionManager(wire, on_session=handler, **options).port("p") as port:
        yield port, wire


def ask(turn: int, sid: int = 1, **fields: Any) -> dict[str, Any]:
    """A turn of the peer's, whose payload says its number as well."""
    return {"turn": turn, "sid": sid, "_turn": turn, "_life": LIFE, **fields}


class Worker:
    """A handler that keeps what it was asked; it answers after `work` seconds, or leaves when told to."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.cancelled: list[float] = []

    async def __call__(self, session: Session) -> None:
        async for message in session:
            self.ran.append(message["turn"])
            try:
                await trio.sleep(message.get("work", 0))
            except trio.Cancelled:
                self.cancelled.append(trio.current_time())
                raise
            await session.post({"ok": message["turn"]})


async def test_a_turn_asked_again_while_it_runs_is_said_to_be_in_progress(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with answering(worker) as (port, wire):
        port.dispatch(ask(1, work=3))
        await trio.sleep(2)
        port.dispatch(ask(1, work=3))
        assert wire.sent == [{"sid": 1, "_re": 1, "_wait": 2.0, "_life": LIFE}]
        await trio.sleep(2)
        assert wire.sent[1:] == [{"ok": 1, "sid": 1, "_re": 1, "_life": LIFE}]
        port.dispatch(ask(1, work=3))
        assert wire.sent[2:] == wire.sent[1:2]
        assert port.statistics().repeated == 2
    assert worker.ran == [1]


async def test_a_copy_of_a_refused_turn_is_refused_even_when_there_is_room(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with answering(worker, max_incoming_sessions=1) as (port, wire):
        port.dispatch(ask(1, _new=True, _end=True, work=1))
        await settle()
        port.dispatch(ask(2, sid=2, _new=True))
        refusal = {"sid": 2, "_re": 2, "_error": "refused.full", "_life": LIFE}
        assert wire.sent == [refusal]
        await trio.sleep(2)
        port.dispatch(ask(2, sid=2, _new=True))
        await settle()
        assert wire.sent[-1] == refusal
    assert worker.ran == [1]


async def test_a_handler_that_fails_after_its_session_was_replaced_leaves_the_new_ones_turn_alone(
    autojump_clock: MockClock,
) -> None:
    async def handle(session: Session) -> None:
        async for message in session:
            try:
                await trio.sleep(5)
            finally:
                if message["turn"] == 1:
                    raise SessionRefusedError("while it unwinds")
            await session.post({})

    async with answering(handle) as (port, wire):
        port.dispatch(ask(1, _new=True))
        await settle()
        port.dispatch(ask(2, _new=True))
        await trio.sleep(6)
        assert wire.sent == [{"sid": 1, "_re": 2, "_life": LIFE}]


async def test_a_late_copy_of_an_end_leaves_the_numbers_next_session_alone(autojump_clock: MockClock) -> None:
    async with answering(Worker()) as (port, wire):
        end = ask(1, _error="ended", _end=True)
        port.dispatch(ask(1, _new=True))
        await settle()
        port.dispatch(end)
        assert wire.sent[1:] == [{"sid": 1, "_re": 1, "_error": "ended", "_end": True, "_life": LIFE}]
        port.dispatch(ask(2, _new=True, work=1))
        await settle()
        port.dispatch(end)
        await trio.sleep(2)
        assert wire.sent[2:] == [{"ok": 2, "sid": 1, "_re": 2, "_life": LIFE}]


@pytest.mark.parametrize("end", [{"_end": True}, {"_turn": 1, "_error": "timeout"}, {"_turn": 2, "_error": "closed"}])
async def test_a_peer_that_wants_no_answer_any_more_has_its_handler_cancelled(
    autojump_clock: MockClock, end: dict[str, Any]
) -> None:
    worker = Worker()
    async with answering(worker) as (port, wire):
        port.dispatch(ask(1, work=100))
        await trio.sleep(1)
        port.dispatch({"sid": 1, "_life": LIFE, **end})
        await settle()
        assert worker.cancelled == [1.0]
        assert (port.sessions, wire.sent) == ({}, [])
        assert port._engine.connection._shared.turns.running(1) == 0
        port.dispatch(ask(end.get("_turn", 1)))
        await settle()
    assert worker.ran == [1]
    assert [message["_error"] for message in wire.sent] == ["forgotten"]


async def test_a_give_up_that_overtakes_its_turn_keeps_it_from_running() -> None:
    worker = Worker()
    async with answering(worker) as (port, wire):
        port.dispatch(ask(1, _error="timeout"))
        port.dispatch(ask(1, _new=True))
        await settle()
    assert worker.ran == []
    assert wire.sent == [{"sid": 1, "_re": 1, "_error": "forgotten", "_life": LIFE}]


@pytest.mark.parametrize("number", [2**53, 2**64, 2**200, 0, -1, 1.0, True, "1"])
async def test_a_turn_that_is_no_number_is_malformed(number: Any) -> None:
    worker = Worker()
    async with answering(worker) as (port, wire):
        port.dispatch(ask(1))
        await settle()
        port.dispatch(ask(number))
        await settle()
        assert port.statistics().malformed == 1
        assert len(wire.sent) == len(worker.ran) == 1


@pytest.mark.parametrize("number", [2**53, 2**64, 2**200, 0, -1, 1.0, True, "1"])
async def test_a_peer_that_never_spoke_exactly_may_have_a_field_of_that_name(number: Any) -> None:
    worker = Worker()
    async with answering(worker) as (port, wire):
        port.dispatch(ask(number))
        await settle()
        assert (worker.ran, wire.sent) == ([number], [{"ok": number, "sid": 1}])


async def test_a_question_asked_back_several_times_is_stored_once(autojump_clock: MockClock) -> None:
    caught = Caught()

    async def handle(session: Session) -> None:
        await session.receive()
        await caught.run(lambda: session.send({"q": 1}, timeout=1, retry_count=4, retry_interval=0))

    async with answering(handle) as (port, wire):
        port.dispatch(ask(1))
        await trio.sleep(3.5)
        assert [message["_re"] for message in wire.sent] == [1] * 4
        assert len({message["_turn"] for message in wire.sent}) == 1
        port.dispatch(ask(1))
        assert len(wire.sent) == 5


async def test_an_asker_that_asks_back_is_told_how_long_its_question_has_been_worked_on(
    autojump_clock: MockClock,
) -> None:
    wire = Wire()
    async with SessionManager(wire, dialect=Exact()).port("p") as port:
        await trio.sleep(1000)
        session, caught = port.create(), Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: session.send({})))
            await settle()
            question = {"sid": 1, "_re": 1, "_turn": 7, "_life": wire.sent[0]["_life"]}
            port.dispatch(question)
        await trio.sleep(3)
        port.dispatch(question)
        assert wire.sent[1:] == [{"sid": 1, "_re": 7, "_wait": 3.0, "_life": wire.sent[0]["_life"]}]


async def test_the_time_that_an_asker_gives_counts_in_the_turns_of_a_dialogue_too(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def handle(session: Session) -> None:
        await session.receive()
        try:
            await session.send({"q": 1})
            await trio.sleep(100)
        finally:
            ended.append(trio.current_time())

    async with answering(handle) as (port, wire):
        port.dispatch(ask(1, _wait=10))
        await settle()
        port.dispatch(ask(2, _re=wire.sent[0]["_turn"], _wait=4))
        await trio.sleep(50)
    assert ended == [4.0]


@pytest.mark.parametrize("deadlines", [True, False])
async def test_a_handler_is_cancelled_when_its_askers_time_is_over(autojump_clock: MockClock, deadlines: bool) -> None:
    worker = Worker()
    async with answering(worker, deadlines=deadlines) as (port, wire):
        port.dispatch(ask(1, work=9, _wait=2.5))
        await trio.sleep(10)
        assert worker.cancelled == ([2.5] if deadlines else [])
        assert len(wire.sent) == (0 if deadlines else 1)


async def test_what_a_handler_asks_elsewhere_waits_no_longer_than_its_own_asker(autojump_clock: MockClock) -> None:
    upstream = Wire()
    async with SessionManager(upstream, dialect=Exact()).port("up") as up:

        async def handle(session: Session) -> None:
            await session.receive()
            await trio.sleep(1)
            with trio.fail_after(7):
                await up.request({})

        async with answering(handle) as (port, _):
            port.dispatch(ask(1, _wait=5))
            await trio.sleep(6)
            assert [message.get("_wait") for message in upstream.sent] == [4.0, None]
            assert upstream.sent[1]["_error"] == "cancelled"


class BusyError(Exception):
    """Of the application's."""


@pytest.mark.parametrize(
    ("raised", "options", "field"),
    [
        (SessionRefusedError("not now", code="busy"), {}, "refused.busy: not now"),
        (SessionRefusedError(), {}, "refused"),
        (BusyError("why"), {"error_codes": {BusyError: "busy"}}, "busy: why"),
        (BusyError("secret"), {}, "crashed"),
        (BusyError("shown"), {"debug": True}, "crashed: BusyError('shown')"),
        (None, {}, "unanswered"),
    ],
)
async def test_what_a_handler_raises_is_its_askers_error(
    raised: Exception | None, options: dict[str, Any], field: str
) -> None:
    async def handle(session: Session) -> None:
        await session.receive()
        if raised is not None:
            raise raised

    async with answering(handle, **options) as (port, wire):
        port.dispatch(ask(1))
        await settle()
        port.dispatch(ask(1))
        assert wire.sent == [{"sid": 1, "_re": 1, "_error": field, "_end": True, "_life": LIFE}] * 2


def test_the_code_that_says_a_session_is_over_is_nobody_elses() -> None:
    with pytest.raises(ValueError, match="'ended'"):
        SessionManager(error_codes={BusyError: "ended"})


async def test_answers_beyond_the_limit_are_forgotten_the_oldest_first() -> None:
    worker = Worker()
    async with answering(worker, max_answer_bytes=1000) as (port, wire):
        for turn in range(1, 6):
            port.dispatch(ask(turn, sid=turn, _end=True))
            await settle()
        assert port._engine.connection._shared.turns.stored_bytes <= 1000
        wire.sent.clear()
        port.dispatch(ask(1, sid=1))
        port.dispatch(ask(5, sid=5))
        assert [message.get("_error") for message in wire.sent] == ["forgotten", None]
    assert worker.ran == [1, 2, 3, 4, 5]


async def test_a_peer_in_a_new_life_ends_what_the_old_one_opened_and_what_comes_late_of_that_is_dropped() -> None:
    worker = Worker()
    async with answering(worker) as (port, wire):
        port.dispatch(ask(9))
        await settle()
        port.dispatch({**ask(1, _new=True), "_life": 6})
        await settle()
        port.dispatch(ask(10))
        await settle()
        assert worker.ran == [9, 1]
        assert [message.get("_life") for message in wire.sent if "ok" in message] == [5, 6]
        assert port.statistics().stale_peer == 1


async def test_posts_are_taken_once_and_in_order() -> None:
    got: list[int] = []

    async def handle(session: Session) -> None:
        while True:
            got.append((await session.receive())["n"])

    async with answering(handle) as (port, wire):
        opening = ask(1, _new=True, _wait=0, n=0)
        for message in (opening, opening):
            port.dispatch(message)
        for part in (1, 1, 3, 2, 4):
            port.dispatch({"sid": 1, "_part": part, "_life": LIFE, "n": part})
        await settle()
        assert (got, wire.sent) == ([0, 1, 3, 4], [])
        assert port.statistics().duplicate == 3


async def test_a_post_for_which_there_is_no_room_is_dropped_without_a_word(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with answering(worker, max_incoming_sessions=1) as (port, wire):
        port.dispatch(ask(1, _new=True, work=1))
        await settle()
        port.dispatch(ask(2, sid=2, _new=True, _wait=0))
        assert wire.sent == []


async def test_a_classic_and_an_exact_peer_of_one_port_are_each_answered_in_their_own_way() -> None:
    async def handle(session: Session) -> None:
        async for message in session:
            await session.post({"n": message["n"]})

    async with answering(handle) as (port, wire):
        port.dispatch({"sid": 1, "n": 1})
        port.dispatch(ask(1, sid=2, n=2))
        await settle()
        wire.sent.sort(key=lambda message: message["n"])
        assert wire.sent == [{"n": 1, "sid": 1}, {"n": 2, "sid": 2, "_re": 1, "_life": LIFE}]


async def test_a_turn_refused_by_the_peer_says_so_in_its_outcome_and_the_next_opens_the_session_anew() -> None:
    wire = Wire()
    async with SessionManager(wire, dialect=Exact()).port("p") as port:
        session, caught = port.create(), Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: session.send({})))
            await settle()
            port.dispatch({"sid": 1, "_re": 1, "_error": "refused.full: all at work", "_life": wire.sent[0]["_life"]})
        assert isinstance(caught.error, SessionRemoteError)
        assert (caught.error.code, caught.error.text) == ("refused.full", "all at work")
        assert caught.error.outcome == "refused"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: session.send({})))
            await settle()
            nursery.cancel_scope.cancel()
        assert wire.sent[1]["_new"] is True


async def test_a_post_beside_the_turn_that_opens_a_session_does_not_end_that_turn(autojump_clock: MockClock) -> None:
    heard: list[Any] = []

    async def sum_up(session: Session) -> None:
        async for question in session:
            parts = [await session.receive() for _ in range(3)]
            heard.append((question, parts))
            await session.post({"sum": sum(part["n"] for part in parts)})

    here, there = memory_pair()
    got: list[Any] = []
    manager = SessionManager(dialect=Exact(), session_timeout=3)
    async with (
        manager.port("server", there, on_session=sum_up),
        manager.port("client", here) as client,
        client.session() as session,
    ):

        async def ask() -> None:
            got.append(await session.send({"question": 1}))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(0.1)
                for n in (1, 2, 3):
                    await session.post({"n": n})
    assert got == [{"sum": 6}] * 2
    assert heard == [({"question": 1}, [{"n": 1}, {"n": 2}, {"n": 3}])] * 2
