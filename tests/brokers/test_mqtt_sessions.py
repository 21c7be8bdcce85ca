"""Ports over MQTT, against a broker in memory: dialogues, streams, groups, ends and breaks of links."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import mqtt5
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
from psession.brokers.mqtt import (
    Mqtt,
    MqttChannel,
    MqttConnectError,
    MqttNoSubscribersError,
    MqttPermissionError,
    MqttProtocolError,
    MqttServer,
    MqttTimeoutError,
)
from psession.channels import reconnecting

from .mqtt_broker import a_broker
from .test_mqtt_client import a_client, answering, both

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

    async def __call__(self, channel: MqttChannel) -> None:
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
    mqtt: Mqtt, worker: Callable[[MqttChannel], Awaitable[object]], **options: Any
) -> AsyncIterator[MqttServer]:
    """Serve "work" as long as the block lasts."""

    async def serve(*, task_status: trio.TaskStatus[MqttServer]) -> None:
        await mqtt.serve("work", worker, task_status=task_status, **options)

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
        a_client(broker) as mqtt,
        served(there, Worker()) as server,
    ):
        async with mqtt.connect("work") as channel, manager().port("work", channel) as port:
            assert server.links == 1
            assert await port.request({"text": "hello"}) == {"worker": "w", "turn": 0, "echo": "hello"}
            async with port.session() as session:
                assert [(await session.send({}))["turn"] for _ in range(3)] == [0, 1, 2]
            async with port.stream({"parts": 100}) as replies:
                assert [reply["part"] async for reply in replies] == list(range(100))
            assert mqtt.statistics().links == 1
            assert repr(channel) == "<psession.brokers.mqtt.MqttChannel to 'work', open>"
        await settle()
        assert (server.links, mqtt.statistics().links, there.statistics().links) == (0, 0, 0)
        assert (len(mqtt.inbox), len(there.inbox)) == (0, 1)


async def test_many_ports_in_a_group_each_have_one_worker(autojump_clock: MockClock) -> None:
    workers = [Worker("a"), Worker("b"), Worker("c")]
    async with a_broker() as broker, a_client(broker) as mqtt, AsyncExitStack() as stack:
        for worker in workers:
            there = await stack.enter_async_context(a_client(broker))
            await stack.enter_async_context(served(there, worker, shared="q"))
        seen: list[set[str]] = []

        async def talk(number: int) -> None:
            async with mqtt.connect("work") as channel, manager().port(str(number), channel) as port:
                async with port.session() as session:
                    answers = [await session.send({"wait": 0.01}) for _ in range(10)]
                assert [answer["turn"] for answer in answers] == list(range(10))
                seen.append({answer["worker"] for answer in answers})

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(talk, number)
        assert [len(names) for names in seen] == [1] * 30
        assert set.union(*seen) == {"a", "b", "c"}


async def test_nobody_there_is_said_at_once_and_nothing_was_sent(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt):
        with pytest.raises(MqttNoSubscribersError, match="nobody serves 'work'") as caught:
            async with mqtt.connect("work"):
                raise AssertionError
        assert (caught.value.outcome, trio.current_time(), len(mqtt.inbox)) == ("not_sent", 0.0, 0)


async def test_a_process_that_is_gone_breaks_its_links(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, client_id="two") as mqtt,
        a_client(broker, url="mqtt://one", client_id="one") as there,
        served(there, Worker()),
        mqtt.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        await port.request({})
        broker.down_for = "one"
        await broker.kill("one")
        with pytest.raises(PortClosedError, match="the other end of the link is gone"):
            await port.request({})
        assert trio.current_time() == 0.0


async def test_a_silent_end_is_looked_after_by_both(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with (
        a_broker() as broker,
        a_client(broker, client_id="two") as mqtt,
        a_client(broker, url="mqtt://one", client_id="one") as there,
        served(there, worker, keepalive=8) as server,
    ):
        async with mqtt.connect("work", keepalive=8) as channel, manager().port("work", channel) as port:
            await port.request({})
            await trio.sleep(100)
            assert (port.closed, server.links) == (False, 1)
            broker.down_for = "one"
            await broker.kill("one")
            await port.wait_closed()
            assert 100 < trio.current_time() < 112
        broker.down_for = ""
        await there.until_connected()
        await settle()
        assert server.links == 0


async def test_a_client_that_vanished_costs_its_server_no_more_than_its_keepalive(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker, url="mqtt://one", client_id="one") as there,
        served(there, Worker(), keepalive=8) as server,
        a_client(broker, client_id="two") as mqtt,
        mqtt.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        await port.request({})
        broker.down = True
        await broker.kill("two")
        await trio.sleep(12)
        assert server.links == 0


async def test_a_link_ends_for_both_when_this_client_loses_its_connection(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with (
        a_broker() as broker,
        a_client(broker, url="mqtt://one", client_id="one") as there,
        served(there, worker) as server,
        a_client(broker, client_id="two") as mqtt,
    ):
        async with (
            mqtt.connect("work") as channel,
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
        await mqtt.until_connected()
        await settle()
        assert server.links == 0
        async with mqtt.connect("work") as channel, manager().port("work", channel) as port:
            assert (await port.request({}))["worker"] == "w"


async def test_a_link_that_is_opened_again_goes_back_to_its_process_and_resumes(autojump_clock: MockClock) -> None:
    workers = [Worker(name, resume_within=60) for name in "abcd"]
    async with a_broker() as broker, a_client(broker, client_id="two") as mqtt, AsyncExitStack() as stack:
        for worker in workers:
            there = await stack.enter_async_context(a_client(broker))
            await stack.enter_async_context(served(there, worker, shared="q"))
        road = mqtt.returning("work")
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
        assert mqtt.statistics().reconnects == 5


async def test_a_process_that_is_gone_for_good_is_followed_by_another(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker, client_id="two") as mqtt:
        road = mqtt.returning("work")
        async with (
            a_client(broker, url="mqtt://one", client_id="one") as there,
            served(there, Worker("a")),
            road() as channel,
            manager().port("work", channel) as port,
        ):
            assert (await port.request({}))["worker"] == "a"
        assert road.door
        async with (
            a_client(broker, url="mqtt://one", client_id="one") as there,
            served(there, Worker("b")),
            road() as channel,
            manager().port("work", channel) as port,
        ):
            assert (await port.request({}))["worker"] == "b"


async def test_the_end_of_one_side_is_the_clean_end_of_the_other(autojump_clock: MockClock) -> None:
    got: list[Any] = []

    async def handler(channel: MqttChannel) -> None:
        await channel.send({"n": 1})
        await channel.send({"n": 2})

    async with both() as (_, mqtt), served(mqtt, handler) as server:
        async with mqtt.connect("work") as channel:
            got += [message async for message in channel]
            assert got == [{"n": 1}, {"n": 2}]
            with pytest.raises(trio.BrokenResourceError):
                await channel.send({})
        assert server.links == 0


async def test_there_are_so_many_places_and_the_next_is_refused(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), served(mqtt, Worker(), max_links=2) as server:
        async with mqtt.connect("work"), mqtt.connect("work"):
            with pytest.raises(MqttConnectError, match="max_links is 2"):
                async with mqtt.connect("work"):
                    raise AssertionError
        await settle()
        async with mqtt.connect("work"):
            assert (server.links, server.refused) == (1, 1)


async def test_who_speaks_no_psession_is_told_apart(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt), answering(mqtt, "plain"), mqtt.subscribe("deaf"), served(mqtt, Worker()) as server:
        with pytest.raises(MqttProtocolError, match=r"speaks no psession: ask it by mqtt\.requests"):
            async with mqtt.connect("plain"):
                raise AssertionError
        with pytest.raises(MqttTimeoutError, match="welcome in 3 s"):
            async with mqtt.connect("deaf", connect_timeout=3):
                raise AssertionError
        reply = await mqtt.request("work", b"{}")
        assert reply.user_property("Psession-Code") == "400"
        await mqtt.publish("work", b"{}", qos=1)
        await settle()
        assert server.strangers == 2


async def test_what_is_larger_than_the_servers_limit_is_refused_and_the_port_lives(autojump_clock: MockClock) -> None:
    async with (
        a_broker(max_packet_size=2000) as broker,
        a_client(broker) as mqtt,
        served(mqtt, Worker()),
        mqtt.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        with pytest.raises(MessageTooLargeError, match="2000 at most"):
            await port.request({"text": "x" * 2000})
        assert (await port.request({"text": "x"}))["echo"] == "x"


async def test_a_timeout_is_given_up_at_the_worker_too(autojump_clock: MockClock) -> None:
    worker = Worker()
    async with (
        both() as (_, mqtt),
        served(mqtt, worker),
        mqtt.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        with pytest.raises(SessionTimeoutError):
            await port.request({"wait": 60}, timeout=2)
        await settle()
        assert list(worker.ports[0].sessions) == []


async def test_a_handler_that_fails_costs_its_own_link(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(channel: MqttChannel) -> None:
        await channel.receive()
        raise KeyError("mine")

    async with (
        both() as (_, mqtt),
        served(mqtt, handler) as server,
        mqtt.connect("work") as one,
        mqtt.connect("work") as two,
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

    async def handler(channel: MqttChannel) -> None:
        await read.wait()
        async for _ in channel:
            pass

    async with both() as (_, mqtt), served(mqtt, handler), mqtt.connect("work") as one, mqtt.connect("work") as two:
        for number in range(20):
            await one.send({"n": number})
        await settle()
        read.set()
        with pytest.raises(trio.BrokenResourceError):
            await one.receive()
        await two.send({})
        assert mqtt.statistics().overrun == 1


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


async def test_a_drained_client_lets_its_links_end_by_themselves(autojump_clock: MockClock) -> None:
    async with (
        a_broker() as broker,
        a_client(broker) as there,
        a_client(broker) as mqtt,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(there.serve, "work", Worker())
        await settle()
        async with mqtt.connect("work") as channel, manager().port("work", channel) as port:
            await port.request({})
            await there.drain()
            await port.wait_closed()


async def test_arguments_that_will_not_do(autojump_clock: MockClock) -> None:
    async with both() as (_, mqtt):
        for options in ({"keepalive": 0}, {"max_message_bytes": 0}, {"connect_timeout": -1}):
            with pytest.raises(ValueError, match=next(iter(options))):
                async with mqtt.connect("a", **options):  # type: ignore[arg-type]
                    raise AssertionError
        for topic in ("a/+", "a\0"):
            with pytest.raises(ValueError, match="topic"):
                async with mqtt.connect(topic):
                    raise AssertionError
            with pytest.raises(ValueError, match="topic"):
                await mqtt.serve(topic, Worker())
            with pytest.raises(ValueError, match="topic"):
                mqtt.returning(topic)
        with pytest.raises(ValueError, match="max_links"):
            await mqtt.serve("a", Worker(), max_links=0)
        assert len(mqtt.inbox) == 0


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


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_was_asked_and_answered_without_a_connection_goes_by_the_next_link_to_the_right_end(
    autojump_clock: MockClock, qos: Any
) -> None:
    """Each link has topics of its own: a frame that waits for the next link must not carry the last one's."""
    worker = Worker(resume_within=60)
    async with a_broker() as broker, a_client(broker, client_id="two") as mqtt, a_client(broker) as there:
        async with (
            served(there, worker, qos=qos),
            reconnecting(mqtt.returning("work", qos=qos), rng=lambda: 0.0) as channel,
            manager(resume_within=60).port("work", channel) as port,
            trio.open_nursery() as nursery,
        ):
            answers: list[Any] = []

            async def ask(number: int, wait: float) -> None:
                answers.append((await port.request({"text": number, "wait": wait}, timeout=50))["echo"])

            for number in range(4):
                nursery.start_soon(ask, number, 1.5 + number / 2)
            await trio.sleep(1)
            broker.down = True
            await broker.kill("two")
            for number in range(4, 8):  # asked meanwhile, and the first four are answered meanwhile
                nursery.start_soon(ask, number, 0)
            await trio.sleep(10)
            assert answers == []
            broker.down = False
            before = trio.current_time()
            while len(answers) < 8:
                await trio.sleep(0.1)
                assert trio.current_time() - before < 10
        assert sorted(answers) == list(range(8))
        assert worker.asked == 8
