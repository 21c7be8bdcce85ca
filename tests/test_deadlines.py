"""One heap for what is due: the heap itself, then sessions that die of their idle life at exact moments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import SessionCancelError, SessionInvalidError, SessionManager
from psession.options import Options
from psession.protocol.deadlines import SLACK, Deadlines
from psession.protocol.dialogue import BUSY, AskedTurn, Dialogue
from psession.protocol.endings import ENDED
from psession.protocol.sessions import Sessions

from .effort import examples
from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Session


class Watched:
    """Sessions that are watched, as a connection does it."""

    def __init__(self) -> None:
        self.deadlines = Deadlines()

    def rest(self, dialogue: Dialogue, now: float) -> None:
        """It is idle from `now` on."""
        dialogue.idle_since = now
        self.deadlines.watch(dialogue, now + dialogue.max_life)

    def end(self, dialogue: Dialogue) -> None:
        """It is over."""
        dialogue.ending = ENDED
        self.deadlines.forget(dialogue)


def session(life: float, number: int = 1) -> Dialogue:
    return Dialogue(number, life, incoming=True)


def test_a_session_that_is_idle_again_is_due_after_all_others() -> None:
    watched, a, b = Watched(), session(10.0), session(10.0)
    for now, one in enumerate((a, b, a)):
        watched.rest(one, now)
    pop = watched.deadlines.pop
    assert (pop(10.9), pop(11.0), pop(11.9), pop(12.0)) == ([], [b], [], [a])


def test_sessions_of_different_lives_are_due_each_at_its_own_moment() -> None:
    watched, long, short = Watched(), session(100.0), session(1.0)
    watched.rest(long, 0.0)
    watched.rest(short, 50.0)
    deadlines = watched.deadlines
    assert (deadlines.next(), deadlines.pop(51.0), deadlines.next(), len(deadlines)) == (51.0, [short], 100.0, 1)


def test_a_deadline_that_comes_sooner_has_an_entry_of_its_own_and_says_that_it_is_the_first() -> None:
    watched, one = Watched(), session(100.0)
    watched.rest(one, 0.0)
    one.turn = AskedTurn(one)
    one.turn.due = 5.0
    assert watched.deadlines.watch(one, 5.0)
    assert not watched.deadlines.watch(one, 6.0)
    assert (watched.deadlines.next(), watched.deadlines.pop(5.0)) == (5.0, [one])
    one.turn = None
    assert watched.deadlines.pop(100.0) == []  # the entry that an earlier one replaced is nobody's


def test_a_session_that_is_over_is_never_due() -> None:
    watched, one = Watched(), session(1.0)
    watched.rest(one, 0.0)
    watched.end(one)
    watched.end(session(2.0))
    assert (watched.deadlines.pop(5.0), watched.deadlines.next()) == ([], math.inf)


def test_sessions_that_are_over_do_not_pile_up() -> None:
    watched, stays = Watched(), session(60.0)
    watched.rest(stays, 0.0)
    for now in range(10_000):
        one = session(60.0)
        watched.rest(one, now)
        watched.end(one)
    assert len(watched.deadlines) <= SLACK + 3
    assert watched.deadlines.pop(60.0) == [stays]


@settings(max_examples=examples(80), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["rest", "work", "ask", "end", "look"]), st.integers(0, 4)),
        max_size=60,
    )
)
def test_the_heap_agrees_with_a_plain_table(history: list[tuple[int, str, int]]) -> None:
    watched = Watched()
    sessions = [session(3.0), session(3.0), session(5.0), session(math.inf)]
    due: dict[Dialogue, float] = {}
    now = 0.0
    for number, deed, seconds in history:
        now += seconds
        one = sessions[number]
        if one.ending is not None:
            continue
        if deed == "rest":
            one.turn = None
            watched.rest(one, now)
            due[one] = now + one.max_life
        elif deed == "work":
            one.turn, one.idle_since = None, BUSY
            due.pop(one, None)
        elif deed == "ask":
            one.turn = AskedTurn(one)
            one.turn.due = now + 2
            watched.deadlines.watch(one, now + 2)
            due[one] = now + 2
        elif deed == "end":
            watched.end(one)
            due.pop(one, None)
        else:
            over = {which for which, at in due.items() if at <= now}
            assert set(watched.deadlines.pop(now)) == over
            due = {which: at for which, at in due.items() if which not in over}
        assert watched.deadlines.next() <= min(due.values(), default=math.inf)


# -- which session has to make room ------------------------------------------------------------------------------------


def table() -> Sessions:
    return Sessions(Options(session_max_life=60.0).settings)


def test_the_session_that_has_been_idle_longest_makes_room() -> None:
    sessions = table()
    idle = [sessions.accept(number) for number in range(1, 5)]
    for since, one in zip((3.0, 1.0, 2.0, BUSY), idle, strict=True):
        one.idle_since = since
    assert (sessions.longest_idle(), sessions.longest_idle()) == (idle[1], idle[2])
    idle[3].idle_since = 2.5
    sessions.rests(idle[3])
    idle[0].idle_since = 9.0  # it was touched again: its place is put right when it comes to the front
    assert (sessions.longest_idle(), sessions.longest_idle(), sessions.longest_idle()) == (idle[3], idle[0], None)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["rest", "rest", "work", "end", "oldest"]), st.integers(0, 5)), max_size=60))
def test_the_ranks_agree_with_a_plain_table(history: list[tuple[str, int]]) -> None:
    sessions, since = table(), dict[Dialogue, float]()
    every = [sessions.accept(number) for number in range(1, 7)]
    for now, (deed, place) in enumerate(history):
        one = every[place]
        if deed == "oldest":
            oldest = sessions.longest_idle()
            assert since.pop(oldest) == min([*since.values(), oldest.idle_since]) if oldest else not since
            if oldest is not None:
                oldest.idle_since = BUSY  # it is ended, or comes back
        elif one.ending is not None:
            continue
        elif deed == "rest":
            one.idle_since = since[one] = float(now)
            sessions.rests(one)
        elif deed == "work":
            one.idle_since = BUSY
            since.pop(one, None)
        else:
            one.ending = ENDED
            since.pop(one, None)


# -- sessions that die of it -------------------------------------------------------------------------------------------


async def test_a_session_that_does_nothing_ends_at_the_end_of_its_life(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        session = port.create()
        await trio.sleep(9.999)
        assert not session.closed
        await trio.sleep(0.001)
        await settle()
        assert (session.closed, port.statistics().expired, dict(port.sessions)) == (True, 1, {})
        with pytest.raises(SessionInvalidError, match="idle for 10 s"):
            await session.send({})


async def test_a_session_born_while_the_watch_sleeps_ends_at_its_own_moment(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        first = port.create()
        await trio.sleep(7)
        first.end()
        second = port.create()
        with pytest.raises(SessionInvalidError):
            await second.receive()
        assert trio.current_time() == 17.0


async def test_a_session_that_only_receives_lives(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        session = port.create()
        for count in range(5):
            await trio.sleep(9)
            port.dispatch({"n": count, "sid": session.sid})
        assert not session.closed
        assert [(await session.receive())["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
        assert [message async for message in session] == []
        assert trio.current_time() == 55.0


async def test_a_session_that_only_posts_lives(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        session = port.create()
        for _ in range(5):
            await trio.sleep(9)
            await session.post({})
        assert not session.closed
        await trio.sleep(10)
        await settle()
        assert session.closed


async def test_no_session_dies_during_a_turn_and_its_life_counts_from_the_reply(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        caught = Caught()
        nursery.start_soon(lambda: caught.run(lambda: session.send({}, timeout=100)))
        await trio.sleep(95)
        port.dispatch({"sid": session.sid})
        await settle()
        assert caught.value == {}
        await trio.sleep(9.5)
        assert not session.closed
        with pytest.raises(SessionInvalidError):
            await session.receive()
        assert trio.current_time() == 105.0


async def test_a_session_lives_through_a_pause_between_attempts_longer_than_its_life(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=1).port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        caught = Caught()
        nursery.start_soon(lambda: caught.run(lambda: session.send({}, timeout=0.5, retry_count=1, retry_interval=50)))
        await trio.sleep(40)
        port.dispatch({"sid": session.sid})
        await settle()
        assert (caught.value, caught.error) == ({}, None)


async def test_a_sessions_own_life_beats_the_ports_longer_and_shorter(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        ends: dict[float, float] = {}

        async def watch(session: Session) -> None:
            async for _ in session:
                raise AssertionError
            ends[session._live.dialogue.max_life] = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, port.create(session_max_life=25))
            nursery.start_soon(watch, port.create())
            await trio.sleep(1)
            nursery.start_soon(watch, port.create(session_max_life=2.5))
        assert ends == {2.5: 3.5, 10: 10.0, 25: 25.0}


async def test_no_limit_is_no_limit(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=math.inf).port("p", Wire()) as port:
        session = port.create()
        await trio.sleep(10**9)
        assert not session.closed


async def test_an_idle_session_of_the_peer_ends_and_its_handler_with_it(autojump_clock: MockClock) -> None:
    ended: list[tuple[int, float]] = []

    async def handle(session: Session) -> None:
        async for _ in session:
            pass
        ended.append((session.sid, trio.current_time()))

    async with SessionManager(session_max_life=10).port("p", Wire(), on_session=handle) as port:
        port.dispatch({"sid": 5})
        await trio.sleep(4)
        port.dispatch({"sid": 5})
        await trio.sleep(60)
        assert (ended, dict(port.sessions)) == ([(5, 14.0)], {})


async def test_a_handler_at_work_is_not_idle(autojump_clock: MockClock) -> None:
    async def handle(session: Session) -> None:
        await session.receive()
        await trio.sleep(100)
        await session.post({"done": True})

    wire = Wire()
    async with SessionManager(session_max_life=10).port("p", wire, on_session=handle) as port:
        port.dispatch({"sid": 5})
        await trio.sleep(101)
        assert wire.sent == [{"done": True, "sid": 5}]


async def test_a_second_send_keeps_the_session_alive_while_it_stands_in_line(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=1).port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        first, second = Caught(), Caught()
        nursery.start_soon(lambda: first.run(lambda: session.send({}, timeout=50)))
        await settle()
        nursery.start_soon(lambda: second.run(lambda: session.send({}, timeout=50)))
        for _ in range(2):
            await trio.sleep(30)
            port.dispatch({"sid": session.sid})
        await settle()
        assert (first.at, second.at, first.error, second.error) == (30.0, 60.0, None, None)


async def test_a_waiting_receive_of_this_side_does_not_stop_the_clock(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        session = port.create()
        with pytest.raises(SessionInvalidError):
            await session.receive(timeout=11)
        assert trio.current_time() == 10.0


async def test_a_message_keeps_its_session_from_the_tick_in_which_its_life_would_end(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        caught = Caught()
        await trio.sleep(9)
        nursery.start_soon(lambda: caught.run(lambda: session.send({}, timeout=1)))
        await trio.sleep(5)
        await settle()
        assert not isinstance(caught.error, SessionCancelError)
        assert not session.closed
