"""Many replies to one turn: how it ends, who may leave it early, and what a peer without streams makes of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    MalformedMessageError,
    Port,
    PortClosedError,
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionInvalidError,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import memory_pair

from .peers import Caught, Wire, settle
from .streams import EXACT, all_of, consume, count_up, numbers, post_many, two_ports, wired
from .tables import assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable


# -- how it ends ------------------------------------------------------------------------------------------------------


async def test_replies_come_until_the_handler_takes_its_next_message(autojump_clock: trio.testing.MockClock) -> None:
    async with two_ports(count_up) as (port, _), port.session() as session:
        for to in (3, 1, 100):
            async with session.stream({"to": to, "every": 1}) as replies:
                assert numbers([reply async for reply in replies]) == list(range(1, to + 1))
    assert trio.current_time() == 104.0


async def test_a_session_is_idle_once_the_last_reply_is_taken_however_long_ago_that_came(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ports(count_up) as (port, _), port.session(session_max_life=50) as session:
        async with session.stream({"to": 3, "every": 0}) as replies:
            for number in (1, 2, 3):
                await trio.sleep(100)
                assert await anext(replies) == {"number": number}
        await trio.sleep(49)
        assert await session.send({"to": 1, "every": 0}) == {"number": 1}
        await trio.sleep(51)
        with pytest.raises(SessionInvalidError, match="idle"):
            await session.send({"to": 1, "every": 0})


async def test_replies_come_until_the_handler_returns() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        await session.post({"number": 2})

    async with two_ports(handler) as (port, _):
        assert await all_of(port, {}) == [1, 2]


@pytest.mark.parametrize(("last", "got"), [(None, [1]), ({"number": 2}, [1, 2]), ({}, [1, None])])
async def test_replies_come_until_the_handler_calls_finish(
    last: Any, got: list[int | None], autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        await session.finish(last)
        await trio.sleep(5)

    async with two_ports(handler) as (port, _), port.session() as session:
        async with session.stream({}) as replies:
            assert [reply.get("number") async for reply in replies] == got
        assert trio.current_time() == 0.0


async def test_a_handler_that_says_nothing_makes_an_empty_stream() -> None:
    async with two_ports(count_up) as (port, _):
        assert await all_of(port, {"to": 0}) == []


async def test_in_an_ordinary_turn_finish_is_the_answer() -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            await session.finish({"echo": message["q"]})
            await session.finish()

    async with two_ports(handler) as (port, _), port.session() as session:
        assert (await session.send({"q": 1}))["echo"] == 1
        assert (await session.send({"q": 2}))["echo"] == 2


async def test_a_handler_need_not_know_whether_it_is_asked_for_one_reply_or_many() -> None:
    async with two_ports(count_up) as (port, _):
        assert (await port.request({"to": 1}))["number"] == 1
        assert await all_of(port, {"to": 1}) == [1]


async def test_no_more_replies_come_than_are_wanted() -> None:
    async with two_ports(count_up) as (port, answerer):
        assert await all_of(port, {"to": 50}, count=3) == [1, 2, 3]
        await settle()
        assert answerer.statistics().given_up == 1
        assert_idle(port)


async def test_who_wants_as_many_as_there_are_gives_nothing_up() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        await session.finish({"number": 2})

    async with two_ports(handler) as (port, answerer):
        assert await all_of(port, {}, count=2) == [1, 2]
        await settle()
        assert answerer.statistics().given_up == 0


@pytest.mark.parametrize(("retries", "seconds"), [(0, 3.0), (2, 10.0)])
async def test_silence_is_a_timeout_when_all_attempts_are_over(
    retries: int, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with wired() as (port, wire):
        with pytest.raises(SessionTimeoutError) as caught:
            await all_of(port, {}, timeout=3, retry_count=retries, retry_interval=0.5)
        assert trio.current_time() == seconds
        assert (caught.value.attempts, caught.value.outcome) == (retries + 1, "sent")
        assert [message["_part"] for message in wire.sent if "_part" in message] == [1] * (retries + 1)
        assert wire.sent[-1]["_error"] == "timeout"
        assert port.statistics().timed_out == 1
        assert_idle(port)


async def test_each_reply_begins_the_quiet_time_anew(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        for number in (1, 2, 3):
            await trio.sleep(2)
            await session.post({"number": number})
        await trio.sleep(100)

    async with two_ports(handler) as (port, _), port.stream({}, timeout=3) as replies:
        assert [(await replies.receive())["number"] for _ in range(3)] == [1, 2, 3]
        with pytest.raises(SessionTimeoutError, match="after the first 3"):
            await replies.receive()
        assert trio.current_time() == 9.0


async def test_the_time_that_the_application_takes_is_not_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with wired() as (port, wire), port.stream({}, timeout=3) as replies:
        port.dispatch({"sid": wire.sent[0]["sid"], "_re": 1, "_part": 1})
        await replies.receive()
        await trio.sleep(100)
        with pytest.raises(SessionTimeoutError):
            await replies.receive()
        assert trio.current_time() == 103.0


async def test_a_receive_that_is_cancelled_does_not_begin_the_quiet_time_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as (port, _), port.stream({}, timeout=3) as replies:
        for _ in range(2):
            with trio.move_on_after(1):
                await replies.receive()
        with pytest.raises(SessionTimeoutError):
            await replies.receive()
        assert trio.current_time() == 3.0


async def test_progress_extends_the_quiet_time(autojump_clock: trio.testing.MockClock) -> None:
    async with two_ports(count_up) as (port, _):
        assert await all_of(port, {"to": 1, "every": 5}, timeout=1, retry_count=4, retry_interval=0) == [1]
        assert trio.current_time() == 5.0


@pytest.mark.parametrize("every", [1.0, 30.0])
async def test_nothing_extends_the_total_time(every: float, autojump_clock: trio.testing.MockClock) -> None:
    async with two_ports(count_up) as (port, answerer):
        async with port.stream({"to": 100, "every": every}, timeout=2, retry_count=math.inf, total=9.5) as replies:
            with pytest.raises(SessionTimeoutError, match=r"not over in 9\.5 s"):
                async for _ in replies:
                    pass
        assert trio.current_time() == 9.5
        await settle()
        assert (len(answerer.sessions), answerer._engine.connection.handlers) == (0, 0)


async def test_a_request_says_the_total_and_no_other_time(autojump_clock: trio.testing.MockClock) -> None:
    async with wired() as (port, wire):
        with trio.move_on_after(2):
            await all_of(port, {}, total=7, timeout=1, retry_count=1, retry_interval=0)
        assert [message["_wait"] for message in wire.sent[:2]] == [7, 6]
        with trio.move_on_after(1):
            await all_of(port, {})
        assert "_wait" not in wire.sent[3]


async def test_replies_in_hand_beat_the_total_time_and_later_ones_do_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as (port, wire), port.stream({}, total=5) as replies:
        sid = wire.sent[0]["sid"]
        port.dispatch({"sid": sid, "_re": 1, "_part": 1, "number": 1})
        await trio.sleep(6)
        port.dispatch({"sid": sid, "_re": 1, "_part": 2, "number": 2})
        assert (await replies.receive())["number"] == 1
        with pytest.raises(SessionTimeoutError):
            await replies.receive()
        assert port.statistics().late == 1


async def test_a_handler_that_raises_ends_the_stream_after_the_replies_before_it() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        await session.post({"number": 2})
        raise SessionRefusedError("no more", code="tired")

    got: list[Any] = []
    async with two_ports(handler) as (port, answerer):
        async with port.stream({}) as replies:
            with pytest.raises(SessionRemoteError, match="no more") as caught:
                await consume(replies, got)
            assert caught.value.code == "refused.tired"
            with pytest.raises(SessionRemoteError):
                await replies.receive()
        assert numbers(got) == [1, 2]
        await settle()
        assert answerer.statistics().given_up == 0


async def test_a_session_that_ends_in_the_middle_is_an_error_and_no_end() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        session.end()

    async with two_ports(handler) as (port, _):
        with pytest.raises(SessionRemoteError) as caught:
            await all_of(port, {})
        assert caught.value.code == "unanswered"


async def test_a_total_that_is_over_at_once_asks_and_waits_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    async with wired() as (port, _):
        async with port.stream({}, total=0) as replies:
            with pytest.raises(SessionTimeoutError):
                await replies.receive()
        assert trio.current_time() == 0.0
        assert_idle(port)


async def test_a_reply_at_the_very_deadline_counts(autojump_clock: trio.testing.MockClock) -> None:
    here, there = memory_pair()

    async def answer() -> None:
        sid = (await there.receive())["sid"]
        for part in (1, 2):
            await trio.sleep(3)
            await there.send({"sid": sid, "_re": 1, "_part": part, "_end": part == 2, "number": part})

    async with SessionManager(dialect=EXACT).port("asker", here) as port, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with port.stream({}, timeout=3, total=6) as replies:
            assert [reply["number"] async for reply in replies] == [1, 2]
        assert trio.current_time() == 6.0


async def test_a_send_in_the_block_waits_for_the_end_of_the_stream_and_may_be_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        two_ports(count_up) as (port, _),
        port.session() as session,
        session.stream({"every": 9}) as one,
    ):
        with trio.move_on_after(2) as scope:
            await session.send({})
        assert scope.cancelled_caught
        assert numbers([reply async for reply in one]) == [1, 2, 3]


# -- leaving early ----------------------------------------------------------------------------------------------------


async def test_leaving_the_block_tells_the_peer_once_and_cancels_its_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cancelled: list[float] = []

    async def handler(session: Session) -> None:
        await session.receive()
        try:
            for number in range(1, 100):
                await session.post({"number": number})
                await trio.sleep(1)
        except trio.Cancelled:
            cancelled.append(trio.current_time())
            raise

    async with two_ports(handler) as (port, answerer):
        async with port.session() as session:
            async with session.stream({}) as replies:
                await replies.receive()
                await trio.sleep(0.5)
                await replies.aclose()
                await replies.aclose()
                with pytest.raises(trio.ClosedResourceError):
                    await replies.receive()
            await settle()
            assert cancelled == [0.5]
            assert answerer.statistics().given_up == 1
            async with session.stream({}) as replies:
                await replies.receive()
        await settle()
        assert cancelled == [0.5, 0.5]


async def test_a_peer_that_ends_the_stream_and_the_session_in_one_breath_ends_it_here() -> None:
    async with wired() as (port, wire):
        session = port.create()
        for last in (False, True):
            async with session.stream({}) as replies:
                common = {"sid": session.sid, "_re": wire.sent[-1]["_turn"], "_life": wire.sent[-1]["_life"]}
                port.dispatch({**common, "number": 1, "_part": 1, "_end": True})
                if last:
                    port.dispatch({**common, "_error": "ended", "_end": True})
                assert numbers([reply async for reply in replies]) == [1]
        assert session.closed
        assert len(wire.sent) == 2
        assert_idle(port)


async def test_leaving_says_why(autojump_clock: trio.testing.MockClock) -> None:
    async with wired() as (port, wire), port.session() as session:
        async with session.stream({}):
            pass
        with pytest.raises(ZeroDivisionError):
            async with session.stream({}):
                raise ZeroDivisionError
        with trio.move_on_after(1):
            async with session.stream({}) as replies:
                await replies.receive()
        codes = [message["_error"] for message in wire.sent if "_error" in message]
        assert codes == ["ended", "aborted", "cancelled"]
        assert all(message["_new"] for message in wire.sent if "_credit" in message)


async def test_a_stream_is_a_turn_that_a_send_waits_for(autojump_clock: trio.testing.MockClock) -> None:
    async with two_ports(count_up) as (port, _), port.session() as session, trio.open_nursery() as nursery:
        sent = Caught()
        async with session.stream({"to": 5, "every": 1}) as replies:
            nursery.start_soon(sent.run, session.send, {"to": 1})
            assert numbers([reply async for reply in replies]) == [1, 2, 3, 4, 5]
        await settle()
        assert sent.value["number"] == 1


async def test_a_stream_waits_for_the_send_before_it(autojump_clock: trio.testing.MockClock) -> None:
    async with two_ports(count_up) as (port, _), port.session() as session, trio.open_nursery() as nursery:
        nursery.start_soon(session.send, {"to": 1, "every": 4})
        await settle()
        async with session.stream({"to": 2, "every": 1}) as replies:
            assert numbers([reply async for reply in replies]) == [1, 2]
        assert trio.current_time() == 6.0


async def test_the_block_may_send_once_the_stream_is_over() -> None:
    async with two_ports(count_up) as (port, _), port.session() as session, session.stream({}) as replies:
        async for _ in replies:
            pass
        assert (await session.send({"to": 1}))["number"] == 1


@pytest.mark.parametrize(
    ("give_up", "error"),
    [
        (Session.cancel, SessionCancelError),
        (Session.timeout, SessionTimeoutError),
        (Session.abort, SessionAbortError),
        (Session.end, SessionCancelError),
    ],
)
async def test_what_gives_a_send_up_gives_a_stream_up(
    give_up: Callable[[Session], None], error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    message = {"to": 100, "every": 1}
    async with two_ports(count_up) as (port, _), port.session() as session, session.stream(message) as replies:
        await trio.sleep(2.5)
        give_up(session)
        assert [(await replies.receive())["number"] for _ in range(2)] == [1, 2]
        with pytest.raises(error):
            await replies.receive()


# -- other peers ------------------------------------------------------------------------------------------------------


async def test_in_the_classic_dialect_it_says_what_it_needs() -> None:
    async with SessionManager().port("classic", Wire()) as port:
        with pytest.raises(SessionInvalidError, match=r"dialect=psession\.Exact\(\)"):
            port.stream({})
        with port.create() as session, pytest.raises(SessionInvalidError, match=r"dialect=psession\.Exact\(\)"):
            session.stream({})


@pytest.mark.parametrize("reply", [{}, {"_re": 1}, {"_re": 1, "_end": True}])
async def test_the_reply_of_a_peer_that_knows_no_streams_is_the_only_one(reply: dict[str, Any]) -> None:
    async with wired() as (port, wire), port.session() as session, session.stream({}) as replies:
        port.dispatch({"sid": session.sid, "number": 1, **reply})
        port.dispatch({"sid": session.sid, "number": 2, **reply})
        assert numbers([reply async for reply in replies]) == [1]
        assert len(wire.sent) == 1


async def test_an_error_without_a_place_ends_the_stream_after_what_is_there() -> None:
    async with wired() as (port, _), port.session() as session, session.stream({}) as replies:
        port.dispatch({"sid": session.sid, "_re": 1, "_part": 1, "number": 1})
        port.dispatch({"sid": session.sid, "_re": 1, "_part": 3, "number": 3})
        port.dispatch({"sid": session.sid, "_re": 1, "_error": "forgotten"})
        assert (await replies.receive())["number"] == 1
        with pytest.raises(SessionRemoteError, match="forgotten"):
            await replies.receive()


async def test_the_peer_that_is_gone_in_the_middle_is_an_error_after_what_came() -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=EXACT).port("asker", here) as port, port.stream({}) as replies:
        sid = (await there.receive())["sid"]
        await there.send({"sid": sid, "_re": 1, "_part": 1, "number": 1})
        await there.aclose()
        await settle()
        assert (await replies.receive())["number"] == 1
        with pytest.raises(PortClosedError):
            await replies.receive()
        assert_idle(port)


async def test_leaving_the_port_in_the_middle_ends_the_stream_on_both_sides(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def consume(port: Port) -> None:
        async with port.stream({"to": 100, "every": 1}) as replies:
            async for _ in replies:
                pass

    caught = Caught()
    async with trio.open_nursery() as nursery, two_ports(count_up) as (port, answerer):
        nursery.start_soon(caught.run, consume, port)
        await trio.sleep(2.5)
        port.close()
        await settle()
        assert (answerer.sessions, answerer._engine.connection.handlers) == ({}, 0)
    assert isinstance(caught.error, SessionAbortError)


async def test_a_handler_that_waits_for_credit_is_cancelled_with_its_port() -> None:
    async with two_ports(count_up) as (port, answerer), port.stream({"to": 100}, credit=1):
        await settle()
        answerer.close()
        await settle()
        assert answerer._engine.connection.handlers == 0


async def test_the_handler_may_ask_in_the_middle_of_a_stream() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"number": 1})
        answer = await session.send({"question": "how many"})
        await session.post({"number": answer["number"]})

    async with two_ports(handler) as (port, _), port.session() as session, session.stream({}) as replies:
        assert (await replies.receive())["number"] == 1
        assert (await session.receive())["question"] == "how many"
        await session.post({"number": 7})
        assert numbers([reply async for reply in replies]) == [7]


async def test_a_handler_may_ask_its_opener_for_many_replies() -> None:
    heard: list[int] = []

    async def handler(session: Session) -> None:
        await session.receive()
        async with session.stream({"to": 5}, credit=2) as replies:
            heard.extend(numbers([reply async for reply in replies]))
        await session.post({"heard": len(heard)})

    async with two_ports(handler) as (port, _), port.session() as session:
        question = await session.send({})
        for number in range(1, question["to"] + 1):
            await session.post({"number": number})
        async with trio.open_nursery() as nursery:
            await session.finish()
            nursery.start_soon(session.receive)
            await settle()
            session.end()
            nursery.cancel_scope.cancel()
    assert heard == [1, 2, 3, 4, 5]


async def test_the_opener_whose_handler_gives_the_stream_up_may_post_no_more_of_it() -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        async with session.stream({}, credit=2) as replies:
            await replies.receive()
        await trio.sleep_forever()

    async with two_ports(handler) as (port, _), port.session() as session:
        await session.send({})
        with pytest.raises(SessionCancelError, match="the peer gave the turn up"):
            await post_many(session)
        assert not session.closed


# -- the rest ---------------------------------------------------------------------------------------------------------


async def test_one_task_at_a_time_receives() -> None:
    async with wired() as (port, _), port.stream({}) as replies, trio.open_nursery() as nursery:
        nursery.start_soon(replies.receive)
        await settle()
        with pytest.raises(trio.BusyResourceError):
            await replies.receive()
        nursery.cancel_scope.cancel()


async def test_a_stream_is_entered_before_it_is_read_and_once() -> None:
    async with wired() as (port, _):
        replies = port.stream({})
        with pytest.raises(trio.ClosedResourceError):
            await replies.receive()
        async with replies:
            with pytest.raises(RuntimeError, match="once"):
                await replies.__aenter__()
        assert "over" in repr(replies)
        assert_idle(port)


@pytest.mark.parametrize(
    "options", [{"total": -1}, {"count": 0}, {"credit": 0}, {"credit": 2**53}, {"timeout": "1"}, {"retries": 3}]
)
async def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    async with wired() as (port, _):
        with pytest.raises((TypeError, ValueError)):
            port.stream({}, **options)


async def test_a_message_that_cannot_travel_leaves_nothing() -> None:
    async with wired() as (port, _):
        with pytest.raises(MalformedMessageError):
            async with port.stream(3):
                raise AssertionError
        assert_idle(port)


async def test_a_sender_that_fails_is_tried_again_where_the_session_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sent: list[Any] = []

    def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 1:
            raise OSError("no carrier")

    async with SessionManager(dialect=EXACT).port("asker", send, retry_on=(OSError,)) as port:
        async with port.session() as session, session.stream({}, timeout=1, retry_count=1, retry_interval=0) as replies:
            with trio.move_on_after(1.5):
                await replies.receive()
            assert len(sent) == 2
            port.dispatch({"sid": session.sid, "_re": 1, "_part": 1, "_end": True, "number": 1})
            assert numbers([reply async for reply in replies]) == [1]
        sent.clear()
        with pytest.raises(OSError, match="no carrier"):
            await all_of(port, {}, retry_count=0)
        assert_idle(port)
