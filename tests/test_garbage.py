"""A port that is over is free at once: Python's collector, which stops everybody, has nothing to look for."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Budget, Exact, PortClosedError, Session, SessionError, SessionManager
from psession.channels import lines, memory_pair, open_websocket, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

DIALECTS = {"classic": None, "exact": Exact()}


async def answer(session: Session) -> None:
    """Answer each message."""
    async for _ in session:
        await session.post({"status": "ok"})


async def talk(here: Any, there: Any, dialect: Any) -> None:
    """A dialogue, a request, and a turn that is cut off, between two ports."""
    asker, answerer = SessionManager(dialect=dialect), SessionManager(dialect=dialect, on_session=answer)
    async with answerer.port("answerer", there), asker.port("asker", here) as port:
        await port.request({"n": 1})
        async with port.session() as session:
            await session.send({"n": 1})
            await session.send({"n": 2})
        with trio.move_on_after(0):
            await port.request({"n": 3})


async def over_memory(dialect: Any) -> None:
    here, there = memory_pair()
    await talk(here, there, dialect)


async def over_sockets(dialect: Any) -> None:
    here, there = trio.socket.socketpair()
    await talk(lines(trio.SocketStream(here)), lines(trio.SocketStream(there)), dialect)


async def that_breaks(dialect: Any) -> None:
    here, there = trio.socket.socketpair()
    manager = SessionManager(dialect=dialect)
    async with manager.port("p", lines(trio.SocketStream(here))) as port:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with suppress(SessionError):
                    await port.request({"n": 1})

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            there.close()
        await port.wait_closed()


@asynccontextmanager
async def websocket_server(manager: SessionManager, **options: Any) -> AsyncIterator[str]:
    """A server whose clients each have a port."""

    async def serve(channel: Any) -> None:
        async with manager.accept(channel, **options) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0)
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


async def until(done: Callable[[], bool]) -> None:
    """Wait for something that sockets bring."""
    for _ in range(5000):
        if done():
            return
        await trio.sleep(0.001)
    raise AssertionError("it did not come")


async def garbage_after(run: Callable[[], Awaitable[object]], times: int = 5) -> Counter[str]:
    """Objects of psession's that are in circles after so many runs, by type; there was one run before."""
    await run()
    gc.collect()
    gc.disable()
    try:
        for _ in range(times):
            await run()
        await trio.testing.wait_all_tasks_blocked()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.garbage if type(thing).__module__.startswith("psession"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("talks", [over_memory, over_sockets, that_breaks])
async def test_a_port_that_was_left_is_free_at_once(talks: Callable[[Any], Awaitable[None]], dialect: str) -> None:
    async def run() -> None:
        await talks(DIALECTS[dialect])

    assert not await garbage_after(run)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_client_of_a_websocket_server_that_went_is_free_at_once(dialect: str) -> None:
    manager = SessionManager(on_session=answer)
    async with websocket_server(manager) as url:

        async def run() -> None:
            async with (
                open_websocket(url) as channel,
                SessionManager(dialect=DIALECTS[dialect]).port("p", channel) as port,
            ):
                await port.request({"n": 1})
            await until(lambda: not manager.ports)

        assert not await garbage_after(run)


async def test_a_port_that_was_given_up_while_it_waited_for_its_peer_is_free_at_once() -> None:
    manager = SessionManager(on_session=answer, budget=Budget(absent_ports=1))
    async with websocket_server(manager, resume_within=30) as url:

        async def run() -> None:
            async with open_websocket(url) as channel:
                await channel.send({"_new": True, "_life": 5})
                await until(lambda: len(manager.ports) > 0)
            await until(lambda: (len(manager.ports), manager.budget.absent) == (1, 1))

        assert not await garbage_after(run)


async def test_the_causes_of_a_broken_channel_may_go_round_in_a_circle() -> None:
    class Broken(trio.abc.Channel[Any]):
        async def send(self, value: Any) -> None:
            raise AssertionError("nothing is sent")

        async def receive(self) -> Any:
            await trio.lowlevel.checkpoint()
            first, second = trio.BrokenResourceError("the radio"), OSError("the battery")
            second.__cause__ = first
            raise first from second

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with SessionManager().port("p", Broken()) as port:
        await port.wait_closed()
        with pytest.raises(PortClosedError, match="the radio"):
            await port.request({"n": 1})
