"""The scenarios of the guide, at their size: many to many, a server in dialogue, a hundred sessions ended together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionManager,
    SessionTimeoutError,
)
from psession.channels import memory_pair

from .peers import Caught, Wire, plain_pair, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Port

CLIENTS, TURNS = 10, 10


@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
async def test_ten_clients_have_ten_turns_each_with_each_of_ten_servers(pair: Callable[[], tuple[Any, Any]]) -> None:
    async def serve(session: Session) -> None:
        async for message in session:
            await session.post({"answer": [session.port.name, message["ask"]]})

    clients = [SessionManager() for _ in range(CLIENTS)]
    servers = [SessionManager(on_session=serve) for _ in range(CLIENTS)]
    ports: list[Port] = []

    async def dialogue(port: Port, client: int, server: int) -> None:
        async with port.session() as session:
            for turn in range(TURNS):
                reply = await session.send({"ask": [client, server, turn]})
                assert reply["answer"] == [f"client {client}", [client, server, turn]]

    dialogues: list[tuple[Port, int, int]] = []
    async with AsyncExitStack() as stack:
        for c, client in enumerate(clients):
            for s, server in enumerate(servers):
                near, far = pair()
                ports.append(await stack.enter_async_context(server.port(f"client {c}", far)))
                ports.append(await stack.enter_async_context(client.port(f"server {s}", near)))
                dialogues.append((ports[-1], c, s))
        async with trio.open_nursery() as nursery:
            for port, c, s in dialogues:
                nursery.start_soon(dialogue, port, c, s)
    for manager in clients + servers:
        assert_empty(manager)
    for port in ports:
        assert_idle(port)
    assert sum(client.statistics().matched for client in clients) == CLIENTS * CLIENTS * TURNS


async def test_ten_clients_share_one_channel_for_ten_turns_each() -> None:
    async def serve(session: Session) -> None:
        count = 0
        async for message in session:
            count += 1
            await session.post({"ask": message["ask"], "count": count})

    here, there = memory_pair()
    client, server = SessionManager(), SessionManager(on_session=serve)
    async with server.port("client", there) as served, client.port("server", here) as port:

        async def dialogue(number: int) -> None:
            async with port.session() as session:
                for turn in range(TURNS):
                    reply = await session.send({"ask": [number, turn]})
                    assert (reply["ask"], reply["count"]) == ([number, turn], turn + 1)

        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(dialogue, number)
        assert (port.statistics().opened, port.statistics().matched) == (CLIENTS, CLIENTS * TURNS)
        assert served.statistics().accepted == CLIENTS
    assert_empty(client, port)
    assert_empty(server, served)


async def test_a_server_is_in_dialogue_with_ten_clients_at_once(autojump_clock: MockClock) -> None:
    async def device(session: Session) -> None:
        """Wants a password before it does what it is told."""
        number = int(session.port.name)
        async for order in session:
            await trio.sleep(number / 10)
            answer = await session.send({"status": "needPassword", "device": number})
            await session.post({"status": "ok" if answer["password"] == number else "refused", "did": order["command"]})

    centre = SessionManager()
    devices = [SessionManager(on_session=device) for _ in range(CLIENTS)]
    done: list[tuple[int, str]] = []

    async def command(port: Port) -> None:
        async with port.session() as session:
            asked = await session.send({"command": "turnOnLight"})
            assert asked["status"] == "needPassword"
            done.append((asked["device"], (await session.send({"password": asked["device"]}))["status"]))

    async with AsyncExitStack() as stack:
        for number, manager in enumerate(devices):
            near, far = memory_pair()
            await stack.enter_async_context(manager.port(str(number), far))
            await stack.enter_async_context(centre.port(f"device {number}", near))
        async with trio.open_nursery() as nursery:
            for port in centre.ports.values():
                nursery.start_soon(command, port)
        assert done == [(number, "ok") for number in range(CLIENTS)]
        assert trio.current_time() == pytest.approx(0.9)
    for manager in [centre, *devices]:
        assert_empty(manager)


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        (lambda port: port.cancel(), SessionCancelError),
        (lambda port: port.abort(ConnectionError("gone")), SessionAbortError),
        (lambda port: port.clear(), SessionAbortError),
        (lambda port: port.timeout(), SessionTimeoutError),
        (lambda port: None, SessionTimeoutError),
    ],
    ids=["cancelled", "aborted", "cleared", "timed out", "left alone"],
)
async def test_a_hundred_sessions_end_together_each_with_the_right_error(
    autojump_clock: MockClock, deed: Callable[[Port], None], error: type[Exception]
) -> None:
    wire = Wire()
    manager = SessionManager(wire, session_timeout=3)
    async with manager.port("p") as port, trio.open_nursery() as nursery:
        sessions = [port.create() for _ in range(100)]
        waiters = [Caught() for _ in sessions]
        for session, waiter in zip(sessions, waiters, strict=True):
            nursery.start_soon(waiter.run, session.send, {})
        await trio.sleep(2)
        deed(port)
        await trio.sleep(2)
        assert {type(waiter.error) for waiter in waiters} == {error}
        assert {waiter.error.sid for waiter in waiters} == set(range(1, 101))
        assert len({waiter.at for waiter in waiters}) == 1
        assert len({id(waiter.error) for waiter in waiters}) == 100
        for session in sessions:
            session.end()
        assert_idle(port)
        assert len(wire.sent) == 100
    assert_empty(manager, port)


async def test_five_retries_make_six_sends_in_the_promised_time(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(wire).port("p") as port:
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({"n": 1}, timeout=0.25, retry_count=5, retry_interval=0.125)
    assert (len(wire.sent), caught.value.attempts, trio.current_time()) == (6, 6, 6 * 0.25 + 5 * 0.125)


async def test_a_device_that_vanishes_in_mid_turn_is_told_from_one_that_is_slow(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager()
    async with manager.port("p", here) as port, trio.open_nursery() as nursery:
        slow, gone = Caught(), Caught()
        nursery.start_soon(lambda: slow.run(lambda: port.request({}, timeout=1)))
        nursery.start_soon(lambda: gone.run(lambda: port.request({}, timeout=9)))
        await trio.sleep(2)
        await there.aclose()
        await settle()
        assert (type(slow.error), slow.at) == (SessionTimeoutError, 1.0)
        assert isinstance(gone.error, SessionAbortError)
        assert gone.at == 2.0
    assert_empty(manager, port)
