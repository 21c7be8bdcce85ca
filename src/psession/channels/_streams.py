"""Channels over streams of bytes: a framing and a codec, by name or of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._content_length import (
    DEFAULT_MAX_HEADER_BYTES,
    DEFAULT_MAX_SKIPPED_BYTES,
    ContentLengthFraming,
)
from psession.channels._framed import FramedChannel
from psession.channels._framings import Framing, LengthFraming, LineFraming
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.channels.codecs import Codec, CodecName, find_codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

FramingName = Literal["lines", "length_prefixed", "content_length"]
"""The short name of a framing."""
FramingMaker: TypeAlias = Callable[[float], Framing]
"""A class of framings, or a function that makes one; called with ``max_message_bytes``, for each stream."""

_NAMED: Final[Mapping[str, FramingMaker]] = {
    "lines": LineFraming,
    "length_prefixed": LengthFraming,
    "content_length": ContentLengthFraming,
}
_CHOICES: Final = 'give "lines", "length_prefixed", "content_length" or a Framing class'


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """The options of a channel over a stream of bytes; `framed` says what each means."""

    framing: FramingName | FramingMaker = "lines"
    codec: Codec | CodecName = "json"
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT

    def check(self) -> None:
        """Refuse what no channel can be made of, before there is a stream.

        Raises:
            TypeError: It is no framing, or no codec.
            ValueError: No framing or codec has that name, the two do not go together, or a number is out of its range.
        """
        if not self.max_message_bytes > 0:
            raise ValueError(f"max_message_bytes must be above 0, not {self.max_message_bytes!r}")
        if not self.close_timeout >= 0:
            raise ValueError(f"close_timeout must be 0 or more seconds, not {self.close_timeout!r}")
        self.make_framing()

    def channel(
        self, stream: trio.abc.Stream, *, on_closed: Callable[[], None] | None = None, is_own: bool = True
    ) -> FramedChannel:
        """Make a channel over a stream, which is the channel's own: or somebody else may close it.

        Raises:
            TypeError, ValueError: As `check` raises.
        """
        return FramedChannel(
            stream,
            self.make_framing(),
            codec=self.codec,
            max_message_bytes=self.max_message_bytes,
            close_timeout=self.close_timeout,
            on_closed=on_closed,
            is_own=is_own,
        )

    def make_framing(self) -> Framing:
        """Make the framing of one stream.

        Raises:
            TypeError, ValueError: As `check` raises.
        """
        given = self.framing
        if isinstance(given, Framing):
            raise TypeError(f"{_CHOICES}, not one that is made already: each stream has its own")
        make = _NAMED.get(given) if isinstance(given, str) else given
        if make is None:
            raise ValueError(f"no framing is called {given!r}; {_CHOICES}")
        framing: object = make(self.max_message_bytes) if callable(make) else make
        if not isinstance(framing, Framing):
            raise TypeError(f"not a framing: {given!r}; {_CHOICES}")
        if framing.text_only and not find_codec(self.codec).text:
            raise ValueError(
                f"{self.codec!r} is binary, and a newline in a message would end it: carry it with length_prefixed(), "
                "or say `text = True` on a codec whose bytes are text on one line"
            )
        return framing


def framed(
    stream: trio.abc.Stream,
    framing: FramingName | FramingMaker,
    *,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> FramedChannel:
    """Messages over a stream of bytes, by a framing of your own or one that has a name.

    Args:
        stream: Any `trio.abc.Stream`. The channel owns it from now on.
        framing: A class made from `Framing`, or a function that makes one; called with ``max_message_bytes``. Or
            ``"lines"``, ``"length_prefixed"``, ``"content_length"``.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long a message may be, either way, its edges not counted; ``math.inf`` for no limit.
        close_timeout: Seconds that ``aclose`` gives the stream for its goodbye.

    Raises:
        TypeError: It is no framing, or no codec.
        ValueError: No framing or codec has that name, or the codec is binary where the framing takes text alone.
    """
    options = StreamOptions(
        framing=framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
    return options.channel(stream, is_own=False)


def lines(
    stream: trio.abc.Stream,
    *,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> FramedChannel:
    r"""Messages as lines of text over a stream of bytes: TCP, TLS, a Unix socket, the pipes of a process.

    ``\r\n`` and empty lines are accepted. A line that is no message, or longer than ``max_message_bytes``, costs itself
    alone; no more than ``max_message_bytes`` and one read is ever kept of it.

    Over TLS, `trio.SSLStream` takes a connection that ends without TLS's own goodbye for broken, unless it was made
    with ``https_compatible=True``; and it is best to await ``do_handshake()`` first, since a cancelled handshake cannot
    be resumed.

    Args:
        stream: Any `trio.abc.Stream`. The channel owns it from now on.
        codec: ``"json"``, or a codec whose bytes are text on one line.
        max_message_bytes: How long a line may be, either way; ``math.inf`` for no limit.
        close_timeout: Seconds that ``aclose`` gives the stream for its goodbye.

    Raises:
        ValueError: The codec is a binary one: a newline in a message would end it.
    """
    return framed(stream, LineFraming, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)


def length_prefixed(
    stream: trio.abc.Stream,
    *,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> FramedChannel:
    """Messages over a stream of bytes, each after its length in 4 bytes, big-endian; for binary codecs too.

    A message that cannot be decoded costs itself alone. A length over ``max_message_bytes`` breaks the channel, since
    what follows it cannot be understood.

    Args:
        stream: Any `trio.abc.Stream`. The channel owns it from now on.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long a message may be, either way, its length field not counted; ``math.inf`` for what
            4 bytes can say.
        close_timeout: Seconds that ``aclose`` gives the stream for its goodbye.
    """
    return framed(stream, LengthFraming, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)


def content_length(
    stream: trio.abc.Stream,
    *,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES,
    max_skipped_bytes: float = DEFAULT_MAX_SKIPPED_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> FramedChannel:
    r"""Messages with the header of LSP and DAP: ``Content-Length: 2\r\n\r\n{}``.

    It is the base protocol of the Language Server Protocol 3.17, which the Debug Adapter Protocol shares. Header fields
    other than ``Content-Length`` and ``Content-Type`` are passed over. A message that is too large, cannot be decoded,
    has another charset than UTF-8, or ``Content-Length`` twice costs itself alone. A header that does not say where its
    message ends breaks the channel, since what follows it cannot be understood.

    Args:
        stream: Any `trio.abc.Stream`. The channel owns it from now on.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long a message may be, either way, its header not counted; ``math.inf`` for no limit.
        max_header_bytes: How long the header of a message may be, its empty line counted; at least 64.
        max_skipped_bytes: The length of a message that is still passed over where it is larger than
            ``max_message_bytes``; one of more bytes breaks the channel.
        close_timeout: Seconds that ``aclose`` gives the stream for its goodbye.

    Raises:
        ValueError: ``max_header_bytes`` is less than 64.
    """
    framing = partial(ContentLengthFraming, max_header_bytes=max_header_bytes, max_skipped_bytes=max_skipped_bytes)
    return framed(stream, framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)
