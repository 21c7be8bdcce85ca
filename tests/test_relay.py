"""`Relay`: what one peer asks goes on to another, whole, and what became of it comes back as it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    Classic,
    Dialect,
    Exact,
    Port,
    Relay,
    SessionError,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import lines, memory_pair
from psession.dialects import JsonRpc

from .peers import settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from psession import Session

WIRES: dict[str, Dialect] = {"classic": Classic(), "exact": Exact()}


class Chain:
    """A user, a gateway and a device, each with its ports."""

    user: Port
    to_device: Port
    device: Port


@asynccontextmanager
async def chain(
    device_wire: Dialect = WIRES["exact"], user_wire: Dialect = WIRES["exact"], **device: Any
) -> AsyncIterator[Chain]:
    """The user's port reaches the device by a relay; all is empty when it is left."""
    users, gateway, devices = (
        SessionManager(dialect=user_wire, session_timeout=5),
        SessionManager(dialect=device_wire, session_timeout=3),
        SessionManager(dialect=device_wire, **device),
    )
    user_end, gateway_end = memory_pair()
    onward_end, device_end = memory_pair()
    made = Chain()
    async with (
        devices.port("gateway", device_end) as made.device,
        gateway.port("device", onward_end) as made.to_device,
    ):
        relay = Relay(made.to_device)
        async with (
            gateway.port(
                "user",
                gateway_end,
                dialect=user_wire,
                on_request=relay.request,
                on_session=relay.session,
                on_message=relay.message,
                error_reply=lambda error: {"error": str(error)},
            ) as towards_user,
            users.port("gateway", user_end) as made.user,
        ):
            yield made
            await settle()
            if user_wire.asks_exactly:  # no word of the classic wire says that a session is over
                assert towards_user._engine.connection.handlers == 0
                assert dict(made.to_device.sessions) == {}
    for manager in (users, gateway, devices):
        assert_empty(manager)


async def twice(message: Any) -> Any:
    return {"twice": 2 * message["n"]}


@pytest.mark.parametrize("device_wire", [*WIRES])
@pytest.mark.parametrize("user_wire", [*WIRES])
async def test_a_question_goes_on_and_its_answer_back(
    device_wire: str, user_wire: str, autojump_clock: MockClock
) -> None:
    async def answer(session: Session) -> None:
        async for message in session:
            await session.post({"twice": 2 * message["n"]})

    async with chain(WIRES[device_wire], WIRES[user_wire], on_session=answer) as made:
        assert await made.user.request({"n": 4}) == {"twice": 8}
        async with made.user.session() as session:
            assert [await session.send({"n": n}) for n in range(3)] == [{"twice": 0}, {"twice": 2}, {"twice": 4}]
        await settle()


async def test_many_questions_at_once_each_get_their_own_answer(autojump_clock: MockClock) -> None:
    got: dict[int, Any] = {}

    async def answer(message: Any) -> Any:
        await trio.sleep(message["n"] % 7 / 100)
        return {"twice": 2 * message["n"]}

    async with chain(on_request=answer) as made, trio.open_nursery() as nursery:

        async def ask(n: int) -> None:
            got[n] = await made.user.request({"n": n})

        for n in range(200):
            nursery.start_soon(ask, n)
    assert got == {n: {"twice": 2 * n} for n in range(200)}


async def test_a_question_of_the_exact_wire_needs_no_task_at_the_gateway(autojump_clock: MockClock) -> None:
    may_answer = trio.Event()

    async def device(channel: trio.abc.Channel[Any]) -> None:
        asked: list[Any] = []
        while len(asked) < 51:
            message = await channel.receive()
            if "sid" in message:
                asked.append(message)
        await may_answer.wait()
        for said in asked:
            await channel.send({"n": said["n"], "sid": said["sid"], "_re": said["_turn"], "_life": said["_life"]})

    user_end, gateway_end = memory_pair()
    onward_end, device_end = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=30)
    got: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device, device_end)
        async with (
            manager.port("device", onward_end) as onward,
            manager.port("user", gateway_end, on_request=Relay(onward).request) as towards_user,
            manager.port("gateway", user_end) as user,
            trio.open_nursery() as askers,
        ):

            async def ask(n: int) -> None:
                got.append(await user.request({"n": n}))

            askers.start_soon(ask, 0)
            await settle()
            before = trio.lowlevel.current_statistics().tasks_living
            for n in range(1, 51):
                askers.start_soon(ask, n)
            await settle()
            most = before + 50 + 3  # those who ask, and the ports' writers
            assert trio.lowlevel.current_statistics().tasks_living <= most
            assert towards_user._engine.connection.handlers == 51
            may_answer.set()
    assert sorted(reply["n"] for reply in got) == list(range(51))


async def test_where_no_number_is_free_a_task_waits_for_one(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(1)
        return {"n": message["n"]}

    user_end, gateway_end = memory_pair()
    onward_end, device_end = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=30)
    got: list[Any] = []
    async with (
        manager.port("gateway", device_end, on_request=answer),
        manager.port("device", onward_end, session_ids=range(1, 3), on_session_overflow="wait") as onward,
        manager.port("user", gateway_end, on_request=Relay(onward).request),
        manager.port("the gateway", user_end) as user,
        trio.open_nursery() as nursery,
    ):

        async def ask(n: int) -> None:
            got.append(await user.request({"n": n}))

        for n in range(6):
            nursery.start_soon(ask, n)
    assert sorted(reply["n"] for reply in got) == list(range(6))
    assert trio.current_time() == pytest.approx(3)


async def test_the_answer_to_a_user_that_is_gone_is_wanted_no_more(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    async def answer(message: Any) -> Any:
        try:
            await trio.sleep_forever()
        finally:
            seen.append(message["n"])

    async def ask(user: Port, n: int) -> None:
        with pytest.raises(SessionError):
            await user.request({"n": n})

    user_end, gateway_end = memory_pair()
    onward_end, device_end = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=30)
    async with (
        manager.port("gateway", device_end, on_request=answer),
        manager.port("device", onward_end) as onward,
        manager.port("user", gateway_end, on_request=Relay(onward).request),
        trio.open_nursery() as nursery,
    ):
        async with manager.port("the gateway", user_end) as user:
            nursery.start_soon(ask, user, 1)
            nursery.start_soon(ask, user, 2)
            await settle()
        await settle()
        assert sorted(seen) == [1, 2]
        assert dict(onward.sessions) == {}
        assert trio.current_time() == 0


async def test_who_listens_at_the_gateway_is_told_of_what_is_passed_on(autojump_clock: MockClock) -> None:
    told: list[Any] = []

    async def answer(message: Any) -> Any:
        await trio.sleep(1)
        return {"ok": True}

    async with chain(on_request=answer) as made:
        with made.to_device.observe(told.append):
            await made.user.request({"n": 1})
    kinds = [type(event).__name__ for event in told]
    assert [kind for kind in kinds if kind.startswith("Turn")] == ["TurnStarted", "TurnAttempted", "TurnAnswered"]


async def test_what_the_device_refuses_its_asker_gets_as_refused(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        raise SessionRefusedError("the lamp is broken", code="broken")

    async def in_session(session: Session) -> None:
        await answer(await session.receive())

    for device in ({"on_request": answer}, {"on_session": in_session}):
        async with chain(**device) as made:
            for ask in (made.user.request, made.user.create().send):
                with pytest.raises(SessionRemoteError) as caught:
                    await ask({"n": 1})
                assert (caught.value.code, caught.value.text) == ("refused.broken", "the lamp is broken")
                assert caught.value.outcome == "refused"
            made.user.clear()
            for session in list(made.user.sessions.values()):
                session.end()


async def test_an_error_of_a_protocol_with_numbers_keeps_its_number_and_its_outcome(autojump_clock: MockClock) -> None:
    async def answer(call: Any) -> Any:
        raise SessionRefusedError("no such method", code=-32601)

    async with chain(JsonRpc(), on_request=answer) as made:
        with pytest.raises(SessionRemoteError, match="no such method") as caught:
            await made.user.request({"method": "sing"})
        assert (caught.value.code, caught.value.outcome) == ("refused.-32601", "refused")


async def test_a_handler_of_the_devices_that_fails_is_the_askers_error_with_the_outcome_sent(
    autojump_clock: MockClock,
) -> None:
    async def answer(message: Any) -> Any:
        raise KeyError("lamp")

    async with chain(on_request=answer) as made:
        with pytest.raises(SessionRemoteError) as caught:
            await made.user.request({"n": 1})
        assert (caught.value.code, caught.value.outcome) == ("crashed", "sent")


async def test_the_askers_time_reaches_the_device_and_so_does_its_giving_up(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    async def answer(message: Any) -> Any:
        await trio.sleep(0.1)  # by then its scope has the deadline
        seen.append(round(trio.current_effective_deadline() - trio.current_time(), 1))
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append(trio.current_time())
            raise

    async with chain(on_request=answer) as made:
        with pytest.raises(SessionTimeoutError) as caught:
            await made.user.request({"n": 1}, timeout=60)  # the gateway's own is 3 seconds
        assert caught.value.outcome == "sent"
        assert trio.current_time() == pytest.approx(60)
        with trio.move_on_after(2):
            await made.user.request({"n": 1}, timeout=20)
        await settle()
    assert seen == [59.9, pytest.approx(60, abs=0.1), 1.9, pytest.approx(62, abs=0.1)]


async def test_a_retry_of_the_askers_is_no_second_question_to_the_device(autojump_clock: MockClock) -> None:
    runs: list[Any] = []

    async def answer(message: Any) -> Any:
        runs.append(message)
        await trio.sleep(5)
        return {"ok": True}

    async with chain(on_request=answer) as made:
        assert await made.user.request({"n": 1}, timeout=1, retry_count=9) == {"ok": True}
    assert runs == [{"n": 1}]


async def test_with_options_of_its_own_the_relay_asks_again(autojump_clock: MockClock) -> None:
    device_end, onward_end = memory_pair()
    asked: list[Any] = []
    gateway = SessionManager(session_timeout=1)

    async def deaf() -> None:
        while True:
            asked.append((await device_end.receive())["n"])

    async with trio.open_nursery() as nursery, gateway.port("device", onward_end) as port:
        nursery.start_soon(deaf)
        relay = Relay(port, timeout=1, retry_count=2)
        assert repr(relay) == "<psession.Relay to port 'device'>"
        with pytest.raises(SessionRemoteError, match=r"relay\.timeout") as caught:
            await relay.request({"n": 1})
        assert (caught.value.outcome, asked) == ("sent", [1, 1, 1])
        nursery.cancel_scope.cancel()


def test_an_option_that_a_relay_has_not_is_refused() -> None:
    port = Port.__new__(Port)
    with pytest.raises(TypeError, match="a relay has no such option: credit"):
        Relay(port, credit=3)  # type: ignore[call-arg]


async def test_a_port_that_is_closed_refuses_and_a_question_on_its_way_is_sent(autojump_clock: MockClock) -> None:
    outcomes: list[Any] = []
    begun = trio.Event()

    async def answer(message: Any) -> Any:
        begun.set()
        await trio.sleep_forever()

    async with chain(on_request=answer) as made:

        async def ask(how: Any) -> None:
            try:
                await how({"n": 1}, timeout=50)
            except SessionRemoteError as error:
                outcomes.append((error.code, error.outcome))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, made.user.request)
            nursery.start_soon(ask, made.user.create().send)
            await begun.wait()
            await settle()
            made.to_device.close()
        await ask(made.user.request)
        await ask(made.user.create().send)
        for session in list(made.user.sessions.values()):
            session.end()
    assert outcomes == [("relay.closed", "sent")] * 2 + [("refused.closed", "refused")] * 2


async def test_the_asker_on_the_classic_wire_gets_the_error_reply(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        raise SessionRefusedError("not now")

    users, gateway = SessionManager(session_timeout=1), SessionManager(dialect=Exact())
    user_end, gateway_end = memory_pair()
    onward_end, device_end = memory_pair()
    async with (
        gateway.port("gateway", device_end, on_request=answer),
        gateway.port("device", onward_end) as onward,
        gateway.port(
            "user", gateway_end, on_request=Relay(onward).request, error_reply=lambda error: {"error": error.text}
        ),
        users.port("gateway", user_end) as user,
    ):
        assert await user.request({"n": 1}) == {"error": "not now"}


async def test_what_befell_a_device_is_no_fault_of_the_gateways_handler_whatever_its_asker_speaks(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(message: Any) -> Any:
        return await Relay(onward, timeout=2).request(message)

    async def converse(session: Session) -> None:
        await ask({"n": 2})

    gateway, (onward_end, _silent) = SessionManager(dialect=Exact()), memory_pair()
    async with gateway.port("device", onward_end) as onward:
        for handlers in ({"on_request": ask}, {"on_request": Relay(onward, timeout=2).request}):
            user_end, gateway_end = memory_pair()
            async with (
                gateway.port("user", gateway_end, error_reply=lambda error: {"error": error.code}, **handlers),
                SessionManager(session_timeout=5).port("gateway", user_end) as user,
            ):
                assert await user.request({"n": 1}) == {"error": "relay.timeout"}
        user_end, gateway_end = memory_pair()
        async with (
            gateway.port("user", gateway_end, on_session=converse),
            SessionManager(session_timeout=5).port("gateway", user_end) as user,
        ):
            with pytest.raises(SessionTimeoutError):
                await user.request({"n": 1})
    assert caplog.records == []


@pytest.mark.parametrize("credit", [1, 3, 32])
async def test_a_stream_goes_on_part_by_part_with_no_more_under_way_than_its_asker_has_room_for(
    credit: int, autojump_clock: MockClock
) -> None:
    made_parts = 0

    async def count(message: Any) -> AsyncIterator[Any]:
        nonlocal made_parts
        for n in range(message["to"]):
            made_parts += 1
            yield {"n": n}

    async with chain(on_request=count) as made:
        async with made.user.stream({"to": 200}, credit=credit) as parts:
            got = [await parts.receive()]
            await settle()
            assert made_parts <= 2 * credit + 3  # a window at each of the two legs
            got += [part async for part in parts]
        assert got == [{"n": n} for n in range(200)]
        async with made.user.session() as session:
            async with session.stream({"to": 3}, credit=credit) as parts:
                assert [part["n"] async for part in parts] == [0, 1, 2]
            async with session.stream({"to": 2}, credit=credit) as parts:
                assert [part["n"] async for part in parts] == [0, 1]


async def test_a_stream_that_is_left_ends_at_the_device(autojump_clock: MockClock) -> None:
    left: list[float] = []

    async def tick(message: Any) -> AsyncIterator[Any]:
        try:
            for n in range(1000):
                yield {"n": n}
                await trio.sleep(1)
        finally:
            left.append(trio.current_time())

    async with chain(on_request=tick) as made:
        async with made.user.stream({}, timeout=5) as parts:
            for _ in range(3):
                await parts.receive()
        await settle()
        assert left == [2.0]


async def test_a_stream_that_fails_brings_its_parts_and_then_the_error(autojump_clock: MockClock) -> None:
    async def fail(message: Any) -> AsyncIterator[Any]:
        yield {"n": 0}
        raise SessionRefusedError("no more", code="empty")

    async with chain(on_request=fail) as made, made.user.stream({}) as parts:
        assert await parts.receive() == {"n": 0}
        with pytest.raises(SessionRemoteError, match="no more"):
            await parts.receive()


async def test_a_device_asks_back_and_posts_in_between(autojump_clock: MockClock) -> None:
    async def lock(session: Session) -> None:
        async for _ in session:
            await session.post({"log": "asked to open"})
            answer = await session.send({"question": "the code?"})
            answer = await session.send({"question": f"{answer['code']}: sure?"})
            await session.post({"open": answer["sure"]})

    async with chain(on_session=lock) as made, made.user.session() as session:
        assert await session.send({"command": "open"}) == {"log": "asked to open"}
        assert await session.receive() == {"question": "the code?"}
        await session.post({"code": 1234})
        assert await session.receive() == {"question": "1234: sure?"}
        await session.post({"sure": True})
        assert await session.receive() == {"open": True}


async def test_an_answer_that_asks_back_goes_both_ways(autojump_clock: MockClock) -> None:
    async def lock(session: Session) -> None:
        async for _ in session:
            answer = await session.send({"question": "the code?"})
            answer = await session.send({"question": f"{answer['code']}: sure?"})
            await session.post({"open": answer["sure"]})

    async with chain(on_session=lock) as made, made.user.session() as session:
        assert await session.send({"command": "open"}) == {"question": "the code?"}
        assert await session.send({"code": 1234}) == {"question": "1234: sure?"}
        assert await session.send({"sure": True}) == {"open": True}


async def test_a_post_that_belongs_to_a_question_reaches_the_device_while_that_waits(autojump_clock: MockClock) -> None:
    order: list[Any] = []

    async def sum_up(session: Session) -> None:
        question = await session.receive()
        order.append(question["n"])
        total = 0
        for _ in range(3):
            part = await session.receive()
            order.append(part["n"])
            total += part["n"]
        await session.post({"sum": total})

    async with chain(on_session=sum_up) as made, made.user.session() as session, trio.open_nursery() as nursery:
        nursery.start_soon(ask_into, session, {"n": 0}, order)
        await settle()
        for n in (1, 2, 3):
            await session.post({"n": n})
    assert order == [0, 1, 2, 3, {"sum": 6}]


async def ask_into(session: Session, message: Any, into: list[Any]) -> None:
    into.append(await session.send(message))


async def test_a_dialogue_that_one_side_ends_is_over_on_the_other(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def once(session: Session) -> None:
        async for message in session:
            await session.post(message)
            if message["n"] == 1:
                return
        ended.append("by the user")

    async with chain(on_session=once) as made:
        async with made.user.session() as session:
            assert await session.send({"n": 0}) == {"n": 0}
        await settle()
        assert ended == ["by the user"]
        async with made.user.session() as session:
            assert await session.send({"n": 1}) == {"n": 1}
            assert [message async for message in session] == []


async def test_posts_go_on_those_of_no_session_too(autojump_clock: MockClock) -> None:
    heard: list[Any] = []

    async def listen(session: Session) -> None:
        while True:
            heard.append(await session.receive())

    async with chain(on_session=listen, on_message=heard.append) as made:
        await made.user.post({"note": 1})
        async with made.user.session() as session:
            await session.post({"note": 2})
            await session.post({"note": 3})
            await settle()
        assert heard == [{"note": 1}, {"note": 2}, {"note": 3}]


async def test_what_a_device_says_of_itself_is_not_taken_for_the_answer(autojump_clock: MockClock) -> None:
    """It speaks up as the question is on its way to it."""

    async def answer(session: Session) -> None:
        await session.receive()
        await session.post({"answer": 1})
        await trio.sleep(1)
        await session.post({"news": 1})  # the next question arrives at the gateway at this moment
        async for message in session:
            await trio.sleep(1)
            await session.post({"answer": message["n"]})

    async with chain(on_session=answer) as made, made.user.session() as session:
        assert await session.send({"n": 1}) == {"answer": 1}
        await trio.sleep(1)
        assert await session.send({"n": 2}) == {"answer": 2}
        assert await session.receive() == {"news": 1}


async def test_an_answer_that_cannot_go_back_was_given_all_the_same(autojump_clock: MockClock) -> None:
    async def large(message: Any) -> Any:
        return {"text": "x" * 5000}

    user_stream, gateway_stream = trio.testing.memory_stream_pair()
    onward_end, device_end = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=5)
    relays: dict[str, Any]
    for kind in ("request", "session"):
        async with (
            manager.port("gateway", device_end, on_request=large),
            manager.port("device", onward_end) as onward,
        ):
            relay = Relay(onward)
            relays = {"on_request": relay.request} if kind == "request" else {"on_session": relay.session}
            async with (
                manager.port("user", lines(gateway_stream, max_message_bytes=1000), **relays),
                manager.port("the gateway", lines(user_stream)) as user,
            ):
                with pytest.raises(SessionRemoteError) as caught:
                    await user.request({"n": 1})
                assert caught.value.outcome == "sent"
        user_stream, gateway_stream = trio.testing.memory_stream_pair()
        onward_end, device_end = memory_pair()


async def test_a_drain_that_cuts_off_what_is_passed_on_says_so(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep_forever()

    user_end, gateway_end = memory_pair()
    onward_end, device_end = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=30)

    async def ask(user: Port) -> None:
        with pytest.raises(SessionError) as caught:
            await user.request({"n": 1})
        assert caught.value.outcome == "sent"

    async with (
        manager.port("gateway", device_end, on_request=answer),
        manager.port("device", onward_end) as onward,
        manager.port("user", gateway_end, on_request=Relay(onward).request) as towards_user,
        manager.port("the gateway", user_end) as user,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask, user)
        await settle()
        assert not await towards_user.drain(3)
        assert trio.current_time() == 3
