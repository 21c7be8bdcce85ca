"""Messages over a WebSocket of our own: the framing of `_websocket_frames` on a Trio stream, and a life beside it."""

from __future__ import annotations

import math
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from psession.channels._framed import FramedChannel, socket_of
from psession.channels._pace import LEAST_BYTES, MOST_BYTES
from psession.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from websockets.http11 import Request, Response

    from psession.channels._base import Message
    from psession.channels._websocket_options import Opening, WebSocketOptions
    from psession.errors import MessageError

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
INTERNAL_ERROR: Final = 1011
_LONGEST_REASON: Final = 123  # a control frame's 125 bytes, less 2 for the code
_CLOSED_UNDERNEATH: Final = "the stream under the channel is closed"
_CLEAN: Final = frozenset([NORMAL, GOING_AWAY, 1005])
"""Normal closure, going away, and a close frame that gives no code (RFC 6455, 7.4.1)."""


class WebSocketChannel(FramedChannel):
    """Messages over a WebSocket, one each; `open_websocket` and `serve_websocket` make one.

    Pings of the peer are answered, and its silence is judged, while somebody receives, as a port always does. A message
    from the peer over ``max_message_bytes``, and anything else that RFC 6455 forbids, breaks the channel, after a close
    frame that says why (1002, 1007, 1009); ``__cause__`` is the `MessageError`. A close frame with code 1000, 1001 or
    none is the end of the channel; any other one, or one between the fragments of a message, breaks it.

    Attributes:
        request: The opening handshake's request: ``path`` and ``headers``.
        response: What the server answered: ``headers``.
        path: The path that the client asked for, with its query.
        subprotocol: The one agreed on, ``None`` without.
        remote: The peer's address as its socket gives it, ``None`` where that is unknown.
    """

    __slots__ = (
        "_control",
        "_control_waits_for_task",
        "_end_is_told",
        "_fault",
        "_frames",
        "_heard",
        "_mid_frame",
        "_nursery",
        "_reading",
        "_reason",
        "goodbye",
        "path",
        "request",
        "response",
        "subprotocol",
    )

    bytes_sent: int
    bytes_received: int

    def __init__(
        self,
        stream: trio.abc.Stream,
        opening: Opening,
        options: WebSocketOptions,
        *,
        nursery: trio.Nursery,
        on_closed: Callable[[], None] | None = None,  # on a server, each time that the connection is found closed
    ) -> None:
        codec, framing = options.framing(opening.protocol)
        super().__init__(
            stream,
            framing,
            codec=codec,
            max_message_bytes=options.max_message_bytes,
            close_timeout=options.close_timeout,
            on_closed=on_closed,
            is_own=True,
        )
        self.request: Request = opening.request
        self.response: Response = opening.response
        self.path: str = opening.request.path
        self.subprotocol: str | None = opening.protocol.subprotocol
        self.joins: bool = self.joins and not framing.compresses
        self.goodbye: int = NORMAL
        self._reason = ""
        self._frames = framing
        self._nursery = nursery
        self._fault: str | None = None
        self._end_is_told = False
        self._mid_frame = False  # the rest of a frame is with who sent its first part, and must follow before all else
        self._control = b""  # control frames taken from the framing; may begin inside of one
        self._control_waits_for_task = False
        self._reading: trio.CancelScope | None = None
        self._heard = trio.Event()
        self._pending.extend(self._messages(opening.rest))
        if options.ping_interval < math.inf:
            nursery.start_soon(self._keep_alive, options.ping_interval, options.ping_timeout)

    @property
    def close_code(self) -> int | None:
        """The code of the peer's close frame, 1005 when it gave none; ``None`` while none has come."""
        return self._frames.close_code

    @property
    def close_reason(self) -> str:
        """The text of the peer's close frame."""
        return self._frames.close_reason

    # -- writing -----------------------------------------------------------------------------------------------------

    def send_frame_now(self, frame: bytes) -> bytes | None:
        """Write a frame without waiting, as far as the socket takes it: one system call, which nothing can cut.

        Returns:
            What is left to be written (``b""``: nothing), which the next `send_frames` must begin with; or ``None``
            when nothing was written: the socket is full, closed or broken, another task is writing, a pong or a close
            frame goes first, or the stream is no socket or compressed.
        """
        if not self.joins or self._mid_frame or self._control or self._frames.control_waits or not self._frames.open:
            return None
        left = super().send_frame_now(frame)
        if left:
            self._mid_frame = True
        return left

    async def _write(self, frames: Sequence[bytes]) -> None:
        framing = self._frames
        if not framing.open:
            if not self._mid_frame:
                self._torn = False
                await trio.lowlevel.checkpoint()
                raise trio.BrokenResourceError(self._ending() or "the peer closed the WebSocket")
            frames = frames[:1]  # what was begun is finished; after a close frame nothing may follow
        if framing.compresses:
            frames = framing.finish(frames)
        control = self._take_control()
        if control:
            frames = (frames[0], control, *frames[1:]) if self._mid_frame else (control, *frames)
        data = b"".join(frames)  # no copy of a long one that is alone
        self._mid_frame = False
        try:
            await self._stream.send_all(data)
        except trio.ClosedResourceError:
            if self._closed:
                raise
            raise trio.BrokenResourceError(self._fault or _CLOSED_UNDERNEATH) from None
        self.bytes_sent += len(data)
        self._after_control()

    def _take_control(self) -> bytes:
        control, self._control = self._control + self._frames.take_control(), b""
        return control

    def _answer(self) -> None:
        """Have written what the protocol wants said: at once, or after what is being written."""
        if not self._write_control() and not self._closed and not self._control_waits_for_task:
            self._control_waits_for_task = True
            self._nursery.start_soon(self._send_control)

    def _write_control(self) -> bool:
        """Write control frames as far as it goes without waiting; whether nothing is left for a task to do."""
        if self._send_lock.locked():
            return False
        if self._torn or self._mid_frame or self._fault is not None:
            self._after_control()
            return True
        if self._socket is None:
            return not (self._control or self._frames.control_waits)
        self._control = self._take_control()
        if self._control:
            try:
                written = os.write(self._socket.fileno(), self._control)
            except BlockingIOError:
                return False
            except OSError:
                return True  # who reads or sends learns it
            self.bytes_sent += written
            self._control = self._control[written:]
        if self._control:
            return False
        self._after_control()
        return True

    async def _send_control(self) -> None:
        """Write control frames after what is being written."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._send_lock:
                self._control_waits_for_task = False
                if not (self._torn or self._mid_frame) and (data := self._take_control()):
                    try:
                        await self._stream.send_all(data)
                    except BaseException:
                        # Not before: whoever closes the channel meanwhile still has its goodbye to say after this.
                        self._torn = True
                        raise
                    self.bytes_sent += len(data)
                self._after_control()

    def _after_control(self) -> None:
        """Where the goodbye is said, say so to TCP as well; where the peer's has come, wake who waits for more."""
        if self._end_is_told and not self._control:
            self._let_go_unless_needed()
        if self._frames.open or self._socket is None or self._socket.fileno() == -1:
            return
        if self._frames.hangs_up and not self._mid_frame:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        if self._at_end:
            self._wake_reader()  # it may have come in a `receive_batch_now`

    # -- reading -----------------------------------------------------------------------------------------------------

    def _messages(self, data: bytes, *, all_of_them: bool = False) -> list[Message | MessageError]:
        framing = self._frames
        self.bytes_received += len(data)
        if len(data) >= LEAST_BYTES:
            self._pace.begin(len(data))
        messages = self._decoded(framing.feed(data), all_of_them=all_of_them)
        if framing.useless:
            useless, framing.useless = framing.useless, 0
            self._note_useless(useless)
        if framing.control_waits or framing.ended:
            self._at_end = self._at_end or framing.ended
            self._answer()
        self._heard.set()
        return messages

    async def _receive_some(self) -> bytes:
        try:
            if self._socket is not None:
                return await self._receive_from(self._socket)
            if self._pace.waits:
                await self._pace.turn()
            with trio.CancelScope() as self._reading:  # nothing else wakes who reads from TLS
                return bytes(await self._stream.receive_some(self._pace.read_bytes))
        except trio.ClosedResourceError:
            if self._at_end and not self._closed:
                return b""
        except trio.BrokenResourceError as error:
            self._let_go(str(error))
            raise
        self._check_open()
        raise trio.BrokenResourceError(self._fault or _CLOSED_UNDERNEATH)

    async def _receive_from(self, source: trio.socket.SocketType) -> bytes:
        # As in FramedChannel, and: what woke this may have been taken, and the WebSocket ended, by `receive_batch_now`.
        while True:
            try:
                await trio.lowlevel.wait_readable(source)
                if self._pace.waits:
                    await self._pace.turn()
                if self._failure is not None:
                    raise self._failure
                return b"" if self._at_end or self._closed else os.read(source.fileno(), self._pace.read_bytes)
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:
                if source.fileno() == -1:
                    raise trio.ClosedResourceError from None
                raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    def _wake_reader(self) -> None:
        self._pace.hurry()
        self._end_watch()
        if self._reading is not None:
            self._reading.cancel()
        elif self._receiving and self._socket is not None and self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)

    def _ending(self) -> str | None:
        """The error that the end of the WebSocket is: ``None`` if it is none."""
        framing = self._frames
        if self._fault is not None:
            return self._fault
        if framing.lost is not None:
            return str(framing.lost)
        if framing.close_code is None:
            return "the connection ended without a close frame (code 1006)"
        if framing.close_code in _CLEAN:
            return None
        reason = printable(framing.close_reason) or "no reason given"
        return f"the peer closed the WebSocket with code {framing.close_code}: {reason}"

    def _raise_end(self) -> NoReturn:
        self._end_is_told = True
        if self._on_closed is not None and self._write_control():  # or could not write it, and never will
            self._let_go_unless_needed()
        wrong = self._ending()
        if wrong is None:
            raise trio.EndOfChannel
        raise trio.BrokenResourceError(wrong) from self._frames.lost

    def _let_go_unless_needed(self) -> None:
        # After a breach it is: closing on what the peer still sends would reset the connection before it reads why.
        if self._frames.lost is None and not self._mid_frame:
            self._let_go()

    def _let_go(self, fault: str | None = None) -> None:
        """Close a server's connection that the peer has ended: its handler may go on, without a file and a place.

        A client leaves that to the server, or to ``aclose``.
        """
        if self._on_closed is not None:
            self._fault = self._fault or fault
            self._end_watch()
            if (connection := socket_of(self._stream)) is not None:
                connection.close()
            self._on_closed()

    # -- staying and leaving -----------------------------------------------------------------------------------------

    async def _keep_alive(self, interval: float, timeout: float) -> None:  # noqa: ASYNC109 - not of this call
        """Ask a peer that was silent for ``interval`` seconds for a sign of life; give up after ``timeout`` more."""
        while True:
            self._heard = trio.Event()
            await trio.sleep(interval)
            if self._closed or self._at_end or not self._frames.open:
                return
            if self._heard.is_set():
                continue
            self._frames.ping()
            self._answer()
            with trio.move_on_after(timeout):
                await self._heard.wait()
            # The last look: after a pause of the whole program the pong is in the socket, its reader just woken.
            if self._watch is not None:
                self._watch.tell()
            for _ in range(self.hops + 1):
                await trio.lowlevel.checkpoint()
            if self._receiving and not self._heard.is_set() and self._frames.open:
                await self._break(f"the peer was silent for {interval:g} s, and for {timeout:g} s after a ping")
                return

    async def _break(self, why: str) -> None:
        self._frames.fail(INTERNAL_ERROR, "keepalive ping timeout")
        self._write_control()
        self._fault = why
        await self._hang_up()

    async def aclose(self, code: int | None = None, reason: str = "") -> None:
        """Close the channel; who waits in ``receive`` or ``send`` gets `trio.ClosedResourceError`. Idempotent.

        Says goodbye and waits for the peer's, ``close_timeout`` seconds at most; after that, or cancelled, the
        connection is closed as it is. What the peer sends meanwhile is dropped.

        Args:
            code: What the close frame says: 1000, 1001, 1011, or 3000 to 4999 (RFC 6455, 7.4); by default 1000, from a
                server that is being cancelled 1001.
            reason: Text for the peer's log, 123 bytes at most.

        Raises:
            ValueError: The code is none of these, or the reason is too long.
        """
        if code is not None and not (code in (NORMAL, GOING_AWAY, INTERNAL_ERROR) or 3000 <= code < 5000):
            raise ValueError(f"not a code to close with: {code}")
        if len(reason.encode()) > _LONGEST_REASON:
            raise ValueError(f"a reason has at most {_LONGEST_REASON} bytes: {reason!r}")
        if not self._closed:
            self.goodbye, self._reason = code or self.goodbye, reason
        await super().aclose()

    async def _close(self) -> None:
        self._watch_no_more()
        try:
            await self._part()
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        self._end_watch()
        try:
            await trio.aclose_forcefully(self._stream)
        finally:
            self._frames.forget()
            if self._on_closed is not None:
                self._on_closed()

    async def _part(self) -> None:
        framing = self._frames
        cut = self._torn or self._mid_frame or self._fault is not None
        if not cut:  # a close frame inside of a message would be read as a part of it
            framing.close(self.goodbye, self._reason)
        said = cut or self._write_control()  # even where the rest of this is cancelled
        if self._socket is not None and self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)  # wakes who sends, too
        await trio.lowlevel.checkpoint()
        while self._receiving:
            self._wake_reader()
            await trio.lowlevel.checkpoint()
        if cut:
            return
        if not said:
            await self._send_control()
        with suppress(trio.ClosedResourceError):
            # A client leaves the first FIN to its server, who then keeps the port in TIME_WAIT (RFC 6455, 7.1.1). After
            # a breach what is still coming is read as well: closing on it would reset the connection, and what was said
            # about it might be lost.
            while framing.awaits_peer and (data := await self._stream.receive_some(MOST_BYTES)):
                framing.feed(bytes(data))
