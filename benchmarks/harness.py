"""What the benchmarks share: servers in a process of their own, alternating rounds, medians and ratios in one table."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio

HERE = Path(__file__).parent

Work = Callable[[int], Awaitable[None]]
"""Does so many round trips."""


@contextlib.asynccontextmanager
async def server(script: str, kind: str) -> AsyncIterator[int]:
    """Run ``script --serve kind`` in a process of its own and yield the TCP port that it prints."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / script), "--serve", kind], stdout=subprocess.PIPE
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
        yield int(line)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def measure(work: Work, seconds: float) -> float:
    """Round trips a second of `work`, over about so many seconds, the first ones not counted."""
    await work(200)
    turns, took = 200, 0.0
    while True:
        start = time.perf_counter()
        await work(turns)
        took = time.perf_counter() - start
        if took >= seconds * 0.5:
            return turns / took
        turns = int(turns * min(10.0, 1.2 * seconds / max(took, 1e-6)))


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
    """Medians, and ratios to what each is to be held against."""
    width = max(map(len, figures))
    head = f"{'':{width}}  {'round trips/s':>13}  {'µs each':>8}  ratio"
    lines = [head, "-" * (len(head) + 24)]
    for name, values in figures.items():
        median = statistics.median(values)
        line = f"{name:{width}}  {median:13,.0f}  {1e6 / median:8.1f}"
        if name in against:
            line += f"  {ratio(figures, name, against[name]):.2f} of {against[name]}"
        lines.append(line)
    return "\n".join(lines)
