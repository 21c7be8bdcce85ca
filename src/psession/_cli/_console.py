"""What a command says: all of it goes through `say` and `complain`, a line at a time."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGERS = ("psession", "trio")


class OutputLost(Exception):
    """Standard output is closed, full, or its reader has gone."""


def say(text: str) -> None:
    """Write a line to standard output, now.

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
    """Write one line to standard error, if anybody listens; line breaks and escape codes in it are made visible."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print("psession:", one_line(text), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """`text` with whatever a terminal would not just show (a peer may have written it) as an escape sequence."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def can_say(text: str) -> bool:
    """Whether standard output has every character of `text`."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def in_colour() -> bool:
    """Whether to colour what is said: on a terminal that can, unless ``NO_COLOR`` is set (https://no-color.org)."""
    terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and not os.environ.get("NO_COLOR")


def abandon_output() -> None:
    """Let nothing be written any more: the interpreter's own last flush would fail once again, with a traceback."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _OneLine(logging.Handler):
    """A log record as a line, without its traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Errors that libraries log are one line each, and warnings none: what they mean for the user, the command says."""
    handler = _OneLine(logging.ERROR)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
