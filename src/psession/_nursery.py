"""A nursery that does not show: what its body raises comes out as it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_quiet_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for the tasks behind a block of the user's.

    One failure, of the body or of a task, is raised bare, the same object; more than one as an `ExceptionGroup`. A
    `trio.Cancelled` beside a real error yields to it.
    """
    body: list[BaseException] = []
    failures: list[BaseException] = []
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            try:
                yield nursery
            except BaseException as error:
                body.append(error)
                raise
    except BaseExceptionGroup as group:
        failures.extend(group.exceptions)
    real = [error for error in failures if not isinstance(error, trio.Cancelled)]
    try:
        if len(real) > 1:
            raise BaseExceptionGroup("a block and a task behind it failed", real)
        if failures:
            raise real[0] if real else (body or failures)[0]
    finally:
        # The errors keep this frame, which keeps these lists: without this each failure is a cycle.
        for errors in (real, body, failures):
            errors.clear()
