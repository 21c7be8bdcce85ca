"""Serving WebSockets: who gets in by a handshake, and what each is told when its handler or the server ends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

import trio

from psession._listeners import open_listeners
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._places import DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_HANDSHAKES, Places
from psession.channels._server import DEFAULT_HANDSHAKE_TIMEOUT, PortServer, serve
from psession.channels._websocket import GOING_AWAY, INTERNAL_ERROR, WebSocketChannel
from psession.channels._websocket_accept import Acceptor
from psession.channels._websocket_options import (
    DEFAULT_PING_INTERVAL,
    DEFAULT_PING_TIMEOUT,
    WebSocketOptions,
    check_library,
)
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    import re
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from psession.channels._places import Visit
    from psession.channels._websocket_accept import RequestHook
    from psession.channels.codecs import Codec, CodecName

WebSocketHandler: TypeAlias = "Callable[[WebSocketChannel], Awaitable[object]]"
"""An async function that gets the channel of each client."""


class WebSocketServer(PortServer[WebSocketChannel]):
    """A WebSocket server that runs; ``await nursery.start(serve_websocket, ...)`` gives it.

    Channels that are closed after `stop_listening`, or while the server is being cancelled, say so with code 1001. A
    client that there is no place for gets HTTP status 503.

    Attributes:
        addresses: Where it listens, as its sockets say.
    """

    def __init__(
        self, acceptor: Acceptor, options: WebSocketOptions, places: Places, handler: WebSocketHandler, timeout: float
    ) -> None:
        super().__init__("WebSocket", places, handler, timeout)
        self._acceptor = acceptor
        self._options = options

    def _say_leaving(self, channel: WebSocketChannel) -> None:
        channel.goodbye = GOING_AWAY

    def _say_failed(self, channel: WebSocketChannel) -> None:
        channel.goodbye = INTERNAL_ERROR

    async def _welcome(self, stream: trio.SocketStream, visit: Visit) -> None:
        opened = await self._shake_hands(partial(self._acceptor.open, stream, visit))
        if opened is not None:
            async with open_quiet_nursery() as nursery:
                options = self._options
                await self._talk(WebSocketChannel(*opened, options, nursery=nursery, on_closed=visit.disconnect))
                nursery.cancel_scope.cancel()


async def serve_websocket(
    handler: WebSocketHandler,
    host: str | None,
    port: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
    codec: Codec | CodecName = "json",
    subprotocols: Sequence[str] = (),
    origins: Sequence[str | re.Pattern[str] | None] | None = None,
    process_request: RequestHook | None = None,
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    compression: Literal["deflate"] | None = None,
    ping_interval: float = DEFAULT_PING_INTERVAL,
    ping_timeout: float = DEFAULT_PING_TIMEOUT,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    max_handshakes: int = DEFAULT_MAX_HANDSHAKES,
    max_handlers: int | None = None,
    backlog: int | None = None,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Call ``handler(channel)`` with each client that connects, in a task of its own, until cancelled.

    When the handler returns, its channel is closed. A handler that raises is logged and closes its own with code 1011;
    the others live on. Cancelled, the server takes no more clients, cancels its handlers and closes each channel with
    code 1001, all at once, ``close_timeout`` seconds at most plus what handlers do in shielded scopes.

    Each connection takes one of the files that a process may have open, in its handshake too. `max_connections` and
    `max_handshakes` together, and some for the rest of the program, should be fewer than these (``ulimit -n``, most
    often 1,024): with the defaults raise that to 2,048, for instance by ``resource.setrlimit``, or take 800 connections
    at most. Where files run out nothing breaks: the oldest handshake makes room for the next client, and where there is
    none, clients wait in the system's backlog; a line of the log says so.

    Args:
        handler: Gets a `WebSocketChannel`; ``path``, ``request.headers``, ``subprotocol`` and ``remote`` say whose.
        host: The address or name to listen on; ``None`` for every one of this machine.
        port: The port; 0 lets the system choose one (for the first address of ``host``, IPv4 before IPv6).
        ssl_context: For ``wss://``: one with a certificate.
        codec: ``"json"``, ``"msgpack"`` or a codec. Text goes as text frames, bytes as binary ones; both are accepted.
        subprotocols: The names spoken, the best first. A client that offers none of them gets HTTP status 400.
        origins: The values of the header ``Origin`` to let in, as text or patterns (the rest gets 403), against foreign
            pages in a user's browser. ``None`` among them lets in who sends no such header, as programs do.
        process_request: Called with each request (``path``, ``headers``), sync or async, within the handshake's time. A
            status and a text refuse it: ``(401, "who are you?")``; a ``websockets.http11.Response`` is sent as it is, a
            page for instance. If it raises, that is logged, and 500 sent.
        max_message_bytes: How long an encoded message may be, either way; a longer one from a client breaks its channel
            with close code 1009. ``math.inf`` for no limit.
        compression: ``"deflate"`` accepts permessage-deflate (RFC 7692) where a client offers it.
        ping_interval: Seconds of silence after which a client is pinged; ``math.inf`` for never.
        ping_timeout: Seconds it may stay silent after that, before its channel breaks.
        handshake_timeout: Seconds for TLS and the handshake.
        close_timeout: Seconds that closing a channel gives the client for its goodbye.
        max_connections: How many clients may be in at once, from the end of the handshake until the channel is closed,
            by this side, or by the client where the handler learns of it. Further ones get HTTP status 503.
        max_handshakes: How many handshakes may be under way. When one more client comes the oldest is given up, its
            connection closed: a client that says nothing keeps nobody out. Those that were refused go first.
        max_handlers: How many handlers may run, of clients that are in or gone: a handler may go on without its client,
            as that of a port does that waits for its peer to come back (``resume_within``). Newcomers beyond get 503.
            By default three times `max_connections`: two for each client that came back, one for each that is awaited.
        backlog: How many connections the system keeps that are not accepted yet; by default Trio's choice.
        task_status: Gets the `WebSocketServer`, with its ``port``, when it listens.

    Raises:
        ModuleNotFoundError: websockets is not installed.
        OSError: It cannot listen there.
        ValueError: An argument is out of its range.
    """
    check_library()
    from psession.channels._websocket_handshake import server_protocol

    options = WebSocketOptions(
        codec=codec,
        max_message_bytes=max_message_bytes,
        compression=compression,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
    )
    make_protocol = partial(server_protocol, options, origins=origins, subprotocols=subprotocols)
    make_protocol()  # wrong names are the caller's to learn, not the first client's
    places = Places(max_handshakes, max_connections, max_handlers)
    acceptor = Acceptor(make_protocol, places, process_request=process_request, ssl_context=ssl_context)
    server = WebSocketServer(acceptor, options, places, handler, handshake_timeout)
    await serve(server, partial(open_listeners, host, port, backlog), task_status)
