"""Ports over MQTT, where they are not as those over NATS: QoS, what the broker refuses, topics that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mqtt5
import pytest
import trio
import trio.testing

from psession import PortClosedError
from psession.brokers.mqtt import MqttPermissionError, MqttProtocolError

from .mqtt_broker import a_broker
from .sides import Worker, manager, served
from .test_mqtt_client import a_client, both

if TYPE_CHECKING:
    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked


async def test_words_for_a_link_that_is_over_are_answered_with_its_end(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), mqtt.subscribe("here") as subscription:
        await mqtt.open_inbox()
        await mqtt.publish(f"{mqtt.inbox.topic}L123", b"{}", response_topic="here")
        assert (await subscription.receive()).user_property("Psession-Link") == "closed"
        await mqtt.publish(f"{mqtt.inbox.topic}L123", b"{}", qos=1)
        strange = mqtt5.PublishPacket(f"{mqtt.inbox.topic}L123", b"", response_topic="a\n")
        await broker.clients[0].say(strange)
        await settle()
        assert (subscription.pending_messages, mqtt.statistics().late) == (0, 3)


async def test_of_several_that_serve_a_topic_the_first_to_say_welcome_is_it(autojump_clock: MockClock) -> None:
    workers = [Worker("a"), Worker("b")]
    async with (
        a_broker() as broker,
        a_client(broker) as one,
        a_client(broker) as two,
        a_client(broker) as mqtt,
        served(one, workers[0]) as first,
        served(two, workers[1]) as second,
        mqtt.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        names = {(await port.request({}))["worker"] for _ in range(5)}
        await settle()
        assert (len(names), first.links + second.links) == (1, 1)


@pytest.mark.parametrize("qos", [0, 1])
async def test_many_turns_at_once_where_the_broker_takes_few_messages(autojump_clock: MockClock, qos: Any) -> None:
    async with (
        a_broker(receive_max=3) as broker,
        a_client(broker) as there,
        a_client(broker) as mqtt,
        served(there, Worker(), qos=qos),
        mqtt.connect("work", qos=qos) as channel,
        manager().port("work", channel) as port,
    ):
        got: list[str] = []

        async def ask(number: int) -> None:
            got.append((await port.request({"text": str(number)}))["echo"])

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert sorted(got, key=int) == [str(number) for number in range(100)]
        if not qos:
            return
        broker.refusals[channel.peer] = mqtt5.PubAckReasonCode.QUOTA_EXCEEDED
        with pytest.raises(PortClosedError, match="quota exceeded"):
            await port.request({})


async def test_a_welcome_that_lies_is_no_link(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("work") as subscription, trio.open_nursery() as nursery:

        async def lie() -> None:
            message = await subscription.receive()
            frame = mqtt5.PublishPacket(
                message.response_topic or "",
                b"",
                response_topic="a\n",
                user_properties=[("Psession-Link", "welcome")],
            ).write()
            mqtt.outgoing.put(frame, 1)

        nursery.start_soon(lie)
        with pytest.raises(MqttProtocolError, match="the welcome of who serves 'work'"):
            async with mqtt.connect("work"):
                raise AssertionError


async def test_the_broker_may_refuse_the_topic_that_is_served(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        broker.refusals["work"] = mqtt5.PubAckReasonCode.NOT_AUTHORIZED
        with pytest.raises(MqttPermissionError):
            async with mqtt.connect("work"):
                raise AssertionError
        broker.forbidden["work"] = 0x87
        with pytest.raises(MqttPermissionError):
            await mqtt.serve("work", Worker())


async def test_each_message_of_qos_1_has_a_number_of_its_own_however_many_go_at_once(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as mqtt,
        served(there, Worker(), qos=1),
        mqtt.connect("work", qos=1) as channel,
        manager().port("work", channel) as port,
    ):
        sessions = [port.create() for _ in range(64)]
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for session in sessions:
                    nursery.start_soon(session.send, {"text": 1})
        await settle()
        assert mqtt.statistics().in_flight == there.statistics().in_flight == 0
        numbered = [packet for packet in broker.published if packet.qos == mqtt5.QoS.AT_LEAST_ONCE]
        assert len(numbered) > 640
        by_first = sum(packet.packet_id == 1 for packet in numbered)
        assert by_first < len(numbered) / 4  # where several travelled as one, all but the first had that number
