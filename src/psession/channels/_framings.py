"""Where one message ends and the next begins on a stream of bytes: framings, pure, fed with whatever cut arrives.

A framing gives each payload its edges (`frame`) and finds them again (`feed`). A message that is too large costs itself
alone where its end can be found (lines); where it cannot (a length that nobody would wait for) the edges are lost.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import ClassVar, Final

from psession.errors import MalformedMessageError, MessageError, MessageTooLargeError

_NEWLINE: Final = 0x0A
_RETURN: Final = 0x0D
_LENGTH: Final = struct.Struct(">I")
_LONGEST: Final = 2**32 - 1

_SHOWN_CHARS: Final = 200
"""How much of the text of somebody else's error is repeated: it may quote a hostile message at length."""


class Framing(ABC):
    """The edges of messages on one stream, one way of drawing them; it keeps what of a message has come so far.

    A framing of your own says `frame` and `cut`. The rest is done here: frames that come in pieces or many at once, the
    limits, what is skipped, what is kept. One whose frames have no length in front, as lines have none, says `feed`
    instead of `cut`. A framing belongs to one stream.

    Args:
        max_message_bytes: How long a payload may be.

    Attributes:
        lost: Why the edges are lost: nothing after this can be understood.
        max_message_bytes: How long a payload may be.
    """

    __slots__ = ("_kept", "_to_skip", "_wanted", "lost", "max_message_bytes")

    max_header_bytes: int = 1024
    """How many bytes of a frame may be something else than its payload, before and behind it together."""

    text_only: ClassVar[bool] = False
    """True where a payload must be text on one line."""

    def __init__(self, max_message_bytes: float) -> None:
        self.lost: MessageError | None = None
        self.max_message_bytes: float = max_message_bytes
        self._kept = bytearray()
        self._wanted = 0
        self._to_skip = 0

    @abstractmethod
    def frame(self, payload: bytes) -> bytes:
        """The payload with its edges.

        Raises:
            MessageError: It would not come back as it is; nothing is sent.
        """

    def cut(self, data: bytes, at: int) -> tuple[bytes | MessageError, int] | int:
        """Cut off the frame that begins at the place `at`, where there is at least one byte.

        It must look at nothing before `at`, and remember nothing: what has come in part is given to it again.

        Args:
            data: What has come.
            at: The place.

        Returns:
            The payload and the place behind its frame. Where the frame is bad, but its end is known, an error takes the
            place of its payload, and what has not come of it is skipped without being kept. Where the frame is not
            whole, the place that `data` must reach before it is worth another try: its end, or ``len(data) + 1``.

        Raises:
            Exception: The edges are lost, and with them all that follows: the channel breaks, for this reason.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither cut() nor a feed() of its own")

    def feed(self, data: bytes) -> list[bytes | MessageError]:
        """The payloads that end in `data`; one that is bad but has its edges stands in its place as its error."""
        if self.lost is not None:
            return []
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        elif self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        found: list[bytes | MessageError] = []
        at, size, limit, cut = 0, len(data), self.max_message_bytes, self.cut
        while at < size:
            try:
                one = cut(data, at)
            except MessageError as error:
                self._lose(error)
                break
            except Exception as error:
                self._lose(self._not_cut(error))
                break
            if isinstance(one, int):
                self._keep_from(data, at, one)
                break
            payload, end = one
            if not at < end <= size or type(payload) is not bytes or len(payload) > limit:
                odd = self._odd(payload, end, at, size)
                if odd is None:
                    break
                payload = odd
            found.append(payload)
            at = end
        return found

    def _keep_from(self, data: bytes, at: int, end: int) -> None:
        """Keep what has come of the frame at this place, unless it is going to be larger than any may be."""
        self._wanted = end - at
        if self._wanted > self.max_message_bytes + self.max_header_bytes:
            self._lose(self._too_large(f"{self._wanted} bytes or more"))
        else:
            self._kept += data[at:]

    def _odd(self, payload: object, end: int, at: int, size: int) -> MessageError | None:
        """What takes the place of a payload that is none or too large; ``None`` where the edges are lost."""
        cut = f"{type(self).__name__}.cut() gave"
        if end <= at:
            self._lose(MalformedMessageError(f"{cut} an end that is not behind the beginning"))
        elif isinstance(payload, MessageError):
            self._to_skip = max(0, end - size)
            return payload
        elif type(payload) is not bytes:
            self._lose(MalformedMessageError(f"{cut} no bytes, but a {type(payload).__name__}"))
        elif end > size:
            self._lose(MalformedMessageError(f"{cut} a payload where {end - size} bytes of it have not come"))
        elif end - at > self.max_message_bytes + self.max_header_bytes:
            self._lose(self._too_large(f"{end - at} bytes or more"))  # as where it comes in pieces
        else:
            return self._too_large(f"{len(payload)} bytes")
        return None

    def _too_large(self, size: str) -> MessageTooLargeError:
        return MessageTooLargeError(f"{size}; max_message_bytes is {self.max_message_bytes}")

    def _not_cut(self, error: Exception) -> MalformedMessageError:
        text = str(error) or type(error).__name__
        shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
        lost = MalformedMessageError(f"{type(self).__name__} finds no edges: {shown}")
        lost.__cause__ = error
        return lost

    @property
    def kept_bytes(self) -> int:
        """The number of bytes that are kept of a message that has come in part, its edges counted."""
        return len(self._kept)

    def give_up(self, why: str) -> None:
        """Listen no more: the peer does what no peer should."""
        self._lose(MalformedMessageError(why))

    def _lose(self, error: MessageError) -> None:
        self.lost = error

    def forget(self) -> None:
        """Let go of what is kept: the channel is closed, and may be held for some time yet."""
        self._kept.clear()

    def end(self) -> MessageError | None:
        """The error that the stream's ending here is: ``None`` between two messages."""
        if self._to_skip:
            return MalformedMessageError(f"the stream ended inside a message: {self._to_skip} bytes of it did not come")
        if not self._kept:
            return None
        got = f"{len(self._kept)} of {self._wanted} bytes"
        return MalformedMessageError(f"the stream ended inside a message: {got} came, its edges counted")


class LineFraming(Framing):
    r"""One message a line, ended by ``\n``; ``\r\n`` and empty lines are accepted.

    A line longer than the limit is skipped to its end, so no more than the limit is ever kept.

    Args:
        max_message_bytes: How long a line may be, its end not counted.
    """

    __slots__ = ("_skipped",)

    text_only = True

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
        """The lines that end in `data`; each byte is looked at once, whatever the cut."""
        lines: list[bytes | MessageError] = []
        pieces = data.split(b"\n")
        tail = pieces.pop()
        if pieces and self._skipped:
            lines.append(self._line_too_large(self._skipped + len(pieces.pop(0))))
            self._skipped = 0
        elif pieces and self._kept:
            self._kept += pieces[0]
            pieces[0] = bytes(self._kept)
            self._kept.clear()
        for piece in pieces:
            line = piece[:-1] if piece and piece[-1] == _RETURN else piece
            if len(line) > self.max_message_bytes:
                lines.append(self._line_too_large(len(piece)))
            elif line:
                lines.append(line)
        if tail:
            self._keep(tail)
        return lines

    def _keep(self, tail: bytes) -> None:
        length = self._skipped + len(self._kept) + len(tail)
        if length <= self.max_message_bytes + 1:  # one more, since that byte may turn out to be the \r of \r\n
            self._kept += tail
        else:
            self._skipped = length
            self._kept.clear()

    def _line_too_large(self, length: int) -> MessageTooLargeError:
        return self._too_large(f"a line of {length} bytes")

    def end(self) -> MessageError | None:
        """A line without its end is what is wrong with the stream's ending here."""
        length = self._skipped or len(self._kept)
        if not length:
            return None
        return MalformedMessageError(f"the stream ended inside a message: {length} bytes came, and no newline")


class LengthFraming(Framing):
    """Each message after its length, 4 bytes, big-endian.

    A length over the limit loses the edges: it is an attack, or another protocol's bytes read as a length, and to skip
    up to 4 GiB would hang rather than fail.

    Args:
        max_message_bytes: How long a message may be, its length field not counted.
    """

    __slots__ = ()

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

    def cut(self, data: bytes, at: int) -> tuple[bytes | MessageError, int] | int:
        """The message behind the length at this place."""
        start = at + _LENGTH.size
        if start > len(data):
            return start
        length: int = _LENGTH.unpack_from(data, at)[0]
        if length > self.max_message_bytes:
            raise MessageTooLargeError(
                f"a length of {length} bytes; max_message_bytes is {self.max_message_bytes}. "
                f"If {data[at:start]!r} is not a length, the peer speaks another protocol"
            )
        end = start + length
        if end > len(data):
            return end
        return data[start:end] or MalformedMessageError("empty: a length of 0"), end
