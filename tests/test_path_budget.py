"""What a turn, or a part of a stream, may cost: steps of tasks, system calls, cancel scopes; counted and not timed."""

from __future__ import annotations

import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Classic, Dialect, Exact, Session, SessionManager
from psession.channels import _framed, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TURNS = 3200

MOST = {
    # Per turn, both ends together, in one process. With one in flight the steps have room for waiting awake.
    1: {"steps": 12, "writes": 2.01, "scopes": 0.05, "deadlines": 0.05},
    64: {"steps": 2.9, "writes": 0.5, "scopes": 0.05, "deadlines": 0.05},
}

PARTS = 6400

MOST_A_PART = {
    # Per part of a stream with so much credit, likewise.
    32: {"steps": 0.3, "writes": 0.13, "scopes": 0.01, "deadlines": 0.01},
    256: {"steps": 0.2, "writes": 0.07, "scopes": 0.01, "deadlines": 0.01},
}


class Steps(trio.abc.Instrument):
    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.counts["steps"] += 1


@pytest.fixture
async def counts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counter[str]]:
    """What happens in this run of Trio from now on."""
    counted: Counter[str] = Counter()

    class CountingOs:
        """The module `os`, its writes counted."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, descriptor: int, data: bytes) -> int:
            counted["writes"] += 1
            return os.write(descriptor, data)

    enter = trio.CancelScope.__enter__

    def entered(scope: trio.CancelScope) -> trio.CancelScope:
        counted["scopes"] += 1
        return enter(scope)

    monkeypatch.setattr(_framed, "os", CountingOs())
    monkeypatch.setattr(trio.CancelScope, "__enter__", entered)
    steps = Steps(counted)
    trio.lowlevel.add_instrument(steps)
    yield counted
    trio.lowlevel.remove_instrument(steps)


async def answer(session: Session) -> None:
    async for message in session:
        await session.post(message)


@pytest.mark.parametrize("dialect", [Classic(), Exact()], ids=["classic", "exact"])
@pytest.mark.parametrize("in_flight", sorted(MOST))
async def test_a_turn_keeps_to_its_budget(counts: Counter[str], dialect: Dialect, in_flight: int) -> None:
    near, far = socket.socketpair()
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (near, far)]

    async def ask(session: Session, turns: int) -> None:
        for n in range(turns):
            await session.send({"n": n})

    async with (
        SessionManager().port("far", lines(ends[1]), on_session=answer),
        SessionManager(dialect=dialect).port("near", lines(ends[0])) as port,
    ):
        sessions = [port.create() for _ in range(in_flight)]
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(ask, session, 3)
        heap = len(port._engine.connection.deadlines._heap)
        counts.clear()
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(ask, session, TURNS // in_flight)
        counts["deadlines"] = len(port._engine.connection.deadlines._heap) - heap
    spent = {name: counts[name] / TURNS for name in MOST[in_flight]}
    assert {name: figure for name, figure in spent.items() if figure > MOST[in_flight][name]} == {}, spent


async def say_many(session: Session) -> None:
    async for message in session:
        for n in range(message["count"]):
            await session.post({"n": n})


@pytest.mark.parametrize("credit", sorted(MOST_A_PART))
async def test_a_part_of_a_stream_keeps_to_its_budget(counts: Counter[str], credit: int) -> None:
    near, far = socket.socketpair()
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (near, far)]
    async with (
        SessionManager().port("far", lines(ends[1]), on_session=say_many),
        SessionManager(dialect=Exact()).port("near", lines(ends[0])) as port,
        port.session() as session,
    ):
        heap = port._engine.connection.deadlines._heap
        for count in (credit, PARTS):
            counts.clear()
            before = len(heap)
            async with session.stream({"count": count}, credit=credit) as replies:
                assert [reply["n"] async for reply in replies] == list(range(count))
        counts["deadlines"] = len(heap) - before
    spent = {name: counts[name] / PARTS for name in MOST_A_PART[credit]}
    assert {name: figure for name, figure in spent.items() if figure > MOST_A_PART[credit][name]} == {}, spent
