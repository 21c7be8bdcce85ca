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

    @property
    def kept_bytes(self) -> int:
        """The number of bytes that are kept of a message that has come in part."""
        ...

    def frame(self, payload: bytes) -> bytes:
        """The payload with its edges."""
        ...

    def feed(self, data: bytes) -> list[bytes | MessageError]:
        """The payloads that end in ``data``; one that is bad but has its edges stands in its place as its error."""
        ...

    def give_up(self, why: str) -> None:
        """Listen no more: the peer does what no peer should."""
        ...

    def forget(self) -> None:
        """Let go of what is kept: the channel is closed, and may be held for some time yet."""
        ...

    def end(self) -> MessageError | None:
        """The error that the stream's ending here is: ``None`` between two messages."""
        ...


class _Keeping:
    """The common part of the two framings: what has come of a message that is not whole."""

    def __init__(self, max_message_bytes: float) -> None:
        self.lost: MessageError | None = None
        self._limit = max_message_bytes
        self._kept = bytearray()

    @property
    def kept_bytes(self) -> int:
        """The number of bytes that are kept of a message, its edges counted."""
        return len(self._kept)

    def give_up(self, why: str) -> None:
        """Listen no more."""
        self._lose(MalformedMessageError(why))

    def _lose(self, error: MessageError) -> None:
        self.lost = error

    def forget(self) -> None:
        """Let go of what is kept."""
        self._kept.clear()


class LineFraming(_Keeping):
    r"""One message a line, ended by ``\n``; ``\r\n`` and empty lines are accepted.

    A line longer than the limit is skipped to its end, so no more than the limit is ever kept.

    Args:
        max_message_bytes: How long a line may be, its end not counted.
    """

    def __init__(self, max_message_bytes: float) -> None:
        super().__init__(max_message_bytes)
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
        if pieces and self._skipped:
            lines.append(self._too_large(self._skipped + len(pieces.pop(0))))
            self._skipped = 0
        elif pieces and self._kept:
            self._kept += pieces[0]
            pieces[0] = bytes(self._kept)
            self._kept.clear()
        for piece in pieces:
            line = piece[:-1] if piece and piece[-1] == _RETURN else piece
            if len(line) > self._limit:
                lines.append(self._too_large(len(piece)))
            elif line:
                lines.append(line)
        if tail:
            self._keep(tail)
        return lines

    def _keep(self, tail: bytes) -> None:
        length = self._skipped + len(self._kept) + len(tail)
        if length <= self._limit + 1:  # one more, since that byte may turn out to be the \r of \r\n
            self._kept += tail
        else:
            self._skipped = length
            self._kept.clear()

    def _too_large(self, length: int) -> MessageTooLargeError:
        return MessageTooLargeError(f"a line of {length} bytes; max_message_bytes is {self._limit}")

    def end(self) -> MessageError | None:
        """A line without its end is what is wrong with the stream's ending here."""
        length = self._skipped or len(self._kept)
        if not length:
            return None
        return MalformedMessageError(f"the stream ended inside a message: {length} bytes came, and no newline")


class LengthFraming(_Keeping):
    """Each message after its length, 4 bytes, big-endian.

    A length over the limit loses the edges: it is an attack, or another protocol's bytes read as a length, and to skip
    up to 4 GiB would hang rather than fail.

    Args:
        max_message_bytes: How long a message may be, its length field not counted.
    """

    def __init__(self, max_message_bytes: float) -> None:
        super().__init__(max_message_bytes)
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
        if self.lost is not None:
            return []
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        payloads: list[bytes | MessageError] = []
        at, wanted = 0, _LENGTH.size
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._limit:
                self._lose(self._too_large(length, data[at : at + _LENGTH.size]))
                return payloads
            start, stop = at + _LENGTH.size, at + _LENGTH.size + length
            if stop > len(data):
                wanted = stop - at
                break
            payloads.append(data[start:stop] or MalformedMessageError("empty: a length of 0"))
            at = stop
        self._wanted = wanted
        if at < len(data):
            self._kept += data[at:]
        return payloads

    def _too_large(self, length: int, field: bytes) -> MessageTooLargeError:
        return MessageTooLargeError(
            f"a length of {length} bytes; max_message_bytes is {self._limit}. "
            f"If {field!r} is not a length, the peer speaks another protocol"
        )

    def end(self) -> MessageError | None:
        """A message without its last bytes is what is wrong with the stream's ending here."""
        if not self._kept:
            return None
        got = f"{len(self._kept)} of {self._wanted} bytes"
        return MalformedMessageError(f"the stream ended inside a message: {got} came, the length field counted")
