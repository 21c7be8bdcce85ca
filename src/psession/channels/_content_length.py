"""The framing of LSP and DAP: a header of lines that gives the length, an empty line, the message. Pure.

The base protocol of the Language Server Protocol 3.17: each header field is ``Name: value``, ended by CRLF;
``Content-Length`` is required; ``Content-Type`` may say which charset the message has, and that must be UTF-8.
"""

from __future__ import annotations

import re
from typing import Final

from psession.channels._framings import Framing
from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError

DEFAULT_MAX_HEADER_BYTES: Final = 4096
"""Honest headers have 20 to 80 bytes. Each read of a header that comes in pieces looks at it from its beginning."""

LEAST_HEADER_BYTES: Final = 64
"""A header with Content-Length alone has 36 at most; one that says the charset as well must fit, or nothing does."""

DEFAULT_MAX_SKIPPED_BYTES: Final = 64 * 1024 * 1024
"""A message too large that is still passed over: 64 MiB take a tenth of a second through a pipe."""

_END: Final = b"\r\n\r\n"
_MOST_DIGITS: Final = 15
"""Digits of a length that may be meant: a petabyte."""

_SHOWN_BYTES: Final = 60
_UTF8: Final = frozenset((b"utf-8", b"utf8"))
"""LSP 3.17: servers should treat ``utf8`` as ``utf-8``, which older versions of the protocol said."""

_plain: Final = re.compile(rb"Content-Length: ([0-9]{1,10})\r\n\r\n").match
"""The header as nearly everybody writes it."""

_NAME: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_is_name: Final = re.compile(_NAME).fullmatch
_begins_name: Final = re.compile(_NAME).match
_is_value: Final = re.compile(rb"[\t\x20-\x7e]*").fullmatch
_charset: Final = re.compile(rb";[ \t]*charset[ \t]*=[ \t]*\"?([^\";\s]*)", re.IGNORECASE).search
"""The names, values and parameters of HTTP (RFC 9110, 5.1, 5.5 and 8.3.1), which LSP refers to."""


class ContentLengthFraming(Framing):
    r"""Each message behind a header that says its length: ``Content-Length: 2\r\n\r\n{}``.

    Other header fields are passed over. The edges are lost where no length can be found (a line that is no header
    field, a missing or bad ``Content-Length``, two that differ, a header without end), or one that nobody would wait
    for. Where the length is known a bad header costs its own message alone: too large, another charset, a
    ``Content-Length`` given twice.

    Args:
        max_message_bytes: How long a message may be, its header not counted.
        max_header_bytes: How long a header may be, its empty line counted; at least 64.
        max_skipped_bytes: The length of a message that is still skipped where it is over `max_message_bytes`; a larger
            one loses the edges.

    Raises:
        ValueError: `max_header_bytes` is less than 64.
    """

    __slots__ = ("_max_skipped_bytes", "max_header_bytes")

    def __init__(
        self,
        max_message_bytes: float,
        *,
        max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES,
        max_skipped_bytes: float = DEFAULT_MAX_SKIPPED_BYTES,
    ) -> None:
        super().__init__(max_message_bytes)
        if not max_header_bytes >= LEAST_HEADER_BYTES:
            raise ValueError(f"max_header_bytes must be {LEAST_HEADER_BYTES} or more, not {max_header_bytes!r}")
        self.max_header_bytes: int = max_header_bytes
        self._max_skipped_bytes = max_skipped_bytes

    def frame(self, payload: bytes) -> bytes:
        """The header and the payload.

        Raises:
            MalformedMessageError: It is empty.
        """
        if not payload:
            raise MalformedMessageError("empty: a message has at least one byte")
        return b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload)

    def cut(self, data: bytes, at: int) -> tuple[bytes | MessageError, int] | int:
        """The message behind the header at this place."""
        plain = _plain(data, at)
        wrong: MessageError | None = None
        if plain is not None:
            start, length = plain.end(), int(plain[1])
        else:
            start = self._find_end(data, at)
            if not start:
                return len(data) + 1
            length, wrong = self._read(data[at : start - len(_END)])
        end = start + length
        if length > self.max_message_bytes:
            wrong = self._too_large(f"a Content-Length of {length} bytes")
            if length > self._max_skipped_bytes:
                raise wrong
        if wrong is not None:
            return wrong, end
        if end > len(data):
            return end
        return data[start:end] or MalformedMessageError("empty: a Content-Length of 0"), end

    def _find_end(self, data: bytes, at: int) -> int:
        """The place behind the header that begins here; 0 where it is not whole.

        What is no header is found out early, by its first byte or its first line: the peer may speak another protocol,
        and wait for an answer.
        """
        limit = at + self.max_header_bytes
        if not _begins_name(data, at, at + 1):
            raise _no_header(data[at : at + 1])
        newline = data.find(b"\n", at, limit)
        if newline >= 0:
            _field(data[at : newline + 1].removesuffix(b"\r\n"))
        end = data.find(_END, at, limit)
        if end >= 0:
            return end + len(_END)
        if len(data) >= limit:
            raise MalformedMessageError(
                f"a header without an end in max_header_bytes, {self.max_header_bytes}: "
                f"it begins with {data[at : at + _SHOWN_BYTES]!r}"
            )
        return 0

    def _read(self, header: bytes) -> tuple[int, MessageError | None]:
        """The length that a header gives, and what is wrong with it for its own message alone."""
        length: bytes | None = None
        wrong: MessageError | None = None
        for line in header.split(b"\r\n"):
            name, value = _field(line)
            if name == b"content-length":
                if length is not None:
                    if value != length:
                        raise MalformedMessageError(f"two Content-Length that differ: {header[:_SHOWN_BYTES]!r}")
                    wrong = MalformedMessageError("the header Content-Length is given twice")
                length = value
            elif not _is_value(value):
                wrong = MalformedMessageError(f"the header {name.decode()} has characters that are not ASCII")
            elif name == b"content-type":
                charset = _charset(value)
                if charset is not None and charset[1].lower() not in _UTF8:
                    wrong = MalformedMessageError(f"the charset {charset[1][:_SHOWN_BYTES].decode()!r}: give utf-8")
        if length is None:
            raise MalformedMessageError(f"a header without Content-Length: {header[:_SHOWN_BYTES]!r}")
        if not length.isdigit():
            raise MalformedMessageError(f"a Content-Length that is no number of bytes: {length[:_SHOWN_BYTES]!r}")
        if len(length) > _MOST_DIGITS:
            raise MessageTooLargeError(f"a Content-Length of {len(length)} digits")
        return int(length), wrong


def _field(line: bytes) -> tuple[bytes, bytes]:
    """The name and the value of a header line, without its end; the name in small letters.

    Raises:
        MalformedMessageError: It is none.
    """
    if b"\n" in line:
        raise MalformedMessageError(rf"a header line that ends with \n alone, not with \r\n: {line[:_SHOWN_BYTES]!r}")
    name, colon, value = line.partition(b":")
    if not colon or not _is_name(name):
        raise _no_header(line[:_SHOWN_BYTES])
    return name.lower(), value.strip(b" \t")


def _no_header(found: bytes) -> MalformedMessageError:
    return MalformedMessageError(
        f"{found!r} stands where a header such as 'Content-Length: 2' belongs: the length of the message before it "
        "was wrong, or the peer speaks another protocol"
    )
