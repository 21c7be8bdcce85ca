"""Plain requests of NATS, where they are not as those of MQTT, and a Service as a micro service."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Service, SessionManager, SessionRemoteError
from psession.brokers.nats import NatsNoRespondersError, NatsService
from psession.dialects import NatsRequests

from .broker import a_broker
from .lamps import make_lamp
from .test_nats_client import a_client, answering, both

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_question_that_waits_and_is_too_large_for_the_next_server_fails_alone(
    autojump_clock: MockClock,
) -> None:
    async with (
        both() as (broker, nats),
        answering(nats, "echo"),
        nats.requests("echo") as channel,
        SessionManager(dialect=NatsRequests()).port("echo", channel) as port,
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
