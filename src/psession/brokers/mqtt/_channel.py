"""A link between two ports over MQTT: each side has a topic of its own, which nobody else can guess.

========== =============================================================================================================
word       what it says, in the user property ``Psession-Link``
========== =============================================================================================================
open       on the topic that is served: who asks has the response topic and wants a link
welcome    to that topic: the link stands, the response topic is the other end's from now on
refused    to that topic: there will be no link, ``Psession-Why`` says why
alive      is the other end there? If it is not, the broker says so, or whoever has its connection says ``closed``
closed     this end is closed, after all that it has sent
broken     this end has lost what came meanwhile, so the link is of no further use
========== =============================================================================================================

All else is a message of the port's. With QoS 1 the broker says in its PUBACK where nobody has the topic any more.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from outcome import Error

from psession import checks
from psession.brokers._channel import (
    DEFAULT_KEEPALIVE,
    BrokerChannel,
    LinkEnd,
    LinkOpener,
    LinkRoad,
    Mailbox,
)
from psession.brokers.mqtt import _packets as packets
from psession.brokers.mqtt._errors import (
    MqttConnectError,
    MqttNoSubscribersError,
    MqttOverrunError,
    MqttProtocolError,
    MqttTimeoutError,
)
from psession.brokers.mqtt._flight import NOBODY
from psession.brokers.mqtt._topics import check_topic
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from psession.brokers.mqtt._flight import Flight, Sent
    from psession.brokers.mqtt._message import MqttMessage
    from psession.channels._base import Message
    from psession.channels.codecs import Codec, CodecName
    from psession.errors import MessageError, SessionError

LINK_PROPERTY: Final = "Psession-Link"
DOOR_PROPERTY: Final = "Psession-Door"
WHY_PROPERTY: Final = "Psession-Why"


class Road(LinkRoad, Protocol):
    """A client, as far as a link needs it."""

    @property
    def flight(self) -> Flight:
        """The messages of QoS 1 that are not acknowledged."""
        ...

    async def wait_for_place(self) -> None:
        """Return when a message of QoS 1 may be sent."""
        ...

    async def open_inbox(self) -> None:
        """Have the answers come, by one subscription; return when the broker has it."""
        ...

    def frame(self, topic: str, payload: bytes, qos: int = 0, **more: Any) -> bytes:
        """Return a message as it travels, checked against what the broker takes."""
        ...


def word(kind: str, to: str, reply: str | None = None, *, qos: int = 0, door: str = "", why: str = "") -> bytes:
    """Return a word about a link, as it is written."""
    pairs = [(LINK_PROPERTY, kind)]
    if door:
        pairs.append((DOOR_PROPERTY, door))
    if why:
        pairs.append((WHY_PROPERTY, why))
    return packets.publish(to, b"", qos, response_topic=reply, user_properties=pairs)


class MqttBrokerChannel(BrokerChannel[Road]):
    """A channel over MQTT: what is written with QoS 1 waits for a place among what is in flight."""

    bytes_sent: int

    def __init__(
        self, road: Road, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float, *, qos: int
    ) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout)
        if qos not in (0, 1):
            raise ValueError(f"qos must be 0 or 1, not {qos!r}")
        self._qos = qos
        self.joins: bool = not qos  # each message of QoS 1 has a number of its own

    def send_frame_now(self, frame: bytes) -> bytes | None:
        """Put a frame among what the client writes, if there is room.

        Returns:
            ``b""``, or ``None`` where the client's queue is full, there is no connection, as much is in flight as the
            broker takes, or the channel is over.
        """
        out, flight = self._road.outgoing, self._road.flight
        if self._closed or self._over is not None or not out.has_room:
            return None
        if self._follows:
            frame = self._addressed(frame)
        if not frame[0] & 2:
            out.put(frame, out.answers_together())
        elif flight.is_free:
            flight.send(frame, out.answers_together(), self._failed)
        else:
            return None
        self.bytes_sent += len(frame)
        return b""

    async def _write(self, frames: Sequence[bytes]) -> None:
        out, flight = self._road.outgoing, self._road.flight
        for frame in frames:
            await out.wait_for_room()
            is_sure = bool(frame[0] & 2)
            if is_sure:
                await self._road.wait_for_place()
            self._check_open()
            if self._over is not None:
                raise trio.BrokenResourceError(str(self._over)) from self._over
            if self._follows:
                frame = self._addressed(frame)
            if is_sure:
                flight.send(frame, out.answers_together(), self._failed)
            else:
                out.put(frame, out.answers_together())
            self.bytes_sent += len(frame)

    def _failed(self, sent: Sent) -> None:
        """The broker did not take a message, or nobody is there."""
        raise NotImplementedError


class MqttChannel(LinkEnd[Road], MqttBrokerChannel):
    """One end of a link between two ports over MQTT; `Mqtt.connect` and `Mqtt.serve` make one.

    Attributes:
        topic: The topic that is served.
        peer: The topic of the other end.
        door: The topic by which who serves can be reached again, this very process.
        remote: ``None``: over a broker nobody has an address.
    """

    peer: str
    door: str
    heard: float
    _overran = MqttOverrunError
    _no_door = (MqttNoSubscribersError,)

    def __init__(
        self,
        road: Road,
        topic: str,
        *,
        codec: Codec | CodecName,
        qos: int,
        max_message_bytes: float,
        close_timeout: float,
        keepalive: float,
    ) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout, qos=qos)
        self.topic: str = topic
        self._own = self._begin(keepalive)

    def __repr__(self) -> str:
        return f"<psession.brokers.mqtt.MqttChannel to {self.topic!r}, {self.state}>"

    def encode(self, message: Message) -> bytes:
        """The message as the bytes of a PUBLISH.

        Raises:
            MalformedMessageError: It has no encoding.
            MessageTooLargeError: It is longer than ``max_message_bytes``, or than the broker takes.
        """
        return self._road.frame(self.peer, self._encode(message), self._qos)

    def _addressed(self, frame: bytes) -> bytes:
        """A frame, or several that were joined, which were encoded for this link or for those before it."""
        return packets.readdressed(frame, self.peer.encode())

    def _messages_of(self, messages: list[MqttMessage]) -> list[Message | MessageError]:
        return self._decoded([message.payload for message in messages])

    # -- the link ----------------------------------------------------------------------------------------------------

    def stand(self, peer: str, door: str = "") -> None:
        """The link stands: the other end has this topic.

        Raises:
            ValueError: The topic is none.
        """
        check_topic(peer, "topic of the other end")
        self.peer, self.door = peer, door
        self._road.watch_link(self)

    def say(self, kind: str, *, door: str = "") -> None:
        """Say something about the link to the other end."""
        if kind in ("closed", "broken"):
            self._road.outgoing.put(word(kind, self.peer), 1)
        else:
            self._road.flight.post(word(kind, self.peer, self._own, qos=1, door=door), self._failed)

    def broke(self, error: SessionError) -> None:
        """The client's connection broke, and what came meanwhile is lost."""
        super().broke(error)
        if self._welcome is not None:
            waiting, self._welcome = self._welcome, None
            waiting.wake(Error(error))

    async def open(self, address: str, timeout: float) -> None:  # noqa: ASYNC109 - the caller's, for the text
        """Ask who serves a topic for a link.

        Raises:
            MqttNoSubscribersError: Nobody serves it.
            MqttRefusedError: The broker refuses the topic.
            MqttConnectError: There is no place for a link.
            MqttProtocolError: Who serves it does not speak psession.
            MqttTimeoutError: No answer came in time.
        """
        waiting = self._welcome = Mailbox()
        flight, sent = self._road.flight, None
        try:
            with trio.move_on_after(timeout):
                await self._road.wait_for_place()
                sent = flight.send(word("open", address, self._own, qos=1), 1, self._failed)
                message: MqttMessage = await waiting.park()
                self._welcomed(address, message)
                return
            raise MqttTimeoutError(
                f"who serves {address!r} did not say welcome in {timeout:g} s, or nobody is there and the broker does "
                "not say so",
                waited=timeout,
                outcome="not_sent",
            )
        finally:
            self._welcome = None
            if sent is not None:
                flight.withdraw(sent)

    def _welcomed(self, topic: str, message: MqttMessage) -> None:
        kind = message.user_property(LINK_PROPERTY)
        if kind == "welcome" and message.response_topic:
            try:
                self.stand(message.response_topic, message.user_property(DOOR_PROPERTY) or "")
            except ValueError as error:
                raise MqttProtocolError(f"the welcome of who serves {topic!r}: {error}", outcome="not_sent") from error
        elif kind == "refused":
            why = message.user_property(WHY_PROPERTY) or "it does not say why"
            raise MqttConnectError(f"who serves {topic!r} refuses a link: {why:.200}", outcome="not_sent")
        else:
            raise MqttProtocolError(
                f"who serves {topic!r} speaks no psession: ask it by mqtt.requests() and the dialect MqttRequests",
                outcome="not_sent",
            )

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def _failed(self, sent: Sent) -> None:
        waiting = self._welcome
        if waiting is not None and not self.peer:
            self._welcome = None
            if sent.code == NOBODY:
                text = f"nobody serves {self.topic!r}"
                waiting.wake(Error(MqttNoSubscribersError(text, code=NOBODY, outcome="not_sent")))
            else:
                waiting.wake(Error(sent.refusal()))
        elif sent.code == NOBODY:
            text = "the other end of the link is gone: nobody has its topic any more"
            self.end(MqttNoSubscribersError(text, code=NOBODY))
        else:
            self.end(sent.refusal())

    def _said(self, message: MqttMessage) -> bool:
        if not message.user_properties:
            return False
        kind = message.user_property(LINK_PROPERTY)
        if kind == "closed":
            self.end(trio.EndOfChannel())
        elif kind == "broken":
            self.end(MqttConnectError("the other end lost its connection to the broker, and what came meanwhile"))
        elif kind == "welcome" and message.response_topic and message.response_topic != self.peer:
            try:  # a second one that serves the topic, where one was wanted
                check_topic(message.response_topic)
            except ValueError:
                return True
            self._road.outgoing.put(word("closed", message.response_topic), 1)
        return bool(kind)


@asynccontextmanager
async def open_channel(
    road: Road,
    topic: str,
    door: str = "",
    *,
    codec: Codec | CodecName = "json",
    qos: int = 1,
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    keepalive: float = DEFAULT_KEEPALIVE,
) -> AsyncIterator[MqttChannel]:
    """Open a link to who serves a topic: by the door of one who did before, if that is there still.

    Raises:
        MqttError: As `MqttChannel.open`.
    """
    checks.seconds("connect_timeout", connect_timeout)
    check_topic(topic)
    channel = MqttChannel(
        road,
        topic,
        codec=codec,
        qos=qos,
        max_message_bytes=max_message_bytes,
        close_timeout=close_timeout,
        keepalive=keepalive,
    )
    async with channel:
        await _open_inbox(road, connect_timeout)
        await channel.find(topic, door, connect_timeout)
        yield channel


async def _open_inbox(road: Road, timeout: float) -> None:  # noqa: ASYNC109 - the caller's, for the text
    with trio.move_on_after(timeout):
        await road.open_inbox()
        return
    raise MqttTimeoutError(
        f"the broker did not make a subscription in {timeout:g} s", waited=timeout, outcome="not_sent"
    )


class Returning(LinkOpener[MqttChannel]):
    """Opens links to who serves a topic, the same process again where it is there still; `Mqtt.returning` makes one.

    Attributes:
        door: The topic of the process that served the last link; ``""``: there was none.
    """

    def __init__(self, road: Road, topic: str, options: dict[str, Any]) -> None:
        check_topic(topic)
        super().__init__(partial(open_channel, road, topic, **options))
