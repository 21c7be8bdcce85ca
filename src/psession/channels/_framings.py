"""Where one message ends and the next begins on a stream of bytes: two framings, pure, fed with whatever cut arrives.

A framing gives each payload its edges (`frame`) and finds them again (`feed`). A message that is too large costs itself
alone where its end can be found (lines); where it cannot (a length that nobody would wait for) the edges are lost.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError

_NEWLINE: Final = 0x0A
_RETURN: Final = 0x0D
_LENGTH: Final = struct.Struct(">I")
_LONGEST: Final = 2**32 - 1


class Framing(Protocol):
    """The edges of messages on one stream, one way of drawing them; it keeps what of a message has come so far."""

    lost: MessageError | None
    """Why the edges are lost: nothing after this can be understood."""

    def frame(self, payload: bytes) -> bytes:
        """The payload with its edges."""
        ...

    def feed(self, data: bytes) -> list[bytes | MessageError]:
        """The payloads that end in ``data``; one that is bad but has its edges stands in its place as its error."""
        ...

    def end(self) -> MessageError | None:
        """What is wrong with the stream's ending here: ``None`` between two messages."""
        ...


class LineFraming:
    r"""One message a line, ended by ``\n``; ``\r\n`` and empty lines are accepted.

    A line longer than the limit is skipped to its end, so no more than the limit is ever kept.

    Args:
        max_message_bytes: How long a line may be, its end not counted.
    """

    lost: MessageError | None = None

    def __init__(self, max_message_bytes: float) -> None:
        self._limit = max_message_bytes
        self._kept = bytearray()
        self._skipped = 0

    def frame(self, payload: bytes) -> bytes:
        r"""The payload and its ``\n``.

        Raises:
            MalformedMessageError: It would not come back as one line.
        """
        if not payload or _NEWLINE in payload or payload[-1] == _RETURN:
            raise MalformedMessageError("empty, or with a line break in it: it cannot travel as a line")
        return payload + b"\n"

    def feed(self, data: bytes) -> list[bytes | MessageError]:
        """The lines that end in ``data``; each byte is looked at once, whatever the cut."""
        lines: list[bytes | MessageError] = []
        pieces = data.split(b"\n")
        tail = pieces.pop()
        if pieces and (self._kept or self._skipped):
            first = pieces.pop(0) if len(pieces) > 1 else pieces.pop()
            self._keep(first)
            lines += self._ended()
        for piece in pieces:
            if piece and piece[-1] == _RETURN:
                piece = piece[:-1]
            if len(piece) > self._limit:
                lines.append(self._too_large(len(piece)))
            elif piece:
                lines.append(piece)
        if tail:
            self._keep(tail)
        return lines

    def _keep(self, piece: bytes) -> None:
        if self._skipped:
            self._skipped += len(piece)
        elif len(self._kept) + len(piece) <= self._limit + 1:  # one more, which may turn out to be the \r of \r\n
            self._kept += piece
        else:
            self._skipped = len(self._kept) + len(piece)
            self._kept.clear()

    def _ended(self) -> list[bytes | MessageError]:
        line, length = bytes(self._kept), self._skipped or len(self._kept)
        self._kept.clear()
        self._skipped = 0
        if line.endswith(b"\r"):
            line, length = line[:-1], length - 1
        if length > self._limit:
            return [self._too_large(length)]
        return [line] if line else []

    def _too_large(self, length: int) -> MessageTooLargeError:
        return MessageTooLargeError(f"a line of {length} bytes; max_message_bytes is {self._limit}")

    def end(self) -> MessageError | None:
        """A line without its end is what is wrong with the stream's ending here."""
        length = self._skipped or len(self._kept)
        if not length:
            return None
        return MalformedMessageError(f"the stream ended inside a message: {length} bytes came, and no newline")


class LengthFraming:
    """Each message after its length, 4 bytes, big-endian.

    A length over the limit loses the edges: it is an attack, or another protocol's bytes read as a length, and to skip up
    to 4 GiB would hang rather than fail.

    Args:
        max_message_bytes: How long a message may be, its length field not counted.
    """

    def __init__(self, max_message_bytes: float) -> None:
        self.lost: MessageError | None = None
        self._limit = max_message_bytes
        self._kept = bytearray()
        self._wanted = _LENGTH.size

    def frame(self, payload: bytes) -> bytes:
        """The length and the payload.

        Raises:
            MalformedMessageError: It is empty.
            MessageTooLargeError: Four bytes cannot say how long it is.
        """
        if not payload:
            raise MalformedMessageError("empty: a message has at least one byte")
        if len(payload) > _LONGEST:
            raise MessageTooLargeError(f"{len(payload)} bytes; a 4-byte length ends at {_LONGEST}")
        return _LENGTH.pack(len(payload)) + payload

    def feed(self, data: bytes) -> list[bytes | MessageError]:
        """The payloads that end in ``data``; a long one is put together once, when all of it is there."""
        if self._kept or self.lost is not None:
            self._kept += data
            if len(self._kept) < self._wanted or self.lost is not None:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        payloads: list[bytes | MessageError] = []
        at, end = 0, len(data)
        wanted = _LENGTH.size
        while end - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            wanted = _LENGTH.size + length
            ...
        return payloads

    def end(self) -> MessageError | None:
        return None
