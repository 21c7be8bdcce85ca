"""A turn of an asyncio task's: it is asked, and woken, without a Trio task and without a step of Trio's scheduler.

The two loops share a thread, so what is synchronous in the shell may be done by either.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from psession.shell.handler_scope import answering
from psession.shell.turn import Turn
from psession.shell.waiting import LOOK_AGAIN

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psession.shell.busy_wait import BusyWait
    from psession.shell.live_session import LiveSession
    from psession.shell.waiting import Delivery

_pass = partial(asyncio.sleep, 0)


class AsyncioTurn(Turn):
    """A turn that an asyncio task waits for."""

    __slots__ = ("_future", "_loop")

    cancelled: ClassVar[type[BaseException]] = asyncio.CancelledError

    def __init__(self, live: LiveSession, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(live)
        self._loop = loop
        self._future: asyncio.Future[Delivery] | None = None

    @staticmethod
    async def checkpoint_if_cancelled() -> None:
        """Do nothing: a task of asyncio's that is cancelled does not come here."""

    def caller_due(self) -> float:
        """The moment at which the caller's asker gives up, where it is a handler; asyncio shows no deadlines."""
        handler = answering.get()
        if handler is None:
            return math.inf
        handler.show_deadline()
        return handler.scope.deadline

    def look_awake(self, busy: BusyWait) -> Awaitable[bool]:
        """Look for the reply for a while, in passes of asyncio's."""
        return busy.until(self.look, _pass, _pass)

    async def park(self) -> Any:
        """Wait for the outcome, or for `SILENCE`."""
        future = self._future = self._loop.create_future()
        try:
            return (await future).unwrap()
        finally:
            self._future = None

    async def _reply_at_once(self) -> Any:
        await asyncio.sleep(0)
        return self.reply_in_hand()

    def wake(self, outcome: Delivery) -> None:
        """Give the waiting task its outcome, or keep that until the task looks."""
        future = self._future
        if future is None or future.done():
            self.outcome = outcome
        else:
            future.set_result(outcome)

    def nudge(self) -> None:
        """Have the waiting task look again."""
        future = self._future
        if future is not None and not future.done():
            future.set_result(LOOK_AGAIN)
