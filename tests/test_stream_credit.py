"""Many replies to one turn: who waits for whose credit, and what is lost or cancelled meanwhile."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    MalformedMessageError,
    Session,
    SessionManager,
    SessionOverrunError,
)
from psession.channels import memory_pair
from psession.shell.stream import StreamTurn
from psession.testing.lossy import lossy

from .peers import Wire, settle
from .streams import EXACT, all_of, consume, count_up, numbers, two_ports, wired
from .tables import assert_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# -- backpressure -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 8, 32])
async def test_a_slow_consumer_never_has_more_than_the_window_in_hand(
    window: int, autojump_clock: trio.testing.MockClock
) -> None:
    posted = 0

    async def handler(session: Session) -> None:
        nonlocal posted
        await session.receive()
        for number in range(1, 101):
            await session.post({"number": number})
            posted = number

    async with two_ports(handler) as (port, answerer), port.session() as session:
        async with session.stream({}, credit=window) as replies:
            turn = session._live.dialogue.turn
            assert turn is not None
            got: list[int] = []
            while True:
                await trio.sleep(1)
                held = answerer._engine.connection._shared.turns.held(session.sid)
                kept = held.frames if held is not None else []
                assert len(kept) <= window + 1
                assert posted - len(got) <= window
                assert turn.arriving.in_hand <= window  # type: ignore[attr-defined]
                try:
                    got.append((await replies.receive())["number"])
                except trio.EndOfChannel:
                    break
        assert got == list(range(1, 101))


async def test_the_handler_waits_for_credit_and_goes_on_as_half_the_window_is_consumed() -> None:
    posted: list[int] = []

    async def handler(session: Session) -> None:
        await session.receive()
        for number in range(1, 20):
            await session.post({"number": number})
            posted.append(number)

    async with two_ports(handler) as (port, _), port.stream({}, credit=8) as replies:
        await settle()
        assert posted == list(range(1, 9))
        for _ in range(3):
            await replies.receive()
        await settle()
        assert posted[-1] == 8
        await replies.receive()
        await settle()
        assert posted[-1] == 12


async def test_a_handler_waits_for_credit_no_longer_than_a_session_may_be_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = Wire()
    options: dict[str, Any] = {"on_session": count_up, "session_max_life": 10}
    async with SessionManager(dialect=EXACT).port("answerer", wire, **options) as port:
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 2, "_part": 1, "to": 9, "every": 1})
        await trio.sleep(5)
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 3})
        await trio.sleep(10.5)  # it waits for the fourth since second 6
        assert port.statistics().incoming == 1
        await trio.sleep(1)
        assert wire.sent[-1] == {"sid": 5, "_re": 1, "_part": 4, "_error": "unanswered", "_end": True}
        assert (port.statistics().expired, port._engine.connection.handlers) == (1, 0)
        assert_idle(port)


async def test_a_handler_that_waits_for_credit_makes_room_for_a_new_session() -> None:
    wire = Wire()
    options: dict[str, Any] = {"on_session": count_up, "max_incoming_sessions": 1}
    async with SessionManager(dialect=EXACT).port("answerer", wire, **options) as port:
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 2, "_part": 1, "to": 9})
        await settle()
        port.dispatch({"sid": 6, "_turn": 2, "_new": True, "to": 1})
        await settle()
        assert wire.sent[-1]["_re"] == 2
        assert set(port.sessions) == {6}


async def test_a_peer_that_exceeds_its_credit_ends_its_stream_alone() -> None:
    async with wired() as (port, wire), port.session() as session:
        async with session.stream({}, credit=2) as replies:
            for part in (1, 2, 3, 4):
                port.dispatch({"sid": session.sid, "_re": 1, "_part": part, "number": part})
            assert numbers([await replies.receive(), await replies.receive()]) == [1, 2]
            with pytest.raises(SessionOverrunError, match="more than the 2 replies"):
                await replies.receive()
        assert wire.sent[-1]["_error"] == "overrun"
        assert port.statistics().overrun == 1
        assert not session.closed


async def test_a_grant_that_is_lost_or_repeated_is_made_good() -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("answerer", wire, on_session=count_up) as port:
        request = {"sid": 5, "_turn": 1, "_credit": 2, "_part": 1, "to": 6}
        port.dispatch(dict(request))
        await settle()
        assert [message["_part"] for message in wire.sent] == [1, 2]
        for _ in range(2):
            port.dispatch({"sid": 5, "_turn": 1, "_credit": 3})
        await settle()
        assert [message["_part"] for message in wire.sent] == [1, 2, 3]
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 2})  # overtaken
        port.dispatch({**request, "_credit": 5, "_part": 4})  # the grants before it were lost
        await settle()
        assert [message.get("_part") for message in wire.sent] == [1, 2, 3, 4, 5]


async def test_credit_for_a_turn_that_nobody_knows_opens_nothing() -> None:
    async with SessionManager(dialect=EXACT).port("answerer", Wire(), on_session=count_up) as port:
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 2, "_life": 7})
        assert (port.sessions, port.statistics().duplicate) == ({}, 1)


async def test_progress_says_how_long_the_handler_has_been_at_work_on_the_next_reply(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("answerer", wire, on_session=count_up) as port:
        request = {"sid": 5, "_turn": 1, "_credit": 9, "_part": 1, "to": 6, "every": 10}
        port.dispatch(dict(request))
        await trio.sleep(32)
        port.dispatch({**request, "_part": 4})
        assert wire.sent[-1] == {"sid": 5, "_re": 1, "_wait": 2.0}


async def test_a_request_again_brings_the_replies_from_the_one_that_it_names() -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("answerer", wire, on_session=count_up) as port:
        request = {"sid": 5, "_turn": 1, "_credit": 32, "_part": 1, "to": 4, "_new": True}
        port.dispatch(dict(request))
        await settle()
        assert [message["_part"] for message in wire.sent] == [1, 2, 3, 4, 5]
        assert wire.sent[-1] == {"sid": 5, "_re": 1, "_part": 5, "_end": True}
        port.dispatch({**request, "_part": 3})
        assert [message["_part"] for message in wire.sent[5:]] == [3, 4, 5]
        port.dispatch(dict(request))  # a copy of the first attempt
        assert len(wire.sent) == 8
        assert (port.statistics().repeated, port.statistics().duplicate) == (1, 1)


async def test_replies_that_are_kept_no_more_are_an_error_that_cancels_the_handler() -> None:
    wire = Wire()
    port_options: dict[str, Any] = {"on_session": count_up, "max_answer_bytes": 3000}
    async with SessionManager(dialect=EXACT).port("answerer", wire, **port_options) as port:
        request = {"sid": 5, "_turn": 1, "_credit": 10, "_part": 1, "to": 40, "_new": True}
        port.dispatch(dict(request))
        await settle()
        port.dispatch(dict(request))
        assert wire.sent[-1] == {"sid": 5, "_re": 1, "_error": "forgotten"}
        await settle()
        assert port.statistics().incoming == 0
        assert_idle(port)
        turns = port._engine.connection._shared.turns
        assert (turns.stored_bytes, [one for one in turns._held.values() if one.stream is not None]) == (0, [])


# -- a terrible network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("window", [1, 5, 32])
async def test_on_a_terrible_network_all_replies_come_once_and_in_order(
    seed: int, window: int, autojump_clock: trio.testing.MockClock
) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=EXACT)
    async with (
        lossy(here, seed=seed, drop=0.2, duplicate=0.2, reorder=0.2, delay=(0.0, 0.3)) as line,
        manager.port("answerer", there, on_session=count_up, strict=True) as answerer,
        manager.port("asker", line) as port,
    ):
        got = await all_of(port, {"to": 60}, credit=window, timeout=1, retry_count=30, retry_interval=0)
        assert got == list(range(1, 61)), line.note()
        async with port.session() as session:
            for to in (0, 1, 7):
                async with session.stream({"to": to}, timeout=1, retry_count=30, credit=window) as replies:
                    assert numbers([reply async for reply in replies]) == list(range(1, to + 1)), line.note()
        await trio.sleep(1300)  # twice session_max_life: the word that a session is over may be lost
        assert_idle(answerer)


# -- cancelled --------------------------------------------------------------------------------------------------------


async def test_cancelled_in_the_line_it_leaves_its_place(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        two_ports(count_up) as (port, _),
        port.session() as session,
        session.stream({"every": 9}) as one,
    ):
        with trio.move_on_after(1):
            async with session.stream({}):
                raise AssertionError
        assert not session._live.waiting_turns
        assert numbers([reply async for reply in one]) == [1, 2, 3]


async def test_cancelled_at_the_beginning_it_sends_nothing() -> None:
    async with wired() as (port, wire):
        for ask in (port.stream, port.create().stream):
            with trio.CancelScope() as scope:
                scope.cancel()
                async with ask({}):
                    raise AssertionError
        assert wire.sent == []
        port.clear()
        assert_idle(port)


async def test_cancelled_as_it_waits_for_a_session_it_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with wired(max_session_count=1, on_session_overflow="wait") as (port, _):
        with port.create(), trio.move_on_after(1):
            async with port.stream({}):
                raise AssertionError
        assert_idle(port)


async def test_cancelled_in_receive_it_loses_no_reply(autojump_clock: trio.testing.MockClock) -> None:
    got: list[int] = []
    async with two_ports(count_up) as (port, _), port.stream({"to": 50, "every": 0.3}, credit=4) as replies:
        while True:
            with trio.move_on_after(0.1):
                try:
                    got.append((await replies.receive())["number"])
                except trio.EndOfChannel:
                    break
    assert got == list(range(1, 51))


async def test_a_post_that_is_cancelled_as_it_waits_for_credit_is_never_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        with trio.move_on_after(1):
            await session.post({"number": 2})
        await session.post({"number": 3})
        await session.finish({"number": 4})

    async with two_ports(handler) as (port, _), port.stream({}, credit=1) as replies:
        await trio.sleep(2)
        assert numbers([reply async for reply in replies]) == [1, 3, 4]


async def test_a_post_that_is_cancelled_as_it_waits_for_room_is_never_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = trio.Event()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await slow.wait()
        sent.append(message)

    async def handler(session: Session) -> None:
        await session.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.post, {"number": 1})
            await settle()
            with trio.move_on_after(1):
                await session.post({"number": 2})
            slow.set()
        await session.post({"number": 3})

    manager = SessionManager(dialect=EXACT)
    async with manager.port("answerer", send, on_session=handler, max_queued_bytes=1) as port:
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 9, "_part": 1})
        await trio.sleep(5)
        assert [message["_part"] for message in sent if "_part" in message] == list(range(1, len(sent)))
        assert [message["number"] for message in sent if "number" in message][-1] == 3
    assert port._engine.connection.handlers == 0


async def test_receiving_that_is_cancelled_before_the_end_mark_found_room_ends_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = trio.Event()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await slow.wait()
        sent.append(message)

    async def handler(session: Session) -> None:
        await session.receive()
        with trio.move_on_after(1):
            await session.receive()
        slow.set()
        with trio.move_on_after(1):
            await session.receive()

    manager = SessionManager(dialect=EXACT)
    async with manager.port("answerer", send, on_session=handler, max_queued_bytes=1) as port:
        port.dispatch({"sid": 9, "_turn": 1, "_wait": 30, "q": 1})
        port.dispatch({"sid": 5, "_turn": 2, "_credit": 9, "_part": 1})
        port.dispatch({"sid": 9, "_turn": 1, "_wait": 30, "q": 1})
        await trio.sleep(5)
        parts = [message for message in sent if "_part" in message]
        assert parts == [{"sid": 5, "_re": 2, "_part": 1, "_end": True}]


# -- whose turn it is -------------------------------------------------------------------------------------------------


class Passes(trio.abc.Instrument):
    """The passes of the scheduler: in each all tasks that are ready have a turn."""

    def __init__(self) -> None:
        self.seen = 0

    def before_io_wait(self, timeout: float) -> None:
        self.seen += 1


@pytest.fixture
async def passes() -> AsyncIterator[Passes]:
    """Those of this run from now on."""
    counted = Passes()
    trio.lowlevel.add_instrument(counted)
    yield counted
    trio.lowlevel.remove_instrument(counted)


async def test_replies_that_are_there_are_taken_32_at_a_time_before_the_other_tasks_have_a_turn(
    passes: Passes,
) -> None:
    taken: Counter[int] = Counter()
    async with two_ports(count_up) as (port, _), port.stream({"to": 100}, credit=200) as replies:
        await settle()
        async for _ in replies:
            taken[passes.seen] += 1
    assert list(taken.values()) == [32, 32, 32, 4]


async def test_a_handler_posts_32_replies_at_a_time_before_the_other_tasks_have_a_turn(
    passes: Passes,
) -> None:
    posted: Counter[int] = Counter()

    async def handler(session: Session) -> None:
        await session.receive()
        for number in range(100):
            posted[passes.seen] += 1
            await session.post({"number": number})

    async with two_ports(handler) as (port, _):
        assert await all_of(port, {}, credit=200) == list(range(100))
    assert list(posted.values()) == [32, 32, 32, 4]


async def test_each_receive_and_each_post_is_a_point_of_cancellation_and_loses_nothing() -> None:
    sent: list[int] = []

    async def handler(session: Session) -> None:
        await session.receive()
        for number in range(20):
            with trio.CancelScope() as scope:
                if number % 3 == 0:
                    scope.cancel()
                await session.post({"number": number})
                sent.append(number)

    async with two_ports(handler) as (port, _), port.stream({}, credit=50) as replies:
        await settle()
        assert sent == [number for number in range(20) if number % 3]
        got: list[int] = []
        while len(got) < len(sent):
            with trio.CancelScope() as scope:
                scope.cancel()
                await replies.receive()
                raise AssertionError("it was cancelled before")
            got.append((await replies.receive())["number"])
        assert got == sent
        with pytest.raises(trio.EndOfChannel):
            await replies.receive()


async def test_a_payload_that_cannot_be_sent_takes_no_place_among_the_replies() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        for number in range(6):
            with suppress(MalformedMessageError):
                await session.post({"number": number} if number % 2 else {"_re": number})

    async with two_ports(handler) as (port, answerer):
        assert await all_of(port, {}, credit=2) == [1, 3, 5]
        assert answerer.statistics().crashed == 0


async def test_what_comes_beyond_the_count_is_not_received() -> None:
    async with wired() as (port, wire), port.stream({}, count=2) as replies:
        life = wire.sent[0]["_life"]
        for part in ({"_part": 1}, {"_part": 2}, {}):
            port.dispatch({"sid": wire.sent[0]["sid"], "_re": 1, "_life": life, "number": 1, **part})
        assert numbers([reply async for reply in replies]) == [1, 1]


async def test_a_task_that_receives_is_woken_once_for_what_comes_with_one_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken: list[StreamTurn] = []
    nudge = StreamTurn.nudge

    def counted(turn: StreamTurn) -> None:
        woken.append(turn)
        nudge(turn)

    monkeypatch.setattr(StreamTurn, "nudge", counted)
    async with wired() as (port, wire), port.stream({}, credit=9) as replies, trio.open_nursery() as nursery:
        got: list[Any] = []
        nursery.start_soon(consume, replies, got)
        await settle()
        for part in range(1, 6):
            port.dispatch({"sid": wire.sent[0]["sid"], "_re": 1, "_part": part, "number": part})
        await settle()
        assert (numbers(got), len(woken)) == ([1, 2, 3, 4, 5], 1)
        nursery.cancel_scope.cancel()
