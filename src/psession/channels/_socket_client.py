"""Connecting to a server over TCP, TLS or a Unix socket, whatever the framing, in bounded time."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT, connect, connect_unix
from psession.channels._streams import StreamOptions
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.nursery import check_on_trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from psession.channels._framed import FramedChannel
    from psession.channels._streams import FramingMaker, FramingName
    from psession.channels.codecs import Codec, CodecName


@asynccontextmanager
async def open_tcp(
    host: str,
    port: int,
    *,
    framing: FramingName | FramingMaker = "lines",
    codec: Codec | CodecName = "json",
    ssl_context: ssl.SSLContext | None = None,
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> AsyncIterator[FramedChannel]:
    """``async with open_tcp(host, port) as channel``: messages to and from a TCP server.

    Leaving the block closes the channel, in ``close_timeout`` seconds at most; cancelled, at once. Cancelled while
    connecting, nothing is left open. What the body raises comes out as it is.

    Args:
        host: A name or an address; with TLS, the one that the server's certificate is for.
        port: The TCP port.
        framing: ``"lines"``, ``"length_prefixed"``, ``"content_length"``, or a class made from `Framing`.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        ssl_context: For TLS, such as ``ssl.create_default_context()``. A connection that ends without TLS's own goodbye
            is a broken one.
        max_message_bytes: How long an encoded message may be, either way; ``math.inf`` for no limit.
        connect_timeout: Seconds for all that comes before the block: addresses, TCP, TLS.
        close_timeout: Seconds that ``aclose`` gives the server for its goodbye.

    Raises:
        TimeoutError: No connection in ``connect_timeout`` seconds.
        OSError: No connection, or no TLS. The one above is of this kind too.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """
    options = StreamOptions(
        framing=framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
    options.check()
    check_on_trio("open_tcp")
    stream: trio.abc.Stream | None = None
    with trio.move_on_after(connect_timeout):
        try:
            stream = await connect(host, port, ssl_context)
        except trio.BrokenResourceError as error:
            raise ConnectionError(f"{host} port {port}: no TLS: {error.__cause__ or error}") from error
    if stream is None:
        raise TimeoutError(f"no connection to {host} port {port} in {connect_timeout:g} s")
    async with options.channel(stream) as channel:
        yield channel


@asynccontextmanager
async def open_unix(
    path: str | os.PathLike[str],
    *,
    framing: FramingName | FramingMaker = "lines",
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> AsyncIterator[FramedChannel]:
    """``async with open_unix(path) as channel``: messages to and from a server on a Unix socket.

    Leaving the block closes the channel. Cancelled while connecting, nothing is left open. What the body raises comes
    out as it is.

    Args:
        path: The socket's file.
        framing: ``"lines"``, ``"length_prefixed"``, ``"content_length"``, or a class made from `Framing`.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long an encoded message may be, either way; ``math.inf`` for no limit.
        connect_timeout: Seconds to wait for a server whose backlog is full.
        close_timeout: Seconds that ``aclose`` may take.

    Raises:
        TimeoutError: No connection in ``connect_timeout`` seconds.
        OSError: No connection; it names the path. The one above is of this kind too.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """
    options = StreamOptions(
        framing=framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
    options.check()
    check_on_trio("open_unix")
    stream: trio.abc.Stream | None = None
    with trio.move_on_after(connect_timeout):
        stream = await connect_unix(os.fspath(path))
    if stream is None:
        raise TimeoutError(f"no connection to {os.fspath(path)!r} in {connect_timeout:g} s")
    async with options.channel(stream) as channel:
        yield channel
