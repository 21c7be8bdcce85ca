"""One peer: opening sessions, overflow policies, the peer's sessions, everything at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    PortClosedError,
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionManager,
    SessionOverflowError,
    SessionTimeoutError,
)

from .peers import Caught, Echo, Wire, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Port

TWO = range(1, 3)


async def test_the_live_table_shows_every_open_session_by_its_number() -> None:
    async with SessionManager(Wire()).port("p") as port:
        table = port.sessions
        first, second = port.create(), port.create()
        assert dict(table) == {1: first, 2: second}
        first.end()
        assert dict(table) == {2: second}


async def test_a_sessions_own_options_beat_the_ports_and_the_calls_beat_both(autojump_clock: MockClock) -> None:
    manager = SessionManager(Wire(), session_timeout=8)
    async with manager.port("p", session_timeout=4) as port, port.session(timeout=2) as session:
        for call, seconds in [
            (lambda: session.send({}, timeout=1), 1),
            (lambda: session.send({}), 2),
            (lambda: port.request({}), 4),
        ]:
            start = trio.current_time()
            with pytest.raises(SessionTimeoutError):
                await call()
            assert trio.current_time() - start == seconds
        async with manager.port("q") as other:
            start = trio.current_time()
            with pytest.raises(SessionTimeoutError):
                await other.request({})
            assert trio.current_time() - start == 8


# -- overflow ----------------------------------------------------------------------------------------------------------


async def test_recycle_ends_the_session_opened_first_and_its_waiter_is_told(autojump_clock: MockClock) -> None:
    manager = SessionManager(Wire(), session_ids=range(1, 4))
    async with manager.port("p") as port, trio.open_nursery() as nursery:
        sessions = [port.create() for _ in range(3)]
        caught = Caught()
        nursery.start_soon(caught.run, sessions[0].send, {})
        await trio.sleep(1)
        newer = port.create()
        await settle()
        assert [session.closed for session in sessions] == [True, False, False]
        assert (type(caught.error), caught.at, port.statistics().recycled) == (SessionCancelError, 1.0, 1)
        assert not newer.closed


async def test_refuse_raises_and_ends_nothing() -> None:
    manager = SessionManager(Wire(), session_ids=TWO, on_session_overflow="refuse")
    async with manager.port("p") as port:
        sessions = [port.create(), port.create()]
        with pytest.raises(SessionOverflowError, match="2 are in use"):
            port.create()
        with pytest.raises(SessionOverflowError):
            await port.request({})
        with pytest.raises(SessionOverflowError):
            async with port.session():
                raise AssertionError
        assert [session.closed for session in sessions] == [False, False]
        sessions[0].end()
        assert port.create().sid == 1


async def test_wait_waits_for_a_number_and_takes_it_at_the_moment_it_is_free(autojump_clock: MockClock) -> None:
    manager = SessionManager(Wire(), session_ids=TWO, on_session_overflow="wait")
    async with manager.port("p") as port, trio.open_nursery() as nursery:
        opened: list[float] = []

        async def use() -> None:
            async with port.session():
                opened.append(trio.current_time())
                await trio.sleep(3)

        for _ in range(6):
            nursery.start_soon(use)
        await settle()
        with pytest.raises(SessionOverflowError):
            port.create()
        await trio.sleep(20)
        assert opened == [0.0, 0.0, 3.0, 3.0, 6.0, 6.0]
        assert_idle(port)


async def test_wait_takes_a_resting_number_at_the_moment_its_rest_ends(autojump_clock: MockClock) -> None:
    manager = SessionManager(Wire(), session_ids=range(1, 2), on_session_overflow="wait", session_id_rest=20)
    async with manager.port("p") as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=5)
        async with port.session() as session:
            assert (session.sid, trio.current_time()) == (1, 25.0)


async def test_a_request_under_wait_times_out_when_no_number_comes_free(autojump_clock: MockClock) -> None:
    wire = Wire()
    manager = SessionManager(wire, session_ids=TWO, on_session_overflow="wait")
    async with manager.port("p") as port, port.session(), port.session():
        with pytest.raises(SessionTimeoutError, match="not sent"):
            await port.request({}, timeout=7)
        assert (trio.current_time(), wire.sent, port.statistics().timed_out) == (7.0, [], 1)


async def test_who_waits_for_a_number_is_told_when_the_port_closes(autojump_clock: MockClock) -> None:
    manager = SessionManager(Wire(), session_ids=TWO, on_session_overflow="wait")

    async def enter(port: Port) -> None:
        async with port.session():
            raise AssertionError

    async with trio.open_nursery() as elsewhere:
        async with manager.port("p") as port:
            port.create()
            port.create()
            waiters = [Caught(), Caught()]
            elsewhere.start_soon(waiters[0].run, enter, port)
            elsewhere.start_soon(waiters[1].run, port.request, {})
            await trio.sleep(2)
        await settle()
        assert [(type(waiter.error), waiter.at) for waiter in waiters] == [(PortClosedError, 2.0)] * 2
    assert_empty(manager, port)


async def test_a_waiter_that_is_cancelled_in_the_tick_of_a_freed_number_does_not_lose_it_for_the_next() -> None:
    manager = SessionManager(Wire(), session_ids=range(1, 2), on_session_overflow="wait")
    async with manager.port("p") as port, trio.open_nursery() as nursery:
        holder = port.create()
        scope, got = trio.CancelScope(), Caught()

        async def first() -> None:
            with scope:
                async with port.session():
                    await trio.sleep_forever()

        async def second() -> int:
            async with port.session() as session:
                return session.sid

        nursery.start_soon(first)
        await settle()
        nursery.start_soon(got.run, second)
        await settle()
        holder.end()
        scope.cancel()
        await settle()
        assert got.value == 1
        assert_idle(port)


async def test_a_callable_chooses_the_session_to_end() -> None:
    asked: list[Port] = []

    def newest(port: Port) -> int:
        asked.append(port)
        return max(port.sessions)

    manager = SessionManager(Wire(), session_ids=range(1, 4), on_session_overflow=newest)
    async with manager.port("p") as port:
        sessions = [port.create() for _ in range(3)]
        again = port.create()
        assert [session.closed for session in sessions] == [False, False, True]
        assert (again.sid, asked) == (3, [port])


async def test_a_callable_that_raises_raises_at_the_one_who_opens() -> None:
    def broken(port: Port) -> int:
        raise KeyError("policy")

    manager = SessionManager(Wire(), session_ids=TWO, on_session_overflow=broken)
    async with manager.port("p") as port:
        sessions = [port.create(), port.create()]
        with pytest.raises(KeyError):
            port.create()
        assert [session.closed for session in sessions] == [False, False]


async def test_a_callable_may_not_name_a_session_of_the_peer() -> None:
    async def handle(session: Session) -> None:
        await trio.sleep_forever()

    manager = SessionManager(Wire(), session_ids=TWO, on_session=handle, on_session_overflow=lambda port: 50)
    async with manager.port("p") as port:
        port.dispatch({"sid": 50})
        port.create()
        port.create()
        with pytest.raises(SessionOverflowError):
            port.create()
        assert sorted(port.sessions) == [1, 2, 50]


async def test_when_every_number_rests_the_next_owner_waits_until_its_number_is_safe(
    autojump_clock: MockClock,
) -> None:
    sent: list[tuple[float, int]] = []
    manager = SessionManager(
        lambda message: sent.append((trio.current_time(), message["sid"])), session_ids=TWO, session_id_rest=10
    )
    async with manager.port("p") as port:
        for _ in range(3):
            with pytest.raises(SessionTimeoutError):
                await port.request({}, timeout=12 if len(sent) == 2 else 1)
        assert sent == [(0.0, 1), (1.0, 2), (11.0, 1)]


# -- what the peer opens -----------------------------------------------------------------------------------------------


async def listening(session: Session) -> None:
    """A handler that waits for more."""
    async for _ in session:
        pass


async def working(session: Session) -> None:
    """A handler that does not look at what comes."""
    await trio.sleep_forever()


async def test_one_more_than_the_most_incoming_sessions_ends_the_one_idle_longest() -> None:
    manager = SessionManager(Wire(), on_session=listening, max_incoming_sessions=3)
    async with manager.port("p") as port:
        for sid in (1, 2, 3):
            port.dispatch({"sid": sid})
            await settle()
        port.dispatch({"sid": 1})
        await settle()
        port.dispatch({"sid": 4})
        await settle()
        assert sorted(port.sessions) == [1, 3, 4]
        statistics = port.statistics()
        assert (statistics.accepted, statistics.recycled, statistics.refused) == (4, 1, 0)


async def test_when_all_are_at_work_one_more_is_refused_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = SessionManager(Wire(), on_session=working, max_incoming_sessions=2)
    async with manager.port("p") as port:
        for sid in range(1, 10):
            assert port.dispatch({"sid": sid})
            await settle()
        assert (sorted(port.sessions), port.statistics().refused) == ([1, 2], 7)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "max_incoming_sessions" in warnings[0].getMessage()


async def test_own_sessions_and_the_peers_do_not_take_each_others_room() -> None:
    manager = SessionManager(
        Wire(), on_session=listening, max_incoming_sessions=2, max_session_count=2, on_session_overflow="refuse"
    )
    async with manager.port("p") as port:
        own = [port.create(), port.create()]
        for sid in (1, 2):
            port.dispatch({"sid": sid})
        await settle()
        statistics = port.statistics()
        assert (statistics.open, statistics.incoming) == (4, 2)
        assert [session.incoming for session in port.sessions.values()] == [False, False, True, True]
        assert not own[0].closed


async def test_the_handlers_of_overrun_sessions_stay_bounded() -> None:
    running: list[int] = []

    async def stuck(session: Session) -> None:
        running.append(1)
        try:
            await trio.sleep_forever()
        finally:
            running.pop()

    manager = SessionManager(Wire(), on_session=stuck, max_incoming_sessions=4, inbox_limit=2)
    async with manager.port("p") as port:
        for _ in range(100):
            port.dispatch({"sid": 1})
            await trio.lowlevel.checkpoint()
        await settle()
        assert len(running) <= 4


async def test_without_a_handler_a_session_of_the_peer_is_counted_and_not_answered() -> None:
    wire = Wire()
    async with SessionManager(wire).port("p", session_ids=range(1, 10)) as port:
        for _ in range(3):
            assert port.dispatch({"sid": 70_000})
        assert (port.statistics().no_handler, wire.sent, dict(port.sessions)) == (3, [], {})


async def test_a_stray_reply_is_never_answered_with_a_new_session() -> None:
    wire = Wire()
    manager = SessionManager(wire, on_session=listening, session_ids=range(100, 200))
    async with manager.port("p") as port:
        with port.create() as session:
            await session.post({})
        for sid in (100, 150):
            assert port.dispatch({"sid": sid})
        await settle()
        statistics = port.statistics()
        assert (statistics.duplicate, statistics.unknown_sid, statistics.accepted) == (1, 1, 0)
        assert len(wire.sent) == 1


async def test_a_message_that_opens_a_session_is_the_first_that_its_handler_receives() -> None:
    seen: list[list[int]] = []

    async def handle(session: Session) -> None:
        seen.append([message["n"] async for message in session])

    async with SessionManager(Wire(), on_session=handle).port("p") as port:
        for n in range(3):
            port.dispatch({"sid": 5, "n": n})
        await settle()
        port.sessions[5].end()
        await settle()
        assert seen == [[0, 1, 2]]


async def test_a_session_is_over_when_its_handler_returns_and_its_number_may_open_another() -> None:
    handled: list[int] = []

    async def once(session: Session) -> None:
        handled.append((await session.receive())["n"])

    async with SessionManager(Wire(), on_session=once).port("p") as port:
        for n in range(3):
            port.dispatch({"sid": 5, "n": n})
            await settle()
            assert dict(port.sessions) == {}
        assert handled == [0, 1, 2]


# -- everything at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "error", "ended"),
    [
        (lambda port: port.cancel(), SessionCancelError, False),
        (lambda port: port.abort(), SessionAbortError, False),
        (lambda port: port.timeout(), SessionTimeoutError, False),
        (lambda port: port.clear(), SessionAbortError, True),
        (lambda port: port.clear("cancel"), SessionCancelError, True),
        (lambda port: port.clear("timeout"), SessionTimeoutError, True),
        (lambda port: port.close(), SessionAbortError, True),
    ],
)
async def test_all_sends_end_together_each_with_its_own_right_error(
    autojump_clock: MockClock, deed: Callable[[Port], None], error: type[Exception], ended: bool
) -> None:
    manager = SessionManager(Wire())
    async with manager.port("p") as port, trio.open_nursery() as nursery:
        sessions = [port.create() for _ in range(20)]
        waiters = [Caught() for _ in sessions]
        for session, waiter in zip(sessions, waiters, strict=True):
            nursery.start_soon(waiter.run, session.send, {})
        await trio.sleep(1)
        deed(port)
        await settle()
        assert {(type(waiter.error), waiter.at) for waiter in waiters} == {(error, 1.0)}
        assert len({id(waiter.error) for waiter in waiters}) == 20
        assert {session.closed for session in sessions} == {ended}
    assert_empty(manager, port)


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (None, "the turn was aborted by abort()"),
        (ConnectionError("lamp was started anew"), "the turn was aborted by abort(): lamp was started anew"),
        (ConnectionError(), "the turn was aborted by abort(): ConnectionError()"),
    ],
)
async def test_who_is_cut_off_reads_why(autojump_clock: MockClock, cause: Exception | None, said: str) -> None:
    async with SessionManager(Wire()).port("p") as port, trio.open_nursery() as nursery:
        waiter = Caught()
        nursery.start_soon(waiter.run, port.create().send, {})
        await settle()
        port.abort(cause)
        await settle()
    assert isinstance(waiter.error, SessionAbortError)
    assert (waiter.error.why, waiter.error.__cause__) == (said, cause)


async def test_clear_refuses_a_behavior_that_it_does_not_know() -> None:
    async with SessionManager(Wire()).port("p") as port:
        session = port.create()
        with pytest.raises(ValueError, match="behavior"):
            port.clear("destroy")  # type: ignore[arg-type]
        assert not session.closed


async def test_a_request_leaves_nothing_whatever_becomes_of_it(autojump_clock: MockClock) -> None:
    echo = Echo()
    async with SessionManager(echo).port("p") as port:
        echo.port = port
        await port.request({})
        assert_idle(port)
    async with SessionManager(Wire()).port("p") as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1)
        assert_idle(port)


async def test_the_counters_tell_what_happened(autojump_clock: MockClock) -> None:
    echo = Echo()
    manager = SessionManager(echo)
    async with manager.port("p") as port:
        echo.port = port
        for _ in range(3):
            await port.request({})
        async with port.session() as session:
            await session.post({})
        port.dispatch({"sid": 2})
        port.dispatch({"sid": 999})
        statistics: Any = port.statistics()
        assert (statistics.opened, statistics.matched, statistics.sent) == (4, 3, 4)
        assert (statistics.duplicate, statistics.unknown_sid, statistics.open) == (1, 1, 0)
    assert manager.statistics().matched == 3
