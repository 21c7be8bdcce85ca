"""Listening on one port number, whatever addresses a name has, and going on where the system has no more files."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.bucket import Lines

LACKS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
"""Errors of ``accept`` by which the system says that it has no more of something, for now."""

PAUSE: Final = 0.1
"""Seconds before the next try, as `trio.serve_listeners` waits: who comes meanwhile waits in the backlog."""

log = logging.getLogger("psession")


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


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that goes on where a process or its system has no more files, or no more memory for sockets.

    `trio.serve_listeners` does so too, but it logs a traceback ten times in a second, and frees nothing.

    Args:
        listener: What listens.
        make_room: Frees a file, if there is one to spare, within a few passes of the scheduler. Returns False if not.
        lines: The budget of its lines in the log; the listeners of one server share it.
    """

    def __init__(
        self, listener: trio.abc.Listener[trio.SocketStream], make_room: Callable[[], bool], lines: Lines
    ) -> None:
        self._listener = listener
        self._make_room = make_room
        self._lines = lines

    async def accept(self) -> trio.SocketStream:
        """The next connection.

        Where the system has nothing left, a file is freed and asked for at once; if that was no help, again every 0.1 s
        until there is one: what is lacking may not be this process's to give.

        Raises:
            OSError: The listener failed for another reason.
            trio.ClosedResourceError: It was closed.
        """
        failures = 0
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in LACKS:
                    raise
                failures += 1
                self._say(error)
            if self._make_room() and failures == 1:
                for _ in range(3):  # what is given up is cancelled, wakes, and closes its socket
                    await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(PAUSE)

    def _say(self, error: OSError) -> None:
        more = self._lines.take(trio.current_time())
        if more is not None:
            log.warning(
                "no more connections can be taken for now: %s. Each takes a file: raise the limit (ulimit -n), or "
                "allow fewer connections%s",
                error.strerror or error,
                more,
            )

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()
