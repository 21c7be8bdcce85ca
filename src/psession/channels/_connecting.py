"""Connecting by TCP, with TLS on top where that is wanted, or by a Unix socket: what clients of every kind share."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import trio

from psession._listeners import unix_error, unix_socket

if TYPE_CHECKING:
    import ssl

DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for TCP, TLS and a handshake: each takes a round trip or two, and a packet lost twice 3 s (RFC 6298)."""

BACKLOG_PAUSE: Final = 0.02
"""Seconds before the next try where the backlog of a Unix socket is full: the system tells nobody when it is not."""


async def connect(
    host: str, port: int, ssl_context: ssl.SSLContext | None, *, https_compatible: bool = False
) -> trio.abc.Stream:
    """Open a connection; cancelled, nothing is left open.

    Args:
        host: A name or an address; with TLS, the one that the certificate is for.
        port: The TCP port.
        ssl_context: For TLS.
        https_compatible: True where the peer may hang up without TLS's own goodbye.

    Raises:
        OSError: No connection.
        trio.BrokenResourceError: No TLS; the cause says why.
    """
    plain = await trio.open_tcp_stream(host, port)
    if ssl_context is None:
        return plain
    stream = trio.SSLStream(plain, ssl_context, server_hostname=host, https_compatible=https_compatible)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def connect_unix(path: str) -> trio.SocketStream:
    """Connect to a Unix socket, and wait while its backlog is full; cancelled, nothing is left open.

    `trio.open_unix_socket` (0.35) takes a socket for connected that the full backlog has turned away.

    Raises:
        OSError: No connection; it names the path.
    """
    made = unix_socket()
    try:
        made.setblocking(False)
        await trio.lowlevel.checkpoint()
        while (status := made.connect_ex(path)) == errno.EAGAIN:  # noqa: ASYNC110 - the system sets no event
            await trio.sleep(BACKLOG_PAUSE)
        if status:
            raise OSError(status, os.strerror(status))
        return trio.SocketStream(trio.socket.from_stdlib_socket(made))
    except OSError as error:
        made.close()
        raise unix_error("cannot connect", error, path) from error
    except BaseException:
        made.close()
        raise
