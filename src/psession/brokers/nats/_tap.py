"""A subscription whose messages go to a function, for who has thousands: no task, no queue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers.nats._errors import NatsError
    from psession.brokers.nats._wire import NatsMessage

log = logging.getLogger("psession")


class Tapped(Protocol):
    """The table of a client's subscriptions, as far as a tap needs it."""

    def end(self, subscription: Tap) -> None:
        """Tell the server that nothing more is wanted."""
        ...

    def forget(self, subscription: Tap) -> None:
        """Take nothing more for a subscription."""
        ...


@final
class Tap:
    """A subscription that `Nats.tap` returns: it gives the messages of a subject to a function as they come.

    Attributes:
        subject: The subject, which may have wildcards.
        queue: ``""``: it is in no queue group.
        sid: Its number on the wire.
    """

    __slots__ = ("_table", "_take", "closed", "sid", "subject")

    queue: Final = ""
    left: Final = 0
    pending_messages: Final = 0
    pending_bytes: Final = 0

    def __init__(self, table: Tapped, subject: str, sid: int, take: Callable[[NatsMessage], None]) -> None:
        self.subject: str = subject
        self.sid: int = sid
        self.closed: bool = False
        self._table = table
        self._take = take

    def __repr__(self) -> str:
        return f"<psession.brokers.nats.Tap of {self.subject!r}, {'over' if self.closed else 'open'}>"

    def close(self) -> None:
        """Want no more messages. Idempotent; never waits."""
        if not self.closed:
            self._table.end(self)
            self._table.forget(self)
            self.closed = True

    def deliver(self, message: NatsMessage) -> None:
        """Give a message that came to the function. What it raises is logged, and costs that message alone."""
        if self.closed:
            return
        try:
            self._take(message)
        except Exception:
            log.exception("what taps %s raised", self.subject, extra={"event_name": "tap_raised"})

    def end(self, why: Callable[[], NatsError] | None) -> None:
        """Take no more messages: the client is over, or the server does not allow the subject (it has logged that)."""
        self.closed = True

    async def until_done(self) -> None:
        """Return at once: nothing waits in it."""
