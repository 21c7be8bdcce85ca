"""The seed decides what happens to each message, and nothing else does."""

import math
from typing import Any

import pytest
import trio
import trio.testing

from psession.channels import memory_pair
from psession.testing import lossy

from .networks import FAULTS, carry


async def test_the_same_seed_gives_the_same_faults_whatever_the_timing(autojump_clock: trio.testing.MockClock) -> None:
    messages = list(range(200))
    _, fast = await carry(messages, seed=7, **FAULTS)
    _, slow = await carry(messages, seed=7, pause=0.37, **FAULTS)
    _, tight = await carry(messages, seed=7, max_in_flight=1, **FAULTS)
    assert list(fast.log) == list(slow.log) == list(tight.log)
    assert [event.time for event in fast.log] != [event.time for event in slow.log]


async def test_another_seed_gives_other_faults(autojump_clock: trio.testing.MockClock) -> None:
    _, one = await carry(list(range(50)), seed=7, **FAULTS)
    _, other = await carry(list(range(50)), seed=8, **FAULTS)
    assert list(one.log) != list(other.log)


async def test_one_direction_does_not_disturb_the_faults_of_the_other(autojump_clock: trio.testing.MockClock) -> None:
    _, alone = await carry(list(range(50)), seed=7, **FAULTS)
    left, right = memory_pair()
    async with lossy(left, seed=7, **FAULTS) as link:
        for number in range(50):
            await link.send(number)
            await right.send(-number)
        await trio.sleep(5)
    assert [event for event in link.log if event.direction == "send"] == list(alone.log)
    received = [event for event in link.log if event.direction == "receive"]
    assert len(received) == 50
    assert [event.dropped for event in received] != [event.dropped for event in alone.log]


async def test_higher_probabilities_keep_the_faults_of_lower_ones(autojump_clock: trio.testing.MockClock) -> None:
    _, few = await carry(list(range(100)), seed=7, drop=0.1)
    _, many = await carry(list(range(100)), seed=7, drop=0.4)
    assert {event.number for event in few.log if event.dropped} < {event.number for event in many.log if event.dropped}


async def test_a_seed_means_the_same_on_every_machine(autojump_clock: trio.testing.MockClock) -> None:
    got, link = await carry(list(range(12)), seed=2024, drop=0.25, duplicate=0.25)
    assert [event.number for event in link.log if event.dropped] == [2, 5, 6, 7, 11, 12]
    assert got == [0, 2, 3, 7, 8, 9]


async def test_the_rates_are_those_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    _, link = await carry(list(range(2000)), seed=1, drop=0.2, duplicate=0.1, reorder=0.05)
    tally = link.statistics()["send"]
    assert (tally.messages, tally.dropped, tally.duplicated, tally.reordered) == (2000, 396, 152, 79)
    assert str(tally) == "2000 (396 dropped, 152 duplicated, 79 reordered)"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *[
            ({name: value}, ValueError)
            for name in ("drop", "duplicate", "reorder", "disconnect")
            for value in (-0.1, 1.1)
        ],
        ({"drop": math.nan}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": math.inf}, ValueError),
        ({"delay": (2, 1)}, ValueError),
        ({"delay": (1, 2, 3)}, TypeError),
        ({"delay": "1"}, TypeError),
        ({"directions": "up"}, ValueError),
        ({"reorder_within": 0}, ValueError),
        ({"max_in_flight": 0}, ValueError),
        ({"log_limit": 0}, ValueError),
        ({"close_timeout": -1}, ValueError),
        ({"seed": None}, TypeError),
    ],
    ids=str,
)
async def test_what_makes_no_network_is_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    left, _right = memory_pair()
    (name,) = wrong
    with pytest.raises(error, match=name):
        async with lossy(left, **{"seed": 1, **wrong}):
            raise AssertionError
