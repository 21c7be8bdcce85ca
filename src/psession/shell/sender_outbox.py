"""The queue of a port over a plain callable. See `outbox`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncContextDecorator, ContextDecorator
from typing import TYPE_CHECKING, Any

import trio

from psession.message import flat
from psession.shell.outbox import Outbox, Sending, Ticket
from psession.shell.user_code import await_, call

if TYPE_CHECKING:
    from psession.protocol.counters import Counters


class SenderOutbox(Outbox):
    """Calls a plain callable with each message: a synchronous one at once, an async one from the writer task.

    What the callable raises belongs to the caller of that message alone.
    """

    __slots__ = ("_is_async", "_sender")

    def __init__(
        self,
        sender: Callable[[Any], object],
        limit_bytes: int,
        counters: Counters,
        start: Callable[[], None],
        most_waiting_bytes: float = math.inf,
        on_waiting: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(limit_bytes, counters, start, most_waiting_bytes, on_waiting)
        self._sender = sender
        call = getattr(sender, "__call__", sender)  # noqa: B004 - an object whose __call__ is async counts as async
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(getattr(sender, "func", sender))) or (
            inspect.iscoroutinefunction(call)
        )

    def encode(self, message: Any) -> Any:
        """Make one object of a payload and its fields."""
        return flat(message)

    def put(self, frame: Any, turn: Sending | None, *, at_once: bool = False) -> Ticket | None:
        """Call the sender, or have the writer task do so."""
        if self._is_async:
            return self._put_down(frame, turn)
        self._counters.sent += 1
        if turn is not None:
            turn.sent += 1
        result = call(self._sender, frame)
        if result is None or not inspect.isawaitable(result):
            return None
        self._is_async = True  # from now on it is called when the writer is there to await it, so that it can wait
        return self._put_down(result, turn, written=True)

    def _put_down(self, frame: Any, turn: Sending | None, *, written: bool = False) -> Ticket:
        done = trio.Event() if turn is None else None  # a post waits for the sender, whose error is the poster's
        return self._enqueue(frame, turn, written=written, done=done)

    async def _written(self, ticket: Ticket) -> None:
        assert ticket.done is not None
        try:
            await ticket.done.wait()
        finally:
            self.withdraw(ticket)
        if ticket.error is not None:
            raise ticket.error

    async def _write(self, batch: list[Ticket]) -> None:
        for ticket in batch:
            try:
                result = ticket.frame if inspect.isawaitable(ticket.frame) else call(self._sender, ticket.frame)
                if inspect.isawaitable(result):
                    await await_(result)
            except Exception as error:
                ticket.error = error
                if ticket.turn is not None:
                    ticket.turn.sender_failed(error)
            finally:
                if ticket.done is not None:
                    ticket.done.set()

    def discard(self) -> None:
        """Drop what is queued, and close what nobody awaits any more."""
        for ticket in self._queue:
            if ticket.written and inspect.iscoroutine(ticket.frame):
                ticket.frame.close()
        super().discard()


def is_sender(thing: object) -> bool:
    """Return True if `thing` is a plain callable: no channel, and no context that gives one when it is entered.

    What `contextlib.asynccontextmanager` makes is a decorator as well, so it can be called: with a message it would
    return a function, and send nothing.
    """
    return callable(thing) and not hasattr(thing, "receive") and not isinstance(thing, _DECORATORS)


_DECORATORS = (AsyncContextDecorator, ContextDecorator)

Sender = Callable[[Any], Awaitable[object] | object]
"""A function, sync or async, that sends one message."""
