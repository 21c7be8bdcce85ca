"""Ports over NATS, against a broker in memory: dialogues, streams, queue groups, ends and breaks of links."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    Exact,
    MessageTooLargeError,
    Port,
    PortClosedError,
    Session,
    SessionManager,
    SessionTimeoutError,
)
from psession.brokers.nats import (
    Nats,
    NatsChannel,
    NatsConnectError,
    NatsNoRespondersError,
    NatsProtocolError,
    NatsServer,
    NatsTimeoutError,
)
from psession.channels import reconnecting

from .broker import a_broker
from .test_nats_client import a_client, answering, both

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked


class Worker:
    """A process that serves ports on "work": it counts, and remembers its dialogues."""

    def __init__(self, name: str = "w", **options: Any) -> None:
        self.name = name
        self.ports: list[Port] = []
        self.asked = 0
        self.manager = SessionManager(session_timeout=5, dialect=Exact(), **options)

    async def __call__(self, channel: NatsChannel) -> None:
        async with self.manager.accept(channel, on_session=self.dialogue) as port:
            self.ports.append(port)
            await port.wait_closed()

    async def dialogue(self, session: Session) -> None:
        """Each answer says who gave it, and how many there were before in the dialogue."""
        turn = 0
        async for message in session:
            self.asked += 1
            if message.get("wait"):
                await trio.sleep(message["wait"])
            if message.get("parts"):
                for number in range(message["parts"]):
                    await session.post({"part": number})
                await session.finish()
                continue
            await session.post({"worker": self.name, "turn": turn, "echo": message.get("text")})
            turn += 1


@asynccontextmanager
async def served(
    nats: Nats, worker: Callable[[NatsChannel], Awaitable[object]], **options: Any
) -> AsyncIterator[NatsServer]:
    """Serve "work" as long as the block lasts."""

    async def serve(*, task_status: trio.TaskStatus[NatsServer]) -> None:
        await nats.serve("work", worker, task_status=task_status, **options)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        yield server
        nursery.cancel_scope.cancel()


def manager(**options: Any) -> SessionManager:
    """Who asks."""
    return SessionManager(session_timeout=5, dialect=Exact(), **options)


async def test_a_request_a_dialogue_and_a_stream(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as nats,
        served(there, Worker()) as server,
    ):
        async with nats.connect("work") as channel, manager().port("work", channel) as port:
            assert server.links == 1
            assert await port.request({"text": "hello"}) == {"worker": "w", "turn": 0, "echo": "hello"}
            async with port.session() as session:
                assert [(await session.send({}))["turn"] for _ in range(3)] == [0, 1, 2]
            async with port.stream({"parts": 100}) as replies:
                assert [reply["part"] async for reply in replies] == list(range(100))
            assert nats.statistics().links == 1
            assert repr(channel) == "<psession.brokers.nats.NatsChannel to 'work', open>"
        await settle()
        assert (server.links, nats.statistics().links, there.statistics().links) == (0, 0, 0)
        assert (len(nats._inbox), len(there._inbox)) == (0, 1)


async def test_many_ports_in_a_queue_group_each_have_one_worker(autojump_clock: MockClock) -> None:
    workers = [Worker("a"), Worker("b"), Worker("c")]
    async with a_broker() as broker, a_client(broker) as one, a_client(broker) as two, a_client(broker) as nats:
        async with (
            served(one, workers[0], queue="q"),
            served(two, workers[1], queue="q"),
            served(two, workers[2], queue="q"),
            trio.open_nursery() as nursery,
        ):
            seen: list[set[str]] = []

            async def talk(number: int) -> None:
                async with nats.connect("work") as channel, manager().port(str(number), channel) as port:
                    async with port.session() as session:
                        answers = [await session.send({"wait": 0.01}) for _ in range(10)]
                    assert [answer["turn"] for answer in answers] == list(range(10))
                    seen.append({answer["worker"] for answer in answers})

            for number in range(30):
                nursery.start_soon(talk, number)
        assert [len(names) for names in seen] == [1] * 30
        assert set.union(*seen) == {"a", "b", "c"}


async def test_nobody_there_is_said_at_once_and_nothing_was_sent(autojump_clock: MockClock) -> None:
    async with both() as (_, nats):
        with pytest.raises(NatsNoRespondersError, match="nobody serves 'work'") as caught:
            async with nats.connect("work"):
                raise AssertionError
        assert (caught.value.outcome, trio.current_time(), len(nats._inbox)) == ("not_sent", 0.0, 0)


async def test_a_process_that_is_gone_breaks_its_links(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, "nats://two") as nats,
        a_client(broker, "nats://one") as there,
        served(there, Worker()),
        nats.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        await port.request({})
        broker.down = {"one"}
        await broker.kill("one")
        with pytest.raises(PortClosedError, match="the other end of the link is gone"):
            await port.request({})
        assert trio.current_time() == 0.0


async def test_a_silent_end_is_looked_after_by_both(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with (
        a_broker() as broker,
        a_client(broker, "nats://two") as nats,
        a_client(broker, "nats://one") as there,
        served(there, worker, keepalive=8) as server,
    ):
        async with nats.connect("work", keepalive=8) as channel, manager().port("work", channel) as port:
            await port.request({})
            await trio.sleep(100)
            assert (port.closed, server.links) == (False, 1)
            broker.down = {"one"}
            await broker.kill("one")
            await port.wait_closed()
            assert 100 < trio.current_time() < 112
        broker.down.clear()
        await there.until_connected()
        await settle()
        assert server.links == 0


async def test_a_client_that_vanished_costs_its_server_no_more_than_its_keepalive(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, "nats://one") as there,
        served(there, Worker(), keepalive=8) as server,
        a_client(broker, "nats://two") as nats,
        nats.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        await port.request({})
        broker.down = {"two"}
        await broker.kill("two")
        await trio.sleep(12)
        assert server.links == 0


async def test_a_link_ends_for_both_when_this_client_loses_its_connection(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with (
        a_broker() as broker,
        a_client(broker, "nats://one") as there,
        served(there, worker) as server,
        a_client(broker, "nats://two") as nats,
    ):
        async with (
            nats.connect("work") as channel,
            manager().port("work", channel) as port,
            trio.open_nursery() as nursery,
        ):

            async def ask() -> None:
                with pytest.raises(PortClosedError, match="broke") as caught:
                    await port.request({"wait": 60}, timeout=90)
                assert caught.value.outcome == "sent"

            nursery.start_soon(ask)
            await settle()
            await broker.kill("two")
        await nats.until_connected()
        await settle()
        assert server.links == 0
        async with nats.connect("work") as channel, manager().port("work", channel) as port:
            assert (await port.request({}))["worker"] == "w"


async def test_a_link_that_is_opened_again_goes_back_to_its_process_and_resumes(autojump_clock: MockClock) -> None:
    workers = [Worker(name, resume_within=60) for name in "abcd"]
    async with a_broker() as broker, a_client(broker, "nats://one") as there, a_client(broker, "nats://two") as nats:
        async with (
            served(there, workers[0], queue="q"),
            served(there, workers[1], queue="q"),
            served(there, workers[2], queue="q"),
            served(there, workers[3], queue="q"),
        ):
            road = nats.returning("work")
            async with (
                reconnecting(road, rng=lambda: 0.0) as channel,
                manager(resume_within=60).port("work", channel) as port,
                port.session() as session,
            ):
                first = await session.send({})
                for turn in range(1, 6):
                    async with trio.open_nursery() as nursery:

                        async def ask(turn: int = turn) -> None:
                            answer = await session.send({"wait": 3}, timeout=30)
                            assert (answer["worker"], answer["turn"]) == (first["worker"], turn)

                        nursery.start_soon(ask)
                        await trio.sleep(1)
                        await broker.kill("two")
        assert sum(worker.asked for worker in workers) == 6
        assert nats.statistics().reconnects == 5


async def test_what_was_asked_and_answered_without_a_connection_goes_by_the_next_link_to_the_right_end(
    autojump_clock: MockClock,
) -> None:
    """Each link has subjects of its own: a frame that waits for the next link must not carry the last one's."""
    worker = Worker(resume_within=60)
    async with a_broker() as broker, a_client(broker, "nats://two") as nats, a_client(broker, "nats://two") as there:
        async with (
            served(there, worker),
            reconnecting(nats.returning("work"), rng=lambda: 0.0) as channel,
            SessionManager(dialect=Exact(), resume_within=60).port("work", channel) as port,
            trio.open_nursery() as nursery,
        ):
            answers: list[Any] = []

            async def ask(number: int, wait: float) -> None:
                answers.append((await port.request({"text": number, "wait": wait}, timeout=50))["echo"])

            for number in range(4):
                nursery.start_soon(ask, number, 1.5 + number / 2)
            await trio.sleep(1)
            broker.down.add("two")
            await broker.kill()
            for number in range(4, 8):  # asked meanwhile, and the first four are answered meanwhile
                nursery.start_soon(ask, number, 0)
            await trio.sleep(10)
            assert answers == []
            broker.down.clear()
            before = trio.current_time()
            while len(answers) < 8:
                await trio.sleep(0.1)
                assert trio.current_time() - before < 10
        assert sorted(answers) == list(range(8))
        assert worker.asked == 8


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


async def test_a_process_that_is_gone_for_good_is_followed_by_another(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker, "nats://two") as nats:
        road = nats.returning("work")
        async with (
            a_client(broker, "nats://one") as there,
            served(there, Worker("a")),
            road() as channel,
            manager().port("work", channel) as port,
        ):
            assert (await port.request({}))["worker"] == "a"
        assert road.door
        async with (
            a_client(broker, "nats://one") as there,
            served(there, Worker("b")),
            road() as channel,
            manager().port("work", channel) as port,
        ):
            assert (await port.request({}))["worker"] == "b"


async def test_the_end_of_one_side_is_the_clean_end_of_the_other(autojump_clock: MockClock) -> None:
    got: list[Any] = []

    async def handler(channel: NatsChannel) -> None:
        await channel.send({"n": 1})
        await channel.send({"n": 2})

    async with both() as (_, nats), served(nats, handler) as server:
        async with nats.connect("work") as channel:
            got += [message async for message in channel]
            assert got == [{"n": 1}, {"n": 2}]
            with pytest.raises(trio.BrokenResourceError):
                await channel.send({})
        assert server.links == 0


async def test_there_are_so_many_places_and_the_next_is_refused(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), served(nats, Worker(), max_links=2) as server:
        async with nats.connect("work"), nats.connect("work"):
            with pytest.raises(NatsConnectError, match="max_links is 2"):
                async with nats.connect("work"):
                    raise AssertionError
        await settle()
        async with nats.connect("work"):
            assert (server.links, server.refused) == (1, 1)


async def test_who_speaks_no_psession_is_told_apart(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), answering(nats, "plain"), nats.subscribe("deaf"), served(nats, Worker()) as server:
        with pytest.raises(NatsProtocolError, match=r"speaks no psession: ask it by nats\.requests"):
            async with nats.connect("plain"):
                raise AssertionError
        with pytest.raises(NatsTimeoutError, match="welcome in 3 s"):
            async with nats.connect("deaf", connect_timeout=3):
                raise AssertionError
        reply = await nats.request("work", b"{}")
        assert reply.header("Nats-Service-Error-Code") == "400"
        await nats.publish("work", b"{}")
        await nats.flush()
        assert server.strangers == 2


async def test_what_is_larger_than_the_servers_limit_is_refused_and_the_port_lives(autojump_clock: MockClock) -> None:
    async with (
        a_broker(max_payload=2000) as broker,
        a_client(broker) as nats,
        served(nats, Worker()),
        nats.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        with pytest.raises(MessageTooLargeError, match="2000 are the most"):
            await port.request({"text": "x" * 2000})
        assert (await port.request({"text": "x"}))["echo"] == "x"


async def test_a_timeout_is_given_up_at_the_worker_too(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with (
        both() as (_, nats),
        served(nats, worker),
        nats.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        with pytest.raises(SessionTimeoutError):
            await port.request({"wait": 60}, timeout=2)
        await settle()
        assert list(worker.ports[0].sessions) == []


async def test_a_handler_that_fails_costs_its_own_link(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(channel: NatsChannel) -> None:
        await channel.receive()
        raise KeyError("mine")

    async with (
        both() as (_, nats),
        served(nats, handler) as server,
        nats.connect("work") as one,
        nats.connect("work") as two,
    ):
        await one.send({})
        with pytest.raises(trio.EndOfChannel):
            await one.receive()
        assert server.links == 1
        await two.send({})
    assert "the handler of a link of work failed" in caplog.text


async def test_a_link_that_is_flooded_ends_alone(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psession.brokers._channel.MAX_ARRIVED_MESSAGES", 10)
    read = trio.Event()

    async def handler(channel: NatsChannel) -> None:
        await read.wait()
        async for _ in channel:
            pass

    async with both() as (_, nats), served(nats, handler), nats.connect("work") as one, nats.connect("work") as two:
        for number in range(20):
            await one.send({"n": number})
        await nats.flush()
        read.set()
        with pytest.raises(trio.BrokenResourceError):
            await one.receive()
        await two.send({})
        assert nats.statistics().overrun == 1


async def test_words_for_a_link_that_is_over_are_answered_with_its_end(autojump_clock: MockClock) -> None:
    async with both() as (_broker, nats), nats.subscribe("here") as subscription:
        nats._inbox.reply_to()
        await nats.publish(f"{nats._inbox.subject}.L123", b"{}", reply="here")
        assert (await subscription.receive()).header("Psession-Link") == "closed"
        await nats.publish(f"{nats._inbox.subject}.L123", b"{}")
        await nats.flush()
        assert subscription.pending_messages == 0


async def test_a_drained_client_lets_its_links_end_by_themselves(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as nats,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(there.serve, "work", Worker())
        await settle()
        async with nats.connect("work") as channel, manager().port("work", channel) as port:
            await port.request({})
            await there.drain()
            await port.wait_closed()


async def test_arguments_that_will_not_do(autojump_clock: MockClock) -> None:
    async with both() as (_, nats):
        for options in ({"keepalive": 0}, {"max_message_bytes": 0}, {"connect_timeout": -1}):
            with pytest.raises(ValueError, match=next(iter(options))):
                async with nats.connect("a", **options):  # type: ignore[arg-type]
                    raise AssertionError
        for subject in ("a.*", "a b"):
            with pytest.raises(ValueError, match="subject"):
                async with nats.connect(subject):
                    raise AssertionError
            with pytest.raises(ValueError, match="subject"):
                await nats.serve(subject, Worker())
            with pytest.raises(ValueError, match="subject"):
                nats.returning(subject)
        with pytest.raises(ValueError, match="max_links"):
            await nats.serve("a", Worker(), max_links=0)
        assert len(nats._inbox) == 0
