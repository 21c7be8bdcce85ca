"""Waits that grow: the formula, its cap, its random share, and that no number of attempts is too large for it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psession.protocol.backoff import Backoff

LUCK = st.floats(0, 1)
ATTEMPTS = st.integers(0, 60)
BACKOFFS = st.builds(
    Backoff,
    interval=st.floats(1e-6, 1e6) | st.just(0.0),
    factor=st.floats(1, 1e3),
    cap=st.floats(0, 1e9) | st.just(math.inf),
    jitter=st.floats(0, 10),
)


def test_each_wait_is_the_last_one_times_the_factor_up_to_the_cap() -> None:
    backoff = Backoff(0.1, factor=2, cap=1)
    assert [backoff.wait(attempt, 0) for attempt in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_random_share_is_added_after_the_cap() -> None:
    backoff = Backoff(1, factor=2, cap=3, jitter=0.5)
    assert [backoff.wait(attempt, 1) for attempt in range(4)] == [1.5, 3.0, 4.5, 4.5]
    assert backoff.wait(5, 0.5) == 3 * 1.25


def test_a_factor_of_one_keeps_the_wait_the_same() -> None:
    assert {Backoff(2, factor=1).wait(attempt, 0.3) for attempt in (0, 1, 1000, 10**400)} == {2.0}


@pytest.mark.parametrize("attempt", [1023, 1024, 10**6, 10**400])
@pytest.mark.parametrize("factor", [2, 2.0, 1.5, 1e300])
def test_no_attempt_is_too_large(factor: float, attempt: int) -> None:
    assert Backoff(0.1, factor=factor, cap=30, jitter=0.5).wait(attempt, 1) == 45
    assert Backoff(0, factor=factor).wait(attempt, 1) == 0
    if attempt > 2000:
        assert Backoff(0.1, factor=factor).wait(attempt, 0) == math.inf


def test_a_wait_without_end_is_without_end_or_as_long_as_the_cap() -> None:
    assert Backoff(math.inf, jitter=0.5).wait(0, 0) == math.inf
    assert Backoff(math.inf, cap=5).wait(3, 0) == 5


@given(BACKOFFS, ATTEMPTS, LUCK)
def test_a_wait_is_what_the_formula_says(backoff: Backoff, attempt: int, luck: float) -> None:
    plain = min(backoff.cap, backoff.interval * backoff.factor**attempt)
    assert backoff.wait(attempt, luck) == plain * (1 + backoff.jitter * luck)


@given(BACKOFFS, st.integers(0, 10**30), LUCK)
def test_a_wait_is_bounded_and_never_shrinks(backoff: Backoff, attempt: int, luck: float) -> None:
    wait = backoff.wait(attempt, luck)
    assert 0 <= wait <= backoff.cap * (1 + backoff.jitter)
    assert wait <= backoff.wait(attempt + 1, luck)
    assert backoff.wait(attempt, 0) <= wait <= backoff.wait(attempt, 1)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"interval": -0.1}, ValueError, "interval must be 0 or more, not -0.1"),
        ({"interval": math.nan}, ValueError, "interval must be 0 or more, not nan"),
        ({"interval": "1"}, TypeError, "interval must be a number, not '1'"),
        ({"interval": True}, TypeError, "interval must be a number, not True"),
        ({"interval": 10**400}, ValueError, "interval must be math.inf for no limit, not an integer past 2..53"),
        ({"factor": 0.5}, ValueError, "factor must be 1 or more, not 0.5"),
        ({"factor": math.inf}, ValueError, "factor must be finite, not inf"),
        ({"factor": 10**400}, ValueError, "factor must be finite, not 1000"),
        ({"cap": -1}, ValueError, "cap must be 0 or more, not -1"),
        ({"cap": None}, TypeError, "cap must be a number, not None"),
        ({"jitter": -1}, ValueError, "jitter must be 0 or more, not -1"),
        ({"jitter": math.inf}, ValueError, "jitter must be finite, not inf"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(wrong: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Backoff(**{"interval": 1.0} | wrong)


@pytest.mark.parametrize(
    ("attempt", "luck", "text"),
    [(-1, 0.5, "attempt must be 0 or more"), (0, 1.1, "from 0 to 1, not 1.1"), (0, math.nan, "from 0 to 1, not nan")],
)
def test_an_attempt_or_a_luck_that_is_none_is_refused(attempt: int, luck: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Backoff(1.0).wait(attempt, luck)


def test_it_is_a_value() -> None:
    backoff = Backoff(1, jitter=0.5)
    assert backoff == Backoff(1, jitter=0.5)
    assert len({backoff, Backoff(1, jitter=0.5)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        backoff.interval = 2  # type: ignore[misc]
