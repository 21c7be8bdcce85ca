"""Plain requests of MQTT, where they are not as those of NATS: refusals, and answers and topics that are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import mqtt5
import pytest
import trio
import trio.testing

from psession import SessionManager, SessionRemoteError
from psession.dialects import MqttRequests

from .lamps import make_lamp
from .test_mqtt_client import both

if TYPE_CHECKING:
    from trio.testing import MockClock


def manager(**options: Any) -> SessionManager:
    """Ports of plain requests."""
    return SessionManager(dialect=MqttRequests(), session_timeout=5, **options)


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
