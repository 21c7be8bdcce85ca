"""Checks of what a caller passes: each says what was wrong, and what would be right. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection

LARGEST: Final = 2**53 - 1
"""ECMA-262, Number.MAX_SAFE_INTEGER: RFC 8259, section 6, recommends no integer past it in JSON."""

ALIKE: Final = 0.7
"""How much two names have in common where one is meant for the other: two letters changed places in one of four."""


def seconds(name: str, value: object) -> None:
    """Refuse a value that is no duration: bool, NaN, negative, not a number."""
    kind = type(value)
    if (kind is float and value >= 0) or (kind is int and 0 <= value <= LARGEST):  # type: ignore[operator]
        return  # as in nearly every call
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if isinstance(value, int) and value > LARGEST:
        raise ValueError(f"{name} must be math.inf for no limit, not an integer past 2**53")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more seconds (math.inf for no limit), not {value!r}")


def count(name: str, value: object) -> None:
    """Refuse a value that is no size: bool, below 1, a fraction."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value!r}")


def retries(name: str, value: object) -> None:
    """Refuse a value that is no number of retries: bool, negative, a fraction."""
    if value == math.inf:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number (or math.inf for no limit), not {value!r}")
    if not 0 <= value <= LARGEST:
        raise ValueError(f"{name} must be 0 or more (math.inf for no limit), and no integer past 2**53")


def number(name: str, value: object, *, at_least: float, or_inf: bool = False) -> None:
    """Refuse a value that is no number of a range: bool, NaN, a text, too little, infinity where that is no sense."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    # An integer past what a float holds counts as infinite: it would overflow in the arithmetic.
    size = math.inf if isinstance(value, int) and value > 2**53 else value
    if not size >= at_least:
        raise ValueError(f"{name} must be {at_least:g} or more, not {value!r}")
    if size == math.inf and not (or_inf and isinstance(value, float)):
        limit = "math.inf for no limit, not an integer past 2**53" if or_inf else f"finite, not {value!r:.40}"
        raise ValueError(f"{name} must be {limit}")


def flag(name: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def exceptions(name: str, value: object) -> None:
    """Refuse a value that is no tuple of exception classes."""
    if not isinstance(value, tuple) or not all(isinstance(one, type) and issubclass(one, Exception) for one in value):
        raise TypeError(f"{name} must be a tuple of Exception classes, not {value!r}")


def one_of(name: str, value: object, choices: Any, *, or_callable: bool = False) -> None:
    """Refuse a value that is none of a `Literal`'s, nor a callable where one is allowed."""
    allowed = choices.__args__
    if value not in allowed and not (or_callable and callable(value)):
        extra = " or a callable" if or_callable else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}{extra}, not {value!r}")


def no_option(unknown: Collection[str], known: Collection[str], whose: str = "") -> TypeError:
    """An error for options that do not exist: it says which are meant or, where that is not clear, what there is."""
    from difflib import get_close_matches  # for this error alone

    near = [match for name in sorted(unknown) for match in get_close_matches(name, known, 1, ALIKE)]
    right = f"did you mean {', '.join(near)}?" if len(near) == len(unknown) else f"there are {', '.join(sorted(known))}"
    return TypeError(f"{whose}no such option: {', '.join(sorted(unknown))}; {right}")
