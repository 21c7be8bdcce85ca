"""Who is where, as watchers hear it: on virtual time, with gateways that die and a broker that goes."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession.fleet import Fleet, Gateway, Joined, Left, PresenceLostError

from .fleets import Device, a_world, settle, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession.fleet import Presence


class Watcher:
    """Takes what a presence brings."""

    def __init__(self, presence: Presence) -> None:
        self.heard: list[tuple[str, str]] = []
        self.presence = presence

    async def watch(self) -> None:
        """Until cancelled."""
        async for change in self.presence:
            self.heard.append((type(change).__name__, change.device))


async def test_who_watches_hears_first_what_is_there_then_joins_and_leaves(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with Device("oven").at(gateway), fleet.presence() as presence:
            assert list(presence.devices) == ["oven"]
            first = await presence.receive()
            assert first == Joined("oven", gateway.id, gateway.devices["oven"])
            async with Device("lamp").at(gateway):
                change = await presence.receive()
                assert change == Joined("lamp", gateway.id, gateway.devices["lamp"])
                before = presence.devices["lamp"]
            assert await presence.receive() == Left("lamp", gateway.id, before)
            assert list(await fleet.devices()) == ["oven"]
            assert [(info.name, info.devices, info.draining) for info in await fleet.gateways()] == [("g", 1, False)]


async def test_without_a_gateway_a_watcher_begins_at_once_with_nothing(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        fleet = await world.fleet()
        started = trio.current_time()
        assert (await fleet.devices(), await fleet.gateways()) == ({}, [])
        assert trio.current_time() - started < 0.2


async def test_a_device_that_moves_joins_again_and_does_not_leave(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        one, two, fleet = await world.gateway("one"), await world.gateway("two"), await world.fleet()
        lamp = Device("lamp")
        async with lamp.at(one) as old, fleet.presence() as presence, lamp.at(two):
            await until(lambda: old.closed)
            changes = [await presence.receive(), await presence.receive()]
            assert [(type(change), change.gateway) for change in changes] == [(Joined, one.id), (Joined, two.id)]
            with trio.move_on_after(20):
                raise AssertionError(await presence.receive())
            assert presence.devices["lamp"].gateway == two.id


async def test_a_gateway_that_is_silent_for_three_seconds_is_gone_and_its_devices_with_it(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway("one", host="one"), await world.fleet()
        async with Device("lamp").at(gateway), fleet.presence() as presence:
            await presence.receive()
            await trio.sleep(20)
            killed = trio.current_time()
            world.broker.down.add("one")
            await world.broker.kill("one")
            change = await presence.receive()
            assert (type(change), change.device) == (Left, "lamp")
            assert 2.0 <= trio.current_time() - killed <= 3.5
            assert presence.gateways == {}
            world.broker.down.clear()
            assert await presence.receive() == Joined("lamp", gateway.id, gateway.devices["lamp"])


async def test_a_broker_that_is_gone_for_ten_seconds_is_no_storm_of_leaves_and_joins(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateways = [await world.gateway("one", host="one"), await world.gateway("two", host="two")]
        fleet = await world.fleet()
        async with AsyncExitStack() as stack:
            for number in range(20):
                await stack.enter_async_context(Device(f"d{number}").at(gateways[number % 2]))
            presence = await stack.enter_async_context(fleet.presence())
            nursery = await stack.enter_async_context(trio.open_nursery())
            watcher = Watcher(presence)
            nursery.start_soon(watcher.watch)
            await settle()
            watcher.heard.clear()
            world.broker.down |= {"one", "two", "broker"}
            await world.broker.kill()
            await trio.sleep(10)
            world.broker.down.clear()
            await trio.sleep(1)
            gateways[0]._held["d0"].port.close()  # one leaves in the middle of it
            await trio.sleep(30)
            assert watcher.heard == [("Left", "d0")]
            assert len(presence.devices) == 19
            nursery.cancel_scope.cancel()


async def test_what_changed_while_the_broker_was_gone_is_heard_when_it_is_back(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with Device("a").at(gateway) as a, fleet.presence() as presence, trio.open_nursery() as nursery:
            watcher = Watcher(presence)
            nursery.start_soon(watcher.watch)
            world.broker.down.add("broker")
            await world.broker.kill()
            a.close()
            await until(lambda: not gateway.devices)
            async with Device("b").at(gateway):
                await trio.sleep(5)
                world.broker.down.clear()
                await trio.sleep(30)
                assert sorted(watcher.heard) == [("Joined", "a"), ("Joined", "b"), ("Left", "a")]
                assert list(presence.devices) == ["b"]
            nursery.cancel_scope.cancel()


async def test_a_change_that_was_lost_is_noticed_and_the_list_asked_for(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with Device("a").at(gateway), fleet.presence() as presence:
            await presence.receive()
            world.broker.forbidden.add(f"psession.home.change.{gateway.id}")
            before = trio.current_time()
            async with Device("b").at(gateway):
                change = await presence.receive()
                assert (type(change), change.device) == (Joined, "b")
                assert trio.current_time() - before <= 2.1  # the next beat says that there was one
        assert fleet.statistics().presence_gaps == 1
        assert gateway.statistics().lists >= 2


async def test_thousands_that_join_at_once_come_in_few_messages_and_a_long_list_in_parts(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet()
        async with fleet.presence() as presence:
            for number in range(1500):
                gateway._announcer.joined(f"d{number}", number + 1)
                gateway._holdings.take(f"d{number}", number)
            for _ in range(1500):
                await presence.receive()
            assert gateway.statistics().changes == 3
            assert len(await fleet.devices()) == 1500


async def test_a_watcher_that_is_too_slow_is_told_so(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet(max_changes=10)
        async with fleet.presence() as presence:
            for number in range(11):
                gateway._announcer.joined(f"d{number}", number + 1)
            await trio.sleep(1)
            with pytest.raises(PresenceLostError, match=r"more than 10 joins and leaves waited \(max_changes\)"):
                await presence.receive()
            assert presence.is_lost
        assert fleet.statistics().presence_lost == 1


async def test_a_watcher_has_room_for_so_many_devices_and_counts_the_others(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, fleet = await world.gateway(), await world.fleet(max_devices=2)
        async with AsyncExitStack() as stack:
            for name in "abc":
                await stack.enter_async_context(Device(name).at(gateway))
            assert len(await fleet.devices()) == 2
        assert fleet.statistics().presence_unknown >= 1  # once for each list


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100000,
        b'{"type":"beat"}',
        b'{"type":"claim","device":"lamp","number":1,"gateway":"","settled":true}',
        b'{"type":"change","gateway":"x","seq":-1,"joined":[],"left":[]}',
        b'{"type":"part","gateway":"x","seq":1,"part":0,"parts":9223372036854775808,"devices":[]}',
        b'{"type":"beat","gateway":"x","name":"","seq":1,"count":0,"number":100000000000000000000}',
    ],
)
async def test_what_is_no_word_of_a_fleets_is_counted_logged_and_does_nothing(
    data: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "psession.fleet")
    async with a_world() as world:
        gateway, fleet, nats = await world.gateway(), await world.fleet(), await world.nats()
        async with Device("lamp").at(gateway), fleet.presence() as presence:
            await nats.publish("psession.home.beat.x", data)
            await nats.publish("psession.home.gateways", data)
            await nats.publish("psession.home.claim.lamp", data)
            await nats.publish("psession.home.device.lamp", data, reply="elsewhere")
            await nats.flush()
            await settle()
            assert list(presence.devices) == ["lamp"]
            assert (await fleet.device("lamp").request({"n": 1}))["echo"] == 1
        assert (fleet.statistics().malformed, gateway.statistics().malformed) == (1, 2)
        assert {record.event_name for record in caplog.records} == {"fleet_malformed"}


NAMES = [
    "*",
    ">",
    "a.b",
    "*.>",
    " ",
    "a b",
    "\r\nPUB x 0\r\n\r\n",
    "=2A",
    "ä",
    "\U0001f4a1",
    "a\x00b",
    "." * 256,
    "'\"",
]


async def test_a_devices_name_may_be_any_text_and_reaches_nobody_else(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        gateway, other, fleet = await world.gateway(), await world.gateway("two"), await world.fleet()
        devices = {name: Device(name) for name in NAMES}
        async with AsyncExitStack() as stack:
            for device in devices.values():
                await stack.enter_async_context(device.at(gateway))
            for number, name in enumerate(NAMES):
                answer: Any = await fleet.device(name).request({"n": number})
                assert (answer["by"], answer["echo"]) == (name, number)
            assert [device.did for device in devices.values()] == [[{"n": number}] for number in range(len(NAMES))]
            assert set(await fleet.devices()) == set(NAMES)
            async with devices["*"].at(other):  # its claim is of nobody else
                await until(lambda: len(gateway.devices) == len(NAMES) - 1)
                assert "*" not in gateway.devices
        assert all(line.isascii() for subject, _, _ in world.broker.published for line in [subject])


async def test_a_fleets_and_a_gateways_name_may_be_any_text(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        nats = await world.nats()
        async with (
            Gateway(nats, "a.>", name="* \n", prefix="p.q") as gateway,
            Fleet(nats, "a.>", prefix="p.q") as fleet,
            Fleet(nats, "a", prefix="p.q") as other,
            Device("lamp").at(gateway),
        ):
            assert (await fleet.device("lamp").request({"n": 1}))["echo"] == 1
            assert [info.name for info in await fleet.gateways()] == ["* \n"]
            assert await other.devices() == {}
