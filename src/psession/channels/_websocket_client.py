"""Connecting to a WebSocket server: address, TLS, handshake, in bounded time."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import trio

from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT, connect
from psession.channels._pace import MOST_BYTES
from psession.channels._websocket import WebSocketChannel
from psession.channels._websocket_options import (
    DEFAULT_PING_INTERVAL,
    DEFAULT_PING_TIMEOUT,
    HandshakeError,
    Opening,
    WebSocketOptions,
    check_library,
)
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.nursery import check_on_trio, open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from websockets.client import ClientProtocol
    from websockets.http11 import Request
    from websockets.uri import WebSocketURI

    from psession.channels.codecs import Codec, CodecName


@asynccontextmanager
async def open_websocket(
    url: str,
    *,
    codec: Codec | CodecName = "json",
    ssl_context: ssl.SSLContext | None = None,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    origin: str | None = None,
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    compression: Literal["deflate"] | None = None,
    ping_interval: float = DEFAULT_PING_INTERVAL,
    ping_timeout: float = DEFAULT_PING_TIMEOUT,
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> AsyncIterator[WebSocketChannel]:
    """``async with open_websocket(url) as channel``: messages to and from a WebSocket server.

    Leaving the block closes the channel, in ``close_timeout`` seconds at most; cancelled, at once: the close frame is
    still sent if the socket takes it. Cancelled while connecting, nothing is left open. What the body raises comes out
    as it is. Redirects are not followed, and no proxy is used.

    Args:
        url: ``ws://host:port/path?query``, or ``wss://`` for TLS. An IPv6 address stands in brackets. A user name and
            password in it go as HTTP Basic credentials.
        codec: ``"json"``, ``"msgpack"`` or a codec. Text goes as text frames, bytes as binary ones; both are accepted.
        ssl_context: For ``wss://``; by default one that trusts the authorities of this machine.
        subprotocols: The names to offer, the best first; ``channel.subprotocol`` is what the server took, if any.
        headers: Further headers of the request. ``Host`` and ``User-Agent`` may be set too.
        origin: The header ``Origin``, for servers that check it.
        max_message_bytes: How long an encoded message may be, either way; a longer one from the server breaks the
            channel with close code 1009. ``math.inf`` for no limit.
        compression: ``"deflate"`` offers permessage-deflate (RFC 7692). What is sent is then compressed
            by the writer, in its order, and never written inline: slower by a scheduler pass and the compressing.
        ping_interval: Seconds of silence after which the server is pinged; ``math.inf`` for never.
        ping_timeout: Seconds it may stay silent after that, before the channel breaks.
        connect_timeout: Seconds for all that comes before the block: addresses, TCP, TLS, handshake.
        close_timeout: Seconds that ``aclose`` gives the server for its goodbye.

    Raises:
        ModuleNotFoundError: websockets is not installed.
        HandshakeError: The server refused; it has the status and says why.
        TimeoutError: No WebSocket in ``connect_timeout`` seconds.
        OSError: No connection. The two above are of this kind too.
        ValueError: The URL or another argument is none.
    """
    check_library()
    check_on_trio("open_websocket")
    from psession.channels._websocket_handshake import client_protocol, parse_url, request_of, without_user

    options = WebSocketOptions(
        codec=codec,
        max_message_bytes=max_message_bytes,
        compression=compression,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
    )
    uri = parse_url(url)
    if ssl_context is not None and not uri.secure:
        raise ValueError(f"an ssl_context is for wss://, and the URL is {without_user(url)!r}")
    protocol = client_protocol(uri, options, origin=origin, subprotocols=subprotocols)
    request = request_of(protocol, headers)
    where = f"{'wss' if uri.secure else 'ws'}://{request.headers['Host']}{uri.path}"
    opened: tuple[trio.abc.Stream, Opening] | None = None
    with trio.move_on_after(connect_timeout):
        stream = await _connect(uri, ssl_context, where)
        try:
            opened = stream, await _greet(stream, protocol, request, where)
        finally:
            if opened is None:
                await trio.aclose_forcefully(stream)
    if opened is None:
        raise TimeoutError(f"no WebSocket handshake with {where} in {connect_timeout:g} s")
    async with open_quiet_nursery() as nursery:
        channel = WebSocketChannel(*opened, options, nursery=nursery)
        try:
            yield channel
        finally:
            await channel.aclose()
            nursery.cancel_scope.cancel()


async def _connect(uri: WebSocketURI, ssl_context: ssl.SSLContext | None, where: str) -> trio.abc.Stream:
    context = (ssl_context or ssl.create_default_context()) if uri.secure else None
    try:
        # https_compatible: a WebSocket's close frame tells the end, and few peers wait for TLS's own goodbye as well.
        return await connect(uri.host, uri.port, context, https_compatible=True)
    except trio.BrokenResourceError as error:
        raise HandshakeError(f"{where}: no TLS: {error.__cause__ or error}") from error


async def _greet(stream: trio.abc.Stream, protocol: ClientProtocol, request: Request, where: str) -> Opening:
    """Ask for the WebSocket.

    Raises:
        HandshakeError: There is none.
    """
    from psession.channels._websocket_handshake import answer_at_end, feed, refusal

    protocol.send_request(request)
    response = None
    rest = b""
    try:
        await stream.send_all(b"".join(protocol.data_to_send()))
        while response is None and protocol.handshake_exc is None:
            if data := bytes(await stream.receive_some(MOST_BYTES)):
                response, rest = feed(protocol, data)
                continue
            response = answer_at_end(protocol)
            break
    except trio.BrokenResourceError as error:
        raise HandshakeError(f"{where}: the connection broke: {error.__cause__ or error}") from error
    if response is None or protocol.handshake_exc is not None:
        raise refusal(where, protocol, response)
    return Opening(protocol, request, response, rest)
