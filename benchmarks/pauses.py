"""How long Python's collector stops a program of psession's, by how it is set; see `psession.tune_gc`.

    python benchmarks/pauses.py [--sessions N] [--connections N]

Both ends in one process, over WebSockets. Pauses are counted in processor time, so that a busy machine hardly changes
them. Each line is a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import open_loop
import trio
from contestant import OPENED_RATE, many_on_trio
from contestants import psession_websocket
from contestants.sharing import REQUEST, trio_work
from harness import ask_process, markdown, raise_file_limit
from tuning import TUNINGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SESSIONS = 40_000
CONNECTIONS = 1000
LIMIT_SECONDS = 120.0
TURNS = 20
"""Round trips over each of many connections."""


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """How often the collector looks at each generation, and in ms how long that takes and the longest time."""
    found = {f"{what} {generation}": 0.0 for generation in range(3) for what in ("times", "ms")} | {"longest": 0.0}
    began = 0.0

    def watch(phase: str, about: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
            return
        took = 1000 * (time.thread_time() - began)
        found[f"times {about['generation']}"] += 1
        found[f"ms {about['generation']}"] += took
        found["longest"] = max(found["longest"], took)

    start = time.process_time()
    gc.callbacks.append(watch)
    try:
        yield found
    finally:
        gc.callbacks.remove(watch)
        found["all"] = 1000 * (time.process_time() - start)


@asynccontextmanager
async def served(way: str) -> AsyncIterator[int]:
    """A server in this process, and where it listens."""

    async def serve(task_status: trio.TaskStatus[int]) -> None:
        await psession_websocket.serve(task_status.started, way=way)

    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


async def sessions(count: int, tuning: str) -> dict[str, float]:
    """So many sessions are opened by a schedule, and stay open."""
    async with served("keep") as port, psession_websocket.client(port, open_loop.AT_ONCE, way="keep") as asks:
        TUNINGS[tuning]()
        with watched() as found:
            await open_loop.on_trio(asks, open_loop.schedule(OPENED_RATE, count / OPENED_RATE))
    return found


async def connections(count: int, tuning: str) -> dict[str, float]:
    """So many clients each ask one question after another, which are answered by an async ``on_request``."""
    connect = partial(psession_websocket.client, way="async")
    async with served("async") as port:
        TUNINGS[tuning]()
        async with many_on_trio(partial(connect, port), count) as asks:
            with watched() as found:
                await trio_work(asks, REQUEST)(TURNS * count)
    return found


CASES = {"sessions": sessions, "connections": connections}


async def tables(sessions: int, connections: int) -> str:
    """All of it, as Markdown."""
    cases = {
        "sessions": (sessions, f"{sessions:,} sessions opened, {OPENED_RATE:,} a second"),
        "connections": (connections, f"{TURNS * connections:,} requests over {connections:,} connections at once"),
    }
    parts = []
    for case, (count, what) in cases.items():
        rows = []
        for tuning in TUNINGS:
            found = await ask_process("pauses.py", "--one", case, tuning, str(count), within=LIMIT_SECONDS)
            looks = [f"{found[f'times {old}']:,.0f}, {found[f'ms {old}']:,.0f} ms" for old in range(3)]
            of_all = sum(found[f"ms {old}"] for old in range(3)) / found["all"]
            rows.append([tuning, *looks, f"{found['longest']:,.0f} ms", f"{of_all:.0%}"])
            print(f"{case}, {tuning}: done", file=sys.stderr)
        parts.append(markdown([what, "young", "middle", "full", "longest", "of all processor time"], rows))
    return "\n\n".join(parts)


async def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    if arguments.one:
        raise_file_limit()
        case, tuning, count = arguments.one
        print(json.dumps(await CASES[case](int(count), tuning)))
    else:
        print(await tables(arguments.sessions, arguments.connections))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    trio.run(main, parser.parse_args())
