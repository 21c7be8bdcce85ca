"""How a command can end, in numbers and in one line. Pure."""

from __future__ import annotations

import os
from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit status says; docs/cli.md and ``psession --help`` tell the user."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TIMEOUT = 3
    CONNECTION = 4
    MESSAGE = 5
    INTERRUPTED = 130
    """128 and the number of SIGINT, as shells have it."""


class Problem(Exception):
    """What stops a command: a line for the user, and the exit status.

    Attributes:
        code: The exit status.
    """

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(text)
        self.code = code


def innermost(error: BaseException) -> BaseException:
    """What really happened: the first error inside an exception group, or the cause that a library wrapped in words."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error.__cause__, OSError | ExceptionGroup):
            error = error.__cause__
        else:
            return error


def reason(error: BaseException) -> str:
    """What an error says, without the wrapping: ``connection refused``."""
    error = innermost(error)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        # A resolver's number is negative, and its own; a library may have put words of its own around the system's.
        text = os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
