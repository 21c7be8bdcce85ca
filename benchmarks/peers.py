"""The same work in psession and in what else does it in Python: a table, the floors, JSON, a picture.

    python benchmarks/peers.py [--rounds N] [--seconds S] [--patience S] [--only NAME ...] [--json PATH] [--svg PATH]

100-byte JSON requests and their replies, matched by number; client and server in a process each on loopback, one
connection unless the table says otherwise, 1 and 64 requests in flight and, over TCP, some numbers between. Every
contestant once a round, in another order each round, each time in a fresh client process. Quote the ratios: they are
taken round by round. "By CPU" is the same ratio of the µs of processor that a round trip costs at both ends together,
which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import trio
from charts import Bar, Bars, bar_chart
from contest import Contest, Entry, Figures
from contestants import CONTESTANTS
from harness import FEW, MANY, markdown, ratio, write


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
    Floor("WebSocket, 1 in flight, request / websockets, uvloop", "websocket-plain@1", "websockets-uvloop@1", 1.5),
    *(
        Floor(
            f"WebSocket, {MANY} in flight, request, {way} / websockets, {loop}",
            f"websocket-{way}@{MANY}",
            f"websockets-{loop}@{MANY}",
            least,
        )
        for way, loop, least in (("plain", "uvloop", 1.4), ("async", "uvloop", 1.0), ("exact-plain", "asyncio", 1.0))
    ),
    Floor("memory, session.send / a bare channel with move_on_after", "memory-send@1", "memory-bare@1", 0.7),
    Floor("memory, port.request / the same", "memory-request@1", "memory-bare@1", 0.45),
    *(_exact(wire, in_flight) for wire in ("tcp", "websocket") for in_flight in (1, MANY)),
    Floor("WebSocket, one way: a stream / websockets (asyncio) send", "stream@1", "websockets-sends@1", 1.2),
    Floor("WebSocket, one way: a stream / posts", "stream@1", "posts@1", 1.0),
    Floor("WebSocket, one way: a stream, credit 32 / 256", "stream@1", "stream-256@1", 0.9),
    Floor("TCP, one way: a stream / posts", "stream-tcp@1", "posts-tcp@1", 1.0),
    Floor("TCP, one way: a stream, credit 32 / 256", "stream-tcp@1", "stream-tcp-256@1", 0.9),
)

WIRES = {"WebSocket": "websocket", "TCP": "tcp"}
"""What is held against each other, and how our contestants there are named."""

WAYS = {"-plain": "`request`", "-async": "`request`, async", "": "`send`"}
"""What is held against the others: the ends of the names of our contestants, and a heading."""


def entries(names: list[str]) -> list[Entry]:
    """What they are measured in."""
    return [
        Entry(name, "one_way" if CONTESTANTS[name].one_way else "speed", CONTESTANTS[name].in_flight)
        for name in names
        if CONTESTANTS[name].in_flight
    ]


def cpu(contest: Contest) -> Figures:
    """µs of processor for each round trip, at both ends together."""
    return contest.column("client", "server")


def versions(package: str) -> str:
    """The version of a package that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def speed_table(contest: Contest) -> str:
    """Medians, a line for each contestant, as Markdown."""
    head = ["", "1 in flight, a second", "µs of processor", f"{MANY} in flight, a second", "µs of processor"]
    rows = []
    for name in [entry.name for entry in contest.entries if entry.what == "speed"]:
        row = [CONTESTANTS[name].title]
        for in_flight in (1, MANY):
            key = f"{name}@{in_flight}"
            row += [contest.text(key, "rate"), f"{contest.text(key, 'client')} + {contest.text(key, 'server')}"]
        if name in contest.skipped:
            row = [CONTESTANTS[name].title, f"skipped: {contest.skipped[name]}", "", "", ""]
        rows.append([cell.replace("- + -", "-") for cell in row])
    return markdown(head, rows)


def ratio_table(contest: Contest) -> str:
    """How many times as many round trips each way of psession's does as the others over the same wire."""
    rates, used = contest.column("rate"), cpu(contest)
    head = ["over the same wire", *(f"{way}, {count}" for count in (1, MANY) for way in WAYS.values())]
    rows = []
    for name in [entry.name for entry in contest.entries if entry.what == "speed"]:
        contestant = CONTESTANTS[name]
        if contestant.ours or not contestant.served or name in contest.skipped:
            continue
        row = [contestant.title]
        for count, way in itertools.product((1, MANY), WAYS):
            mine, other = f"{WIRES[contestant.wire]}{way}@{count}", f"{name}@{count}"
            both = mine in rates and other in rates
            row.append(f"{ratio(rates, mine, other):.2f} ({ratio(used, other, mine):.2f})" if both else "-")
        rows.append(row)
    return markdown(head, rows)


def few_table(contest: Contest) -> str:
    """psession over TCP against bare Trio with as many connections, by the number in flight."""
    rates, used = contest.column("rate"), cpu(contest)
    found = [count for count in (1, *FEW, MANY) if {f"tcp@{count}", f"bare@{count}"} <= rates.keys()]
    pairs = [(f"tcp@{count}", f"bare@{count}") for count in found]
    head = ["in flight", *map(str, found)]
    return markdown(
        head,
        [
            ["round trips", *(f"{ratio(rates, mine, other):.2f}" for mine, other in pairs)],
            ["by processor time", *(f"{ratio(used, other, mine):.2f}" for mine, other in pairs)],
        ],
    )


def one_way_table(contest: Contest) -> str:
    """Messages that the server says one after another, against the same by websockets."""
    rates, other = contest.column("rate"), "websockets-sends@1"
    rows = []
    for name in [entry.name for entry in contest.entries if entry.what == "one_way"]:
        key = f"{name}@1"
        times = f"{ratio(rates, key, other):.2f}" if key in rates and other in rates else "-"
        used_by_both = f"{contest.text(key, 'client')} + {contest.text(key, 'server')}"
        rows.append([CONTESTANTS[name].title, contest.text(key, "rate"), used_by_both, times])
    return markdown(["one way", "messages a second", "µs of processor", "of websockets"], rows)


def exact_table(contest: Contest) -> str:
    """The exact wire against the classic one."""
    rates, used = contest.column("rate"), cpu(contest)
    rows = []
    for wire, name in WIRES.items():
        row = [wire]
        for count in (1, MANY):
            exact, classic = f"{name}-exact@{count}", f"{name}@{count}"
            both = exact in rates and classic in rates
            row.append(f"{ratio(rates, exact, classic):.2f} ({ratio(used, classic, exact):.2f})" if both else "-")
        rows.append(row)
    return markdown(["exact / classic `send`", "1 in flight", f"{MANY} in flight"], rows)


def floors(figures: Figures, used: Figures) -> list[dict[str, Any]]:
    """Each floor, the ratio that was measured, and whether it is met (``None`` where one of the two is missing)."""
    results = []
    for floor in FLOORS:
        both = floor.mine in figures and floor.other in figures
        found = ratio(figures, floor.mine, floor.other) if both else None
        met = None if found is None else found >= floor.least
        by_cpu = ratio(used, floor.other, floor.mine) if both else None
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
    """Bars for each wire, the fastest first, with the µs of processor that each round trip costs."""
    rates, used = contest.column("rate"), cpu(contest)
    panels = []
    for wire, in_flight in itertools.product(WIRES, (MANY, 1)):
        keys = {f"{name}@{in_flight}": one for name, one in CONTESTANTS.items() if one.wire == wire and not one.one_way}
        bars = [
            Bar(one.label, contest.median(key, "rate") or 0, one.ours, f"({contest.middle(used[key])} µs)")
            for key, one in keys.items()
            if key in rates
        ]
        bars.sort(key=lambda bar: -bar.value)
        if bars:
            panels.append(Bars(f"{wire}, {in_flight} in flight", bars))
    title = "Round trips a second (and processor time of each, both ends): 100-byte JSON, two processes"
    return bar_chart(title, panels, notes(contest))


def notes(contest: Contest) -> list[str]:
    """What the bars do not show by themselves."""
    used = {key: contest.middle(figures) for key, figures in cpu(contest).items()}
    said = ["A fresh number for each question, as those by hand have it, is request; send keeps that of its session."]
    ours, asleep, theirs = "websocket@1", "websocket-asleep@1", "websockets-asyncio@1"
    if {ours, asleep, theirs} <= used.keys():
        said += [
            "1 in flight: what lead psession has is bought by waiting awake. A send over a WebSocket takes "
            f"{used[ours]} µs of processor,",
            f"by hand with websockets on asyncio {used[theirs]}. Asleep (busy_wait=False) it takes {used[asleep]}, and "
            f"goes {contest.text(asleep, 'rate')} times a second.",
        ]
    return said


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
        "round_trips_per_second": contest.column("rate"),
        "cpu_microseconds": {"client": contest.column("client"), "server": contest.column("server")},
        "skipped": contest.skipped,
        "floors": floors(contest.column("rate"), cpu(contest)),
    }


async def main(arguments: argparse.Namespace) -> None:
    """Measure, print, write."""
    contest = Contest(entries(arguments.only or list(CONTESTANTS)))
    await contest.run(arguments.rounds, arguments.seconds, arguments.patience)
    results = report(contest, arguments.rounds, arguments.seconds)
    load = ", ".join(f"{value:.1f}" for value in results["load_average"])
    made_of = ", ".join(itertools.starmap("{} {}".format, results["versions"].items()))
    print(f"medians of {arguments.rounds} rounds of about {arguments.seconds:g} s each; load average {load}")
    print(f"Python {results['python']}, {made_of}\n")
    tables = [table(contest) for table in (speed_table, ratio_table, few_table, exact_table, one_way_table)]
    print(*tables, floor_table(results["floors"]), sep="\n\n")
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
