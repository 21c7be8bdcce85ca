"""Frames of a WebSocket as they are told, byte by byte, and one end that is fed with them."""

from typing import Any

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import Protocol, Side

from psession.channels._websocket_frames import WebSocketFraming

LIMIT = 100_000
MASK = b"\x01\x80\xff\x5a"
SNOWMAN = "\N{SNOWMAN}".encode()


def framing(side: Side = Side.CLIENT, *, text: bool = True, limit: float = LIMIT, deflate: bool = False) -> Any:
    """One end of an open WebSocket; a client reads what is not masked, which is easier to write down."""
    protocol = Protocol(side, max_size=None if limit == float("inf") else int(limit))
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 12, 12)]
    return WebSocketFraming(protocol, text=text, max_message_bytes=limit)


def raw(first: int, payload: bytes = b"", *, field: int | None = None, mask: bytes | None = None) -> bytes:
    """A frame as it is told: its first byte, its payload, and in how many bytes its length stands."""
    size = len(payload)
    if field is None:
        field = 0 if size < 126 else 2 if size < 65536 else 8
    head = {0: b"", 2: b"\x7e", 8: b"\x7f"}[field] + size.to_bytes(field or 1, "big")
    if mask is None:
        return bytes([first]) + head + payload
    return bytes([first, head[0] | 0x80]) + head[1:] + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    """Each byte with that of the mask whose turn it is, masked or unmasked; in one step, since there are millions."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def close_code(frame: bytes) -> int | None:
    """The code in a close frame that a client wrote, whose bytes are masked."""
    at = frame.find(b"\x88")
    if at < 0:
        return None
    size, mask, body = frame[at + 1] & 0x7F, frame[at + 2 : at + 6], frame[at + 6 :]
    payload = masked(body[:size], mask)
    return int.from_bytes(payload[:2], "big") if payload else 1005
