"""What the TypeScript PSession 1.0.1 does wrong, second part: a test fails if the defect of its letter is back."""

from __future__ import annotations

import math
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    Classic,
    MalformedMessageError,
    PortNotFoundError,
    SessionAbortError,
    SessionCancelError,
    SessionError,
    SessionInvalidError,
    SessionManager,
    SessionTimeoutError,
)
from psession.channels import memory_pair
from psession.protocol.deadlines import SLACK

from ..peers import Caught, Echo, Wire, serve_echo, settle
from ..tables import assert_empty, assert_idle, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Session


async def test_defect_j_the_callers_message_is_never_changed() -> None:
    """One object sent by two sessions and posted keeps its fields, their order and its missing sid."""
    wire = Wire()
    inner = {"x": 1}
    message = {"b": 1, "a": inner}
    async with SessionManager(wire).port("p") as port, trio.open_nursery() as nursery:
        sessions = [port.create(), port.create()]
        for session in sessions:
            nursery.start_soon(session.send, message)
        await settle()
        await sessions[0].post(message)
        assert list(message) == ["b", "a"]
        assert message["a"] is inner
        assert sorted(sent["sid"] for sent in wire.sent) == [1, 1, 2]
        for sid in (1, 2):
            port.dispatch({"sid": sid})


async def test_defect_j_a_message_that_nobody_can_change_can_be_sent() -> None:
    """A read-only mapping goes out with its number, and a payload that brings one of its own is refused, unchanged."""
    wire = Wire()
    async with SessionManager(wire).port("p") as port, port.session() as session:
        await session.post(MappingProxyType({"a": 1}))
        echoed = {"sid": 77, "a": 2}
        with pytest.raises(MalformedMessageError, match=r"session\.sid has the number"):
            await session.post(echoed)
        assert echoed == {"sid": 77, "a": 2}
    assert wire.sent == [{"a": 1, "sid": 1}]


@pytest.mark.parametrize("call", ["send", "request", "post"])
async def test_defect_k_an_async_sender_that_fails_tells_its_own_caller_at_once(
    autojump_clock: MockClock, call: str
) -> None:
    """The caller gets the sender's own error object, not a timeout; other callers and the port do not notice."""
    error = ConnectionError("refused")

    async def send(message: dict[str, Any]) -> None:
        await trio.sleep(0.25)
        if message.get("bad"):
            raise error

    async with SessionManager(session_timeout=30).port("p", send) as port, trio.open_nursery() as nursery:
        good, bad = Caught(), Caught()
        nursery.start_soon(good.run, port.create().send, {"n": 1})
        await settle()
        use = port.request if call == "request" else getattr(port.create(), call)
        nursery.start_soon(bad.run, use, {"bad": True})
        await trio.sleep(1)
        assert (bad.error, bad.at) == (error, 0.5)
        assert bad.error is error
        port.dispatch({"sid": 1, "ok": 1})
        await settle()
        assert (good.value, good.error, port.closed) == ({"ok": 1}, None, False)


async def test_defect_l_clear_ends_every_session_and_their_numbers_are_not_shared_with_new_ones() -> None:
    """Old sessions are over after clear(), and what still comes for them reaches no new one."""
    wire = Wire()
    async with SessionManager(wire).port("p") as port, trio.open_nursery() as nursery:
        waiting = Caught()
        old = [port.create() for _ in range(3)]
        nursery.start_soon(waiting.run, old[0].send, {})
        await settle()
        port.clear()
        new = [port.create() for _ in range(3)]
        await settle()
        assert [session.closed for session in old] == [True] * 3
        assert not {session.sid for session in new} & {1}
        assert isinstance(waiting.error, SessionAbortError)
        for session in old:
            with pytest.raises(SessionInvalidError):
                await session.send({})
        port.dispatch({"sid": 1, "late": True})
        assert port.statistics().late == 1


@pytest.mark.parametrize("deed", ["end", "cancel", "abort", "timeout", "clear", "close"])
async def test_defect_l_an_end_in_the_pause_between_retries_stops_the_retries(
    autojump_clock: MockClock, deed: str
) -> None:
    """Whatever ends the turn in the pause, no attempt follows and the waiter is told at once."""
    wire = Wire()
    async with SessionManager(wire).port("p") as port, trio.open_nursery() as nursery:
        session, caught = port.create(), Caught()
        nursery.start_soon(lambda: caught.run(lambda: session.send({}, timeout=1, retry_count=50, retry_interval=10)))
        await trio.sleep(5)
        getattr(port if deed in ("clear", "close") else session, deed)()
        await trio.sleep(1000)
        assert (len(wire.sent), caught.at) == (1, 5.0)
        assert isinstance(caught.error, SessionError)


async def test_defect_m_nothing_keeps_the_loop_awake_after_clear_or_many_answered_sends() -> None:
    """After 10,000 answered sends no more than a fixed number of old deadlines is held; after leaving, none."""
    echo = Echo()
    manager = SessionManager(echo)
    async with manager.port("p") as port:
        echo.port = port
        async with port.session() as session:
            for n in range(10_000):
                await session.send({"n": n})
            assert len(port._engine.connection.deadlines._heap) <= SLACK + 2
        port.clear()
        assert_idle(port)
    assert_empty(manager, port)
    assert_no_timers()


async def test_defect_m_many_answered_sends_over_a_channel_hold_a_bounded_number_of_deadlines() -> None:
    """Turns that really waited leave at most the slack behind, too."""
    here, there = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, there)
        async with SessionManager().port("p", here) as port, port.session() as session:
            for n in range(3 * SLACK):
                await session.send({"n": n})
            assert len(port._engine.connection.deadlines._heap) <= SLACK + 2
    assert_no_timers()


def test_defect_m_a_program_ends_when_its_last_port_was_left() -> None:
    """The loop returns at once in virtual and real time, though a reply was never waited out."""

    async def main() -> None:
        async with SessionManager(Wire()).port("p") as port:
            with trio.move_on_after(0):
                await port.request({})

    started = time.perf_counter()
    trio.run(main)
    assert time.perf_counter() - started < 5


async def test_defect_n_a_message_that_comes_when_no_send_waits_is_received() -> None:
    """What the peer says on its own goes into the session's inbox, in order."""
    async with SessionManager().port("p", Wire()) as port, port.session() as session:
        for n in range(3):
            assert port.dispatch({"sid": session.sid, "n": n})
        assert [(await session.receive())["n"] for _ in range(3)] == [0, 1, 2]


async def test_defect_n_a_message_for_an_ended_session_never_throws_in_the_receive_loop() -> None:
    """It is counted; dispatch, get_session and next all take it quietly."""
    manager = SessionManager()
    async with manager.port("p", Wire()) as port:
        session = port.create()
        session.end()
        message = {"sid": session.sid}
        assert port.dispatch(message)
        assert manager.dispatch(message, "p")
        assert manager.get_session(message, "p") is None
        session.next(message)
        assert (port.statistics().duplicate, port.statistics().late) == (2, 1)
    assert manager.dispatch(message, "p")
    session.next(message)


@pytest.mark.parametrize(
    "value", [True, False, 1.0, 1.5, math.inf, math.nan, "0x5", "5", "", None, [5], {"a": 5}, 0, -5, b"5"]
)
async def test_defect_o_what_is_no_session_number_makes_no_session_message(value: object) -> None:
    """Only an int above 0 is a number: anything else is a message for on_message."""

    async def handle(session: Session) -> None:
        raise AssertionError

    manager = SessionManager(Wire(), on_session=handle)
    async with manager.port("p") as port:
        port.create()
        message = {"sid": value}
        assert not manager.is_session(message)
        assert not port.dispatch(message)
        assert port.get_session(message) is None
        assert len(port.sessions) == 1


async def test_defect_o_a_number_as_text_counts_only_where_the_dialect_says_so() -> None:
    """With text_ids "5" is session 5; "05", " 5", "+5", "5.0" and the digits of another script are not."""
    manager = SessionManager(Wire(), dialect=Classic(text_ids=True))
    async with manager.port("p") as port:
        session = port.create()
        assert port.get_session({"sid": "1"}) is session
        for other in ("01", " 1", "+1", "1.0", "0x1", "\u0661", "1_0", "-1", "", "9" * 400):
            assert not port.is_session({"sid": other})


async def test_defect_p_a_peer_cannot_answer_for_another_port() -> None:
    """The port is the caller's to name: a message's own fields choose nothing."""
    manager = SessionManager()
    async with manager.port("a", Wire()) as a, manager.port("b", Wire()) as b, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, a.request, {})
        await settle()
        for forged in ({"sid": 1, "from": "a", "port": "a", "name": "a"},):
            assert b.dispatch(forged)
            assert manager.dispatch(forged, "b")
            assert manager.get_session(forged, "b") is None
        await settle()
        assert caught.at is None
        assert (b.statistics().unknown_sid, a.statistics().matched) == (2, 0)
        a.dispatch({"sid": 1})


async def test_defect_r_a_one_shot_request_succeeds_at_its_last_retry(autojump_clock: MockClock) -> None:
    """Its session lives through the failed attempts: the reply to the third one is the reply."""
    attempts: list[int] = []

    def deaf_at_first(message: dict[str, Any]) -> None:
        attempts.append(message["sid"])
        if len(attempts) == 3:
            port.dispatch({"sid": message["sid"], "third": True})

    async with SessionManager(deaf_at_first).port("p") as port:
        reply = await port.request({}, timeout=1, retry_count=2, retry_interval=0.5)
        assert (reply, attempts, trio.current_time()) == ({"third": True}, [1, 1, 1], 3.0)


class Mine(Exception):
    """An error of the application's."""


@pytest.mark.parametrize("kind", ["abort", "sender"])
async def test_defect_s_an_abort_and_a_bug_in_the_sender_are_not_retried(autojump_clock: MockClock, kind: str) -> None:
    """Only silence is retried: the caller gets the first error at once."""
    error = Mine("a bug")
    sent: list[object] = []

    def sender(message: object) -> None:
        sent.append(message)
        if kind == "sender":
            raise error

    async with SessionManager(sender, retry_count=9, retry_interval=1).port("p") as port:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, port.request, {})
            await settle()
            if kind == "abort":
                port.abort(error)
        assert (len(sent), caught.at) == (1, 0.0)
        if kind == "sender":
            assert caught.error is error
        else:
            assert isinstance(caught.error, SessionAbortError)
            assert caught.error.__cause__ is error


@pytest.mark.parametrize(
    ("patience", "moment"), [(0, 2.0), (2.0**31, 2.0**31 * 3 + 2), (86400.0 * 365, 86400.0 * 365 * 3 + 2)]
)
async def test_defect_t_a_timeout_of_zero_ends_and_a_huge_one_is_not_a_millisecond(
    autojump_clock: MockClock, patience: float, moment: float
) -> None:
    """Zero with retries takes its pauses alone; 2**31 and a year take what they say."""
    async with SessionManager(Wire(), session_max_life=math.inf).port("p") as port:
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({}, timeout=patience, retry_count=2, retry_interval=1)
        assert (trio.current_time(), caught.value.attempts) == (moment, 3)


async def test_defect_t_none_is_the_default_and_infinity_really_waits(autojump_clock: MockClock) -> None:
    """An undefined timeout still times out; an infinite one is still waiting after a century."""
    async with SessionManager(Wire()).port("p") as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=None)
        assert trio.current_time() == 60.0
        with trio.move_on_after(86400 * 36525) as scope:
            await port.request({}, timeout=math.inf)
        assert scope.cancelled_caught


async def test_defect_v_a_jump_of_the_wall_clock_changes_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sends and idle sessions live by Trio's clock alone."""
    async with SessionManager(Wire(), session_max_life=10).port("p") as port, trio.open_nursery() as nursery:
        idle, caught = port.create(), Caught()
        nursery.start_soon(lambda: caught.run(lambda: port.request({}, timeout=5)))
        await trio.sleep(1)
        for name in ("time", "monotonic", "perf_counter"):
            real = getattr(time, name)
            monkeypatch.setattr(time, name, lambda real=real: real() + 30)
        await trio.sleep(3)
        assert (caught.at, idle.closed) == (None, False)
        await trio.sleep(7)
        assert (type(caught.error), caught.at, idle.closed) == (SessionTimeoutError, 5.0, True)
        monkeypatch.undo()


async def test_defect_w_a_session_that_only_receives_lives(autojump_clock: MockClock) -> None:
    """Its life counts from the last message either way, not from its last send."""
    async with SessionManager(Wire(), session_max_life=2).port("p") as port:
        session = port.create()
        for _ in range(20):
            await trio.sleep(1.75)
            port.dispatch({"sid": session.sid})
            await session.receive()
        assert not session.closed


@pytest.mark.parametrize("deed", ["cancel", "abort", "timeout", "end"])
async def test_defect_x_an_error_says_its_name_its_port_its_session_and_what_happened(
    autojump_clock: MockClock, deed: str
) -> None:
    """Type, text and data: nothing is left to guess."""
    async with SessionManager(Wire()).port("heater-7", Wire(), session_timeout=9) as port:
        session, caught = port.create(), Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, session.send, {})
            await trio.sleep(2)
            getattr(session, deed)()
        error = caught.error
        kind = {"abort": SessionAbortError, "timeout": SessionTimeoutError}.get(deed, SessionCancelError)
        assert type(error) is kind
        assert (error.port, error.sid, error.attempts, error.waited) == ("heater-7", 1, 1, 2.0)
        for word in ("heater-7", "session 1", "1 attempt", "2 s"):
            assert word in str(error)


async def test_defect_x_a_port_that_was_never_opened_is_an_error_and_not_undefined() -> None:
    """create_session names the port that is missing, and those that are open."""
    manager = SessionManager(Wire())
    async with manager.port("here"):
        with pytest.raises(PortNotFoundError, match="here") as caught:
            manager.create_session("device1")
        assert caught.value.port == "device1"


async def test_defect_y_ports_leave_the_manager_with_their_block() -> None:
    """However a block is left, its port is gone."""
    manager = SessionManager(Wire())
    for n in range(300):
        with pytest.raises(Mine) if n % 3 == 0 else trio.CancelScope() as scope:
            async with manager.port(f"p{n}") as port:
                if n % 3 == 0:
                    raise Mine
                if n % 3 == 1:
                    scope.cancel()
                    await trio.sleep_forever()
    assert_empty(manager, port)
    assert_no_timers()


@pytest.mark.parametrize("moment", [1.0, 1.25, 2.9])
async def test_defect_z_a_reply_in_the_pause_between_two_attempts_is_the_reply(
    autojump_clock: MockClock, moment: float
) -> None:
    """The peer did the work once: it is not asked to do it again."""
    wire = Wire()
    async with SessionManager(wire).port("p") as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(lambda: caught.run(lambda: port.request({}, timeout=1, retry_count=5, retry_interval=2)))
        await trio.sleep(moment)
        port.dispatch({"sid": 1, "done": True})
        await trio.sleep(100)
        assert (caught.value, caught.at, len(wire.sent)) == ({"done": True}, moment, 1)


@pytest.mark.parametrize("make", [lambda wire: wire, lambda wire: memory_pair()[0]], ids=["sender", "channel"])
async def test_defect_m_abandoned_sends_leave_no_deadline_behind(make: Callable[[Wire], Any]) -> None:
    """A thousand cancelled sends wait for nothing any more."""
    async with SessionManager().port("p", make(Wire())) as port:
        for _ in range(50):
            with trio.move_on_after(0):
                await port.request({})
        assert_idle(port)
