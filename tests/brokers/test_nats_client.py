"""A client of NATS against a server in memory, on virtual time: what it promises, and what breaks underneath it."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import MalformedMessageError, MessageTooLargeError
from psession.brokers.nats import (
    Nats,
    NatsAuthError,
    NatsClosedError,
    NatsConnectError,
    NatsDisconnectedError,
    NatsMessage,
    NatsNoRespondersError,
    NatsOverrunError,
    NatsPermissionError,
    NatsState,
    NatsTimeoutError,
    Subscription,
    open_nats,
)

from .broker import Broker, a_broker, socket_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

settle = trio.testing.wait_all_tasks_blocked


@asynccontextmanager
async def a_client(broker: Broker, servers: Any = "nats://one", **options: Any) -> AsyncIterator[Nats]:
    """A client of a server in memory."""
    options.setdefault("rng", lambda: 0.0)
    async with open_nats(servers, open_stream=broker.open_stream, **options) as nats:
        yield nats


@asynccontextmanager
async def both(**options: Any) -> AsyncIterator[tuple[Broker, Nats]]:
    """A server and a client of it."""
    async with a_broker() as broker, a_client(broker, **options) as nats:
        yield broker, nats


@asynccontextmanager
async def answering(nats: Nats, subject: str, **options: Any) -> AsyncIterator[list[NatsMessage]]:
    """Somebody who answers each message with its own data."""
    came: list[NatsMessage] = []

    async def answer(subscription: Subscription) -> None:
        async for message in subscription:
            came.append(message)
            if message.reply:
                await nats.respond(message, message.data)

    async with nats.subscribe(subject, **options) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(answer, subscription)
        yield came
        nursery.cancel_scope.cancel()


# -- the plain case ----------------------------------------------------------------------------------------------------


async def test_a_message_reaches_who_has_subscribed(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("light.*") as subscription:
        await nats.publish("light.on", b"now", reply="answers", headers={"Room": "hall"})
        message = await subscription.receive()
        assert (message.subject, message.reply, message.data) == ("light.on", "answers", b"now")
        assert message.headers == {"Room": ["hall"]}
        await nats.publish("light.off", bytearray(b"x"))
        assert (await subscription.receive()).data == b"x"
        assert nats.statistics().messages_in == 2


async def test_a_request_has_its_own_answer_among_many(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), answering(nats, "echo"):
        got: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            got[number] = (await nats.request("echo", b"%d" % number)).data

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        assert got == {number: b"%d" % number for number in range(200)}
        assert nats.statistics().waiting_requests == 0


async def test_nobody_there_is_said_at_once_and_nothing_was_done(autojump_clock: MockClock) -> None:
    async with both() as (_, nats):
        with pytest.raises(NatsNoRespondersError, match="nobody serves 'lamp'") as caught:
            await nats.request("lamp", timeout=60)
        assert (caught.value.outcome, trio.current_time()) == ("not_sent", 0.0)
        assert nats.statistics().no_responders == 1


async def test_after_a_reconnect_the_inbox_is_there_before_what_is_served(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), nats.subscribe("a"), nats.subscribe("b"):
        nats.take_inbox("door", lambda _: None)
        await nats.flush()
        await broker.kill()
        await nats.flush()
        said = [line.split()[1] for line in broker.clients[0].heard if line.startswith(b"SUB ")]
        assert said == [f"{nats._inbox.subject}.*".encode(), b"a", b"b"]


async def test_silence_ends_after_as_long_as_the_caller_said(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("deaf"):
        for timeout, until in ((3.0, 3.0), (0.5, 3.5), (0.0, 3.5)):
            with pytest.raises(NatsTimeoutError, match="no answer from 'deaf'") as caught:
                await nats.request("deaf", timeout=timeout)
            assert (caught.value.outcome, trio.current_time()) == ("sent", until)
        assert nats.statistics().timeouts == 3


async def test_requests_of_many_timeouts_end_each_at_its_own_moment(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("deaf"):
        ended: list[tuple[float, float]] = []

        async def ask(timeout: float) -> None:  # noqa: ASYNC109 - the subject of the test
            with pytest.raises(NatsTimeoutError):
                await nats.request("deaf", timeout=timeout)
            ended.append((timeout, trio.current_time()))

        async with trio.open_nursery() as nursery:
            for number in range(200, 0, -1):
                nursery.start_soon(ask, number / 8)
        assert ended == [(number / 8, number / 8) for number in range(1, 201)]
        assert len(nats._inbox.lanes) <= 201


async def test_an_answer_after_its_time_reaches_nobody_and_is_counted(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("slow") as subscription:
        with pytest.raises(NatsTimeoutError):
            await nats.request("slow", timeout=1)
        await nats.respond(await subscription.receive(), b"late")
        await nats.flush()
        assert nats.statistics().late == 1


async def test_a_second_answer_reaches_nobody_and_is_counted(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), answering(nats, "echo"), answering(nats, "echo"):
        assert (await nats.request("echo", b"1")).data == b"1"
        await nats.flush()
        assert nats.statistics().late == 1


async def test_a_cancelled_request_leaves_no_trace(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), nats.subscribe("deaf"):
        with trio.move_on_after(1):
            await nats.request("deaf", timeout=9)
        assert nats.statistics().waiting_requests == 0
        with trio.CancelScope() as scope:
            scope.cancel()
            await nats.request("deaf", b"never sent")
        await nats.flush()
        assert [data for subject, _, data in broker.published if subject == "deaf"] == [b""]


async def test_a_queue_group_gives_each_message_to_one_of_its_members(autojump_clock: MockClock) -> None:
    async with (
        both() as (_, nats),
        answering(nats, "work", queue="q") as one,
        answering(nats, "work", queue="q") as two,
    ):
        for number in range(40):
            await nats.request("work", b"%d" % number)
        assert len(one) + len(two) == 40
        assert one
        assert two


async def test_a_message_that_wants_no_answer_gets_none(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("a") as subscription:
        await nats.publish("a")
        with pytest.raises(ValueError, match="wants no answer"):
            await nats.respond(await subscription.receive(), b"")


async def test_long_messages_over_real_sockets_are_written_to_their_end() -> None:
    with trio.fail_after(30):
        async with a_broker() as broker:
            broker.pair = socket_pair
            async with a_client(broker) as nats, answering(nats, "echo"), trio.open_nursery() as nursery:

                async def ask(size: int) -> None:
                    assert len((await nats.request("echo", bytes(size), timeout=20)).data) == size

                await ask(1_000_000)
                for size in (0, 1, 70_000, 1_000_000, 3, 500_000):
                    nursery.start_soon(ask, size)
            async with a_client(broker) as nats:
                for _ in range(5):
                    await nats.publish("a", bytes(700_000))
            while len([subject for subject, *_ in broker.published if subject == "a"]) < 5:  # noqa: ASYNC110 - sockets
                await trio.sleep(0.001)


async def test_a_socket_that_breaks_is_noticed_by_who_writes(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        broker.pair = socket_pair
        async with a_client(broker) as nats:
            with trio.fail_after(30):
                await nats.flush()
                for _ in range(3):
                    await broker.kill()
                    with suppress(NatsDisconnectedError, NatsNoRespondersError):
                        await nats.request("nobody")
                    with pytest.raises(NatsNoRespondersError):
                        await nats.request("nobody")
                assert nats.statistics().reconnects == 3


# -- what will not do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["a b", "a.*", ">", "", "a..b", "a\r\nPUB x 0\r\n"])
async def test_a_subject_that_is_none_is_refused_and_nothing_is_sent(autojump_clock: MockClock, subject: str) -> None:
    async with both() as (broker, nats):
        for call in (nats.publish, nats.request):
            with pytest.raises(ValueError, match="subject"):
                await call(subject)
        with pytest.raises(ValueError, match=r"reply|wildcard") if subject else pytest.raises(NatsNoRespondersError):
            await nats.publish("a", reply=subject)
            await nats.request("a")
        assert {subject for subject, *_ in broker.published} <= {"a"}


async def test_what_is_too_large_is_refused_before_it_is_written(autojump_clock: MockClock) -> None:
    async with a_broker(max_payload=100) as broker, a_client(broker) as nats:
        assert nats.max_payload == 100
        await nats.publish("a", bytes(100))
        for call in (nats.publish, nats.request):
            with pytest.raises(MessageTooLargeError, match="101 bytes with headers; the server's max_payload is 100"):
                await call("a", bytes(101))
        with pytest.raises(MessageTooLargeError):
            await nats.publish("a", bytes(90), headers={"A": "1"})
        await nats.flush()
        assert [len(data) for *_, data in broker.published] == [100]


async def test_arguments_that_will_not_do_say_what_would(autojump_clock: MockClock) -> None:
    async with both() as (_, nats):
        wrong: Any = nats
        with pytest.raises(TypeError, match="encode the text"):
            await wrong.publish("a", "text")
        with pytest.raises(TypeError, match="bytes, not int"):
            await wrong.request("a", 1)
        with pytest.raises(ValueError, match="timeout"):
            await nats.request("a", timeout=-1)
        with pytest.raises(MalformedMessageError):
            await nats.publish("a", headers={"a:": "b"})
        for options in ({"limit": 0}, {"max_pending_messages": 0}, {"max_pending_bytes": 0}, {"queue": "a b"}):
            with pytest.raises(ValueError, match=next(iter(options))):
                async with nats.subscribe("a", **options):  # type: ignore[arg-type]
                    raise AssertionError


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"connect_timeout": 0}, ValueError, "connect_timeout"),
        ({"ping_interval": -1}, ValueError, "ping_interval"),
        ({"max_delay": math.inf}, ValueError, "finite"),
        ({"first_delay": 9}, ValueError, "first_delay must not exceed max_delay"),
        ({"jitter": -1}, ValueError, "jitter"),
        ({"max_rounds": 0}, ValueError, "max_rounds"),
        ({"max_queued_bytes": 0}, ValueError, "max_queued_bytes"),
        ({"echo": 1}, TypeError, "echo"),
        ({"name": 1}, TypeError, "name"),
        ({"inbox_prefix": "a.*"}, ValueError, "wildcard"),
        ({"on_state": 1}, TypeError, "on_state"),
        ({"user": 1}, TypeError, "user"),
        ({"password": "x"}, ValueError, "needs user"),
        ({"user": "a", "token": "b"}, ValueError, "not user and token"),
        ({"servers": []}, ValueError, "at least one"),
        ({"servers": "http://x"}, ValueError, "nats:// or tls://"),
        ({"servers": "ws://x"}, ValueError, "WebSocket"),
        ({"servers": "nats://"}, ValueError, "no host"),
        ({"servers": "nats://x:99999"}, ValueError, "port"),
        ({"servers": "nats://x:0"}, ValueError, "port"),
        ({"servers": "nats://x/path"}, ValueError, "nothing behind"),
        ({"servers": "nats://a b"}, ValueError, "not the URL"),
        ({"servers": 1}, TypeError, "iterable"),
        ({"servers": [1]}, TypeError, "must be a str"),
    ],
)
async def test_options_that_will_not_do_are_refused_before_anything_is_opened(
    options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        async with open_nats(**options):
            raise AssertionError


async def test_a_password_in_a_url_is_in_no_error(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="port") as wrong:
        async with open_nats("nats://me:secret@host:99999"):
            raise AssertionError
    assert "secret" not in str(wrong.value)
    async with a_broker() as broker:
        broker.refusal = "Authorization Violation"
        with pytest.raises(NatsAuthError, match="refuses the user 'me' and its password") as caught:
            async with a_client(broker, "nats://me:secret@one"):
                raise AssertionError
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


# -- connecting --------------------------------------------------------------------------------------------------------


async def test_what_a_client_says_of_itself(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker, "nats://a:b%40c@one", name="gate", echo=False):
        said = broker.clients[0].connect
    assert (said["user"], said["pass"], said["name"], said["echo"]) == ("a", "b@c", "gate", False)
    assert (said["headers"], said["no_responders"], said["verbose"], said["tls_required"]) == (True, True, False, False)
    async with a_broker() as broker, a_client(broker, "nats://tok@one"):
        assert broker.clients[0].connect["auth_token"] == "tok"
    async with a_broker() as broker, a_client(broker, token="tok"):
        assert broker.clients[0].connect["auth_token"] == "tok"


async def test_no_server_says_of_each_what_was_wrong(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        broker.down = {"one", "two"}
        with pytest.raises(NatsConnectError, match=r"nats://one:4222: Connection refused") as caught:
            async with a_client(broker, ["nats://one", "nats://two:7"]):
                raise AssertionError
        assert "nats://two:7: Connection refused" in str(caught.value)
        assert caught.value.outcome == "not_sent"


async def test_a_server_that_says_nothing_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        near, _ = trio.testing.memory_stream_pair()
        return near

    with pytest.raises(NatsConnectError, match="no answer in 3 s"):
        async with open_nats("nats://x", open_stream=open_stream, connect_timeout=3):
            raise AssertionError
    assert trio.current_time() == 3.0


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "not a line of the NATS protocol"),
        (b"PING\r\n", "not a NATS server"),
        (b"INFO {}\r\nMSG a 1 0\r\n\r\n", "before this client has spoken"),
        (b"-ERR 'maximum connections exceeded'\r\n", "maximum connections"),
        (b'INFO {"headers": false}\r\nPONG\r\n', "before this client"),
        (b"INFO " + b" " * 1_100_000, "a line of more than"),
    ],
    ids=lambda said: repr(said[:20]),
)
async def test_what_is_no_nats_server_is_said_clearly(autojump_clock: MockClock, said: bytes, text: str) -> None:
    async with trio.open_nursery() as nursery:

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(far.send_all, said)
            return near

        with pytest.raises(NatsConnectError, match=text):
            async with open_nats("nats://x", open_stream=open_stream):
                raise AssertionError


async def test_a_server_too_old_for_headers_is_not_used(autojump_clock: MockClock) -> None:
    async with a_broker(headers=False) as broker:
        with pytest.raises(NatsConnectError, match="older than headers"):
            async with a_client(broker):
                raise AssertionError


async def test_a_server_without_tls_is_refused_by_who_wants_it(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        with pytest.raises(NatsConnectError, match="has no TLS"):
            async with a_client(broker, "tls://one"):
                raise AssertionError
        assert broker.clients == []


async def test_words_put_before_tls_are_refused(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(far.send_all, b'INFO {"tls_required": true}\r\nINFO {"tls_requ')
            return near

        with pytest.raises(NatsConnectError, match="between its INFO and TLS"):
            async with open_nats("nats://x", open_stream=open_stream):
                raise AssertionError


async def test_cancelled_while_it_connects_nothing_is_left(autojump_clock: MockClock) -> None:
    opened: list[trio.testing.MemorySendStream] = []

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        opened.append(far)  # type: ignore[arg-type]
        return near

    with trio.move_on_after(1):
        async with open_nats("nats://x", open_stream=open_stream):
            raise AssertionError
    assert await opened[0].receive_some() == b""  # type: ignore[attr-defined]


async def test_what_the_body_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with both():
            raise error
    assert caught.value is error


# -- breaking and coming back ------------------------------------------------------------------------------------------


async def test_after_a_break_all_subscriptions_are_made_again(autojump_clock: MockClock) -> None:
    states: list[NatsState] = []
    async with both(on_state=states.append) as (broker, nats), nats.subscribe("a", queue="q") as subscription:
        async with answering(nats, "echo"):
            await nats.request("echo")
            await broker.kill()
            await nats.until_connected()
            await nats.publish("a", b"after")
            assert (await subscription.receive()).data == b"after"
            assert (await nats.request("echo", b"again")).data == b"again"
        assert nats.statistics().reconnects == 1
        assert len(broker.clients) == 1
        assert sorted(kept[0] for kept in broker.clients[0].subscriptions.values())[-2:] == ["a", "echo"]
    assert [state.state for state in states] == ["connecting", "open", "broken", "connecting", "open", "closed"]


async def test_a_request_that_was_written_fails_at_once_when_the_connection_breaks(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), nats.subscribe("deaf"), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(NatsDisconnectedError, match="broke") as caught:
                await nats.request("deaf", timeout=60)
            assert caught.value.outcome == "sent"
            assert trio.current_time() == 0.0

        for _ in range(3):
            nursery.start_soon(ask)
        await settle()
        await broker.kill()


async def test_a_request_without_a_connection_waits_for_the_next(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), answering(nats, "echo"):
        broker.down = {"one"}
        await broker.kill()
        with pytest.raises(NatsTimeoutError, match="there was no connection") as caught:
            await nats.request("echo", b"withdrawn", timeout=1)
        assert caught.value.outcome == "not_sent"
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert (await nats.request("echo", b"kept", timeout=60)).data == b"kept"

            nursery.start_soon(ask)
            with trio.move_on_after(1):
                await nats.request("echo", b"cancelled", timeout=60)
            broker.down.clear()
        assert [data for subject, _, data in broker.published if subject == "echo"] == [b"kept"]


async def test_what_was_published_without_a_connection_is_written_then_in_order(autojump_clock: MockClock) -> None:
    async with both(max_queued_bytes=200) as (broker, nats), nats.subscribe("a") as subscription:
        broker.down = {"one"}
        await broker.kill()
        accepted: list[int] = []

        async def publish() -> None:
            for number in range(100):
                await nats.publish("a", b"%d" % number)
                accepted.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await trio.sleep(1)
            assert 5 < len(accepted) < 20  # then it waits
            broker.down.clear()
            got = [int((await subscription.receive()).data) for _ in range(100)]
        assert got == list(range(100))


async def test_what_is_too_large_and_wants_its_answer_elsewhere_fails_no_request(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), answering(nats, "echo"):
        broker.down = {"one"}
        await broker.kill()
        broker.infos["one"] = {"max_payload": 100}
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append((await nats.request("echo", b"small", timeout=60)).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await settle()
            await nats.publish("a", bytes(101), reply="1")  # the request has this number, on a subject of the client's
            broker.down.clear()
        assert answers == [b"small"]
        assert nats.statistics().too_large == 1


async def test_what_waited_for_room_is_checked_by_the_server_that_is_there_then(autojump_clock: MockClock) -> None:
    async with both(max_queued_bytes=100) as (broker, nats):
        broker.down = {"one"}
        await broker.kill()
        broker.infos["one"] = {"max_payload": 100}
        await nats.publish("a", bytes(100))  # there is no room behind it
        async with trio.open_nursery() as nursery:

            async def publish(size: int) -> None:
                await nats.publish("a", bytes(size))

            async def refused(size: int) -> None:
                with pytest.raises(MessageTooLargeError, match=f"{size} bytes with headers; the server's max_payload"):
                    await nats.publish("a", bytes(size))

            nursery.start_soon(publish, 100)
            nursery.start_soon(refused, 101)
            await settle()
            broker.down.clear()
        assert nats.statistics().too_large == 0


async def test_what_waits_and_is_too_large_for_the_next_server_fails_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with both() as (broker, nats), answering(nats, "echo"), nats.subscribe("a") as subscription:
        broker.down = {"one"}
        await broker.kill()
        broker.infos["one"] = {"max_payload": 100}
        outcomes: list[str] = []

        async def ask(size: int) -> None:
            try:
                outcomes.append(f"{len((await nats.request('echo', bytes(size), timeout=60)).data)} bytes")
            except MessageTooLargeError as error:
                outcomes.append(f"{error.outcome}, {error.attempts}: {error.why}")

        await nats.publish("a", b"first")
        await nats.publish("a", bytes(101))
        await nats.publish("a", bytes(90), headers={"A": "1"})
        async with trio.open_nursery() as nursery:
            for size in (100, 101):
                nursery.start_soon(ask, size)
            await settle()
            await nats.publish("a", bytes(100))
            await nats.publish("a", b"last")
            broker.down.clear()
        assert sorted(outcomes) == [
            "100 bytes",
            "not_sent, 0: 101 bytes with headers; the max_payload of the server that is connected to now is 100",
        ]
        assert [(await subscription.receive()).data for _ in range(3)] == [b"first", bytes(100), b"last"]
        said = nats.statistics()
        assert (said.too_large, said.reconnects, said.queued_bytes, said.waiting_requests) == (3, 1, 0, 0)
        await broker.kill()
        await nats.flush()
        assert nats.statistics().too_large == 3
    (record,) = [one for one in caplog.records if one.__dict__.get("event_name") == "messages_too_large"]
    assert record.getMessage() == (
        "2 messages that waited for a connection were let go: the max_payload of nats://one:4222 is 100"
    )


async def test_what_waits_for_room_goes_on_when_what_was_before_it_is_let_go(autojump_clock: MockClock) -> None:
    async with both(max_queued_bytes=200) as (broker, nats), nats.subscribe("a") as subscription:
        broker.down = {"one"}
        await broker.kill()
        broker.infos["one"] = {"max_payload": 100}
        await nats.publish("a", bytes(300))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nats.publish, "a", b"next")
            await settle()
            broker.down.clear()
        assert (await subscription.receive()).data == b"next"


async def test_servers_are_tried_in_rounds_with_waits_that_grow(autojump_clock: MockClock) -> None:
    states: list[NatsState] = []
    options = {"first_delay": 1.0, "max_delay": 4.0, "on_state": states.append}
    async with a_broker() as broker, a_client(broker, ["nats://one", "nats://two"], **options) as nats:
        first = nats.connected_url
        broker.down = {"one", "two"}
        broker.tried.clear()
        await broker.kill()
        await trio.sleep(10.5)
        assert [state.delay for state in states if state.state == "waiting"] == [1, 2, 4, 4]
        assert len(broker.tried) == 8
        assert broker.tried[1] == first.removeprefix("nats://").removesuffix(":4222")  # the lost one last
        broker.down = {"one"}
        await nats.until_connected()
        assert nats.connected_url == "nats://two:4222"


async def test_waits_have_a_random_share(autojump_clock: MockClock) -> None:
    states: list[NatsState] = []
    async with both(rng=lambda: 0.5, first_delay=1.0, on_state=states.append) as (broker, _):
        broker.down = {"one"}
        await broker.kill()
        await trio.sleep(2)
        assert [state.delay for state in states if state.state == "waiting"] == [1.25, 2.5]


async def test_servers_of_a_cluster_are_learned_and_forgotten_as_it_says(autojump_clock: MockClock) -> None:
    async with a_broker(connect_urls=["two:4222", "10.0.0.3:4222"]) as broker, a_client(broker) as nats:
        assert nats.servers == ["nats://one:4222", "nats://two:4222", "nats://10.0.0.3:4222"]
        broker.down = {"one"}
        await broker.kill()
        await nats.until_connected()
        assert nats.connected_url in ("nats://two:4222", "nats://10.0.0.3:4222")
        await broker.say_all(
            b"INFO " + json.dumps({**broker.info, "connect_urls": ["four:1", "", "a b"]}).encode() + b"\r\n"
        )
        await settle()
        assert set(nats.servers) - {nats.connected_url} == {"nats://one:4222", "nats://four:1"}


async def test_a_server_that_tells_of_too_many_others_is_believed_so_far(autojump_clock: MockClock) -> None:
    urls = [f"10.1.{number // 250}.{number % 250}:4222" for number in range(1000)]
    async with a_broker(connect_urls=urls) as broker, a_client(broker) as nats:
        assert len(nats.servers) == 256


async def test_a_client_gives_up_after_as_many_rounds_as_it_was_told(autojump_clock: MockClock) -> None:
    async with both(max_rounds=3, first_delay=1.0) as (broker, nats), nats.subscribe("a") as subscription:
        broker.down = {"one"}
        await broker.kill()
        with pytest.raises(NatsClosedError, match=r"no server takes this client any more.*Connection refused"):
            await subscription.receive()
        assert trio.current_time() == 3.0
        assert nats.closed
        for call in (nats.publish, nats.request):
            with pytest.raises(NatsClosedError) as caught:
                await call("a")
            assert isinstance(caught.value.__cause__, NatsConnectError)
        with pytest.raises(NatsClosedError):
            await nats.flush()


async def test_a_client_that_is_refused_again_and_again_gives_up(autojump_clock: MockClock) -> None:
    async with both(user="me", password="secret") as (broker, nats), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(NatsClosedError, match="refuses the user 'me'") as caught:
                await nats.request("a", timeout=60)
            assert caught.value.outcome == "not_sent"

        broker.refusal = "Authorization Violation"
        await broker.kill()
        nursery.start_soon(ask)


async def test_a_server_that_says_nothing_any_more_is_left(autojump_clock: MockClock) -> None:
    async with both(ping_interval=5) as (broker, nats):
        broker.clients[0].muted = True
        await trio.sleep(14.9)
        assert nats.statistics().reconnects == 0
        await trio.sleep(0.2)
        assert nats.statistics().reconnects == 1


async def test_a_server_that_asks_is_answered(autojump_clock: MockClock) -> None:
    async with both() as (broker, _):
        await broker.say_all(b"PING\r\n" * 3)
        await settle()
        assert broker.clients[0].heard[-1] == b"PONG"


async def test_flushing_waits_for_the_server_and_for_a_connection(autojump_clock: MockClock) -> None:
    async with both(first_delay=1.0) as (broker, nats):
        await nats.flush()
        broker.clients[0].muted = True
        with pytest.raises(NatsTimeoutError, match="done in 2 s"):
            await nats.flush(timeout=2)
        async with trio.open_nursery() as nursery:

            async def flush() -> None:
                with pytest.raises(NatsDisconnectedError):
                    await nats.flush(timeout=60)

            nursery.start_soon(flush)
            await settle()
            broker.down = {"one"}
            await broker.kill()
        with pytest.raises(NatsTimeoutError):
            await nats.flush(timeout=0.5)
        broker.down.clear()
        await nats.flush()
        assert trio.current_time() == 3.0


async def test_words_that_are_not_the_protocol_cost_the_connection_alone(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), answering(nats, "echo"):
        for said in (
            b"NONSENSE\r\n",
            b"MSG a 1 999999999999\r\n",
            b"-ERR 'Stale Connection'\r\n",
            b"-ERR 'Unknown'\r\n",
        ):
            before = nats.statistics().reconnects
            await broker.say_all(said)
            await settle()
            await nats.until_connected()
            assert nats.statistics().reconnects == before + 1
            assert (await nats.request("echo", b"x")).data == b"x"


async def test_a_message_for_a_subscription_that_is_over_is_counted(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats):
        await broker.say_all(b"MSG a 77 1\r\nx\r\n")
        await settle()
        assert nats.statistics().late == 1


# -- lame ducks --------------------------------------------------------------------------------------------------------


async def test_a_server_that_will_go_is_left_in_good_order(autojump_clock: MockClock) -> None:
    states: list[NatsState] = []
    async with a_broker() as broker, a_client(broker, ["nats://one", "nats://two"], on_state=states.append) as nats:
        old = broker.clients[0].host
        async with nats.subscribe("work", queue="q") as work, trio.open_nursery() as nursery:

            async def ask() -> None:
                assert (await nats.request("work", b"during", timeout=60)).data == b"during"

            nursery.start_soon(ask)
            message = await work.receive()
            await broker.say_all(b"INFO " + json.dumps({**broker.info, "ldm": True}).encode() + b"\r\n")
            await trio.sleep(1)
            assert nats.connected_url == f"nats://{old}:4222"  # a request is on its way there
            async with a_client(broker, "nats://two") as other:
                await other.respond(message, b"during")
                await other.flush()
            await trio.sleep(1)
            assert nats.connected_url != f"nats://{old}:4222"
            await nats.publish("work", b"after")
            assert (await work.receive()).data == b"after"
    assert [state.state for state in states][2:5] == ["lame_duck", "broken", "connecting"]


async def test_a_server_that_will_go_and_is_the_only_one_is_stayed_with(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats):
        await broker.say_all(b"INFO " + json.dumps({**broker.info, "ldm": True}).encode() + b"\r\n")
        await trio.sleep(10)
        assert nats.statistics().reconnects == 0


# -- permissions -------------------------------------------------------------------------------------------------------


async def test_a_subject_that_is_not_allowed_fails_who_asked_it_at_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with both() as (broker, nats), answering(nats, "echo"):
        broker.forbidden = {"secret", "secret.in"}
        with pytest.raises(NatsPermissionError, match="does not allow 'secret'") as caught:
            await nats.request("secret", timeout=60)
        assert (caught.value.outcome, trio.current_time()) == ("not_sent", 0.0)
        async with nats.subscribe("secret.in") as subscription:
            with pytest.raises(NatsPermissionError, match=r"does not allow 'secret\.in'"):
                await subscription.receive()
        for _ in range(3):
            await nats.publish("secret")
        assert (await nats.request("echo", b"alive")).data == b"alive"
        assert nats.statistics().errors == 5
    assert len([record for record in caplog.records if "does not allow" in record.getMessage()]) == 2


async def test_an_inbox_that_is_not_allowed_is_said_to_who_asks(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats), nats.subscribe("deaf"):
        broker.forbidden = {f"{nats._inbox.subject}.*"}
        with pytest.raises(NatsPermissionError, match="inbox_prefix"):
            await nats.request("deaf", timeout=60)
        broker.forbidden = set()
        async with answering(nats, "echo"):
            await nats.request("echo")


# -- subscriptions -----------------------------------------------------------------------------------------------------


async def test_a_reader_that_is_too_slow_fails_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with both() as (_broker, nats), answering(nats, "a") as came:
        async with nats.subscribe("a", max_pending_messages=10) as slow:
            for number in range(30):
                await nats.publish("a", b"%d" % number)
            await nats.flush()
            assert slow.closed
            assert [int((await slow.receive()).data) for _ in range(10)] == list(range(10))
            with pytest.raises(NatsOverrunError, match="10 messages of 10 bytes waited in it"):
                await slow.receive()
        assert len(came) == 30
        assert nats.statistics().overrun == 1
        async with nats.subscribe("a", max_pending_bytes=5) as slow:
            await nats.publish("a", bytes(6))
            await nats.flush()
            with pytest.raises(NatsOverrunError):
                await slow.receive()
        assert nats.statistics().overrun == 2
    assert "too slow" in caplog.text


async def test_a_subscription_ends_after_as_many_messages_as_it_was_made_for(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats):
        async with nats.subscribe("a", limit=3) as subscription:
            await nats.publish("a", b"0")
            await subscription.receive()
            await broker.kill()
            await nats.until_connected()
            for number in range(5):
                await nats.publish("a", b"%d" % number)
            assert [message.data async for message in subscription] == [b"0", b"1"]
            with pytest.raises(trio.EndOfChannel):
                await subscription.receive()
        await nats.flush()
        assert nats.statistics().late == 0
        assert broker.clients[0].subscriptions == {}


async def test_a_subscription_is_over_at_the_server_too_when_its_block_is_left(autojump_clock: MockClock) -> None:
    async with both() as (broker, nats):
        async with nats.subscribe("a") as subscription:
            await nats.flush()
            assert [kept[0] for kept in broker.clients[0].subscriptions.values()] == ["a"]
            await nats.publish("a")
            await nats.flush()
            assert subscription.pending_messages == 1
        assert (subscription.closed, subscription.pending_messages, subscription.pending_bytes) == (True, 0, 0)
        await nats.flush()
        assert broker.clients[0].subscriptions == {}
        assert nats.statistics().subscriptions == 0
        with pytest.raises(trio.EndOfChannel):
            await subscription.receive()


async def test_a_cancelled_receive_loses_nothing_and_tasks_share_the_messages(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("a") as subscription:
        with trio.move_on_after(1):
            await subscription.receive()
        got: list[int] = []

        async def take() -> None:
            async for message in subscription:
                got.append(int(message.data))
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(take)
            await settle()
            for number in range(100):
                await nats.publish("a", b"%d" % number)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert sorted(got) == list(range(100))


async def test_a_drained_subscription_has_all_that_was_on_its_way(autojump_clock: MockClock) -> None:
    async with both() as (_broker, nats), nats.subscribe("a") as subscription:
        for number in range(5):
            await nats.publish("a", b"%d" % number)
        await subscription.drain()
        await nats.publish("a", b"after")
        await nats.flush()
        assert [int(message.data) async for message in subscription] == list(range(5))
        await subscription.drain()


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_drained_client_answers_what_came_and_closes(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, a_client(broker) as asker:
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append((await asker.request("work", b"%d" % number, timeout=60)).data)

        async def work(nats: Nats, subscription: Subscription) -> None:
            async for message in subscription:
                await trio.sleep(0.1)
                await nats.respond(message, message.data)

        async with a_client(broker) as nats, nats.subscribe("work") as subscription, trio.open_nursery() as nursery:
            nursery.start_soon(work, nats, subscription)
            for number in range(5):
                nursery.start_soon(ask, number)
            await trio.sleep(0.15)
            await nats.drain()
            assert nats.closed
            with pytest.raises(NatsClosedError, match="this client is closed"):
                async with nats.subscribe("more"):
                    raise AssertionError
            await settle()
        assert sorted(answers) == [b"0", b"1", b"2", b"3", b"4"]
        await nats.drain()


async def test_a_drain_that_takes_too_long_closes_all_the_same(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("a") as subscription:
        await nats.publish("a")
        with pytest.raises(NatsTimeoutError, match="not drained in 7 s"):
            await nats.drain(timeout=7)
        assert trio.current_time() == 7.0
        assert nats.closed
        assert subscription.closed


async def test_new_subscriptions_are_refused_while_a_client_is_drained(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("a") as subscription, trio.open_nursery() as nursery:
        await nats.publish("a")
        nursery.start_soon(nats.drain)
        await settle()
        with pytest.raises(NatsClosedError, match="being drained"):
            async with nats.subscribe("b"):
                raise AssertionError
        await subscription.receive()


async def test_leaving_writes_what_was_accepted(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        async with a_client(broker) as nats:
            for number in range(50):
                await nats.publish("a", b"%d" % number)
        await settle()
        assert len(broker.published) == 50
        assert nats.statistics().unsent == 0


async def test_leaving_without_a_connection_counts_what_was_never_written(autojump_clock: MockClock) -> None:
    async with a_broker() as broker:
        async with a_client(broker) as nats:
            broker.down = {"one"}
            await broker.kill()
            for _ in range(3):
                await nats.publish("a")
        assert nats.statistics().unsent == 3
        assert trio.current_time() == 0.0


async def test_leaving_gives_who_waits_elsewhere_an_error(autojump_clock: MockClock) -> None:
    async with a_broker() as broker, trio.open_nursery() as nursery:

        async def ask(nats: Nats) -> None:
            with pytest.raises(NatsClosedError) as caught:
                await nats.request("deaf", timeout=60)
            assert caught.value.outcome == "sent"

        async def read(subscription: Subscription) -> None:
            assert [message async for message in subscription] == []

        async def flush(nats: Nats) -> None:
            broker.clients[0].muted = True
            with pytest.raises(NatsClosedError):
                await nats.flush()

        async with a_client(broker) as nats, nats.subscribe("deaf"):
            subscription = nats._table.subscribe("b", "", 0, 9, 9)
            nursery.start_soon(ask, nats)
            nursery.start_soon(read, subscription)
            await settle()
            nursery.start_soon(flush, nats)
            await settle()
        assert trio.current_time() <= 2.0


async def test_a_client_can_be_looked_at(autojump_clock: MockClock) -> None:
    async with both() as (_, nats), nats.subscribe("a", queue="q") as subscription:
        assert repr(nats) == "<psession.brokers.nats.Nats, nats://one:4222>"
        assert repr(subscription) == "<psession.brokers.nats.Subscription to 'a', queue 'q', 0 messages wait>"
        assert nats.info.version == "2.10.0"
        assert nats.new_inbox() != nats.new_inbox()
    assert repr(nats) == "<psession.brokers.nats.Nats, closed>"


async def test_what_on_state_raises_is_logged_and_breaks_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: NatsState) -> None:
        raise KeyError(state)

    async with both(on_state=fail) as (_, nats):
        await nats.flush()
    assert "on_state raised" in caplog.text


async def test_a_tap_gives_each_message_to_a_function_also_after_a_reconnect(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with both() as (broker, nats):
        came: list[bytes] = []

        def take(message: NatsMessage) -> None:
            if message.data == b"bad":
                raise RuntimeError("no")
            came.append(message.data)

        tap = nats.tap("news.*", take)
        for data in (b"1", b"bad", b"2"):
            await nats.publish("news.x", data)
        await nats.flush()
        assert came == [b"1", b"2"]
        assert [record.event_name for record in caplog.records] == ["tap_raised"]  # type: ignore[attr-defined]
        await broker.kill()
        await nats.until_connected()
        await nats.publish("news.y", b"3")
        await nats.flush()
        assert came == [b"1", b"2", b"3"]
        assert repr(tap) == "<psession.brokers.nats.Tap of 'news.*', open>"
        tap.close()
        tap.close()
        await nats.publish("news.y", b"4")
        await nats.flush()
        assert (came, nats.statistics().subscriptions) == ([b"1", b"2", b"3"], 0)
        with pytest.raises(TypeError, match="take must be a function"):
            nats.tap("news", None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="empty token"):
            nats.tap("news..x", take)
        broker.forbidden.add("secret")
        refused = nats.tap("secret", take)
        await nats.flush()
        assert refused.closed
        last = nats.tap("news.z", take)
        await nats.drain()
        assert last.closed
    with pytest.raises(NatsClosedError):
        nats.tap("news", take)


async def test_publish_nowait_sends_now_or_never(autojump_clock: MockClock) -> None:
    async with both(max_queued_bytes=1000) as (broker, nats), nats.subscribe("a") as subscription:
        assert nats.publish_nowait("a", b"1", headers={"X": "y"})
        message = await subscription.receive()
        assert (message.data, message.header("X")) == (b"1", "y")
        assert nats.publish_nowait("a", b"x" * 2000, reply="b")
        assert not nats.publish_nowait("a", b"2")  # it would have to wait
        await subscription.receive()
        with pytest.raises(ValueError, match="wildcard"):
            nats.publish_nowait("*", b"")
        broker.down.add("one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.kill)
            await nats.until_disconnected()
        await nats.until_disconnected()
        assert not nats.publish_nowait("a", b"3")
        broker.down.clear()
        await nats.until_connected()
        assert nats.publish_nowait("a", b"4")
        await settle()
        assert [one[2] for one in broker.published][-1] == b"4"
    with pytest.raises(NatsClosedError):
        nats.publish_nowait("a", b"5")
    await nats.until_disconnected()
