"""A subscription, as its reader sees it."""

from __future__ import annotations

from typing import Protocol, final

import trio

from psession.brokers._subscription import BrokerSubscription
from psession.brokers.nats._errors import NatsOverrunError
from psession.brokers.nats._wire import NatsMessage

_protected = trio.lowlevel.enable_ki_protection


class Flush(Protocol):
    """Returns when the server has done all that it was told."""

    async def __call__(self, *, timeout: float) -> None:  # noqa: ASYNC109 - as the public one has it
        """Wait so many seconds at most."""
        ...


class Subscribing(Protocol):
    """The table of a client's subscriptions, as far as one of them needs it."""

    def end(self, subscription: Subscription) -> None:
        """Tell the server that nothing more is wanted."""
        ...

    def forget(self, subscription: Subscription) -> None:
        """Take nothing more for a subscription."""
        ...

    def note_overrun(self, subscription: Subscription) -> None:
        """Count a subscription that was ended since its reader was too slow."""
        ...


@final
class Subscription(BrokerSubscription[NatsMessage]):
    """The messages of a subject, in order; made by ``async with nats.subscribe(subject) as subscription``.

    ``async for message in subscription`` ends when the subscription does. Several tasks may receive: each message is
    one's alone.

    Attributes:
        subject: The subject, which may have wildcards.
        queue: The queue group; ``""``: none.
        sid: Its number on the wire.
        received: The number of messages that came for it.
        max_pending_messages: The messages that may wait in it.
        max_pending_bytes: Their bytes.
    """

    def __init__(
        self,
        table: Subscribing,
        flush: Flush,
        subject: str,
        queue: str,
        sid: int,
        limit: int,
        max_pending_messages: int,
        max_pending_bytes: float,
    ) -> None:
        self.subject = subject
        self.queue = queue
        self.sid = sid
        super().__init__(subject, limit, max_pending_messages, max_pending_bytes)
        self._table = table
        self._flush = flush

    def __repr__(self) -> str:
        queue = f", queue {self.queue!r}" if self.queue else ""
        state = "over" if self._is_over else f"{len(self._pending)} messages wait"
        return f"<psession.brokers.nats.Subscription to {self.subject!r}{queue}, {state}>"

    @_protected
    async def drain(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - as everywhere in this package
        """Want no more messages, and return when all that were on their way have come; they can still be received.

        Args:
            timeout: Seconds to wait for the server.

        Raises:
            NatsTimeoutError: The server did not say that it is done in `timeout` seconds.
            NatsDisconnectedError: The connection broke, and what was on its way is lost.
            NatsClosedError: The client is closed.
        """
        if self._is_over:
            await trio.lowlevel.checkpoint()
            return
        self._table.end(self)
        try:
            await self._flush(timeout=timeout)
        finally:
            self._table.forget(self)
            self.end(None)

    def _reached_limit(self) -> None:
        self._table.forget(self)  # the server has counted as well

    def _overrun(self) -> None:
        text = (
            f"the subscription to {self.subject!r} was ended: {len(self._pending)} messages of {self._bytes} bytes "
            f"waited in it, and it holds {self.max_pending_messages} of {self.max_pending_bytes:g} bytes; receive them "
            "faster, in a queue group with others, or raise max_pending_messages and max_pending_bytes"
        )
        self._table.end(self)
        self._table.note_overrun(self)
        self.end(lambda: NatsOverrunError(text))
