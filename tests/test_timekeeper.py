"""Deadlines: of turns, in one entry for each session, and those that askers on the exact wire give to handlers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Session, SessionManager, SessionTimeoutError
from psession.channels import memory_pair
from psession.protocol.deadlines import SLACK, Deadlines
from psession.shell.timekeeper import SOON

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Port
    from psession.protocol.dialogue import Dialogue


def asks(turn: int, **fields: Any) -> dict[str, Any]:
    """A message of a peer that asks a turn, and opens its session with the first."""
    opens = {"_new": True} if turn == 1 else {}
    return {"n": turn, "sid": 5, "_turn": turn, "_life": 7, **opens, **{f"_{name}": fields[name] for name in fields}}


def counted_looks(port: Port) -> list[float]:
    """The moments at which the timekeeper of a port is awake, from now on."""
    looks, timekeeper = list[float](), port._engine.timekeeper

    class Counting(Deadlines):
        """The port's own heap, with every look at it noted."""

        __slots__ = ()

        def pop(self, now: float) -> list[Dialogue]:
            looks.append(now)
            return super().pop(now)

    timekeeper._deadlines.__class__ = Counting
    return looks


@pytest.mark.parametrize("wait", [0.03, SOON, 2 * SOON, 0.11, 1.0, 60.0])
async def test_a_handler_is_cancelled_when_its_askers_time_is_over(autojump_clock: MockClock, wait: float) -> None:
    over: list[float] = []

    async def handle(session: Session) -> None:
        try:
            await trio.sleep_forever()
        finally:
            over.append(trio.current_time())

    async with SessionManager().port("p", Wire(), on_session=handle) as port:
        port.dispatch(asks(1, wait=wait))
        await trio.sleep(100)
        assert over == [wait]


@pytest.mark.parametrize("fields", [{"wait": 60}, {}])
async def test_the_deadline_of_a_turn_that_was_not_answered_is_not_that_of_the_next(
    autojump_clock: MockClock, fields: dict[str, float]
) -> None:
    wire = Wire()

    async def handle(session: Session) -> None:
        await session.receive()
        second = await session.receive()
        await trio.sleep(1)
        await session.post({"done": second["n"]})

    async with SessionManager().port("p", wire, on_session=handle) as port:
        port.dispatch(asks(1, wait=0.2))
        await trio.sleep(0.1)  # by now the first deadline shows
        port.dispatch(asks(2, **fields))
        await trio.sleep(2)
        assert wire.sent[0] == {"done": 2, "sid": 5, "_re": 2, "_life": 7}


async def test_many_short_turns_wake_the_timekeeper_no_more_often_than_it_looks(autojump_clock: MockClock) -> None:
    async def handle(session: Session) -> None:
        async for message in session:
            await trio.sleep(0.001)
            await session.post(message)

    here, there = memory_pair()
    asking = SessionManager(dialect=Exact())
    async with SessionManager().port("b", there, on_session=handle) as answerer, asking.port("a", here) as port:
        looks = counted_looks(answerer)
        async with port.session() as session:
            for number in range(1000):
                assert (await session.send({"n": number}))["n"] == number
        assert trio.current_time() == pytest.approx(1.0)
        assert len(looks) <= 3 + 2 * 1.0 / SOON  # it is woken when there is something to look at, and looks


async def test_a_handler_that_asks_somebody_passes_its_deadline_on(autojump_clock: MockClock) -> None:
    wire, further = Wire(), Wire()

    async with SessionManager(further, dialect=Exact()).port("further") as next_port:

        async def handle(session: Session) -> None:
            await trio.sleep(0.01)
            await next_port.request({"q": 1})

        async with SessionManager().port("p", wire, on_session=handle) as port:
            port.dispatch(asks(1, wait=7))
            await trio.sleep(0.02)
            assert further.sent[0]["_wait"] == 6.99
            await trio.sleep(10)


async def test_a_turn_says_how_long_it_waits_in_all_and_its_callers_own_limit_if_that_is_shorter(
    autojump_clock: MockClock,
) -> None:
    wire = Wire()
    async with SessionManager(wire, dialect=Exact()).port("p") as port:
        with trio.move_on_after(2.5):
            await port.request({}, timeout=1, retry_count=1, retry_interval=2)
        with trio.move_on_after(60), pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1, retry_count=0)
    assert [message["_wait"] for message in wire.sent if "_wait" in message] == [2.5, 1.0]


# -- one entry for each session ----------------------------------------------------------------------------------------


async def answered(port: Port, session: Session, within: float) -> None:
    """A turn that may take so long, and is answered at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: session.send({}, timeout=within))
        await settle()
        port.dispatch({"sid": session.sid})


async def silent(session: Session, within: float) -> float:
    """How long a turn that nobody answers takes to time out."""
    began = trio.current_time()
    with pytest.raises(SessionTimeoutError):
        await session.send({}, timeout=within)
    return trio.current_time() - began


@pytest.mark.parametrize("before", [[5.0], [1.0], [3.0], [5.0, 1.0], [1.0, 5.0], [5.0, 4.0, 2.0], [1.0, 1.0]])
@pytest.mark.parametrize("pause", [0.0, 0.5, 1.0, 2.5, 7.0])
async def test_a_turn_times_out_at_its_own_time_whatever_time_the_turns_before_it_had(
    autojump_clock: MockClock, before: list[float], pause: float
) -> None:
    async with SessionManager(Wire()).port("p") as port, port.session() as session:
        for timeout in before:
            await answered(port, session, timeout)
        await trio.sleep(pause)
        assert await silent(session, 3.0) == 3.0


async def test_a_turn_that_waited_in_line_has_the_time_of_its_own_from_its_turn_on(autojump_clock: MockClock) -> None:
    async with (
        SessionManager(Wire(), on_unanswered="keep").port("p") as port,
        port.session() as session,
        trio.open_nursery() as nursery,
    ):
        turns = []
        for timeout in (4.0, 1.0, 8.0, 2.0):
            turns.append(Caught())
            nursery.start_soon(turns[-1].run, lambda timeout=timeout: session.send({}, timeout=timeout))
            await settle()
    assert [turn.at for turn in turns] == [4.0, 5.0, 13.0, 15.0]
    assert {type(turn.error) for turn in turns} == {SessionTimeoutError}


async def test_answered_turns_of_a_session_share_one_entry_which_wakes_the_timekeeper_once_a_timeout(
    autojump_clock: MockClock,
) -> None:
    async with SessionManager(Wire()).port("p") as port, port.session(session_max_life=1000) as session:
        await settle()  # else it depends on Trio's order of tasks whether it sleeps yet when the first turn begins
        looks = counted_looks(port)
        for _ in range(100):
            await answered(port, session, 4.0)
            assert len(port._engine.connection.deadlines) <= 5
            await trio.sleep(0.125)
        assert sorted(set(looks)) == [0.0, 4.0, 8.0, 12.0]  # at 0 the first turn wakes it, which slept for longer


async def test_the_entry_of_a_session_without_a_turn_is_that_of_its_idle_life(autojump_clock: MockClock) -> None:
    async with SessionManager(Wire()).port("p") as port, port.session(session_max_life=100) as session:
        await answered(port, session, 4.0)
        await trio.sleep(5)
        assert {due for due, _, _ in port._engine.connection.deadlines._heap} == {100.0}
        assert await silent(session, 3.0) == 3.0


async def test_sessions_that_are_over_are_swept_and_turns_that_wait_are_not(autojump_clock: MockClock) -> None:
    async with SessionManager(Wire()).port("p") as port, trio.open_nursery() as nursery:
        waiting = [Caught() for _ in range(5)]
        for number, one in enumerate(waiting):
            nursery.start_soon(one.run, lambda n=number: port.request({}, timeout=2.0 + n))
        await settle()
        for _ in range(3 * SLACK):
            session = port.create()
            await answered(port, session, 1.0)
            session.end()
        assert 5 <= len(port._engine.connection.deadlines) <= 2 * SLACK
        await trio.sleep(10)
        assert [one.at for one in waiting] == [2.0, 3.0, 4.0, 5.0, 6.0]


async def test_a_turn_without_a_limit_that_got_a_number_sooner_than_it_thought_waits_on(
    autojump_clock: MockClock,
) -> None:
    options: dict[str, Any] = {"session_ids": range(1, 3), "session_id_rest": 10}
    wire = Wire()
    async with SessionManager(wire, **options).port("p") as port, trio.open_nursery() as nursery:
        session, other = port.create(), port.create()
        assert await silent(session, 1.0) == 1.0
        caught = Caught()
        nursery.start_soon(caught.run, lambda: session.send({}, timeout=math.inf))
        await trio.sleep(1)  # it waits for a number until 11, as far as it knows
        other.end()
        await trio.sleep(30)
        assert (caught.at, [message["sid"] for message in wire.sent]) == (None, [1, 2])
        session.end()


async def test_an_attempt_that_the_peer_puts_off_is_made_at_the_latest_of_the_times_that_it_said(
    autojump_clock: MockClock,
) -> None:
    sent: list[tuple[float, dict[str, Any]]] = []

    def wire(message: dict[str, Any]) -> None:
        sent.append((trio.current_time(), message))

    async with SessionManager(wire, dialect=Exact()).port("p") as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, lambda: port.request({}, timeout=2, retry_count=3, retry_interval=0))
        for wait in (3, 1, 4):
            await trio.sleep(1)
            question = sent[0][1]
            port.dispatch({"sid": question["sid"], "_re": question["_turn"], "_wait": wait})
        await trio.sleep(10)
        assert [at for at, message in sent if "_new" in message] == [0.0, 7.0]
        assert caught.at == 8.0  # and not 9.0: an attempt that is put off has no longer for it
