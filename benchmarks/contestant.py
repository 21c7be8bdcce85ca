"""One contestant, one half of it, in a process of its own. Started by contest.py.

    python benchmarks/contestant.py --serve NAME                           prints the TCP port, serves until terminated
    python benchmarks/contestant.py --client NAME PORT PROCESS WHAT NUMBERS SECONDS
                                                                           prints {NUMBER: {FIGURE: VALUE}}

WHAT is measured for each of NUMBERS (``1,64``):

    speed     round trips a second with so many in flight
    bytes     the same with messages of so many bytes and 64 in flight
    crowd     the same over so many connections with one in flight each, and how long they take
    one_way   messages a second that the server says one after another
    offered   how long requests take that come by schedule, so many a second
    opened    the same at 10,000 a second, until there were so many

with the µs of processor that a round trip costs, the client's and the server's. ``--tune TUNING`` tunes Python's
collector in this process: see tuning.py. What this machine lacks is no failure: the first line is then "skip: " and the
reason.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import statistics
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import open_loop
import trio
from contestants import CONTESTANTS, Contestant
from contestants.sharing import REQUEST, Ask, asyncio_work, long, trio_work
from harness import MANY, Skipped, Work, cpu_seconds, end_with_parent, measure, raise_file_limit
from tuning import PYTHON, TUNINGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Figures = dict[str, float]

OPENED_RATE = 10_000
"""Sessions opened a second, where they stay open."""


class Client:
    """The asking half of a contestant.

    Args:
        contestant: Which one.
        port: Where its server listens.
        process: Its server's number; 0: there is none.
        seconds: How long each measurement takes, about.
        tune: What to do before each of them, when all is open.
    """

    def __init__(
        self, contestant: Contestant, port: int, process: int, seconds: float, tune: Callable[[], object]
    ) -> None:
        self.contestant = contestant
        self.processes = (os.getpid(), process) if process else (os.getpid(),)
        self.seconds = seconds
        self.tune = tune
        module = importlib.import_module(f"contestants.{contestant.module}")
        self.connect = partial(module.client, port, **contestant.options)
        self.on_trio = contestant.loop == "trio"
        self.work = trio_work if self.on_trio else asyncio_work

    async def speed(self, in_flight: int) -> Figures:
        """Round trips a second with so many in flight."""
        async with self.connect(in_flight) as asks:
            return await self._rate(asks, REQUEST)

    async def one_way(self, _: int) -> Figures:
        """Messages a second that the server says one after another."""
        async with self.connect(1) as work:
            return await self._rate_of(work, 1)

    async def bytes(self, size: int) -> Figures:
        """The same with messages of so many bytes."""
        async with self.connect(MANY) as asks:
            return await self._rate(asks, long(size))

    async def crowd(self, connections: int) -> Figures:
        """The same over so many connections with one in flight each."""
        took: list[float] = []

        def timed(ask: Ask) -> Ask:
            async def timed_ask(message: dict[str, Any]) -> None:
                start = time.monotonic()
                await ask(message)
                took.append(time.monotonic() - start)

            return timed_ask

        async with (many_on_trio if self.on_trio else many_on_asyncio)(self.connect, connections) as asks:
            figures = await self._rate([timed(ask) for ask in asks], REQUEST)
        return {**figures, **_percentiles(took)}

    async def offered(self, rate: int) -> Figures:
        """How long requests take that come by schedule, so many a second."""
        return await self._by_schedule(rate, self.seconds)

    async def opened(self, count: int) -> Figures:
        """The same with `OPENED_RATE` a second, until there were so many."""
        return await self._by_schedule(OPENED_RATE, count / OPENED_RATE)

    async def _by_schedule(self, rate: int, seconds: float) -> Figures:
        async with self.connect(open_loop.AT_ONCE) as asks:
            await self.work(asks, REQUEST)(len(asks))
            self.tune()
            used = Used(self.processes)
            way = open_loop.on_trio if self.on_trio else open_loop.on_asyncio
            took = await way(asks, open_loop.schedule(rate, seconds))
            return {**_percentiles(took), **used.by(len(took))}

    async def _rate(self, asks: list[Ask], message: dict[str, Any]) -> Figures:
        return await self._rate_of(self.work(asks, message), len(asks))

    async def _rate_of(self, work: Work, step: int) -> Figures:
        done = 0

        async def counted(turns: int) -> None:
            nonlocal done
            await work(turns)
            done += turns

        self.tune()
        used = Used(self.processes)
        return {"rate": await measure(counted, self.seconds, step), **used.by(done)}


class Used:
    """What processes use of the processors from now on."""

    def __init__(self, processes: tuple[int, ...]) -> None:
        self._before = {process: cpu_seconds(process) for process in processes}

    def by(self, count: int) -> Figures:
        """The µs for each of so many."""
        used = [1e6 * (cpu_seconds(process) - before) / count for process, before in self._before.items()]
        return dict(zip(("client", "server"), [*used, 0.0], strict=False))


def _percentiles(took: list[float]) -> Figures:
    """In µs, the first tenth not counted."""
    hundredths = statistics.quantiles(took[len(took) // 10 :], n=100)
    return {"p50": 1e6 * hundredths[49], "p99": 1e6 * hundredths[98], "most": 1e6 * max(took[len(took) // 10 :])}


@asynccontextmanager
async def many_on_trio(connect: Callable[[int], Any], count: int) -> AsyncIterator[list[Ask]]:
    """So many connections, each the block of a task of its own: blocks inside each other would add up."""
    asks: list[Ask] = []

    async def hold(task_status: trio.TaskStatus[Ask]) -> None:
        async with connect(1) as (ask,):
            task_status.started(ask)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            asks.append(await nursery.start(hold))  # noqa: PERF401 - one at a time
        yield asks
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def many_on_asyncio(connect: Callable[[int], Any], count: int) -> AsyncIterator[list[Ask]]:
    """So many connections."""
    async with AsyncExitStack() as stack:
        yield [(await stack.enter_async_context(connect(1)))[0] for _ in range(count)]


async def client(contestant: Contestant, arguments: list[str], tune: Callable[[], object]) -> None:
    """Measure with each number, over connections of its own, and print."""
    port, process, what, numbers, seconds = arguments
    asking = Client(contestant, int(port), int(process), float(seconds), tune)
    print(json.dumps({number: await getattr(asking, what)(int(number)) for number in numbers.split(",")}))


async def serve(contestant: Contestant, tune: Callable[[], object]) -> None:
    """Print the port, serve until cancelled."""

    def ready(port: int) -> None:
        tune()
        print(port, flush=True)

    await importlib.import_module(f"contestants.{contestant.module}").serve(ready, **contestant.options)


async def on_trio(main: Callable[[], Awaitable[None]]) -> None:
    """Until it returns or the process is told to terminate: then what it started is ended."""

    async def run() -> None:
        try:
            await main()
        except (ImportError, Skipped) as why:
            skip(why)
        nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await anext(signals)
            nursery.cancel_scope.cancel()


async def on_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    """The same."""
    task = asyncio.ensure_future(main())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def run(contestant: Contestant, half: Callable[[], Awaitable[None]]) -> None:
    """Run one half, on the loop that it is for."""
    raise_file_limit()
    try:
        if contestant.loop == "trio":
            trio.run(on_trio, half)
        elif contestant.loop == "uvloop":
            importlib.import_module("uvloop").run(on_asyncio(half))
        else:
            asyncio.run(on_asyncio(half))
    except (ImportError, Skipped) as why:
        skip(why)


def skip(why: Exception) -> None:
    """Tell contest.py that this one cannot take part here."""
    print(f"skip: {why}", flush=True)


def main(arguments: argparse.Namespace) -> None:
    """Run one half."""
    tune = TUNINGS[arguments.tune]
    if arguments.serve:
        end_with_parent()
        run(CONTESTANTS[arguments.serve], partial(serve, CONTESTANTS[arguments.serve], tune))
    else:
        name, *rest = arguments.client
        run(CONTESTANTS[name], partial(client, CONTESTANTS[name], rest, tune))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    half = parser.add_mutually_exclusive_group(required=True)
    half.add_argument("--serve", metavar="NAME", choices=CONTESTANTS)
    half.add_argument("--client", nargs=6, metavar=("NAME", "PORT", "PROCESS", "WHAT", "NUMBERS", "SECONDS"))
    parser.add_argument("--tune", choices=TUNINGS, default=PYTHON)
    main(parser.parse_args())
