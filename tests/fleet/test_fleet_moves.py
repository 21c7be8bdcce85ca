"""Devices that move, gateways that die, are drained or cut off: who has the device, and what becomes of turns."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Port, Session, SessionError, SessionManager
from psession.absences import Absence
from psession.channels import memory_pair, reconnecting
from psession.fleet import (
    DeviceNotFoundError,
    Fleet,
    FleetClosedError,
    FleetDisconnectedError,
    FleetFullError,
    Gateway,
)

from .fleets import Device, Way, a_world, until, who_are_you

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


class Asked:
    """Turns of a test's, each with its outcome."""

    def __init__(self, fleet: Fleet, name: str = "lamp", *, wait: float | None = None, **options: Any) -> None:
        self.outcomes: dict[int, Any] = {}
        self._device = fleet.device(name, wait=wait)
        self._options = options

    async def ask(self, n: int, **more: Any) -> None:
        """Ask, and keep what came of it."""
        try:
            self.outcomes[n] = (await self._device.request({"n": n, **more}, **self._options))["echo"]
        except SessionError as error:
            self.outcomes[n] = error.outcome


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The wall clock of gateways, which each test turns as it wants."""
    clock = {"ns": 1_700_000_000_000_000_000}
    monkeypatch.setattr("psession.fleet._gateway.time.time_ns", lambda: clock["ns"])
    return clock


async def test_a_device_that_connects_elsewhere_is_there_and_the_old_gateway_gives_it_up(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp = Device("lamp")
        async with lamp.at(one) as old:
            await fleet.device("lamp").request({"n": 1})
            async with lamp.at(two):
                await until(lambda: old.closed)
                assert (list(one.devices), list(two.devices)) == ([], ["lamp"])
                assert (await fleet.device("lamp").request({"n": 2}))["echo"] == 2
                assert (one.statistics().given_up, two.statistics().given_up) == (1, 0)
        assert [message["n"] for message in lamp.did] == [1, 2]


async def test_a_turn_in_the_middle_of_a_move_fails_as_sent_and_is_run_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet)
        async with trio.open_nursery() as nursery, lamp.at(one):
            started = trio.current_time()
            nursery.start_soon(lambda: asked.ask(1, wait=5))
            await until(lambda: len(lamp.did) == 1)
            async with lamp.at(two):
                await until(lambda: 1 in asked.outcomes)
                assert trio.current_time() - started < 1
                assert asked.outcomes == {1: "sent"}
                await asked.ask(2)
        assert asked.outcomes == {1: "sent", 2: 2}
        assert [message["n"] for message in lamp.did] == [1, 2]
        assert fleet.statistics().asked_again == 0


async def test_turns_under_load_while_a_device_moves_to_and_fro_are_true_and_none_is_run_twice(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateways = [await world.gateway("one"), await world.gateway("two")]
        lamp, asked = Device("lamp"), Asked(await world.fleet(wait=5), timeout=5)
        async with trio.open_nursery() as nursery:

            async def move() -> None:
                for step in range(8):
                    async with lamp.at(gateways[step % 2]):
                        await trio.sleep(0.3)

            async def load(first: int) -> None:
                for n in range(first, 400, 8):
                    await asked.ask(n, wait=0.001)
                    await trio.sleep(0.02)

            nursery.start_soon(move)
            for first in range(8):
                nursery.start_soon(load, first)
        done = [message["n"] for message in lamp.did]
        assert len(asked.outcomes) == 400
        assert len(set(done)) == len(done)
        for n, outcome in asked.outcomes.items():
            assert outcome in (n, "sent", "refused", "not_sent")
            assert outcome != n or n in done
            assert outcome not in ("refused", "not_sent") or n not in done
        assert sum(n == outcome for n, outcome in asked.outcomes.items()) > 300


async def test_a_device_that_connects_anew_to_the_same_gateway_supersedes_its_old_connection(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet, lamp = await world.gateway(), await world.fleet(), Device("lamp")
        async with AsyncExitStack() as stack:
            old = await stack.enter_async_context(lamp.at(gateway))
            first = gateway.devices["lamp"]
            near, far = memory_pair()

            async def serve(nursery: trio.Nursery) -> None:
                await gateway.serve(far, who_are_you)

            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(serve, nursery)
            await stack.enter_async_context(lamp.manager.port("again", near, on_session=lamp.answer))
            await until(lambda: old.closed)
            assert gateway.devices["lamp"] > first
            assert (await fleet.device("lamp").request({"n": 1}))["echo"] == 1
            assert gateway.statistics().replaced == 1
            nursery.cancel_scope.cancel()
        assert gateway.devices == {}


async def test_a_device_that_comes_back_by_resume_is_the_same_device_and_its_turn_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet, lamp = await world.gateway(), await world.fleet(), Device("lamp")
        ends: list[trio.abc.Channel[Any]] = []
        asked = Asked(fleet)
        logins: list[str] = []
        async with trio.open_nursery() as nursery:

            async def log_in(port: Any) -> str | None:
                logins.append(port.name)
                return await who_are_you(port)

            async def connect() -> trio.abc.Channel[Any]:
                near, far = memory_pair()
                ends.append(far)
                nursery.start_soon(lambda: gateway.serve(far, log_in, resume_within=30))
                return near

            async with (
                reconnecting(connect, first_delay=0.1) as channel,
                lamp.manager.port("gateway", channel, on_session=lamp.answer, resume_within=30),
            ):
                await until(lambda: "lamp" in gateway.devices)
                epoch = gateway.devices["lamp"]
                nursery.start_soon(lambda: asked.ask(1, wait=2))
                await until(lambda: len(lamp.did) == 1)
                await trio.aclose_forcefully(ends[0])
                await until(lambda: 1 in asked.outcomes)
                assert asked.outcomes == {1: 1}
                assert gateway.devices == {"lamp": epoch}
                assert len(ends) == 2
                await trio.aclose_forcefully(ends[1])  # also a link that came by resume may break
                await asked.ask(2)
            await until(lambda: not gateway.devices)
            nursery.cancel_scope.cancel()
        assert asked.outcomes == {1: 1, 2: 2}
        assert len(logins) == 1
        assert [message["n"] for message in lamp.did] == [1, 2]


async def test_a_port_is_one_device_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway = await world.gateway()
        near, far = memory_pair()
        manager = SessionManager(dialect=Exact())
        async with manager.port("a", near) as port, manager.port("b", far), gateway.device("lamp", port) as held:
            assert gateway.name_of(port) == "lamp"
            assert (held.name, held.port) == ("lamp", port)
            async with gateway.device("lamp", port) as again:
                assert again is held
            assert list(gateway.devices) == ["lamp"]
            with pytest.raises(ValueError, match="this port is device 'lamp'"):
                async with gateway.device("oven", port):
                    raise AssertionError
        assert gateway.devices == {}


async def test_a_gateway_that_dies_fails_its_turns_as_sent_within_two_seconds(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway("one", host="one"), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet, timeout=600)
        async with trio.open_nursery() as nursery, lamp.at(gateway):
            nursery.start_soon(lambda: asked.ask(1, wait=500))
            await until(lambda: len(lamp.did) == 1)
            await trio.sleep(7)
            killed = trio.current_time()
            world.broker.down.add("one")
            await world.broker.kill("one")  # to the broker this is what kill -9 is
            await until(lambda: 1 in asked.outcomes)
            assert asked.outcomes == {1: "sent"}
            assert trio.current_time() - killed < 2.0
            await asked.ask(2)  # and it is nowhere now
            assert asked.outcomes[2] == "not_sent"
            nursery.cancel_scope.cancel()
        assert fleet.statistics().probes > 0


async def test_a_gateway_that_stands_still_fails_its_turns_in_six_seconds_and_gives_its_devices_up_when_it_goes_on(
    autojump_clock: MockClock, wall: dict[str, int]
) -> None:
    """To the broker it is there: what it was sent waits for it."""
    async with a_world() as world:
        way = Way(world.broker)
        one, two, fleet = await world.gateway("one", way=way), await world.gateway("two"), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet, timeout=600)
        async with trio.open_nursery() as nursery, lamp.at(one) as old:
            nursery.start_soon(lambda: asked.ask(1, wait=500))
            await until(lambda: len(lamp.did) == 1)
            await trio.sleep(60)
            assert (asked.outcomes, fleet.statistics().silent) == ({}, 0)  # it answers, and the turn takes its time
            way.stop()
            stopped = trio.current_time()
            nursery.start_soon(asked.ask, 2)  # what is asked meanwhile waits at the broker
            await until(lambda: len(asked.outcomes) == 2)
            assert asked.outcomes == {1: "sent", 2: "sent"}
            assert 5.0 <= trio.current_time() - stopped <= 6.1
            stopped = trio.current_time()
            await asked.ask(3)  # no welcome comes
            assert asked.outcomes[3] == "not_sent"
            assert trio.current_time() - stopped == pytest.approx(5.0, abs=0.1)
            wall["ns"] += 10**9
            async with lamp.at(two) as new:
                started = trio.current_time()
                await asked.ask(4)
                assert (asked.outcomes[4], trio.current_time() - started) == (4, pytest.approx(0.0, abs=0.1))
                assert list(one.devices) == ["lamp"]
                way.flows.set()
                await until(lambda: old.closed)
                await trio.sleep(5)
                assert (list(one.devices), list(two.devices), new.closed) == ([], ["lamp"], False)
                await asked.ask(5)
                assert asked.outcomes[5] == 5
            nursery.cancel_scope.cancel()
        assert fleet.statistics().silent == 1
        assert [message["n"] for message in lamp.did if message["n"] != 2] == [1, 4, 5]
        assert sum(message["n"] == 2 for message in lamp.did) <= 1


@pytest.mark.parametrize("moves", [False, True])
async def test_with_resume_within_a_turn_waits_for_a_gateway_that_stands_still_unless_its_device_moves(
    autojump_clock: MockClock, wall: dict[str, int], moves: bool
) -> None:
    async with a_world() as world:
        way = Way(world.broker)
        one, two = await world.gateway("one", way=way), await world.gateway("two")
        fleet = await world.fleet(resume_within=60)
        lamp, asked = Device("lamp"), Asked(fleet, timeout=100)
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            await stack.enter_async_context(lamp.at(one))
            nursery.start_soon(lambda: asked.ask(1, wait=15))
            await until(lambda: len(lamp.did) == 1)
            way.stop()
            await trio.sleep(8)
            assert asked.outcomes == {}
            if moves:
                wall["ns"] += 10**9
                await stack.enter_async_context(lamp.at(two))
                moved = trio.current_time()
                await until(lambda: 1 in asked.outcomes)
                assert trio.current_time() - moved < 6
                assert asked.outcomes == {1: "sent"}
                await asked.ask(2)
                assert asked.outcomes == {1: "sent", 2: 2}
                way.flows.set()
                await until(lambda: not one.devices)
            else:
                way.flows.set()
                await until(lambda: 1 in asked.outcomes)
                assert asked.outcomes == {1: 1}
            nursery.cancel_scope.cancel()
        assert fleet.statistics().silent == 1
        assert [message["n"] for message in lamp.did] == ([1, 2] if moves else [1])


async def test_a_service_that_stood_still_itself_does_not_take_its_gateways_for_silent(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet, timeout=600)
        async with trio.open_nursery() as nursery, lamp.at(gateway):
            nursery.start_soon(lambda: asked.ask(1, wait=300))
            await until(lambda: len(lamp.did) == 1)
            for pause in (7.3, 20.0, 60.0):
                await trio.sleep(1.1)
                autojump_clock.jump(pause)  # nothing of this process has run meanwhile
            await trio.sleep(300)
        assert asked.outcomes == {1: 1}
        assert fleet.statistics().silent == 0


async def test_a_gateway_that_is_drained_sends_its_devices_elsewhere_and_no_turn_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet, timeout=20)
        places = iter([one, two])

        async def live() -> None:
            for gateway in places:  # as a load balancer would send it
                async with lamp.at(gateway) as port:
                    await port.wait_closed()

        async def load(first: int) -> None:
            for n in range(first, 200, 10):
                await asked.ask(n, wait=0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await until(lambda: "lamp" in one.devices)
            async with trio.open_nursery() as loads:
                for first in range(10):
                    loads.start_soon(load, first)
                await trio.sleep(0.3)
                assert await one.drain(10)
                assert (one.devices, one.draining) == ({}, True)
            assert asked.outcomes == {n: n for n in range(200)}
            assert list(two.devices) == ["lamp"]
            assert (await fleet.gateways())[0].draining
            nursery.cancel_scope.cancel()
        assert len(lamp.did) == 200
        assert fleet.statistics().asked_again > 0
        with pytest.raises(FleetClosedError, match="is being drained"):
            async with any_port() as port, one.device("oven", port):
                raise AssertionError


@pytest.mark.parametrize("knows_it", [False, True])
async def test_a_call_that_begins_after_a_drain_waits_for_its_device_whoever_was_refused_before(
    autojump_clock: MockClock, knows_it: bool
) -> None:
    """The fleet's calls do not wait (``wait=0``), and none of them was refused: the gateway tells who looks there."""
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp, device = Device("lamp"), fleet.device("lamp")
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            await stack.enter_async_context(lamp.at(one))
            if knows_it:
                assert (await device.request({"n": 0}))["echo"] == 0
            nursery.start_soon(one.drain)
            await trio.sleep(0.5)
            assert one.devices == {}
            answers: list[Any] = []

            async def ask() -> None:
                answers.append((await device.request({"n": 1}, timeout=20))["echo"])

            async def talk() -> None:
                async with device.session() as session:
                    answers.append((await session.send({"n": 2}))["echo"])

            async def listen() -> None:
                async with device.stream({"parts": 1, "n": 3}) as replies:
                    answers.append([reply async for reply in replies])

            async def post() -> None:
                await device.post({"n": 4})
                answers.append("posted")

            for call in (ask, talk, listen, post):
                nursery.start_soon(call)
            await trio.sleep(2.5)
            assert answers == []
            started = trio.current_time()
            await stack.enter_async_context(lamp.at(two))
            await until(lambda: len(answers) == 4 and lamp.said)
            assert trio.current_time() - started < 0.1  # its claim wakes them
            assert fleet.statistics().nowhere == 0
            nursery.cancel_scope.cancel()
        assert sorted(map(str, answers)) == ["1", "2", "[{'part': 0}]", "posted"]
        assert sorted(message["n"] for message in lamp.did) == ([0] if knows_it else []) + [1, 2, 3]
        assert [message["n"] for message in lamp.said] == [4]


async def test_a_call_after_a_drain_whose_device_comes_nowhere_fails_in_ten_seconds_or_in_its_own_time(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        asked = Asked(fleet, timeout=60)
        async with trio.open_nursery() as nursery, Device("lamp").at(gateway):
            nursery.start_soon(gateway.drain)
            await trio.sleep(0.37)  # no look for it is at the very moment at which the gateway stops telling
            started = trio.current_time()
            with pytest.raises(SessionError) as caught:
                await fleet.device("lamp").request({"n": 1}, timeout=2)
            assert (caught.value.outcome, trio.current_time() - started) == ("not_sent", pytest.approx(2.0, abs=0.1))
            with pytest.raises(DeviceNotFoundError) as nowhere:
                await fleet.device("lamp").request({"n": 2}, timeout=60)
            assert nowhere.value.outcome == "not_sent"
            assert 4.0 <= trio.current_time() - started <= 10.5
            started = trio.current_time()
            await asked.ask(3)  # it is nowhere, and nobody says more of it
            assert (asked.outcomes, trio.current_time() - started) == ({3: "not_sent"}, pytest.approx(0.0, abs=0.01))
        assert fleet.statistics().nowhere == 2


@pytest.mark.parametrize(
    ("count", "options", "seconds"),
    [(100, {"grace": 10}, 10.0), (200, {}, 1.0), (100, {"timeout": 0.6}, 0.3), (50, {"grace": 0}, 0.0)],
)
async def test_a_drain_sends_its_devices_away_one_after_the_other(
    autojump_clock: MockClock, count: int, options: dict[str, float], seconds: float
) -> None:
    """All at once they would be a thundering herd at the other gateways; each is asked until it is sent away."""
    left: list[float] = []
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with trio.open_nursery() as nursery:

            async def connect(name: str) -> None:
                async with Device(name).at(gateway) as port:
                    await port.wait_closed()
                    left.append(trio.current_time() - started)

            for number in range(count):
                nursery.start_soon(connect, f"device {number}")
            await until(lambda: len(gateway.devices) == count)
            started, last = trio.current_time(), list(gateway.devices)[-1]
            nursery.start_soon(lambda: gateway.drain(**options))
            await trio.sleep(seconds / 2)
            if seconds:
                assert 0.4 * count <= len(left) <= 0.6 * count
                assert (await fleet.device(last).request({"n": 1}))["echo"] == 1
            await until(lambda: len(left) == count)
            assert trio.current_time() - started == pytest.approx(seconds * (count - 1) / count, abs=0.1)
            nursery.cancel_scope.cancel()
    assert max(later - earlier for earlier, later in pairwise(left)) <= seconds / count + 0.02


async def test_two_drains_at_once_are_one(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway = await world.gateway()
        async with trio.open_nursery() as nursery, Device("lamp").at(gateway) as port:
            nursery.start_soon(gateway.drain)
            nursery.start_soon(gateway.drain, 3)
            await port.wait_closed()
        assert gateway.devices == {}


async def test_a_drain_cuts_off_what_does_not_end_in_time(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet)
        async with trio.open_nursery() as nursery, lamp.at(gateway):
            nursery.start_soon(lambda: asked.ask(1, wait=50))
            await until(lambda: len(lamp.did) == 1)
            started = trio.current_time()
            assert not await gateway.drain(3)
            assert trio.current_time() - started == pytest.approx(3.0)
            await until(lambda: 1 in asked.outcomes)
            assert asked.outcomes == {1: "sent"}


@asynccontextmanager
async def any_port() -> AsyncIterator[Port]:
    """A port with nobody in particular at its other end."""
    near, _ = memory_pair()
    async with SessionManager(dialect=Exact()).port("any", near) as port:
        yield port


async def test_a_newer_connection_wins_also_where_its_gateways_clock_is_behind(
    autojump_clock: MockClock, wall: dict[str, int]
) -> None:
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp = Device("lamp")
        async with lamp.at(one) as old:
            await trio.sleep(5)
            wall["ns"] -= 3600 * 10**9  # the second gateway is an hour behind
            async with lamp.at(two) as new:
                await until(lambda: old.closed)
                assert not new.closed
                assert (list(one.devices), list(two.devices)) == ([], ["lamp"])
                assert two.statistics().claimed_again == 1
                assert one.statistics().answered_claims == 1
                assert (await fleet.device("lamp").request({"n": 1}))["echo"] == 1


async def test_of_two_connections_at_once_one_stays(autojump_clock: MockClock, wall: dict[str, int]) -> None:
    async with a_world() as world:
        one, two = await world.gateway("one"), await world.gateway("two")
        lamp = Device("lamp")
        async with trio.open_nursery() as nursery:

            async def live(gateway: Gateway) -> None:
                async with lamp.at(gateway):
                    await trio.sleep(100)

            nursery.start_soon(live, one)
            nursery.start_soon(live, two)
            await trio.sleep(10)
            assert len(one.devices) + len(two.devices) == 1
            assert one.statistics().given_up + two.statistics().given_up == 1
            nursery.cancel_scope.cancel()


async def test_two_gateways_that_both_believe_find_out_when_the_cluster_is_one_again(
    autojump_clock: MockClock, wall: dict[str, int]
) -> None:
    async with a_world() as world:
        one, two = await world.gateway("one", host="one"), await world.gateway("two", host="two")
        lamp, fleet = Device("lamp"), await world.fleet()
        async with lamp.at(one) as old:
            world.broker.down.add("one")
            await world.broker.kill("one")  # cut off: its devices are connected still
            wall["ns"] += 10**9
            async with lamp.at(two) as new:
                await trio.sleep(60)
                assert (list(one.devices), list(two.devices)) == (["lamp"], ["lamp"])
                assert (await fleet.device("lamp").request({"n": 1}))["echo"] == 1
                world.broker.down.clear()
                await until(lambda: old.closed)
                assert (list(one.devices), list(two.devices), new.closed) == ([], ["lamp"], False)


async def test_claims_that_were_lost_are_made_again_in_time(autojump_clock: MockClock, wall: dict[str, int]) -> None:
    async with a_world() as world:
        one, two = await world.gateway("one"), await world.gateway("two", announce_interval=8)
        lamp = Device("lamp")
        async with lamp.at(one) as old:
            world.broker.forbidden.add("psession.home.claim.lamp")
            wall["ns"] += 1
            async with lamp.at(two):
                await trio.sleep(20)
                assert (list(one.devices), list(two.devices)) == (["lamp"], ["lamp"])
                world.broker.forbidden.clear()
                before = trio.current_time()
                await until(lambda: old.closed)
                assert trio.current_time() - before <= 8.5
                assert (list(one.devices), list(two.devices)) == ([], ["lamp"])


async def test_a_device_that_connects_while_the_broker_is_gone_is_claimed_when_it_is_back(
    autojump_clock: MockClock, wall: dict[str, int]
) -> None:
    async with a_world() as world:
        one, two = await world.gateway("one"), await world.gateway("two")
        lamp, fleet = Device("lamp"), await world.fleet()
        async with lamp.at(one) as old:
            world.broker.down.add("broker")
            await world.broker.kill()
            await trio.sleep(1)
            wall["ns"] -= 10**9  # and its clock is behind
            async with lamp.at(two) as new:
                await trio.sleep(10)
                assert (list(one.devices), list(two.devices)) == (["lamp"], ["lamp"])
                world.broker.down.clear()
                await until(lambda: old.closed)
                assert (list(one.devices), list(two.devices), new.closed) == ([], ["lamp"], False)
                assert (await fleet.device("lamp").request({"n": 1}))["echo"] == 1


async def test_a_broker_that_is_gone_for_ten_seconds_fails_calls_at_once_with_true_outcomes_and_all_comes_back(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet)
        async with trio.open_nursery() as nursery, lamp.at(gateway) as port:
            nursery.start_soon(lambda: asked.ask(1, wait=5))
            await until(lambda: len(lamp.did) == 1)
            gone = trio.current_time()
            world.broker.down.add("broker")
            await world.broker.kill()
            await until(lambda: 1 in asked.outcomes)
            await asked.ask(2)
            assert asked.outcomes == {1: "sent", 2: "not_sent"}
            assert trio.current_time() - gone < 0.1
            with pytest.raises(FleetDisconnectedError, match="there is no connection to the broker"):
                await fleet.device("lamp").request({"n": 2})
            waiting = Asked(fleet, wait=60)
            nursery.start_soon(waiting.ask, 3)
            await trio.sleep(10)
            assert waiting.outcomes == {}
            world.broker.down.clear()
            await until(lambda: 3 in waiting.outcomes)
            assert trio.current_time() - gone < 18
            assert waiting.outcomes == {3: 3}
            await asked.ask(4)
            assert asked.outcomes[4] == 4
            assert not port.closed
        assert [message["n"] for message in lamp.did] == [1, 3, 4]


async def test_with_resume_within_calls_wait_for_the_broker_and_go_on_and_nothing_is_run_twice(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet(resume_within=60)
        lamp, asked = Device("lamp"), Asked(fleet, timeout=100)
        async with trio.open_nursery() as nursery, lamp.at(gateway):
            for n in range(5):
                nursery.start_soon(lambda n=n: asked.ask(n, wait=n))
            await until(lambda: len(lamp.did) == 5)
            await trio.sleep(1.5)
            world.broker.down.add("broker")
            await world.broker.kill()
            nursery.start_soon(asked.ask, 5)
            await trio.sleep(10)
            assert asked.outcomes == {0: 0, 1: 1}
            world.broker.down.clear()
            await until(lambda: len(asked.outcomes) == 6)
        assert asked.outcomes == {n: n for n in range(6)}
        assert sorted(message["n"] for message in lamp.did) == [0, 1, 2, 3, 4, 5]


async def test_with_resume_within_a_device_that_moved_does_no_turn_twice(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        one, two, fleet = (
            await world.gateway("one", host="one"),
            await world.gateway("two"),
            await world.fleet(resume_within=60),
        )
        lamp, asked = Device("lamp"), Asked(fleet, timeout=100)
        async with trio.open_nursery() as nursery, lamp.at(one):
            nursery.start_soon(lambda: asked.ask(1, wait=50))
            await until(lambda: len(lamp.did) == 1)
            world.broker.down.add("one")
            await world.broker.kill("one")
            await trio.sleep(2)
            async with lamp.at(two):
                await until(lambda: 1 in asked.outcomes)
                assert asked.outcomes == {1: "sent"}
                await asked.ask(2)
                assert asked.outcomes == {1: "sent", 2: 2}
            nursery.cancel_scope.cancel()
        assert [message["n"] for message in lamp.did] == [1, 2]


async def test_with_resume_within_a_device_that_is_nowhere_still_fails_at_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        fleet = await world.fleet(resume_within=60)
        asked, started = Asked(fleet), trio.current_time()
        await asked.ask(1)
        assert asked.outcomes == {1: "not_sent"}
        assert trio.current_time() - started < 0.01


async def test_a_device_that_two_processes_own_is_counted_logged_once_and_slowed_down(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "psession.fleet")
    async with a_world() as world:
        gateways = [await world.gateway("one"), await world.gateway("two")]
        connections = 0

        async def own(gateway: Gateway) -> None:
            nonlocal connections
            while True:
                async with Device("lamp").at(gateway) as port:
                    connections += 1
                    await port.wait_closed()

        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                for gateway in gateways:
                    nursery.start_soon(own, gateway)
        assert 8 < connections < 60
        assert sum(gateway.statistics().flapping for gateway in gateways) > 4
    assert [record.event_name for record in caplog.records] == ["device_flaps", "device_flaps"]  # one a gateway


async def test_a_gateway_that_is_full_takes_no_further_device(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway = await world.gateway(max_devices=1)
        async with Device("lamp").at(gateway):
            with pytest.raises(FleetFullError, match=r"has 1 devices \(max_devices\)"):
                async with any_port() as port, gateway.device("oven", port):
                    raise AssertionError
            assert gateway.statistics().refused_devices == 1
            assert list(gateway.devices) == ["lamp"]


async def test_a_device_that_does_not_say_who_it_is_or_is_nobody_is_sent_away_in_silence(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with a_world() as world:
        gateway = await world.gateway()
        for log_in in (who_are_you, nobody):
            near, far = memory_pair()
            silent = SessionManager(dialect=Exact()).port("silent", near, on_session=say_nothing)
            async with trio.open_nursery() as nursery, silent as port:
                nursery.start_soon(gateway.serve, far, log_in)
                await port.wait_closed()
        assert gateway.statistics().joined == 0
        await gateway.drain()
        async with Device("lamp").at(gateway) as port:
            assert port.closed
    assert [record.getMessage() for record in caplog.records] == []


async def say_nothing(session: Session) -> None:
    """A device that takes questions, and answers none."""
    await trio.sleep_forever()


async def nobody(port: Port) -> str | None:
    """Authentication that lets nobody in."""
    return None


async def test_leaving_a_gateway_closes_its_devices_ports_and_tells_the_fleet(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        nats, fleet = await world.nats(), await world.fleet()
        lamp, asked = Device("lamp"), Asked(fleet)
        async with trio.open_nursery() as nursery, fleet.presence() as presence:
            async with Gateway(nats, "home") as gateway:

                async def live() -> None:
                    async with lamp.at(gateway) as port:
                        await port.wait_closed()

                nursery.start_soon(live)
                assert (await presence.receive()).device == "lamp"
                nursery.start_soon(lambda: asked.ask(1, wait=50))
                await until(lambda: len(lamp.did) == 1)
            change = await presence.receive()
            assert (type(change).__name__, change.device) == ("Left", "lamp")
            await until(lambda: 1 in asked.outcomes)
            assert asked.outcomes == {1: "sent"}
        assert nats.statistics().subscriptions == 0


async def test_all_links_and_all_devices_of_a_gateway_may_be_absent_at_once(autojump_clock: MockClock) -> None:
    """A broker that goes breaks all links of askers in one moment; a load balancer that goes, all devices'."""
    async with a_world() as world:
        gateway = await world.gateway(max_links=5000, max_devices=3000)
        given_up: list[str] = []
        for manager, remote, most in ((gateway._askers._manager, None, 5000), (gateway._manager, "10.0.0.1", 3000)):
            absences = manager.budget.absences
            for _ in range(most):
                absences.enter(Absence(given_up.append), remote)
            assert given_up == []
            absences.enter(Absence(given_up.append), remote)
            assert len(given_up) == 1
            given_up.clear()
