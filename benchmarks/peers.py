"""The same work in psession and in what else does it in Python: a table, the floors, JSON, a picture.

    python benchmarks/peers.py [--rounds N] [--seconds S] [--patience S] [--only NAME ...] [--json PATH] [--svg PATH]

100-byte JSON requests and their replies, matched by number; client and server in a process each on loopback, one
connection unless the table says otherwise, 1 and 64 requests in flight and, over TCP, some numbers between. Every
contestant once a round, in another order each round, each time in a fresh client process. And "one way": such messages
from the server, one after another, as the parts of a stream or as posts. Quote the ratios: they are taken round by
round. "By CPU" is the same ratio of the µs of CPU that a round trip costs, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import trio
from charts import Bar, Bars, bar_chart
from contestants import CONTESTANTS
from harness import FEW, MANY, Skipped, ask_process, ratio, server_process, when_quiet, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_SECONDS = 30.0
"""How long a process may take to start, and to connect."""

Figures = dict[str, list[float]]
"""For each contestant and number in flight (``"tcp@64"``), a figure for each round."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How many times as fast one must at least be as the other."""

    what: str
    mine: str
    other: str
    least: float


def _exact(wire: str, in_flight: int) -> Floor:
    label = {"tcp": "TCP", "websocket": "WebSocket"}[wire]
    what = f"{label}, {in_flight} in flight: exact / classic"
    return Floor(what, f"{wire}-exact@{in_flight}", f"{wire}@{in_flight}", 0.87)


FLOORS = (
    Floor("TCP, 1 in flight / bare Trio TCP", "tcp@1", "bare@1", 0.9),
    *(
        Floor(f"TCP, {few} in flight / bare Trio TCP, {few} connections", f"tcp@{few}", f"bare@{few}", 0.9)
        for few in FEW
    ),
    Floor(f"TCP, {MANY} in flight / aiorpcX", f"tcp@{MANY}", f"aiorpcx@{MANY}", 3.0),
    Floor(f"TCP, {MANY} in flight / bare Trio TCP, {MANY} connections", f"tcp@{MANY}", f"bare@{MANY}", 1.4),
    Floor("WebSocket, 1 in flight / websockets (asyncio)", "websocket@1", "websockets-asyncio@1", 1.2),
    Floor(
        f"WebSocket, {MANY} in flight / websockets (asyncio)", f"websocket@{MANY}", f"websockets-asyncio@{MANY}", 2.2
    ),
    Floor("WebSocket, 1 in flight / the same, as first written", "websocket@1", "websockets-first@1", 1.2),
    Floor(
        f"WebSocket, {MANY} in flight / the same, as first written",
        f"websocket@{MANY}",
        f"websockets-first@{MANY}",
        2.2,
    ),
    Floor(f"WebSocket, {MANY} in flight / trio-websocket", f"websocket@{MANY}", f"trio-websocket@{MANY}", 8.0),
    Floor(f"WebSocket, {MANY} in flight / websockets.trio", f"websocket@{MANY}", f"websockets-trio@{MANY}", 2.2),
    Floor("memory, session.send / a bare channel with move_on_after", "memory-send@1", "memory-bare@1", 0.7),
    Floor("memory, port.request / the same", "memory-request@1", "memory-bare@1", 0.45),
    *(_exact(wire, in_flight) for wire in ("tcp", "websocket") for in_flight in (1, MANY)),
    Floor("WebSocket, one way: a stream / websockets (asyncio) send", "stream@1", "websockets-sends@1", 1.2),
    Floor("WebSocket, one way: a stream / posts", "stream@1", "posts@1", 1.0),
    Floor("WebSocket, one way: a stream, credit 32 / 256", "stream@1", "stream-256@1", 0.9),
    Floor("TCP, one way: a stream / posts", "stream-tcp@1", "posts-tcp@1", 1.0),
    Floor("TCP, one way: a stream, credit 32 / 256", "stream-tcp@1", "stream-tcp-256@1", 0.9),
)


class Contest:
    """The rounds, and what came of them.

    Attributes:
        figures: Round trips a second.
        cpu: µs of CPU for each round trip: the client's and the server's added up, or, with many in flight, where they
            work at the same time, of the one that has more to do.
        skipped: Who could not take part, and why.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.figures: Figures = {}
        self.cpu: Figures = {}
        self.skipped: dict[str, str] = {}

    @asynccontextmanager
    async def servers(self) -> AsyncIterator[dict[str, tuple[int, int]]]:
        """The servers of all, running; the TCP port and the process of each."""
        ports = {}
        async with AsyncExitStack() as stack:
            for name in self.names:
                try:
                    ports[name] = (0, 0)
                    if CONTESTANTS[name].served:
                        ports[name] = await stack.enter_async_context(server_process("contestant.py", name))
                except (Skipped, RuntimeError, trio.TooSlowError) as why:
                    self._skip(name, why)
            yield ports

    async def run(self, rounds: int, seconds: float, patience: float) -> None:
        """So many rounds; before each measurement so much patience for a quiet machine."""
        async with self.servers() as ports:
            for number in range(rounds):
                order = list(ports)
                cut = number * len(order) // rounds
                for name in order[cut:] + order[:cut]:
                    if name not in self.skipped:
                        await when_quiet(patience)
                        await self._measure(name, *ports[name], seconds)
                print(f"round {number + 1} of {rounds} done", file=sys.stderr)

    async def _measure(self, name: str, port: int, process: int, seconds: float) -> None:
        limit = START_SECONDS + 20 * seconds
        arguments = ("--client", name, str(port), str(process), str(seconds))
        try:
            figures = await ask_process("contestant.py", *arguments, within=limit)
        except Exception as why:
            self._skip(name, why)
            return
        for in_flight, (rate, mine, theirs) in figures.items():
            self.figures.setdefault(f"{name}@{in_flight}", []).append(rate)
            at_once = process == 0 or in_flight != "1" or CONTESTANTS[name].one_way
            cpu = max(mine, theirs) if at_once else mine + theirs
            self.cpu.setdefault(f"{name}@{in_flight}", []).append(cpu)

    def _skip(self, name: str, why: Exception) -> None:
        """It takes no part: one that fails in one round has no ratios."""
        self.skipped[name] = str(why) or type(why).__name__
        self.figures = {key: figures for key, figures in self.figures.items() if not key.startswith(f"{name}@")}
        print(f"without {CONTESTANTS[name].label}: {self.skipped[name]}", file=sys.stderr)


def versions(package: str) -> str:
    """The version of a package that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def speed_tables(contest: Contest) -> list[str]:
    """Medians, a line for each contestant: those that ask and answer, and those that only say, one way."""
    one_way = [name for name in contest.names if CONTESTANTS[name].one_way]
    others = [name for name in contest.names if name not in one_way]
    tables = [speed_table(contest, others)] if others else []
    return [*tables, one_way_table(contest, one_way)] if one_way else tables


def speed_table(contest: Contest, names: list[str]) -> str:
    """Round trips."""
    width = max(len(CONTESTANTS[name].label) for name in names)
    lines = [
        f"{'':{width}}  {'round trips a second':>22}  {'µs of CPU each':>16}",
        f"{'in flight':{width}}  {1:>10}  {MANY:>10}  {1:>7}  {MANY:>7}",
    ]
    for name in names:
        label = CONTESTANTS[name].label
        if name in contest.skipped:
            lines.append(f"{label:{width}}  skipped: {contest.skipped[name]}")
            continue
        rates = [_median(contest.figures, f"{name}@{in_flight}") for in_flight in (1, MANY)]
        cpu = [_median(contest.cpu, f"{name}@{in_flight}") for in_flight in (1, MANY)]
        lines.append(f"{label:{width}}  {rates[0]:>10}  {rates[1]:>10}  {cpu[0]:>7}  {cpu[1]:>7}")
    return "\n".join(lines)


def one_way_table(contest: Contest, names: list[str]) -> str:
    """Messages from the server, one after another; the CPU is that of the end which has more to do."""
    width = max(len(CONTESTANTS[name].label) for name in names)
    lines = [f"{'one way':{width}}  {'messages a second':>17}  {'µs of CPU each':>14}"]
    for name in names:
        rate, cpu = (
            _median(figures, f"{name}@1", digits) for figures, digits in ((contest.figures, 0), (contest.cpu, 1))
        )
        lines.append(
            f"{CONTESTANTS[name].label:{width}}  {rate:>17}  {cpu:>14}  {contest.skipped.get(name, '')}".rstrip()
        )
    return "\n".join(lines)


def _median(figures: Figures, key: str, digits: int = 0) -> str:
    return f"{statistics.median(figures[key]):,.{digits}f}" if key in figures else "-"


def floors(figures: Figures, cpu: Figures) -> list[dict[str, Any]]:
    """Each floor, the ratio that was measured, and whether it is met (``None`` where one of the two is missing)."""
    results = []
    for floor in FLOORS:
        both = floor.mine in figures and floor.other in figures
        found = ratio(figures, floor.mine, floor.other) if both else None
        met = None if found is None else found >= floor.least
        by_cpu = ratio(cpu, floor.other, floor.mine) if both else None
        results.append({**asdict(floor), "ratio": found, "by_cpu": by_cpu, "met": met})
    return results


def floor_table(results: list[dict[str, Any]]) -> str:
    """The same to read."""
    width = max(len(result["what"]) for result in results)
    lines = [f"{'psession /':{width}}  {'ratio':>6}  {'by CPU':>6}  {'floor':>6}"]
    for result in results:
        found = ["-" if value is None else f"{value:.2f}" for value in (result["ratio"], result["by_cpu"])]
        word = {None: "not measured", True: "met", False: "MISSED"}[result["met"]]
        lines.append(f"{result['what']:{width}}  {found[0]:>6}  {found[1]:>6}  {result['least']:>6.2f}  {word}")
    return "\n".join(lines)


def picture(contest: Contest) -> str:
    """Bars, the fastest first, without what is in memory."""
    panels = []
    for in_flight in (1, MANY):
        bars = [
            Bar(contestant.label, statistics.median(contest.figures[key]), contestant.ours)
            for name, contestant in CONTESTANTS.items()
            if (key := f"{name}@{in_flight}") in contest.figures and contestant.served and not contestant.one_way
        ]
        bars.sort(key=lambda bar: -bar.value)
        panels.append(Bars(f"{in_flight} in flight" + (", one connection" if in_flight > 1 else ""), bars))
    title = "Request/reply round trips a second, 100-byte JSON, two processes on loopback"
    return bar_chart(title, panels)


def report(contest: Contest, rounds: int, seconds: float) -> dict[str, Any]:
    """Everything, for the JSON file."""
    return {
        "rounds": rounds,
        "seconds": seconds,
        "message_bytes": 100,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": {one.package: versions(one.package) for one in CONTESTANTS.values()},
        "round_trips_per_second": contest.figures,
        "cpu_microseconds": contest.cpu,
        "skipped": contest.skipped,
        "floors": floors(contest.figures, contest.cpu),
    }


async def main(arguments: argparse.Namespace) -> None:
    """Measure, print, write."""
    contest = Contest(arguments.only or list(CONTESTANTS))
    await contest.run(arguments.rounds, arguments.seconds, arguments.patience)
    results = report(contest, arguments.rounds, arguments.seconds)
    load = ", ".join(f"{value:.1f}" for value in results["load_average"])
    made_of = ", ".join(itertools.starmap("{} {}".format, results["versions"].items()))
    print(f"medians of {arguments.rounds} rounds of about {arguments.seconds:g} s each; load average {load}")
    print(f"Python {results['python']}, {made_of}\n")
    print(*speed_tables(contest), floor_table(results["floors"]), sep="\n\n")
    write(arguments.json, json.dumps(results, indent=2) + "\n")
    write(arguments.svg, picture(contest))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each measurement takes, about")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CONTESTANTS, help=", ".join(CONTESTANTS))
    parser.add_argument("--patience", type=float, default=0.0, help="how long to wait for a quiet machine, each time")
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--svg", metavar="PATH")
    trio.run(main, parser.parse_args())
