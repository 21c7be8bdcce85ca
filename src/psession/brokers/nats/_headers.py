"""Headers of NATS messages: a version line, and lines of a name and a value. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from psession.errors import MalformedMessageError

VERSION: Final = b"NATS/1.0"
_NAME: Final = frozenset(map(chr, range(33, 127))) - {":"}

Headers = Mapping[str, str | Sequence[str]]
"""What travels beside a message: a value or several under each name. Names are taken as they are written."""


def encode_headers(headers: Headers) -> bytes:
    """Return the block of headers, with the empty line behind it.

    Raises:
        MalformedMessageError: A name or a value has characters that cannot travel.
    """
    lines = [VERSION]
    for name, values in headers.items():
        if not isinstance(name, str) or not name or not _NAME.issuperset(name):
            raise MalformedMessageError(f"the name of a header is printable ASCII without ':' and spaces, not {name!r}")
        for value in values if isinstance(values, list | tuple) else (values,):
            if not isinstance(value, str) or "\r" in value or "\n" in value:
                raise MalformedMessageError(f"the header {name!r} must be text on one line, not {value!r:.100}")
            try:
                lines.append(f"{name}: {value.strip()}".encode())
            except UnicodeEncodeError:
                raise MalformedMessageError(f"the header {name!r} has no form in UTF-8: {value!r:.100}") from None
    return b"\r\n".join(lines) + b"\r\n\r\n"


def decode_headers(block: bytes) -> dict[str, list[str]]:
    """Return the headers of a block, each name with its values in their order.

    Raises:
        MalformedMessageError: It is no block of headers.
    """
    first, *lines = _text(block).split("\r\n")
    if not first.startswith("NATS/1.0"):
        raise MalformedMessageError(f"headers begin with 'NATS/1.0', not {first!r:.100}")
    headers: dict[str, list[str]] = {}
    for line in lines:
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise MalformedMessageError(f"a header is a name, ':' and a value, not {line!r:.100}")
        headers.setdefault(name.strip(), []).append(value.strip())
    return headers


def status_of(block: bytes) -> tuple[int, str]:
    """Return the number and the words that a server puts behind the version; 0 where there is none.

    Raises:
        MalformedMessageError: It is no block of headers.
    """
    line = _text(block).split("\r\n", 1)[0].removeprefix("NATS/1.0").strip()
    number, _, words = line.partition(" ")
    return (int(number), words.strip()) if number.isascii() and number.isdigit() and len(number) <= 4 else (0, line)


def _text(block: bytes) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError:
        raise MalformedMessageError(f"headers are text in UTF-8, not {block!r:.100}") from None
