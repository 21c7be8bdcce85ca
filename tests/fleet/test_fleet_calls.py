"""Calls of a fleet's devices, on virtual time: what they bring, what bounds them, what becomes of those that fail."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from psession import SessionError, SessionInvalidError, SessionRemoteError, SessionTimeoutError
from psession.fleet import (
    DeviceNotFoundError,
    Fleet,
    FleetClosedError,
    FleetDisconnectedError,
    FleetFullError,
    Gateway,
)

from .fleets import Device, a_world, settle, until

if TYPE_CHECKING:
    from trio.testing import MockClock


class Answer(msgspec.Struct):
    """What a device of a test answers."""

    by: str
    turn: int


async def test_a_device_is_asked_by_its_name_from_anywhere(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with Device("lamp").at(gateway):
            assert await fleet.device("lamp").request({"n": 7}, timeout=2) == {"by": "lamp", "turn": 0, "echo": 7}
            answer = await fleet.device("lamp").request({"n": 8}, reply_type=Answer)
            assert (answer.by, answer.turn) == ("lamp", 0)
        assert (fleet.statistics().opened, fleet.statistics().reused, fleet.statistics().calls) == (1, 1, 2)
        assert gateway.statistics().joined == 1


async def test_a_dialogue_keeps_its_turns_together_and_the_device_asks_back(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with Device("lamp").at(gateway), fleet.device("lamp").session() as session:
            assert (await session.send({"n": 1}))["turn"] == 0
            assert (await session.send({"n": 2}))["turn"] == 1
            assert await session.send({"ask": True}) == {"question": "sure?"}
            assert await session.send({"sure": True}) == {"was": {"sure": True}}


async def test_a_stream_brings_each_part_and_a_post_arrives(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet, lamp = await world.gateway(), await world.fleet(), Device("lamp")
        async with lamp.at(gateway):
            async with fleet.device("lamp").stream({"parts": 40}) as replies:
                assert [reply["part"] async for reply in replies] == list(range(40))
            await fleet.device("lamp").post({"news": 1})
            await until(lambda: lamp.said == [{"news": 1}])


async def test_a_devices_own_error_is_its_askers_and_is_asked_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet, lamp = await world.gateway(), await world.fleet(), Device("lamp")
        async with lamp.at(gateway):
            with pytest.raises(SessionRemoteError) as caught:
                await fleet.device("lamp").request({"raise": True})
            assert (caught.value.code, caught.value.outcome) == ("crashed", "sent")
        assert lamp.did == [{"raise": True}]


async def test_an_askers_time_reaches_the_device_which_is_cancelled(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet, lamp = await world.gateway(), await world.fleet(), Device("lamp")
        async with lamp.at(gateway) as port:
            started = trio.current_time()
            with pytest.raises(SessionTimeoutError) as caught:
                await fleet.device("lamp").request({"wait": 100}, timeout=3)
            assert (caught.value.outcome, trio.current_time() - started) == ("sent", 3.0)
            await trio.sleep(0.1)
            assert not port.sessions


async def test_a_device_that_is_nowhere_fails_at_once_and_nothing_was_sent(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.gateway()
        fleet = await world.fleet()
        started = trio.current_time()
        for call in ("request", "post"):
            with pytest.raises(DeviceNotFoundError, match="no gateway has a device 'lamp'") as caught:
                await getattr(fleet.device("lamp"), call)({"n": 1})
            assert (caught.value.outcome, trio.current_time()) == ("not_sent", started)
        with pytest.raises(DeviceNotFoundError):
            async with fleet.device("lamp").session():
                raise AssertionError
        with pytest.raises(DeviceNotFoundError):
            async with fleet.device("lamp").stream({}):
                raise AssertionError
        assert (fleet.statistics().nowhere, fleet.statistics().links) == (4, 0)


async def test_a_call_that_waits_is_woken_when_its_device_joins(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet(wait=60)
        answers: list[Any] = []

        async def ask(n: int) -> None:
            answers.append((await fleet.device("lamp").request({"n": n}))["echo"])

        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(ask, n)
            await trio.sleep(40.15)
            assert answers == []
            before = trio.current_time()
            async with Device("lamp").at(gateway):
                await until(lambda: len(answers) == 3)
                assert trio.current_time() - before < 0.2
        assert sorted(answers) == [0, 1, 2]
        assert fleet.statistics().waited == 3


async def test_a_call_that_waited_in_vain_says_so_after_its_time(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        fleet = await world.fleet()
        started = trio.current_time()
        with pytest.raises(DeviceNotFoundError) as caught:
            await fleet.device("lamp", wait=7).request({"n": 1})
        assert caught.value.outcome == "not_sent"
        assert trio.current_time() - started == pytest.approx(7.0)


async def test_a_call_that_is_cancelled_while_it_waits_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        nats = await world.nats()
        async with Fleet(nats, "home", wait=math.inf) as fleet:
            with trio.move_on_after(5):
                await fleet.device("lamp").request({"n": 1})
            assert fleet.statistics().links == 0
            assert nats.statistics().subscriptions == 0


async def test_what_a_device_is_asked_while_no_gateway_says_welcome_fails_in_time(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        nats, fleet = await world.nats(), await world.fleet()
        tap = nats.tap("psession.home.device.lamp", lambda message: None)
        await settle()
        started = trio.current_time()
        with pytest.raises(SessionTimeoutError, match="no link to its gateway") as caught:
            await fleet.device("lamp").request({"n": 1}, timeout=1)
        assert (caught.value.outcome, trio.current_time() - started) == ("not_sent", 1.0)
        with pytest.raises(FleetDisconnectedError, match="did not say welcome"):
            await fleet.device("lamp").request({"n": 1}, timeout=20)
        tap.close()


async def test_links_that_nobody_uses_are_closed_and_the_oldest_gives_way(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet(max_links=2, idle=10)
        async with Device("a").at(gateway), Device("b").at(gateway), Device("c").at(gateway):
            for name in ("a", "b", "a", "c"):  # b gives way
                await fleet.device(name).request({"n": 1})
            statistics = fleet.statistics()
            assert (statistics.links, statistics.evicted, statistics.opened) == (2, 1, 3)
            await fleet.device("a").request({"n": 1})
            assert fleet.statistics().opened == 3
            async with fleet.device("a").session(), fleet.device("c").session():
                with pytest.raises(FleetFullError, match=r"2 links are open, and all are in use \(max_links\)") as full:
                    await fleet.device("b").request({"n": 1})
                assert full.value.outcome == "not_sent"
                await trio.sleep(30)
                assert fleet.statistics().links == 2  # those in use stay
            await trio.sleep(11)
            assert (fleet.statistics().links, fleet.statistics().idle_closed) == (0, 2)
            await until(lambda: gateway.statistics().links == 0)


async def test_a_fleet_that_was_left_takes_no_calls(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        nats = await world.nats()
        async with Fleet(nats, "home") as fleet:
            lamp = fleet.device("lamp")
        with pytest.raises(FleetClosedError):
            await lamp.request({"n": 1})
        with pytest.raises(FleetClosedError, match="was not entered"):
            await Fleet(nats, "home").device("lamp").request({"n": 1})
        with pytest.raises(RuntimeError, match="once"):
            await fleet.__aenter__()


async def test_leaving_a_fleet_cuts_off_the_calls_under_way(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, nats = await world.gateway(), await world.nats()
        caught: list[Any] = []

        async def ask(fleet: Fleet) -> None:
            try:
                await fleet.device("lamp").request({"wait": 50})
            except SessionError as error:
                caught.append(error.outcome)

        async with Device("lamp").at(gateway), trio.open_nursery() as nursery, Fleet(nats, "home") as fleet:
            nursery.start_soon(ask, fleet)
            await trio.sleep(1)
        assert caught == ["sent"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"wait": -1}, "wait must be 0 or more"),
        ({"idle": "x"}, "idle must be a number"),
        ({"max_links": 0}, "max_links must be"),
        ({"silence": 0}, "silence must be above 0"),
        ({"silense": 1}, "no such option: silense"),
        ({"session_timeout": -1}, "session_timeout must be"),
        ({"prefix": ""}, "prefix must not be empty"),
    ],
)
async def test_an_option_that_will_not_do_is_refused_with_the_reason(
    options: dict[str, Any], why: str, autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        nats = await world.nats()
        with pytest.raises((TypeError, ValueError), match=why):
            Fleet(nats, "home", **options)
        for name in ("", "x" * 257, "\ud800"):
            with pytest.raises(ValueError, match="the name of a"):
                Fleet(nats, "home").device(name)
        with pytest.raises(TypeError, match="must be a str"):
            Fleet(nats, "home").device(7)  # type: ignore[arg-type]


async def test_a_turn_of_a_session_after_its_device_left_says_that_it_is_over(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with Device("lamp").at(gateway) as port, fleet.device("lamp").session() as session:
            await session.send({"n": 1})
            port.close()
            await trio.sleep(2)
            with pytest.raises((SessionInvalidError, SessionRemoteError)):
                await session.send({"n": 2})


async def test_a_link_that_no_call_uses_notices_in_five_seconds_that_its_gateway_died(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, other, fleet = await world.gateway("one", host="one"), await world.gateway("two"), await world.fleet()
        lamp = Device("lamp")
        async with lamp.at(gateway):
            await fleet.device("lamp").request({"n": 1})
            world.broker.down.add("one")
            await world.broker.kill("one")
            await trio.sleep(6)
            assert fleet.statistics().links == 0
            async with lamp.at(other):
                assert (await fleet.device("lamp").request({"n": 2}))["echo"] == 2


async def test_a_request_that_is_asked_again_has_no_more_time_than_its_own_and_wait(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp, caught = Device("lamp"), list[Any]()
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            await stack.enter_async_context(lamp.at(one))
            await fleet.device("lamp").request({"n": 0})

            async def ask() -> None:
                with pytest.raises(SessionTimeoutError, match="asked again where it had moved") as error:
                    await fleet.device("lamp").request({"n": 1, "wait": 100}, timeout=4)
                caught.append((error.value.outcome, trio.current_time() - started))

            nursery.start_soon(fleet.device("lamp").request, {"n": 5, "wait": 1})
            await until(lambda: len(lamp.did) == 2)
            nursery.start_soon(one.drain, 5)  # it goes on for a second, and takes nothing new
            await settle()
            started = trio.current_time()
            nursery.start_soon(ask)
            await trio.sleep(1.5)
            async with lamp.at(two):
                await until(lambda: caught)
        assert caught == [("sent", pytest.approx(4.0, abs=0.01))]
        assert fleet.statistics().asked_again == 1


async def test_a_call_may_be_cancelled_at_any_step_and_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, nats, lamp = await world.gateway(), await world.nats(), Device("lamp")
        async with lamp.at(gateway):
            for steps in range(0, 60, 2):
                async with Fleet(nats, "home", wait=5) as fleet, trio.open_nursery() as nursery:
                    scope = trio.CancelScope()

                    async def ask(fleet: Fleet = fleet, scope: trio.CancelScope = scope, steps: int = steps) -> None:
                        with scope:
                            await fleet.device("lamp").request({"n": steps})

                    nursery.start_soon(ask)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                    await settle()
                    assert fleet._pool is not None
                    assert [link.users for link in fleet._pool._links.values()] in ([], [0])
                    assert (await fleet.device("lamp").request({"n": -1}))["echo"] == -1
                await settle()
            assert gateway.statistics().links == 0
        done = [message["n"] for message in lamp.did if message["n"] >= 0]
        assert len(set(done)) == len(done)


async def test_a_gateway_and_a_fleet_leave_no_task_and_no_subscription_behind(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        nats, other = await world.nats(), await world.nats()
        await settle()
        before = trio.lowlevel.current_statistics().tasks_living
        with pytest.raises(RuntimeError, match="the body's"):
            async with Gateway(nats, "home"), Fleet(other, "home") as fleet, fleet.presence():
                raise RuntimeError("the body's")
        async with (
            Gateway(nats, "home") as gateway,
            Fleet(other, "home") as fleet,
            Device("lamp").at(gateway),
            fleet.presence() as presence,
        ):
            await fleet.device("lamp").request({"n": 1})
            assert (await presence.receive()).device == "lamp"
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert (nats.statistics().subscriptions, other.statistics().subscriptions) == (0, 0)
        assert (nats.statistics().links, other.statistics().links) == (0, 0)
