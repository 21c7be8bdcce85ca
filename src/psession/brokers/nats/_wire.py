"""The NATS client protocol: what a server says, read from bytes in any pieces, and what a client writes. Pure.

https://docs.nats.io/reference/reference-protocols/nats-protocol: lines that end in CR LF, and behind the line of a
message its headers and its payload, whose lengths the line says.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from psession.brokers.nats._errors import NatsProtocolError
from psession.brokers.nats._headers import decode_headers, status_of

MAX_LINE_BYTES: Final = 4096
"""How long the line of a message, an error or a ping may be; the server's own limit for a client's
(``max_control_line``)."""

MAX_INFO_BYTES: Final = 1024 * 1024
"""How long an INFO may be: it lists the servers of a cluster, 50 bytes for each of 20,000."""

DEFAULT_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""What a message may have, headers included: nats-server's own highest ``max_payload``. A length above it is a lie."""

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"

_NO_RESPONDERS: Final = b"NATS/1.0 503"


class NatsMessage(msgspec.Struct, eq=False):
    """A message that came.

    Attributes:
        subject: What it was published to.
        reply: The subject that its sender wants the answer on; ``""``: none is wanted.
        data: The payload.
        header_bytes: The headers as they came, ``b""`` where there are none.
        sid: The number of the subscription that it came for.
    """

    subject: str
    reply: str
    data: bytes
    header_bytes: bytes
    sid: int

    @property
    def headers(self) -> dict[str, list[str]]:
        """The headers, each name with its values; a new dictionary each time.

        Raises:
            MalformedMessageError: They are none.
        """
        return decode_headers(self.header_bytes) if self.header_bytes else {}

    def header(self, name: str) -> str | None:
        """Return the first value of a header, if there is one.

        Raises:
            MalformedMessageError: The headers are none.
        """
        values = self.headers.get(name)
        return values[0] if values else None

    @property
    def status(self) -> tuple[int, str]:
        """The server's own words by this message, such as ``(503, "No Responders")``; ``(0, "")`` for others.

        Raises:
            MalformedMessageError: The headers are none.
        """
        return status_of(self.header_bytes) if self.header_bytes else (0, "")

    @property
    def says_no_responders(self) -> bool:
        """True where the server says that nobody serves the subject of a request."""
        return self.header_bytes.startswith(_NO_RESPONDERS) and not self.data

    @property
    def size(self) -> int:
        """The bytes that it counts as in a subscription's limit."""
        return len(self.data) + len(self.header_bytes)


class Info(msgspec.Struct, frozen=True):
    """The INFO of a server, which it says when a client comes and when something changes."""

    server_id: str = ""
    server_name: str = ""
    version: str = ""
    max_payload: int = 1024 * 1024
    headers: bool = False
    auth_required: bool = False
    tls_required: bool = False
    tls_available: bool = False
    nonce: str = ""
    client_id: int = 0
    cluster: str = ""
    connect_urls: tuple[str, ...] = ()
    ldm: bool = False


class Failure(msgspec.Struct, frozen=True):
    """An error of the server's (``-ERR``)."""

    text: str


class Ping(msgspec.Struct, frozen=True):
    """The server asks whether this client is there."""


class Pong(msgspec.Struct, frozen=True):
    """The server has done all that came before a PING."""


Word: TypeAlias = NatsMessage | Info | Failure | Ping | Pong
"""What a server says."""

_PING: Final = Ping()
_PONG: Final = Pong()
_decode_info: Final = msgspec.json.Decoder(Info).decode


class Parser:
    """Reads what one server says, in order.

    Args:
        max_message_bytes: What a message may have, headers included.
    """

    __slots__ = ("_came", "_max_message_bytes", "_missing", "_pieces", "_rest")

    def __init__(self, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._rest = b""
        self._pieces: list[bytes] = []
        self._came = 0
        self._missing = 0

    @property
    def kept_bytes(self) -> int:
        """The bytes of what has come in part."""
        return len(self._rest) + self._came

    def feed(self, data: bytes) -> list[Word]:
        """Return what is whole with these bytes.

        Raises:
            NatsProtocolError: It is not the protocol; the text says what came. Nothing may be fed after that.
        """
        if self._missing:
            # The rest of a long message is only collected: to join what there is with each piece would be quadratic.
            self._pieces.append(data)
            self._came += len(data)
            if self._came < self._missing:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._came = self._missing = 0
        elif self._rest:
            data = self._rest + data
        self._rest = b""
        words: list[Word] = []
        place, size = 0, len(data)
        while place < size:
            end = data.find(b"\r\n", place)
            if end < 0:
                self._keep_line(data[place:])
                break
            line = data[place:end]
            if line[:4] == b"MSG ":
                parts = line.split()
                try:
                    if len(parts) == 4:
                        _, subject, sid, length = parts
                        reply = ""
                    else:
                        _, subject, sid, answer, length = parts
                        reply = answer.decode()
                    if not (length.isdigit() and sid.isdigit()):
                        raise _malformed(line)
                    start = end + 2
                    stop = start + int(length)
                    message = NatsMessage(subject.decode(), reply, b"", b"", int(sid))
                except (ValueError, UnicodeDecodeError):
                    raise _malformed(line) from None
                if stop + 2 > size:
                    self._keep_message(data, place, stop + 2, int(length), line)
                    break
                if data[stop : stop + 2] != b"\r\n":
                    raise _lying(line, data[start:stop])
                message.data = data[start:stop]
                words.append(message)
                place = stop + 2
            elif line[:5] == b"HMSG ":
                after = self._headed(data, place, end, line, words)
                if not after:
                    break
                place = after
            else:
                word = self._line(line)
                if word is not None:
                    words.append(word)
                place = end + 2
        return words

    def _headed(self, data: bytes, place: int, end: int, line: bytes, words: list[Word]) -> int:
        """Read a message with headers. Return where the next word begins; 0: it has come in part."""
        parts = line.split()
        if len(parts) not in (5, 6):
            raise _malformed(line)
        subject, sid, headed, length = parts[1], parts[2], parts[-2], parts[-1]
        if not (sid.isdigit() and headed.isdigit() and length.isdigit()):
            raise _malformed(line)
        start = end + 2
        try:
            behind, stop = start + int(headed), start + int(length)
            reply = parts[3].decode() if len(parts) == 6 else ""
            message = NatsMessage(subject.decode(), reply, b"", b"", int(sid))
        except ValueError:
            raise _malformed(line) from None
        if behind > stop:
            raise NatsProtocolError(f"the headers are longer than their message: {line!r:.200}")
        if stop + 2 > len(data):
            self._keep_message(data, place, stop + 2, stop - start, line)
            return 0
        if data[stop : stop + 2] != b"\r\n":
            raise _lying(line, data[start:stop])
        message.header_bytes, message.data = data[start:behind], data[behind:stop]
        words.append(message)
        return stop + 2

    def _line(self, line: bytes) -> Word | None:
        """Read a line that no payload follows."""
        name, _, rest = line.partition(b" ")
        name = name.upper()
        if name == b"INFO":
            return _info(rest)
        if len(line) > MAX_LINE_BYTES:
            raise NatsProtocolError(f"a line of {len(line)} bytes; {MAX_LINE_BYTES} are the most: {line!r:.100}")
        if name == b"PING":
            return _PING
        if name == b"PONG":
            return _PONG
        if name == b"+OK":
            return None
        if name == b"-ERR":
            return Failure(rest.strip().strip(b"'").decode(errors="replace"))
        raise _malformed(line)

    def _keep_line(self, rest: bytes) -> None:
        limit = MAX_INFO_BYTES if rest[:4].upper() == b"INFO" else MAX_LINE_BYTES
        if len(rest) > limit:
            raise NatsProtocolError(f"a line of more than {limit} bytes: {rest!r:.100}")
        self._rest = rest

    def _keep_message(self, data: bytes, place: int, stop: int, length: int, line: bytes) -> None:
        if length > self._max_message_bytes:
            raise NatsProtocolError(
                f"a message of {length!s:.20} bytes; {self._max_message_bytes} are the most: {line!r:.200}"
            )
        self._pieces.append(data[place:])
        self._came = len(data) - place
        self._missing = stop - place


def _info(rest: bytes) -> Info:
    if len(rest) > MAX_INFO_BYTES:
        raise NatsProtocolError(f"an INFO of {len(rest)} bytes; {MAX_INFO_BYTES} are the most")
    try:
        info = _decode_info(rest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NatsProtocolError(f"an INFO that is none: {error}: {rest!r:.200}") from None
    if info.max_payload <= 0:
        raise NatsProtocolError(f"an INFO whose max_payload is {info.max_payload}")
    return info


def _malformed(line: bytes) -> NatsProtocolError:
    if not line.strip():
        return NatsProtocolError("an empty line, where a server says INFO, MSG, PING or the like")
    return NatsProtocolError(f"not a line of the NATS protocol: {line!r:.200}")


def _lying(line: bytes, data: bytes) -> NatsProtocolError:
    return NatsProtocolError(
        f"no end of line where the payload of a message should end, so its length is wrong: {line!r:.200}, {data!r:.60}"
    )


# -- what a client writes ----------------------------------------------------------------------------------------------


def connect_line(options: dict[str, Any]) -> bytes:
    """Return the line by which a client says who it is."""
    return b"CONNECT " + msgspec.json.encode(options) + b"\r\n"


def is_message(frame: bytes) -> bool:
    """Return True for a frame that publishes something."""
    return frame[:4] in (b"PUB ", b"HPUB")


def pub(subject: bytes, reply: bytes, data: bytes) -> bytes:
    """Return a message; ``reply`` is ``b""`` or a subject with a space behind it."""
    return b"PUB %b %b%d\r\n%b\r\n" % (subject, reply, len(data), data)


def hpub(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bytes:
    """Return a message with headers."""
    return b"HPUB %b %b%d %d\r\n%b%b\r\n" % (subject, reply, len(headers), len(headers) + len(data), headers, data)


def split(frame: bytes, max_payload: int) -> tuple[bytes, list[tuple[str, int]]]:
    """Take the messages that are too long for a server out of what was written for another, which may be several.

    Returns:
        What is left, and of each message that was taken out its ``reply`` (``""``: none) and its bytes.
    """
    if len(frame) <= max_payload or not is_message(frame):
        return frame, []
    kept: list[bytes] = []
    gone: list[tuple[str, int]] = []
    place = 0
    while place < len(frame):
        line_end = frame.index(b"\r\n", place)
        words = frame[place:line_end].split(b" ")
        size = int(words[-1])
        stop = line_end + 2 + size + 2
        if size > max_payload:
            lengths = 2 if words[0] == b"HPUB" else 1
            gone.append((words[2].decode() if len(words) == 3 + lengths else "", size))
        else:
            kept.append(frame[place:stop])
        place = stop
    return (b"".join(kept), gone) if gone else (frame, gone)


def sub(subject: bytes, queue: bytes, sid: int) -> bytes:
    """Return the word for a subscription; ``queue`` is ``b""`` or a name."""
    return b"SUB %b %b %d\r\n" % (subject, queue, sid) if queue else b"SUB %b %d\r\n" % (subject, sid)


def unsub(sid: int, after: int = 0) -> bytes:
    """Return the word for its end: now, or after so many messages more than it had when it was made."""
    return b"UNSUB %d %d\r\n" % (sid, after) if after else b"UNSUB %d\r\n" % sid
