"""Text of a peer's, made safe for a log or an error: a line break in it would forge a line. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with whatever is not printable written as Python escapes it."""
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
