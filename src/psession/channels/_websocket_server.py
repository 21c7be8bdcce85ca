"""Serving WebSockets: how many, how long a handshake may take, and what becomes of each when the server leaves."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

import trio

from psession._listeners import PatientListener, open_listeners
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._places import Places
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
from psession.protocol.bucket import Lines

if TYPE_CHECKING:
    import re
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from psession.channels._places import Visit
    from psession.channels._websocket_accept import RequestHook
    from psession.channels._websocket_options import Opening
    from psession.channels.codecs import Codec, CodecName

WebSocketHandler: TypeAlias = "Callable[[WebSocketChannel], Awaitable[object]]"

DEFAULT_HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for TLS and the request: its first packets lost twice are 3 s (RFC 6298, 2.1), and a phone may be slow."""

DEFAULT_MAX_CONNECTIONS: Final = 1000
"""Most systems let a process open 1,024 files."""

DEFAULT_MAX_HANDSHAKES: Final = 200
"""An honest handshake takes a few round trips: at 100 ms each, 200 places let in 500 clients a second over TLS."""

HANDLERS_A_CLIENT: Final = 3
"""A client that came back by ``resume_within`` has two handlers: of its port, and of its link. A third is for ports
whose client is awaited: of these there are `psession.Budget`'s ``absent_ports``, 1000 as well."""

log = logging.getLogger("psession")


class WebSocketServer:
    """A server that runs; ``await nursery.start(serve_websocket, ...)`` gives it.

    Attributes:
        addresses: Where it listens, as its sockets say.
    """

    def __init__(
        self, addresses: list[tuple[Any, ...]], acceptor: Acceptor, places: Places, handler: WebSocketHandler
    ) -> None:
        self.addresses = addresses
        self._acceptor = acceptor
        self._places = places
        self._handler = handler
        self._channels: set[WebSocketChannel] = set()
        self._lines = Lines(trio.current_time())
        self._leaving = False
        self._listening = trio.CancelScope()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self.addresses[0][1]
        return port

    @property
    def connections(self) -> int:
        """The number of clients that are in: their handshake is done, and their channel is not closed yet."""
        return self._places.connections

    @property
    def handshakes(self) -> int:
        """The number of clients that are not in yet, those being refused included."""
        return self._places.handshakes

    @property
    def handlers(self) -> int:
        """The number of handlers that run, those included that go on though their channel is closed."""
        return self._places.handlers

    @property
    def refused(self) -> int:
        """The number of clients so far that got HTTP status 503, since there was no place for them."""
        return self._places.refused

    @property
    def given_up(self) -> int:
        """The number of handshakes so far that were given up in favour of newcomers."""
        return self._places.given_up

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
        with self._places.visit() as visit:
            try:
                opened = await self._acceptor.open(stream, visit)
                if opened is not None:
                    await self._serve(opened, options, visit)
            except Exception:
                self._log_failure("a WebSocket connection failed")

    async def _serve(self, opened: tuple[trio.abc.Stream, Opening], options: WebSocketOptions, visit: Visit) -> None:
        async with open_quiet_nursery() as nursery:
            await self._talk(WebSocketChannel(*opened, options, nursery=nursery, on_closed=visit.disconnect))
            nursery.cancel_scope.cancel()

    def _log_failure(self, text: str, *values: object) -> None:
        """Log what was raised, within a budget: a client may be able to cause it as often as it connects."""
        more = self._lines.take(trio.current_time())
        if more is not None:
            log.exception(f"{text}%s", *values, more)

    async def _talk(self, channel: WebSocketChannel) -> None:
        self._channels.add(channel)
        if self._leaving:
            channel.goodbye = GOING_AWAY
        try:
            await self._handler(channel)
        except (trio.EndOfChannel, trio.BrokenResourceError) as error:
            # Most often a client that went, and a handler that leaves it at that.
            log.debug("the WebSocket of %s ended: %s", channel.remote, str(error) or "closed by the client")
            channel.goodbye = INTERNAL_ERROR
        except Exception:
            self._log_failure("the handler of the WebSocket of %s failed", channel.remote)
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
            status and a text refuse it: ``(401, "who are you?")``. If it raises, that is logged, and 500 sent.
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
    if not handshake_timeout > 0:
        raise ValueError(f"handshake_timeout must be above 0 seconds, not {handshake_timeout!r}")
    if max_handlers is None:
        max_handlers = HANDLERS_A_CLIENT * max_connections
    limits = {"max_connections": max_connections, "max_handshakes": max_handshakes, "max_handlers": max_handlers}
    for name, limit in limits.items():
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, not {limit!r}")
    make_protocol = partial(server_protocol, options, origins=origins, subprotocols=subprotocols)
    make_protocol()  # wrong names are the caller's to learn, not the first client's
    places = Places(max_handshakes, max_connections, max_handlers)
    acceptor = Acceptor(
        make_protocol,
        places,
        process_request=process_request,
        ssl_context=ssl_context,
        timeout=handshake_timeout,
    )
    async with open_quiet_nursery() as nursery:
        # The handlers stand behind a shield, so that being cancelled is a step of ours, and each says why it goes.
        handlers: trio.Nursery = await nursery.start(_handlers_nursery)
        listeners = await open_listeners(host, port, backlog)  # no checkpoint from here to `serve_listeners`
        addresses = [listener.socket.getsockname() for listener in listeners]
        server = WebSocketServer(addresses, acceptor, places, handler)
        lines = Lines(trio.current_time())
        patient = [PatientListener(listener, places.give_up_handshake, lines) for listener in listeners]
        handlers.cancel_scope.shield = True  # only now: cancelled while the server starts, they must be left
        try:
            task_status.started(server)
            with server._listening:
                await trio.serve_listeners(partial(server._visit, options), patient, handler_nursery=handlers)
            await trio.sleep_forever()
        finally:
            server._leave()
            handlers.cancel_scope.cancel()
    raise AssertionError("nobody cancelled it")


async def _handlers_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with open_quiet_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()
