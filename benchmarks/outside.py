"""What a request costs from outside Trio, against one from a Trio task: `psession.asyncio` on both loops, and threads.

    python benchmarks/outside.py [--rounds N] [--requests N]

Two processes on loopback, 91-byte JSON, TCP. Each round measures each way in turn; the figures are medians of the time
on the clock and of this process's processor time, both of all its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from harness import MANY, REQUEST

from psession import SessionManager
from psession.asyncio import bridge
from psession.blocking import open_port
from psession.channels import open_tcp

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


class Watch:
    """Measures what is done between its start and its end, in microseconds for each request."""

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """The time on the clock, and the processor's."""
        clock, processor = time.perf_counter() - self.clock, time.process_time() - self.processor
        return clock / self.requests * 1e6, processor / self.requests * 1e6


def on_trio(port: int, in_flight: int, requests: int) -> tuple[float, float]:
    """Ask from Trio tasks."""

    async def main() -> tuple[float, float]:
        async with open_tcp("127.0.0.1", port) as channel, SessionManager().port("server", channel) as server:

            async def some(number: int) -> None:
                for _ in range(number):
                    await server.request(REQUEST)

            await some(100)
            watch = Watch(requests)
            async with trio.open_nursery() as nursery:
                for _ in range(in_flight):
                    nursery.start_soon(some, requests // in_flight)
            return watch.stop()

    return trio.run(main)


def on_asyncio(new_loop: Callable[[], Any]) -> Callable[[int, int, int], tuple[float, float]]:
    """Ask from asyncio's tasks, through a bridge, in loops of that kind."""

    async def main(port: int, in_flight: int, requests: int) -> tuple[float, float]:
        async with (
            bridge() as bridged,
            bridged.open(open_tcp("127.0.0.1", port)) as channel,
            bridged.open(SessionManager().port("server", channel)) as server,
        ):

            async def some(number: int) -> None:
                for _ in range(number):
                    await server.request(REQUEST)

            await some(100)
            watch = Watch(requests)
            await asyncio.gather(*(some(requests // in_flight) for _ in range(in_flight)))
            return watch.stop()

    def run(port: int, in_flight: int, requests: int) -> tuple[float, float]:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main(port, in_flight, requests))

    return run


def in_threads(port: int, in_flight: int, requests: int) -> tuple[float, float]:
    """Ask from as many threads."""
    with open_port(f"tcp://127.0.0.1:{port}") as server, ThreadPoolExecutor(in_flight) as pool:

        def some(number: int) -> None:
            for _ in range(number):
                server.request(REQUEST)

        some(100)
        watch = Watch(requests)
        list(pool.map(some, [requests // in_flight] * in_flight))
        return watch.stop()


def main(count: int, requests: int) -> None:
    """Measure and print."""
    ways = {"a Trio task": on_trio, "asyncio, a bridge": on_asyncio(asyncio.new_event_loop)}
    try:
        import uvloop
    except ImportError:
        pass
    else:
        ways["uvloop, a bridge"] = on_asyncio(uvloop.new_event_loop)
    ways["threads, open_port"] = in_threads
    command = [sys.executable, str(HERE / "core.py"), "--serve", "sessions"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        print(f"{len(json.dumps(REQUEST, separators=(',', ':')))}-byte JSON, {count} rounds\n")
        print("| `request` from | in flight | µs each | µs of processor | ratio of these |\n|---|---|---|---|---|")
        for in_flight in (1, MANY):
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(count):
                for name, way in ways.items():
                    figures[name].append(way(port, in_flight, requests if in_flight > 1 else requests // 8))
            base = [processor for _, processor in figures["a Trio task"]]
            for name, both in figures.items():
                clock = statistics.median(one for one, _ in both)
                processor = statistics.median(one for _, one in both)
                ratio = statistics.median(one / of for (_, one), of in zip(both, base, strict=True))
                print(f"| {name} | {in_flight} | {clock:.0f} | {processor:.0f} | {ratio:.2f} |", flush=True)
        server.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20000)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.requests)
