"""A nursery that does not show, and channels closed without a word: what the body raises comes out as it is."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


log: logging.Logger = logging.getLogger("psession")


@asynccontextmanager
async def open_quiet_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for the tasks behind a block of the user's.

    One failure, of the body or of a task, is raised bare, the same object; more than one as an `ExceptionGroup`. A
    `trio.Cancelled` beside a real error yields to it.
    """
    failures: list[BaseException] = []
    cancelled: list[BaseException] = []
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            try:
                yield nursery
            except BaseException as error:
                if _holds_cancelled(error):
                    cancelled.append(error)
                    raise  # the nursery knows which cancellations are its own
                # Kept from the nursery, which would wrap it, and would make new groups of the user's own.
                failures.append(error)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failures.extend(group.exceptions)
    real = [error for error in failures if not isinstance(error, trio.Cancelled)]
    try:
        if len(real) > 1:
            raise BaseExceptionGroup("a block and a task behind it failed", real)
        if failures:
            raise (real or cancelled or failures)[0]
    finally:
        # The errors keep this frame, which keeps these lists: without this each failure is a cycle.
        for errors in (real, cancelled, failures):
            errors.clear()


def _holds_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)


def in_trio_run() -> bool:
    """Return True in a thread that runs Trio; ``trio.lowlevel`` has such a function since Trio 0.27."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def in_trio_task() -> bool:
    """Return True in a task of Trio's; so has it this one."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def check_on_trio(what: str) -> None:
    """Refuse what needs a Trio task around it.

    Raises:
        RuntimeError: There is none; it says what to do.
    """
    if not in_trio_task():
        raise RuntimeError(
            f"{what} runs on Trio, and its caller does not: from asyncio open it through psession.asyncio.bridge(), "
            "from a thread by psession.blocking.open_port()"
        )


async def close_quietly(channel: trio.abc.AsyncResource) -> None:
    """Close a channel whose user has their error, if any, already: one more would belong to nobody."""
    try:
        await channel.aclose()
    except Exception:
        log.debug("closing %r failed", channel, exc_info=True, extra={"event_name": "close_failed"})


async def close_forcefully(channel: trio.abc.AsyncResource) -> None:
    """The same at once, without a goodbye, also where everything around is cancelled."""
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        await close_quietly(channel)
