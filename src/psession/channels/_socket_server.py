"""Serving channels over TCP, TLS and Unix sockets: whatever the framing, a task and a place for each client."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from psession._listeners import UnixListener, open_listeners
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._framed import FramedChannel
from psession.channels._places import DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_HANDSHAKES, Places
from psession.channels._server import DEFAULT_HANDSHAKE_TIMEOUT, PortServer, Server, serve
from psession.channels._streams import StreamOptions
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT

if TYPE_CHECKING:
    import os
    import ssl

    from psession.channels._places import Visit
    from psession.channels._server import Handler
    from psession.channels._streams import FramingMaker, FramingName
    from psession.channels.codecs import Codec, CodecName

DEFAULT_MODE: Final = 0o600
"""Permissions of a Unix socket: its owner's alone, since who may write to it may connect."""


class TcpServer(PortServer[FramedChannel]):
    """A TCP server that runs; ``await nursery.start(serve_tcp, ...)`` gives it.

    A client that there is no place for has its connection closed.

    Attributes:
        addresses: Where it listens, as its sockets say.
    """

    def __init__(
        self,
        options: StreamOptions,
        places: Places,
        handler: Handler[FramedChannel],
        ssl_context: ssl.SSLContext | None,
        handshake_timeout: float,
    ) -> None:
        super().__init__("TCP connection", places, handler, handshake_timeout)
        self._options = options
        self._ssl_context = ssl_context

    async def _welcome(self, stream: trio.SocketStream, visit: Visit) -> None:
        if self._ssl_context is None:
            opened: trio.abc.Stream | None = stream
        elif self._places.has_room:
            opened = await self._shake_hands(partial(self._encrypt, stream, self._ssl_context))
        else:
            self._refuse()  # before the work of a handshake for nothing
            return
        if opened is not None and self._let_in(visit):
            await self._talk(self._options.channel(opened, on_closed=visit.disconnect))

    async def _encrypt(
        self, plain: trio.SocketStream, context: ssl.SSLContext, scope: trio.CancelScope
    ) -> trio.abc.Stream:
        stream = trio.SSLStream(plain, context, server_side=True)
        await stream.do_handshake()
        return stream


class UnixServer(Server[FramedChannel]):
    """A server on a Unix socket that runs; ``await nursery.start(serve_unix, ...)`` gives it.

    A client that there is no place for has its connection closed.

    Attributes:
        addresses: The path of its socket, alone in a list.
    """

    def __init__(self, options: StreamOptions, places: Places, handler: Handler[FramedChannel]) -> None:
        super().__init__("Unix socket connection", places, handler)
        self._options = options

    @property
    def path(self) -> str:
        """The path of its socket."""
        path: str = self.addresses[0]
        return path

    async def _welcome(self, stream: trio.SocketStream, visit: Visit) -> None:
        if self._let_in(visit):
            await self._talk(self._options.channel(stream, on_closed=visit.disconnect))


async def serve_tcp(
    handler: Handler[FramedChannel],
    port: int,
    *,
    host: str | None = None,
    framing: FramingName | FramingMaker = "lines",
    codec: Codec | CodecName = "json",
    ssl_context: ssl.SSLContext | None = None,
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    max_handshakes: int = DEFAULT_MAX_HANDSHAKES,
    max_handlers: int | None = None,
    backlog: int | None = None,
    task_status: trio.TaskStatus[TcpServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Call ``handler(channel)`` with each client that connects, in a task of its own, until cancelled.

    When the handler returns, its channel is closed. A handler that raises is logged and closes its own; the others live
    on. Cancelled, the server takes no more clients, cancels its handlers and closes each channel, all at once,
    ``close_timeout`` seconds at most plus what handlers do in shielded scopes.

    Each connection takes one of the files that a process may have open. Where these run out nothing breaks: the oldest
    TLS handshake makes room for the next client, and where there is none, clients wait in the system's backlog; a line
    of the log says so. See `serve_websocket` for how many there may be.

    Args:
        handler: Gets a `FramedChannel`; ``remote`` says whose.
        port: The port; 0 lets the system choose one (for the first address of ``host``, IPv4 before IPv6).
        host: The address or name to listen on; ``None`` for every one of this machine.
        framing: ``"lines"``, ``"length_prefixed"``, ``"content_length"``, or a class made from `Framing`.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        ssl_context: For TLS: one with a certificate. A connection that ends without TLS's own goodbye is a broken one.
        max_message_bytes: How long an encoded message may be, either way; ``math.inf`` for no limit.
        handshake_timeout: Seconds for the handshake of TLS.
        close_timeout: Seconds that closing a channel gives the client for its goodbye.
        max_connections: How many clients may be in at once, until their channel is closed. Further ones are hung up on.
        max_handshakes: How many handshakes of TLS may be under way. When one more client comes the oldest is given up:
            a client that says nothing keeps nobody out.
        max_handlers: How many handlers may run, of clients that are in or gone; by default three times
            `max_connections`, as for `serve_websocket`.
        backlog: How many connections the system keeps that are not accepted yet; by default Trio's choice.
        task_status: Gets the `TcpServer`, with its ``port``, when it listens.

    Raises:
        OSError: It cannot listen there.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """
    options = StreamOptions(
        framing=framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
    options.check()
    places = Places(max_handshakes, max_connections, max_handlers)
    server = TcpServer(options, places, handler, ssl_context, handshake_timeout)
    await serve(server, partial(open_listeners, host, port, backlog), task_status)


async def serve_unix(
    handler: Handler[FramedChannel],
    path: str | os.PathLike[str],
    *,
    mode: int | None = DEFAULT_MODE,
    framing: FramingName | FramingMaker = "lines",
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    max_handlers: int | None = None,
    backlog: int | None = None,
    task_status: trio.TaskStatus[UnixServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Call ``handler(channel)`` with each client that connects to a Unix socket, in a task of its own, until cancelled.

    All else is as in `serve_tcp`. The file of a socket that nobody listens on any more, as a server that was killed
    leaves it, is replaced; a file that is something else, or that somebody listens on, is left alone. At the end, and
    when the server stops listening, the file is removed, if it is still its own.

    Args:
        handler: Gets a `FramedChannel`.
        path: The socket's file.
        mode: The permissions of the file, set before anybody can connect: by default its owner alone may, with
            ``0o660`` its group too. ``None``: what the process's umask leaves.
        framing: ``"lines"``, ``"length_prefixed"``, ``"content_length"``, or a class made from `Framing`.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long an encoded message may be, either way; ``math.inf`` for no limit.
        close_timeout: Seconds that closing a channel may take.
        max_connections: How many clients may be in at once, until their channel is closed. Further ones are hung up on.
        max_handlers: How many handlers may run, of clients that are in or gone; by default three times
            `max_connections`, as for `serve_websocket`.
        backlog: How many connections the system keeps that are not accepted yet; by default as many as it allows.
        task_status: Gets the `UnixServer`, with its ``path``, when it listens.

    Raises:
        OSError: It cannot listen there: somebody does (``EADDRINUSE``), another file is there, the folder does not
            exist.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """
    options = StreamOptions(
        framing=framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout
    )
    options.check()
    server = UnixServer(options, Places(1, max_connections, max_handlers), handler)
    await serve(server, partial(_open_unix, path, mode, backlog), task_status)


async def _open_unix(path: str | os.PathLike[str], mode: int | None, backlog: int | None) -> list[UnixListener]:
    return [UnixListener.open(path, mode, backlog)]
