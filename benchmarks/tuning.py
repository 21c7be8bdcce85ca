"""Ways to set Python's collector in a process that is about to serve, by name."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

from psession import tune_gc

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = "as Python has it"
TUNED = "tune_gc()"


def _leave() -> None:
    """Start from a collected heap, as the other ways do."""
    gc.collect()


def _freeze(*thresholds: int) -> None:
    gc.collect()
    gc.freeze()
    if thresholds:
        gc.set_threshold(*thresholds)


def _thresholds(*thresholds: int) -> tuple[str, Callable[[], object]]:
    return f"gc.freeze(), {', '.join(map(str, thresholds))}", partial(_freeze, *thresholds)


TUNINGS: dict[str, Callable[[], object]] = dict(
    [
        (PYTHON, _leave),
        ("gc.freeze() alone", _freeze),
        (TUNED, tune_gc),
        _thresholds(10_000, 10, 10),
        _thresholds(50_000, 10, 10),
    ]
)
