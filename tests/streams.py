"""Both ends of a stream for tests: handlers that count, ports that are empty in the end, and what was counted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession import Exact, Port, Replies, Session, SessionManager
from psession.channels import memory_pair

from .peers import Wire
from .tables import assert_empty, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXACT = Exact()


@asynccontextmanager
async def two_ports(handler: Any, **options: Any) -> AsyncIterator[tuple[Port, Port]]:
    """An asker and its answerer; in the end both are empty."""
    here, there = memory_pair()
    manager = SessionManager(dialect=EXACT)
    async with (
        manager.port("asker", here, **options) as asker,
        manager.port("answerer", there, on_session=handler, **options) as answerer,
    ):
        yield asker, answerer
    assert_empty(manager, asker, answerer)
    assert_no_timers()


@asynccontextmanager
async def wired(**options: Any) -> AsyncIterator[tuple[Port, Wire]]:
    """An asker whose peer is the test."""
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("asker", wire, **options) as port:
        yield port, wire


async def count_up(session: Session) -> None:
    """Reply ``to`` times, every ``every`` seconds."""
    async for message in session:
        for number in range(1, message.get("to", 3) + 1):
            await trio.sleep(message.get("every", 0))
            await session.post({"number": number})


async def post_many(session: Session) -> None:
    """More than anybody takes."""
    for number in range(10):
        await session.post({"number": number})


def numbers(replies: list[Any]) -> list[int]:
    """What `count_up` counted."""
    return [reply["number"] for reply in replies]


async def consume(replies: Replies, got: list[Any]) -> None:
    """Keep what comes, until the end or an error."""
    async for reply in replies:
        got.append(reply)  # noqa: PERF401 - what came before an error stays


async def all_of(port: Port, message: Any, **options: Any) -> list[int]:
    """The numbers of a whole stream."""
    async with port.stream(message, **options) as replies:
        return numbers([reply async for reply in replies])
