"""Messages over a stream of bytes, whatever their framing."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from psession.channels._pace import LEAST_BYTES, Pace
from psession.channels._poller import MANY, poller_of_this_run
from psession.channels._useless import UselessLimit
from psession.channels._wire import WireChannel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from psession.channels._base import Message
    from psession.channels._framings import Framing
    from psession.channels._poller import Poller, Watch
    from psession.channels.codecs import Codec, CodecName
    from psession.errors import MessageError


class FramedChannel(WireChannel):
    """Messages over a `trio.abc.Stream`; `framed`, `lines`, `length_prefixed` and `content_length` make one.

    The channel owns the stream: it closes it, and nobody else may read or write it.

    Attributes:
        remote: The peer's address as its socket gives it, ``None`` where that is unknown.
    """

    __slots__ = (
        "_at_end",
        "_can_watch",
        "_failure",
        "_framing",
        "_on_closed",
        "_pace",
        "_poller",
        "_socket",
        "_stream",
        "_tell_kept",
        "_useless",
        "_watch",
        "joins",
        "remote",
    )

    bytes_sent: int
    bytes_received: int

    def __init__(
        self,
        stream: trio.abc.Stream,
        framing: Framing,
        *,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
        on_closed: Callable[[], None] | None = None,
        is_own: bool = False,  # nobody else has the stream, who could close it under this channel
    ) -> None:
        super().__init__(codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)
        self._stream = stream
        self._framing = framing
        self._on_closed = on_closed
        self._at_end = False
        self._failure: OSError | None = None
        self._pace = Pace()
        self._useless = UselessLimit()
        self._tell_kept: Callable[[], None] | None = None
        # Only a socket can be written to without waiting: TLS has records to build, a pipe is not Trio's to look into.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and os.name == "posix" else None
        self._can_watch = is_own and self._socket is not None
        self._poller: Poller | None = None
        self._watch: Watch | None = None
        self.joins: bool = self._socket is not None
        self.remote: tuple[Any, ...] | None = peer_of(stream)

    def encode(self, message: Message) -> bytes:
        """The message with its edges.

        Raises:
            MalformedMessageError: It has no encoding (NaN, an unknown type); the text says what and where.
            MessageTooLargeError: It is longer than ``max_message_bytes``.
        """
        data = self._codec.encode(message)
        if len(data) > self._max_message_bytes:
            raise self._too_large(data)
        return self._framing.frame(data)

    def send_frame_now(self, frame: bytes) -> bytes | None:
        """Write a frame without waiting, as far as the socket takes it: one system call, which nothing can cut.

        Returns:
            What is left to be written (``b""``: nothing), or ``None`` when nothing was written: the socket is full,
            closed or broken (the next `send_frames` says which), another task is writing, or the stream is no socket.
        """
        if self._socket is None or self._closed or self._torn or self._send_lock.locked():
            return None
        try:
            written = os.write(self._socket.fileno(), frame)
        except OSError:
            return None
        self.bytes_sent += written
        return frame[written:]

    async def _write(self, frames: Sequence[bytes]) -> None:
        data = b"".join(frames)
        await self._stream.send_all(data)
        self.bytes_sent += len(data)

    async def _read(self) -> list[Message | MessageError]:
        while True:
            if self._rest:
                if self._pace.waits:
                    await self._pace.turn()
                else:
                    await trio.lowlevel.checkpoint()
                if self._rest:  # and nobody took it meanwhile
                    self._pace.begin(0)
                    return self._decode_rest()
                continue
            if self._at_end or self._framing.lost is not None:
                await trio.lowlevel.checkpoint()
                self._raise_end()
            data = await self._receive_some()
            self._at_end = not data
            messages = self._messages(data)
            if messages:
                return messages
            self.pace()
            if self._tell_kept is not None:
                self._tell_kept()

    @property
    def kept_bytes(self) -> int:  # type: ignore[override]
        """The bytes of a message that has come in part, and of those that are not decoded yet."""
        return self._framing.kept_bytes + self._rest_bytes

    def watch_kept_bytes(self, call: Callable[[], None]) -> None:
        """Have `call` called where more of a message has come, and it is not whole."""
        self._tell_kept = call

    def pace(self, more: float = 0.0) -> None:
        """Take note that the port is done with the last batch: where that took long, the next is to be smaller."""
        self._pace.done(more)

    def receive_batch_now(self) -> list[Message | MessageError]:
        """Receive what one read of the socket gives without waiting; nothing on any other stream.

        Nothing as well while `receive` has messages in hand, which come before what the socket holds.
        """
        watch = self._watch
        if self._socket is None or self._closed or self._pending:
            return []
        if self._pace.waits or self._at_end or self._failure is not None:
            self._end_watch()
            return []
        all_of_them = self._receiving and watch is None  # whoever receives sleeps until more has come
        if self._rest:
            self._pace.begin(0)
            messages = self._decode_rest(all_of_them=all_of_them)
        else:
            try:
                data = os.read(self._socket.fileno(), self._pace.read_bytes)
            except BlockingIOError:
                return []
            except OSError as error:
                self._failure = error  # the socket says it once; the reader, which the socket wakes now, needs it too
                self._end_watch()
                return []
            messages = self._messages(data, all_of_them=all_of_them)
            if self._framing.lost is not None:
                trio.lowlevel.notify_closing(self._socket)  # nothing more will come: the reader must say so
        if not messages:
            self.pace()
            if self._tell_kept is not None:
                self._tell_kept()
        if watch is not None and (self._rest or not messages or self._framing.lost is not None):
            watch.stop()
        return messages

    def watch(self, until: Callable[[], bool]) -> Awaitable[bool] | None:
        """Have `until` called each time that the socket has more, where there are many; see `FrameChannel.watch`."""
        poller = self._poller
        if poller is not None and poller.channels < MANY:
            return None  # the usual case, after each read: a look at one number
        if not self._can_watch or self._closed:
            return None
        if poller is None:
            poller = self._poller = poller_of_this_run()
            if poller is None:
                self._can_watch = False
                return None
            poller.channels += 1
        if poller.channels < MANY or self._receiving or self._pending or self._rest or self._at_end:
            return None
        if self._pace.waits or self._socket is None or self._socket.fileno() < 0:
            return None
        return self._watched(poller, self._socket.fileno(), until)

    async def _watched(self, poller: Poller, fileno: int, until: Callable[[], bool]) -> bool:
        watch = poller.watch(fileno, until)
        if watch is None:
            return False
        self._watch = watch
        self._receiving = True
        try:
            return await watch.until_stopped()
        finally:
            self._receiving = False
            self._watch = None

    def _end_watch(self) -> None:
        """Something is for the reader to do, or the socket is about to be closed."""
        if self._watch is not None:
            self._watch.stop()

    def _messages(self, data: bytes, *, all_of_them: bool = False) -> list[Message | MessageError]:
        self.bytes_received += len(data)
        if len(data) >= LEAST_BYTES:  # less is done before its time could be taken
            self._pace.begin(len(data))
        return self._decoded(self._framing.feed(data), all_of_them=all_of_them)

    def _note_useless(self, useless: int) -> None:
        """Take note of what came with a read and is of no use. A peer that sends little else is listened to no more."""
        now = trio.current_time()
        useful, self._useful = self._useful, 0
        pause = self._useless.note(useless, useful, now)
        if pause:
            self._pace.pause(now + pause)
        elif pause is None and self._framing.lost is None:
            self._framing.give_up(
                f"the peer sends little of use: {self._useless.seen} messages that cannot be read, control frames and "
                "empty fragments"
            )

    async def _receive_some(self) -> bytes:
        """One read of the stream; of a socket as soon as it is readable.

        `trio.SocketStream` tries the socket before it waits. After a batch there is most often nothing there yet: the
        try would be a system call and an exception between a message and the task that it woke.
        """
        if self._socket is None:
            if self._pace.waits:
                await self._pace.turn()
            return bytes(await self._stream.receive_some(self._pace.read_bytes))
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("somebody else closed the stream under this channel")
            if self._framing.lost is not None:
                return b""  # found by `receive_batch_now` after this task was woken, and before it ran
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:
                if self._framing.lost is None:
                    raise
                return b""
            if self._pace.waits:
                await self._pace.turn()
            try:
                if self._failure is not None:
                    raise self._failure
                return os.read(self._socket.fileno(), self._pace.read_bytes)
            except BlockingIOError:
                continue  # somebody took it meanwhile, without waiting
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    def _raise_end(self) -> NoReturn:
        wrong = self._framing.lost or self._framing.end()
        if wrong is None:
            raise trio.EndOfChannel
        raise trio.BrokenResourceError(str(wrong)) from wrong

    def _watch_no_more(self) -> None:
        """The channel is being closed."""
        self._end_watch()
        if self._poller is not None and self._can_watch:
            self._poller.channels -= 1
        self._can_watch = False

    async def _close(self) -> None:
        self._pace.hurry()
        self._watch_no_more()
        try:
            await self._stream.aclose()
        finally:
            self._framing.forget()
            if self._on_closed is not None:
                self._on_closed()


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """The socket under a stream, TLS or not, if there is one."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def peer_of(stream: trio.abc.Stream) -> tuple[Any, ...] | None:
    """The address of who is at the other end of a stream, if that is known: a Unix socket has none, nor has a pipe."""
    connection = socket_of(stream)
    if connection is not None:
        with suppress(OSError):
            address: object = connection.getpeername()
            return address if isinstance(address, tuple) else None
    return None
