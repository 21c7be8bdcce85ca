"""The subscriptions of a client, over all its links."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from psession.brokers._outgoing import FLUSHED_FRAMES
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._errors import NatsClosedError, NatsPermissionError
from psession.brokers.nats._inbox import INBOX_SID
from psession.brokers.nats._subscription import Subscription
from psession.brokers.nats._tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._outgoing import Outgoing
    from psession.brokers.nats._errors import NatsError
    from psession.brokers.nats._subscription import Flush
    from psession.brokers.nats._wire import NatsMessage

log = logging.getLogger("psession")
_protected = trio.lowlevel.enable_ki_protection


class Table:
    """All subscriptions, by their numbers.

    Attributes:
        late: Messages for subscriptions that are over.
        overrun: Subscriptions that were ended since their reader was too slow.
    """

    def __init__(self, out: Outgoing, flush: Flush) -> None:
        self.late: int = 0
        self.overrun: int = 0
        self._out = out
        self._flush = flush
        self._subscriptions: dict[int, Subscription | Tap] = {}
        self._last_sid = INBOX_SID
        self._is_draining = False

    def __len__(self) -> int:
        return len(self._subscriptions)

    # -- subscribing -------------------------------------------------------------------------------------------------

    @_protected
    def subscribe(
        self, subject: str, queue: str, limit: int, max_pending_messages: int, max_pending_bytes: float
    ) -> Subscription:
        """Make a subscription, whose reader takes its messages.

        Raises:
            NatsClosedError: The client is being drained.
        """
        sid = self._new_sid()
        made = Subscription(self, self._flush, subject, queue, sid, limit, max_pending_messages, max_pending_bytes)
        self._add(made)
        return made

    @_protected
    def tap(self, subject: str, take: Callable[[NatsMessage], None]) -> Tap:
        """Make a subscription whose messages are given to a function.

        Raises:
            NatsClosedError: The client is being drained.
        """
        made = Tap(self, subject, self._new_sid(), take)
        self._add(made)
        return made

    def _new_sid(self) -> int:
        if self._is_draining:
            raise NatsClosedError("this client is being drained, and takes no new subscriptions")
        self._last_sid += 1
        return self._last_sid

    def _add(self, subscription: Subscription | Tap) -> None:
        self._subscriptions[subscription.sid] = subscription
        self._out.say(_word_for(subscription))

    def end(self, subscription: Subscription | Tap) -> None:
        """Tell the server that nothing more is wanted of a subscription; what is on its way still comes."""
        if self._subscriptions.get(subscription.sid) is not subscription:
            return
        self._end_at_server(subscription)
        if subscription.closed:
            del self._subscriptions[subscription.sid]

    def forget(self, subscription: Subscription | Tap) -> None:
        """Take nothing more for a subscription."""
        self._subscriptions.pop(subscription.sid, None)

    def note_overrun(self, subscription: Subscription) -> None:
        """Count a subscription that was ended since its reader was too slow."""
        self._subscriptions.pop(subscription.sid, None)
        self.overrun += 1
        log.warning("%r was ended: its reader is too slow", subscription, extra={"event_name": "subscription_overran"})

    def _end_at_server(self, subscription: Subscription | Tap) -> None:
        if self._out.has_link:  # else the next link is not told of it
            self._out.put_word(wire.unsub(subscription.sid), FLUSHED_FRAMES)

    # -- what comes, synchronous -------------------------------------------------------------------------------------

    def deliver(self, message: NatsMessage) -> None:
        """Give a message to the subscription that it came for."""
        subscription = self._subscriptions.get(message.sid)
        if subscription is None:
            self.late += 1
        else:
            subscription.deliver(message)

    def refused(self, subject: str, text: str) -> None:
        """The server does not allow the subject to this client."""
        for one in [one for one in self._subscriptions.values() if one.subject == subject]:
            del self._subscriptions[one.sid]
            one.end(lambda: NatsPermissionError(text))

    # -- links -------------------------------------------------------------------------------------------------------

    def words(self) -> bytes:
        """Return the words by which a link is told of all."""
        return b"".join([_word_for(one) for one in self._subscriptions.values()])

    def leave(self) -> None:
        """Tell the link that nothing more is wanted; the next one has all of it again."""
        for one in self._subscriptions.values():
            self._end_at_server(one)

    async def drain(self) -> None:
        """Want no more messages and make no more subscriptions; return when what came was received, and answered.

        Raises:
            NatsError: As `Nats.flush`.
        """
        self._is_draining = True
        subscriptions = list(self._subscriptions.values())
        self.leave()
        await self._flush(timeout=math.inf)
        for subscription in subscriptions:
            subscription.end(None)
        for subscription in subscriptions:
            await subscription.until_done()
        await self._flush(timeout=math.inf)

    def finish(self, why: Callable[[], NatsError] | None) -> None:
        """There will be no more links."""
        for subscription in self._subscriptions.values():
            subscription.end(why)
        self._subscriptions.clear()


def _word_for(subscription: Subscription | Tap) -> bytes:
    """The words by which the server is told of a subscription."""
    queue = subscription.queue.encode()
    word = wire.sub(subscription.subject.encode(), queue, subscription.sid)
    left = subscription.left
    return word + wire.unsub(subscription.sid, left) if left else word
