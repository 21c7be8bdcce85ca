"""The processes that the demo of a fleet starts. None outlives it, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from psession._cli._problem import Exit, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

START_TIMEOUT: Final = 15.0
"""Seconds that a process has to begin: on a busy machine a Python takes 2."""

PR_SET_PDEATHSIG: Final = 1
"""See prctl(2): Linux's way to have a child killed when its parent is."""


class Child:
    """A process, started at once by the main thread, since Linux kills it when the thread that started it ends.

    Args:
        name: What the demo calls it.
        command: The program and its arguments.
        folder: Where its standard error goes.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._errors = folder / f"{name}.err"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=_die_with_the_parent if sys.platform == "linux" else None,
                start_new_session=True,  # a Ctrl-C on the terminal is the demo's, which kills all
            )

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def is_over(self) -> bool:
        """True once it has ended."""
        return self._process.poll() is not None

    async def first_line(self) -> str:
        """Return the first line that it writes.

        Raises:
            Problem: It ended before that, or took too long.
        """
        assert self._process.stdout is not None
        line = b""
        with trio.move_on_after(START_TIMEOUT):
            async with trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno())) as stream:
                while not line.endswith(b"\n"):
                    data = await stream.receive_some()
                    if not data:
                        break
                    line += data
        if not line.endswith(b"\n"):
            raise self.failed()
        return line.decode(errors="replace").strip()

    def failed(self) -> Problem:
        """Return what to tell of a process that did not begin."""
        last = self._errors.read_text(errors="replace").strip().splitlines()[-1:]
        why = last[0] if last else "it said nothing" if self.is_over else f"nothing in {START_TIMEOUT:g} s"
        return Problem(f"{self.name} did not start: {why}", Exit.FAILED)

    def kill(self) -> None:
        """End it with SIGKILL, and wait for that, which takes a moment."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Leave nothing of it behind."""
        self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def children() -> Iterator[list[Child]]:
    """A list of processes that are killed when the block is left."""
    started: list[Child] = []
    try:
        yield started
    finally:
        for child in started:
            child.close()


def _die_with_the_parent() -> None:
    """Run in the child, before its program."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
