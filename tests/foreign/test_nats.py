"""The client of NATS against real servers, the newest and the oldest, alone and in a cluster; nats-py at the end."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from psession import Exact, Service, Session, SessionManager, SessionRemoteError
from psession.brokers.nats import (
    Nats,
    NatsAuthError,
    NatsChannel,
    NatsClosedError,
    NatsConnectError,
    NatsDisconnectedError,
    NatsError,
    NatsNoRespondersError,
    NatsPermissionError,
    NatsState,
    Subscription,
    open_nats,
)
from psession.channels import reconnecting
from psession.dialects import NatsRequests
from psession.errors import MessageTooLargeError

from .nats_servers import HOST, Keys, servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.foreign


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    while not true():  # noqa: ASYNC110 - of another process
        await trio.sleep(0.005)


async def until_answered(nats: Nats, subject: str) -> None:
    """Wait until a cluster knows that somebody serves a subject."""
    while True:
        try:
            await nats.request(subject, b"x", timeout=5)
        except NatsNoRespondersError:
            await trio.sleep(0.01)
        else:
            return


LONGEST = 60.0
PEER = Path(__file__).with_name("nats_peer.py")
SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(params=["newest", "oldest"])
def which(request: pytest.FixtureRequest) -> str:
    """Each server in turn."""
    return str(request.param)


@asynccontextmanager
async def echoing(nats: Nats, subject: str = "echo", queue: str | None = None) -> AsyncIterator[Subscription]:
    """Answer each message on a subject with itself."""

    async def answer(subscription: Subscription) -> None:
        async for message in subscription:
            await nats.respond(message, message.data)

    async with nats.subscribe(subject, queue=queue) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(answer, subscription)
        await nats.flush()
        yield subscription
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def nats_py(url: str) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A program on nats-py; what is yielded has it ask something, and returns the answer as it prints it."""
    command = [sys.executable, str(PEER), url]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said = b""

    async def line() -> str:
        nonlocal said
        assert process.stdout is not None
        while b"\n" not in said:
            data = await process.stdout.receive_some()
            assert data, "the program on nats-py has ended"
            said += data
        first, _, said = said.partition(b"\n")
        return first.decode()

    async def ask(what: str) -> str:
        assert process.stdin is not None
        await process.stdin.send_all(what.encode() + b"\n")
        return await line()

    try:
        assert await line() == "ready"
        yield ask
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_messages_requests_headers_queues_and_limits(socket_folder: Path, which: str) -> None:
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url, name="one") as one,
            open_nats(server.url, name="two") as two,
        ):
            with pytest.raises(NatsNoRespondersError) as nobody:
                await one.request("echo")
            assert nobody.value.outcome == "not_sent"
            async with echoing(one, queue="q"), echoing(two, queue="q"):
                got = [(await one.request("echo", b"%d" % n)).data for n in range(200)]
                assert got == [b"%d" % n for n in range(200)]
                with pytest.raises(MessageTooLargeError, match="max_payload is 1048576"):
                    await one.request("echo", bytes(1048577))
                assert len((await one.request("echo", bytes(1048576))).data) == 1048576
            async with two.subscribe("a.*", limit=2) as subscription:
                await two.flush()
                for number in range(3):
                    await one.publish("a.b", b"%d" % number, headers={"N": ["1", "2"]})
                messages = [message async for message in subscription]
                assert [(message.data, message.headers) for message in messages] == [
                    (b"0", {"N": ["1", "2"]}),
                    (b"1", {"N": ["1", "2"]}),
                ]
            assert one.info.max_payload == 1048576


async def test_nats_py_at_the_far_end_asks_and_answers(socket_folder: Path, which: str) -> None:
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url) as nats,
            echoing(nats, "trio.echo"),
            nats_py(server.url) as ask,
        ):
            reply = await nats.request("py.echo", b"hello", headers={"Room": "hall"})
            assert (reply.data, reply.headers) == (b"py hello", {"Room": ["hall"]})
            assert await ask("trio.echo abc") == "abc "
            assert await ask("nobody x") == "NoRespondersError"


async def test_a_million_bytes_each_way_through_restarts_leave_no_subscription_deaf(
    socket_folder: Path, which: str
) -> None:
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url, first_delay=0.02, max_delay=0.1) as one,
            open_nats(server.url, first_delay=0.02, max_delay=0.1) as two,
            echoing(two),
        ):
            done = {"answered": 0, "failed": 0}
            stop = False

            async def ask() -> None:
                while not stop:
                    try:
                        assert (await one.request("echo", b"x" * 1000, timeout=5)).data == b"x" * 1000
                        done["answered"] += 1
                    except (NatsDisconnectedError, NatsNoRespondersError):
                        done["failed"] += 1
                        await trio.sleep(0.01)

            async def more() -> None:
                least = done["answered"] + 300
                await until(lambda: done["answered"] >= least)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
                for _ in range(3):
                    await more()
                    await server.kill()
                    await server.start()
                await more()
                stop = True
            assert one.statistics().reconnects == 3
            assert two.statistics().reconnects == 3
            assert done["failed"] >= 3


# -- who a client is ---------------------------------------------------------------------------------------------------


async def refused(url: str, kind: type[NatsConnectError] = NatsAuthError, **options: Any) -> str:
    """What a client that is not taken is told."""
    with pytest.raises(kind) as caught:
        async with open_nats(url, **options):
            raise AssertionError("taken")
    return str(caught.value)


async def test_users_passwords_and_tokens(socket_folder: Path, which: str) -> None:
    users = 'authorization { users = [ { user: "me", password: "se cret" } ] }'
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, config=users) as (server,):
            async with open_nats(server.url, user="me", password="se cret") as nats:
                await nats.flush()
            async with open_nats(f"nats://me:se%20cret@{HOST}:{server.port}") as nats:
                await nats.flush()
            assert "refuses the user 'me' and its password" in await refused(server.url, user="me", password="no")
            assert "refuses no user, token or key" in await refused(server.url)
        async with servers(socket_folder, which, config='authorization { token: "tok" }') as (server,):
            async with open_nats(server.url, token="tok") as nats:
                await nats.flush()
            assert "refuses the token" in await refused(server.url, token="no")


async def test_keys_from_a_seed(socket_folder: Path, which: str) -> None:
    keys, other = Keys("U"), Keys("U")
    seed, wrong = socket_folder / "seed", socket_folder / "wrong"
    seed.write_text(f"# mine\n{keys.seed}\n")
    wrong.write_text(other.seed)
    config = f"authorization {{ users = [ {{ nkey: {keys.public} }} ] }}"
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, config=config) as (server,):
            async with open_nats(server.url, nkey_seed=seed) as nats:
                await nats.flush()
            assert f"refuses the key {other.public}" in await refused(server.url, nkey_seed=wrong)


async def test_a_jwt_and_a_seed_from_a_file_of_credentials(socket_folder: Path, which: str) -> None:
    operator, account, user, other = Keys("O"), Keys("A"), Keys("U"), Keys("U")
    limits = {"subs": -1, "data": -1, "payload": -1}
    everything = {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    whole = operator.jwt("op", operator.public, {"type": "operator", "version": 2})
    claims = {"limits": {**limits, **everything}, "default_permissions": {"pub": {}, "sub": {}}}
    part = operator.jwt("acc", account.public, {**claims, "type": "account", "version": 2})
    allowed = {**limits, "pub": {}, "sub": {}, "type": "user", "version": 2}
    jwt = account.jwt("me", user.public, allowed)

    def write(name: str, seed: str) -> Path:
        path = socket_folder / name
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** keep it ***\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        return path

    config = f"operator: {whole}\nresolver: MEMORY\nresolver_preload: {{ {account.public}: {part} }}\n"
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, config=config) as (server,):
            async with open_nats(server.url, credentials=write("good", user.seed)) as nats, echoing(nats):
                assert (await nats.request("echo", b"x")).data == b"x"
            assert "the JWT and seed" in await refused(server.url, credentials=write("bad", other.seed))


async def test_what_a_user_may_not_do_fails_who_wanted_it(socket_folder: Path, which: str) -> None:
    config = (
        'authorization { users = [ { user: "me", password: "x", permissions: '
        '{ publish: ["echo", "_MINE.>"], subscribe: ["echo", "_MINE.>"] } } ] }'
    )
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, config=config) as (server,):
            async with open_nats(server.url, user="me", password="x", inbox_prefix="_MINE") as nats, echoing(nats):
                assert (await nats.request("echo", b"x")).data == b"x"
                with pytest.raises(NatsPermissionError, match="'other'"):
                    await nats.request("other")
                async with nats.subscribe("other.>") as subscription:
                    with pytest.raises(NatsPermissionError, match=r"'other\.>'"):
                        await subscription.receive()
            async with open_nats(server.url, user="me", password="x") as nats, echoing(nats):
                with pytest.raises(NatsPermissionError):
                    await nats.request("echo", b"x")


# -- TLS ---------------------------------------------------------------------------------------------------------------


def tls(folder: Path, *, more: str = "", verify: bool = False) -> tuple[str, ssl.SSLContext, trustme.CA]:
    """The configuration of a server, and a context that trusts it."""
    ca = trustme.CA()
    certificate = ca.issue_cert(HOST, "localhost")
    key, chain, root = folder / "key.pem", folder / "chain.pem", folder / "root.pem"
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(chain)
    ca.cert_pem.write_to_path(root)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    check = f'ca_file: "{root}", verify: true' if verify else ""
    return f'tls {{ cert_file: "{chain}", key_file: "{key}", {check} {more} }}', context, ca


async def test_tls_after_the_info_and_who_is_not_trusted(socket_folder: Path, which: str) -> None:
    config, context, _ = tls(socket_folder)
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, config=config) as (server,):
            async with open_nats(server.url, ssl_context=context) as nats, echoing(nats):
                got = [(await nats.request("echo", bytes(n * 999))).data for n in range(100)]
                assert [len(data) for data in got] == [n * 999 for n in range(100)]
            async with open_nats(f"tls://{HOST}:{server.port}", ssl_context=context) as nats:
                await nats.flush()
            assert "certificate verify failed" in await refused(server.url, NatsConnectError)
        async with servers(socket_folder, which) as (server,):
            assert "it has no TLS" in await refused(server.url, NatsConnectError, ssl_context=context)


async def test_certificates_of_clients(socket_folder: Path, which: str) -> None:
    config, context, ca = tls(socket_folder, verify=True)
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, config=config) as (server,):
            await refused(server.url, NatsConnectError, ssl_context=context)
            ca.issue_cert("me@example.org").configure_cert(context)
            async with open_nats(server.url, ssl_context=context) as nats:
                await nats.flush()


async def test_tls_before_all_else(socket_folder: Path) -> None:
    config, context, _ = tls(socket_folder, more="handshake_first: true")
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, "newest", config=config) as (server,):
            async with open_nats(server.url, ssl_context=context, tls_first=True) as nats, echoing(nats):
                assert (await nats.request("echo", b"x")).data == b"x"
            why = await refused(server.url, NatsConnectError, ssl_context=context, connect_timeout=1)
            assert "no answer in 1 s" in why


# -- clusters ----------------------------------------------------------------------------------------------------------


async def test_a_cluster_is_learned_and_outlives_its_nodes(socket_folder: Path, which: str) -> None:
    with trio.fail_after(LONGEST):
        async with servers(socket_folder, which, 3) as nodes:
            urls = {node.url for node in nodes}
            async with (
                open_nats(nodes[0].url, first_delay=0.02) as one,
                open_nats(nodes[1].url, first_delay=0.02) as two,
                echoing(two),
            ):
                await until(lambda: set(one.servers) == urls == set(two.servers))
                failed = answered = 0

                async def ask(least: int) -> None:
                    nonlocal failed, answered
                    until = answered + least
                    while answered < until:
                        try:
                            await one.request("echo", b"x", timeout=2)
                            answered += 1
                        except NatsError:
                            failed += 1
                            await trio.sleep(0.01)

                await ask(100)
                await nodes[0].kill()
                await ask(100)
                assert one.connected_url != nodes[0].url
                await nodes[0].start()
                for node in nodes[1:]:
                    if node.url in (one.connected_url, two.connected_url):
                        await node.kill()
                        break
                await ask(100)
                assert one.statistics().reconnects + two.statistics().reconnects >= 2


async def test_what_waits_and_is_too_large_for_the_server_that_comes_back_fails_alone(
    socket_folder: Path, which: str
) -> None:
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which, config="max_payload: 10000") as (server,),
            open_nats(server.url) as nats,
            echoing(nats),
            nats.subscribe("news") as news,
        ):
            await server.kill()
            await nats.until_disconnected()
            answers: list[str] = []

            async def ask(size: int) -> None:
                try:
                    answers.append(str(len((await nats.request("echo", bytes(size), timeout=30)).data)))
                except MessageTooLargeError as error:
                    answers.append(error.outcome or "")

            async with trio.open_nursery() as nursery:
                for size in (1, 1000, 1001, 9000):
                    nursery.start_soon(ask, size)
                for size in (2000, 3):
                    await nats.publish("news", bytes(size))
                server.configure("max_payload: 1000")
                await server.start()
            assert sorted(answers) == ["1", "1000", "not_sent", "not_sent"]
            assert len((await news.receive()).data) == 3
            said = nats.statistics()
            assert (said.too_large, said.reconnects, said.errors, said.queued_bytes) == (3, 1, 0, 0)


async def test_a_server_in_lame_duck_mode_is_left_without_a_request_lost(socket_folder: Path, which: str) -> None:
    config = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "5s"\n'
    states: list[NatsState] = []
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which, 2, config) as nodes,
            open_nats([node.url for node in nodes], on_state=states.append) as one,
        ):
            lame, other = sorted(nodes, key=lambda node: node.url != one.connected_url)
            async with open_nats(other.url) as two, echoing(two, queue="q"):
                await until_answered(one, "echo")
                assert lame.process is not None
                lame.process.send_signal(signal.SIGUSR2)
                with trio.move_on_after(20):
                    while one.connected_url != other.url:
                        assert (await one.request("echo", b"x", timeout=5)).data == b"x"
                        await trio.sleep(0.005)
                assert one.connected_url == other.url
            assert "lame_duck" in [state.state for state in states]


async def test_a_cluster_that_is_gone_for_good_ends_a_client_that_was_told_so(socket_folder: Path) -> None:
    with trio.fail_after(LONGEST):
        async with servers(socket_folder) as (server,), open_nats(server.url, max_rounds=2, first_delay=0.05) as nats:
            await server.kill()
            await until(lambda: not nats.connected_url)
            with pytest.raises(NatsClosedError, match="no server takes this client any more"):
                await nats.request("echo", timeout=30)


# -- sessions ----------------------------------------------------------------------------------------------------------


def worker(name: str) -> Callable[[NatsChannel], Awaitable[None]]:
    """Serves dialogues that say whose they are, and how far they have come."""
    manager = SessionManager(dialect=Exact(), resume_within=30)

    async def dialogue(session: Session) -> None:
        turn = 0
        async for message in session:
            if "parts" in message:
                for number in range(message["parts"]):
                    await session.post({"part": number})
                await session.finish()
            else:
                await session.post({"worker": name, "turn": turn})
                turn += 1

    async def serve(channel: NatsChannel) -> None:
        async with manager.accept(channel, on_session=dialogue) as port:
            await port.wait_closed()

    return serve


async def test_dialogues_in_a_queue_group_and_streams(socket_folder: Path, which: str) -> None:
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url) as one,
            open_nats(server.url) as two,
            open_nats(server.url) as nats,
            trio.open_nursery() as nursery,
        ):
            manager = SessionManager(dialect=Exact(), session_timeout=10)
            with pytest.raises(NatsNoRespondersError):
                async with nats.connect("work"):
                    raise AssertionError
            for there, name in ((one, "a"), (two, "b")):
                nursery.start_soon(partial(there.serve, "work", worker(name), queue="q"))
                await there.flush()
            await trio.sleep(0.1)
            seen = set()
            for number in range(20):
                async with nats.connect("work") as channel, manager.port(str(number), channel) as port:
                    async with port.session() as session:
                        answers = [await session.send({}) for _ in range(5)]
                        assert [answer["turn"] for answer in answers] == list(range(5))
                        assert len({answer["worker"] for answer in answers}) == 1
                        seen.add(answers[0]["worker"])
                    async with port.stream({"parts": 500}) as replies:
                        assert [reply["part"] async for reply in replies] == list(range(500))
            assert seen == {"a", "b"}
            nursery.cancel_scope.cancel()


async def test_a_port_resumes_with_its_worker_through_restarts_of_the_server(socket_folder: Path, which: str) -> None:
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url, first_delay=0.02, max_delay=0.1) as there,
            open_nats(server.url, first_delay=0.02, max_delay=0.1) as nats,
            trio.open_nursery() as nursery,
        ):
            for name in "abc":
                nursery.start_soon(partial(there.serve, "work", worker(name), queue="q"))
            await trio.sleep(0.1)
            manager = SessionManager(dialect=Exact(), session_timeout=2, retry_count=10, resume_within=30)
            async with (
                reconnecting(nats.returning("work"), first_delay=0.02) as channel,
                manager.port("work", channel) as port,
                port.session() as session,
            ):
                said = [await session.send({})]
                for _ in range(3):
                    await server.kill()
                    await server.start()
                    said += [await session.send({}) for _ in range(5)]
                assert [answer["turn"] for answer in said] == list(range(16))
                assert len({answer["worker"] for answer in said}) == 1
            nursery.cancel_scope.cancel()


async def test_plain_requests_and_micro_services_with_nats_py(socket_folder: Path, which: str) -> None:
    lamp = Service("command")

    @lamp.method
    async def dim(level: int) -> dict[str, int]:
        return {"level": level}

    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url) as nats,
            nats_py(server.url) as ask,
            trio.open_nursery() as nursery,
        ):
            manager = SessionManager(dialect=NatsRequests(), session_timeout=10)
            async with nats.requests("py.plain") as channel, manager.port("py", channel) as port:
                assert await port.request([1, {"a": None}]) == [1, {"a": None}]
            async with nats.requests("nobody") as channel, manager.port("nobody", channel) as port:
                with pytest.raises(SessionRemoteError) as caught:
                    await port.request({})
                assert caught.value.outcome == "not_sent"
            async with (
                nats.requests("lamp", serves=True, queue="q") as serving,
                manager.port("askers", serving, on_request=lamp),
            ):
                await nats.flush()
                assert await ask('lamp {"command":"dim","level":3}') == '{"level":3} '
                assert "Nats-Service-Error-Code=404" in await ask('lamp {"command":"sing"}')
            await nursery.start(nats.micro, lamp, "lampservice", "1.0.0")
            await nats.flush()
            assert await ask('lampservice.dim {"level":3}') == '{"level":3} '
            assert '"name":"lampservice"' in await ask("$SRV.PING {}")
            assert '"subject":"lampservice.dim"' in await ask("$SRV.INFO.lampservice {}")
            assert '"num_requests":1' in await ask("$SRV.STATS.lampservice {}")
            nursery.cancel_scope.cancel()


async def test_a_short_soak_leaves_nothing_deaf_nothing_untrue_and_no_memory() -> None:
    """As `nox -s soak` does for a million requests: one restart, one failover, some thousand requests."""
    command = [sys.executable, str(SOAK), "--messages", "4000", "--restarts", "1", "--failovers", "1"]
    with trio.fail_after(LONGEST):
        done = await trio.run_process(command, capture_stdout=True, check=False)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    assert "no subscription deaf, no outcome untrue, nothing run twice, memory flat" in said
