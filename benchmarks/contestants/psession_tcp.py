"""psession over one TCP connection, a message a line.

Ways to ask: ``"send"``, a session for each request in flight, answered by a handler task of its own; ``"served"``, the
same answered by a plain ``on_request``; ``"plain"`` and ``"async"``, `port.request`, whose numbers are all fresh,
answered by such an ``on_request``. And ``"keep"``, a session for each request, which stays open on both sides.
"""

from __future__ import annotations

import itertools
import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from contestants.sharing import HOST, Ask, Ready
from psession import Budget, Exact, Port, Session, SessionManager
from psession.channels import FrameChannel, open_tcp, serve_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

Message = dict[str, Any]


async def on_session(session: Session) -> None:
    """Answer each message with itself."""
    async for message in session:
        await session.post(message)


def plain(message: Message) -> Message:
    """Answer each question with itself."""
    return message


async def later(message: Message) -> Message:
    """The same, in a task."""
    return message


ANSWERS: dict[str, Message] = {
    "send": {"on_session": on_session},
    "served": {"on_request": plain},
    "plain": {"on_request": plain},
    "async": {"on_request": later},
    "keep": {
        "on_session": on_session,
        "max_incoming_sessions": 70_000,
        "session_max_life": math.inf,
        "budget": Budget(2**30),
    },
}
"""The options of the answering manager, by the way that it is asked."""


async def serve(ready: Ready, *, way: str = "send", exact: bool = False, awake: bool = True) -> None:
    """A port for each connection; of the options only `way` and `awake` make a difference here."""
    manager = SessionManager(**ANSWERS[way], busy_wait=awake)
    numbers = itertools.count()

    async def meet(channel: FrameChannel) -> None:
        async with manager.port(f"peer {next(numbers)}", channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_tcp, meet, 0, host=HOST, backlog=1000))
        ready(server.port)


@asynccontextmanager
async def client(
    port: int, in_flight: int, *, way: str = "send", exact: bool = False, awake: bool = True
) -> AsyncIterator[list[Ask]]:
    """One port."""
    async with (
        open_tcp(HOST, port) as channel,
        SessionManager(busy_wait=awake).port("server", channel, **options(exact)) as opened,
    ):
        yield asks(opened, way, in_flight)


def asks(port: Port, way: str, in_flight: int) -> list[Ask]:
    """A session for each request in flight, or one for each request."""

    def keep(message: Message) -> Awaitable[Message]:
        return port.create(session_max_life=math.inf).send(message)

    if way in ("send", "served"):
        return [port.create().send for _ in range(in_flight)]
    return [keep if way == "keep" else port.request] * in_flight


def options(exact: bool) -> dict[str, Any]:
    """What makes the asking port exact; the answering one does as its peer does."""
    return {"dialect": Exact()} if exact else {}
