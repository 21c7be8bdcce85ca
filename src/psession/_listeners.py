"""Listening: on one port number or a Unix socket's file, and going on where the system has no more files."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.bucket import Lines

_LACKS: Final = ("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "WSAEMFILE", "WSAENOBUFS")
LACKS: Final = frozenset(getattr(errno, name) for name in _LACKS if hasattr(errno, name))
"""Errors of ``accept`` by which the system says that it has no more of something, for now; Windows has its own."""

PAUSE: Final = 0.1
"""Seconds before the next try, as `trio.serve_listeners` waits: who comes meanwhile waits in the backlog."""

MOST_BACKLOG: Final = 0xFFFF
"""What `trio.open_tcp_listeners` asks for: the system takes less where it allows less."""

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


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listener on a Unix socket, which removes its file when it is closed; `open` makes one.

    Attributes:
        socket: The socket.
    """

    def __init__(self, socket: trio.socket.SocketType, path: str, found: os.stat_result) -> None:
        self.socket = socket
        self._listener = trio.SocketListener(socket)
        self._path = path
        self._found = found

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: int | None, backlog: int | None = None) -> UnixListener:
        """Listen on a Unix socket; its file may be there already, if nobody listens on it.

        Args:
            path: The file.
            mode: The file's permissions; ``None``: what the umask leaves.
            backlog: How many connections the system keeps that are not accepted yet; by default as many as it allows.

        Raises:
            OSError: It cannot listen there; the text says why.
        """
        name = os.path.abspath(path)
        made = unix_socket()
        try:
            _bind(made, name)
            found = os.lstat(name)
            try:
                if mode is not None:
                    os.chmod(name, mode)  # nobody can connect before it listens
                made.listen(MOST_BACKLOG if backlog is None else backlog)
                return cls(trio.socket.from_stdlib_socket(made), name, found)
            except BaseException:
                os.unlink(name)
                raise
        except BaseException:
            made.close()
            raise

    async def accept(self) -> trio.SocketStream:
        """The next connection."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Remove the file, if it is still this socket's, and close the listener."""
        with suppress(OSError):
            # No other file has this number while the socket is bound to it.
            if os.path.samestat(os.lstat(self._path), self._found):
                os.unlink(self._path)
        await self._listener.aclose()


def unix_socket() -> socket.socket:
    """Make a Unix socket.

    Raises:
        OSError: Python has none on this system, which is Windows.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(
            errno.EAFNOSUPPORT, "Python has no Unix sockets on this system: use open_tcp and serve_tcp, on 127.0.0.1"
        )
    return socket.socket(socket.AF_UNIX)


def unix_error(what: str, error: OSError, path: str) -> OSError:
    """Make an error of a Unix socket that names the path, which the system's do not."""
    if error.errno is None:  # Python's own
        return OSError(errno.ENAMETOOLONG, f"{what}: {error}, the system takes about 100 bytes", path)
    return OSError(error.errno, f"{what}: {error.strerror}", path)


def _bind(made: socket.socket, path: str) -> None:
    """Bind a Unix socket to a path, and replace a socket there that nobody listens on."""
    try:
        try:
            made.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            made.bind(path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise unix_error("cannot listen", error, path) from error


def _remove_stale(path: str) -> None:
    """Remove a socket's file that nobody listens on.

    Raises:
        OSError: Somebody does, or may, or the file is something else.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "cannot listen: a file that is no socket is there", path)
    with unix_socket() as probe:
        probe.setblocking(False)
        status = probe.connect_ex(path)
    if status in (0, errno.EAGAIN):  # EAGAIN: its backlog is full
        raise OSError(errno.EADDRINUSE, "cannot listen: somebody else does", path)
    if status not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(status, f"cannot listen: somebody else may, {os.strerror(status)}", path)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), found):
            os.unlink(path)


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
                extra={"event_name": "no_more_files"},
            )

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()
