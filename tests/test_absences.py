"""Ports that wait for their peers: how many may, of one address and in all, and which is given up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psession import Budget
from psession.absences import Absence, Absences, host_of


def waits(absences: Absences, *hosts: str | None) -> tuple[list[Absence], list[int]]:
    """Let ports wait for peers at these hosts. Return them, and the places of those given up, as it happens."""
    given_up: list[int] = []
    made: list[Absence] = []
    for place, host in enumerate(hosts):

        def give_up(why: str, place: int = place) -> None:
            given_up.append(place)

        made.append(Absence(give_up))
        absences.enter(made[-1], host)
    return made, given_up


def test_the_one_that_has_waited_longest_is_given_up() -> None:
    absences = Absences(3, 3)
    made, given_up = waits(absences, "a", "b", None, "c", "d")
    assert (given_up, len(absences), absences.given_up) == ([0, 1], 3, 2)
    for absence in made:
        absences.leave(absence)
    assert (len(absences), absences._by_host) == (0, {})


def test_among_those_of_an_address_with_too_many_it_is_one_of_these() -> None:
    absences = Absences(9, 2)
    _, given_up = waits(absences, "honest", "a", "a", "a", None, None, None, "a", "honest")
    assert (given_up, len(absences)) == ([1, 2], 7)


def test_a_reason_names_the_limit_and_the_address() -> None:
    reasons: list[str] = []
    absences = Absences(2, 1)
    for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"):
        absences.enter(Absence(reasons.append), host)
    assert reasons == [
        "of all ports that waited for a peer at 192.0.2.1 to come back this one had waited longest "
        "(absent_ports_per_address=1)",
        "of all ports that waited for their peers to come back this one had waited longest (absent_ports=2)",
    ]


def test_a_port_waits_once_however_often_that_is_said() -> None:
    absences = Absences(1, 1)
    made, given_up = waits(absences, "a")
    absences.enter(made[0], "b")
    assert (len(absences), given_up) == (1, [])
    absences.leave(made[0])
    absences.leave(made[0])
    assert len(absences) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", None]))), st.integers(1, 4), st.integers(1, 4))
def test_no_history_leaves_more_than_may_wait(deeds: list[tuple[int, str | None]], most: int, of_each: int) -> None:
    absences = Absences(most, of_each)
    present: dict[int, tuple[Absence, str | None]] = {}
    for number, host in deeds:
        if number in present:
            absences.leave(present.pop(number)[0])
        else:
            absence = Absence(lambda why, number=number: present.pop(number) and None)  # type: ignore[misc]
            present[number] = absence, host
            absences.enter(absence, host)
        assert len(absences) == len(present) <= most
        for one in ("a", "b"):
            assert [host for _, host in present.values()].count(one) <= of_each
    for absence, _ in list(present.values()):
        absences.leave(absence)
    assert (len(absences), absences._by_host) == (0, {})


@pytest.mark.parametrize(
    ("remote", "host"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2a00:1450:4001:82a::200e", 5, 0, 0), "2a00:1450:4001:82a::/64"),
        (("2a00:1450:4001:82a:1:2:3:4", 5, 0, 0), "2a00:1450:4001:82a::/64"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::1%eth0"),
        (("::1", 5, 0, 0), "::1"),
        (("lamp.local", 5), "lamp.local"),
        ("/run/socket", None),
        (("", 5), None),
        ((5,), None),
        ((), None),
        (None, None),
    ],
)
def test_the_host_of_an_address(remote: Any, host: str | None) -> None:
    assert host_of(remote) == host


@pytest.mark.parametrize("name", ["absent_ports", "absent_ports_per_address"])
@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1"])
def test_a_limit_is_a_whole_number(name: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        Budget(**{name: wrong})
