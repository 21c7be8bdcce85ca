"""Messages over a stream of AnyIO's making: its bytes cut into messages, or its objects one for one."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import trio

from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES, Frame, Message
from psession.channels._streams import FramingMaker, FramingName, framed
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT, WireChannel
from psession.errors import MessageError, MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    import anyio.abc

    from psession.channels._framed import FramedChannel
    from psession.channels.codecs import Codec, CodecName

ObjectForm = Literal["messages", "text", "bytes"]
"""What the objects of an AnyIO stream are: messages as they are, or encoded ones."""

T = TypeVar("T")


@contextmanager
def _trio_errors() -> Iterator[None]:
    import anyio

    try:
        yield
    except anyio.ClosedResourceError as error:
        raise trio.ClosedResourceError("the AnyIO stream is closed") from error
    except anyio.BrokenResourceError as error:
        raise trio.BrokenResourceError("the AnyIO stream broke") from error


class _Waits:
    """The waits of other tasks on one stream, which closing it ends: Trio promises that, AnyIO leaves it open."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()

    async def on(self, call: Awaitable[T]) -> T:
        with _trio_errors(), trio.move_on_after(math.inf) as scope:
            self._scopes.add(scope)
            try:
                return await call
            finally:
                self._scopes.discard(scope)
        raise trio.ClosedResourceError("this side closed the stream")

    def end(self) -> None:
        for scope in self._scopes:
            scope.cancel()


class _ByteStream(trio.abc.Stream):
    """An AnyIO byte stream with Trio's methods and errors."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._waits = _Waits()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._waits.on(self._stream.send(bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        import anyio

        try:
            data = b""
            while not data:  # an implementation may return nothing, which here would be the end
                data = await self._waits.on(self._stream.receive(max_bytes or 65536))
        except anyio.EndOfStream:
            return b""
        return data

    async def aclose(self) -> None:
        self._waits.end()
        with _trio_errors():
            await self._stream.aclose()
        await trio.lowlevel.checkpoint()


class AnyioObjectChannel(WireChannel):
    """Messages over an AnyIO object stream, one object each; `anyio_stream` makes one."""

    __slots__ = ("_objects", "_stream", "_waits")

    bytes_received: int
    weights: dict[int, Callable[[], int]] | None
    _tears = False

    def __init__(
        self,
        stream: anyio.abc.UnreliableObjectStream[Any],
        objects: ObjectForm,
        *,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
    ) -> None:
        super().__init__(codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)
        if objects not in get_args(ObjectForm):
            raise ValueError(f'no form of objects is called {objects!r}; give "messages", "text" or "bytes"')
        if objects == "text" and not self._codec.text:
            raise ValueError(f"{codec!r} makes bytes, not text")
        self._stream = stream
        self._objects = objects
        self._waits = _Waits()

    def encode(self, message: Message) -> Frame:
        """The object that carries the message: itself, its text or its bytes.

        Raises:
            MalformedMessageError: It has no encoding (NaN, an unknown type); the text says what and where.
            MessageTooLargeError: It is longer than ``max_message_bytes``.
        """
        if self._objects == "messages":
            return message
        data = self._encode(message)
        return data.decode() if self._objects == "text" else data

    async def _write(self, frames: Sequence[Frame]) -> None:
        await trio.lowlevel.checkpoint()
        for frame in frames:
            await self._waits.on(self._stream.send(frame))

    async def _read(self) -> list[Message | MessageError]:
        import anyio

        try:
            found = await self._waits.on(self._stream.receive())
        except anyio.EndOfStream:
            raise trio.EndOfChannel from None
        if not isinstance(found, str | bytes | bytearray | memoryview):
            self.weights = None
            return [found]
        data = found if isinstance(found, str) else bytes(found)
        length = len(data) if isinstance(data, bytes) else len(data.encode(errors="surrogatepass"))
        self.bytes_received += length
        if length > self._max_message_bytes:
            return [MessageTooLargeError(f"{length} bytes; max_message_bytes is {self._max_message_bytes}")]
        return self._decoded([data])

    async def _close(self) -> None:
        self._waits.end()
        with _trio_errors():
            await self._stream.aclose()
        await trio.lowlevel.checkpoint()


def anyio_stream(
    stream: anyio.abc.ByteStream | anyio.abc.UnreliableObjectStream[Any],
    *,
    framing: FramingName | FramingMaker = "lines",
    objects: ObjectForm = "messages",
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> FramedChannel | AnyioObjectChannel:
    """Messages over a stream of AnyIO's making, in a program that runs on Trio.

    A byte stream is cut into messages by ``framing``. In an object stream each object is one message, and what comes is
    told by its type: ``str`` and ``bytes`` are decoded, everything else is a message as it is. What goes is chosen by
    ``objects``: by default messages themselves, right for memory object streams; ``"text"`` or ``"bytes"`` for streams
    that carry these, such as a WebSocket in an adapter or a connected UDP socket (which may lose messages: retry).

    ``channel.hops`` is 1, which counts no task of the stream's own; set it higher where some stand between the socket
    and its ``receive()``.

    Args:
        stream: An ``anyio.abc.ByteStream`` or ``ObjectStream``. The channel owns it from now on.
        framing: For a byte stream: ``"lines"``, ``"length_prefixed"``, ``"content_length"`` or a class made from
            `Framing`, as in `framed`.
        objects: For an object stream: what is sent.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long an encoded message may be, either way; ``math.inf`` for no limit. Messages that pass
            as they are have no length.
        close_timeout: Seconds that ``aclose`` gives the stream for its goodbye.

    Raises:
        TypeError: It is no such stream.
        ValueError: No framing has that name, or the codec is a binary one, and lines or text are to carry it.
    """
    import anyio.abc

    if isinstance(stream, anyio.abc.ByteStream):
        return framed(
            _ByteStream(stream),
            framing,
            codec=codec,
            max_message_bytes=max_message_bytes,
            close_timeout=close_timeout,
        )
    if not isinstance(stream, anyio.abc.UnreliableObjectStream):
        raise TypeError(f"neither an anyio ByteStream nor an ObjectStream: {stream!r}")
    return AnyioObjectChannel(
        stream, objects, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
