"""Plain requests of NATS as turns of a port, and a Service as a micro service, against a broker in memory."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from psession import Service, SessionManager, SessionRefusedError, SessionRemoteError, SessionTimeoutError
from psession.brokers.nats import NatsNoRespondersError, NatsService
from psession.dialects import NatsRequests
from psession.errors import MalformedMessageError
from psession.testing import check_dialect

from .broker import a_broker
from .test_nats_client import a_client, answering, both

if TYPE_CHECKING:
    from trio.testing import MockClock


def manager(**options: Any) -> SessionManager:
    """Ports of plain requests."""
    return SessionManager(dialect=NatsRequests(), session_timeout=5, **options)


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
    check_dialect(NatsRequests(), {"n": 1}, both_ways=True)


@pytest.mark.parametrize("message", [None, [], {}, {"kind": "other"}])
def test_what_is_no_message_of_the_channel_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        NatsRequests().for_link().read(message)


async def test_a_port_asks_a_plain_responder(autojump_clock: MockClock) -> None:
    async with (
        both() as (_, nats),
        answering(nats, "echo"),
        nats.requests("echo") as channel,
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
    async with both() as (_, nats), nats.requests("echo") as channel, manager().port("echo", channel) as port:
        for _ in range(2):
            with pytest.raises(SessionRemoteError, match="nobody serves") as caught:
                await port.request({}, timeout=60)
            assert (caught.value.outcome, caught.value.code) == ("not_sent", "no_responders")
        assert trio.current_time() == 0.0
        async with answering(nats, "echo"):
            assert await port.request({"a": 1}) == {"a": 1}


async def test_a_service_answers_plain_requests(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as nats,
        there.requests("lamp", serves=True, queue="q") as channel,
        manager(on_request=make_lamp()).port("askers", channel),
    ):
        await there.flush()
        reply = await nats.request("lamp", b'{"command": "dim", "level": 4}')
        assert json.loads(reply.data) == {"level": 4}
        wrong = await nats.request("lamp", b'{"command": "sing"}')
        assert wrong.headers["Nats-Service-Error-Code"] == ["404"]
        assert wrong.header("Psession-Code") == "refused.unknown_method"
        assert "no method is called 'sing'" in str(wrong.header("Nats-Service-Error"))
        for data in (b"{", b"\xff"):
            broken = await nats.request("lamp", data)
            assert broken.header("Nats-Service-Error-Code") == "400"
        async with nats.requests("lamp") as asking, manager().port("lamp", asking) as port:
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
        both() as (broker, nats),
        nats.subscribe("deaf"),
        nats.requests("deaf") as channel,
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
        await nats.until_connected()
        async with nats.subscribe("deaf") as subscription, trio.open_nursery() as nursery:

            async def answer() -> None:
                await nats.respond(await subscription.receive(), b'"yes"')

            nursery.start_soon(answer)
            assert await port.request({}) == "yes"


async def test_a_question_that_waits_and_is_too_large_for_the_next_server_fails_alone(
    autojump_clock: MockClock,
) -> None:
    async with (
        both() as (broker, nats),
        answering(nats, "echo"),
        nats.requests("echo") as channel,
        manager().port("echo", channel) as port,
    ):
        broker.down = {"one"}
        await broker.kill()
        broker.infos["one"] = {"max_payload": 100}
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SessionRemoteError, match=r"max_payload .* is 100") as caught:
                    await port.request("x" * 101, timeout=60)
                assert (caught.value.code, caught.value.outcome) == ("refused.too_large", "refused")

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            broker.down.clear()
        assert await port.request("x") == "x"


async def test_what_wants_no_answer_goes_to_on_message(autojump_clock: MockClock) -> None:
    got: list[Any] = []
    async with (
        both() as (_, nats),
        nats.requests("news.*", serves=True) as there,
        manager(on_message=got.append).port("there", there),
        nats.requests("news.a") as here,
        manager().port("here", here) as port,
    ):
        await port.post({"n": 1})
        await nats.publish("news.b", b"[2]")
        await nats.flush()
        await trio.testing.wait_all_tasks_blocked()
    assert got == [{"n": 1}, [2]]


async def test_a_queue_is_for_who_answers(autojump_clock: MockClock) -> None:
    async with both() as (_, nats):
        with pytest.raises(ValueError, match="serves=True"):
            async with nats.requests("a", queue="q"):
                raise AssertionError


# -- micro services ----------------------------------------------------------------------------------------------------


async def test_a_service_is_a_micro_service(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as nats,
        trio.open_nursery() as nursery,
    ):
        start = partial(there.micro, make_lamp(), "lamp", "1.2.3", description="A lamp", metadata={"room": "hall"})
        service: NatsService = await nursery.start(start)
        await there.flush()
        assert json.loads((await nats.request("lamp.dim", b'{"level": 7}')).data) == {"level": 7}
        assert json.loads((await nats.request("lamp.name")).data) == "lamp"
        assert json.loads((await nats.request("lamp.count", b'{"to": 2}')).data) == [{"n": 0}, {"n": 1}]
        assert (await nats.request("lamp.dim", b'{"level": "x"}')).header("Nats-Service-Error-Code") == "400"
        assert (await nats.request("lamp.fail")).header("Nats-Service-Error-Code") == "500"
        assert (await nats.request("lamp.sing")).header("Nats-Service-Error-Code") == "404"
        common = {"name": "lamp", "id": service.id, "version": "1.2.3", "metadata": {"room": "hall"}}
        for subject in ("$SRV.PING", "$SRV.PING.lamp", f"$SRV.PING.lamp.{service.id}"):
            said = json.loads((await nats.request(subject)).data)
            assert said == {"type": "io.nats.micro.v1.ping_response", **common}
        info = json.loads((await nats.request("$SRV.INFO.lamp")).data)
        assert (info["type"], info["description"]) == ("io.nats.micro.v1.info_response", "A lamp")
        dim = info["endpoints"][0]
        assert (dim["name"], dim["subject"], dim["queue_group"]) == ("dim", "lamp.dim", "q")
        assert json.loads(dim["metadata"]["arguments"])["required"] == ["level"]
        stats = json.loads((await nats.request("$SRV.STATS.lamp")).data)
        assert stats["type"] == "io.nats.micro.v1.stats_response"
        assert stats["started"].endswith("Z")
        counted = {one["name"]: (one["num_requests"], one["num_errors"]) for one in stats["endpoints"]}
        assert counted == {"dim": (2, 1), "name": (1, 0), "count": (1, 0), "fail": (1, 1), "refuse": (0, 0)}
        assert stats["endpoints"][0]["last_error"].startswith("bad_arguments: ")
        nursery.cancel_scope.cancel()
    async with both() as (_, nats):
        with pytest.raises(NatsNoRespondersError):
            await nats.request("$SRV.PING.lamp")


async def test_a_micro_service_ends_with_its_drained_client(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), trio.open_nursery() as nursery:
        await nursery.start(nats.micro, make_lamp(), "lamp")
        await nats.drain()


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (("service", "a"), TypeError, "psession.Service"),
        ((Service("c"), "a.b"), ValueError, "name of a micro service"),
        ((Service("c"), "a", "1"), ValueError, "version"),
    ],
)
async def test_what_is_no_micro_service(
    autojump_clock: MockClock, arguments: Any, kind: type[Exception], text: str
) -> None:
    async with both() as (_, nats):
        with pytest.raises(kind, match=text):
            await nats.micro(*arguments)
