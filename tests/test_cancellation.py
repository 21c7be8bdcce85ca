"""A call, or the port that it is made on, cancelled at any step: nothing of it remains."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Exact, SessionError, SessionManager
from psession.channels import memory_pair

from .axe import Axe, every_step
from .peers import Echo, Wire, plain_pair, serve_echo
from .tables import assert_empty, assert_idle, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from psession import Port, Session


@asynccontextmanager
async def over_memory(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port over a memory pair whose other end echoes."""
    here, there = memory_pair()
    manager = SessionManager(**options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, there)
        async with manager.port("p", here) as port:
            yield manager, port


@asynccontextmanager
async def over_plain(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port over somebody else's channel without any buffer, whose other end echoes after a while."""
    here, there = plain_pair(0)
    manager = SessionManager(**options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_echo(there, delay=0.125))
        async with manager.port("p", here) as port:
            yield manager, port


@asynccontextmanager
async def over_silence(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port whose peer never answers."""
    manager = SessionManager(**{"session_timeout": 1.0, **options})
    async with manager.port("p", Wire()) as port:
        yield manager, port


@asynccontextmanager
async def over_sync_echo(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port whose synchronous sender brings the reply with it."""
    manager, echo = SessionManager(**options), Echo()
    async with manager.port("p", echo) as port:
        echo.port = port
        yield manager, port


@asynccontextmanager
async def over_async_sender(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port with an async sender, whose peer answers while the sender still runs."""
    manager = SessionManager(**options)

    async def send(message: dict[str, Any]) -> None:
        await trio.sleep(0.25)
        port.dispatch({**message, "echo": True})
        await trio.sleep(0.25)

    async with manager.port("p", send) as port:
        yield manager, port


async def one_request(port: Port) -> None:
    reply = await port.request({"n": 1})
    assert (reply["n"], reply["echo"]) == (1, True)


async def a_dialogue(port: Port) -> None:
    async with port.session() as session:
        for n in range(3):
            assert (await session.send({"n": n}))["n"] == n
        await session.post({"bye": True})


async def two_in_line(port: Port) -> None:
    async def turn(session: Session, n: int) -> None:
        assert (await session.send({"n": n}))["n"] == n

    async with port.session() as session, trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(turn, session, n)


async def retries(port: Port) -> None:
    try:
        await port.request({}, timeout=1, retry_count=2, retry_interval=0.5)
    except SessionError:
        return


async def a_turn_after_an_unanswered_one(port: Port) -> None:
    async with port.session() as session:
        for _ in range(3):
            with suppress(SessionError):
                await session.send({}, timeout=70)


async def receives_and_times_out(port: Port) -> None:
    with port.create() as session:
        port.dispatch({"sid": session.sid, "n": 1})
        await session.receive()
        with suppress(SessionError):
            await session.receive(timeout=1)
        port.dispatch({"sid": session.sid, "n": 2})
        async for _ in session:
            return


async def posts(port: Port) -> None:
    await port.post({"plain": True})
    async with port.session() as session:
        for n in range(20):
            await session.post({"n": n})


async def waits_for_a_number(port: Port) -> None:
    async def hold() -> None:
        async with port.session():
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(hold)
        with suppress(SessionError):
            await port.request({}, timeout=0.5)


async def lives_its_life(port: Port) -> None:
    with port.create(session_max_life=2) as session:
        async for _ in session:
            pass


async def serve_exactly(channel: trio.abc.Channel[Any]) -> None:
    """Answer each turn with its own fields, the number of the turn where an answer has it."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for message in channel:
            if "_turn" in message and "_error" not in message:
                answer = {key: value for key, value in message.items() if key in ("n", "sid", "_life")}
                await channel.send({**answer, "_re": message["_turn"], "echo": True})


@asynccontextmanager
async def over_exact_memory(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port on the exact wire, whose peer answers at once."""
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact(), **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_exactly, there)
        async with manager.port("p", here) as port:
            yield manager, port


@asynccontextmanager
async def over_exact_silence(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port on the exact wire, whose peer never answers."""
    manager = SessionManager(**{"session_timeout": 1.0, **options}, dialect=Exact())
    async with manager.port("p", Wire()) as port:
        yield manager, port


Room = Any
EXACT_CALLS = [
    (one_request, [over_exact_memory], {}),
    (a_dialogue, [over_exact_memory], {}),
    (two_in_line, [over_exact_memory], {}),
    (posts, [over_exact_memory], {"max_queued_bytes": 1}),
    (retries, [over_exact_silence], {}),
    (a_turn_after_an_unanswered_one, [over_exact_silence], {"session_ids": range(1, 2)}),
    (a_turn_after_an_unanswered_one, [over_exact_silence], {"on_unanswered": "end"}),
    (lives_its_life, [over_exact_silence], {}),
]
CALLS: list[tuple[Callable[[Port], Awaitable[None]], list[Room], dict[str, Any]]] = [
    (one_request, [over_memory, over_plain, over_sync_echo, over_async_sender], {}),
    (a_dialogue, [over_memory, over_plain, over_sync_echo, over_async_sender], {}),
    (two_in_line, [over_memory, over_plain, over_sync_echo, over_async_sender], {}),
    (retries, [over_silence, over_plain, over_async_sender], {}),
    (a_turn_after_an_unanswered_one, [over_silence], {"session_ids": range(1, 3)}),
    (a_turn_after_an_unanswered_one, [over_silence], {"session_ids": range(1, 2), "session_id_rest": 65}),
    (a_turn_after_an_unanswered_one, [over_silence], {"on_unanswered": "end"}),
    (a_turn_after_an_unanswered_one, [over_silence], {"on_unanswered": "keep"}),
    (receives_and_times_out, [over_silence], {}),
    (posts, [over_memory, over_plain, over_sync_echo, over_async_sender], {"max_queued_bytes": 1}),
    (waits_for_a_number, [over_silence], {"on_session_overflow": "wait", "session_ids": range(1, 3)}),
    (lives_its_life, [over_silence], {}),
]
CASES = [
    pytest.param(call, room, options, id=f"{call.__name__}-{room.__name__}-{'-'.join(map(str, options.values()))}")
    for call, rooms, options in [*CALLS, *EXACT_CALLS]
    for room in rooms
]


@pytest.mark.parametrize(("call", "room", "options"), CASES)
def test_a_call_cancelled_at_any_step_leaves_nothing_in_its_port_which_works_on(
    call: Callable[[Port], Awaitable[None]], room: Any, options: dict[str, Any]
) -> None:
    async def scenario(axe: Axe) -> bool:
        async with room(**options) as (manager, port):
            with trio.CancelScope() as scope:
                axe.scope = scope
                await call(port)
            axe.scope = None
            if port._engine.outbox._queue or port._engine.outbox.writing:
                await trio.sleep(10)
            await trio.testing.wait_all_tasks_blocked()
            assert_idle(port)
            if room not in (over_silence, over_exact_silence):
                reply = await port.request({"n": 99}, timeout=30)
                assert reply["n"] == 99
                assert_idle(port)
        assert_empty(manager, port)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


@pytest.mark.parametrize(("call", "room", "options"), CASES)
def test_a_port_cancelled_at_any_step_leaves_nothing_in_its_manager(
    call: Callable[[Port], Awaitable[None]], room: Any, options: dict[str, Any]
) -> None:
    async def scenario(axe: Axe) -> bool:
        seen: list[tuple[SessionManager, Port]] = []
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with room(**options) as (manager, port):
                seen.append((manager, port))
                await call(port)
        axe.scope = None
        for manager, port in seen:
            assert_empty(manager, port)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1
