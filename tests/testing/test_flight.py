"""What is in the air lands when it is due, and a reordered message waits for those it lets go ahead."""

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import psession.testing
from psession.testing import NetworkEvent
from psession.testing._flight import Flight

PURE = ["_events.py", "_faults.py", "_flight.py"]
IMPURE = {"trio", "random", "time", "logging", "socket"}


def land(flight: Flight, now: float) -> list[int]:
    """The numbers of what has landed."""
    return [event.number for event, _ in flight.land(now)]


def launch(flight: Flight, now: float, *events: NetworkEvent) -> None:
    """Let them set out together."""
    for event in events:
        flight.launch(now, event, None)


def event(number: int, delay: float = 0.0, reordered: int = 0) -> NetworkEvent:
    return NetworkEvent(number, "send", number, delayed_by=delay, reordered=reordered)


def test_nothing_is_in_the_air_at_first() -> None:
    flight = Flight(0.1)
    assert (len(flight), flight.next_landing(), flight.land(math.inf)) == (0, math.inf, [])


def test_what_is_due_earlier_lands_earlier() -> None:
    flight = Flight(0.1)
    launch(flight, 1.0, event(1, 0.5), event(2, 0.25), event(3, 0.5))
    assert (flight.next_landing(), land(flight, 1.2)) == (1.25, [])
    assert land(flight, 1.25) == [2]
    assert (land(flight, 2.0), len(flight)) == ([1, 3], 0)


def test_a_reordered_message_lets_as_many_go_ahead_as_was_decided() -> None:
    flight = Flight(0.1)
    launch(flight, 0.0, event(1, reordered=2), event(2), event(3), event(4))
    assert land(flight, 0.0) == [2, 3, 1, 4]


def test_a_reordered_message_waits_no_longer_than_it_may() -> None:
    flight = Flight(0.1)
    launch(flight, 0.0, event(1, reordered=2), event(2))
    assert (land(flight, 0.0), flight.next_landing()) == ([2], 0.1)
    assert (land(flight, 0.1), len(flight)) == ([1], 0)


def test_where_all_are_reordered_all_still_move() -> None:
    flight = Flight(0.1)
    launch(flight, 0.0, event(1, reordered=3), event(2, reordered=1), event(3, reordered=3), event(4, reordered=1))
    assert (land(flight, 0.0), land(flight, 0.1)) == ([2, 1], [3, 4])


def test_what_is_lost_does_not_get_into_the_air() -> None:
    flight = Flight(0.1)
    launch(flight, 0.0, NetworkEvent(1, "send", 1, dropped=True), NetworkEvent(2, "send", 2, disconnected=True))
    assert len(flight) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2), st.integers(0, 3), st.booleans()), max_size=30))
def test_every_copy_lands_once_at_its_time_or_a_little_later(story: list[tuple[float, float, int, bool]]) -> None:
    flight, now = Flight(0.5), 0.0
    latest: dict[int, float] = {}
    landed: list[int] = []

    def land_until(end: float) -> None:
        while len(flight) and (moment := flight.next_landing()) <= end:
            landed.extend(numbers := land(flight, moment))
            assert all(moment <= latest[number] for number in numbers)

    for number, (pause, delay, reordered, twice) in enumerate(story, start=1):
        now += pause
        land_until(now)
        launch(flight, now, NetworkEvent(number, "send", None, delayed_by=delay, reordered=reordered, duplicated=twice))
        latest[number] = now + delay + 0.5
    land_until(math.inf)
    assert sorted(landed) == sorted(number for number, (*_, twice) in enumerate(story, 1) for _ in range(1 + twice))


@pytest.mark.parametrize("room", PURE)
def test_the_rules_of_bad_networks_are_pure(room: str) -> None:
    tree = ast.parse((Path(psession.testing.__file__).parent / room).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & IMPURE
