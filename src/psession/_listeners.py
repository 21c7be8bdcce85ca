"""Listening on one port number, whatever addresses a name has."""

from __future__ import annotations

import socket

import trio


async def open_listeners(host: str | None, port: int, backlog: int | None = None) -> list[trio.SocketListener]:
    """TCP listeners for `host`; with port 0 one alone, IPv4 before IPv6: each address would get a number of its own.

    Raises:
        OSError: It cannot listen there.
    """
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    if port == 0:
        # One number must do; who connects by name tries all addresses.
        listeners.sort(key=lambda listener: listener.socket.family != socket.AF_INET)
        for listener in listeners[1:]:
            listener.socket.close()  # not aclose(): cancelled at the first, it would leave the others open
        del listeners[1:]
    return listeners
