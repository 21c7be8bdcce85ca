"""Plain requests of MQTT as turns of a port, and a Service that answers such, against a broker in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import mqtt5
import msgspec
import pytest
import trio
import trio.testing

from psession import Service, SessionManager, SessionRefusedError, SessionRemoteError, SessionTimeoutError
from psession.dialects import MqttRequests
from psession.errors import MalformedMessageError
from psession.testing import check_dialect

from .mqtt_broker import a_broker
from .test_mqtt_client import a_client, answering, both

if TYPE_CHECKING:
    from trio.testing import MockClock


def manager(**options: Any) -> SessionManager:
    """Ports of plain requests."""
    return SessionManager(dialect=MqttRequests(), session_timeout=5, **options)


class Status(msgspec.Struct):
    """The state of a lamp."""

    level: int


def make_lamp() -> Service:
    """A service with methods of each kind."""
    lamp = Service("command")

    @lamp.method
    async def dim(level: int) -> Status:
        """Dim the lamp."""
        await trio.sleep(1)
        return Status(level)

    @lamp.method
    def name() -> str:
        return "lamp"

    @lamp.method
    async def count(to: int) -> Any:
        for number in range(to):
            yield {"n": number}

    @lamp.method
    def fail() -> None:
        raise KeyError("inside")

    @lamp.method
    def refuse() -> None:
        raise SessionRefusedError("not today", code="holiday", data={"until": 2})

    return lamp


def test_the_dialect_keeps_its_contract() -> None:
    check_dialect(MqttRequests(), {"n": 1}, both_ways=True)


@pytest.mark.parametrize("message", [None, [], {}, {"kind": "other"}])
def test_what_is_no_message_of_the_channel_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        MqttRequests().for_link().read(message)


async def test_a_port_asks_a_plain_responder(autojump_clock: MockClock) -> None:
    async with (
        both() as (_, mqtt),
        answering(mqtt, "echo"),
        mqtt.requests("echo") as channel,
        manager().port("echo", channel) as port,
    ):
        got: list[Any] = [None] * 100

        async def ask(number: int) -> None:
            got[number] = await port.request({"n": number})

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert got == [{"n": number} for number in range(100)]


async def test_nobody_there_is_not_sent_at_once_and_the_port_lives(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), mqtt.requests("echo") as channel, manager().port("echo", channel) as port:
        for _ in range(2):
            with pytest.raises(SessionRemoteError, match="nobody serves") as caught:
                await port.request({}, timeout=60)
            assert (caught.value.outcome, caught.value.code) == ("not_sent", "no_responders")
        assert trio.current_time() == 0.0
        async with answering(mqtt, "echo"):
            assert await port.request({"a": 1}) == {"a": 1}


async def test_a_service_answers_plain_requests(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as mqtt,
        there.requests("lamp", serves=True, shared="q") as channel,
        manager(on_request=make_lamp()).port("askers", channel),
    ):
        reply = await mqtt.request("lamp", b'{"command": "dim", "level": 4}')
        assert json.loads(reply.payload) == {"level": 4}
        wrong = await mqtt.request("lamp", b'{"command": "sing"}')
        assert wrong.payload == b""
        assert wrong.user_property("Psession-Code") == "refused.unknown_method"
        assert "no method is called 'sing'" in str(wrong.user_property("Psession-Error"))
        for data in (b"{", b"\xff"):
            broken = await mqtt.request("lamp", data)
            assert broken.user_property("Psession-Code") == "refused.malformed"
        async with mqtt.requests("lamp") as asking, manager().port("lamp", asking) as port:
            assert await port.request({"command": "name"}) == {"result": "lamp"}
            with pytest.raises(SessionRemoteError) as refused:
                await port.request({"command": "dim"})
            assert (refused.value.code, refused.value.outcome) == ("refused.bad_arguments", "refused")
            with pytest.raises(SessionRemoteError) as refused:
                await port.request({"command": "refuse"})
            assert (refused.value.code, refused.value.data) == ("refused.holiday", {"until": 2})
            with pytest.raises(SessionRemoteError) as failed:
                await port.request({"command": "fail"})
            assert (failed.value.code, failed.value.outcome) == ("crashed", "sent")


async def test_silence_and_a_broken_connection_end_a_request_alone(autojump_clock: MockClock) -> None:
    async with (
        both() as (broker, mqtt),
        mqtt.subscribe("deaf") as subscription,
        mqtt.requests("deaf") as channel,
        manager().port("deaf", channel) as port,
    ):
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=2)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SessionRemoteError, match="broke") as caught:
                    await port.request({}, timeout=60)
                assert (caught.value.code, caught.value.outcome) == ("disconnected", "sent")

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await broker.kill()
        await mqtt.until_connected()
        await subscription.receive_batch()
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await mqtt.respond(await subscription.receive(), b'"yes"')

            nursery.start_soon(answer)
            assert await port.request({}) == "yes"


async def test_what_wants_no_answer_goes_to_on_message(autojump_clock: MockClock) -> None:
    got: list[Any] = []
    async with (
        both() as (_, mqtt),
        mqtt.requests("news/+", serves=True) as there,
        manager(on_message=got.append).port("there", there),
        mqtt.requests("news/a") as here,
        manager().port("here", here) as port,
    ):
        await port.post({"n": 1})
        await mqtt.publish("news/b", b"[2]", qos=1)
        await trio.testing.wait_all_tasks_blocked()
    assert got == [{"n": 1}, [2]]


async def test_a_group_is_for_who_answers(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt):
        with pytest.raises(ValueError, match="serves=True"):
            async with mqtt.requests("a", shared="q"):
                raise AssertionError


async def test_the_topic_may_name_the_method(autojump_clock: MockClock) -> None:
    dialect = MqttRequests(by_topic=True)
    async with (
        both() as (_, mqtt),
        mqtt.requests("lamps/hall/+", serves=True) as channel,
        SessionManager(dialect=dialect, on_request=make_lamp()).port("askers", channel),
    ):
        assert json.loads((await mqtt.request("lamps/hall/dim", b'{"level": 7}')).payload) == {"level": 7}
        assert json.loads((await mqtt.request("lamps/hall/name")).payload) == "lamp"
        wrong = await mqtt.request("lamps/hall/sing")
        assert wrong.user_property("Psession-Code") == "refused.unknown_method"


async def test_what_the_broker_refuses_is_a_refusal(autojump_clock: MockClock) -> None:
    async with both() as (broker, mqtt), mqtt.requests("secret") as channel, manager().port("secret", channel) as port:
        broker.refusals["secret"] = mqtt5.PubAckReasonCode.NOT_AUTHORIZED
        with pytest.raises(SessionRemoteError, match="not authorized") as caught:
            await port.request({})
        assert (caught.value.outcome, caught.value.code) == ("refused", "refused.broker")
        await port.post({})


async def test_answers_that_are_none_do_no_harm(autojump_clock: MockClock) -> None:
    async with (
        both() as (_, mqtt),
        mqtt.subscribe("odd") as subscription,
        mqtt.requests("odd") as channel,
        manager().port("odd", channel) as port,
        trio.open_nursery() as nursery,
    ):

        async def answer() -> None:
            message = await subscription.receive()
            back = message.response_topic or ""
            for correlation in (None, b"", b"x", b"\xff", b"99999999999999999999"):
                await mqtt.publish(back, b"1", correlation_data=correlation)
            await mqtt.publish(back, b"{", correlation_data=message.correlation_data)
            await mqtt.respond(await subscription.receive(), b"2")

        nursery.start_soon(answer)
        with pytest.raises(SessionRemoteError) as caught:
            await port.request({})
        assert caught.value.code == "malformed"
        assert await port.request({}) == 2


async def test_questions_with_a_topic_for_answers_that_is_none_are_malformed(autojump_clock: MockClock) -> None:
    async with (
        both() as (broker, mqtt),
        mqtt.requests("lamp", serves=True) as channel,
        manager(on_request=make_lamp()).port("askers", channel) as port,
    ):
        strange = mqtt5.PublishPacket("lamp", b"{}", response_topic="a\n")
        await broker.clients[0].say(strange)
        await trio.testing.wait_all_tasks_blocked()
        assert port.statistics().malformed == 1
        assert json.loads((await mqtt.request("lamp", b'{"command": "name"}')).payload) == {"result": "lamp"}
