"""A broker of MQTT 5 in memory, after its specification: for tests on virtual time, with faults at a word."""

from __future__ import annotations

import random
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import mqtt5
import trio
import trio.testing

from psession.brokers.mqtt._topics import matches
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NOBODY = mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS
DONE = mqtt5.PubAckReasonCode.SUCCESS


class Kept:
    """A session, which may outlast its connections."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, tuple[mqtt5.TopicFilter, int | None]] = {}
        self.unacked: dict[int, mqtt5.PublishPacket] = {}
        self.waiting: deque[mqtt5.PublishPacket] = deque()
        self.last_id = 0
        self.client: Client | None = None


class Client:
    """One connection, as the broker sees it."""

    def __init__(self, stream: trio.abc.Stream, broker: MqttBroker) -> None:
        self.stream = stream
        self.broker = broker
        self.connect: mqtt5.ConnectPacket | None = None
        self.session = Kept()
        self.heard: list[Any] = []
        self.acks: list[int] = []
        self.muted = False
        self.will: mqtt5.Will | None = None
        self._out_lock = trio.Lock()

    async def say(self, *packets: Any) -> None:
        """Send packets, or bytes, to the client."""
        async with self._out_lock:
            await self.stream.send_all(b"".join(one if isinstance(one, bytes) else one.write() for one in packets))

    async def run(self) -> None:
        """Serve it until it goes."""
        buffer = b""
        while True:
            try:
                data = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            buffer += data
            while buffer:
                try:
                    packet, size = mqtt5.read(memoryview(buffer))
                except IndexError:
                    break
                buffer = buffer[size:]
                self.heard.append(packet)
                if not self.muted:
                    await self.said(packet)

    async def said(self, packet: Any) -> None:
        """Answer a packet."""
        broker = self.broker
        if isinstance(packet, mqtt5.ConnectPacket):
            await self.connected(packet)
        elif isinstance(packet, mqtt5.PublishPacket):
            broker.published.append(packet)
            code = broker.refusals.get(packet.topic)
            if code is None:
                code = DONE if await broker.route(packet, self) or not broker.tells_nobody else NOBODY
            if packet.packet_id is not None and broker.acknowledges_to(self):
                await self.say(mqtt5.PubAckPacket(packet.packet_id, reason_code=code))
        elif isinstance(packet, mqtt5.PubAckPacket):
            self.acks.append(packet.packet_id)
            self.session.unacked.pop(packet.packet_id, None)
            await self.pump()
        elif isinstance(packet, mqtt5.SubscribePacket):
            await self.subscribed(packet)
        elif isinstance(packet, mqtt5.UnsubscribePacket):
            codes = []
            for pattern in packet.patterns:
                gone = self.session.subscriptions.pop(pattern, None)
                codes.append(mqtt5.UnsubAckReasonCode(0 if gone else 0x11))
            await self.say(mqtt5.UnsubAckPacket(packet.packet_id, codes))
        elif isinstance(packet, mqtt5.PingReqPacket):
            await self.say(mqtt5.PingRespPacket())
        elif isinstance(packet, mqtt5.DisconnectPacket) and int(packet.reason_code) == 0:
            self.will = None

    async def connected(self, packet: mqtt5.ConnectPacket) -> None:
        """The first packet."""
        broker = self.broker
        refusal = broker.refuse(packet)
        if refusal:
            await self.say(mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode(refusal), **broker.refusal_more))
            await self.stream.aclose()
            return
        self.connect, self.will = packet, packet.will
        name = packet.client_id or f"auto-{len(broker.tried)}"
        old = broker.sessions.get(name)
        if old is not None and old.client is not None:
            await old.client.disconnect(0x8E)
        present = old is not None and not packet.clean_start and not broker.forgets
        if old is not None and present:
            self.session = old
        self.session.client = self
        broker.sessions[name] = self.session
        assigned = None if packet.client_id else name
        await self.say(
            mqtt5.ConnAckPacket(
                session_present=broker.lies_about_session or present, assigned_client_id=assigned, **broker.connack
            )
        )
        for kept in self.session.unacked.values():
            await self.say(again(kept))
        await self.pump()

    async def subscribed(self, packet: mqtt5.SubscribePacket) -> None:
        """Subscribe it, and send what was kept."""
        codes: list[int] = []
        for one in packet.topic_filters:
            code = self.broker.forbidden.get(one.pattern)
            if code is None:
                code = int(one.max_qos)
                self.session.subscriptions[one.pattern] = (one, packet.subscription_id)
            codes.append(code)
        await self.say(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode(code) for code in codes]))
        for one, code in zip(packet.topic_filters, codes, strict=True):
            if code <= 2 and one.retain_handling == mqtt5.RetainHandling.SEND_ALWAYS:
                for kept in list(self.broker.retained.values()):
                    if matches(one.pattern, kept.topic):
                        await self.deliver(kept, one, packet.subscription_id, retain=True)

    async def deliver(self, packet: Any, one: mqtt5.TopicFilter, id: int | None, *, retain: bool = False) -> None:
        """A message for one of its subscriptions."""
        qos = min(int(packet.qos), int(one.max_qos))
        packet_id = None
        session = self.session
        if qos:
            session.last_id = packet_id = session.last_id % 65535 + 1
        made = mqtt5.PublishPacket(
            packet.topic,
            packet.payload,
            qos=mqtt5.QoS(qos),
            packet_id=packet_id,
            retain=retain or (packet.retain and one.retain_as_published),
            response_topic=packet.response_topic,
            correlation_data=packet.correlation_data,
            content_type=packet.content_type,
            message_expiry_interval=packet.message_expiry_interval,
            user_properties=packet.user_properties,
            subscription_ids=[id] if id is not None else None,
        )
        if qos:
            session.waiting.append(made)
            if session.client is not None:
                await session.client.pump()
        elif session.client is not None:
            await session.client.say_if_there(made)

    async def pump(self) -> None:
        """Send what waits for it, as much as it takes at once."""
        session = self.session
        assert self.connect is not None
        while session.waiting and len(session.unacked) < self.connect.receive_max:
            packet = session.waiting.popleft()
            session.unacked[packet.packet_id or 0] = packet
            await self.say_if_there(packet)

    async def say_if_there(self, packet: Any) -> None:
        """Send a packet, unless it is gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.say(packet)

    async def disconnect(self, code: int, **more: Any) -> None:
        """Throw it out."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.say(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(code), **more))
        await trio.aclose_forcefully(self.stream)


def again(packet: mqtt5.PublishPacket) -> bytes:
    """The packet, as one that was sent before."""
    frame = packet.write()
    return bytes([frame[0] | 8]) + frame[1:]


class MqttBroker:
    """A broker. `open_stream` is for `open_mqtt`; what it does wrong is in its attributes."""

    def __init__(self, **connack: Any) -> None:
        self.connack = connack
        self.clients: list[Client] = []
        self.sessions: dict[str, Kept] = {}
        self.tried: list[float] = []
        self.published: list[mqtt5.PublishPacket] = []
        self.retained: dict[str, mqtt5.PublishPacket] = {}
        self.refusals: dict[str, mqtt5.PubAckReasonCode] = {}
        self.forbidden: dict[str, int] = {}
        self.refusal = 0
        self.refusal_more: dict[str, Any] = {}
        self.down = False
        self.down_for = ""
        self.forgets = False
        self.lies_about_session = False
        self.acknowledges = True
        self.acknowledges_still = "-"
        self.tells_nobody = True
        self.pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair
        self._rng = random.Random(7)
        self._nursery: trio.Nursery | None = None

    def acknowledges_to(self, client: Client) -> bool:
        """Whether a client gets acknowledgements."""
        return self.acknowledges or (client.connect is not None and client.connect.client_id == self.acknowledges_still)

    def refuse(self, packet: mqtt5.ConnectPacket) -> int:
        """Why a client is not taken; 0: it is."""
        return self.refusal

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Connect."""
        await trio.lowlevel.checkpoint()
        self.tried.append(trio.current_time())
        if self.down or (self.down_for and host == self.down_for):
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = self.pair()
        client = Client(far, self)
        self.clients.append(client)
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, client)
        return near

    async def _serve(self, client: Client) -> None:
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await client.run()
        finally:
            self.clients.remove(client)
            client.session.client = None
            if client.connect is not None and not client.connect.session_expiry_interval:
                self.sessions = {name: kept for name, kept in self.sessions.items() if kept is not client.session}
            await trio.aclose_forcefully(client.stream)
        if client.will is not None:
            will = mqtt5.PublishPacket(client.will.topic, client.will.payload or b"", retain=client.will.retain)
            self.published.append(will)
            await self.route(will, None)

    async def route(self, packet: mqtt5.PublishPacket, sender: Client | None) -> bool:
        """Deliver a message; whether somebody had subscribed."""
        if packet.retain:
            if packet.payload:
                self.retained[packet.topic] = packet
            else:
                self.retained.pop(packet.topic, None)
        groups: dict[str, list[tuple[Kept, mqtt5.TopicFilter, int | None]]] = {}
        found: list[tuple[Kept, mqtt5.TopicFilter, int | None]] = []
        for session in list(self.sessions.values()):
            for name, (one, id) in list(session.subscriptions.items()):
                shared = name.startswith("$share/")
                pattern = name.split("/", 2)[2] if shared else name
                if not matches(pattern, packet.topic):
                    continue
                if shared:
                    groups.setdefault(name, []).append((session, one, id))
                elif not (one.no_local and sender is not None and session is sender.session):
                    found.append((session, one, id))
        found += [self._rng.choice(members) for members in groups.values()]
        for session, one, id in found:
            client = session.client
            if client is None:
                client = Client(trio.testing.memory_stream_pair()[0], self)
                client.session = session
            await client.deliver(packet, one, id)
        return bool(found)

    async def kill(self, client_id: str = "") -> None:
        """Break all connections, or that of one client."""
        for client in list(self.clients):
            if client_id and (client.connect is None or client.connect.client_id != client_id):
                continue
            await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def a_broker(**connack: Any) -> AsyncIterator[MqttBroker]:
    """A broker for as long as the block lasts."""
    broker = MqttBroker(**connack)
    async with open_quiet_nursery() as broker._nursery:
        yield broker
        broker._nursery.cancel_scope.cancel()
