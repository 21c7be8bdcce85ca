"""What the TypeScript PSession 1.0.1 does wrong, first part: a test fails if the defect of its letter is back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import SessionCancelError, SessionInvalidError, SessionManager, SessionOverflowError, SessionTimeoutError
from psession.channels import memory_pair

from ..peers import Caught, Echo, Wire, serve_echo, settle
from ..tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Port, Session


async def test_defect_a_options_given_to_one_port_stay_in_that_port(autojump_clock: MockClock) -> None:
    """A port's sender, timeout and sid name leak neither into the manager nor into a later port."""
    usual, own = Wire(), Wire()
    manager = SessionManager(usual, session_timeout=3)
    async with manager.port("a", own, session_timeout=7, session_id_name="id", retry_count=1) as a:
        with pytest.raises(SessionTimeoutError) as first:
            await a.request({})
    async with manager.port("b") as b:
        with pytest.raises(SessionTimeoutError) as second:
            await b.request({})
    assert (own.sent, usual.sent) == ([{"id": 1}] * 2, [{"sid": 1}])
    assert (first.value.waited, second.value.waited) == (15.0, 3.0)
    assert manager.is_session({"sid": 1})
    assert not manager.is_session({"id": 1})


@pytest.mark.parametrize("patience", [0.5, 120.0, 0.0])
async def test_defect_b_a_timeout_given_to_one_send_counts(autojump_clock: MockClock, patience: float) -> None:
    """A per-send timeout takes effect, shorter, longer or 0; retry count 0 and interval 0 can be asked for."""
    wire = Wire()
    async with SessionManager(session_timeout=60, retry_count=3, retry_interval=9).port("p", wire) as port:
        async with port.session() as session:
            with pytest.raises(SessionTimeoutError):
                await session.send({}, timeout=patience, retry_count=0)
            assert (trio.current_time(), len(wire.sent)) == (patience, 1)
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=patience, retry_interval=0)
    assert (trio.current_time(), len(wire.sent)) == (5 * patience, 5)


async def test_defect_c_no_timer_of_an_answered_send_ever_fires(autojump_clock: MockClock) -> None:
    """One session kept busy across many timeouts times out never and gets each answer of its own."""
    here, there = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_echo(there, delay=0.75))
        async with SessionManager(session_timeout=1).port("p", here) as port, port.session() as session:
            for n in range(500):
                reply = await session.send({"n": n})
                assert reply["n"] == n
            assert trio.current_time() == 375.0
            assert (port.statistics().matched, port.statistics().timed_out) == (500, 0)
            assert session.sid == 1


async def test_defect_c_a_turn_is_not_cut_by_the_deadline_of_the_one_before(autojump_clock: MockClock) -> None:
    """A long turn right after a short one waits its own whole time, though the first one's moment passes in it."""
    async with SessionManager().port("p", Wire()) as port, port.session() as session, trio.open_nursery() as nursery:
        first, second = Caught(), Caught()
        nursery.start_soon(lambda: first.run(lambda: session.send({}, timeout=1)))
        await trio.sleep(0.5)
        port.dispatch({"sid": 1, "n": 1})
        await settle()
        nursery.start_soon(lambda: second.run(lambda: session.send({}, timeout=10)))
        await trio.sleep(9.5)
        port.dispatch({"sid": 1, "n": 2})
        await settle()
        assert (first.value["n"], second.value["n"], second.at) == (1, 2, 10.0)


async def test_defect_d_a_late_reply_answers_no_later_send_of_its_session(autojump_clock: MockClock) -> None:
    """After a timeout the session's next send is not answered, nor shifted, by the reply to the one before."""
    wire = Wire()
    async with SessionManager().port("p", wire) as port, port.session() as session, trio.open_nursery() as nursery:
        with pytest.raises(SessionTimeoutError):
            await session.send({"token": "a"}, timeout=1)
        caught = Caught()
        nursery.start_soon(caught.run, session.send, {"token": "b"})
        await settle()
        late, current = (message["sid"] for message in wire.sent)
        port.dispatch({"sid": late, "token": "a"})
        await settle()
        assert caught.at is None
        port.dispatch({"sid": current, "token": "b"})
        await settle()
        assert caught.value == {"token": "b"}
        assert (port.statistics().late, late != current) == (1, True)


async def test_defect_d_a_late_reply_answers_no_later_session(autojump_clock: MockClock) -> None:
    """The number of a session that ended unanswered is not given to the next ones."""
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        for _ in range(3):
            with pytest.raises(SessionTimeoutError):
                await port.request({}, timeout=1)
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {})
        await settle()
        assert [message["sid"] for message in wire.sent] == [1, 2, 3, 4]
        for sid in (1, 2, 3):
            port.dispatch({"sid": sid})
        await settle()
        assert caught.at is None
        assert port.statistics().late == 3
        port.dispatch({"sid": 4})


async def test_defect_d_a_freed_number_is_not_used_again_at_once() -> None:
    """Even answered sessions do not all get number 1."""
    echo = Echo()
    async with SessionManager(echo).port("p") as port:
        echo.port = port
        for _ in range(5):
            await port.request({})
    assert [message["sid"] for message in echo.sent] == [1, 2, 3, 4, 5]


async def test_defect_d_the_answer_to_a_retry_answers_no_later_turn(autojump_clock: MockClock) -> None:
    """Two attempts may bring two answers: the second one never answers the turn that follows."""
    wire = Wire()
    async with SessionManager().port("p", wire) as port, port.session() as session, trio.open_nursery() as nursery:
        first, second = Caught(), Caught()
        nursery.start_soon(
            lambda: first.run(lambda: session.send({"n": 1}, timeout=1, retry_count=1, retry_interval=0))
        )
        await trio.sleep(1.5)
        port.dispatch({"sid": 1, "n": 1})
        await settle()
        nursery.start_soon(second.run, session.send, {"n": 2})
        await settle()
        port.dispatch({"sid": 1, "n": 1})
        await settle()
        assert (first.value["n"], second.at) == (1, None)
        port.dispatch({"sid": wire.sent[-1]["sid"], "n": 2})
        await settle()
        assert second.value["n"] == 2


async def test_defect_e_two_sends_at_once_on_one_session_each_get_their_own_reply(autojump_clock: MockClock) -> None:
    """The second send waits until the first is answered; neither gets the other's reply."""
    wire = Wire()
    async with SessionManager().port("p", wire) as port, port.session() as session, trio.open_nursery() as nursery:
        turns = [Caught() for _ in range(5)]
        for n, turn in enumerate(turns):
            nursery.start_soon(turn.run, session.send, {"n": n})
            await settle()
        for n in range(5):
            assert [message["n"] for message in wire.sent] == list(range(n + 1))
            port.dispatch({**wire.sent[-1]})
            await settle()
        assert [turn.value["n"] for turn in turns] == [0, 1, 2, 3, 4]


async def test_defect_f_post_sends_and_returns() -> None:
    """A post goes out with the session's number, with a sync sender, an async one and a channel."""
    wire = Wire()

    async def send(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        wire(message)

    here, there = memory_pair()
    for target in (wire, send, here):
        async with SessionManager().port("p", target) as port, port.session() as session:
            await session.post({"n": 1})
            await session.post({"n": 2})
            await settle()
    assert wire.sent == [{"n": 1, "sid": 1}, {"n": 2, "sid": 1}] * 2
    assert [await there.receive(), await there.receive()] == wire.sent[:2]


async def test_defect_g_when_the_last_number_was_given_a_free_one_is_taken_before_any_session_is_evicted() -> None:
    """Past the end of the range the free numbers come again, and no session is ended for it."""
    async with SessionManager(session_ids=range(1, 11)).port("p", Wire()) as port:
        kept = port.create()
        for _ in range(40):
            port.create().end()
        assert not kept.closed
        assert port.statistics().recycled == 0


async def test_defect_g_an_overflow_recycles_the_session_created_earliest_whatever_its_number() -> None:
    """The victim is the oldest session, not number 1; it gets its error and is ended."""
    async with SessionManager(max_session_count=3).port("p", Wire()) as port:
        first, second, third = (port.create() for _ in range(3))
        first.end()
        fourth = port.create()
        assert [session.sid for session in (second, third, fourth)] == [2, 3, 1]
        fifth = port.create()
        assert (second.closed, third.closed, fourth.closed, fifth.sid) == (True, False, False, 2)
        for use in (second.send, second.post):
            with pytest.raises(SessionInvalidError):
                await use({})
        assert port.sessions[2] is fifth


@pytest.mark.parametrize("value", [0, -3, 1.5, 70000, None, True, "1", math.nan, [1], 5])
async def test_defect_g_what_an_overflow_handler_returns_is_checked(value: object) -> None:
    """A handler that names no open session of this side gets an error; nothing is ended, nothing sent."""
    wire = Wire()
    manager = SessionManager(wire, max_session_count=2, on_session_overflow=lambda port: value)  # type: ignore[arg-type]
    async with manager.port("p") as port:
        sessions = [port.create(), port.create()]
        with pytest.raises(SessionOverflowError, match="on_session_overflow returned"):
            port.create()
        with pytest.raises(SessionOverflowError):
            await port.request({})
        assert [session.closed for session in sessions] == [False, False]
        assert (sorted(port.sessions), wire.sent) == ([1, 2], [])


@pytest.mark.parametrize("late_deed", ["end the evicted", "end twice", "settle after clear"])
async def test_defect_h_ending_an_old_session_never_deletes_a_newer_one_of_its_number(
    autojump_clock: MockClock, late_deed: str
) -> None:
    """What ends late takes only itself out of the tables."""
    manager = SessionManager(session_ids=range(1, 2), session_id_rest=0)
    async with manager.port("p", Wire()) as port, trio.open_nursery() as nursery:
        caught = Caught()
        if late_deed == "settle after clear":
            nursery.start_soon(caught.run, port.request, {})
            await settle()
            port.clear()
            newer = port.create()
            await settle()
            assert caught.error is not None
        elif late_deed == "end twice":
            old = port.create()
            old.end()
            newer = port.create()
            old.end()
        else:
            old = port.create()
            newer = port.create()
            old.end()
        assert dict(port.sessions) == {1: newer}
        assert port._engine.connection.sessions.oldest() is newer._live.dialogue
        other = Caught()
        nursery.start_soon(other.run, newer.send, {})
        await settle()
        port.dispatch({"sid": 1, "ok": 1})
        await settle()
        assert other.value == {"ok": 1}
        newer.end()
        assert_idle(port)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (range(1, 65536, 2), range(2, 65536, 2)),
        (range(1, 32768), range(32768, 65536)),
        (range(1, 65536), range(65536, 131072)),
    ],
)
async def test_defect_i_both_sides_open_sessions_at_once_and_neither_takes_a_request_for_a_reply(
    left: range, right: range
) -> None:
    """Ten dialogues in each direction over one channel: each gets the answer of the other side's handler."""

    async def handle(session: Session) -> None:
        async for message in session:
            await session.post({"for": message["q"], "by": "handler"})

    async def ask(port: Port, side: str, n: int) -> None:
        for turn in range(3):
            reply = await port.request({"q": [side, n, turn]})
            assert (reply["for"], reply["by"]) == ([side, n, turn], "handler")

    here, there = memory_pair()
    a, b = SessionManager(on_session=handle, session_ids=left), SessionManager(on_session=handle, session_ids=right)
    async with a.port("b", here) as to_b, b.port("a", there) as to_a:
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(ask, to_b, "a", n)
                nursery.start_soon(ask, to_a, "b", n)
        assert (to_b.statistics().matched, to_a.statistics().matched) == (30, 30)
    assert_empty(a, to_b)
    assert_empty(b, to_a)


async def test_defect_i_with_the_defaults_a_side_with_a_handler_keeps_clear_of_a_peer_that_counts_from_one(
    autojump_clock: MockClock,
) -> None:
    """The usual server opens its sessions where no guide's client counts."""

    async def handle(session: Session) -> None:
        async for message in session:
            await session.post({"echo": message["n"]})

    wire = Wire()
    async with SessionManager(wire).port("p", on_session=handle) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {"mine": 1})
        await settle()
        port.dispatch({"n": 7, "sid": 1})
        await settle()
        assert caught.at is None
        assert wire.sent[1] == {"echo": 7, "sid": 1}
        port.dispatch({"ok": 1, "sid": wire.sent[0]["sid"]})
        await settle()
        assert caught.value["ok"] == 1


async def test_defect_i_a_foreign_request_with_a_number_of_mine_is_counted_and_not_taken_for_a_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where both sides were given the same range, an unknown number of mine opens nothing, and is said once."""

    async def handle(session: Session) -> None:
        raise AssertionError

    async with SessionManager(on_session=handle, session_ids=range(1, 100)).port("p", Wire()) as port:
        port.dispatch({"sid": 50})
        port.dispatch({"sid": 51})
        assert (port.statistics().unknown_sid, dict(port.sessions)) == (2, {})
    assert caplog.text.count("disjoint") == 1


@pytest.mark.parametrize("deed", ["cancel", "abort", "timeout", "end", "recycle"])
async def test_defect_g_an_evicted_session_cannot_send_with_its_old_number(
    autojump_clock: MockClock, deed: str
) -> None:
    """A waiter of the evicted session gets SessionCancelError at once, whatever is done to that session later."""
    async with SessionManager(max_session_count=1).port("p", Wire()) as port, trio.open_nursery() as nursery:
        old, caught = port.create(), Caught()
        nursery.start_soon(caught.run, old.send, {})
        await trio.sleep(1)
        newer = port.create()
        await settle()
        assert (type(caught.error), caught.at) == (SessionCancelError, 1.0)
        if deed != "recycle":
            getattr(old, deed)()
        assert not newer.closed
        assert list(port.sessions.values()) == [newer]
