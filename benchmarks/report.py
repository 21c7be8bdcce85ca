"""Every table of docs/performance.md but that of scale.py, measured and written there: less than 12 minutes.

    python benchmarks/report.py --into docs/performance.md --svg docs/peers.svg
    python benchmarks/report.py [--only SECTION ...] [--quick]                      prints them as Markdown

On a machine that does nothing else, with the dependency group `bench` installed. What a section of the page says goes
between two comments, ``<!-- measured: SECTION -->`` and ``<!-- measured -->``. ``--quick`` takes small counts: a test
that it works, no measurement.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import core
import loads
import pauses
import peers
import service
import trio
from contest import Contest
from contestants import CONTESTANTS
from harness import HERE, table, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EFFORT = {
    "core": (5, 0.4),
    "peers": (3, 0.4),
    "latency": (3, 1.0),
    "connections": (3, 0.7),
    "sizes": (3, 0.5),
    "collector": (2, 1.0),
}
"""Rounds of each section, and about how many seconds a measurement of it takes."""

START, END = "<!-- measured: {} -->", "<!-- measured -->"


async def of_core(arguments: argparse.Namespace) -> str:
    """psession against bare Trio."""
    return table(await core.measured(*effort("core", arguments)), core.AGAINST)


async def of_peers(arguments: argparse.Namespace) -> str:
    """psession against other libraries, and the picture of it."""
    names = [name for name, contestant in CONTESTANTS.items() if contestant.served]
    contest = Contest(peers.entries(names))
    await contest.run(*effort("peers", arguments), arguments.patience)
    write(arguments.svg, peers.picture(contest))
    tables = (peers.speed_table, peers.ratio_table, peers.few_table, peers.exact_table, peers.one_way_table)
    titles = (
        "µs of processor: client + server.",
        "Round trips of psession for each of theirs; in brackets the same by processor time of both ends.",
        "psession `send` over one TCP connection for each of bare Trio's over as many connections:",
        "The exact wire for each of the classic one's (in brackets by processor time):",
        "Messages that the server says one after another, on the exact wire:",
    )
    return "\n\n".join(f"{title}\n\n{one(contest)}" for title, one in zip(titles, tables, strict=True))


async def of_loads(name: str, arguments: argparse.Namespace) -> str:
    """One of the tables of loads.py."""
    contest = Contest(loads.TABLES[name].entries(arguments.quick))
    await contest.run(*effort(name, arguments), arguments.patience)
    return loads.TABLES[name].text(contest)


async def of_pauses(arguments: argparse.Namespace) -> str:
    """Python's collector, in processor time."""
    return await pauses.tables(*((1_000, 20) if arguments.quick else (pauses.SESSIONS, pauses.CONNECTIONS)))


async def of_service(arguments: argparse.Namespace) -> str:
    """A service against handlers by hand."""
    return service.table(*((1, 1_000) if arguments.quick else (7, 100_000)))


async def of_run(_arguments: argparse.Namespace) -> str:
    """What it was measured on."""
    found = {one.package: peers.versions(one.package) for one in CONTESTANTS.values()}
    made_of = ", ".join(f"{package} {version}" for package, version in found.items() if version)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"Commit {commit()}, Python {platform.python_version()}, {os.cpu_count()} processors, load average {load} "
        f"at the start. {made_of}."
    )


SECTIONS: dict[str, Callable[[argparse.Namespace], Awaitable[str]]] = {
    "run": of_run,
    "core": of_core,
    "peers": of_peers,
    **{name: partial(of_loads, name) for name in loads.TABLES},
    "pauses": of_pauses,
    "service": of_service,
}


def effort(section: str, arguments: argparse.Namespace) -> tuple[int, float]:
    """Rounds, and about how many seconds each measurement takes."""
    return (1, 0.1) if arguments.quick else EFFORT[section]


def commit() -> str:
    """The commit that is measured, or that there is none."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def put(page: str, section: str, text: str) -> str:
    """The page with what was measured in the place of what stood there.

    Raises:
        ValueError: The page has no such place, or more than one.
    """
    start = START.format(section)
    before, *rest = page.split(start)
    if len(rest) != 1 or END not in rest[0]:
        raise ValueError(f"the page needs one {start!r} with {END!r} behind it, where the figures go")
    return f"{before}{start}\n{text}\n{END}{rest[0].partition(END)[2]}"


async def main(arguments: argparse.Namespace) -> None:
    """Measure, and print or write each section as soon as it is there."""
    began = trio.current_time()
    for section in arguments.only or SECTIONS:
        text = await SECTIONS[section](arguments)
        if arguments.into is None:
            print(f"{START.format(section)}\n{text}\n{END}\n", flush=True)
        else:
            page = Path(arguments.into).read_text()  # noqa: ASYNC240 - nothing else is under way
            write(arguments.into, put(page, section, text))
        print(f"{section}: measured, {(trio.current_time() - began) / 60:.1f} minutes in all", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="SECTION", choices=SECTIONS, help=", ".join(SECTIONS))
    parser.add_argument("--into", metavar="PATH", help="a page that has the places for it")
    parser.add_argument("--svg", metavar="PATH", help="the picture of the section peers")
    parser.add_argument("--patience", type=float, default=0.0, help="how long to wait for a quiet machine, each time")
    parser.add_argument("--quick", action="store_true", help="small counts")
    trio.run(main, parser.parse_args())
