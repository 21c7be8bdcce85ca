"""Text for a log or an error: of a peer's, made safe, since a line break in it would forge a line. Pure."""

from __future__ import annotations

from typing import Final

SHORT_CHARS: Final = 200
"""How much an error repeats of what a peer may have made long."""


def printable(text: str) -> str:
    """The text with whatever is not printable written as Python escapes it."""
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def port_named(name: str, label: str = "") -> str:
    """A port in words: its name, and beside it the label that the application gave it."""
    return f"port {name!r} ({printable(label)})" if label else f"port {name!r}"


def short(text: str) -> str:
    """The beginning of the text, made printable."""
    return printable(text) if len(text) <= SHORT_CHARS else printable(text[:SHORT_CHARS]) + "..."


def innermost(error: BaseException) -> BaseException:
    """Return the underlying error: the first inside an exception group, or the cause that a library wrapped."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error.__cause__, OSError | ExceptionGroup):
            error = error.__cause__
        else:
            return error
