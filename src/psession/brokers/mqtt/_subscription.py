"""A subscription, as its reader sees it."""

from __future__ import annotations

from typing import Protocol, final

from psession.brokers._subscription import BrokerSubscription
from psession.brokers.mqtt._errors import MqttOverrunError
from psession.brokers.mqtt._message import MqttMessage


class Subscribing(Protocol):
    """A client, as far as a subscription needs it."""

    def end_subscription(self, subscription: MqttSubscription) -> None:
        """Want nothing more for it, and tell the broker."""
        ...

    def note_overrun(self, subscription: MqttSubscription) -> None:
        """Count a subscription that was ended since its reader was too slow."""
        ...


@final
class MqttSubscription(BrokerSubscription[MqttMessage]):
    """The messages of a topic filter, in order; made by ``async with mqtt.subscribe(filter) as subscription``.

    ``async for message in subscription`` ends when the subscription does. Several tasks may receive: each message is
    one's alone.

    Attributes:
        filter: The topic filter, without the group.
        shared: The group that shares it; ``""``: none.
        qos: The QoS that the broker granted: messages come with it at most.
        received: The number of messages that came for it.
        max_pending_messages: The messages that may wait in it.
        max_pending_bytes: Their bytes.
    """

    def __init__(
        self,
        client: Subscribing,
        filter: str,
        shared: str,
        limit: int,
        max_pending_messages: int,
        max_pending_bytes: float,
    ) -> None:
        super().__init__(filter, limit, max_pending_messages, max_pending_bytes)
        self.filter: str = filter
        self.shared: str = shared
        self.qos: int = 0
        self._client = client

    def __repr__(self) -> str:
        shared = f", shared by {self.shared!r}" if self.shared else ""
        state = "over" if self._is_over else f"{len(self._pending)} messages wait"
        return f"<psession.brokers.mqtt.MqttSubscription to {self.filter!r}{shared}, {state}>"

    def _reached_limit(self) -> None:
        self._client.end_subscription(self)

    def _overrun(self) -> None:
        text = (
            f"the subscription to {self.filter!r} was ended: {len(self._pending)} messages of {self._bytes} bytes "
            f"waited in it, and it holds {self.max_pending_messages} of {self.max_pending_bytes:g} bytes; receive them "
            "faster, in a shared subscription with others, or raise max_pending_messages and max_pending_bytes"
        )
        self._client.end_subscription(self)
        self._client.note_overrun(self)
        self.end(lambda: MqttOverrunError(text))
