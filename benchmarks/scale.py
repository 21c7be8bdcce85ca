"""What a turn costs, and what memory it takes, against the number of sessions, ports, connections and requests.

    python benchmarks/scale.py [--rounds N] [--seconds S] [--requests N] [--only PROBE ...] [--quick]
                               [--patience S] [--json PATH] [--svg PATH]

Every probe is a process of its own (scale_probe.py), and all are run once a round. ``--quick`` takes small counts: a
test that it works, no measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass

import trio
from charts import Curves, curve_chart
from harness import Skipped, ask_process, when_quiet, write

LIMIT_SECONDS = 300.0
"""How long one probe may take: a million requests on a busy machine."""


@dataclass(frozen=True, slots=True)
class Costs:
    """A probe that gives the cost of a turn, for each of `counts`; the last against the first has a ceiling."""

    what: str
    probe: str
    counts: tuple[int, ...]
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """A probe that gives figures by name, at one count; what has a ceiling, and which."""

    what: str
    probe: str
    count: int
    unit: str
    most: dict[str, float]


SESSIONS = (1, 100, 10_000, 65_535)
COSTS = (
    Costs("memory: open sessions, each in turn", "sessions", SESSIONS, 1.1),
    Costs("memory: open sessions, one at work", "idle_sessions", SESSIONS, 1.1),
    Costs("TCP, 64 in flight: open sessions, each in turn", "tcp_sessions", (64, 1000, 10_000, 65_535), 1.1),
    Costs("memory: ports, each in turn", "ports", (1, 100, 1000, 10_000)),
    Costs("TCP, 1 in flight: connections, each in turn", "connections", (1, 10, 100, 1000)),
)
SIZES = (
    Sizes("an open session", "session_bytes", 65_535, "bytes", {"fresh": 3000, "after a turn": 3000}),
    Sizes("a port over a sender, its task included", "port_bytes", 10_000, "bytes", {}),
    Sizes("a TCP connection and its port", "connection_bytes", 1000, "bytes", {}),
    Sizes("memory after all requests / after 1 %", "requests_bytes", 1_000_000, "", {"client": 1.02, "server": 1.02}),
    Sizes("the same, exact, a plain on_request", "exact_plain_bytes", 1_000_000, "", {"client": 1.02, "server": 1.02}),
    Sizes("the same, exact, an async one", "exact_async_bytes", 1_000_000, "", {"client": 1.02, "server": 1.02}),
    Sizes("latency at half the peak load, due at random", "latency", 0, "", {"p99 / median": 4.0}),
    Sizes("latency at half the peak load, due evenly", "latency", 1, "", {"p99 / median": 4.0}),
    Sizes("the same over 64 connections of bare Trio, at random", "bare_latency", 0, "", {}),
    Sizes("the same over 64 connections of bare Trio, evenly", "bare_latency", 1, "", {}),
)
REQUESTS = ("requests_bytes", "exact_plain_bytes", "exact_async_bytes")
SEVERAL = ("session_bytes", "port_bytes", "connection_bytes", *REQUESTS)
"""What is no time and hardly differs from one round to the next: measured once."""

Results = dict[str, dict[str, list[float]]]
"""For each `what`, by count or by name, a figure for each round."""


async def gather(arguments: argparse.Namespace) -> Results:
    """All rounds."""
    results: Results = {}
    for number in range(arguments.rounds):
        for costs in COSTS:
            for count in counts_of(costs, arguments):
                found = await ask(costs.probe, count, arguments)
                _add(results, costs.what, {str(count): found["us"]} if found else {})
        for sizes in SIZES:
            if number == 0 or sizes.probe not in SEVERAL:
                _add(results, sizes.what, await ask(sizes.probe, count_of(sizes, arguments), arguments))
        print(f"round {number + 1} of {arguments.rounds} done", file=sys.stderr)
    return results


def counts_of(costs: Costs, arguments: argparse.Namespace) -> list[int]:
    """What a cost is measured at."""
    return [min(count, 50 * place + 1) if arguments.quick else count for place, count in enumerate(costs.counts)]


def count_of(sizes: Sizes, arguments: argparse.Namespace) -> int:
    """What a size is measured at."""
    if sizes.probe in REQUESTS:
        return min(arguments.requests, 20_000) if arguments.quick else int(arguments.requests)
    return min(sizes.count, 100) if arguments.quick else sizes.count


async def ask(probe: str, count: int, arguments: argparse.Namespace) -> dict[str, float]:
    """The figures of one probe; none when it failed, which is said."""
    if arguments.only and probe not in arguments.only:
        return {}
    await when_quiet(arguments.patience)
    try:
        found: dict[str, float] = await ask_process(
            "scale_probe.py", probe, str(count), str(arguments.seconds), within=LIMIT_SECONDS
        )
    except (Skipped, OSError, ValueError, RuntimeError) as why:
        print(f"{probe} {count}: {why}", file=sys.stderr)
        return {}
    return found


def _add(results: Results, what: str, found: dict[str, float]) -> None:
    for name, figure in found.items():
        results.setdefault(what, {}).setdefault(name, []).append(figure)


def medians(results: Results, what: str) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(figures) for name, figures in results.get(what, {}).items()}


def growth(figures: dict[str, list[float]]) -> float:
    """The median of the ratios of the last count's figure to the first one's, round by round."""
    first, *_, last = figures.values()
    return statistics.median(b / a for a, b in zip(first, last, strict=False))


def verdict(found: float, most: float | None) -> str:
    """A ceiling and whether it holds."""
    if most is None:
        return ""
    return f"at most {most:g}: {'met' if found <= most else 'MISSED'}"


def cost_table(results: Results) -> str:
    """µs a turn by count, and how much the last is above the first."""
    width = max(len(costs.what) for costs in COSTS)
    lines = ["µs a turn, by how many there are"]
    for costs in COSTS:
        found = medians(results, costs.what)
        if len(found) > 1:
            row = "  ".join(f"{int(count):>6,}: {figure:6.1f}" for count, figure in found.items())
            times = growth(results[costs.what])
            lines.append(f"{costs.what:{width}}  {row}  x {times:.2f} {verdict(times, costs.most)}".rstrip())
    return "\n".join(lines)


def size_table(results: Results) -> str:
    """Figures by name, with their ceilings."""
    lines = []
    for sizes in SIZES:
        found = medians(results, sizes.what)
        if found:
            lines.append(f"{sizes.what} ({sizes.count:,})" if sizes.unit == "bytes" else sizes.what)
        for name, figure in found.items():
            ceiling = verdict(figure, sizes.most.get(name))
            lines.append(f"    {name:45} {figure:>10,.{0 if figure >= 100 else 2}f} {sizes.unit:5}  {ceiling}".rstrip())
    return "\n".join(lines)


def picture(results: Results) -> str:
    """Curves of what a turn costs."""
    panels = []
    for title, group in (("open sessions", COSTS[:3]), ("ports", COSTS[3:4]), ("connections", COSTS[4:])):
        found = {costs.what.replace(f": {title}", ""): medians(results, costs.what) for costs in group}
        found = {label: figures for label, figures in found.items() if figures}
        if found:
            panels.append(Curves(title, "µs a turn", {label: _points(figures) for label, figures in found.items()}))
    return curve_chart("What a turn costs, by how many there are", panels)


def _points(figures: dict[str, float]) -> list[tuple[int, float]]:
    return [(int(count), figure) for count, figure in figures.items()]


async def main(arguments: argparse.Namespace) -> None:
    """Measure, print, write."""
    results = await gather(arguments)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"medians of {arguments.rounds} rounds of about {arguments.seconds:g} s each; load average {load}\n")
    print(cost_table(results), size_table(results), sep="\n\n")
    everything = {"rounds": arguments.rounds, "load_average": os.getloadavg(), "figures": results}
    write(arguments.json, json.dumps(everything, indent=2, ensure_ascii=False) + "\n")
    if arguments.svg:
        write(arguments.svg, picture(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each measurement takes, about")
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many, for the memory that they leave")
    parser.add_argument("--only", nargs="+", metavar="PROBE", help="a probe of scale_probe.py")
    parser.add_argument("--quick", action="store_true", help="small counts")
    parser.add_argument("--patience", type=float, default=0.0, help="how long to wait for a quiet machine, each time")
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--svg", metavar="PATH")
    trio.run(main, parser.parse_args())
