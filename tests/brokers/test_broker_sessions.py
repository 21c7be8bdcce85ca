"""Ports over each broker, in memory: dialogues, streams, groups, ends and breaks of links."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import MessageTooLargeError, PortClosedError, SessionTimeoutError
from psession.channels import reconnecting

from .sides import Side, Worker, manager, on_each_side, served

if TYPE_CHECKING:
    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked
pytestmark = on_each_side


async def test_a_request_a_dialogue_and_a_stream(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.broker() as broker,
        side.client(broker) as there,
        side.client(broker) as client,
        served(there, Worker()) as server,
    ):
        async with client.connect("work") as channel, manager().port("work", channel) as port:
            assert server.links == 1
            assert await port.request({"text": "hello"}) == {"worker": "w", "turn": 0, "echo": "hello"}
            async with port.session() as session:
                assert [(await session.send({}))["turn"] for _ in range(3)] == [0, 1, 2]
            async with port.stream({"parts": 100}) as replies:
                assert [reply["part"] async for reply in replies] == list(range(100))
            assert client.statistics().links == 1
            kind = f"{side.name.capitalize()}Channel"
            assert repr(channel) == f"<psession.brokers.{side.name}.{kind} to 'work', open>"
        await settle()
        assert (server.links, client.statistics().links, there.statistics().links) == (0, 0, 0)
        assert (side.inbox(client), side.inbox(there)) == (0, 1)


async def test_many_ports_in_a_group_each_have_one_worker(autojump_clock: MockClock, side: Side) -> None:
    workers = [Worker("a"), Worker("b"), Worker("c")]
    async with side.broker() as broker, side.client(broker) as client, AsyncExitStack() as stack:
        for worker in workers:
            there = await stack.enter_async_context(side.client(broker))
            await stack.enter_async_context(served(there, worker, **{side.group: "q"}))
        seen: list[set[str]] = []

        async def talk(number: int) -> None:
            async with client.connect("work") as channel, manager().port(str(number), channel) as port:
                async with port.session() as session:
                    answers = [await session.send({"wait": 0.01}) for _ in range(10)]
                assert [answer["turn"] for answer in answers] == list(range(10))
                seen.append({answer["worker"] for answer in answers})

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(talk, number)
        assert [len(names) for names in seen] == [1] * 30
        assert set.union(*seen) == {"a", "b", "c"}


async def test_nobody_there_is_said_at_once_and_nothing_was_sent(autojump_clock: MockClock, side: Side) -> None:
    async with side.both() as (_, client):
        with pytest.raises(side.Nobody, match="nobody serves 'work'") as caught:
            async with client.connect("work"):
                raise AssertionError
        assert vars(caught.value)["outcome"] == "not_sent"
        assert (trio.current_time(), side.inbox(client)) == (0.0, 0)


async def test_what_is_written_before_the_last_words_were_read_breaks_nothing(
    autojump_clock: MockClock, side: Side
) -> None:
    """They may say what was taken: else turns that were not would be "sent"."""

    async def say_goodbye(channel: Any) -> None:
        await channel.receive()
        await channel.send({"last": "words"})

    async with (
        side.broker() as broker,
        side.client(broker) as there,
        side.client(broker) as client,
        served(there, say_goodbye),
        client.connect("work") as channel,
    ):
        await channel.send({"n": 1})
        await settle()
        assert channel.state == "over"
        await channel.send({"n": 2})
        assert await channel.receive() == {"last": "words"}
        with pytest.raises(trio.BrokenResourceError):
            await channel.send({"n": 3})
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()


async def test_a_process_that_is_gone_breaks_its_links(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.broker() as broker,
        side.client(broker, "two") as client,
        side.client(broker, "one") as there,
        served(there, Worker()),
        client.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        await port.request({})
        await side.take_down(broker, "one")
        with pytest.raises(PortClosedError, match="the other end of the link is gone"):
            await port.request({})
        assert trio.current_time() == 0.0


async def test_a_silent_end_is_looked_after_by_both(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.broker() as broker,
        side.client(broker, "two") as client,
        side.client(broker, "one") as there,
        served(there, Worker(), keepalive=8) as server,
    ):
        async with client.connect("work", keepalive=8) as channel, manager().port("work", channel) as port:
            await port.request({})
            await trio.sleep(100)
            assert (port.closed, server.links) == (False, 1)
            await side.take_down(broker, "one")
            await port.wait_closed()
            assert 100 < trio.current_time() < 112
        side.bring_up(broker)
        await there.until_connected()
        await settle()
        assert server.links == 0


async def test_a_client_that_vanished_costs_its_server_no_more_than_its_keepalive(
    autojump_clock: MockClock, side: Side
) -> None:
    async with (
        side.broker() as broker,
        side.client(broker, "one") as there,
        served(there, Worker(), keepalive=8) as server,
        side.client(broker, "two") as client,
        client.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        await port.request({})
        await side.take_down(broker, "two")
        assert server.links == 1
        await trio.sleep(12)
        assert server.links == 0


async def test_a_link_ends_for_both_when_this_client_loses_its_connection(
    autojump_clock: MockClock, side: Side
) -> None:
    async with (
        side.broker() as broker,
        side.client(broker, "one") as there,
        served(there, Worker()) as server,
        side.client(broker, "two") as client,
    ):
        async with (
            client.connect("work") as channel,
            manager().port("work", channel) as port,
            trio.open_nursery() as nursery,
        ):

            async def ask() -> None:
                with pytest.raises(PortClosedError, match="broke") as caught:
                    await port.request({"wait": 60}, timeout=90)
                assert caught.value.outcome == "sent"

            nursery.start_soon(ask)
            await settle()
            await side.kill(broker, "two")
        await client.until_connected()
        await settle()
        assert server.links == 0
        async with client.connect("work") as channel, manager().port("work", channel) as port:
            assert (await port.request({}))["worker"] == "w"


async def test_a_link_that_is_opened_again_goes_back_to_its_process_and_resumes(
    autojump_clock: MockClock, side: Side
) -> None:
    workers = [Worker(name, resume_within=60) for name in "abcd"]
    async with side.broker() as broker, side.client(broker, "two") as client, AsyncExitStack() as stack:
        for worker in workers:
            there = await stack.enter_async_context(side.client(broker))
            await stack.enter_async_context(served(there, worker, **{side.group: "q"}))
        road = client.returning("work")
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
                    await side.kill(broker, "two")
        assert sum(worker.asked for worker in workers) == 6
        assert client.statistics().reconnects == 5


async def test_what_was_asked_and_answered_without_a_connection_goes_by_the_next_link_to_the_right_end(
    autojump_clock: MockClock, side: Side
) -> None:
    """Each link has addresses of its own: a frame that waits for the next link must not carry the last one's."""
    for options in side.ways:
        await ask_and_answer_without_a_connection(side, options)


async def ask_and_answer_without_a_connection(side: Side, options: dict[str, Any]) -> None:
    """Take the asker's connection away for ten seconds."""
    worker = Worker(resume_within=60)
    async with side.broker() as broker, side.client(broker, "two") as client, side.client(broker, "there") as there:
        async with (
            served(there, worker, **options),
            reconnecting(client.returning("work", **options), rng=lambda: 0.0) as channel,
            manager(resume_within=60).port("work", channel) as port,
            trio.open_nursery() as nursery,
        ):
            answers: list[Any] = []

            async def ask(number: int, wait: float) -> None:
                answers.append((await port.request({"text": number, "wait": wait}, timeout=50))["echo"])

            for number in range(4):
                nursery.start_soon(ask, number, 1.5 + number / 2)
            await trio.sleep(1)
            await side.take_down(broker, "two")
            for number in range(4, 8):  # asked meanwhile, and the first four are answered meanwhile
                nursery.start_soon(ask, number, 0)
            await trio.sleep(10)
            assert answers == []
            side.bring_up(broker)
            before = trio.current_time()
            while len(answers) < 8:
                await trio.sleep(0.1)
                assert trio.current_time() - before < 10
        assert sorted(answers) == list(range(8))
        assert worker.asked == 8


async def test_a_process_that_is_gone_for_good_is_followed_by_another(autojump_clock: MockClock, side: Side) -> None:
    async with side.broker() as broker, side.client(broker, "two") as client:
        road = client.returning("work")
        for name in ("a", "b"):
            async with (
                side.client(broker, "one") as there,
                served(there, Worker(name)),
                road() as channel,
                manager().port("work", channel) as port,
            ):
                assert (await port.request({}))["worker"] == name
            assert road.door


async def test_the_end_of_one_side_is_the_clean_end_of_the_other(autojump_clock: MockClock, side: Side) -> None:
    got: list[Any] = []

    async def handler(channel: Any) -> None:
        await channel.send({"n": 1})
        await channel.send({"n": 2})

    async with side.both() as (_, client), served(client, handler) as server:
        async with client.connect("work") as channel:
            got += [message async for message in channel]
            assert got == [{"n": 1}, {"n": 2}]
            with pytest.raises(trio.BrokenResourceError):
                await channel.send({})
        assert server.links == 0


async def test_there_are_so_many_places_and_the_next_is_refused(autojump_clock: MockClock, side: Side) -> None:
    async with side.both() as (_, client), served(client, Worker(), max_links=2) as server:
        async with client.connect("work"), client.connect("work"):
            with pytest.raises(side.ConnectError, match="max_links is 2"):
                async with client.connect("work"):
                    raise AssertionError
        await settle()
        async with client.connect("work"):
            assert (server.links, server.refused) == (1, 1)


async def test_who_speaks_no_psession_is_told_apart(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.both() as (_, client),
        side.answering(client, "plain"),
        client.subscribe("deaf"),
        served(client, Worker()) as server,
    ):
        with pytest.raises(side.ProtocolError, match=rf"speaks no psession: ask it by {side.name}\.requests"):
            async with client.connect("plain"):
                raise AssertionError
        with pytest.raises(side.TooLate, match="welcome in 3 s"):
            async with client.connect("deaf", connect_timeout=3):
                raise AssertionError
        reply = await client.request("work", b"{}")
        assert (side.code(reply), server.strangers) == ("400", 1)
        assert "a plain request is for" in str(side.text(reply))
        await client.publish("work", b"{}")
        await settle()
        assert server.strangers == 2


async def test_what_is_larger_than_the_servers_limit_is_refused_and_the_port_lives(
    autojump_clock: MockClock, side: Side
) -> None:
    async with (
        side.broker(max_payload=2000) as broker,
        side.client(broker) as client,
        served(client, Worker()),
        client.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        with pytest.raises(MessageTooLargeError, match=side.too_large):
            await port.request({"text": "x" * 2000})
        assert (await port.request({"text": "x"}))["echo"] == "x"


async def test_a_timeout_is_given_up_at_the_worker_too(autojump_clock: MockClock, side: Side) -> None:
    worker = Worker()
    async with (
        side.both() as (_, client),
        served(client, worker),
        client.connect("work") as channel,
        manager().port("work", channel) as port,
    ):
        with pytest.raises(SessionTimeoutError):
            await port.request({"wait": 60}, timeout=2)
        await settle()
        assert list(worker.ports[0].sessions) == []


async def test_a_handler_that_fails_costs_its_own_link(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, side: Side
) -> None:
    async def handler(channel: Any) -> None:
        await channel.receive()
        raise KeyError("mine")

    async with (
        side.both() as (_, client),
        served(client, handler) as server,
        client.connect("work") as one,
        client.connect("work") as two,
    ):
        await one.send({})
        with pytest.raises(trio.EndOfChannel):
            await one.receive()
        assert server.links == 1
        await two.send({})
    assert "the handler of a link of work failed" in caplog.text


async def test_a_link_that_is_flooded_ends_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    monkeypatch.setattr("psession.brokers._channel.MAX_ARRIVED_MESSAGES", 10)
    read = trio.Event()

    async def handler(channel: Any) -> None:
        await read.wait()
        async for _ in channel:
            pass

    async with (
        side.both() as (_, client),
        served(client, handler),
        client.connect("work") as one,
        client.connect("work") as two,
    ):
        for number in range(20):
            await one.send({"n": number})
        await settle()
        read.set()
        with pytest.raises(trio.BrokenResourceError):
            await one.receive()
        await two.send({})
        assert client.statistics().overrun == 1


async def test_a_drained_client_lets_its_links_end_by_themselves(autojump_clock: MockClock, side: Side) -> None:
    async with (
        side.broker() as broker,
        side.client(broker) as there,
        side.client(broker) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(there.serve, "work", Worker())
        await settle()
        async with client.connect("work") as channel, manager().port("work", channel) as port:
            await port.request({})
            await there.drain()
            await port.wait_closed()


async def test_arguments_that_will_not_do(autojump_clock: MockClock, side: Side) -> None:
    async with side.both() as (_, client):
        for options in ({"keepalive": 0}, {"max_message_bytes": 0}, {"connect_timeout": -1}):
            with pytest.raises(ValueError, match=next(iter(options))):
                async with client.connect("a", **options):
                    raise AssertionError
        for address in side.no_addresses:
            with pytest.raises(ValueError, match=side.address):
                async with client.connect(address):
                    raise AssertionError
            with pytest.raises(ValueError, match=side.address):
                await client.serve(address, Worker())
            with pytest.raises(ValueError, match=side.address):
                client.returning(address)
        with pytest.raises(ValueError, match="max_links"):
            await client.serve("a", Worker(), max_links=0)
        assert side.inbox(client) == 0
