"""Cancelled at any checkpoint, nothing remains: each scenario is cancelled at its first step, its second, and so on.

A scenario runs in a loop of its own, in virtual time, under an instrument that counts the steps of all tasks and
cancels one scope at the chosen step: the caller's alone (its port lives on and must work), or everything.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Envelope, SessionError, SessionManager
from psession.channels._memory import memory_pair

from .peers import Echo, Wire, plain_pair, serve_echo
from .tables import assert_empty, assert_idle, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from psession import Port, Session

MOST_STEPS = 400
"""No scenario here takes as many: more would mean that one never ends."""


class Axe(trio.abc.Instrument):
    """Cancels a scope after so many steps of the scheduler."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.scope: trio.CancelScope | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


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
    manager = SessionManager(envelope=Envelope.exact(), **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_exactly, there)
        async with manager.port("p", here) as port:
            yield manager, port


@asynccontextmanager
async def over_exact_silence(**options: Any) -> AsyncIterator[tuple[SessionManager, Port]]:
    """A port on the exact wire, whose peer never answers."""
    manager = SessionManager(**{"session_timeout": 1.0, **options}, envelope=Envelope.exact())
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


def every_step(scenario: Callable[[Axe], Awaitable[bool]]) -> int:
    """Cancel the scenario at its first step, its second, ... until it ends by itself; returns how many there were."""
    for step in range(1, MOST_STEPS):
        axe = Axe(step)
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            if not trio.run(scenario, axe, clock=clock, instruments=[axe]):
                return step
        except BaseException as error:
            error.add_note(f"cancelled at step {step}")
            raise
    raise AssertionError("the scenario does not end")


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
            if port._outbox._queue or port._outbox.writing:
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


async def answers(session: Session) -> None:
    """A handler that talks back: the peer answers it."""
    async for message in session:
        if message.get("ask"):
            assert (await session.send({"question": 1}))["answer"] == 1
        await session.post({**message, "ok": True})


async def asks_its_server(port: Port) -> None:
    async with port.session() as session:
        reply = await session.send({"ask": True})
        assert reply["question"] == 1
        reply = await session.send({"answer": 1})
        assert reply["ok"]


@pytest.mark.parametrize("envelope", [Envelope.classic(), Envelope.exact()], ids=["classic", "exact"])
@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
def test_both_sides_of_a_dialogue_cancelled_at_any_step_leave_nothing(
    pair: Callable[[], Any], envelope: Envelope
) -> None:
    async def scenario(axe: Axe) -> bool:
        here, there = pair()
        client, server = SessionManager(envelope=envelope), SessionManager(on_session=answers)
        ports: list[Port] = []
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with AsyncExitStack() as stack:
                ports.append(await stack.enter_async_context(server.port("client", there)))
                ports.append(await stack.enter_async_context(client.port("server", here)))
                await asks_its_server(ports[1])
        axe.scope = None
        assert_empty(client, *ports[1:])
        assert_empty(server, *ports[:1])
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


@pytest.mark.parametrize("envelope", [Envelope.classic(), Envelope.exact()], ids=["classic", "exact"])
@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
def test_a_caller_cancelled_at_any_step_leaves_the_servers_port_working(
    pair: Callable[[], Any], envelope: Envelope
) -> None:
    async def scenario(axe: Axe) -> bool:
        here, there = pair()
        client = SessionManager(envelope=envelope)
        server = SessionManager(on_session=answers, session_max_life=30)
        async with server.port("client", there) as served, client.port("server", here) as port:
            with trio.CancelScope() as scope:
                axe.scope = scope
                await asks_its_server(port)
            axe.scope = None
            await trio.testing.wait_all_tasks_blocked()
            assert_idle(port)
            await asks_its_server(port)
            await trio.sleep(100)
            if not served.sessions:
                assert_idle(served)
        assert_empty(client, port)
        assert_empty(server, served)
        return axe.left <= 0

    assert every_step(scenario) > 1


def test_listening_cancelled_at_any_step_leaves_no_listener_and_no_port() -> None:
    async def scenario(axe: Axe) -> bool:
        bus, into = plain_pair(0)
        manager = SessionManager()
        ports: list[Port] = []

        async def device(name: str, message: dict[str, Any]) -> None:
            async with manager.port(name, Wire(), on_session=answers) as port:
                ports.append(port)
                await trio.sleep(2)

        async def speak() -> None:
            for n in range(4):
                await into.send({"from": f"d{n % 2}", "sid": n + 1})
                await trio.sleep(0.5)
            await into.aclose()

        with trio.CancelScope() as scope:
            axe.scope = scope
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak)
                await manager.listen(bus, port_of=lambda message: message["from"], on_unknown=device)
        axe.scope = None
        assert_empty(manager, *ports)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


def test_an_async_on_message_cancelled_at_any_step_leaves_nothing() -> None:
    async def scenario(axe: Axe) -> bool:
        here, there = memory_pair()
        manager = SessionManager()
        ports: list[Port] = []

        async def plain(message: dict[str, Any]) -> None:
            await trio.sleep(0.5)

        with trio.CancelScope() as scope:
            axe.scope = scope
            async with manager.port("p", here, on_message=plain) as port:
                ports.append(port)
                for n in range(3):
                    await there.send({"n": n})
                await trio.sleep(3)
        axe.scope = None
        assert_empty(manager, *ports)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


def test_the_default_port_of_a_manager_cancelled_at_any_step_is_gone() -> None:
    async def scenario(axe: Axe) -> bool:
        echo = Echo()
        manager = SessionManager(echo)
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with manager:
                echo.port = manager.ports["default"]
                async with manager.create_session() as session:
                    await session.send({})
                await manager.ports["default"].request({})
        axe.scope = None
        assert_empty(manager)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


@pytest.mark.parametrize("stuck", ["write", "close", "both"])
def test_leaving_with_a_stuck_channel_cancelled_at_any_step_ends_within_grace(stuck: str) -> None:
    async def scenario(axe: Axe) -> bool:
        here, _there = plain_pair(0 if stuck != "close" else 64)
        real_close = here.aclose

        async def aclose() -> None:
            await real_close()
            await trio.sleep_forever()

        if stuck != "write":
            here.aclose = aclose  # type: ignore[method-assign]
        manager = SessionManager(grace=2)
        ports: list[Port] = []
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with manager.port("p", here) as port:
                ports.append(port)
                await port.create().post({})
                await trio.sleep(1)
        axe.scope = None
        assert trio.current_time() <= 3.0
        assert_empty(manager, *ports)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1
