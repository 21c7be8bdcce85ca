"""The packets of MQTT 5: bytes to packets with every length bounded, and back. Pure; the codec is that of `mqtt5`.

A packet is cut out here, by its own length and no other, before `mqtt5` decodes it; and its texts are looked at, since
`mqtt5` 0.8 panics at bytes that are no UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import mqtt5

from psession.brokers.mqtt._errors import MqttProtocolError
from psession.brokers.mqtt._topics import is_topic_name
from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mqtt5 import Packet

MAX_PACKET_BYTES: Final = 268_435_460
"""The longest packet that a length has a form for (MQTT 5, 1.5.5), with its header."""

QOS: Final = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE)

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT, AUTH = 2, 3, 4, 9, 11, 13, 14, 15

_NAMES: Final = {
    CONNACK: "CONNACK",
    PUBLISH: "PUBLISH",
    PUBACK: "PUBACK",
    SUBACK: "SUBACK",
    UNSUBACK: "UNSUBACK",
    PINGRESP: "PINGRESP",
    DISCONNECT: "DISCONNECT",
    AUTH: "AUTH",
}
"""What a broker may send to a client that wants nothing by QoS 2."""

SHORT_BYTES: Final = 4096
"""Packets up to so long are looked at as a whole first: nearly all are ASCII."""

_BEFORE_PROPERTIES: Final = {CONNACK: 2, PUBACK: 3, SUBACK: 2, UNSUBACK: 2, DISCONNECT: 1, AUTH: 1}
"""The bytes in front of the properties of each kind but PUBLISH."""

_FIXED: Final = {0x01: 1, 0x02: 4, 0x11: 4, 0x13: 2, 0x17: 1, 0x18: 4, 0x19: 1, 0x21: 2, 0x22: 2, 0x23: 2}
_FIXED.update({0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1})
"""The lengths of properties that always have the same (MQTT 5, 2.2.2.2)."""

_TEXTS: Final = {0x03: 1, 0x08: 1, 0x12: 1, 0x15: 1, 0x1A: 1, 0x1C: 1, 0x1F: 1, 0x26: 2}
"""The properties that are texts, and how many."""

_BINARY: Final = frozenset((0x09, 0x16))
_VARIABLE: Final = 0x0B

_PANIC: Final = "PanicException"

PINGREQ: Final = mqtt5.PingReqPacket().write()


class Parser:
    """Bytes of a broker's, in any pieces, to packets.

    Args:
        max_packet_bytes: How long a packet may be; a longer one is refused by its length, before it has come.
    """

    def __init__(self, max_packet_bytes: int) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._kept = b""
        self._wanted = 2
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def kept_bytes(self) -> int:
        """The bytes that are no whole packet yet."""
        return len(self._kept) + self._size

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes; return the packets that are whole.

        Raises:
            MqttProtocolError: They are not MQTT 5, or not what a client may get.
        """
        if self._kept or self._parts:
            self._parts.append(data)
            self._size += len(data)
            if len(self._kept) + self._size < self._wanted:
                return []  # a long packet is joined once, not with each read
            data = b"".join([self._kept, *self._parts])
            self._kept, self._parts, self._size = b"", [], 0
        self._wanted = 2
        packets: list[Packet] = []
        at, end = 0, len(data)
        while end - at >= 2:
            kind = data[at] >> 4
            if kind not in _NAMES:
                raise MqttProtocolError(f"a packet of type {kind}, which no client gets that wants nothing by QoS 2")
            if data[at] & 15 and kind != PUBLISH:
                raise MqttProtocolError(f"a {_NAMES[kind]} with the flags {data[at] & 15}, where it has none")
            length = data[at + 1]
            start = at + 2
            if length >= 0x80:
                read = _length(data, at + 1, end)
                if read is None:
                    break
                length, start = read
            if start - at + length > self._max_packet_bytes:
                raise MqttProtocolError(
                    f"a {_NAMES[kind]} of {length} bytes; max_packet_bytes is {self._max_packet_bytes}"
                )
            if end - start < length:
                self._wanted = start - at + length
                break
            packets.append(_decode(kind, data, at, start, start + length))
            at = start + length
        if at < end:
            self._kept = data[at:] if at else data
        return packets


def _length(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Return a variable length and where it ends; ``None``: not all of it is there."""
    value = 0
    for place in range(4):
        if at + place >= end:
            return None
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise MqttProtocolError("a length of more than four bytes")


def _decode(kind: int, data: bytes, at: int, start: int, end: int) -> Packet:
    """Return one packet, whose edges are known.

    Raises:
        MqttProtocolError: It is none.
    """
    if kind == CONNACK and end - start == 2:
        code = data[start + 1]
        raise MqttProtocolError(f"a CONNACK of MQTT 3, with the code {code}: the broker does not speak MQTT 5")
    try:
        if kind == PUBLISH:
            _check_publish(data, start, end, qos=data[at] >> 1 & 3)
        elif kind in _BEFORE_PROPERTIES:
            _check_properties(data, start + _BEFORE_PROPERTIES[kind], end)
        packet, used = mqtt5.read(memoryview(data)[at:end])
    except (ValueError, IndexError) as error:
        raise MqttProtocolError(f"a {_NAMES[kind]} that is malformed: {error}") from error
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise MqttProtocolError(f"a {_NAMES[kind]} that its codec cannot read: {error}") from error
    if used != end - at:
        raise MqttProtocolError(f"a {_NAMES[kind]} whose length lies")
    return packet


def _check_publish(data: bytes, start: int, end: int, qos: int) -> None:
    """Look at the topic and the properties of a PUBLISH.

    Raises:
        ValueError: What is no UTF-8, no topic, or has lengths that lie.
    """
    if qos > 1:
        raise ValueError(f"QoS {qos}, where no more than 1 was subscribed to")
    after = start + 2 + (data[start] << 8 | data[start + 1]) if end - start >= 2 else end + 1
    if after + 2 * (qos > 0) >= end:
        raise ValueError("it ends within its topic, or has no properties")
    topic = data[start + 2 : after].decode()
    if not is_topic_name(topic):
        raise ValueError(f"the topic {topic!r:.100} is none that a message may have")
    if qos:
        if data[after : after + 2] == b"\0\0":
            raise ValueError("its packet id is 0")
        after += 2
    _check_properties(data, after, end)


def _check_properties(data: bytes, at: int, end: int) -> None:
    """Look at the texts in properties.

    Raises:
        ValueError: What is no UTF-8, or has lengths that lie.
    """
    if at >= end or data[at] == 0:
        return
    read = _length(data, at, end)
    if read is None or read[0] + read[1] > end:
        raise ValueError("it ends within its properties")
    length, at = read
    if end - at <= SHORT_BYTES and data[at:end].isascii():
        return  # whatever its lengths say, its texts are UTF-8
    end = at + length
    while at < end:
        kind = data[at]
        at += 1
        if kind in _FIXED:
            at += _FIXED[kind]
        elif kind == _VARIABLE:
            read = _length(data, at, end)
            at = read[1] if read else end + 1
        elif kind in _TEXTS or kind in _BINARY:
            for _ in range(_TEXTS.get(kind, 1)):
                if at + 2 > end:
                    raise ValueError("it ends within a property")
                first, at = at + 2, at + 2 + (data[at] << 8 | data[at + 1])
                if kind in _TEXTS:
                    data[first:at].decode()
        else:
            raise ValueError(f"there is no property {kind}")
    if at > end:
        raise ValueError("a property ends behind its end")


# -- what this side writes ---------------------------------------------------------------------------------------------


def is_message(frame: bytes) -> bool:
    """Return True for a frame that publishes something."""
    return frame[:1] != b"" and frame[0] >> 4 == PUBLISH


def is_word(frame: bytes) -> bool:
    """Return True for a frame that is for its own connection alone."""
    return not is_message(frame)


def publish(
    topic: str,
    payload: bytes,
    qos: int = 0,
    *,
    retain: bool = False,
    response_topic: str | None = None,
    correlation_data: bytes | None = None,
    content_type: str | None = None,
    expiry: int | None = None,
    is_text: bool = False,
    user_properties: list[tuple[str, str]] | None = None,
) -> bytes:
    """Return a PUBLISH; with QoS 1 its packet id is to be set by `numbered`.

    Raises:
        MalformedMessageError: It has no form.
    """
    try:
        frame = mqtt5.PublishPacket(
            topic,
            payload,
            qos=QOS[qos],
            packet_id=1 if qos else None,
            retain=retain,
            response_topic=response_topic,
            correlation_data=correlation_data,
            content_type=content_type,
            message_expiry_interval=expiry,
            payload_format_indicator=1 if is_text else 0,
            user_properties=user_properties,
        ).write()
    except (ValueError, OverflowError, TypeError) as error:
        raise MalformedMessageError(f"a message for {topic!r:.100} has no form in MQTT: {error}") from error
    if user_properties or content_type is not None:
        texts = [content_type or "", *(text for pair in user_properties or () for text in pair)]
        if any("\0" in text for text in texts):
            raise MalformedMessageError(f"a message for {topic!r:.100} has a NUL in a property, which no text may have")
    return frame


def numbered(frame: bytes, packet_id: int) -> bytes:
    """Return a PUBLISH of QoS 1 with its packet id."""
    at = 1
    while frame[at] >= 0x80:
        at += 1
    at += 3 + (frame[at + 1] << 8 | frame[at + 2])
    return b"%b%b%b" % (frame[:at], packet_id.to_bytes(2, "big"), frame[at + 2 :])


def readdressed(frames: bytes, topic: bytes) -> bytes:
    """Return one PUBLISH, or several that were joined, to another topic."""
    made: list[bytes] = []
    for start, at, stop in _edges(frames):
        rest = frames[at + 2 + (frames[at] << 8 | frames[at + 1]) : stop]
        body = b"%b%b%b" % (len(topic).to_bytes(2, "big"), topic, rest)
        made.append(b"%c%b%b" % (frames[start], _written_length(len(body)), body))
    return b"".join(made)


def split(frames: bytes, most: int) -> tuple[bytes, list[bytes]]:
    """Return those of one PUBLISH or several, joined, that have `most` bytes at most, and the others one by one."""
    if len(frames) <= most or not is_message(frames):
        return frames, []
    kept: list[bytes] = []
    gone: list[bytes] = []
    for start, _, stop in _edges(frames):
        (kept if stop - start <= most else gone).append(frames[start:stop])
    return b"".join(kept), gone


def _edges(frames: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield where each of the joined PUBLISHes begins, where its length has ended, and where it ends itself."""
    start = 0
    while start < len(frames):
        read = _length(frames, start + 1, len(frames))
        assert read is not None, "it was written by `publish`"
        size, at = read
        yield start, at, at + size
        start = at + size


def _written_length(number: int) -> bytes:
    """A number as a Variable Byte Integer (section 1.5.5)."""
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def again(frame: bytes) -> bytes:
    """Return a PUBLISH that was sent before, marked so (DUP)."""
    return bytes((frame[0] | 8,)) + frame[1:]


def correlation_of(frame: bytes) -> bytes:
    """Return the correlation data of a PUBLISH; empty where it has none."""
    packet, _ = mqtt5.read(memoryview(frame))
    return packet.correlation_data or b"" if type(packet) is mqtt5.PublishPacket else b""


def puback(packet_id: int) -> bytes:
    """Return the acknowledgement of a message."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def said(code: int, reason: str | None = None) -> str:
    """Return what a reason code means, with the broker's own words behind it."""
    name = _CODES.get(code, "reason code")
    own = f", {reason!r:.200}" if reason else ""
    return f"{name} (0x{code:02X}{own})"


_CODES: Final = {
    int(getattr(kind, name)): name.lower().replace("_", " ")
    for kind in (
        mqtt5.DisconnectReasonCode,
        mqtt5.ConnAckReasonCode,
        mqtt5.SubAckReasonCode,
        mqtt5.PubAckReasonCode,
        mqtt5.UnsubAckReasonCode,
    )
    for name in dir(kind)
    if name.isupper()
}
