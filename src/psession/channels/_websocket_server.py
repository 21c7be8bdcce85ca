"""Serving WebSockets: how many, how long a handshake may take, and what becomes of each when the server leaves."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

import trio

from psession._listeners import open_listeners
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
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

    from psession.channels._websocket_accept import RequestHook
    from psession.channels.codecs import Codec, CodecName

WebSocketHandler: TypeAlias = "Callable[[WebSocketChannel], Awaitable[object]]"

DEFAULT_HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for TLS and the request: its first packets lost twice are 3 s (RFC 6298, 2.1), and a phone may be slow."""

DEFAULT_MAX_CONNECTIONS: Final = 1000
"""Most systems let a process open 1,024 files."""

log = logging.getLogger("psession")


class WebSocketServer:
    """A server that runs; ``await nursery.start(serve_websocket, ...)`` gives it.

    Attributes:
        addresses: Where it listens, as its sockets say.
    """

    def __init__(self, addresses: list[tuple[Any, ...]], acceptor: Acceptor, handler: WebSocketHandler) -> None:
        self.addresses = addresses
        self._acceptor = acceptor
        self._handler = handler
        self._channels: set[WebSocketChannel] = set()
        self._leaving = False
        self._listening = trio.CancelScope()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self.addresses[0][1]
        return port

    @property
    def connections(self) -> int:
        """The number of clients now, those in their handshake and those being refused included."""
        return self._acceptor.connections

    @property
    def refused(self) -> int:
        """The number of clients that there was no room for."""
        return self._acceptor.refused

    def stop_listening(self) -> None:
        """Take no more clients, for good. Those that are there stay; channels close with code 1001 from now on."""
        self._listening.cancel()
        self._leave()

    def _leave(self) -> None:
        """Every channel that is closed from now on says that the server is going away, whoever closes it."""
        self._leaving = True
        for channel in self._channels:
            channel.goodbye = GOING_AWAY

    async def _visit(self, options: WebSocketOptions, stream: trio.SocketStream) -> None:
        """One client, from its first byte to its last; whatever goes wrong ends this one alone."""
        self._acceptor.connections += 1
        try:
            opened = await self._acceptor.open(stream)
            if opened is not None:
                async with open_quiet_nursery() as nursery:
                    await self._talk(WebSocketChannel(*opened, options, nursery=nursery))
                    nursery.cancel_scope.cancel()
        except Exception:
            log.exception("a WebSocket connection failed")
        finally:
            self._acceptor.connections -= 1

    async def _talk(self, channel: WebSocketChannel) -> None:
        self._channels.add(channel)
        if self._leaving:
            channel.goodbye = GOING_AWAY
        try:
            await self._handler(channel)
        except (trio.EndOfChannel, trio.BrokenResourceError) as error:
            # Most often a client that went, and a handler that leaves it at that.
            log.info("the WebSocket of %s ended: %s", channel.remote, str(error) or "closed by the client")
            channel.goodbye = INTERNAL_ERROR
        except Exception:
            log.exception("the handler of the WebSocket of %s failed", channel.remote)
            channel.goodbye = INTERNAL_ERROR
        finally:
            self._channels.discard(channel)
            with trio.CancelScope(shield=True):  # aclose takes close_timeout seconds at most
                await channel.aclose()


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
    backlog: int | None = None,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Call ``handler(channel)`` with each client that connects, in a task of its own, until cancelled.

    When the handler returns, its channel is closed. A handler that raises is logged and closes its own with code 1011;
    the others live on. Cancelled, the server takes no more clients, cancels its handlers and closes each channel with
    code 1001, all at once, ``close_timeout`` seconds at most plus what handlers do in shielded scopes.

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
            status and a text refuse it: ``(401, "who are you?")``. If it raises, that is logged, and 500 sent.
        max_message_bytes: How long an encoded message may be, either way; a longer one from a client breaks its channel
            with close code 1009. ``math.inf`` for no limit.
        compression: ``"deflate"`` accepts permessage-deflate (RFC 7692) where a client offers it.
        ping_interval: Seconds of silence after which a client is pinged; ``math.inf`` for never.
        ping_timeout: Seconds it may stay silent after that, before its channel breaks.
        handshake_timeout: Seconds for TLS and the handshake.
        close_timeout: Seconds that closing a channel gives the client for its goodbye.
        max_connections: How many clients at once, handshakes included; further ones get HTTP status 503.
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
    if not handshake_timeout > 0:
        raise ValueError(f"handshake_timeout must be above 0 seconds, not {handshake_timeout!r}")
    if max_connections < 1:
        raise ValueError(f"max_connections must be at least 1, not {max_connections!r}")
    make_protocol = partial(server_protocol, options, origins=origins, subprotocols=subprotocols)
    make_protocol()  # wrong names are the caller's to learn, not the first client's
    acceptor = Acceptor(
        make_protocol,
        process_request=process_request,
        ssl_context=ssl_context,
        timeout=handshake_timeout,
        max_connections=max_connections,
    )
    async with open_quiet_nursery() as nursery:
        # The handlers stand behind a shield, so that being cancelled is a step of ours, and each says why it goes.
        handlers: trio.Nursery = await nursery.start(_handlers_nursery)
        listeners = await open_listeners(host, port, backlog)  # no checkpoint from here to `serve_listeners`
        server = WebSocketServer([listener.socket.getsockname() for listener in listeners], acceptor, handler)
        handlers.cancel_scope.shield = True  # only now: cancelled while the server starts, they must be left
        try:
            task_status.started(server)
            with server._listening:
                await trio.serve_listeners(partial(server._visit, options), listeners, handler_nursery=handlers)
            await trio.sleep_forever()
        finally:
            server._leave()
            handlers.cancel_scope.cancel()
    raise AssertionError("nobody cancelled it")


async def _handlers_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with open_quiet_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()
