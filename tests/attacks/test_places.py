"""What one client can take of the places of a server: handshakes, connections, ports that wait for it to come back."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Budget, Exact, Session, SessionManager
from psession.channels import lines, open_websocket, reconnecting, serve_websocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psession.channels import WebSocketChannel, WebSocketServer

HERE = "127.0.0.1"
HELLO = {"_new": True, "_life": 5}


async def settled(condition: Callable[[], bool]) -> None:
    """Sockets take a moment to tell."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the system sets no event
            await trio.sleep(0.001)


async def answer(session: Session) -> None:
    """Say it back."""
    async for message in session:
        await session.post(message)


def serve(manager: SessionManager, channel: trio.abc.Channel[Any]) -> Any:
    """The handler of the guide's server."""

    async def handler() -> None:
        async with manager.accept(channel) as port:
            await port.wait_closed()

    return handler()


async def start(nursery: trio.Nursery, manager: SessionManager, **options: Any) -> WebSocketServer:
    """A WebSocket server whose clients are the manager's peers."""

    async def handler(channel: WebSocketChannel) -> None:
        await serve(manager, channel)

    return await nursery.start(partial(serve_websocket, handler, HERE, 0, **options))  # type: ignore[no-any-return]


async def is_served(server: WebSocketServer) -> bool:
    """Return True if a newcomer gets in, and an answer, in less than a second."""
    with trio.move_on_after(1):
        async with (
            open_websocket(f"ws://{HERE}:{server.port}") as channel,
            SessionManager(dialect=Exact()).port("server", channel) as port,
        ):
            return bool(await port.request({"n": 1}) == {"n": 1})
    return False


@contextmanager
def many_files() -> Iterator[None]:
    """This process may open 2,500 files, or the test is skipped."""
    if sys.platform == "win32":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2500:
        pytest.skip("this process may not open 2,500 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_silent_sockets_keep_no_newcomer_out() -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        stack.enter_context(many_files())
        server = await start(nursery, SessionManager(on_session=answer))
        for _ in range(1000):
            await stack.enter_async_context(await trio.open_tcp_stream(HERE, server.port))
        assert await is_served(server)
        assert server.handshakes <= 200
        await settled(lambda: server.given_up + server.handshakes == 1000)
        assert (server.refused, server.given_up >= 800) == (0, True)
        nursery.cancel_scope.cancel()


async def test_one_who_comes_and_goes_keeps_no_newcomer_out_and_few_ports_waiting() -> None:
    budget = Budget()
    manager = SessionManager(on_session=answer, resume_within=30, budget=budget)
    async with trio.open_nursery() as nursery:
        server = await start(nursery, manager, max_connections=100, max_handlers=150)
        for number in range(1, 301):
            async with open_websocket(f"ws://{HERE}:{server.port}") as channel:
                await channel.send(HELLO)
                assert "_resume" in await channel.receive()
            await settled(lambda number=number: budget.absent + budget.given_up == number)  # type: ignore[misc]
            assert server.connections <= 1
        assert await is_served(server)
        await settled(lambda: len(manager.ports) == budget.absent == server.handlers == 100)
        assert (budget.given_up, server.refused, server.connections) == (200, 0, 0)
        nursery.cancel_scope.cancel()


async def test_a_client_that_came_back_holds_one_place() -> None:
    manager = SessionManager(on_session=answer, resume_within=30)
    links: list[WebSocketChannel] = []
    may_come = trio.Event()
    may_come.set()
    async with trio.open_nursery() as nursery:
        server = await start(nursery, manager, max_connections=1)

        async def connect() -> WebSocketChannel:
            await may_come.wait()
            opened = await nursery.start(keep_open)
            links.append(opened)
            return links[-1]

        async def keep_open(task_status: trio.TaskStatus[WebSocketChannel]) -> None:
            async with open_websocket(f"ws://{HERE}:{server.port}") as channel:
                task_status.started(channel)
                await trio.sleep_forever()

        async with (
            reconnecting(connect, first_delay=0.01, max_delay=0.01) as channel,
            SessionManager(dialect=Exact(), resume_within=30).port("server", channel) as port,
        ):
            for number in range(4):
                assert await port.request({"n": number}) == {"n": number}
                assert (server.connections, server.handlers, len(manager.ports)) == (1, 1 + bool(number), 1)
                may_come = trio.Event()
                await links[-1].aclose()
                await settled(lambda: server.connections == 0)
                assert manager.budget.absent == 1
                may_come.set()
            assert await port.request({"n": 5}) == {"n": 5}
            assert (port.statistics().resumed, server.refused, manager.budget.absent) == (4, 0, 0)
        nursery.cancel_scope.cancel()


async def test_a_plain_tcp_server_counts_by_address_as_well() -> None:
    budget = Budget(absent_ports_per_address=20)
    manager = SessionManager(on_session=answer, resume_within=30, budget=budget)

    async def handler(stream: trio.SocketStream) -> None:
        channel = lines(stream)
        assert channel.remote is not None
        assert channel.remote[0] == HERE
        await serve(manager, channel)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host=HERE))
        for number in range(1, 101):
            async with lines(await trio.testing.open_stream_to_socket_listener(listeners[0])) as channel:
                await channel.send(HELLO)
                assert "_resume" in await channel.receive()
            await settled(lambda number=number: budget.absent + budget.given_up == number)  # type: ignore[misc]
        await settled(lambda: len(manager.ports) == 20)
        assert (budget.absent, budget.given_up) == (20, 80)
        nursery.cancel_scope.cancel()
