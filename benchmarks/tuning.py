"""Ways to set Python's collector, for programs that are about to serve."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def leave() -> None:
    """As Python comes."""


def freeze(*threshold: int) -> None:
    """Keep what there is out of every collection; look at the rest by these thresholds."""
    gc.collect()
    gc.freeze()
    if threshold:
        gc.set_threshold(*threshold)


TUNINGS: dict[str, Callable[[], object]] = {
    "python": leave,
    "off": gc.disable,
    "freeze": freeze,
    **{f"t{a}-{b}-{c}": partial(gc.set_threshold, a, b, c) for a in (5000,10000,50000,100000) for b,c in ((10,10),(50,1000), (20,100))},
    **{f"f{a}-{b}-{c}": partial(freeze, a, b, c) for a in (700, 2000, 5000, 10000, 20000, 50000, 100000) for b,c in ((10,10),(50,1000), (20,100),(10,1000))},
}
