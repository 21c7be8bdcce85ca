"""The bytes of one connection to a broker: written at once where the socket takes them, read in large pieces."""

from __future__ import annotations

import os

import trio

from psession.nursery import close_forcefully

READ_BYTES = 64 * 1024
"""How much one read takes."""


class BrokerStream:
    """A connection to a broker.

    Attributes:
        rest: What a write left, which must be written before all else.
        bytes_in: Bytes read.
        bytes_out: Bytes written.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.rest: bytes = b""
        self.bytes_in: int = 0
        self.bytes_out: int = 0
        self.change_stream(stream)

    def change_stream(self, stream: trio.abc.Stream) -> None:
        """Go on with another stream: TLS over the first."""
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and os.name == "posix" else None

    @property
    def stream(self) -> trio.abc.Stream:
        """The stream underneath."""
        return self._stream

    @property
    def is_free(self) -> bool:
        """True where `write` takes bytes now."""
        return self._socket is not None and not self.rest

    def write(self, data: bytes) -> None:
        """Write to a socket without waiting, one system call which nothing can cut; only while `is_free`.

        What it did not take is `rest`. A socket that is broken takes nothing, and says so to who writes the rest.
        """
        assert self._socket is not None
        try:
            written = os.write(self._socket.fileno(), data)
        except OSError:
            written = 0
        self.bytes_out += written
        if written < len(data):
            self.rest = data[written:]

    async def write_rest(self) -> None:
        """Write what is left.

        Raises:
            trio.BrokenResourceError: The connection broke.
        """
        assert self._socket is not None
        await trio.lowlevel.wait_writable(self._socket)
        try:
            written = os.write(self._socket.fileno(), self.rest)
        except BlockingIOError:
            return
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection broke: {error}") from error
        self.bytes_out += written
        self.rest = self.rest[written:]

    async def send(self, data: bytes) -> None:
        """Write these bytes.

        Raises:
            trio.BrokenResourceError: The connection broke.
        """
        await self._stream.send_all(data)
        self.bytes_out += len(data)

    async def read_bytes(self) -> bytes:
        """Return what comes with the next read.

        Raises:
            trio.EndOfChannel: The broker hung up.
            trio.BrokenResourceError: The connection broke.
        """
        if self._socket is None:
            data = bytes(await self._stream.receive_some(READ_BYTES))
        else:
            data = await self._read_socket(self._socket)
        if not data:
            raise trio.EndOfChannel
        self.bytes_in += len(data)
        return data

    async def _read_socket(self, socket: trio.socket.SocketType) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(socket)
            try:
                return os.read(socket.fileno(), READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    async def close(self) -> None:
        """Close the connection at once."""
        await close_forcefully(self._stream)
