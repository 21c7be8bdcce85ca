"""Idle life: the queue, then sessions that die of it at exact moments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import SessionCancelError, SessionInvalidError, SessionManager
from psession._idle import SLACK, IdleQueue

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Session


class Thing:
    """Something that may be idle."""

    def __init__(self, life: float) -> None:
        self.life = life
        self.idle_since = 0.0
        self.idle_entry = 0

    def touch(self, queue: IdleQueue[Thing], now: float) -> None:
        """It is idle from `now` on."""
        self.idle_since = now
        if not self.idle_entry:
            queue.enter(self, self.life)


def test_a_touch_puts_a_thing_behind_all_others() -> None:
    queue: IdleQueue[Thing] = IdleQueue()
    a, b = Thing(10.0), Thing(10.0)
    for now, thing in enumerate((a, b, a)):
        thing.touch(queue, now)
    assert (queue.pop_due(10.9), queue.pop_due(11.0), queue.pop_due(11.9), queue.pop_due(12.0)) == ([], [b], [], [a])


def test_things_of_different_lives_are_due_each_at_its_own_moment() -> None:
    queue: IdleQueue[Thing] = IdleQueue()
    long, short = Thing(100.0), Thing(1.0)
    long.touch(queue, 0.0)
    short.touch(queue, 50.0)
    assert (queue.next_due(), queue.pop_due(51.0), queue.next_due(), len(queue)) == (51.0, [short], 100.0, 1)


def test_what_left_is_never_due_and_empty_queues_are_dropped() -> None:
    queue: IdleQueue[Thing] = IdleQueue()
    a = Thing(1.0)
    a.touch(queue, 0.0)
    queue.leave(a)
    queue.leave(Thing(2.0))
    assert (queue.next_due(), queue.pop_due(5.0), queue.pop_oldest(), queue._heaps) == (math.inf, [], None, {})


def test_what_left_does_not_pile_up() -> None:
    queue: IdleQueue[Thing] = IdleQueue()
    stays = Thing(60.0)
    stays.touch(queue, 0.0)
    for now in range(10_000):
        thing = Thing(60.0)
        thing.touch(queue, now)
        queue.leave(thing)
    assert len(queue) == 1
    assert len(queue._heaps[60.0]) <= SLACK + 3


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["touch", "leave", "look", "oldest"]), st.integers(0, 4)),
        max_size=60,
    )
)
def test_the_queue_agrees_with_a_plain_table_of_last_touches(history: list[tuple[int, str, int]]) -> None:
    queue: IdleQueue[Thing] = IdleQueue()
    things = [Thing(3.0), Thing(3.0), Thing(5.0), Thing(math.inf)]
    touched: dict[Thing, float] = {}
    now = 0.0
    for number, deed, seconds in history:
        now += seconds
        thing = things[number]
        if deed == "touch":
            thing.touch(queue, now)
            touched[thing] = now
        elif deed == "leave":
            queue.leave(thing)
            touched.pop(thing, None)
        elif deed == "oldest":
            oldest = queue.pop_oldest()
            assert (oldest is None) == (not touched)
            if oldest is not None:
                same = [since for one, since in touched.items() if one.life == oldest.life]
                assert touched.pop(oldest) == min(same)
        else:
            due = {one for one, since in touched.items() if since + one.life <= now}
            assert set(queue.pop_due(now)) == due
            touched = {one: since for one, since in touched.items() if one not in due}
        assert queue.next_due() <= min((since + one.life for one, since in touched.items()), default=math.inf)
        assert len(queue) == len(touched)


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
        assert caught.value == {"sid": session.sid}
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
        assert (caught.value, caught.error) == ({"sid": session.sid}, None)


async def test_a_sessions_own_life_beats_the_ports_longer_and_shorter(autojump_clock: MockClock) -> None:
    async with SessionManager(session_max_life=10).port("p", Wire()) as port:
        ends: dict[float, float] = {}

        async def watch(session: Session) -> None:
            async for _ in session:
                raise AssertionError
            ends[session._max_life] = trio.current_time()

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
