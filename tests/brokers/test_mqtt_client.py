"""A client of MQTT 5 against a broker in memory, on virtual time: what it promises, and what breaks underneath it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import mqtt5
import pytest
import trio
import trio.testing

from psession import MalformedMessageError, MessageTooLargeError
from psession.brokers.mqtt import (
    Mqtt,
    MqttAuthError,
    MqttClosedError,
    MqttConnectError,
    MqttDisconnectedError,
    MqttMessage,
    MqttNoSubscribersError,
    MqttOverrunError,
    MqttPermissionError,
    MqttRefusedError,
    MqttState,
    MqttSubscription,
    MqttTakenOverError,
    MqttTimeoutError,
    Will,
    open_mqtt,
)

from .broker import socket_pair
from .mqtt_broker import MqttBroker, a_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked
NOT_AUTHORIZED = mqtt5.PubAckReasonCode.NOT_AUTHORIZED
QUOTA = mqtt5.PubAckReasonCode.QUOTA_EXCEEDED


@asynccontextmanager
async def a_client(broker: MqttBroker, **options: Any) -> AsyncIterator[Mqtt]:
    """A client of a broker in memory."""
    options.setdefault("rng", lambda: 0.0)
    async with open_mqtt(open_stream=broker.open_stream, **options) as mqtt:
        yield mqtt


@asynccontextmanager
async def both(**options: Any) -> AsyncIterator[tuple[MqttBroker, Mqtt]]:
    """A broker and a client of it."""
    async with a_broker() as broker, a_client(broker, **options) as mqtt:
        yield broker, mqtt


@asynccontextmanager
async def answering(mqtt: Mqtt, topic: str, **options: Any) -> AsyncIterator[list[MqttMessage]]:
    """Somebody who answers each message with its own payload."""
    came: list[MqttMessage] = []

    async def answer(subscription: MqttSubscription) -> None:
        async for message in subscription:
            came.append(message)
            if message.response_topic:
                await mqtt.respond(message, message.payload)

    async with mqtt.subscribe(topic, **options) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(answer, subscription)
        yield came
        nursery.cancel_scope.cancel()


def heard(broker: MqttBroker, kind: type) -> list[Any]:
    """What the broker heard of one kind, from the client that came last."""
    return [packet for packet in broker.clients[-1].heard if type(packet) is kind]


# -- the plain case ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_message_reaches_who_has_subscribed(autojump_clock: MockClock, qos: Any) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("light/+") as subscription:
        assert subscription.qos == 1
        assert await mqtt.publish(
            "light/on",
            b"now",
            qos=qos,
            response_topic="answers",
            correlation_data=b"\x01",
            content_type="text/plain",
            expiry=60,
            is_text=True,
            user_properties={"Room": "hall"},
        )
        message = await subscription.receive()
        assert (message.topic, message.payload, message.qos, message.retain) == ("light/on", b"now", qos, False)
        assert (message.response_topic, message.correlation_data) == ("answers", b"\x01")
        assert (message.content_type, message.expiry, message.duplicate) == ("text/plain", 60, False)
        assert message.user_properties == [("Room", "hall")]
        assert (message.user_property("Room"), message.user_property("room")) == ("hall", None)
        assert repr(message) == "<psession.brokers.mqtt.MqttMessage on 'light/on', 3 bytes>"
        await mqtt.publish("light/off", bytearray(b"x"), qos=qos, user_properties=[("a", "1"), ("a", "2")])
        assert (await subscription.receive()).user_properties == [("a", "1"), ("a", "2")]
        assert (mqtt.statistics().messages_in, mqtt.statistics().messages_out) == (2, 2)


async def test_the_publisher_knows_where_nobody_has_subscribed(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        assert await mqtt.publish("nobody", b"", qos=1) is False
        assert mqtt.statistics().no_subscribers == 1
        broker.tells_nobody = False
        assert await mqtt.publish("nobody", b"", qos=1) is True


async def test_a_request_has_its_own_answer_among_many(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), answering(mqtt, "echo"):
        got: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            got[number] = (await mqtt.request("echo", b"%d" % number, qos=number % 2)).payload  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        assert got == {number: b"%d" % number for number in range(200)}
        counted = mqtt.statistics()
        assert (counted.waiting_requests, counted.in_flight, counted.requests) == (0, 0, 200)


async def test_nobody_there_is_said_at_once_and_nothing_was_done(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt):
        with pytest.raises(MqttNoSubscribersError, match="nobody has subscribed to 'lamp'") as caught:
            await mqtt.request("lamp", timeout=60)
        assert (caught.value.outcome, caught.value.code, trio.current_time()) == ("not_sent", 0x10, 0.0)


async def test_a_broker_that_does_not_tell_leaves_the_request_to_its_time(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        broker.tells_nobody = False
        with pytest.raises(MqttTimeoutError, match="the broker does not say so") as caught:
            await mqtt.request("lamp", timeout=3)
        assert (caught.value.outcome, trio.current_time(), mqtt.statistics().timeouts) == ("sent", 3.0, 1)
        with pytest.raises(MqttTimeoutError):
            await mqtt.request("lamp", timeout=3, qos=0)


async def test_an_answer_after_its_time_reaches_nobody_and_is_counted(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("slow") as subscription:
        with pytest.raises(MqttTimeoutError):
            await mqtt.request("slow", timeout=1)
        await mqtt.respond(await subscription.receive(), b"late", qos=1)
        assert mqtt.statistics().late == 1


async def test_an_answer_in_the_tick_of_the_deadline_beats_it(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        broker.pair = socket_pair
        async with a_client(broker) as mqtt, mqtt.subscribe("slow") as subscription, trio.open_nursery() as nursery:

            async def answer() -> None:
                asked = await subscription.receive()
                reply = mqtt5.PublishPacket(
                    asked.response_topic or "", b"just so", correlation_data=asked.correlation_data
                )
                stream = broker.clients[0].stream
                assert isinstance(stream, trio.SocketStream)
                await trio.sleep_until(began + 2)
                os.write(stream.socket.fileno(), reply.write())

            nursery.start_soon(answer)
            await mqtt.open_inbox()
            began = trio.current_time()
            assert (await mqtt.request("slow", timeout=2)).payload == b"just so"


async def test_what_wants_no_answer_has_none(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("a") as subscription:
        await mqtt.publish("a")
        with pytest.raises(ValueError, match="wants no answer"):
            await mqtt.respond(await subscription.receive())
        await mqtt.publish("a", response_topic="b")
        message = await subscription.receive()
        assert await mqtt.respond(message, qos=1) is False


# -- QoS 1 -------------------------------------------------------------------------------------------------------------


async def test_a_message_that_the_broker_refuses_is_an_error(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        broker.refusals = {"secret": NOT_AUTHORIZED, "full": QUOTA}
        with pytest.raises(MqttPermissionError, match="not authorized") as refused:
            await mqtt.publish("secret", qos=1)
        assert (refused.value.outcome, refused.value.code) == ("not_sent", 0x87)
        with pytest.raises(MqttRefusedError, match=r"quota exceeded \(0x97\)"):
            await mqtt.publish("full", qos=1)
        with pytest.raises(MqttPermissionError):
            await mqtt.request("secret")
        assert mqtt.statistics().refused == 3


async def test_no_more_is_in_flight_than_the_broker_takes(autojump_clock: MockClock) -> None:
    async with a_broker(receive_max=3) as broker, a_client(broker) as mqtt, trio.open_nursery() as nursery:
        broker.acknowledges = False
        done: list[int] = []

        async def publish(number: int) -> None:
            await mqtt.publish("a", b"%d" % number, qos=1)
            done.append(number)

        for number in range(10):
            nursery.start_soon(publish, number)
            await settle()
        seen = heard(broker, mqtt5.PublishPacket)
        assert (len(seen), mqtt.statistics().in_flight) == (3, 3)
        with trio.move_on_after(1) as scope:
            await mqtt.publish("never", qos=1)
        assert scope.cancelled_caught
        for count in range(10):
            seen = heard(broker, mqtt5.PublishPacket)
            assert len(seen) == min(count + 3, 10)
            await broker.clients[0].say(mqtt5.PubAckPacket(seen[count].packet_id))
            await settle()
        assert (done, [one.payload for one in seen]) == (list(range(10)), [b"%d" % n for n in range(10)])
        assert mqtt.statistics().in_flight == 0


async def test_what_was_cancelled_before_it_was_written_is_never_sent(autojump_clock: MockClock) -> None:
    async with a_broker(receive_max=1) as broker, a_client(broker, max_delay=1) as mqtt, trio.open_nursery() as nursery:
        broker.acknowledges = False
        with trio.move_on_after(1):
            await mqtt.publish("written", qos=1)
        broker.down = True
        await broker.kill()
        with trio.move_on_after(1):
            await mqtt.publish("cancelled", qos=1)
        with pytest.raises(MqttTimeoutError, match="there was no connection") as caught:
            await mqtt.request("lamp", timeout=1)
        assert caught.value.outcome == "not_sent"
        nursery.start_soon(mqtt.publish, "last")
        broker.down, broker.acknowledges = False, True
        await mqtt.until_connected()
        await settle()
        assert [packet.topic for packet in broker.published] == ["written", "last"]


async def test_a_session_that_is_kept_has_its_messages_sent_again(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, client_id="me", session_expiry=60) as mqtt,
        trio.open_nursery() as nursery,
    ):
        broker.acknowledges = False
        results: list[bool] = []

        async def publish(number: int) -> None:
            results.append(await mqtt.publish("a", b"%d" % number, qos=1))

        for number in range(3):
            nursery.start_soon(publish, number)
            await settle()
        await broker.kill()
        nursery.start_soon(publish, 3)
        broker.acknowledges = True
        await mqtt.until_connected()
        await settle()
        assert mqtt.session_present
        again = heard(broker, mqtt5.PublishPacket)
        assert [(one.payload, one.duplicate) for one in again] == [
            (b"0", True),
            (b"1", True),
            (b"2", True),
            (b"3", False),
        ]
        assert (results, mqtt.statistics().sent_again, mqtt.statistics().reconnects) == ([False] * 4, 3, 1)


async def test_a_refusal_of_what_was_sent_before_leaves_the_first_open(
    autojump_clock: MockClock,
) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, client_id="me", session_expiry=60) as mqtt,
        trio.open_nursery() as nursery,
    ):
        await mqtt.open_inbox()
        broker.acknowledges = False

        async def note(kind: type[Exception], what: Any) -> None:
            with pytest.raises(kind) as caught:
                await what()
            assert getattr(caught.value, "outcome", None) == "sent"

        nursery.start_soon(note, MqttRefusedError, lambda: mqtt.publish("full", qos=1))
        nursery.start_soon(note, MqttNoSubscribersError, lambda: mqtt.request("nobody", timeout=60))
        await settle()
        broker.acknowledges, broker.refusals = True, {"full": QUOTA}
        await broker.kill()


async def test_a_session_that_is_lost_is_told_and_what_was_not_sent_is_sent(autojump_clock: MockClock) -> None:
    states: list[MqttState] = []
    async with (
        a_broker() as broker,
        a_client(broker, client_id="me", session_expiry=60, on_state=states.append) as mqtt,
        mqtt.subscribe("news") as subscription,
        trio.open_nursery() as nursery,
    ):
        broker.acknowledges = False
        broker.forgets = True

        async def publish() -> None:
            with pytest.raises(MqttDisconnectedError, match="has kept no session") as caught:
                await mqtt.publish("a", qos=1)
            assert caught.value.outcome == "sent"

        async def ask() -> None:
            with pytest.raises(MqttDisconnectedError) as caught:
                await mqtt.request("a", timeout=60)
            assert caught.value.outcome == "sent"

        nursery.start_soon(publish)
        nursery.start_soon(ask)
        await settle()
        await broker.kill()
        broker.acknowledges = True
        nursery.start_soon(mqtt.publish, "news", b"later")
        assert (await subscription.receive()).payload == b"later"
        assert not mqtt.session_present
        assert [state.state for state in states] == ["connecting", "open", "broken", "waiting", "connecting", "open"]
        assert (states[3].delay, states[-1].session_present) == (0.1, False)


async def test_without_a_session_what_was_written_fails_at_once(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), trio.open_nursery() as nursery:
        broker.acknowledges = False
        await mqtt.open_inbox()

        async def ask(qos: Any) -> None:
            with pytest.raises(MqttDisconnectedError, match="the connection to mqtt://127") as caught:
                await mqtt.request("a", timeout=60, qos=qos)
            assert (caught.value.outcome, trio.current_time()) == ("sent", 0.0)

        nursery.start_soon(ask, 0)
        nursery.start_soon(ask, 1)
        await settle()
        await broker.kill()


async def test_an_answer_finds_its_request_after_a_break_where_the_session_is_kept(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, client_id="there") as there,
        a_client(broker, client_id="me", session_expiry=60) as mqtt,
        there.subscribe("slow") as subscription,
        trio.open_nursery() as nursery,
    ):

        async def answer() -> None:
            message = await subscription.receive()
            await trio.aclose_forcefully(broker.clients[1].stream)
            await there.respond(message, b"kept", qos=1)

        nursery.start_soon(answer)
        assert (await mqtt.request("slow", timeout=60)).payload == b"kept"
        assert mqtt.statistics().reconnects == 1


async def test_a_message_that_a_new_broker_does_not_take_fails_alone(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, client_id="me", session_expiry=60) as mqtt,
        trio.open_nursery() as nursery,
    ):
        broker.acknowledges = False

        async def publish() -> None:
            with pytest.raises(MessageTooLargeError, match="100 at most") as caught:
                await mqtt.publish("a", bytes(200), qos=1)
            assert caught.value.outcome == "sent"

        nursery.start_soon(publish)
        nursery.start_soon(lambda: mqtt.publish("a", b"small", qos=1))
        await settle()
        broker.connack = {"max_packet_size": 100}
        broker.acknowledges = True
        await broker.kill()
        await mqtt.until_connected()
        assert mqtt.max_payload == 100


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("is_queued", [False, True])
async def test_what_waits_and_is_too_large_when_the_broker_is_back_fails_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, is_queued: bool, qos: Any
) -> None:
    async with both() as (broker, mqtt), answering(mqtt, "echo"), mqtt.subscribe("a") as subscription:
        broker.down = True
        if is_queued:
            await mqtt.request("echo", b"")
            mqtt.outgoing.detach()  # as it is for a pass, before the break is known: what is asked then is queued
        else:
            await broker.kill()  # what is asked then waits for the topic of answers, too
        broker.connack = {"max_packet_size": 200}
        outcomes: list[str] = []

        async def ask(size: int) -> None:
            try:
                outcomes.append(f"{len((await mqtt.request('echo', bytes(size), qos=qos, timeout=60)).payload)} bytes")
            except MessageTooLargeError as error:
                outcomes.append(f"{error.outcome}, {error.attempts}: {error.why}")

        await mqtt.publish("a", b"first")
        await mqtt.publish("a", bytes(201))
        await mqtt.publish("a", bytes(201), response_topic="b", correlation_data=b"1")
        async with trio.open_nursery() as nursery:
            for size in (20, 200):
                nursery.start_soon(ask, size)
            await settle()
            await mqtt.publish("a", b"last")
            await broker.kill()
            broker.down = False
        size = len(mqtt.inbox.reply_topic) + 217 + 2 * qos
        assert sorted(outcomes) == [
            "20 bytes",
            f"not_sent, 0: a packet of {size} bytes; the broker takes 200 at most",
        ]
        assert [(await subscription.receive()).payload for _ in range(2)] == [b"first", b"last"]
        said = mqtt.statistics()
        assert (said.too_large, said.reconnects, said.queued_bytes, said.waiting_requests) == (
            2 + (is_queued and not qos),
            1,
            0,
            0,
        )
    (record,) = [one for one in caplog.records if one.__dict__.get("event_name") == "messages_too_large"]
    assert record.getMessage() == (
        "2 messages that waited for a connection were let go: the broker takes packets of 200 bytes at most"
    )


async def test_acknowledgements_of_nothing_change_nothing(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        await broker.clients[0].say(
            mqtt5.PubAckPacket(7),
            mqtt5.PubAckPacket(0),
            mqtt5.SubAckPacket(9, [mqtt5.SubAckReasonCode.UNSPECIFIED_ERROR]),
            mqtt5.UnsubAckPacket(9, [mqtt5.UnsubAckReasonCode.SUCCESS]),
        )
        assert await mqtt.publish("a", qos=1) is False
        assert mqtt.statistics().reconnects == 0


# -- what the broker says that it has not ------------------------------------------------------------------------------


async def test_what_the_broker_has_not_is_refused_here(autojump_clock: MockClock) -> None:
    limits = {
        "max_qos": mqtt5.QoS.AT_MOST_ONCE,
        "retain_available": False,
        "wildcard_subscription_available": False,
        "shared_subscription_available": False,
        "subscription_id_available": False,
        "max_packet_size": 50,
    }
    async with a_broker(**limits) as broker, a_client(broker) as mqtt:
        with pytest.raises(MqttRefusedError, match="no QoS 1") as caught:
            await mqtt.publish("a", qos=1)
        assert caught.value.outcome == "not_sent"
        with pytest.raises(MqttRefusedError, match="no retained messages"):
            await mqtt.publish("a", retain=True)
        with pytest.raises(MessageTooLargeError, match="50 at most"):
            await mqtt.publish("a", bytes(50))
        with pytest.raises(MqttRefusedError, match="no wildcards"):
            async with mqtt.subscribe("a/#"):
                raise AssertionError
        with pytest.raises(MqttRefusedError, match="no shared"):
            async with mqtt.subscribe("a", shared="g"):
                raise AssertionError
        async with mqtt.subscribe("a") as subscription:
            await mqtt.publish("a", b"x")
            assert (await subscription.receive()).payload == b"x"
        assert [one.subscription_id for one in heard(broker, mqtt5.SubscribePacket)] == [None]
        assert len(broker.published) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "text"),
    [
        (("a/+",), {}, ValueError, "wildcard"),
        (("a", "text"), {}, TypeError, "payload.encode"),
        (("a", 5), {}, TypeError, "must be bytes"),
        (("a",), {"qos": 2}, ValueError, "qos must be 0 or 1"),
        (("a",), {"qos": True}, ValueError, "qos must be 0 or 1"),
        (("a",), {"response_topic": "#"}, ValueError, "response topic"),
        (("a",), {"expiry": 1.5}, ValueError, "whole seconds"),
        (("a",), {"expiry": "1"}, TypeError, "whole seconds"),
        (("a",), {"user_properties": {"a": 1}}, TypeError, "pairs of texts"),
        (("a",), {"user_properties": {"a": "\0"}}, MalformedMessageError, "NUL"),
    ],
)
async def test_what_cannot_be_published(
    autojump_clock: MockClock, arguments: Any, options: Any, kind: type[Exception], text: str
) -> None:
    async with both() as (broker, mqtt):
        with pytest.raises(kind, match=text):
            await mqtt.publish(*arguments, **options)
        assert broker.published == []


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("a/b+",), {}, "topic filter"),
        (("a",), {"shared": "a/b"}, "group"),
        (("a",), {"shared": "g", "no_local": True}, "3.8.3.1"),
        (("a",), {"qos": 2}, "qos"),
        (("a",), {"limit": 0}, "limit"),
        (("a",), {"durable": True}, "session_expiry"),
        (("a",), {"retain_handling": "sometimes"}, "retain_handling"),
    ],
)
async def test_what_cannot_be_subscribed_to(autojump_clock: MockClock, arguments: Any, options: Any, text: str) -> None:
    async with both() as (broker, mqtt):
        with pytest.raises(ValueError, match=text):
            async with mqtt.subscribe(*arguments, **options):
                raise AssertionError
        assert heard(broker, mqtt5.SubscribePacket) == []


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"client_id": 5}, TypeError, "client_id"),
        ({"user": "a\0"}, TypeError, "user"),
        ({"password": 5}, TypeError, "password must be"),
        ({"clean_start": False}, ValueError, "give its client_id"),
        ({"clean_start": 1}, TypeError, "clean_start"),
        ({"session_expiry": 1.5}, ValueError, "session_expiry"),
        ({"keepalive": -1}, ValueError, "keepalive"),
        ({"keepalive": 70000}, ValueError, "keepalive"),
        ({"will": "gone"}, TypeError, "must be a Will"),
        ({"receive_maximum": 0}, ValueError, "receive_maximum"),
        ({"receive_maximum": 70000}, ValueError, "at most 65535"),
        ({"max_in_flight": 70000}, ValueError, "at most 65535"),
        ({"max_packet_bytes": 2**30}, ValueError, "max_packet_bytes"),
        ({"inbox_prefix": "a/#"}, ValueError, "inbox_prefix"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout"),
        ({"first_delay": 9}, ValueError, "first_delay"),
        ({"grace": math.inf}, ValueError, "finite"),
        ({"max_tries": 0}, ValueError, "max_tries"),
        ({"on_state": 5}, TypeError, "callable"),
        ({"jitter": -1}, ValueError, "jitter"),
        ({"max_pending_bytes": 0}, ValueError, "max_pending_bytes"),
    ],
)
async def test_what_no_client_is_made_of(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        async with open_mqtt(**options):
            raise AssertionError


async def test_who_is_told_of_states_is_a_plain_function() -> None:
    async def on_state(state: MqttState) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="plain function"):
        async with open_mqtt(on_state=on_state):
            raise AssertionError


async def test_who_is_told_of_states_breaks_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def on_state(state: MqttState) -> None:
        raise RuntimeError(state.state)

    async with both(on_state=on_state) as (_, mqtt):
        await mqtt.publish("a")
    assert "on_state raised" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("+",), ValueError),
        (("a", "b"), TypeError),
        (("a", b"", 2), ValueError),
        (("a", b"", 0, False, -1), ValueError),
    ],
)
def test_what_is_no_will(arguments: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Will(*arguments)


# -- subscriptions -----------------------------------------------------------------------------------------------------


async def test_a_message_is_acknowledged_when_it_is_in_the_queue(autojump_clock: MockClock) -> None:
    async with both(receive_maximum=5) as (broker, mqtt), mqtt.subscribe("a") as subscription:
        for number in range(20):
            await mqtt.publish("a", b"%d" % number, qos=1)
        assert subscription.pending_messages == 20
        await settle()
        assert len(broker.clients[0].acks) == 20
        assert [one.payload for one in await subscription.receive_batch()] == [b"%d" % n for n in range(20)]


async def test_a_slow_reader_fails_alone(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), mqtt.subscribe("a/1", max_pending_messages=3) as slow, mqtt.subscribe("a/+"):
        for _ in range(5):
            await mqtt.publish("a/1", b"x", qos=1)
        await settle()
        assert len(await slow.receive_batch()) == 3
        with pytest.raises(MqttOverrunError, match="holds 3 of"):
            await slow.receive()
        assert (mqtt.statistics().overrun, len(broker.clients[0].acks)) == (1, 9)
        assert len(heard(broker, mqtt5.UnsubscribePacket)) == 1


async def test_a_subscription_ends_after_as_many_as_it_was_made_for(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), mqtt.subscribe("a", limit=2) as subscription:
        for number in range(3):
            await mqtt.publish("a", b"%d" % number, qos=1)
        assert [message.payload async for message in subscription] == [b"0", b"1"]
        assert len(heard(broker, mqtt5.UnsubscribePacket)) == 1


async def test_filters_that_overlap_have_each_message_once_each(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("a/+") as one, mqtt.subscribe("a/#") as two:
        for number in range(3):
            await mqtt.publish(f"a/{number}", qos=1)
        assert [len(await each.receive_batch()) for each in (one, two)] == [3, 3]


async def test_a_filter_is_subscribed_to_once_at_a_time(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        async with mqtt.subscribe("a"):
            with pytest.raises(ValueError, match="already"):
                async with mqtt.subscribe("a"):
                    raise AssertionError
        async with mqtt.subscribe("a") as subscription:
            await mqtt.publish("a", b"x", qos=1)
            assert (await subscription.receive()).payload == b"x"
        await settle()
        assert broker.clients[0].session.subscriptions == {}


async def test_the_broker_may_refuse_a_subscription(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        broker.forbidden = {"secret": 0x87, "much": 0x97}
        with pytest.raises(MqttPermissionError, match="refuses the subscription to 'secret'"):
            async with mqtt.subscribe("secret"):
                raise AssertionError
        with pytest.raises(MqttRefusedError, match="quota"):
            async with mqtt.subscribe("much"):
                raise AssertionError
        assert mqtt.statistics().subscriptions == 0
        assert heard(broker, mqtt5.UnsubscribePacket) == []


async def test_the_broker_may_refuse_the_topic_of_answers(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        broker.forbidden = {mqtt.inbox.wanted.name: 0x87}
        for _ in range(2):
            with pytest.raises(MqttPermissionError, match="refuses the subscription to 'psession/"):
                await mqtt.request("a")


async def test_a_subscription_that_is_refused_after_a_reconnect_ends(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), mqtt.subscribe("a") as subscription:
        broker.forbidden = {"a": 0x87}
        await broker.kill()
        with pytest.raises(MqttPermissionError):
            await subscription.receive()
        assert not mqtt.closed


async def test_subscriptions_are_made_again_after_a_reconnect(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), mqtt.subscribe("a") as subscription:
        for _ in range(3):
            await broker.kill()
            await mqtt.until_connected()
            await mqtt.publish("a", b"x", qos=1)
            assert (await subscription.receive()).payload == b"x"
        assert mqtt.statistics().reconnects == 3


async def test_a_subscription_that_was_left_without_a_connection_is_left_with_the_next(
    autojump_clock: MockClock,
) -> None:
    async with a_broker() as broker, a_client(broker, client_id="me", session_expiry=60) as mqtt:
        async with mqtt.subscribe("a"):
            await broker.kill()
        await mqtt.until_connected()
        await settle()
        assert [one.patterns for one in heard(broker, mqtt5.UnsubscribePacket)] == [["a"]]
        assert heard(broker, mqtt5.SubscribePacket) == []


async def test_a_subscription_waits_for_the_connection_that_it_is_made_on(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        broker.down = True
        await broker.kill()
        async with trio.open_nursery() as nursery:

            async def return_() -> None:
                await trio.sleep(4)
                broker.down = False

            nursery.start_soon(return_)
            async with mqtt.subscribe("a") as subscription:
                assert trio.current_time() >= 4
                await mqtt.publish("a", qos=1)
                await subscription.receive()


async def test_retained_messages(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt):
        await mqtt.publish("a", b"kept", retain=True, qos=1)
        async with mqtt.subscribe("a") as subscription:
            message = await subscription.receive()
            assert (message.payload, message.retain) == (b"kept", True)
            await mqtt.publish("a", b"new", retain=True)
            assert not (await subscription.receive()).retain
        async with mqtt.subscribe("a", retain_handling="never", retain_as_published=True) as subscription:
            await mqtt.publish("a", b"newest", retain=True, qos=1)
            message = await subscription.receive()
            assert (message.payload, message.retain) == (b"newest", True)


async def test_a_shared_subscription_gives_each_message_to_one(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as one,
        a_client(broker) as two,
        one.subscribe("work", shared="g") as first,
        two.subscribe("work", shared="g") as second,
    ):
        for _ in range(40):
            await one.publish("work", qos=1)
        await settle()
        assert first.pending_messages + second.pending_messages == 40
        assert min(first.pending_messages, second.pending_messages) > 5
        assert repr(first).startswith("<psession.brokers.mqtt.MqttSubscription to 'work', shared by 'g', ")


async def test_own_messages_may_stay_away(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("a", no_local=True) as subscription:
        assert await mqtt.publish("a", qos=1) is False
        assert subscription.pending_messages == 0


# -- sessions that last ------------------------------------------------------------------------------------------------


async def test_what_came_for_a_client_that_was_away_comes_when_it_subscribes_again(autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"client_id": "me", "session_expiry": 600, "clean_start": False}
    async with a_broker() as broker, a_client(broker) as other:
        async with a_client(broker, **options) as mqtt, mqtt.subscribe("jobs/+", durable=True):
            assert not mqtt.session_present
        for number in range(5):
            assert await other.publish(f"jobs/{number}", qos=1)
        async with a_client(broker, **options) as mqtt:
            await settle()
            assert (mqtt.session_present, mqtt.statistics().held, broker.clients[-1].acks) == (True, 5, [])
            async with mqtt.subscribe("jobs/+", durable=True) as subscription:
                assert [one.topic for one in await subscription.receive_batch()] == [f"jobs/{n}" for n in range(5)]
                await settle()
                assert len(broker.clients[-1].acks) == 5
        async with a_client(broker, **{**options, "clean_start": True}) as mqtt:
            assert not mqtt.session_present
        await settle()


async def test_messages_that_nobody_claims_do_not_stop_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"client_id": "me", "session_expiry": 600, "clean_start": False, "receive_maximum": 10}
    async with a_broker() as broker, a_client(broker) as other:
        async with a_client(broker, **options) as mqtt, mqtt.subscribe("old", durable=True):
            pass
        for number in range(30):
            await other.publish("old", b"%d" % number, qos=1)
        async with a_client(broker, **options) as mqtt, mqtt.subscribe("new") as subscription:
            await other.publish("new", b"x", qos=1)
            assert (await subscription.receive()).payload == b"x"
            counted = mqtt.statistics()
            assert (counted.held, counted.unclaimed) == (5, 25)
            async with mqtt.subscribe("old") as late:
                assert [one.payload for one in await late.receive_batch()] == [b"%d" % n for n in range(25, 30)]
    assert caplog.text.count("were let go") == 1


async def test_what_is_held_when_the_connection_breaks_comes_once(autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"client_id": "me", "session_expiry": 600, "clean_start": False}
    async with a_broker() as broker, a_client(broker) as other:
        async with a_client(broker, **options) as mqtt, mqtt.subscribe("a", durable=True):
            pass
        await other.publish("a", b"kept", qos=1)
        async with a_client(broker, **options) as mqtt:
            await settle()
            for forgets in (False, True):
                broker.forgets = forgets
                client = next(one for one in broker.clients if one.connect and one.connect.client_id == "me")
                await trio.aclose_forcefully(client.stream)
                await settle()
                await mqtt.until_connected()
                await settle()
                assert mqtt.statistics().held == 1
            async with mqtt.subscribe("a") as subscription:
                assert [one.payload for one in await subscription.receive_batch()] == [b"kept"]
                await settle()
                assert mqtt.statistics().held == 0


async def test_what_comes_for_a_subscription_that_was_left_is_late(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt):
        async with mqtt.subscribe("a"):
            pass
        await broker.clients[0].say(mqtt5.PublishPacket("a", b"", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=5))
        await settle()
        assert (mqtt.statistics().late, broker.clients[0].acks) == (1, [5])
        assert mqtt.statistics().held == 0


# -- connecting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (0x86, MqttAuthError, r"bad user name or password \(0x86\)"),
        (0x87, MqttAuthError, "not authorized"),
        (0x85, MqttConnectError, "give another client_id"),
        (0x84, MqttConnectError, "does not speak MQTT 5"),
        (0x97, MqttConnectError, "quota exceeded"),
        (0x9D, MqttConnectError, "server moved.*'elsewhere'"),
    ],
)
async def test_a_broker_that_refuses_says_why(
    autojump_clock: MockClock, code: int, kind: type[MqttConnectError], text: str
) -> None:
    async with a_broker() as broker:
        broker.refusal = code
        if code == 0x9D:
            broker.refusal_more = {"server_reference": "elsewhere"}
        with pytest.raises(kind, match=text) as caught:
            async with a_client(broker, user="u", password="secret"):
                raise AssertionError
        assert (caught.value.code, caught.value.outcome, type(caught.value)) == (code, "not_sent", kind)
        assert caught.value.server_reference == ("elsewhere" if code == 0x9D else "")
        assert "secret" not in str(caught.value)


async def test_what_a_client_says_of_itself(autojump_clock: MockClock) -> None:
    will = Will("gone", b"me", qos=1, retain=True, delay=5, content_type="text")
    async with (
        a_broker(server_keep_alive=7) as broker,
        open_mqtt(
            "mqtt://u:p%40@h:1",
            open_stream=broker.open_stream,
            client_id="me",
            will=will,
            session_expiry=math.inf,
            receive_maximum=9,
            max_packet_bytes=5000,
        ) as mqtt,
    ):
        said = broker.clients[0].connect
        assert said is not None
        assert (said.client_id, said.username, said.password) == ("me", "u", b"p@")
        assert (said.session_expiry_interval, said.receive_max, said.topic_alias_max) == (0xFFFFFFFF, 9, 0)
        assert (said.max_packet_size, said.keep_alive, said.clean_start) == (5000, 30, True)
        assert said.will is not None
        assert (said.will.topic, said.will.payload, said.will.retain) == ("gone", b"me", True)
        assert (said.will.will_delay_interval, mqtt.connected_url, mqtt.client_id) == (5, "mqtt://h:1", "me")
        assert repr(mqtt) == "<psession.brokers.mqtt.Mqtt, mqtt://h:1>"
    assert repr(mqtt) == "<psession.brokers.mqtt.Mqtt, closed>"


async def test_the_id_that_the_broker_gave_is_kept(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker, session_expiry=60) as mqtt:
        first = mqtt.client_id
        assert first.startswith("auto-")
        await broker.kill()
        await mqtt.until_connected()
        await settle()
        assert (mqtt.client_id, mqtt.session_present) == (first, True)


async def test_nobody_at_the_address(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        broker.down = True
        with pytest.raises(MqttConnectError, match="Connection refused"):
            async with a_client(broker):
                raise AssertionError


async def test_a_broker_that_says_nothing(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:

        async def silent(host: str, port: int) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return trio.testing.memory_stream_pair()[0]

        with pytest.raises(MqttConnectError, match="no answer in 10 s"):
            async with open_mqtt(open_stream=silent):
                raise AssertionError
        assert (trio.current_time(), broker.tried) == (10.0, [])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "hung up during the handshake"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a PUBACK with the flags 8"),
        (mqtt5.PingRespPacket().write(), "not a broker of MQTT 5"),
        (b"\x20\x02\x00\x01", "does not speak MQTT 5"),
        (mqtt5.ConnAckPacket(session_present=True).write(), "a session for a client that began a new one"),
        (
            mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_BUSY).write(),
            r"server busy \(0x89\)",
        ),
    ],
)
async def test_what_is_no_broker(autojump_clock: MockClock, data: bytes, text: str) -> None:
    async def strange(host: str, port: int) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        if data:
            await far.send_all(data)
        await far.send_eof()
        return near

    with pytest.raises(MqttConnectError, match=text):
        async with open_mqtt(open_stream=strange):
            raise AssertionError


# -- what breaks -------------------------------------------------------------------------------------------------------


async def test_a_client_whose_session_was_taken_over_does_not_take_it_back(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, client_id="me") as mqtt,
        mqtt.subscribe("a") as subscription,
        a_client(broker, client_id="me") as other,
    ):
        await settle()
        assert (mqtt.closed, other.closed) == (True, False)
        with pytest.raises(MqttClosedError, match="taken over") as caught:
            await mqtt.publish("a")
        assert isinstance(caught.value.__cause__, MqttTakenOverError)
        with pytest.raises(MqttClosedError):
            await subscription.receive()
        with pytest.raises(MqttClosedError):
            await mqtt.until_connected()
        await trio.sleep(100)
        assert len(broker.tried) == 2


@pytest.mark.parametrize(("code", "ends"), [(0x8B, False), (0x89, False), (0x9D, True), (0x9C, True)])
async def test_a_broker_that_hangs_up_says_whether_to_come_back(
    autojump_clock: MockClock, code: int, ends: bool
) -> None:
    async with both() as (broker, mqtt):
        await broker.clients[0].disconnect(code, server_reference="there")
        await trio.sleep(1)
        assert (mqtt.closed, len(broker.tried)) == (ends, 1 if ends else 2)
        if ends:
            with pytest.raises(MqttClosedError, match="it names 'there'") as caught:
                await mqtt.publish("a", qos=1)
            assert caught.value.code == code


async def test_bad_words_after_a_reconnect_end_the_client(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with both() as (broker, mqtt):
        broker.refusal = 0x86
        await broker.kill()
        await trio.sleep(10)
        assert (mqtt.closed, len(broker.tried)) == (True, 3)
        with pytest.raises(MqttClosedError, match="bad user name"):
            await mqtt.request("a")
    assert "takes this client no more" in caplog.text


async def test_tries_have_waits_between_that_grow_to_a_limit(autojump_clock: MockClock) -> None:
    async with both(first_delay=1, max_delay=4) as (broker, mqtt):
        await trio.sleep(100)
        broker.down = True
        await broker.kill()
        await trio.sleep(20)
        assert [when - 100 for when in broker.tried[1:]] == [0, 1, 3, 7, 11, 15, 19]
        broker.down = False
        await mqtt.until_connected()
        assert trio.current_time() == 123.0


async def test_a_broker_that_takes_and_breaks_is_not_knocked_at_without_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with both(first_delay=1, max_delay=4, client_id="me") as (broker, _):
        began = len(broker.tried)
        with trio.move_on_after(60):
            while True:
                await broker.kill()
                await trio.sleep(0.01)
        assert len(broker.tried) - began < 20
    assert caplog.text.count("does another client have the client id 'me'?") == 1


async def test_the_client_gives_up_after_so_many_tries(autojump_clock: MockClock) -> None:
    async with both(max_tries=3) as (broker, mqtt):
        broker.down = True
        await broker.kill()
        with pytest.raises(MqttClosedError, match="Connection refused"):
            await mqtt.publish("a", qos=1)
        assert len(broker.tried) == 4


async def test_a_dead_broker_is_noticed_in_the_keepalive(autojump_clock: MockClock) -> None:
    states: list[tuple[float, str]] = []

    def on_state(state: MqttState) -> None:
        states.append((trio.current_time(), state.state))

    async with both(keepalive=20, on_state=on_state) as (broker, _):
        await trio.sleep(100)
        assert len(broker.tried) == 1
        assert len(heard(broker, mqtt5.PingReqPacket)) >= 9
        broker.clients[0].muted = True
        await trio.sleep(21)
        assert [state for when, state in states if when > 1][:1] == ["broken"]


async def test_the_brokers_own_keepalive_comes_first_and_none_is_none(autojump_clock: MockClock) -> None:
    async with a_broker(server_keep_alive=4) as broker, a_client(broker, keepalive=0):
        await trio.sleep(10)
        assert len(heard(broker, mqtt5.PingReqPacket)) == 4
    async with a_broker() as broker, a_client(broker, keepalive=0):
        await trio.sleep(1000)
        assert heard(broker, mqtt5.PingReqPacket) == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x62\x02\x00\x01", 0x81),
        (b"\x30\x04\x00\x01\xff\x00", 0x81),
        (mqtt5.ConnAckPacket().write(), 0x82),
        (mqtt5.AuthPacket(authentication_method="x").write(), 0x82),
        (mqtt5.PublishPacket("a", b"", topic_alias=3).write(), 0x94),
    ],
)
async def test_a_broker_that_breaks_the_rules_is_left_and_told(
    autojump_clock: MockClock, data: bytes, code: int
) -> None:
    async with a_broker() as broker:
        broker.pair = socket_pair
        async with a_client(broker) as mqtt:
            first = broker.clients[0]
            await first.say(data)
            while mqtt.statistics().reconnects == 0:  # noqa: ASYNC110 - of real sockets
                await trio.sleep(0.01)
            said = [one for one in first.heard if isinstance(one, mqtt5.DisconnectPacket)]
            assert [int(one.reason_code) for one in said] == [code]


async def test_a_broker_that_sends_more_than_it_may_is_left(autojump_clock: MockClock) -> None:
    states: list[MqttState] = []
    async with both(receive_maximum=3, on_state=states.append) as (broker, _):
        sure = mqtt5.QoS.AT_LEAST_ONCE
        flood = [mqtt5.PublishPacket("a", b"", qos=sure, packet_id=number) for number in range(1, 5)]
        await broker.clients[0].say(*flood)
        await settle()
        assert "more than 3 messages" in str(states[2].error)


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_leaving_the_block_takes_the_will_back(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker) as other, other.subscribe("gone") as subscription:
        async with a_client(broker, will=Will("gone", b"clean")) as mqtt:
            await mqtt.publish("a", b"last")
        with pytest.raises(RuntimeError, match="body"):
            async with a_client(broker, will=Will("gone", b"raised")):
                raise RuntimeError("the body's own")
        with trio.move_on_after(1):
            async with a_client(broker, will=Will("gone", b"cancelled")):
                await trio.sleep_forever()
        async with a_client(broker, will=Will("gone", b"asked for")) as mqtt:
            await mqtt.aclose(with_will=True)
        await settle()
        assert [one.payload for one in await subscription.receive_batch()] == [b"raised", b"cancelled", b"asked for"]
        assert broker.published[0].payload == b"last"


@pytest.mark.parametrize("is_down", [False, True])
async def test_who_waits_when_the_client_ends_is_told_so(autojump_clock: MockClock, is_down: bool) -> None:
    async with a_broker() as broker, trio.open_nursery() as nursery:
        async with a_client(broker) as mqtt:
            await mqtt.open_inbox()
            broker.acknowledges, broker.down = False, is_down
            if is_down:
                await broker.kill()
            outcomes: list[Any] = []

            async def note(what: Any, *arguments: Any, **options: Any) -> None:
                with pytest.raises(MqttClosedError, match="this client is closed") as caught:
                    await what(*arguments, **options)
                outcomes.append(caught.value.outcome)

            async def subscribe() -> None:
                async with mqtt.subscribe("a"):
                    raise AssertionError

            nursery.start_soon(partial(note, mqtt.publish, "a", qos=1))
            nursery.start_soon(note, mqtt.request, "b")
            nursery.start_soon(partial(note, mqtt.request, "b", qos=0))
            if is_down:
                nursery.start_soon(note, subscribe)
            await settle()
        await settle()
        assert outcomes == (["not_sent"] * 4 if is_down else ["sent"] * 3)
        counted = mqtt.statistics()
        assert (counted.waiting_requests, counted.in_flight, counted.subscriptions) == (0, 0, 0)


async def test_what_was_never_written_is_counted(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        async with a_client(broker) as mqtt:
            broker.down = True
            await broker.kill()
            await mqtt.publish("a")
            await mqtt.publish("b")
            assert mqtt.statistics().queued_bytes > 0
        assert mqtt.statistics().unsent == 2
        with pytest.raises(MqttClosedError, match="this client is closed"):
            await mqtt.publish("a")
        await mqtt.aclose()
        await mqtt.drain()


async def test_publishing_waits_while_much_is_queued(autojump_clock: MockClock) -> None:
    async with both(max_queued_bytes=100) as (broker, mqtt):
        broker.down = True
        await broker.kill()
        with trio.move_on_after(1) as scope:
            for _ in range(50):
                await mqtt.publish("a", bytes(20))
        assert scope.cancelled_caught
        assert mqtt.statistics().queued_bytes < 150
        broker.down = False
        await mqtt.publish("a")


async def test_draining_lets_what_came_be_answered(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker) as other, trio.open_nursery() as nursery:
        async with a_client(broker) as mqtt:

            async def answer() -> None:
                async with mqtt.subscribe("work") as subscription:
                    async for message in subscription:
                        await trio.sleep(1)
                        await mqtt.respond(message, b"done", qos=1)

            nursery.start_soon(answer)
            await settle()
            got: list[bytes] = []

            async def ask() -> None:
                got.append((await other.request("work", timeout=60)).payload)

            for _ in range(3):
                nursery.start_soon(ask)
            await settle()
            await mqtt.drain()
            assert (round(trio.current_time(), 2), mqtt.closed) == (3.0, True)
        await settle()
        assert got == [b"done"] * 3


async def test_draining_ends_in_its_time_and_takes_nothing_new(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.subscribe("a"), trio.open_nursery() as nursery:
        await mqtt.publish("a", qos=1)

        async def subscribe() -> None:
            with pytest.raises(MqttClosedError, match="being drained"):
                async with mqtt.subscribe("b"):
                    raise AssertionError

        async def drain() -> None:
            with pytest.raises(MqttTimeoutError, match="not drained in 2 s"):
                await mqtt.drain(timeout=2)

        nursery.start_soon(drain)
        await settle()
        await subscribe()
        await settle()
    assert round(trio.current_time(), 2) == 2.0


async def test_cancelled_while_it_connects_nothing_is_left(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        broker.refuse = lambda packet: 0  # type: ignore[method-assign]
        with trio.move_on_after(0) as scope:
            async with a_client(broker):
                raise AssertionError
        assert scope.cancelled_caught
        await settle()
        assert broker.clients == []


def test_without_mqtt5_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['mqtt5'] = None; import psession, psession.dialects; import psession.brokers.mqtt"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: psession.brokers.mqtt needs the package mqtt5: pip install psession[mqtt]"


def test_psession_alone_does_not_import_it() -> None:
    program = "import sys, psession, psession.dialects; sys.exit('mqtt5' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
