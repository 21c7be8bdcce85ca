"""A message that came. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from mqtt5 import PublishPacket


@final
class MqttMessage:
    """A message that came.

    Attributes:
        topic: The topic that it was published to.
        payload: Its data.
    """

    __slots__ = ("_packet", "payload", "topic")

    def __init__(self, packet: PublishPacket) -> None:
        self._packet = packet
        self.topic: str = packet.topic
        self.payload: bytes = packet.payload

    def __repr__(self) -> str:
        return f"<psession.brokers.mqtt.MqttMessage on {self.topic!r}, {len(self.payload)} bytes>"

    @property
    def size(self) -> int:
        """The bytes of its topic and payload, and some for the rest."""
        return len(self.payload) + len(self.topic) + 64

    @property
    def qos(self) -> int:
        """The QoS that it came with, 0 or 1."""
        return int(self._packet.qos)

    @property
    def retain(self) -> bool:
        """True where the broker had kept it from an earlier time."""
        return self._packet.retain

    @property
    def duplicate(self) -> bool:
        """True where it may have come before, which the broker does not know."""
        return self._packet.duplicate

    @property
    def response_topic(self) -> str | None:
        """The topic that an answer is wanted on; ``None``: none is."""
        return self._packet.response_topic

    @property
    def correlation_data(self) -> bytes | None:
        """Data for the answer, so that who asked knows which question it is to."""
        return self._packet.correlation_data

    @property
    def content_type(self) -> str | None:
        """The kind of its payload, as the sender wrote it."""
        return self._packet.content_type

    @property
    def expiry(self) -> int | None:
        """The seconds that were left of its life when the broker sent it; ``None``: it has no end."""
        return self._packet.message_expiry_interval

    @property
    def user_properties(self) -> list[tuple[str, str]]:
        """Names and texts that travel beside the payload; a name may be there more than once."""
        return self._packet.user_properties

    def user_property(self, name: str) -> str | None:
        """Return the first text of a name; ``None`` where there is none."""
        for key, value in self._packet.user_properties:
            if key == name:
                return value
        return None
