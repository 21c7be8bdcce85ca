"""How much is tried at random. The suite is for a desk, and takes a share; `nox -s thorough` takes many times that."""

from __future__ import annotations

import os
from typing import Final

EFFORT: Final = float(os.environ.get("PSESSION_EFFORT", "0.3"))
"""The share of the examples, seeds and places that a test names."""


def examples(most: int) -> int:
    """That share of `most`, at least two."""
    return max(2, round(most * EFFORT))
