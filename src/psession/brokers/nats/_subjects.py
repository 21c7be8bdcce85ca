"""Subjects of NATS: what may be published to, what may be subscribed to, and what is wrong with the others. Pure."""

from __future__ import annotations

import re
from typing import Final

MAX_SUBJECT_BYTES: Final = 1024
"""How long a subject may be. A server takes a line of 4096 bytes, which holds two subjects, a queue and two numbers."""

_PLAIN: Final = re.compile(r"[!-)+-\-/-=?-~]+(?:\.[!-)+-\-/-=?-~]+)*")
"""Tokens of printable ASCII without ``*`` and ``>``: nearly all subjects, which need no second look."""


def subject_bytes(subject: str, what: str = "subject") -> bytes:
    """Return a subject to publish to, as it travels.

    Raises:
        TypeError: It is no text.
        ValueError: It is none; the text says why, and what would be right.
    """
    if type(subject) is str and len(subject) <= MAX_SUBJECT_BYTES and _PLAIN.fullmatch(subject):
        return subject.encode()
    data = _checked(subject, what)
    wild = [token for token in subject.split(".") if token in ("*", ">")]
    if wild:
        raise ValueError(
            f"the {what} {subject!r} has the wildcard {wild[0]!r}, which may be subscribed to and never published to: "
            "give one subject"
        )
    return data


def pattern_bytes(subject: str) -> bytes:
    """Return a subject to subscribe to, which may have wildcards, as it travels.

    Raises:
        TypeError: It is no text.
        ValueError: It is none; the text says why.
    """
    data = _checked(subject, "subject")
    if ">" in subject.split(".")[:-1]:
        raise ValueError(
            f"the subject {subject!r} has '>' before its end: it stands for all that follows, so it is last"
        )
    return data


def queue_bytes(queue: str) -> bytes:
    """Return the name of a queue group, as it travels.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, or has spaces or control characters.
    """
    if not isinstance(queue, str):
        raise TypeError(f"queue must be a str, not {queue!r}")
    if not queue or any(character.isspace() or not character.isprintable() for character in queue):
        raise ValueError(f"the name of a queue must be text without spaces, not {queue!r}")
    return queue.encode()


def token(text: str) -> str:
    """Return any text as one token of a subject, so that no name of a peer's becomes two tokens or a wildcard.

    Letters, digits, ``-`` and ``_`` stay; all else is written as ``=`` and two hexadecimal digits for each byte. Two
    texts never make the same token.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, or too long for a subject.
    """
    if not isinstance(text, str):
        raise TypeError(f"a token is made of a str, not {text!r}")
    if not text:
        raise ValueError("a token of a subject must not be empty")
    made = "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or byte in b"-_") else f"={byte:02X}"
        for byte in text.encode(errors="surrogatepass")
    )
    if len(made) > MAX_SUBJECT_BYTES:
        raise ValueError(f"{len(made)} bytes as a token of a subject; {MAX_SUBJECT_BYTES} may be in a subject")
    return made


def _checked(subject: object, what: str) -> bytes:
    if not isinstance(subject, str):
        raise TypeError(f"a {what} must be a str, not {subject!r}")
    if not subject:
        raise ValueError(f"a {what} must not be empty")
    for character in subject:
        if character.isspace() or not character.isprintable():
            raise ValueError(
                f"the {what} {subject!r} has {character!r} in it: a subject is text without spaces and control "
                "characters; token() makes one of any text"
            )
    if "" in subject.split("."):
        raise ValueError(f"the {what} {subject!r} has an empty token: it must not begin or end with '.', nor have '..'")
    try:
        data = subject.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} {subject!r} is no text that UTF-8 has a form for") from None
    if len(data) > MAX_SUBJECT_BYTES:
        raise ValueError(f"a {what} of {len(data)} bytes; {MAX_SUBJECT_BYTES} are the most")
    return data
