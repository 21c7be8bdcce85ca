"""The deadlines that askers on the exact wire give to handlers: when they show, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Envelope, Session, SessionManager, SessionTimeoutError
from psession._timekeeper import SOON
from psession.channels import memory_pair

from .peers import Wire

if TYPE_CHECKING:
    from trio.testing import MockClock


def asks(turn: int, **fields: Any) -> dict[str, Any]:
    """A message of a peer that asks a turn, and opens its session with the first."""
    opens = {"_new": True} if turn == 1 else {}
    return {"n": turn, "sid": 5, "_turn": turn, "_life": 7, **opens, **{f"_{name}": fields[name] for name in fields}}


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
    asking = SessionManager(envelope=Envelope.exact())
    async with SessionManager().port("b", there, on_session=handle) as answerer, asking.port("a", here) as port:
        looks, expire = [0.0], answerer._expire

        def count() -> tuple[float, float]:
            looks.append(trio.current_time())
            return expire()

        answerer._expire = count  # type: ignore[method-assign]
        async with port.session() as session:
            for number in range(1000):
                assert (await session.send({"n": number}))["n"] == number
        assert trio.current_time() == pytest.approx(1.0)
        assert len(looks) <= 3 + 2 * 1.0 / SOON  # it is woken when there is something to look at, and looks


async def test_a_handler_that_asks_somebody_passes_its_deadline_on(autojump_clock: MockClock) -> None:
    wire, further = Wire(), Wire()

    async with SessionManager(further, envelope=Envelope.exact()).port("further") as next_port:

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
    async with SessionManager(wire, envelope=Envelope.exact()).port("p") as port:
        with trio.move_on_after(2.5):
            await port.request({}, timeout=1, retry_count=1, retry_interval=2)
        with trio.move_on_after(60), pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1, retry_count=0)
    assert [message["_wait"] for message in wire.sent if "_wait" in message] == [2.5, 1.0]
