"""Messages over an open connection of the library trio-websocket: a text frame for each, or a binary one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import trio

from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES, Message
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT, WireChannel
from psession.errors import MessageError, MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_websocket import WebSocketConnection

    from psession.channels.codecs import Codec, CodecName

_CLEAN: Final = frozenset([1000, 1001, 1005])
"""Normal closure, going away, and a close frame that gives no code (RFC 6455, 7.4.1)."""


class TrioWebSocketChannel(WireChannel):
    """Messages over a ``trio_websocket.WebSocketConnection``; `trio_websocket` makes one."""

    __slots__ = ("_connection", "_connection_closed")

    hops = 2
    """The library's own reader task stands between the socket and ``receive_batch``."""

    bytes_sent: int
    bytes_received: int

    def __init__(
        self,
        connection: WebSocketConnection,
        *,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
    ) -> None:
        from trio_websocket import ConnectionClosed

        super().__init__(codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)
        self._connection = connection
        self._connection_closed = ConnectionClosed

    def encode(self, message: Message) -> str | bytes:
        """The message as what the library sends: ``str`` as a text frame, ``bytes`` as a binary one.

        Raises:
            MalformedMessageError: It has no encoding (NaN, an unknown type); the text says what and where.
            MessageTooLargeError: It is longer than ``max_message_bytes``.
        """
        data = self._encode(message)
        return data.decode() if self._codec.text else data

    async def _write(self, frames: Sequence[str | bytes]) -> None:
        for frame in frames:
            try:
                await self._connection.send_message(frame)
            except self._connection_closed as error:
                raise trio.BrokenResourceError(f"the WebSocket is closed: {error!r}") from error
            self.bytes_sent += _utf8_length(frame)

    async def _read(self) -> list[Message | MessageError]:
        # One at a time: what the library has queued behind it (by default one message) is not ours to take at once.
        try:
            data = await self._connection.get_message()
        except self._connection_closed as error:
            await trio.lowlevel.checkpoint()
            self._raise_end(error)
        length = _utf8_length(data)
        self.bytes_received += length
        if length > self._max_message_bytes:
            return [MessageTooLargeError(f"{length} bytes; max_message_bytes is {self._max_message_bytes}")]
        return self._decoded([data])

    def _raise_end(self, error: Exception) -> NoReturn:
        reason = self._connection.closed
        if reason is not None and reason.code in _CLEAN:
            raise trio.EndOfChannel from error
        raise trio.BrokenResourceError(f"the WebSocket broke: {error!r}") from error

    async def _close(self) -> None:
        await self._connection.aclose()
        await trio.lowlevel.checkpoint()  # closed by the peer already, the library returns without one


def _utf8_length(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode(errors="surrogatepass"))


def trio_websocket(
    connection: WebSocketConnection,
    *,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> TrioWebSocketChannel:
    """Messages over an open connection of trio-websocket, the client's side or the server's.

    A text codec (JSON) is sent as text frames, a binary one as binary frames; both are accepted. A close frame with
    code 1000, 1001 or none is the end of the channel, any other end breaks it. The library has a limit of its own: a
    message longer than the connection's ``max_message_size`` (by default 1 MiB) makes it close the connection with code
    1009, while one that is longer than ``max_message_bytes`` alone costs itself only.

    The library's ``send_message`` leaves half a frame when it is cancelled; a port never cancels it, save on closing.

    Args:
        connection: An open connection, as from ``open_websocket_url`` or ``request.accept()``. The channel owns it from
            now on. (The library does not wake who waits in ``receive`` until its close frame is written.)
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long a message may be, either way, in UTF-8; ``math.inf`` for no limit but the library's.
        close_timeout: Seconds that ``aclose`` waits for the peer's close frame before it closes the stream.

    Raises:
        ModuleNotFoundError: trio-websocket is not installed.
        TypeError: It is no such connection.
    """
    try:
        from trio_websocket import WebSocketConnection
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'this channel needs the library trio-websocket: pip install "psession[trio-websocket]"', name=error.name
        ) from error
    if not isinstance(connection, WebSocketConnection):
        raise TypeError(f"not a trio_websocket.WebSocketConnection: {connection!r}")
    return TrioWebSocketChannel(
        connection, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
