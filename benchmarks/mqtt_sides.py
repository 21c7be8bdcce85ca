"""Who asks and who answers over MQTT 5, for brokers.py: psession's client, ports over it, paho-mqtt and aiomqtt."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio
from harness import REQUEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

KINDS = {
    "mqtt-0": "psession.brokers.mqtt, request(), QoS 0",
    "mqtt-1": "psession.brokers.mqtt, request(), QoS 1",
    "mqtt-plain": "a port of plain requests, QoS 1",
    "mqtt-port": "a port over MQTT, exact, QoS 1",
    "mqtt-port-0": "a port over MQTT, exact, QoS 0",
    "paho-0": "paho-mqtt, callbacks, QoS 0",
    "paho-1": "paho-mqtt, callbacks, QoS 1",
    "aiomqtt-0": "aiomqtt on asyncio, QoS 0",
    "aiomqtt-1": "aiomqtt on asyncio, QoS 1",
}
AGAINST = "paho-1"
TOPIC = "work"
REPLIES = "answers/me"


def qos_of(kind: str) -> Any:
    """The QoS that a kind speaks with."""
    return 0 if kind.endswith("0") else 1


# -- psession ----------------------------------------------------------------------------------------------------------


async def serve_trio(kind: str, url: str) -> None:
    """Answer each request with itself."""
    from psession import Exact, SessionManager
    from psession.brokers.mqtt import open_mqtt
    from psession.dialects import MqttRequests

    qos = qos_of(kind)
    async with open_mqtt(url) as mqtt:
        if kind.startswith("mqtt-port"):
            manager = SessionManager(dialect=Exact(), on_request=lambda message: message)

            async def handler(channel: Any) -> None:
                async with manager.port("asker", channel) as port:
                    await port.wait_closed()

            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: mqtt.serve(TOPIC, handler, qos=qos, task_status=task_status))
                print("ready", flush=True)
        elif kind == "mqtt-plain":
            plain = SessionManager(dialect=MqttRequests(), on_request=lambda message: message)
            async with mqtt.requests(TOPIC, serves=True) as channel, plain.port("askers", channel):
                print("ready", flush=True)
                await trio.sleep_forever()
        else:
            async with mqtt.subscribe(TOPIC, qos=qos) as subscription:
                print("ready", flush=True)
                if qos:
                    async with trio.open_nursery() as nursery:
                        for _ in range(64):
                            nursery.start_soon(_answer_surely, mqtt, subscription)
                async for message in subscription:
                    await mqtt.respond(message, message.payload)


async def _answer_surely(mqtt: Any, subscription: Any) -> None:
    async for message in subscription:
        await mqtt.respond(message, message.payload, qos=1)


async def open_asking(kind: str, url: str, data: bytes, stack: AsyncExitStack) -> Callable[[], Awaitable[Any]]:
    """Return what asks once."""
    from psession import Exact, SessionManager
    from psession.brokers.mqtt import open_mqtt
    from psession.dialects import MqttRequests

    mqtt = await stack.enter_async_context(open_mqtt(url))
    qos = qos_of(kind)
    if not kind.startswith(("mqtt-p", "mqtt-port")):

        async def ask() -> Any:
            return await mqtt.request(TOPIC, data, qos=qos, timeout=10)

        return ask
    is_link = kind.startswith("mqtt-port")
    dialect: Any = Exact() if is_link else MqttRequests()
    channel = await stack.enter_async_context(mqtt.connect(TOPIC, qos=qos) if is_link else mqtt.requests(TOPIC))
    manager = SessionManager(dialect=dialect, session_timeout=10)
    port = await stack.enter_async_context(manager.port(TOPIC, channel))

    async def ask_port() -> Any:
        return await port.request(REQUEST)

    return ask_port


# -- paho --------------------------------------------------------------------------------------------------------------


def _paho(url: str) -> Any:
    import paho.mqtt.client as paho

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(0)
    parts = urlsplit(url)
    client.connect(parts.hostname, parts.port)
    # Else it waits up to 40 ms for the broker's kernel, 25 times a second.
    client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _properties(**fields: Any) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    made = Properties(PacketTypes.PUBLISH)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def serve_paho(kind: str, url: str) -> None:
    """Answer each request with itself."""
    client, qos = _paho(url), qos_of(kind)

    def answer(client: Any, userdata: Any, message: Any) -> None:
        back = _properties(CorrelationData=message.properties.CorrelationData)
        client.publish(message.properties.ResponseTopic, message.payload, qos=qos, properties=back)

    client.on_message = answer
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe(TOPIC, qos=qos)
    client.loop_forever()


def ask_paho(
    kind: str, url: str, data: bytes, in_flight: int, seconds: float, report: Callable[[float, int, float], None]
) -> None:
    """Ask as fast as it goes: each answer's callback asks the next, which is as little as paho can do."""
    client, qos = _paho(url), qos_of(kind)
    turns, began, used = 0, 0.0, 0.0
    ends = time.perf_counter() + 0.2 + seconds

    def ask(number: bytes) -> None:
        there = _properties(ResponseTopic=REPLIES, CorrelationData=number)
        client.publish(TOPIC, data, qos=qos, properties=there)

    def answered(client: Any, userdata: Any, message: Any) -> None:
        nonlocal turns, began, used
        now = time.perf_counter()
        if not began and now > ends - seconds:
            began, used, turns = now, time.process_time(), 0
        turns += 1
        if now < ends:
            ask(message.properties.CorrelationData)
        else:
            client.disconnect()

    client.on_message = answered
    client.on_subscribe = lambda *_: [ask(b"%d" % number) for number in range(in_flight)]
    client.subscribe(REPLIES, qos=qos)
    client.loop_forever()
    report(turns / (time.perf_counter() - began), turns, time.process_time() - used)


# -- aiomqtt -----------------------------------------------------------------------------------------------------------


def _aiomqtt(url: str) -> Any:
    import aiomqtt

    logging.getLogger("mqtt").setLevel(logging.ERROR)  # it says with each message how many wait
    parts = urlsplit(url)
    return aiomqtt.Client(
        str(parts.hostname),
        parts.port or 1883,
        protocol=aiomqtt.ProtocolVersion.V5,
        max_inflight_messages=64,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )


async def serve_aiomqtt(kind: str, url: str) -> None:
    """Answer each request with itself."""
    qos = qos_of(kind)
    async with _aiomqtt(url) as client:
        await client.subscribe(TOPIC, qos=qos)
        print("ready", flush=True)
        tasks: set[asyncio.Task[None]] = set()
        async for message in client.messages:
            got: Any = message.properties
            back = _properties(CorrelationData=got.CorrelationData)
            made = asyncio.ensure_future(client.publish(got.ResponseTopic, message.payload, qos=qos, properties=back))
            tasks.add(made)
            made.add_done_callback(tasks.discard)


async def ask_aiomqtt(kind: str, url: str, data: bytes, ask_for: Callable[[Any], Awaitable[None]]) -> None:
    """Ask by futures, as its users write it."""
    qos = qos_of(kind)
    waiting: dict[bytes, asyncio.Future[Any]] = {}
    last = 0
    async with _aiomqtt(url) as client:
        await client.subscribe(REPLIES, qos=qos)

        async def listen() -> None:
            async for message in client.messages:
                got: Any = message.properties
                future = waiting.pop(got.CorrelationData, None)
                if future is not None and not future.done():
                    future.set_result(message.payload)

        async def ask() -> Any:
            nonlocal last
            last += 1
            number = b"%d" % last
            future = waiting[number] = asyncio.get_running_loop().create_future()
            there = _properties(ResponseTopic=REPLIES, CorrelationData=number)
            await client.publish(TOPIC, data, qos=qos, properties=there)
            return await asyncio.wait_for(future, 10)

        listening = asyncio.ensure_future(listen())
        await ask_for(ask)
        listening.cancel()
