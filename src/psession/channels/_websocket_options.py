"""What a WebSocket may be told, checked, and what can be said of one without the library websockets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.channels.codecs import Codec, CodecName, SafeCodec, find_codec

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

    from psession.channels._websocket_frames import WebSocketFraming

DEFAULT_PING_INTERVAL: Final = 20.0
DEFAULT_PING_TIMEOUT: Final = 20.0
"""The library's own defaults: a NAT or a proxy forgets an idle connection after a minute at the earliest."""


class HandshakeError(ConnectionError):
    """No WebSocket came about: the server refused it, or is no WebSocket server.

    Attributes:
        status: The HTTP status of the refusal, ``None`` when there was no answer that can be understood.
        reason: Its reason phrase.
        body: What the answer says besides.
    """

    def __init__(self, text: str, *, status: int | None = None, reason: str = "", body: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.body = body


def check_library() -> None:
    """Make sure that websockets is there.

    Raises:
        ModuleNotFoundError: It is not; it says how to get it.
    """
    try:
        import_module("websockets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'WebSockets need the library websockets: pip install "psession[websocket]"', name=error.name
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketOptions:
    """The options of both sides of a WebSocket, checked; `open_websocket` says what each means."""

    codec: Codec | CodecName = "json"
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES
    compression: Literal["deflate"] | None = None
    ping_interval: float = DEFAULT_PING_INTERVAL
    ping_timeout: float = DEFAULT_PING_TIMEOUT
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT

    def __post_init__(self) -> None:
        find_codec(self.codec)
        if self.compression not in (None, "deflate"):
            raise ValueError(f'compression must be "deflate" or None, not {self.compression!r}')
        for name in ("max_message_bytes", "ping_interval", "ping_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if not self.close_timeout >= 0:
            raise ValueError(f"close_timeout must be 0 or more seconds, not {self.close_timeout!r}")

    @property
    def max_size(self) -> int | None:
        """The longest message, as the library wants it."""
        return None if self.max_message_bytes == math.inf else int(self.max_message_bytes)

    def framing(self, protocol: Any) -> tuple[SafeCodec, WebSocketFraming]:
        """The codec and the frames of one connection."""
        from psession.channels._websocket_frames import WebSocketFraming

        codec = find_codec(self.codec)
        return codec, WebSocketFraming(protocol, text=codec.text, max_message_bytes=self.max_message_bytes)


@dataclass(frozen=True, slots=True)
class Opening:
    """An opening handshake that succeeded, and what came behind it."""

    protocol: Any
    request: Request
    response: Response
    rest: bytes
