"""The exit status of a command, and the line that explains it. Pure."""

from __future__ import annotations

import os
from enum import IntEnum

from psession import _interrupt
from psession.text import innermost


class Exit(IntEnum):
    """The exit status of a command, as docs/cli.md and ``psession --help`` list it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TIMEOUT = 3
    CONNECTION = 4
    MESSAGE = 5
    INTERRUPTED = _interrupt.INTERRUPTED


class Problem(Exception):
    """An error that ends a command: a line for the user, and the exit status.

    Attributes:
        code: The exit status.
    """

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(text)
        self.code = code


def reason(error: BaseException) -> str:
    """Return the text of the underlying error, such as ``connection refused``."""
    error = innermost(error)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        # A resolver's number is negative, and its own; a library may have put words of its own around the system's.
        text = os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
