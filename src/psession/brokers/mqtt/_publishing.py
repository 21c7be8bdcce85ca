"""What a client of MQTT publishes: checked against what the broker takes, then written, or waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import mqtt5
import trio

from psession.brokers._outgoing import FLUSHED_FRAMES
from psession.brokers.mqtt import _packets as packets
from psession.brokers.mqtt._errors import MqttRefusedError
from psession.brokers.mqtt._options import MAX_EXPIRY, whole_seconds
from psession.brokers.mqtt._topics import check_topic
from psession.errors import MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from psession.brokers.mqtt._connection import Connection

    Properties: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

_protected = trio.lowlevel.enable_ki_protection


class Publisher:
    """The part of `Mqtt` that publishes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._out = connection.out
        self._flight = connection.flight

    @_protected
    async def publish(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: Literal[0, 1] = 0,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        content_type: str | None = None,
        expiry: int | None = None,
        is_text: bool = False,
        user_properties: Properties = (),
    ) -> bool:
        """Publish a message; await it.

        With QoS 0 it returns when the message is accepted for sending, in order. With QoS 1 when the broker has
        acknowledged it, however many connections that takes: ``trio.move_on_after`` bounds it. Both wait while
        ``max_queued_bytes`` are queued; QoS 1 also while the broker takes no more at once. Cancelled before it was
        written, a message is never sent; after that it is sent whole, and with QoS 1 sent again until it is there.

        Args:
            topic: Without wildcards.
            payload: The data.
            qos: 0: at most once; 1: at least once.
            retain: Whether the broker keeps it for those who subscribe later; an empty payload ends that.
            response_topic: The topic that answers are wanted on.
            correlation_data: Data that answers shall carry.
            content_type: What the payload is, such as ``"application/json"``.
            expiry: Whole seconds after which the broker delivers it to nobody any more.
            is_text: Whether the payload is UTF-8, which brokers may check.
            user_properties: Names and texts that travel beside the payload; pairs where a name is there twice.

        Returns:
            False where the broker said that nobody had subscribed to the topic: with QoS 1, of brokers that tell.

        Raises:
            TypeError, ValueError: What is no topic, no bytes, no QoS; the text says why.
            MalformedMessageError: A property cannot travel.
            MessageTooLargeError: It is longer than the broker takes; nothing was sent.
            MqttRefusedError: The broker refuses it, or has no retained messages, or no QoS 1: ``"not_sent"``.
            MqttPermissionError: It does not allow the topic: ``"not_sent"``.
            MqttDisconnectedError: The connection broke after it was written, and the broker kept no session:
                ``"sent"``.
            MqttClosedError: The client is closed.
        """
        check_topic(topic)
        frame = self.frame(
            topic,
            payload,
            qos,
            retain=retain,
            response_topic=response_topic,
            correlation_data=correlation_data,
            content_type=content_type,
            expiry=expiry,
            is_text=is_text,
            user_properties=user_properties,
        )
        if qos:
            return await self._publish_surely(frame)
        await self._put(frame, FLUSHED_FRAMES)
        return True

    async def _put(self, frame: bytes, together: int) -> None:
        out = self._out
        if out.takes_now():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await out.wait_for_room()
            self.check_size(frame)
        self._connection.check_open()
        out.put(frame, together)

    async def _publish_surely(self, frame: bytes) -> bool:
        flight = self._flight
        await self.wait_for_place()
        sent = flight.send(frame, min(len(flight) >> 1, FLUSHED_FRAMES))
        try:
            return bool(await sent.park())
        except trio.Cancelled:
            flight.withdraw(sent)
            raise

    async def wait_for_place(self) -> None:
        """Return when a message of QoS 1 may be sent. For channels.

        Raises:
            MqttClosedError: The client is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._flight.is_free:
            await self._flight.wait_for_place()
        self._connection.check_open()

    def frame(
        self, topic: str, payload: bytes, qos: int = 0, *, user_properties: Properties = (), **more: Any
    ) -> bytes:
        """Return a message as it travels, checked against what the broker takes. For channels.

        Raises:
            TypeError, ValueError, MessageError, MqttRefusedError: As `publish`.
        """
        if type(payload) is not bytes:
            payload = _as_bytes(payload)
        if qos:
            self._check_qos(qos)
        if more.get("retain") and not self._connection.connack.retain_available:
            raise MqttRefusedError("the broker has no retained messages", code=0x9A, outcome="not_sent")
        if more.get("expiry") is not None:
            whole_seconds("expiry", more["expiry"], MAX_EXPIRY)
        response_topic = more.get("response_topic")
        if response_topic is not None:
            check_topic(response_topic, "response topic")
        if user_properties:
            more["user_properties"] = _pairs(user_properties)
        frame = packets.publish(topic, payload, qos, **more)
        self.check_size(frame)
        return frame

    def check_size(self, frame: bytes) -> None:
        """Check a message, and again one that has waited: the broker may take less than it did.

        Raises:
            MessageTooLargeError: It is longer than the broker takes.
        """
        limit = self._connection.max_packet_bytes
        if len(frame) > limit:
            text = f"a packet of {len(frame)} bytes; the broker takes {limit} at most"
            raise MessageTooLargeError(text, outcome="not_sent")

    def _check_qos(self, qos: object) -> None:
        if qos not in (0, 1) or isinstance(qos, bool):
            raise ValueError(f"qos must be 0 or 1, not {qos!r}: exactly once is for sessions (Exact), not for QoS 2")
        if self._connection.connack.max_qos == mqtt5.QoS.AT_MOST_ONCE:
            raise MqttRefusedError("the broker has no QoS 1", code=0x9B, outcome="not_sent")


def _as_bytes(payload: object) -> bytes:
    if isinstance(payload, bytearray | memoryview | bytes):
        return bytes(payload)
    hint = ": encode the text, payload.encode()" if isinstance(payload, str) else ""
    raise TypeError(f"payload must be bytes, not {type(payload).__name__}{hint}")


def _pairs(properties: Properties) -> list[tuple[str, str]]:
    pairs: list[Any] = list(properties.items() if isinstance(properties, Mapping) else properties)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise TypeError(f"user_properties are pairs of texts, or a mapping of such, not {pair!r:.100}")
    return pairs
