"""The client of MQTT 5 against mosquitto, alone and with paho-mqtt at the other end."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
import trustme

from psession import Exact, Service, Session, SessionManager, SessionRemoteError
from psession.brokers.mqtt import (
    Mqtt,
    MqttAuthError,
    MqttChannel,
    MqttConnectError,
    MqttDisconnectedError,
    MqttError,
    MqttMessage,
    MqttNoSubscribersError,
    MqttState,
    MqttSubscription,
    Will,
    open_mqtt,
)
from psession.channels import reconnecting
from psession.dialects import MqttRequests
from psession.errors import MessageTooLargeError

from .mqtt_servers import HOST, mosquitto, write_passwords

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.foreign

LONGEST = 60.0
PEER = Path(__file__).with_name("mqtt_peer.py")


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    while not true():  # noqa: ASYNC110 - of another process
        await trio.sleep(0.005)


@asynccontextmanager
async def echoing(
    mqtt: Mqtt, topic: str = "echo", received: list[bytes] | None = None, **options: Any
) -> AsyncIterator[MqttSubscription]:
    """Answer each message on a topic with itself, and note it down in `received`."""

    async def answer(subscription: MqttSubscription) -> None:
        async for message in subscription:
            if received is not None:
                received.append(message.payload)
            await mqtt.respond(message, message.payload)

    async with mqtt.subscribe(topic, **options) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(answer, subscription)
        yield subscription
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def paho(port: int) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A program on paho-mqtt; what is yielded has it do something, and returns what it prints."""
    command = [sys.executable, str(PEER), str(port)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said = b""

    async def line() -> str:
        nonlocal said
        assert process.stdout is not None
        while b"\n" not in said:
            data = await process.stdout.receive_some()
            if not data:
                return ""
            said += data
        first, _, said = said.partition(b"\n")
        return first.decode()

    async def do(what: str) -> str:
        assert process.stdin is not None
        await process.stdin.send_all(what.encode() + b"\n")
        return await line()

    try:
        assert await line() == "ready"
        yield do
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class Streams:
    """Opens connections that a test may break."""

    def __init__(self) -> None:
        self.opened: list[trio.SocketStream] = []

    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        """Connect."""
        stream = await trio.open_tcp_stream(host, port)
        self.opened.append(stream)
        return stream

    def cut(self) -> None:
        """Break the last connection, without a goodbye."""
        self.opened[-1].socket.shutdown(trio.socket.SHUT_RDWR)


async def test_messages_requests_properties_and_limits(socket_folder: Path) -> None:
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder, "max_packet_size 100000") as broker,
            open_mqtt(broker.url, client_id="one") as one,
            open_mqtt(broker.url, client_id="two") as two,
            one.subscribe("news/+") as news,
        ):
            assert await two.publish("news/a", b"hello", qos=1, user_properties=[("Room", "hall"), ("Room", "Küche")])
            assert not await two.publish("nobody", qos=1)
            message = await news.receive()
            assert message.user_properties == [("Room", "hall"), ("Room", "Küche")]
            async with echoing(one):
                for qos in (0, 1):
                    assert (await two.request("echo", b"x" * 5000, qos=qos)).payload == b"x" * 5000  # type: ignore[arg-type]
            while await two.publish("echo", qos=1):  # noqa: ASYNC110 - until the broker has heard of it
                await trio.sleep(0.01)
            began = trio.current_time()
            with pytest.raises(MqttNoSubscribersError):
                await two.request("echo")
            assert trio.current_time() - began < 1
            assert two.max_payload == 100000
            with pytest.raises(MessageTooLargeError, match="100000 at most"):
                await two.publish("news/a", bytes(100000))
            await two.publish("kept", b"state", retain=True, qos=1)
            async with one.subscribe("kept") as kept:
                message = await kept.receive()
                assert (message.payload, message.retain) == (b"state", True)
            async with one.subscribe("news/a", limit=2) as limited, one.subscribe("#") as everything:
                for number in range(3):
                    await two.publish("news/a", b"%d" % number, qos=1)
                assert [one.payload async for one in limited] == [b"0", b"1"]
                await until(lambda: everything.pending_messages >= 4)
                assert [one.payload for one in await everything.receive_batch()] == [b"state", b"0", b"1", b"2"]


@pytest.mark.parametrize("qos", [0, 1])
async def test_each_of_some_filters_that_overlap_gets_a_message_once(socket_folder: Path, qos: Literal[0, 1]) -> None:
    """As docs/mqtt.md says of brokers that have subscription identifiers."""
    filters = ["lamps/+", "lamps/#", "lamps/hall", "+/hall", "#"]
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url) as one,
            open_mqtt(broker.url) as two,
            AsyncExitStack() as stack,
        ):
            subscriptions = [await stack.enter_async_context(one.subscribe(filter, qos=qos)) for filter in filters]
            for number in range(50):
                await two.publish("lamps/hall", b"%d" % number, qos=qos)
            await two.publish("lamps/hall", b"last", qos=1)
            for subscription in subscriptions:
                got = []
                while b"last" not in got:
                    got.append((await subscription.receive()).payload)
                assert got == [*(b"%d" % number for number in range(50)), b"last"]
            assert [subscription.pending_messages for subscription in subscriptions] == [0] * 5
            assert one.statistics().late == 0


async def test_many_requests_at_once_with_the_brokers_own_limits(socket_folder: Path) -> None:
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url) as one,
            open_mqtt(broker.url, receive_maximum=5) as two,
            echoing(one, qos=1),
        ):
            got: set[bytes] = set()

            async def ask(number: int) -> None:
                got.add((await two.request("echo", b"%d" % number, timeout=30)).payload)

            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(ask, number)
            assert got == {b"%d" % number for number in range(1000)}
            counted = two.statistics()
            assert (counted.in_flight, counted.reconnects, one.statistics().reconnects) == (0, 0, 0)


async def test_who_a_client_is(socket_folder: Path) -> None:
    write_passwords(socket_folder / "passwords", me="secret")
    (socket_folder / "acl").write_text("user me\ntopic readwrite open/#\ntopic readwrite psession/#\n")
    lines = (f"password_file {socket_folder / 'passwords'}", f"acl_file {socket_folder / 'acl'}")
    with trio.fail_after(LONGEST):
        async with mosquitto(socket_folder, *lines) as broker:
            for options in ({}, {"user": "me", "password": "wrong"}):
                with pytest.raises(MqttAuthError, match=r"not authorized|bad user name") as caught:
                    async with open_mqtt(broker.url, **options):  # type: ignore[arg-type]
                        raise AssertionError
                assert "wrong" not in str(caught.value)
            url = broker.url.replace("://", "://me:secret@")
            async with open_mqtt(url) as mqtt, mqtt.subscribe("open/a") as subscription:
                await mqtt.publish("open/a", b"x", qos=1)
                assert (await subscription.receive()).payload == b"x"
                with pytest.raises(MqttError, match=r"not authorized \(0x87\)") as refused:
                    await mqtt.publish("secret/a", qos=1)
                assert (refused.value.outcome, refused.value.code) == ("not_sent", 0x87)


@pytest.mark.parametrize("wants_certificate", [False, True])
async def test_tls(socket_folder: Path, wants_certificate: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(socket_folder / "ca.pem"))
    certificate = authority.issue_cert(HOST)
    certificate.private_key_pem.write_to_path(str(socket_folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(socket_folder / "cert.pem"))
    lines = [f"{name} {socket_folder / file}" for name, file in (("cafile", "ca.pem"), ("keyfile", "key.pem"))]
    lines += [f"certfile {socket_folder / 'cert.pem'}", f"require_certificate {str(wants_certificate).lower()}"]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with trio.fail_after(LONGEST):
        async with mosquitto(socket_folder, *lines) as broker:
            url = broker.url.replace("mqtt://", "mqtts://")
            with pytest.raises(MqttConnectError, match="no TLS with"):
                async with open_mqtt(url):
                    raise AssertionError
            with pytest.raises(MqttConnectError):
                async with open_mqtt(broker.url, connect_timeout=2):
                    raise AssertionError
            if wants_certificate:
                with pytest.raises(MqttConnectError):
                    async with open_mqtt(url, ssl_context=context, connect_timeout=5):
                        raise AssertionError
                authority.issue_cert("me@example.org").configure_cert(context)
            async with open_mqtt(url, ssl_context=context) as mqtt, echoing(mqtt):
                for size in (1, 50_000):
                    assert (await mqtt.request("echo", bytes(size))).payload == bytes(size)


async def test_the_broker_is_killed_and_started_again_and_nothing_stays_deaf(socket_folder: Path) -> None:
    """Each of ten askers is interrupted, or had not written its question yet: that one waits, and is answered."""
    received: list[bytes] = []
    outcomes: dict[bytes, str] = {}
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url, max_delay=0.2) as one,
            open_mqtt(broker.url, max_delay=0.2) as two,
            echoing(one, received=received),
            echoing(one, "shared", shared="g"),
        ):
            for round in range(3):
                await two.request("echo", b"%d" % round)
                ended: list[str] = []
                is_back = trio.Event()

                async def ask(
                    who: int, round: int = round, ended: list[str] = ended, is_back: trio.Event = is_back
                ) -> None:
                    number, outcome = 0, "answered"
                    while outcome == "answered":
                        id = b"%d %d %d" % (round, who, number)
                        asked_after = is_back.is_set()
                        try:
                            assert (await two.request("echo", id, timeout=20)).payload == id
                        except (MqttDisconnectedError, MqttNoSubscribersError) as error:
                            outcome = str(error.outcome)
                        outcomes[id] = outcome
                        number += 1
                        if asked_after:
                            break
                    ended.append(outcome)

                async with trio.open_nursery() as nursery:
                    for who in range(10):
                        nursery.start_soon(ask, who)
                    await trio.sleep(0.1)
                    await broker.kill()
                    await broker.start()
                    await two.until_connected()
                    is_back.set()
                assert len(ended) == 10
                await one.until_connected()
                await two.until_connected()
                for topic in ("echo", "shared"):
                    while True:
                        try:
                            assert (await two.request(topic, b"again")).payload == b"again"
                            break
                        except MqttNoSubscribersError:
                            await trio.sleep(0.01)
            assert one.statistics().reconnects == 3
    came = Counter(received)
    untrue = {
        id: (outcome, came[id])
        for id, outcome in outcomes.items()
        if not {"answered": came[id] == 1, "not_sent": not came[id], "sent": came[id] <= 1}[outcome]
    }
    assert untrue == {}


async def test_what_was_written_when_the_broker_was_killed_fails_and_what_was_not_waits(socket_folder: Path) -> None:
    outcomes: list[str] = []
    answers: list[bytes] = []
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url, max_delay=0.2) as one,
            open_mqtt(broker.url, max_delay=0.2) as two,
            echoing(one),
        ):
            await two.request("echo")

            async def interrupted(number: int) -> None:
                with pytest.raises(MqttDisconnectedError) as caught:
                    await two.request("echo", b"%d" % number, timeout=20)
                outcomes.append(str(caught.value.outcome))

            async def waits(number: int) -> None:
                while True:
                    try:
                        answers.append((await two.request("echo", b"%d" % number, timeout=20)).payload)
                        break
                    except MqttNoSubscribersError:  # it was written before `one` had subscribed again
                        await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                broker.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
                for number in range(10):
                    nursery.start_soon(interrupted, number)
                await until(lambda: two.statistics().waiting_requests == 10 and not two.statistics().queued_bytes)
                await broker.kill()
                await until(lambda: len(outcomes) == 10 and not two.connected_url)
                for number in range(10):
                    nursery.start_soon(waits, number)
                await until(lambda: two.statistics().requests == 1 + 10 + 10)
                await broker.start()
            assert outcomes == ["sent"] * 10
            assert sorted(answers) == [b"%d" % number for number in range(10)]


async def test_a_session_is_resumed_after_the_connection_was_cut(socket_folder: Path) -> None:
    streams = Streams()
    states: list[MqttState] = []
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url) as other,
            open_mqtt(
                broker.url,
                client_id="me",
                session_expiry=300,
                max_delay=0.1,
                open_stream=streams,
                on_state=states.append,
            ) as mqtt,
            mqtt.subscribe("in") as subscription,
            other.subscribe("out") as out,
        ):
            sent = 0
            for round in range(10):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(lambda number: mqtt.publish("out", b"%d" % number, qos=1), sent)
                        sent += 1
                    if round % 2:
                        await trio.sleep(0.002)
                    streams.cut()
                    for number in range(5):
                        await other.publish("in", b"%d %d" % (round, number), qos=1)
                await mqtt.until_connected()
                assert mqtt.session_present
            came: set[bytes] = set()
            while len(came) < sent:
                came.add((await out.receive()).payload)
            assert came == {b"%d" % number for number in range(sent)}
            got: list[bytes] = []
            while len(set(got)) < 50:
                got.append((await subscription.receive()).payload)
            assert set(got) == {b"%d %d" % (round, number) for round in range(10) for number in range(5)}
            assert mqtt.statistics().reconnects == 10
            assert [state.session_present for state in states if state.state == "open"] == [False, *[True] * 10]


async def test_what_came_while_the_client_was_away_is_kept(socket_folder: Path) -> None:
    options: dict[str, Any] = {"client_id": "me", "session_expiry": 300, "clean_start": False}
    with trio.fail_after(LONGEST):
        async with mosquitto(socket_folder) as broker, open_mqtt(broker.url) as other:
            async with open_mqtt(broker.url, **options) as mqtt, mqtt.subscribe("jobs/#", durable=True):
                pass
            for number in range(50):
                assert await other.publish(f"jobs/{number}", qos=1)
            async with open_mqtt(broker.url, **options) as mqtt:
                await until(lambda: mqtt.statistics().held > 0)
                async with mqtt.subscribe("jobs/#") as subscription:
                    topics = [(await subscription.receive()).topic for _ in range(50)]
                assert topics == [f"jobs/{number}" for number in range(50)]


async def test_two_clients_with_one_id_are_told_apart_by_the_log(
    socket_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mosquitto 2.0 hangs up without a word, so that neither can know; then they do not meet often."""
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url, client_id="me") as first,
            open_mqtt(broker.url, client_id="me") as second,
        ):
            await until(lambda: first.closed or "does another client have the client id 'me'?" in caplog.text)
            assert first.statistics().reconnects + second.statistics().reconnects < 20


async def test_wills(socket_folder: Path) -> None:
    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url) as other,
            other.subscribe("gone") as gone,
        ):
            async with open_mqtt(broker.url, will=Will("gone", b"clean")):
                pass
            with trio.move_on_after(0.05):
                async with open_mqtt(broker.url, will=Will("gone", b"cancelled", qos=1)):
                    await trio.sleep_forever()
            assert (await gone.receive()).payload == b"cancelled"
            async with (
                paho(broker.port) as do,
                other.subscribe("py/gone") as paho_gone,
            ):
                assert await do("die - -") == ""
                assert (await paho_gone.receive()).payload == b"paho is gone"


async def test_paho_at_the_other_end(socket_folder: Path) -> None:
    lamp = Service("command")

    @lamp.method
    def dim(level: int) -> dict[str, int]:
        return {"level": level}

    manager = SessionManager(dialect=MqttRequests(), session_timeout=10)
    with trio.fail_after(LONGEST):
        async with mosquitto(socket_folder) as broker, open_mqtt(broker.url) as mqtt, paho(broker.port) as do:
            reply: MqttMessage = await mqtt.request("py/echo", b"hello", user_properties={"Room": "Küche"})
            assert (reply.payload, reply.user_property("Room")) == (b"py hello", "Küche")
            assert (await mqtt.request("py/shared", b"1")).payload == b"py 1"
            async with echoing(mqtt):
                assert await do("ask echo question") == "question"
            async with mqtt.subscribe("news") as news:
                assert await do("retain news for later") == "done"
                assert (await news.receive()).payload == b"for later"
            async with mqtt.subscribe("news") as news:
                assert (await news.receive()).retain
            async with mqtt.requests("lamp", serves=True) as askers, manager.port("askers", askers, on_request=lamp):
                assert await do('ask lamp {"command": "dim", "level": 4}') == '{"level":4}'
                said = await do('ask lamp {"command": "sing"}')
                assert "Psession-Code=refused.unknown_method" in said
                assert "Psession-Code=refused.malformed" in await do("ask lamp {")
            async with mqtt.requests("py/shared") as channel, manager.port("py", channel) as port:
                with pytest.raises(SessionRemoteError, match=r"malformed|expected|invalid|JSON"):
                    await port.request({})


async def test_sessions_over_two_workers_of_a_shared_subscription(socket_folder: Path) -> None:
    manager = SessionManager(dialect=Exact(), session_timeout=10, resume_within=30)
    streams = Streams()

    def serve(name: str) -> Callable[[MqttChannel], Awaitable[object]]:
        serving = SessionManager(dialect=Exact(), resume_within=30)

        async def handler(channel: MqttChannel) -> None:
            async with serving.accept(channel, on_session=lambda session: named(session, name)) as port:
                await port.wait_closed()

        return handler

    async def named(session: Session, name: str) -> None:
        turn = 0
        async for message in session:
            await session.post({"turn": turn, "worker": name, "echo": message.get("text")})
            turn += 1

    with trio.fail_after(LONGEST):
        async with (
            mosquitto(socket_folder) as broker,
            open_mqtt(broker.url) as one,
            open_mqtt(broker.url) as two,
            open_mqtt(broker.url, open_stream=streams, max_delay=0.2) as mqtt,
            trio.open_nursery() as nursery,
        ):
            for client, name in ((one, "a"), (two, "b")):
                await nursery.start(
                    lambda client, name, task_status: client.serve(
                        "lamp", serve(name), shared="g", task_status=task_status
                    ),
                    client,
                    name,
                )
            seen: list[str] = []

            async def talk(number: int) -> None:
                async with mqtt.connect("lamp") as channel, manager.port(f"lamp {number}", channel) as port:
                    async with port.session() as session:
                        answers = [await session.send({"text": "x"}) for _ in range(20)]
                    assert [answer["turn"] for answer in answers] == list(range(20))
                    assert len({answer["worker"] for answer in answers}) == 1
                    seen.append(answers[0]["worker"])

            async with trio.open_nursery() as talking:
                for number in range(20):
                    talking.start_soon(talk, number)
            assert set(seen) == {"a", "b"}
            async with (
                reconnecting(mqtt.returning("lamp")) as channel,
                manager.port("lamp", channel) as port,
                port.session() as session,
            ):
                first = await session.send({})
                for turn in range(1, 6):
                    streams.cut()
                    answer = await session.send({}, timeout=20)
                    assert (answer["turn"], answer["worker"]) == (turn, first["worker"])
            nursery.cancel_scope.cancel()
