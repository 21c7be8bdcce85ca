"""One dialogue: turns in line, last looks, unanswered turns, inboxes, endings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    MalformedMessageError,
    MessageError,
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionInvalidError,
    SessionManager,
    SessionOverrunError,
    SessionTimeoutError,
)
from psession.channels import memory_pair

from .peers import Caught, Echo, Wire, plain_pair, serve_echo, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


# -- the line ----------------------------------------------------------------------------------------------------------


async def test_a_send_cancelled_in_line_leaves_no_trace_and_the_next_has_its_turn(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        session = port.create()
        first, third = Caught(), Caught()
        nursery.start_soon(first.run, session.send, {"n": 1})
        await settle()
        with trio.move_on_after(2) as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(session.send, {"n": 2})
                await settle()
                nursery.start_soon(third.run, session.send, {"n": 3})
        assert scope.cancelled_caught
        port.dispatch({"sid": 1, "n": 1})
        await settle()
        port.dispatch({"sid": 1, "n": 3})
        await settle()
        assert [message["n"] for message in wire.sent] == [1, 3]
        assert (first.value["n"], third.value["n"]) == (1, 3)
        session.end()
        assert_idle(port)


async def test_a_send_cancelled_when_its_turn_has_just_come_is_never_sent() -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        session = port.create()
        scope = trio.CancelScope()

        async def first() -> None:
            await session.send({"n": 1})
            scope.cancel()

        async def second() -> None:
            with scope:
                await session.send({"n": 2})

        nursery.start_soon(first)
        await settle()
        nursery.start_soon(second)
        await settle()
        port.dispatch({"sid": 1})
        await settle()
        assert scope.cancelled_caught
        assert [message["n"] for message in wire.sent] == [1]
        session.end()
        assert_idle(port)


async def test_the_time_in_line_does_not_count_against_a_sends_own_timeout(autojump_clock: MockClock) -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, second = port.create(), Caught()
        nursery.start_soon(lambda: session.send({}, timeout=50))
        await settle()
        nursery.start_soon(lambda: second.run(lambda: session.send({}, timeout=2)))
        await trio.sleep(30)
        port.dispatch({"sid": 1})
        await trio.sleep(10)
        assert (type(second.error), second.at) == (SessionTimeoutError, 32.0)


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("cancel", SessionCancelError),
        ("abort", SessionAbortError),
        ("timeout", SessionTimeoutError),
        ("end", SessionCancelError),
    ],
)
async def test_an_ending_settles_the_turn_and_the_whole_line_each_with_its_own_error(
    autojump_clock: MockClock, deed: str, error: type[Exception]
) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        session = port.create()
        waiters = [Caught() for _ in range(4)]
        for waiter in waiters:
            nursery.start_soon(waiter.run, session.send, {})
        await trio.sleep(3)
        getattr(session, deed)()
        await settle()
        assert [(type(waiter.error), waiter.at) for waiter in waiters] == [(error, 3.0)] * 4
        assert len({id(waiter.error) for waiter in waiters}) == 4
        assert (session.closed, len(wire.sent)) == (deed == "end", 1)
        counted = port.statistics()
        assert counted.cancelled + counted.aborted + counted.timed_out == 4


async def test_ending_right_after_a_turn_gives_the_next_in_line_the_error_of_the_end() -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, second = port.create(), Caught()

        async def one_turn_then_end() -> None:
            await session.send({})
            session.end()

        nursery.start_soon(one_turn_then_end)
        await settle()
        nursery.start_soon(second.run, session.send, {})
        await settle()
        port.dispatch({"sid": 1})
        await settle()
        assert type(second.error) is SessionCancelError


async def test_a_cancelled_session_lives_on_and_its_next_turn_is_its_own(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        session = port.create()
        for n in range(3):
            caught = Caught()
            nursery.start_soon(caught.run, session.send, {"n": n})
            await settle()
            session.cancel()
            await settle()
            assert isinstance(caught.error, SessionCancelError)
        assert [message["sid"] for message in wire.sent] == [1, 2, 3]
        assert not session.closed


async def test_endings_without_a_turn_do_nothing_but_end() -> None:
    async with SessionManager().port("p", Wire()) as port:
        session = port.create()
        for deed in (session.cancel, session.abort, session.timeout):
            deed()
        assert not session.closed
        session.end()
        session.end()
        assert session.closed
        statistics = port.statistics()
        assert (statistics.cancelled, statistics.aborted, statistics.timed_out) == (0, 0, 0)


# -- the last look -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
async def test_a_reply_in_hand_beats_a_deadline_of_the_same_tick(
    autojump_clock: MockClock, pair: Callable[[], tuple[Any, Any]]
) -> None:
    here, there = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_echo(there, delay=1.0))
        async with SessionManager().port("p", here) as port, port.session() as session:
            for n in range(40):
                reply = await session.send({"n": n}, timeout=1.0)
                assert reply["n"] == n
            assert (port.statistics().timed_out, trio.current_time()) == (0, 40.0)


async def test_a_reply_dispatched_in_the_very_tick_of_the_deadline_counts_whoever_runs_first(
    autojump_clock: MockClock,
) -> None:
    for _ in range(20):
        async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:

            async def answer(port: Any = port) -> None:
                await trio.sleep(1)
                port.dispatch({"sid": 1, "ok": 1})

            nursery.start_soon(answer)
            assert (await port.request({}, timeout=1))["ok"] == 1


async def test_many_turns_with_one_deadline_each_get_the_reply_of_that_tick(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            requests = [await there.receive() for _ in range(40)]
            await trio.sleep(2 - trio.current_time())
            for request in requests:
                there.send_frame_now(request)

        nursery.start_soon(peer)
        async with SessionManager(session_timeout=2).port("p", here) as port:
            async with trio.open_nursery() as turns:
                for n in range(40):
                    turns.start_soon(port.request, {"n": n})
            assert (port.statistics().matched, port.statistics().timed_out) == (40, 0)


async def test_a_message_of_the_same_tick_beats_the_deadline_of_receive(autojump_clock: MockClock) -> None:
    here, there = plain_pair()
    async with SessionManager().port("p", here) as port, trio.open_nursery() as nursery:
        session = port.create()

        async def speak() -> None:
            await trio.sleep(1)
            await there.send({"sid": 1, "n": 1})

        for _ in range(1):
            nursery.start_soon(speak)
            assert (await session.receive(timeout=1))["n"] == 1


async def test_a_turn_cancelled_in_the_tick_of_its_deadline_leaves_no_silence_for_the_next(
    autojump_clock: MockClock,
) -> None:
    async with SessionManager(Wire()).port("p") as port, port.session() as session:
        for _ in range(20):
            start = trio.current_time()
            with trio.move_on_after(1):
                with pytest.raises(SessionTimeoutError):
                    await session.send({}, timeout=1)
            with pytest.raises(SessionTimeoutError):
                await session.send({}, timeout=5)
            assert trio.current_time() == start + 6


async def test_two_deadlines_of_one_turn_at_the_same_moment_end_it_once_and_not_the_next_turn(
    autojump_clock: MockClock,
) -> None:
    calls: list[float] = []

    async def sender(message: object) -> None:
        calls.append(trio.current_time())
        if len(calls) == 1:
            raise ConnectionError

    # The first attempt would wait until 0 + 1 + 2; it fails at once, and the second waits until 0 + 2 + 1.
    async with SessionManager().port("p", sender) as port, port.session() as session:
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=1, retry_count=1, retry_interval=2, retry_on=(ConnectionError,))
        assert (calls, trio.current_time()) == ([0.0, 2.0], 3.0)
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=5)
        assert trio.current_time() == 8.0


async def test_a_failed_attempts_old_deadline_does_not_end_a_later_wait(autojump_clock: MockClock) -> None:
    calls: list[float] = []

    async def sender(message: object) -> None:
        calls.append(trio.current_time())
        if len(calls) == 1:
            raise ConnectionError

    for timeout, interval in [(1.0, 2.0), (2.0, 2.0), (3.0, 1.0), (4.0, 4.0), (0.5, 8.0)]:
        calls.clear()
        start = trio.current_time()
        async with SessionManager().port("p", sender) as port:
            with pytest.raises(SessionTimeoutError) as caught:
                await port.request(
                    {}, timeout=timeout, retry_count=2, retry_interval=interval, retry_on=(ConnectionError,)
                )
        # The first attempt fails at once; its pause, then timeout, pause, timeout.
        assert calls == [start, start + interval, start + 2 * interval + timeout]
        assert trio.current_time() - start == 2 * interval + 2 * timeout
        assert caught.value.attempts == 3


# -- after an unanswered turn ------------------------------------------------------------------------------------------


async def unanswered(session: Session) -> None:
    """A turn of a second that nobody answers."""
    with pytest.raises(SessionTimeoutError):
        await session.send({"first": True}, timeout=1)


async def test_fresh_takes_another_number_and_the_old_one_rests(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(session_id_rest=60).port("p", wire) as port, port.session() as session:
        await unanswered(session)
        assert (session.sid, port.statistics().resting) == (1, 0)
        await unanswered(session)
        assert (session.sid, port.statistics().resting) == (2, 1)
        assert port.get_session({"sid": 1}) is None
        assert port.get_session({"sid": 2}) is session
        assert [message["sid"] for message in wire.sent] == [1, 2]


async def test_fresh_keeps_the_number_while_every_turn_is_answered() -> None:
    echo = Echo()
    async with SessionManager(echo).port("p") as port, port.session() as session:
        echo.port = port
        for _ in range(5):
            await session.send({})
        assert [message["sid"] for message in echo.sent] == [1] * 5


async def test_keep_sends_again_with_the_same_number(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(on_unanswered="keep").port("p", wire) as port, port.session() as session:
        await unanswered(session)
        await unanswered(session)
        assert [message["sid"] for message in wire.sent] == [1, 1]


async def test_end_ends_the_session(autojump_clock: MockClock) -> None:
    async with SessionManager(on_unanswered="end").port("p", Wire()) as port:
        session = port.create()
        await unanswered(session)
        assert session.closed
        with pytest.raises(SessionInvalidError, match="not answered"):
            await session.send({})
        assert port.statistics().resting == 1


@pytest.mark.parametrize("policy", ["fresh", "end"])
async def test_a_turn_cancelled_by_its_caller_counts_as_unanswered(autojump_clock: MockClock, policy: Any) -> None:
    async with SessionManager(on_unanswered=policy).port("p", Wire()) as port, port.session() as session:
        with trio.move_on_after(1):
            await session.send({})
        assert session.closed == (policy == "end")
        if policy == "fresh":
            await unanswered(session)
            assert session.sid == 2


async def test_a_turn_that_was_never_sent_leaves_its_number_safe(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager().port("p", here) as port, port.session() as busy, trio.open_nursery() as nursery:
        nursery.start_soon(busy.post, {"blocks": "the writer"})
        await settle()
        async with port.session() as session:
            await unanswered(session)
            assert session._live.dialogue.owed == 0
            nursery.start_soon(there.receive)
            await settle()
            nursery.start_soon(serve_echo, there)
            assert (await session.send({"second": True}))["second"]
            assert session.sid == 2
        await there.aclose()


async def test_a_session_without_a_safe_number_waits_for_one_at_its_exact_moment(autojump_clock: MockClock) -> None:
    sent: list[tuple[float, int]] = []
    manager = SessionManager(session_ids=range(1, 2), session_id_rest=20)
    async with manager.port("p", lambda message: sent.append((trio.current_time(), message["sid"]))) as port:
        session = port.create(timeout=30)
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=1)
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=30)
        assert sent == [(0.0, 1), (21.0, 1)]
        with pytest.raises(SessionTimeoutError, match="not sent"):
            await session.send({}, timeout=5)
        assert (len(sent), trio.current_time()) == (2, 56.0)


async def test_a_session_that_waits_for_a_safe_number_takes_one_that_is_freed_meanwhile(
    autojump_clock: MockClock,
) -> None:
    sent: list[tuple[float, int]] = []
    manager = SessionManager(session_ids=range(1, 3), session_id_rest=60, session_timeout=30)
    async with (
        manager.port("p", lambda message: sent.append((trio.current_time(), message["sid"]))) as port,
        trio.open_nursery() as nursery,
    ):
        other, session, caught = port.create(), port.create(), Caught()
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=1)
        nursery.start_soon(caught.run, session.send, {})
        await trio.sleep(4)
        other.end()
        await settle()
        assert sent == [(0.0, 2), (5.0, 1)]
        session.end()


async def test_a_late_reply_to_a_session_whose_number_rests_in_its_hands_is_no_reply(autojump_clock: MockClock) -> None:
    manager = SessionManager(session_ids=range(1, 2), session_id_rest=20, session_timeout=30)
    async with manager.port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, caught = port.create(), Caught()
        with pytest.raises(SessionTimeoutError):
            await session.send({"n": 1}, timeout=1)
        nursery.start_soon(caught.run, session.send, {"n": 2})
        await trio.sleep(5)
        port.dispatch({"sid": 1, "n": 1})
        await settle()
        assert caught.at is None
        await trio.sleep(20)
        port.dispatch({"sid": 1, "n": 2})
        await settle()
        assert caught.value["n"] == 2


async def test_a_number_borrowed_while_it_rests_goes_on_resting_when_its_borrower_ends(
    autojump_clock: MockClock,
) -> None:
    sent: list[float] = []
    manager = SessionManager(session_ids=range(1, 2), session_id_rest=20)
    async with manager.port("p", lambda message: sent.append(trio.current_time())) as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1)
        for _ in range(3):
            port.create().end()
            assert port.statistics().resting == 1
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=30)
        assert sent == [0.0, 21.0]


@pytest.mark.parametrize("policy", ["fresh", "keep"])
async def test_a_recycled_sessions_late_reply_never_answers_the_next_owner_of_its_number(
    autojump_clock: MockClock, policy: Any
) -> None:
    manager = SessionManager(session_ids=range(1, 2), on_unanswered=policy, session_id_rest=20, session_timeout=50)
    async with manager.port("p", Wire()) as port, trio.open_nursery() as nursery:
        first, second = Caught(), Caught()
        nursery.start_soon(first.run, port.create().send, {"token": "first"})
        await trio.sleep(1)
        owner = port.create()
        nursery.start_soon(second.run, owner.send, {"token": "second"})
        await trio.sleep(1)
        port.dispatch({"sid": owner.sid, "token": "first"})
        await settle()
        assert isinstance(first.error, SessionCancelError)
        assert second.value is None


# -- inbox -------------------------------------------------------------------------------------------------------------


async def test_a_session_that_is_flooded_fails_alone() -> None:
    async with SessionManager(inbox_limit=3).port("p", Wire()) as port:
        flooded, other = port.create(), port.create()
        for n in range(4):
            port.dispatch({"sid": 1, "n": n})
        port.dispatch({"sid": 2, "n": 9})
        assert (flooded.closed, other.closed, port.statistics().overrun) == (True, False, 1)
        for _ in range(2):
            with pytest.raises(SessionOverrunError, match="inbox_limit"):  # and what it held is gone
                await flooded.receive()
        with pytest.raises(SessionOverrunError):
            await flooded.send({})
        assert (await other.receive())["n"] == 9


async def test_iterating_over_a_flooded_session_ends_with_its_error() -> None:
    async with SessionManager(inbox_limit=2).port("p", Wire()) as port:
        session = port.create()
        port.dispatch({"sid": 1, "n": 0})
        seen = []
        with pytest.raises(SessionOverrunError):  # noqa: PT012 - what was received before counts
            async for message in session:
                seen += [message["n"]]
                for n in range(1, 4):
                    port.dispatch({"sid": 1, "n": n})
        assert seen == [0]


async def test_receive_times_out_at_its_exact_moment_and_cancelling_it_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    async with SessionManager().port("p", Wire()) as port, port.session() as session:
        with pytest.raises(SessionTimeoutError):
            await session.receive(timeout=2.5)
        assert trio.current_time() == 2.5
        with trio.move_on_after(1):
            await session.receive()
        port.dispatch({"sid": 1, "n": 1})
        assert (await session.receive(timeout=0))["n"] == 1
        with pytest.raises(SessionTimeoutError):
            await session.receive(timeout=0)


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (float("nan"), ValueError), (True, TypeError), ("1", TypeError)]
)
async def test_a_bad_duration_is_refused_before_anything_is_sent(value: Any, error: type[Exception]) -> None:
    wire = Wire()
    async with SessionManager(wire).port("p") as port, port.session() as session:
        with pytest.raises(error, match="timeout"):
            await session.receive(timeout=value)
        for use in (session.send, port.request):
            with pytest.raises(error, match="timeout"):
                await use({}, timeout=value)
            with pytest.raises(error, match="retry_interval"):
                await use({}, retry_interval=value)
            with pytest.raises((ValueError, TypeError), match="retry_count"):
                await use({}, retry_count=value)
    assert wire.sent == []


async def test_async_for_stops_when_the_session_is_ended_after_giving_out_what_had_come() -> None:
    async with SessionManager().port("p", Wire()) as port:
        session = port.create()
        for n in range(3):
            port.dispatch({"sid": 1, "n": n})
        session.end()
        assert [message["n"] async for message in session] == [0, 1, 2]
        assert [message async for message in session] == []


async def test_a_reply_goes_to_the_turn_and_everything_else_to_the_inbox() -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, caught = port.create(), Caught()
        port.dispatch({"sid": 1, "n": "before"})
        nursery.start_soon(caught.run, session.send, {})
        await settle()
        port.dispatch({"sid": 1, "n": "reply"})
        port.dispatch({"sid": 1, "n": "after"})
        await settle()
        assert caught.value["n"] == "reply"
        assert [(await session.receive())["n"] for _ in range(2)] == ["before", "after"]


async def test_next_gives_a_message_by_hand() -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, caught = port.create(), Caught()
        nursery.start_soon(caught.run, session.send, {})
        await settle()
        session.next({"any": "thing"})
        session.next({"second": 1})
        await settle()
        assert caught.value == {"any": "thing"}
        assert await session.receive() == {"second": 1}


# -- from inside a handler ---------------------------------------------------------------------------------------------


async def test_a_handler_asks_back_in_the_session_that_the_peer_opened() -> None:
    async def handle(session: Session) -> None:
        order = await session.receive()
        answer = await session.send({"status": "needPassword"})
        await session.post({"status": "ok", "order": order["command"], "password": answer["password"]})

    here, there = memory_pair()
    client, server = SessionManager(), SessionManager(on_session=handle)
    async with server.port("client", there) as served, client.port("server", here) as port:
        async with port.session() as session:
            assert (await session.send({"command": "turnOnLight"}))["status"] == "needPassword"
            done = await session.send({"password": "123456"})
        assert (done["status"], done["order"], done["password"]) == ("ok", "turnOnLight", "123456")
        await settle()
        assert (served.statistics().accepted, dict(served.sessions)) == (1, {})
    assert_empty(client, port)
    assert_empty(server, served)


async def test_a_peers_session_whose_turn_was_not_answered_refuses_the_next_one(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def handle(session: Session) -> None:
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=1)
        with pytest.raises(SessionInvalidError, match="open a new session"):
            await session.send({}, timeout=1)
        await session.post({"still": "posts"})
        seen.append(trio.current_time())

    wire = Wire()
    async with SessionManager(wire, on_session=handle).port("p") as port:
        port.dispatch({"sid": 5})
        await trio.sleep(5)
        assert (seen, len(wire.sent)) == ([1.0], 2)


# -- messages and endings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [None, 5, "text", [1, 2], object(), [("a", 1)]])
async def test_what_is_no_message_is_refused_and_the_session_lives(message: object) -> None:
    echo = Echo()
    async with SessionManager(echo).port("p") as port, port.session() as session:
        echo.port = port
        for use in (session.send, session.post, port.request):
            with pytest.raises(MalformedMessageError, match="object"):
                await use(message)
        assert (await session.send({"n": 1}))["n"] == 1
        assert len(port.sessions) == 1


async def test_an_error_of_encoding_reaches_its_own_caller_and_nobody_else() -> None:
    here, there = memory_pair()

    def encode(message: dict[str, Any]) -> dict[str, Any]:
        if "bad" in message:
            raise MessageError("cannot travel")
        return message

    here.encode = encode  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, there)
        async with SessionManager().port("p", here) as port, port.session() as session:
            for use in (session.send, session.post, port.request, port.post):
                with pytest.raises(MessageError):
                    await use({"bad": 1})
            assert (await session.send({"n": 1}))["n"] == 1


async def test_a_session_is_its_own_context_manager_sync_and_async() -> None:
    async with SessionManager(Wire()).port("p") as port:
        with port.create() as first:
            assert not first.closed
        async with port.create() as second:
            assert not second.closed
        assert first.closed
        assert second.closed
        assert_idle(port)


async def test_a_synchronous_senders_reply_still_lets_other_tasks_run() -> None:
    echo = Echo()
    async with SessionManager(echo).port("p") as port, port.session() as session:
        echo.port = port
        with trio.testing.assert_checkpoints():
            await session.send({})
        with trio.testing.assert_checkpoints():
            await port.request({})


async def test_the_senders_own_end_of_the_session_is_the_turns_end() -> None:
    async with SessionManager(lambda message: session.end()).port("p") as port:
        session = port.create()
        with pytest.raises(SessionCancelError):
            await session.send({})
        assert_idle(port)
