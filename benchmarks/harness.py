"""What the benchmarks share: servers in a process of their own, alternating rounds, medians and ratios in one table."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import trio

HERE = Path(__file__).parent

HOST = "127.0.0.1"

NEVER_GIVEN = range(20_000, 32_000)
"""Ports below those that systems give by themselves: Linux gives from 32,768 on, others from 49,152 (RFC 6335)."""

_numbers = cycle(random.Random(os.getpid()).sample(NEVER_GIVEN, len(NEVER_GIVEN)))

REQUEST = {"type": "request", "device": "lamp-0042", "command": "queryStatus", "arguments": {"detail": True}}
"""What every benchmark sends: 100 bytes of JSON, with its number."""

MANY = 64
"""How many requests are in flight where it is not one."""

FEW = (2, 4, 8, 16, 32)
"""And where it is some: few enough that two ends may come to work in turns, each asleep while the other works."""

QUIET_SHARE = 0.1
"""How much of the processors others may use while one measures."""

Work = Callable[[int], Awaitable[None]]
"""Does so many round trips."""


def free_port() -> int:
    """A port for a server that starts later, or is killed and comes back: the system gives it to nobody meanwhile."""
    for number in _numbers:
        with contextlib.suppress(OSError), socket.create_server((HOST, number)):
            return number
    raise AssertionError("unreachable: the numbers begin again")


class Skipped(Exception):
    """Something is not on this machine; the text says what."""


@contextlib.asynccontextmanager
async def server(script: str, kind: str) -> AsyncIterator[int]:
    """Run ``script --serve kind`` in a process of its own and yield the TCP port that it prints.

    Raises:
        Skipped: It printed "skip: " and a reason instead.
    """
    async with server_process(script, kind) as (port, _):
        yield port


@contextlib.asynccontextmanager
async def server_process(script: str, kind: str, *options: str) -> AsyncIterator[tuple[int, int]]:
    """The same, with the number of the process, to ask for its memory."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / script), "--serve", kind, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                data = await process.stdout.receive_some()
                if not data:
                    raise RuntimeError(f"the server {kind!r} of {script} did not start")
                line += data
        yield int(_unless_skipped(line)), process.pid
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(3):
                await process.wait()
            process.kill()
            await process.wait()


def end_with_parent() -> None:
    """Terminate this process, a server, when the one that started it is gone, however that came about.

    Not where its standard input is no pipe: then somebody started it by hand.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def raise_file_limit() -> None:
    """As many connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(process: int) -> float:
    """What a process has used of the processors, which other processes hardly change."""
    return time.clock_gettime(~process << 3 | 2)  # CPUCLOCK_SCHED of that process, as clock_getcpuclockid(3) makes it


async def ask_process(script: str, *arguments: str, within: float) -> Any:
    """Run ``script arguments`` in a process of its own, at most `within` seconds: the JSON that it prints.

    Raises:
        Skipped: It printed "skip: " and a reason instead, or took too long.
        subprocess.CalledProcessError: It failed.
    """
    with trio.move_on_after(within):
        done = await trio.run_process([sys.executable, str(HERE / script), *arguments], capture_stdout=True)
        return json.loads(_unless_skipped(done.stdout))
    raise Skipped(f"not done in {within:g} s")


async def when_quiet(patience: float) -> None:
    """Wait until nothing else keeps the machine busy, at most so many seconds; where Linux does not say, not at all."""
    over = trio.current_time() + patience
    while trio.current_time() < over and Path("/proc/stat").exists():  # noqa: ASYNC240 - no disk behind it
        before = _busy_and_idle()
        await trio.sleep(0.3)
        busy, idle = (now - then for now, then in zip(_busy_and_idle(), before, strict=True))
        if busy <= QUIET_SHARE * (busy + idle):
            return


def _busy_and_idle() -> tuple[int, int]:
    user, nice, system, idle, waiting, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return user + nice + system + sum(rest), idle + waiting


def _unless_skipped(line: bytes) -> bytes:
    if line.startswith(b"skip: "):
        raise Skipped(line.removeprefix(b"skip: ").decode().strip())
    return line


async def measure(work: Work, seconds: float, step: int = 1) -> float:
    """Round trips a second of `work`, a multiple of `step` at a time, for about so long, the first ones not counted."""
    turns, took = _rounded(200, step), 0.0
    await work(turns)
    while True:
        start = time.perf_counter()
        await work(turns)
        took = time.perf_counter() - start
        if took >= seconds * 0.5:
            return turns / took
        turns = _rounded(turns * min(10.0, 1.2 * seconds / max(took, 1e-6)), step)


def _rounded(turns: float, step: int) -> int:
    return max(1, round(turns / step)) * step


async def rounds(works: dict[str, Work], count: int, seconds: float) -> dict[str, list[float]]:
    """Every work once a round, so that a slow spell of the machine meets them all; the figures of each."""
    figures: dict[str, list[float]] = {name: [] for name in works}
    for number in range(count):
        for name, work in works.items():
            figures[name].append(await measure(work, seconds))
        print(f"round {number + 1} of {count} done", file=sys.stderr)
    return figures


def ratio(figures: dict[str, list[float]], name: str, against: str) -> float:
    """The median of the ratios, round by round."""
    pairs = zip(figures[name], figures[against], strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def table(figures: dict[str, list[float]], against: dict[str, str]) -> str:
    """Medians, and ratios to what each is to be held against, as Markdown."""
    rows = []
    for name, values in figures.items():
        median = statistics.median(values)
        other = against.get(name)
        rows.append(
            [
                name,
                f"{median:,.0f}",
                f"{1e6 / median:.1f}",
                f"{ratio(figures, name, other):.2f} of {other}" if other else "",
            ]
        )
    return markdown(["", "round trips a second", "µs each", "ratio"], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(path: str | None, text: str) -> None:
    """Write a file, where one was asked for."""
    if path is not None:
        Path(path).write_text(text)
