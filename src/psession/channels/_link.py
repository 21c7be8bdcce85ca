"""One link of a channel that reopens: a task that opens it, keeps it and closes it."""

from __future__ import annotations

import inspect
import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession.nursery import close_forcefully, close_quietly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession.channels._reconnect_options import Connect

log = logging.getLogger("psession")


class Link:
    """A link from the first step of its opening to the last of its closing.

    `run` is a task of its own: an async context manager with a nursery inside must be entered and left by the same
    task, and the tasks that use a link come and go. It is shielded, as a port's tasks are: it ends when it is told to.

    Attributes:
        channel: The open channel, once there is one.
        error: Why there is none, or what its context raised.
        opened_at: The moment it opened.
        lost: Whether somebody has found it broken.
        settled: Set when it is open, or will never be.
        gone: Set when nothing of it is left.
    """

    def __init__(self, connect: Connect, timeout: float) -> None:
        self.channel: trio.abc.Channel[Any] | None = None
        self.error: Exception | None = None
        self.opened_at = math.nan
        self.lost = False
        self.settled = trio.Event()
        self.gone = trio.Event()
        self._connect = connect
        self._timeout = timeout
        self._told = trio.Event()
        self._scope = trio.CancelScope(shield=True)

    def leave(self) -> None:
        """Let it be closed, politely; `gone` is set when it is."""
        self._told.set()

    async def drop(self) -> None:
        """Close it at once, without a goodbye, also where everything around is cancelled; return when it is gone."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self.gone.wait()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Open it within the time for that, keep it open until it is told to leave or is dropped, close it."""
        # One scope for both: one around the opening alone would be left before those that the context opened within.
        self._scope.deadline = trio.current_time() + self._timeout
        try:
            with self._scope:
                await self._keep()
        except Exception:
            if self.channel is not None:  # else it is for who wanted the link
                log.debug("the context of a link failed", exc_info=True, extra={"event_name": "link_context_failed"})
        finally:
            if self.channel is None and self.error is None:
                self.error = TimeoutError(f"no link in {self._timeout:g} s")
            self.settled.set()
            self.gone.set()

    async def _keep(self) -> None:
        try:
            async with _opened(self._connect) as channel:
                await trio.lowlevel.checkpoint_if_cancelled()  # a deadline that has passed is none to be lifted
                self._scope.deadline = math.inf
                self.opened_at = trio.current_time()
                self.channel = channel
                self.settled.set()
                await self._told.wait()
        except Exception as error:
            self.error = error
            raise
        finally:
            # Whoever waits in the channel must hear of it, even if the context failed by itself and did not close it.
            if self.channel is not None:
                await (close_quietly if self._told.is_set() else close_forcefully)(self.channel)


@asynccontextmanager
async def _opened(connect: Connect) -> AsyncIterator[trio.abc.Channel[Any]]:
    """Open what `connect` gives, in either of its two forms.

    Raises:
        TypeError: It gives no channel.
    """
    given: object = connect()
    if hasattr(type(given), "__aenter__"):
        async with given as channel:  # type: ignore[attr-defined]
            yield _checked(channel)
    elif inspect.isawaitable(given):
        channel = await given
        try:
            yield _checked(channel)
        except BaseException:
            if isinstance(channel, trio.abc.AsyncResource):  # a stream, say: nobody else would close it
                await close_forcefully(channel)
            raise
    else:
        _checked(given)


def _checked(channel: object) -> trio.abc.Channel[Any]:
    if isinstance(channel, trio.abc.Channel):
        return channel
    hint = (
        ": make messages of its bytes with lines() or length_prefixed()" if isinstance(channel, trio.abc.Stream) else ""
    )
    raise TypeError(
        "connect must give a trio.abc.Channel, as an async context manager or as what it returns when awaited, "
        f"not {channel!r}{hint}"
    )
