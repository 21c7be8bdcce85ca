"""A page of the tutorial or the recipes, done as a reader does it.

A block of Python, or of a configuration, that begins with ``# name.py`` is a file. A block ``console`` is what somebody
types after ``$``, and what comes; ``...`` there is anything. A command that ends in ``&`` goes on in the background,
``kill %1`` tells the first of these to end (``%1 %2`` two; ``kill -INT %1`` as Ctrl-C does, ``-STOP`` and ``-CONT``
hold it and let it go on), and a block ``text`` is what those in the background say in the meantime.
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psession

from .ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<name>[\w/]+\.\w+)\n")
PORT = re.compile(r"\b(?:8\d{3}|4\d{3})\b")
"""What the pages use as ports, 4000 and 8000 and so on: a test has others, which are free."""
LONGEST_WAIT = 20.0  # seconds for a line that is to come; most come in a tenth of one
PROGRAMS = {
    "python": [sys.executable, "-W", "error", "-u"],
    "psession": [sys.executable, "-m", "psession"],
    "uvicorn": [sys.executable, "-W", "error", "-m", "uvicorn"],
    "curl": ["curl"],
    "pytest": [sys.executable, "-m", "pytest", "-p", "pytest_trio.plugin", "-p", "no:cacheprovider"],
}


class Block(NamedTuple):
    """A block of a page: its language, what is in it, and the line where it begins."""

    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], text.count("\n", 0, found.start()) + 2)
        for found in FENCE.finditer(text)
    ]


def name_of(block: Block) -> str | None:
    """The name of the file that a block is, if it is one."""
    found = FILE.match(block.code)
    return found["name"] if found else None


class Terminal:
    """What is said on a terminal, line by line; several programs may write to it."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []

    def put(self, line: str | None) -> None:
        """Take a line of a program; ``None``: it has ended."""
        self._lines.put(line)

    def next(self) -> str | None:
        """The next line, or the end of a program."""
        try:
            line = self._lines.get(timeout=LONGEST_WAIT)
        except queue.Empty:
            raise AssertionError(f"nothing more is said than {self._seen}") from None
        self._seen.append(str(line))
        return line

    def lines(self, number: int) -> list[str]:
        """So many lines."""
        some: list[str] = []
        while len(some) < number:
            if (line := self.next()) is not None:
                some.append(line)
        return some


class Job:
    """A program that was started."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], terminal: Terminal) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self._terminal = terminal
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._terminal.put(line.rstrip("\n"))
        self._terminal.put(None)

    def end(self) -> None:
        """End it, whatever it is doing."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Reader:
    """Somebody at a terminal who does what a page says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._jobs: list[Job] = []
        self._background = Terminal()
        path = os.pathsep.join(filter(None, [str(Path(psession.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
        self._environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "NO_COLOR": "1"}

    def follow(self, page: Path) -> None:
        """Do what a page says, from top to bottom."""
        try:
            for block in blocks_of(page):
                self._do(block, page.name)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        for job in self._jobs:
            job.end()
        self._jobs.clear()

    def _do(self, block: Block, page: str) -> None:
        code = PORT.sub(lambda found: self._port(found[0]), block.code)
        where = f"{page} {block.line}"
        if name := name_of(block):
            (self._folder / name).write_text(code, encoding="utf-8")
        elif block.language == "console":
            for typed, expected in commands(code):
                self._type(shlex.split(typed), expected, where)
        elif block.language == "text":
            self._hear(code.splitlines(), where)

    def _port(self, written: str) -> str:
        """A port that is free, for the one that is written."""
        if written not in self._ports:
            self._ports[written] = str(free_port())
        return self._ports[written]

    def _type(self, words: list[str], expected: list[str], where: str) -> None:
        if words[0] == "kill":
            number = signal.SIGTERM
            if words[1].startswith("-"):
                number = signal.Signals[f"SIG{words.pop(1).removeprefix('-')}"]
            for job in [self._jobs[int(word.removeprefix("%")) - 1] for word in words[1:]]:
                job.process.send_signal(number)
                if number in (signal.SIGTERM, signal.SIGINT):
                    job.process.wait(LONGEST_WAIT)
            self._hear(expected, where)
            if all(job.process.poll() is not None for job in self._jobs):  # as in a shell, which counts from 1 again
                self._end_all()
        elif words[-1] == "&":
            self._start(words[:-1], self._background)
            self._hear(expected, where)
        else:
            terminal = Terminal()
            self._start(words, terminal)
            compare(list(iter(terminal.next, None)), expected, where)
            self._jobs.pop().end()

    def _start(self, words: list[str], terminal: Terminal) -> None:
        self._jobs.append(Job([*PROGRAMS[words[0]], *words[1:]], self._folder, self._environment, terminal))

    def _hear(self, expected: list[str], where: str) -> None:
        """Wait until those in the background have said these lines: each has its order, and two of them have none."""
        said = self._background.lines(len(expected))
        ordered = [next((line for line in said if fits(line, pattern)), "nothing like it") for pattern in expected]
        compare(ordered, expected, f"{where}, {said}")


def commands(code: str) -> Iterator[tuple[str, list[str]]]:
    """What is typed in a block, and what is to come after each."""
    typed, expected = "", list[str]()
    for line in code.splitlines():
        if line.startswith("$ "):
            if typed:
                yield typed, expected
            typed, expected = line[2:], []
        else:
            expected.append(line)
    yield typed, expected


def fits(said: str, expected: str) -> bool:
    """True if a line is what a page says, where ``...`` is anything."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), said) is not None


def compare(said: list[str], expected: list[str], where: str) -> None:
    """Compare what a program said with a page."""
    same = len(said) == len(expected) and all(map(fits, said, expected))
    assert same, f"{where}: the page says\n{chr(10).join(expected)}\nand the program\n{chr(10).join(said)}"
