"""Ports over NATS, where they are not as those over MQTT: any number of subjects, probes, words about links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from psession import Exact, SessionManager
from psession.brokers.nats import NatsChannel, NatsNoRespondersError, NatsServer

from .broker import a_broker
from .sides import Worker, manager, served
from .test_nats_client import a_client, both

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked


async def test_one_server_serves_any_number_of_subjects_and_its_doors_lead_to_each(autojump_clock: MockClock) -> None:
    asked: list[str] = []

    async def handler(channel: NatsChannel) -> None:
        asked.append(channel.subject)
        async with SessionManager(dialect=Exact()).accept(channel, on_request=lambda message: message) as port:
            await port.wait_closed()

    async with both() as (_, nats), trio.open_nursery() as nursery:
        server: NatsServer = await nursery.start(lambda task_status: nats.serve(None, handler, task_status=task_status))
        with pytest.raises(NatsNoRespondersError):
            await nats.connect("a").__aenter__()
        server.add("a")
        server.add("b.c")
        server.add("a")  # idempotent
        assert nats.statistics().subscriptions == 2
        road = nats.returning("a")
        for _ in range(2):  # the second time by the door
            async with road() as channel, manager().port("a", channel) as port:
                assert await port.request({"n": 1}) == {"n": 1}
        async with nats.connect("b.c") as channel, manager().port("b", channel) as port:
            assert await port.request({"n": 2}) == {"n": 2}
        assert asked == ["a", "a", "b.c"]
        server.remove("a")
        server.remove("a")
        with pytest.raises(NatsNoRespondersError):  # the door is there, and leads nowhere: at once, not by a timeout
            await road().__aenter__()
        with pytest.raises(ValueError, match="wildcard"):
            server.add("*")
        await nats.publish("b.c", b"?", reply="nobody")
        await nats.flush()
        assert (server.strangers, server.links) == (1, 0)
        nursery.cancel_scope.cancel()
    with pytest.raises(RuntimeError, match="runs"):
        server.add("x")
    with pytest.raises(ValueError, match="queue is for the one subject"):
        await nats.serve(None, handler, queue="q")


async def test_the_second_that_says_welcome_is_sent_away(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    def handler(name: str) -> Callable[[NatsChannel], Awaitable[object]]:
        async def serve(channel: NatsChannel) -> None:
            async for _ in channel:
                pass
            ended.append(name)

        return serve

    async with (
        both() as (broker, nats),
        a_client(broker) as there,
        served(nats, handler("one")),
        served(there, handler("two")),
    ):
        async with nats.connect("work"):
            await settle()
            assert len(ended) == 1
        await settle()
        assert sorted(ended) == ["one", "two"]


async def test_a_link_that_is_probed_finds_out_at_once_that_its_other_end_is_gone(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, "nats://two") as nats,
        a_client(broker, "nats://one") as there,
        served(there, Worker()),
        nats.connect("work") as channel,
    ):
        channel.probe()
        await settle()
        broker.down.add("one")
        await broker.kill("one")
        before = trio.current_time()
        channel.probe()
        with pytest.raises(trio.BrokenResourceError, match="gone"):
            await channel.receive()
        assert trio.current_time() == before
        channel.probe()  # it is over: nothing happens


async def test_words_for_a_link_that_is_over_are_answered_with_its_end(autojump_clock: MockClock) -> None:
    async with both() as (_broker, nats), nats.subscribe("here") as subscription:
        nats._inbox.reply_to()
        await nats.publish(f"{nats._inbox.subject}.L123", b"{}", reply="here")
        assert (await subscription.receive()).header("Psession-Link") == "closed"
        await nats.publish(f"{nats._inbox.subject}.L123", b"{}")
        await nats.flush()
        assert subscription.pending_messages == 0
