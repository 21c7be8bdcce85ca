"""Random histories of a client of MQTT whose connection breaks: no outcome is untrue, and QoS 1 is at least once."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession.brokers.mqtt import Mqtt, MqttError, MqttNoSubscribersError, MqttSubscription

from .mqtt_broker import MqttBroker, a_broker
from .test_mqtt_client import a_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


class History:
    """What was done, and what came of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.outcomes: dict[bytes, str] = {}
        self.came: list[bytes] = []
        self.sent_in: list[bytes] = []
        self.is_over = False

    async def publish(self, mqtt: Mqtt, number: int) -> None:
        """Publish, perhaps with little patience, and note the outcome."""
        rng, payload = self.rng, b"%d" % number
        await trio.sleep(rng.uniform(0, 20))
        with trio.move_on_after(rng.choice([0.0, 0.01, 1.0, 1000.0])) as scope:
            try:
                await mqtt.publish("out", payload, qos=1)
                self.outcomes[payload] = "acknowledged"
            except MqttError as error:
                self.outcomes[payload] = str(error.outcome)
        if scope.cancelled_caught:
            self.outcomes[payload] = "cancelled"

    async def ask(self, mqtt: Mqtt, number: int) -> None:
        """Ask, and note the outcome."""
        rng, payload = self.rng, b"?%d" % number
        await trio.sleep(rng.uniform(0, 20))
        qos: Any = rng.randrange(2)
        try:
            reply = await mqtt.request("echo", payload, timeout=rng.choice([0.01, 1.0, 30.0]), qos=qos)
            assert reply.payload == payload
            self.outcomes[payload] = "acknowledged"
        except MqttNoSubscribersError:
            self.outcomes[payload] = "nobody"
        except MqttError as error:
            self.outcomes[payload] = str(error.outcome)

    async def tell(self, other: Mqtt) -> None:
        """Publish what the client has subscribed to."""
        for number in range(60):
            await trio.sleep(self.rng.uniform(0, 0.7))
            payload = b"%d" % number
            await other.publish("in", payload, qos=1)
            self.sent_in.append(payload)

    async def hear(self, subscription: MqttSubscription) -> None:
        """Note what comes."""
        async for message in subscription:
            self.came.append(message.payload)

    async def echo(self, subscription: MqttSubscription, other: Mqtt) -> None:
        """Answer what is asked."""
        async for message in subscription:
            await trio.sleep(self.rng.choice([0.0, 0.0, 0.5]))
            await other.respond(message, message.payload, qos=1)

    async def break_things(self, broker: MqttBroker, *, forgets: bool) -> None:
        """Break the client's connection now and then, with acknowledgements on their way."""
        rng = self.rng
        for _ in range(rng.randrange(1, 12)):
            await trio.sleep(rng.uniform(0, 3))
            broker.acknowledges = rng.random() < 0.5
            await trio.sleep(rng.choice([0.0, 0.05, 0.5]))
            broker.forgets = forgets and rng.random() < 0.5
            broker.down = rng.random() < 0.5
            await broker.kill("me")
            broker.acknowledges = True
            await trio.sleep(rng.choice([0.0, 1.0]))
            broker.down = False


@asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """End what does not end."""
    with trio.fail_after(seconds):
        yield


@pytest.mark.parametrize("seed", range(30))
async def test_no_outcome_is_untrue(autojump_clock: MockClock, seed: int) -> None:
    history = History(seed)
    forgets = seed % 2 == 1
    expiry = 0 if seed % 4 == 3 else 600
    receive_max = history.rng.choice([1, 3, 65535])
    async with (
        bounded(2000),
        a_broker(receive_max=receive_max) as broker,
        a_client(broker, client_id="other", rng=history.rng.random) as other,
        a_client(broker, client_id="me", session_expiry=expiry, receive_maximum=5, rng=history.rng.random) as mqtt,
        mqtt.subscribe("in") as subscription,
        other.subscribe("echo") as asked,
        trio.open_nursery() as background,
    ):
        broker.acknowledges_still = "other"
        background.start_soon(history.hear, subscription)
        background.start_soon(history.echo, asked, other)
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(history.publish, mqtt, number)
                nursery.start_soon(history.ask, mqtt, number)
            nursery.start_soon(history.tell, other)
            nursery.start_soon(lambda: history.break_things(broker, forgets=forgets))
        await mqtt.until_connected()
        await trio.sleep(5)
        counted = mqtt.statistics()
        assert (counted.in_flight, counted.waiting_requests, counted.queued_bytes) == (0, 0, 0)
        assert mqtt._connection.flight._ids._used == set()
        background.cancel_scope.cancel()
    mine = [packet for packet in broker.published if packet.topic in ("out", "echo")]
    published = {packet.payload for packet in mine}
    for payload, outcome in history.outcomes.items():
        if outcome == "acknowledged":
            assert payload in published
        elif outcome == "not_sent":
            assert payload not in published
        if outcome in ("sent", "not_sent") and not forgets and not payload.startswith(b"?"):
            raise AssertionError(f"{payload!r} failed as {outcome}, where the session was kept")
    assert len(history.outcomes) == 120
    if not forgets:
        assert set(history.came) == set(history.sent_in)
        assert list(dict.fromkeys(history.came)) == history.sent_in
    sent_once = [packet.payload for packet in mine if not packet.duplicate]
    assert len(sent_once) == len(set(sent_once)), "a message was sent again without saying so"
