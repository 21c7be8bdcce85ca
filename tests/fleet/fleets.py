"""A fleet in one process for the tests: a broker in memory, gateways, devices over channels in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from psession import Exact, Port, Session, SessionManager
from psession.brokers.nats import Nats, open_nats
from psession.channels import memory_pair
from psession.fleet import Fleet, Gateway

from ..brokers.broker import Broker, a_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from typing import TypeVar

    T = TypeVar("T")

settle = trio.testing.wait_all_tasks_blocked


async def who_are_you(port: Port) -> str | None:
    """Authentication of a test: the device says its name."""
    answer = await port.request({"who": True}, timeout=2)
    return answer.get("name")


class Device:
    """A device of a test: it does what it is asked, and keeps what it did."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.did: list[Any] = []
        self.said: list[Any] = []
        self._numbers = count()
        self.manager = SessionManager(dialect=Exact(), session_timeout=10, **options)

    async def answer(self, session: Session) -> None:
        """Each dialogue counts its turns."""
        turn = 0
        async for message in session:
            if message.get("who"):
                await session.post({"name": self.name})
                continue
            self.did.append(message)
            if message.get("parts"):
                for number in range(message["parts"]):
                    await session.post({"part": number})
                    await trio.sleep(message.get("pause", 0))
                await session.finish()
                continue
            await trio.sleep(message.get("wait", 0))
            if message.get("raise"):
                raise RuntimeError("no")
            if message.get("ask"):
                answer = await session.send({"question": "sure?"})
                await session.post({"was": answer})
                continue
            await session.post({"by": self.name, "turn": turn, "echo": message.get("n")})
            turn += 1

    def posted(self, message: Any) -> None:
        """What was posted to it."""
        self.said.append(message)

    @asynccontextmanager
    async def at(self, gateway: Gateway) -> AsyncIterator[Port]:
        """Be connected to a gateway as long as the block lasts, until it has us."""
        near, far = memory_pair()
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await gateway.serve(far, who_are_you)

            nursery.start_soon(serve)
            port_of_device = self.manager.port(
                f"gateway {next(self._numbers)}", near, on_session=self.answer, on_message=self.posted
            )
            async with port_of_device as port:
                await until(lambda: self.name in gateway.devices or port.closed)
                yield port
            nursery.cancel_scope.cancel()


async def until(happens: Any, seconds: float = 30.0) -> None:
    """Wait until something is true, at first a millisecond and at most a twentieth of a second too long."""
    pause = 0.001
    with trio.fail_after(seconds):
        while not happens():
            await trio.sleep(pause)
            pause = min(pause * 1.2, 0.05)


class Way:
    """A way to the broker that may stand still, both ways, while nobody is told: as a process that is stopped."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.flows = trio.Event()
        self.flows.set()

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Connect by it."""
        await self.flows.wait()
        return _Slow(await self._broker.open_stream(host, port), self)

    def stop(self) -> None:
        """Let nothing through."""
        self.flows = trio.Event()


class _Slow(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream, way: Way) -> None:
        self._stream = stream
        self._way = way

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._way.flows.wait()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        await self._way.flows.wait()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class World:
    """A broker, and what is connected to it."""

    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self.broker = broker
        self._stack = stack

    async def enter(self, opening: AbstractAsyncContextManager[T]) -> T:
        """Enter something, to be left before the broker."""
        return await self._stack.enter_async_context(opening)

    async def nats(self, host: str = "broker", **options: Any) -> Nats:
        """A client of the broker's."""
        options = {"rng": lambda: 0.0, "open_stream": self.broker.open_stream, **options}
        return await self.enter(open_nats(f"nats://{host}", **options))

    async def gateway(self, name: str = "g", host: str = "broker", way: Way | None = None, **options: Any) -> Gateway:
        """A gateway with a client of its own."""
        nats = await self.nats(host, **({"open_stream": way.open_stream} if way is not None else {}))
        return await self.enter(Gateway(nats, "home", name=name, **options))

    async def fleet(self, host: str = "broker", **options: Any) -> Fleet:
        """Who asks, with a client of its own."""
        return await self.enter(Fleet(await self.nats(host), "home", **options))


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    """A broker for as long as the block lasts; its clients are closed before it."""
    async with a_broker() as broker, AsyncExitStack() as stack:
        yield World(broker, stack)
