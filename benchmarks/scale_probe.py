"""One measurement of scale.py, in a process of its own so that it meets a fresh heap. Started by scale.py.

python benchmarks/scale_probe.py PROBE COUNT SECONDS      prints JSON
python benchmarks/scale_probe.py --serve KIND             prints the TCP port, serves until terminated
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import random
import statistics
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from harness import HOST, MANY, REQUEST, Work, end_with_parent, measure, raise_file_limit, server, server_process

from psession import Budget, Exact, Port, Session, SessionManager
from psession.channels import lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

WIDE: dict[str, Any] = {
    "max_incoming_sessions": 70_000,
    "session_max_life": math.inf,
    "budget": Budget(2**30),  # 65,535 sessions at work count 200 MB
}
"""Options of a side that keeps as many sessions of its peer as there are numbers."""

AT_HAND = 512
"""Sessions that are open before latency is measured: at 25,000 a second, for a stall of 20 ms. What comes after
a longer one waits for one of them: with thousands in flight Python's collector takes half of the time."""

PATIENCE = 30.0
"""Seconds that each of their requests waits for its reply."""


# -- the far side ----------------------------------------------------------------------------------------------------


async def answer(session: Session) -> None:
    """Answer each message with itself."""
    async for message in session:
        await session.post(message)


def answer_plainly(message: Any) -> Any:
    """Answer each question with itself."""
    return message


async def answer_later(message: Any) -> Any:
    """The same, in a task."""
    return message


KINDS: dict[str, dict[str, Any]] = {
    "default": {"on_session": answer},
    "wide": {"on_session": answer, **WIDE},
    "plain": {"on_request": answer_plainly},
    "async": {"on_request": answer_later},
}


async def serve(kind: str) -> None:
    """A port for each connection, with the options of `kind`."""
    raise_file_limit()
    manager = SessionManager(**KINDS[kind])
    numbers = itertools.count()

    async def meet(stream: trio.SocketStream) -> None:
        async with manager.port(f"peer {next(numbers)}", lines(stream)) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, meet, 0, host=HOST, backlog=1000))
        print(listeners[0].socket.getsockname()[1], flush=True)


# -- this side -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def memory_port(manager: SessionManager, name: str = "memory") -> AsyncIterator[Port]:
    """A port whose synchronous sender hands each message back as its own reply."""

    def echo(message: Any) -> None:
        port.dispatch(message)

    async with manager.port(name, echo) as port:
        yield port


@asynccontextmanager
async def tcp_port(manager: SessionManager, tcp: int, name: str = "tcp") -> AsyncIterator[Port]:
    """A port over a connection of its own."""
    async with manager.port(name, lines(await trio.open_tcp_stream(HOST, tcp))) as port:
        yield port


@asynccontextmanager
async def many(open_one: Callable[[str], Any], count: int) -> AsyncIterator[list[Port]]:
    """So many ports, each the block of a task of its own."""
    ports: list[Port] = []

    async def hold(name: str, task_status: trio.TaskStatus[Port]) -> None:
        async with open_one(name) as port:
            task_status.started(port)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for number in range(count):
            ports.append(await nursery.start(hold, f"port {number}"))  # noqa: PERF401 - one at a time
        yield ports
        nursery.cancel_scope.cancel()


def in_turns(sends: Sequence[Callable[[Any], Awaitable[Any]]], in_flight: int = 1) -> Work:
    """Each of `sends` in its turn, so that whatever grows with their number is met by every turn."""
    rings = [itertools.cycle(sends[start::in_flight]) for start in range(in_flight)]

    async def one(ring: Any, turns: int) -> None:
        for _ in range(turns):
            await next(ring)(REQUEST)

    async def work(turns: int) -> None:
        if in_flight == 1:
            await one(rings[0], turns)
            return
        async with trio.open_nursery() as nursery:
            for ring in rings:
                nursery.start_soon(one, ring, turns // in_flight + 1)

    return work


def resident(process: int | str = "self") -> int:
    """Bytes of memory that a process has in RAM."""
    if process == "self":
        gc.collect()
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def microseconds(work: Work, first: int, seconds: float) -> dict[str, float]:
    """What a turn costs, after everything was used once."""
    await work(first)
    return {"us": 1e6 / await measure(work, seconds)}


# -- probes ----------------------------------------------------------------------------------------------------------


async def sessions(count: int, seconds: float) -> dict[str, float]:
    """A turn in memory, in each of so many open sessions in turn."""
    async with memory_port(SessionManager(session_max_life=math.inf)) as port:
        return await microseconds(in_turns([port.create().send for _ in range(count)]), count, seconds)


async def idle_sessions(count: int, seconds: float) -> dict[str, float]:
    """A turn in memory in one session, the others open and idle."""
    async with memory_port(SessionManager(session_max_life=math.inf)) as port:
        opened = [port.create().send for _ in range(count)]
        return await microseconds(in_turns(opened[:1]), 200, seconds)


async def tcp_sessions(count: int, seconds: float) -> dict[str, float]:
    """A turn over TCP, 64 in flight, in each of so many sessions in turn, which are open on both sides."""
    async with server("scale_probe.py", "wide") as tcp, tcp_port(SessionManager(**WIDE), tcp) as port:
        opened = [port.create().send for _ in range(max(count, MANY))]
        return await microseconds(in_turns(opened, MANY), len(opened), seconds)


async def ports(count: int, seconds: float) -> dict[str, float]:
    """A turn in memory, in a session of each of so many ports in turn."""
    manager = SessionManager(session_max_life=math.inf)
    async with many(partial(memory_port, manager), count) as opened:
        return await microseconds(in_turns([port.create().send for port in opened]), count, seconds)


async def connections(count: int, seconds: float) -> dict[str, float]:
    """A turn over TCP, one at a time, over each of so many connections to one server process in turn."""
    manager = SessionManager(session_max_life=math.inf)
    async with server("scale_probe.py", "default") as tcp, many(partial(tcp_port, manager, tcp), count) as opened:
        return await microseconds(in_turns([port.create().send for port in opened]), count, seconds)


async def session_bytes(count: int, _seconds: float) -> dict[str, float]:
    """Memory of an open session: fresh, after a turn, and on the side that its peer opened it on."""
    async with (
        server_process("scale_probe.py", "wide") as (tcp, process),
        tcp_port(SessionManager(**WIDE), tcp) as port,
    ):
        await port.request(REQUEST)
        near, far = resident(), resident(process)
        opened = [port.create() for _ in range(count)]
        fresh = resident()
        await in_turns([session.send for session in opened], MANY)(count)
        used, served = resident(), resident(process)
    return {
        "fresh": (fresh - near) / count,
        "after a turn": (used - near) / count,
        "opened by the peer, with its handler's task": (served - far) / count,
    }


async def port_bytes(count: int, _seconds: float) -> dict[str, float]:
    """Memory of an open port over a sender, with the task that holds it open: fresh, and after a turn."""
    manager = SessionManager()
    async with memory_port(manager, "first") as first:
        await first.request(REQUEST)
        before = resident()
        async with many(partial(memory_port, manager), count) as opened:
            fresh = resident()
            await in_turns([port.request for port in opened])(count)
            used = resident()
    return {"fresh": (fresh - before) / count, "after a turn": (used - before) / count}


async def connection_bytes(count: int, _seconds: float) -> dict[str, float]:
    """Memory of a TCP connection with its port, after a turn: here and in the server, the kernel's part not counted."""
    manager = SessionManager()
    async with server_process("scale_probe.py", "default") as (tcp, process):
        async with many(partial(tcp_port, manager, tcp), 1) as first:
            await first[0].request(REQUEST)
        near, far = resident(), resident(process)
        async with many(partial(tcp_port, manager, tcp), count) as opened:
            await in_turns([port.request for port in opened])(count)
            return {"client": (resident() - near) / count, "server": (resident(process) - far) / count}


async def requests_bytes(count: int, _seconds: float) -> dict[str, float]:
    """Memory of both processes after so many requests and after a hundredth of them, 64 in flight, a session each."""
    return await _memory_of("default", SessionManager(), count, count // 100)


async def exact_plain_bytes(count: int, _seconds: float) -> dict[str, float]:
    """The same on the exact wire to a plain ``on_request``, from a tenth on: by then all answers are kept that may."""
    return await _memory_of("plain", SessionManager(dialect=Exact()), count, count // 10)


async def exact_async_bytes(count: int, _seconds: float) -> dict[str, float]:
    """The same to an async one."""
    return await _memory_of("async", SessionManager(dialect=Exact()), count, count // 10)


async def _memory_of(kind: str, manager: SessionManager, count: int, few: int) -> dict[str, float]:
    """Memory after `count` requests by that after a `few` of them."""
    async with (
        server_process("scale_probe.py", kind) as (tcp, process),
        tcp_port(manager, tcp) as port,
    ):
        work = in_turns([port.request] * MANY, MANY)
        few = max(few, MANY)
        await work(few)
        near, far = resident(), resident(process)
        await work(count - few)
        near_after, far_after = resident(), resident(process)
    return {"client": near_after / near, "server": far_after / far, "client, bytes": near_after}


async def latency(steady: int, seconds: float) -> dict[str, float]:
    """At half the peak load, over TCP: the median and the 99th percentile in µs, from when a request was due.

    Requests are due evenly (`steady` is 1) or at random, as Poisson has it (0), whether or not those before are
    answered; each takes a session that is free, of those that were open before, or waits for one.
    """
    async with server("scale_probe.py", "default") as tcp, tcp_port(SessionManager(), tcp) as port:
        opened = [port.create(timeout=PATIENCE) for _ in range(AT_HAND)]
        await in_turns([session.send for session in opened], MANY)(AT_HAND)
        return await half_loaded(Load(opened), steady, seconds)


async def bare_latency(steady: int, seconds: float) -> dict[str, float]:
    """The same over as many connections, with Trio's streams and nothing else: what the machine itself does to it."""
    async with server("core.py", "bare") as tcp, AsyncExitStack() as stack:
        enter = stack.enter_async_context
        streams = [await enter(await trio.open_tcp_stream(HOST, tcp)) for _ in range(MANY)]
        return await half_loaded(BareLoad(streams), steady, seconds)


async def half_loaded(load: Load, steady: int, seconds: float) -> dict[str, float]:
    """The peak, and the latency at half of it."""
    peak = await measure(load.at_most, seconds)
    took = await load.at_rate(peak / 2, 4 * seconds, steady=bool(steady))
    took = took[len(took) // 10 :]
    ninety_nine, median = statistics.quantiles(took, n=100)[98] * 1e6, statistics.median(took) * 1e6
    return {"peak, a second": peak, "median, µs": median, "p99, µs": ninety_nine, "p99 / median": ninety_nine / median}


class Load:
    """Requests that are a task each, as a server's are, and take a session that is free."""

    def __init__(self, sessions: list[Session]) -> None:
        self._free = sessions
        self._waiting = trio.lowlevel.ParkingLot()

    async def request(self) -> None:
        """One round trip."""
        while not self._free:
            await self._waiting.park()
        session = self._free.pop()
        await session.send(REQUEST)
        self._free.append(session)
        self._waiting.unpark()

    async def at_most(self, turns: int) -> None:
        """As many as there is time for, 64 in flight."""
        left = turns

        async def one_after_the_other() -> None:
            nonlocal left
            await self.request()
            left -= 1
            if left >= MANY:
                nursery.start_soon(one_after_the_other)

        async with trio.open_nursery() as nursery:
            for _ in range(MANY):
                nursery.start_soon(one_after_the_other)

    async def at_rate(self, rate: float, seconds: float, *, steady: bool) -> list[float]:
        """So many a second for so long; how long each took, from when it was due, in seconds."""
        took: list[float] = []
        chance = random.Random(1)

        async def one(due: float) -> None:
            await self.request()
            took.append(trio.current_time() - due)

        async with trio.open_nursery() as nursery:
            due = trio.current_time() + 0.01
            over = due + seconds
            while due < over:
                # Not trio.sleep, which wakes up to a millisecond late: that is ten round trips.
                while trio.current_time() < due:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(one, due)
                due += 1 / rate if steady else chance.expovariate(rate)
        return took


class BareLoad(Load):
    """The same of connections instead of sessions; when none is free, a request waits for one."""

    def __init__(self, streams: list[trio.SocketStream]) -> None:
        self._streams = streams
        self._room = trio.Semaphore(len(streams))

    async def request(self) -> None:
        """One round trip."""
        async with self._room:
            stream = self._streams.pop()
            await stream.send_all(msgspec.json.encode(REQUEST) + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                data += await stream.receive_some(65536)
            msgspec.json.decode(data)
            self._streams.append(stream)


PROBES = {
    probe.__name__: probe
    for probe in (
        *(sessions, idle_sessions, tcp_sessions, ports, connections),
        *(session_bytes, port_bytes, connection_bytes, requests_bytes, exact_plain_bytes, exact_async_bytes),
        *(latency, bare_latency),
    )
}


async def main(probe: str, count: int, seconds: float) -> None:
    """Measure and print."""
    raise_file_limit()
    print(json.dumps(await PROBES[probe](count, seconds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probe", nargs="?", choices=PROBES)
    parser.add_argument("count", nargs="?", type=int)
    parser.add_argument("seconds", nargs="?", type=float)
    parser.add_argument("--serve", metavar="KIND")
    arguments = parser.parse_args()
    if arguments.serve:
        end_with_parent()
        trio.run(serve, arguments.serve)
    else:
        trio.run(main, arguments.probe, arguments.count, arguments.seconds)
