"""One contestant of peers.py, one half of it, in a process of its own. Started by peers.py.

    python benchmarks/contestant.py --serve NAME                          prints the TCP port, serves until terminated
    python benchmarks/contestant.py --client NAME PORT PROCESS SECONDS    prints {"1": [round trips a second, CPU µs of
                                                                          the client, and of the server], "64": ...}

What this machine lacks is no failure: the first line is then "skip: " and the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from contestants import CONTESTANTS, Contestant
from harness import Skipped, Work, cpu_seconds, end_with_parent, measure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def serve(contestant: Contestant, module: Any) -> None:
    """Print the port, serve until cancelled."""
    await module.serve(partial(print, flush=True), **contestant.options)


async def client(contestant: Contestant, module: Any, port: int, process: int, seconds: float) -> None:
    """Measure with each number in flight, over connections of its own, and print."""
    figures = {}
    processes = (os.getpid(), process or os.getpid())
    for in_flight in contestant.in_flight:
        async with module.client(port, in_flight, **contestant.options) as work:
            done = 0

            async def counted(turns: int, work: Work = work) -> None:
                nonlocal done
                await work(turns)
                done += turns

            before = [cpu_seconds(one) for one in processes]
            rate = await measure(counted, seconds)
            used = [1e6 * (cpu_seconds(one) - start) / done for one, start in zip(processes, before, strict=True)]
            figures[in_flight] = [rate, *used]
    print(json.dumps(figures))


async def on_trio(main: Callable[[], Awaitable[None]]) -> None:
    """Until it returns or the process is told to terminate: then what it started is ended."""

    async def run() -> None:
        try:
            await main()
        except Skipped as why:
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


def main(arguments: argparse.Namespace) -> None:
    """Run one half, on the loop that it is for."""
    if arguments.serve:
        end_with_parent()
    name, *rest = arguments.client or [arguments.serve]
    contestant = CONTESTANTS[name]
    try:
        module = importlib.import_module(f"contestants.{contestant.module}")
        half = partial(client, contestant, module, int(rest[0]), int(rest[1]), float(rest[2])) if rest else None
        start = half or partial(serve, contestant, module)
        if contestant.loop == "trio":
            trio.run(on_trio, start)
        else:
            asyncio.run(on_asyncio(start))
    except (ImportError, Skipped) as why:
        skip(why)


def skip(why: Exception) -> None:
    """Tell peers.py that this one cannot take part here."""
    print(f"skip: {why}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    half = parser.add_mutually_exclusive_group(required=True)
    half.add_argument("--serve", metavar="NAME", choices=CONTESTANTS)
    half.add_argument("--client", nargs=4, metavar=("NAME", "PORT", "PROCESS", "SECONDS"))
    main(parser.parse_args())
