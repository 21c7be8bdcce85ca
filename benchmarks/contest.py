"""Contestants against each other, in alternating rounds: each measurement in a fresh client process."""

from __future__ import annotations

import statistics
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from contestants import CONTESTANTS
from harness import Skipped, ask_process, server_process, when_quiet
from tuning import PYTHON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_SECONDS = 40.0
"""How long a process may take to start, and to connect, a thousand times where that is measured."""

Figures = dict[str, list[float]]
"""For each contestant and number (``"tcp@64"``), a figure for each round."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one contestant is measured in.

    Attributes:
        name: Which contestant.
        what: See contestant.py.
        numbers: With which numbers.
        tune: How both its ends set Python's collector.
    """

    name: str
    what: str
    numbers: tuple[int, ...]
    tune: str = PYTHON

    @property
    def key(self) -> str:
        """What its figures are found under, before the number."""
        return self.name if self.tune == PYTHON else f"{self.name}+{self.tune}"


class Contest:
    """The rounds, and what came of them.

    Attributes:
        entries: What is measured.
        found: For each key and number the figures of each round, by their names.
        skipped: Who could not take part, by the name of the contestant, and why.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.found: dict[str, Figures] = {}
        self.skipped: dict[str, str] = {}

    @asynccontextmanager
    async def servers(self) -> AsyncIterator[dict[Entry, tuple[int, int]]]:
        """The servers of all, running; the TCP port and the process of each."""
        ports = {}
        async with AsyncExitStack() as stack:
            for entry in self.entries:
                try:
                    ports[entry] = (0, 0)
                    if CONTESTANTS[entry.name].served:
                        starting = server_process("contestant.py", entry.name, "--tune", entry.tune)
                        ports[entry] = await stack.enter_async_context(starting)
                except (Skipped, RuntimeError, trio.TooSlowError) as why:
                    self._skip(entry, why)
            yield ports

    async def run(self, rounds: int, seconds: float, patience: float) -> None:
        """So many rounds, each in another order; before each measurement so much patience for a quiet machine."""
        async with self.servers() as ports:
            for number in range(rounds):
                order = list(ports)
                cut = number * len(order) // rounds
                for entry in order[cut:] + order[:cut]:
                    if entry.name not in self.skipped:
                        await when_quiet(patience)
                        await self._measure(entry, *ports[entry], seconds)
                print(f"round {number + 1} of {rounds} done", file=sys.stderr)

    async def _measure(self, entry: Entry, port: int, process: int, seconds: float) -> None:
        numbers = ",".join(map(str, entry.numbers))
        arguments = ("--client", entry.name, str(port), str(process), entry.what, numbers, str(seconds))
        limit = START_SECONDS + 10 * seconds * len(entry.numbers)
        try:
            found = await ask_process("contestant.py", "--tune", entry.tune, *arguments, within=limit)
        except Exception as why:
            self._skip(entry, why)
            return
        for number, figures in found.items():
            for what, figure in figures.items():
                self.found.setdefault(f"{entry.key}@{number}", {}).setdefault(what, []).append(figure)

    def _skip(self, entry: Entry, why: Exception) -> None:
        """It takes no part: one that fails in one round has no ratios."""
        self.skipped[entry.name] = str(why) or type(why).__name__
        names = (f"{entry.name}@", f"{entry.name}+")
        self.found = {key: figures for key, figures in self.found.items() if not key.startswith(names)}
        print(f"without {CONTESTANTS[entry.name].title}: {self.skipped[entry.name]}", file=sys.stderr)

    def column(self, *whats: str) -> Figures:
        """One figure of all, or the sum of several, round by round."""
        return {
            key: [sum(values) for values in zip(*(figures[what] for what in whats), strict=True)]
            for key, figures in self.found.items()
            if all(what in figures for what in whats)
        }

    def median(self, key: str, what: str) -> float | None:
        """The median over the rounds; ``None``: it was not measured."""
        figures = self.found.get(key, {}).get(what)
        return statistics.median(figures) if figures else None

    def text(self, key: str, what: str) -> str:
        """The same to read."""
        return self.middle(self.found.get(key, {}).get(what, []))

    @staticmethod
    def middle(figures: list[float]) -> str:
        """The median of some figures to read, in as many digits as mean something."""
        if not figures:
            return "-"
        median = statistics.median(figures)
        return f"{median:,.0f}" if median >= 100 else f"{median:.1f}" if median < 10 else f"{median:.0f}"
