"""The output of the commands. All of it goes through `say` and `complain`, a line at a time."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGERS = ("psession", "trio")


class OutputLost(Exception):
    """Standard output is closed or full, or its reader has left."""


def say(text: str) -> None:
    """Write a line to standard output, and flush it.

    Raises:
        OutputLost: It cannot be written.
    """
    if sys.stdout is None:  # started with ">&-"
        raise OutputLost("standard output is closed")
    try:
        print(text if can_say(text) else text.encode("ascii", "backslashreplace").decode(), flush=True)
    except (OSError, ValueError) as error:
        raise OutputLost(f"cannot write to standard output: {error}") from error


def complain(text: str) -> None:
    """Write one line to standard error, if there is one. Line breaks and escape codes in it are made visible."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"{_status.clear()}psession:", one_line(text), file=sys.stderr, flush=True)


class _Status:
    """The line on the terminal that changes. It is gone before anything else is written there."""

    shown = False

    def clear(self) -> str:
        """Return what takes it away."""
        was_shown, self.shown = self.shown, False
        return "\r\x1b[K" if was_shown else ""


_status = _Status()


def has_status() -> bool:
    """Return True if standard error is a terminal, and standard output none that the two would share."""
    terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and not (sys.stdout is not None and sys.stdout.isatty())


def show_status(text: str) -> None:
    """Show `text` as the last line of the terminal, in place of the one before it; ``""`` shows none."""
    with suppress(OSError, ValueError):
        sys.stderr.write(_status.clear() + text)
        sys.stderr.flush()
        _status.shown = bool(text)


def one_line(text: str) -> str:
    """Return `text` with each unprintable character as an escape sequence: a peer may have written it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def cut(text: str, columns: float) -> str:
    """Return `text`, or as much of its beginning as these columns have room for, and three dots."""
    if len(text) * 2 <= columns or _columns(text) <= columns:
        return text
    kept, used = 0, 3
    for char in text:
        used += _columns(char)
        if used > columns:
            break
        kept += 1
    return text[:kept] + "..."


def _columns(text: str) -> int:
    """Return the width of the text: East Asian characters take two columns, combining ones none (UAX #11)."""
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def can_say(text: str) -> bool:
    """Return True if standard output has every character of `text`."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def in_colour() -> bool:
    """Return True on a terminal that can show colour, unless ``NO_COLOR`` is set (https://no-color.org)."""
    terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and not os.environ.get("NO_COLOR")


def abandon_output() -> None:
    """Discard all further output: the interpreter's own last flush would fail once again, with a traceback."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _OneLine(logging.Handler):
    """A handler that writes a log record as a line, without its traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Show errors that libraries log as one line each, and no warnings: the command itself tells what they mean."""
    handler = _OneLine(logging.ERROR)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
