"""What one rate does not show: latency at an offered load, a thousand connections, long messages, Python's collector.

    python benchmarks/loads.py [--rounds N] [--seconds S] [--patience S] [--only TABLE ...] [--quick] [--json PATH]

Tables in Markdown, medians of alternating rounds. Two processes on loopback; µs of processor are those of the client
and of the server for each request. ``--quick`` takes small counts: a test that it works, no measurement.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from contest import Contest, Entry
from contestant import OPENED_RATE
from contestants import CONTESTANTS
from harness import MANY, markdown, ratio, write
from tuning import PYTHON, TUNED, TUNINGS

if TYPE_CHECKING:
    from collections.abc import Callable

RATES = (5_000, 10_000, 20_000)
CONNECTIONS = 1000
SIZES = (1_000, 10_000, 100_000)
SESSIONS = 40_000

BY_HAND = ("websockets-asyncio", "websockets-uvloop")
ON_A_WEBSOCKET = ("websocket-plain", "websocket-async", "websocket")
TUNED_WAYS = (PYTHON, TUNED, "gc.freeze(), 50000, 10, 10")


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        what: A line above it.
        entries: What is measured for it; given whether small counts are enough.
        text: The table itself, of what was found.
    """

    what: str
    entries: Callable[[bool], list[Entry]]
    text: Callable[[Contest], str]


def latency_entries(quick: bool) -> list[Entry]:
    """Requests by schedule over a WebSocket."""
    rates = (500, 1_000) if quick else RATES
    return [Entry(name, "offered", rates) for name in (*ON_A_WEBSOCKET, *BY_HAND)]


def latency_text(contest: Contest) -> str:
    """Medians and 99th percentiles."""
    rates = contest.entries[0].numbers
    head = ["µs: median / 99th percentile"]
    head += [f"{rate:,} a second" for rate in rates]
    head += [f"µs of processor at {rate:,}" for rate in rates[1:]]
    rows = []
    for entry in contest.entries:
        keys = [f"{entry.key}@{rate}" for rate in rates]
        row = [CONTESTANTS[entry.name].label]
        row += [f"{contest.text(key, 'p50')} / {contest.text(key, 'p99')}" for key in keys]
        row += [both(contest, key) for key in keys[1:]]
        rows.append(row)
    return markdown(head, rows)


def crowd_entries(quick: bool) -> list[Entry]:
    """Many connections."""
    names = ("tcp-plain", "tcp", "bare", "websocket-plain", "websocket", BY_HAND[1])
    numbers = (20 if quick else CONNECTIONS,)
    return [Entry(name, "crowd", numbers, tuning) for name in names for tuning in (PYTHON, TUNED)]


def crowd_text(contest: Contest) -> str:
    """Rates, and how they compare with bare Trio's and websockets', which have Python's collector as it is."""
    connections = contest.entries[0].numbers[0]
    rates = contest.column("rate")
    others = {name: f"{name}@{connections}" for name in ("bare", BY_HAND[1])}
    head = [f"{connections:,} connections", "requests a second", "99th percentile, ms", "µs of processor"]
    head += [f"of {CONTESTANTS[name].label}" for name in others]
    rows = []
    for entry in contest.entries:
        key = f"{entry.key}@{connections}"
        slowest = contest.median(key, "p99")
        title = CONTESTANTS[entry.name].title
        row = [title if entry.tune == PYTHON else f"the same, {entry.tune}", contest.text(key, "rate")]
        row += ["-" if slowest is None else f"{slowest / 1000:,.0f}", both(contest, key)]
        row += [
            f"{ratio(rates, key, other):.2f}" if key in rates and other in rates else "-" for other in others.values()
        ]
        rows.append(row)
    return markdown(head, rows)


def bytes_entries(quick: bool) -> list[Entry]:
    """Long messages."""
    names = (*ON_A_WEBSOCKET, "websocket-served", *BY_HAND, "picows", "tcp-plain", "bare")
    return [Entry(name, "bytes", SIZES[:1] if quick else SIZES) for name in names]


def bytes_text(contest: Contest) -> str:
    """Rates, and the time of both processors."""
    sizes = contest.entries[0].numbers
    head = [f"{MANY} in flight, requests a second (µs of processor)", *(f"{size / 1000:g} kB" for size in sizes)]
    rows = []
    for entry in contest.entries:
        keys = [f"{entry.key}@{size}" for size in sizes]
        row = [CONTESTANTS[entry.name].title]
        row += [f"{contest.text(key, 'rate')} ({both(contest, key)})" for key in keys]
        rows.append(row)
    return markdown(head, rows)


def collector_entries(quick: bool) -> list[Entry]:
    """The same with Python's collector set in several ways at both ends."""
    cases = [
        ("websocket-plain", "offered", 1_000 if quick else RATES[-1]),
        ("websocket-async", "crowd", 20 if quick else CONNECTIONS),
        ("websocket-keep", "opened", 2_000 if quick else SESSIONS),
    ]
    tunings = (PYTHON, TUNED) if quick else TUNED_WAYS
    return [Entry(name, what, (number,), tuning) for name, what, number in cases for tuning in tunings]


def collector_text(contest: Contest) -> str:
    """Medians, 99th percentiles and the longest, a column for each case and a row for each way."""
    cases = {(entry.name, entry.what, entry.numbers[0]): None for entry in contest.entries}
    heads = {
        "offered": "{:,} requests a second",
        "crowd": "{:,} connections, one request each at once",
        "opened": f"{{:,}} sessions opened, {OPENED_RATE:,} a second",
    }
    head = ["ms: median / 99th percentile / longest", *(heads[what].format(number) for _, what, number in cases)]
    rows = []
    for tuning in TUNINGS:
        keys = {entry.what: f"{entry.key}@{entry.numbers[0]}" for entry in contest.entries if entry.tune == tuning}
        if keys:
            times = [[in_ms(contest, keys[what], one) for one in ("p50", "p99", "most")] for _, what, _ in cases]
            rows.append([tuning, *map(" / ".join, times)])
    return markdown(head, rows)


def both(contest: Contest, key: str) -> str:
    """The processor time of both ends."""
    return f"{contest.text(key, 'client')} + {contest.text(key, 'server')}".replace("- + -", "-")


def in_ms(contest: Contest, key: str, what: str) -> str:
    """A time to read."""
    found = contest.median(key, what)
    return "-" if found is None else contest.middle([found / 1000])


TABLES = {
    "latency": Table("Requests by a schedule, over a WebSocket", latency_entries, latency_text),
    "connections": Table("Many connections, each with one request in flight", crowd_entries, crowd_text),
    "sizes": Table("Long messages", bytes_entries, bytes_text),
    "collector": Table("Python's collector, both ends set alike", collector_entries, collector_text),
}


async def measured(name: str, arguments: argparse.Namespace) -> Contest:
    """What one table is made of."""
    contest = Contest(TABLES[name].entries(arguments.quick))
    await contest.run(arguments.rounds, arguments.seconds, arguments.patience)
    return contest


async def main(arguments: argparse.Namespace) -> None:
    """Measure, print, write."""
    found = {}
    for name in arguments.only or TABLES:
        contest = await measured(name, arguments)
        found[name] = contest.found
        print(f"{TABLES[name].what}\n\n{TABLES[name].text(contest)}\n", flush=True)
    write(arguments.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each measurement takes, about")
    parser.add_argument("--only", nargs="+", metavar="TABLE", choices=TABLES, help=", ".join(TABLES))
    parser.add_argument("--quick", action="store_true", help="small counts")
    parser.add_argument("--patience", type=float, default=0.0, help="how long to wait for a quiet machine, each time")
    parser.add_argument("--json", metavar="PATH")
    trio.run(main, parser.parse_args())
