"""`tune_gc` sets Python's collector for a server, and can be undone."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

import psession
from psession.collector import THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What was frozen stays so, as tests/conftest.py has it."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_it_freezes_what_there_is_and_says_what_was_set_before() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    kept = [[n] for n in range(2000)]
    assert psession.tune_gc() == before
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > frozen + len(kept)
    assert gc.isenabled()


def test_circles_of_before_are_collected_by_it_and_later_ones_by_themselves() -> None:
    class Circle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            gone.append(self)

    gone: list[object] = []
    Circle()
    psession.tune_gc()
    assert len(gone) == 1
    gone.clear()
    Circle()
    kept = [[n] for n in range(THRESHOLDS[0] * 2)]
    assert len(gone) == 1, len(kept)
