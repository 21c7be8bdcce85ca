"""A real SIGINT at any line of psession: everybody wakes, all tables are empty, nothing but KeyboardInterrupt is out.

``PSESSION_INTERRUPTS=200`` makes it 200 places of each scenario instead of the suite's few; 1000000 are all there are.
"""

from __future__ import annotations

import gc
import os
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import share
from psession.channels import memory_pair

from .interrupting import Stage, count_places, interrupt
from .peers import serve_echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psession import Session

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
"""Python's word about a handler that was made, and interrupted before its first step."""


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_for_other_tests() -> Iterator[None]:
    """What a SIGINT left in circles is collected here, where that word of Python's is expected, not in a later test."""
    yield
    gc.collect()


PLACES = int(os.environ.get("PSESSION_INTERRUPTS", "5"))
"""Places of each scenario, in each of two ways: let through, and caught by the application."""

SLOW = 1000
"""Seconds for which a peer does not answer: nobody here is so patient."""

# -- one verb, with many that wait ------------------------------------------------------------------------------------


async def many_wait(stage: Stage) -> Session:
    """Two sessions with tasks that wait: a turn with two behind it, a turn alone, and three that receive."""
    first: Session = stage.asker.create()
    second = stage.asker.create(timeout=3)
    for n in range(3):
        stage.waits(f"send {n}", first.send, {"n": n, "after": SLOW})
        stage.waits(f"receive {n}", first.receive, timeout=50.0)
    stage.waits("a turn alone", second.send, {"n": 3, "after": SLOW}, retry_count=1, retry_interval=2.0)
    stage.waits("wait_closed", until_closed, stage)
    await trio.sleep(0.1)
    return first


async def until_closed(stage: Stage) -> None:
    with trio.move_on_after(60):
        await stage.asker.wait_closed()


VERBS: dict[str, Callable[[Stage, Session], Any]] = {
    "session.cancel": lambda _, session: session.cancel(),
    "session.abort": lambda _, session: session.abort(ValueError("why")),
    "session.timeout": lambda _, session: session.timeout(),
    "session.end": lambda _, session: session.end(),
    "session.next": lambda _, session: session.next({"sid": session.sid, "n": 1}),
    "session.send": lambda _, session: session.send({"n": 9}),
    "session.post": lambda _, session: session.post({"x": 9}),
    "session.receive": lambda _, session: session.receive(timeout=1),
    "port.cancel": lambda stage, _: stage.asker.cancel(),
    "port.abort": lambda stage, _: stage.asker.abort(),
    "port.timeout": lambda stage, _: stage.asker.timeout(),
    "port.clear(abort)": lambda stage, _: stage.asker.clear(),
    "port.clear(cancel)": lambda stage, _: stage.asker.clear("cancel"),
    "port.clear(timeout)": lambda stage, _: stage.asker.clear("timeout"),
    "port.close": lambda stage, _: stage.asker.close(),
    "the peer's port.close": lambda stage, _: stage.answerer.close(),
    "port.dispatch": lambda stage, session: stage.asker.dispatch({"sid": session.sid, "n": 1}),
    "port.dispatch of what opens": lambda stage, _: stage.asker.dispatch({"sid": 5000, "n": 1}),
    "port.create": lambda stage, _: stage.asker.create(),
    "port.post": lambda stage, _: stage.asker.post({"x": 1}),
    "port.request": lambda stage, _: stage.asker.request({"n": 1}),
    "port.drain": lambda stage, _: stage.asker.drain(3),
    "the peer's port.drain": lambda stage, _: stage.answerer.drain(3),
    "manager.cancel": lambda stage, _: stage.manager.cancel(),
    "manager.abort": lambda stage, _: stage.manager.abort(),
    "manager.timeout": lambda stage, _: stage.manager.timeout(),
    "manager.clear": lambda stage, _: stage.manager.clear(),
    "manager.dispatch": lambda stage, session: stage.manager.dispatch({"sid": session.sid, "n": 1}, port="asker"),
    "manager.create_session": lambda stage, _: stage.manager.create_session("asker"),
    "manager.drain": lambda stage, _: stage.manager.drain(3),
}


async def a_verb(verb: str, stage: Stage) -> None:
    session = await many_wait(stage)
    stage.interrupter.start()
    await stage.attempt(lambda: VERBS[verb](stage, session))
    stage.interrupter.mark()


# -- whole lives ------------------------------------------------------------------------------------------------------


async def a_dialogue(stage: Stage) -> None:
    async def talk(port: Any) -> None:
        async with port.session() as session:
            assert await session.send({"n": 1}) == {"echo": 1}
            question = await session.send({"ask": 2, "n": 3})
            assert question == {"n": 2}
            assert await session.send({"n": 4}) in ({"echo": 3}, {"echo": 4})
            await session.post({"x": 5})

    stage.waits("the peer's dialogue", talk, stage.answerer)
    await stage.attempt(lambda: talk(stage.asker))


async def requests(stage: Stage) -> None:
    for n in range(3):
        stage.waits(f"request {n}", stage.asker.request, {"n": n, "after": n})
    await stage.attempt(lambda: stage.asker.request({"n": 3}))


async def a_request_that_is_retried(stage: Stage) -> None:
    stage.waits("another", stage.asker.request, {"after": SLOW}, timeout=1, retry_count=2, retry_interval=0.5)
    await stage.attempt(lambda: stage.asker.request({"after": SLOW}, timeout=1, retry_count=2, retry_interval=0.5))


async def leaving(stage: Stage) -> None:
    await many_wait(stage)
    stage.is_left = True


async def draining(stage: Stage) -> None:
    stage.waits("a turn", stage.asker.request, {"n": 1, "after": 2})
    await stage.settle()
    stage.waits("the peer's drain", be_opened_and_drain, stage)
    await stage.attempt(lambda: stage.asker.drain())


async def be_opened_and_drain(stage: Stage) -> None:
    stage.answerer.dispatch({"sid": 5000, "n": 1})  # its handler has not had its first step when the drain begins
    await stage.answerer.drain()


async def posts_that_wait_for_room(stage: Stage) -> None:
    async def post(session: Session) -> None:
        for n in range(8):
            await session.post({"n": n})

    session = stage.asker.create()
    for n in range(3):
        stage.waits(f"posts {n}", post, session)
    stage.waits("plain posts", stage.asker.post, {"x": 1})
    await stage.attempt(lambda: post(session))


async def a_number_that_is_waited_for(stage: Stage) -> None:
    async def hold(seconds: float) -> None:
        async with stage.asker.session() as session:
            await session.send({"n": 1, "after": seconds}, timeout=2)

    for n in range(4):
        stage.waits(f"session {n}", hold, n)
    stage.waits("request", stage.asker.request, {"n": 1}, timeout=20)
    await stage.attempt(lambda: hold(0))


async def many_that_receive(stage: Stage) -> None:
    async def read(session: Session) -> None:
        async for _ in session:
            pass

    session = stage.asker.create()
    stage.waits("all", read, session)
    for n in range(3):
        stage.waits(f"receive {n}", session.receive, timeout=20)
    await stage.settle()
    await stage.attempt(lambda: stage.asker.dispatch({"sid": session.sid, "n": 1}))
    await stage.attempt(lambda: session.next({"n": 2}))
    await stage.attempt(lambda: session.receive(timeout=1))
    await stage.attempt(session.end)


async def a_short_life(stage: Stage) -> None:
    session = stage.asker.create(session_max_life=2)
    stage.waits("receive", session.receive)
    await stage.attempt(lambda: session.receive(timeout=1))


async def one_channel_for_many_ports(stage: Stage) -> None:
    async def talk() -> None:
        here, there = memory_pair()

        async def serve(name: str, _: Any = None) -> None:
            async with stage.manager.port(name, lambda message: bus.send({**message, "port": name})) as port:
                with suppress(trio.ClosedResourceError):  # of the bus
                    assert (await port.request({"n": 1}))["echo"]
                    await port.post({"for": "another"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_echo, there)
            async with share(here) as bus:
                listen = partial(stage.manager.listen, bus, port_of=lambda message: message["port"], on_unknown=serve)
                nursery.start_soon(listen)
                await bus.send({"port": "unknown"})
                await serve("shared")
                await trio.sleep(1)

    await stage.attempt(talk)


# -- streams, on the exact wire ---------------------------------------------------------------------------------------


async def streams(stage: Stage) -> None:
    async def consume(**options: Any) -> None:
        async with stage.asker.stream({"parts": 6}, credit=2, **options) as replies:
            assert len([reply async for reply in replies]) == options.get("count", 6)

    async def ask_in_one_session() -> None:
        async with stage.asker.session() as session:
            async with session.stream({"parts": 3, "after": 1}) as replies:
                await replies.receive()
            assert await session.send({"n": 1}) == {"echo": 1}

    stage.waits("counted", consume, count=3)
    stage.waits("in a session", ask_in_one_session)
    await stage.attempt(consume)


async def a_stream_that_is_left_early(stage: Stage) -> None:
    async def leave_early() -> None:
        async with stage.asker.stream({"parts": 9}, credit=2) as replies:
            await replies.receive()
            await trio.sleep(1)

    stage.waits("another", leave_early)
    await stage.attempt(leave_early)


async def a_stream_that_another_task_closes(stage: Stage) -> None:
    async def receive_all(replies: Any) -> None:
        with suppress(trio.ClosedResourceError):
            async for _ in replies:
                pass

    async def close_it() -> None:
        async with stage.asker.stream({"parts": 3, "after": SLOW}) as replies:
            stage.waits("who receives", receive_all, replies)
            await trio.sleep(1)
            await replies.aclose()

    await stage.attempt(close_it)


async def a_stream_without_credit(stage: Stage) -> None:
    async def hold() -> None:
        async with stage.asker.stream({"parts": 9}, credit=2, total=20):
            await trio.sleep(10)

    stage.waits("holds", hold)
    await stage.settle()
    await stage.attempt(stage.asker.cancel)
    await stage.attempt(stage.asker.clear)


Lives = list[tuple[Any, dict[str, Any]]]
LIVES: Lives = [
    (a_dialogue, {}),
    (requests, {}),
    (a_request_that_is_retried, {}),
    (leaving, {}),
    (draining, {}),
    (posts_that_wait_for_room, {"max_queued_bytes": 1}),
    (a_number_that_is_waited_for, {"on_session_overflow": "wait", "max_session_count": 2}),
    (many_that_receive, {}),
    (a_short_life, {}),
]
CLASSIC_LIVES: Lives = [*LIVES, (one_channel_for_many_ports, {})]
EXACT_LIVES: Lives = [
    *LIVES,
    (requests, {"keepalive_interval": 0.5, "keepalive_patience": 0.25}),
    (streams, {}),
    (a_stream_that_is_left_early, {}),
    (a_stream_that_another_task_closes, {}),
    (a_stream_without_credit, {}),
]
CASES = [
    pytest.param(play, options, exact, id=" ".join([wire, play.__name__, *options]))
    for wire, exact, lives in [("classic", False, CLASSIC_LIVES), ("exact", True, EXACT_LIVES)]
    for play, options in lives
]


COUNTED: dict[str, tuple[int, int]] = {}
"""The places of each scenario so far: they are the same whatever becomes of the signal."""


def some_of(places: int, dice: random.Random) -> list[int]:
    return dice.sample(range(1, places + 1), min((PLACES + 1) // 2, places))


def interrupt_often(name: str, play: Any, *, catches: bool, **options: Any) -> None:
    """Play a scenario many times, with a signal at another place each time."""
    scenario = f"{name} {options}"
    if scenario not in COUNTED:
        COUNTED[scenario] = count_places(play, **options)
    dice, (most, every) = random.Random(f"{name} {catches}"), COUNTED[scenario]
    for place in sorted({*some_of(most, dice), *some_of(every, dice)}):
        interrupt(play, place, catches=catches, **options)


@pytest.mark.parametrize("catches", [False, True], ids=["let through", "caught"])
@pytest.mark.parametrize("exact", [False, True], ids=["classic", "exact"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_at_any_line_of_a_verb_leaves_nobody_asleep(verb: str, exact: bool, catches: bool) -> None:
    interrupt_often(verb, partial(a_verb, verb), exact=exact, catches=catches, at_once=False)


@pytest.mark.parametrize("catches", [False, True], ids=["let through", "caught"])
@pytest.mark.parametrize(("play", "options", "exact"), CASES)
def test_a_signal_at_any_line_of_a_life_leaves_nobody_asleep(
    play: Any, options: dict[str, Any], exact: bool, catches: bool
) -> None:
    interrupt_often(play.__name__, play, exact=exact, catches=catches, at_once=True, **options)


@pytest.mark.parametrize("catches", [False, True], ids=["let through", "caught"])
def test_a_drain_ends_though_a_signal_meets_a_handler_before_its_first_step(catches: bool) -> None:
    async def play(stage: Stage) -> None:
        stage.waits("drain", be_opened_and_drain, stage)

    interrupt(play, "Handlers.run", catches=catches, exact=False, at_once=True)


@pytest.mark.parametrize("catches", [False, True], ids=["let through", "caught"])
@pytest.mark.parametrize("function", ["share", "Outbox.close", "SharedChannel.write"])
def test_a_signal_in_the_block_of_a_shared_channel_leaves_no_task_behind(function: str, catches: bool) -> None:
    async def play(stage: Stage) -> None:
        async def send() -> None:
            async with share(memory_pair()[0]) as bus:
                await bus.send({"n": 1})

        await stage.attempt(send)

    interrupt(play, function, catches=catches, exact=False, at_once=True)
