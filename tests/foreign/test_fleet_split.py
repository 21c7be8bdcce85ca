"""A fleet over a cluster of NATS that splits and becomes one again: two gateways believe that they have one device."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import pytest
import trio

from psession.brokers.nats import open_nats
from psession.fleet import DeviceNotFoundError, Fleet, Gateway

from ..fleet.fleets import Device, until
from .fleet_part import outcome_of
from .nats_servers import a_cluster_that_splits

if TYPE_CHECKING:
    from pathlib import Path

    from psession import Port

pytestmark = pytest.mark.foreign

LONGEST = 90.0
CLAIMED_AGAIN = 1.0
"""Seconds, in place of 30: what is measured is that the gateways find out by their claims."""


@pytest.mark.parametrize("how", ["closed", "stalled"])
@pytest.mark.parametrize("which", ["newest", "oldest"])
async def test_a_device_that_moved_while_the_cluster_was_split_is_at_its_newer_place_when_it_is_one_again(
    which: str, how: Literal["closed", "stalled"], tmp_path: Path
) -> None:
    """The first node is alone, with a gateway and an asker; the others have a gateway at one and an asker at the other.

    A route is cut by closing it, which the nodes notice, or by letting nothing through, which they do not.
    """
    lamp = Device("lamp")
    outcomes: dict[str, str] = {}
    with trio.fail_after(LONGEST):
        async with (
            a_cluster_that_splits(tmp_path, which) as cluster,
            open_nats(cluster.nodes[0].url) as alone,
            open_nats(cluster.nodes[1].url) as together,
            open_nats(cluster.nodes[0].url) as asking_here,
            open_nats(cluster.nodes[2].url) as asking_there,
            Gateway(alone, "split", name="one", announce_interval=CLAIMED_AGAIN) as one,
            Gateway(together, "split", name="two", announce_interval=CLAIMED_AGAIN) as two,
            Fleet(asking_here, "split") as here,
            Fleet(asking_there, "split") as there,
            trio.open_nursery() as nursery,
        ):
            old: Port = await nursery.start(connect, lamp, one)
            for fleet in (here, there):
                await until_found(fleet)

            over = trio.Event()

            async def load(side: str, fleet: Fleet, worker: int) -> None:
                number = 0
                while not over.is_set():
                    id = f"{side} {worker} {number}"
                    number += 1
                    outcomes[id] = await outcome_of(fleet.device("lamp").request({"n": id, "wait": 0.01}, timeout=20))
                    await trio.sleep(0.005)

            async with trio.open_nursery() as loads:
                for worker in range(4):
                    loads.start_soon(load, "here", here, worker)
                    loads.start_soon(load, "there", there, worker)
                await trio.sleep(0.5)
                cluster.split(how)
                await trio.sleep(0.5)
                new: Port = await nursery.start(connect, lamp, two)  # its old connection still looks well
                for side, gateway in (("here", one), ("there", two)):  # neither hears of the other
                    before = answered(outcomes)[side]
                    with trio.fail_after(15):  # a link that is stalled is given up in 6 s
                        await until(lambda side=side, before=before: answered(outcomes)[side] > before + 20)
                    assert list(gateway.devices) == ["lamp"]
                await trio.sleep(CLAIMED_AGAIN)
                assert (list(one.devices), list(two.devices)) == (["lamp"], ["lamp"])
                assert one.devices["lamp"] < two.devices["lamp"]
                assert not old.closed

                cluster.heal()
                with trio.fail_after(30):
                    await until(lambda: "lamp" not in one.devices)
                await trio.sleep(1.0)
                over.set()
            assert old.closed
            assert not new.closed
            assert one.statistics().given_up == 1
            for fleet in (here, there):
                await until_found(fleet)
                epoch = (await fleet.devices())["lamp"]
                assert epoch == two.devices["lamp"]
                assert epoch.gateway == two.id
                answer = await fleet.device("lamp").request({"n": f"last {fleet is here}"}, timeout=5)
                assert answer["by"] == "lamp"
            nursery.cancel_scope.cancel()
    ran = Counter(message["n"] for message in lamp.did)
    untrue = {
        id: (outcome, ran[id])
        for id, outcome in outcomes.items()
        if not {"answered": ran[id] == 1, "sent": ran[id] <= 1}.get(outcome, not ran[id])
    }
    assert untrue == {}
    assert max(ran.values()) == 1
    assert set(outcomes.values()) <= {"answered", "sent", "not_sent", "refused"}


def answered(outcomes: dict[str, str]) -> Counter[str]:
    """The answers that each side got so far."""
    return Counter(id.split()[0] for id, outcome in outcomes.items() if outcome == "answered")


async def connect(lamp: Device, gateway: Gateway, task_status: trio.TaskStatus[Port]) -> None:
    """Be at a gateway, until the test is over."""
    async with lamp.at(gateway) as port:
        task_status.started(port)
        await trio.sleep_forever()


async def until_found(fleet: Fleet) -> None:
    """Wait until the device can be asked: the nodes tell each other who has subscribed to what."""
    while True:
        try:
            await fleet.device("lamp").request({"n": f"found {id(fleet)} {trio.current_time()}"}, timeout=5)
        except DeviceNotFoundError:
            await trio.sleep(0.05)
        else:
            return
