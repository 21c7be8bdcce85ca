"""Channels of plain requests, for ports with the dialect `psession.dialects.NatsRequests`: to ask, and to answer."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from psession.brokers._channel import LinkRoad
from psession.brokers._requests import AnsweringBase, AskingBase, PlainChannel
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._subjects import pattern_bytes, subject_bytes
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from psession.brokers.nats._subscription import Subscription
    from psession.brokers.nats._wire import NatsMessage
    from psession.channels._base import Message
    from psession.channels.codecs import Codec, CodecName

ERROR_HEADER: Final = "Nats-Service-Error"
CODE_HEADER: Final = "Nats-Service-Error-Code"
OWN_CODE_HEADER: Final = "Psession-Code"


class RequestingRoad(LinkRoad, Protocol):
    """A client, as far as requests need it."""

    def subscribe(self, subject: str, *, queue: str | None = None) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a subject."""
        ...


class RequestChannel(PlainChannel[LinkRoad]):
    """The common part of both: payloads of any kind, each in a message of its own, and errors in headers."""

    def _answer(self, to: bytes, payload: Any) -> bytes:
        return wire.pub(to, b"", self._data(payload))

    def _fail(self, to: bytes, number: str, code: str, text: str, payload: Any = None) -> bytes:
        shown = " ".join(text.split())[:500]
        headers = {ERROR_HEADER: shown or code, CODE_HEADER: number, OWN_CODE_HEADER: code}
        return wire.hpub(to, b"", encode_headers(headers), self._data(payload))


class AskingChannel(AskingBase[LinkRoad], RequestChannel):
    """Asks who serves a subject; each request may go to another member of a queue group."""

    def __init__(
        self, road: LinkRoad, subject: str, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float
    ) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout)
        self._subject = subject_bytes(subject)
        self._inbox = self._begin(f"R{secrets.token_hex(8)}")

    def encode(self, message: Message) -> bytes:
        """A message of `NatsRequests` as the bytes of a PUB.

        Raises:
            MessageError: It cannot travel, or is an answer.
        """
        kind = message.get("kind")
        if kind == "tell":
            return wire.pub(self._subject, b"", self._data(message["payload"]))
        if kind != "ask":
            raise MalformedMessageError("nats.requests() asks, and answers nothing without serves=True")
        reply = f"{self._inbox}-{message['id']} ".encode()
        frame = wire.pub(self._subject, reply, self._data(message["payload"]))
        self._note_asked(message["id"])
        return frame

    def _id_of(self, message: NatsMessage) -> int:
        _, _, number = message.subject.rpartition("-")
        if not (number.isascii() and number.isdigit()):
            raise MalformedMessageError(f"an answer on {message.subject!r:.100}, which has no number")
        return int(number[:16])

    def _read_answer(self, id: int, message: NatsMessage) -> dict[str, Any]:
        if message.says_no_responders:
            return {"kind": "unsent", "id": id}
        headers = message.headers
        if ERROR_HEADER not in headers and CODE_HEADER not in headers:
            return {"kind": "answer", "id": id, "payload": self._payload(message.data)}
        first = {name: values[0] for name, values in headers.items()}
        return {
            "kind": "fail",
            "id": id,
            "number": first.get(CODE_HEADER),
            "code": first.get(OWN_CODE_HEADER),
            "text": first.get(ERROR_HEADER),
            "payload": self._payload(message.data),
        }


class AnsweringChannel(AnsweringBase[LinkRoad], RequestChannel):
    """Brings the requests of all who ask on a subject, and takes the answers."""

    def __init__(
        self,
        road: LinkRoad,
        subscription: Subscription,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
    ) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout)
        self._subscription = subscription

    def encode(self, message: Message) -> bytes:
        """A message of `NatsRequests` as the bytes of a PUB or HPUB.

        Raises:
            MessageError: It cannot travel, or asks something.
        """
        kind = message.get("kind")
        if kind not in ("answer", "fail"):
            raise MalformedMessageError("nats.requests(..., serves=True) answers, and asks nothing")
        to = message["id"].encode()
        if kind == "answer":
            return self._answer(to, message["payload"])
        return self._fail(to, message["number"], message["code"], message["text"], message["payload"])

    def _asker(self, message: NatsMessage) -> str | None:
        if not message.reply:
            return None
        subject_bytes(message.reply, "reply")
        return message.reply

    def _question(self, message: NatsMessage) -> dict[str, Any]:
        return {"payload": self._payload(message.data), "subject": message.subject}

    def _refusal(self, asker: str, why: str) -> bytes:
        return self._fail(asker.encode(), "400", "refused.malformed", why)


@asynccontextmanager
async def open_requests(
    road: RequestingRoad,
    subject: str,
    *,
    serves: bool = False,
    queue: str | None = None,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> AsyncIterator[RequestChannel]:
    """Open a channel of plain requests; `Nats.requests` says more."""
    if not serves:
        if queue is not None:
            raise ValueError("queue is for who answers: give serves=True as well")
        async with AskingChannel(road, subject, codec, max_message_bytes, close_timeout) as channel:
            yield channel
        return
    pattern_bytes(subject)
    async with (
        road.subscribe(subject, queue=queue) as subscription,
        AnsweringChannel(road, subscription, codec, max_message_bytes, close_timeout) as answering,
    ):
        yield answering
