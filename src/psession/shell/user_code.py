"""Calls of the user's code: Ctrl-C may interrupt it as it may any other, whatever called it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

OVER: Final = object()
"""The end of a generator."""


@trio.lowlevel.disable_ki_protection
def call(function: Callable[[Any], object], argument: object) -> object:
    """Call the user's function."""
    return function(argument)


@trio.lowlevel.disable_ki_protection
async def await_(result: Awaitable[object]) -> object:
    """Await the user's coroutine."""
    return await result


@trio.lowlevel.disable_ki_protection
async def next_(parts: AsyncGenerator[object, None]) -> object:
    """Await the next value of the user's generator, `OVER` after the last."""
    return await anext(parts, OVER)
