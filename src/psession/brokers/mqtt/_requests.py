"""Channels of plain requests, for ports with the dialect `psession.dialects.MqttRequests`: to ask, and to answer."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from psession.brokers._requests import AnsweringBase, AskingBase, PlainChannel
from psession.brokers.mqtt._channel import MqttBrokerChannel, Road
from psession.brokers.mqtt._flight import NOBODY
from psession.brokers.mqtt._packets import correlation_of
from psession.brokers.mqtt._topics import check_filter, check_topic
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from psession.brokers.mqtt._flight import Sent
    from psession.brokers.mqtt._message import MqttMessage
    from psession.brokers.mqtt._subscription import MqttSubscription
    from psession.channels._base import Message
    from psession.channels.codecs import Codec, CodecName

CODE_PROPERTY: Final = "Psession-Code"
ERROR_PROPERTY: Final = "Psession-Error"


class RequestingRoad(Road, Protocol):
    """A client, as far as requests need it."""

    def subscribe(self, filter: str, *, shared: str | None = None) -> AbstractAsyncContextManager[MqttSubscription]:
        """Subscribe to a filter."""
        ...


class MqttRequestChannel(MqttBrokerChannel, PlainChannel[Road]):
    """The common part of both: payloads of any kind, each in a message of its own, and errors in user properties."""


class AskingChannel(MqttRequestChannel, AskingBase[Road]):
    """Asks who has subscribed to a topic; each request may go to another member of a group."""

    def __init__(
        self,
        road: Road,
        topic: str,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
        *,
        qos: int,
    ) -> None:
        check_topic(topic)
        super().__init__(road, codec, max_message_bytes, close_timeout, qos=qos)
        self._topic = topic
        self._reply_topic = self._begin(f"P{secrets.token_hex(8)}")

    def encode(self, message: Message) -> bytes:
        """A message of `MqttRequests` as the bytes of a PUBLISH.

        Raises:
            MessageError: It cannot travel, or is an answer.
        """
        kind = message.get("kind")
        if kind == "tell":
            return self._road.frame(self._topic, self._data(message["payload"]), self._qos)
        if kind != "ask":
            raise MalformedMessageError("mqtt.requests() asks, and answers nothing without serves=True")
        frame = self._road.frame(
            self._topic,
            self._data(message["payload"]),
            self._qos,
            response_topic=self._reply_topic,
            correlation_data=b"%d" % message["id"],
        )
        self._note_asked(message["id"])
        return frame

    def _failed(self, sent: Sent) -> None:
        """The broker did not take a message, or nobody is there."""
        correlation = correlation_of(sent.frame)
        if not correlation:
            return  # nobody waits for what becomes of a `post`
        id = int(correlation)
        if self._asked.pop(id, _NOT_ASKED) is _NOT_ASKED:
            return
        if sent.code == NOBODY:
            self._tell({"kind": "unsent", "id": id})
        else:
            self._tell({"kind": "fail", "id": id, "code": "refused.broker", "text": sent.refusal().why})

    def _id_of(self, message: MqttMessage) -> int:
        number = message.correlation_data or b""
        if not number.isdigit():
            raise MalformedMessageError(f"an answer with the correlation data {number!r:.100}, which is no number")
        return int(number[:16])

    def _read_answer(self, id: int, message: MqttMessage) -> dict[str, Any]:
        payload = self._payload(message.payload)
        code = message.user_property(CODE_PROPERTY)
        if code is None:
            return {"kind": "answer", "id": id, "payload": payload}
        text = message.user_property(ERROR_PROPERTY)
        return {"kind": "fail", "id": id, "code": code, "text": text, "payload": payload}


_NOT_ASKED: Final = object()


class AnsweringChannel(MqttRequestChannel, AnsweringBase[Road]):
    """Brings the requests of all who ask on a filter, and takes the answers."""

    def __init__(
        self,
        road: Road,
        subscription: MqttSubscription,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
        *,
        qos: int,
    ) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout, qos=qos)
        self._subscription = subscription

    def encode(self, message: Message) -> bytes:
        """A message of `MqttRequests` as the bytes of a PUBLISH.

        Raises:
            MessageError: It cannot travel, or asks something.
        """
        kind = message.get("kind")
        if kind not in ("answer", "fail"):
            raise MalformedMessageError("mqtt.requests(..., serves=True) answers, and asks nothing")
        topic, correlation = message["id"]
        pairs: list[tuple[str, str]] = []
        if kind == "fail":
            text = " ".join(message["text"].split())[:500].replace("\0", "?")
            pairs = [(CODE_PROPERTY, message["code"]), (ERROR_PROPERTY, text)]
        data = self._data(message["payload"])
        return self._road.frame(topic, data, self._qos, correlation_data=correlation, user_properties=pairs)

    def _failed(self, sent: Sent) -> None:
        """Do nothing: who asked is gone, or may not be answered, and there is nobody to tell."""

    def _asker(self, message: MqttMessage) -> tuple[str, bytes | None] | None:
        if message.response_topic is None:
            return None
        check_topic(message.response_topic, "response topic")
        return message.response_topic, message.correlation_data

    def _question(self, message: MqttMessage) -> dict[str, Any]:
        return {"payload": self._payload(message.payload), "topic": message.topic}

    def _refusal(self, asker: tuple[str, bytes | None], why: str) -> bytes:
        topic, correlation = asker
        pairs = [(CODE_PROPERTY, "refused.malformed"), (ERROR_PROPERTY, why[:500].replace("\0", "?"))]
        return self._road.frame(topic, b"", correlation_data=correlation, user_properties=pairs)


@asynccontextmanager
async def open_requests(
    road: RequestingRoad,
    topic: str,
    *,
    serves: bool = False,
    shared: str | None = None,
    codec: Codec | CodecName = "json",
    qos: int = 1,
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> AsyncIterator[MqttRequestChannel]:
    """Open a channel of plain requests; `Mqtt.requests` says more."""
    if not serves:
        if shared is not None:
            raise ValueError("shared is for who answers: give serves=True as well")
        await road.open_inbox()
        async with AskingChannel(road, topic, codec, max_message_bytes, close_timeout, qos=qos) as channel:
            yield channel
        return
    check_filter(topic)
    async with (
        road.subscribe(topic, shared=shared) as subscription,
        AnsweringChannel(road, subscription, codec, max_message_bytes, close_timeout, qos=qos) as answering,
    ):
        yield answering
