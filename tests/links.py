"""Lines that a test cuts: a server whose ports resume, and a client that connects to it again."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession import Exact, Port, Session, SessionManager
from psession.channels import memory_pair, reconnecting
from psession.testing import lossy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Work:
    """What a server's handlers have done: each message's ``n``, as often as it was run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    async def handle(self, session: Session) -> None:
        """Answer each message with twice its ``n``, after ``sleep`` seconds."""
        async for message in session:
            self.runs.append(message["n"])
            await trio.sleep(message.get("sleep", 0))
            await session.post({"twice": 2 * message["n"]})


class HalfOpen(trio.abc.Channel[Any]):
    """A line whose other end may vanish without a word: then nothing arrives, either way."""

    def __init__(self, channel: trio.abc.Channel[Any]) -> None:
        self.channel = channel
        self.vanished = False

    async def send(self, value: Any) -> None:
        if self.vanished:
            await trio.lowlevel.checkpoint()
        else:
            await self.channel.send(value)

    async def receive(self) -> Any:
        message = await self.channel.receive()
        if self.vanished:
            await trio.sleep_forever()
        return message

    async def aclose(self) -> None:
        await self.channel.aclose()


class Network:
    """A server in this process, and the lines to it."""

    def __init__(self, nursery: trio.Nursery, work: Work, **options: Any) -> None:
        self.work = work
        self.server = SessionManager(on_session=work.handle, **options)
        self.ports: list[Port] = []
        self.lines: list[Any] = []
        self.served: list[str] = []
        self.up = True
        self.odds: dict[str, Any] = {}
        self.nursery = nursery

    async def serve(self, channel: trio.abc.Channel[Any]) -> None:
        """As a server's program does it."""
        async with self.server.accept(channel, f"client {len(self.ports)}") as port:
            self.served.append("resumed" if port in self.ports else "fresh")
            if port not in self.ports:
                self.ports.append(port)
            await port.wait_closed()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Channel[Any]]:
        """A line to the server; a bad one with `odds`."""
        if not self.up:
            raise OSError("the network is down")
        near, there = memory_pair()
        here = HalfOpen(near)
        self.lines.append(here)
        self.nursery.start_soon(self.serve, there)
        if not self.odds:
            yield here
            return
        async with lossy(here, **{**self.odds, "seed": f"{self.odds['seed']}, line {len(self.lines)}"}) as line:
            yield line

    async def cut(self) -> None:
        """Break the link that stands."""
        await self.lines[-1].aclose()

    async def restart(self) -> None:
        """The server loses its memory, as by kill -9: the links break, and a new one stands in its place."""
        await self.cut()
        for port in self.ports:
            port.close()
        self.server = SessionManager(on_session=self.work.handle, resume_within=30)


@asynccontextmanager
async def client(network: Network, **options: Any) -> AsyncIterator[Port]:
    """A port that connects to `network`, and lives on for 30 s when its link breaks."""
    manager = SessionManager(dialect=Exact(), **{"resume_within": 30, **options})
    async with (
        reconnecting(network.connect, first_delay=1, jitter=0, max_delay=5) as channel,
        manager.port("server", channel) as port,
    ):
        yield port
