"""What every channel that encodes has in common: a codec with its limit, whole frames one by one, one reader."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio

from psession.budget import estimate
from psession.channels._base import Frame, FrameChannel, Message
from psession.channels.codecs import Codec, CodecName, Undecoded, find_codec, opener
from psession.errors import MessageError, MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONG_BYTES: Final = 4096
"""Messages as long as that have what they take estimated, where they are kept. Shorter ones have no more members than
can be weighed there."""

TOGETHER_SECONDS: Final = 20e-6
"""How long the messages of one read may take to decode, from the first long one on, before other tasks have a turn.
10 kB of rows take 38 us, of text 3: a turn for each text, at 10 us, would cost more than it brings."""

DEFAULT_CLOSE_TIMEOUT: Final = 5.0
"""Seconds for a polite goodbye. A lost packet is sent again after 1 s and, lost again, after 2 s more (RFC 6298, 2.1
and 5.5), so this sees two losses through; a peer that still says nothing is not listening."""


class WireChannel(FrameChannel):
    """A channel whose messages are encoded; where they go is for the four methods below ``aclose`` to say.

    Args:
        codec: ``"json"``, ``"msgpack"`` or a codec.
        max_message_bytes: How long an encoded message may be, either way.
        close_timeout: Seconds that ``aclose`` gives the transport for its goodbye, then it is closed forcefully.
    """

    __slots__ = (
        "_close_timeout",
        "_closed",
        "_codec",
        "_gone",
        "_goodbye",
        "_max_message_bytes",
        "_open",
        "_pending",
        "_receiving",
        "_rest",
        "_rest_bytes",
        "_send_lock",
        "_torn",
        "_useful",
        "bytes_received",
        "bytes_sent",
        "weights",
    )

    bytes_received: int
    _tears = True
    """Whether a send that is cut off leaves half a frame behind."""

    def __init__(self, *, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float) -> None:
        if not max_message_bytes > 0:
            raise ValueError(f"max_message_bytes must be above 0, not {max_message_bytes!r}")
        if not close_timeout >= 0:
            raise ValueError(f"close_timeout must be 0 or more seconds, not {close_timeout!r}")
        self._codec = find_codec(codec)
        self._open = opener(self._codec)
        self._max_message_bytes = max_message_bytes
        self._close_timeout = close_timeout
        self._send_lock = trio.Lock()
        self._torn = False
        self._receiving = False
        self._pending: deque[Message | MessageError] = deque()
        self._rest: list[Any] = []
        """Payloads of the last read that are not decoded yet."""
        self._rest_bytes = 0
        self._closed = False
        self._useful = 0
        self.bytes_received = 0
        self.bytes_sent: int = 0
        self.weights: dict[int, Callable[[], int]] | None = {}
        self._goodbye = trio.CancelScope()
        self._gone = trio.Event()

    async def send(self, value: Message) -> None:
        """Send one message, after those that other tasks are sending.

        Cancelled while other tasks write: not sent. Cancelled while it is written: a byte stream or a WebSocket may be
        left with half a message, so each later send raises `trio.BrokenResourceError`, while receiving goes on.

        Raises:
            MalformedMessageError: It has no encoding; nothing was sent.
            MessageTooLargeError: It is longer than ``max_message_bytes``; nothing was sent.
            trio.BrokenResourceError: The transport failed, or an earlier send was cut off.
            trio.ClosedResourceError: This side closed the channel.
        """
        await self.send_frames((self.encode(value),))

    async def send_frames(self, frames: Sequence[Frame]) -> None:
        """Write whole frames, joined into as few writes as the transport allows, after those of other tasks.

        Cancelling is as in `send`.

        Raises:
            trio.BrokenResourceError: The transport failed, or an earlier send was cut off.
            trio.ClosedResourceError: This side closed the channel.
        """
        # A free lock without its checkpoint: that would be one more pass of the scheduler for each write.
        try:
            self._send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._send_lock.acquire()
        try:
            self._check_open()
            if self._torn:
                raise trio.BrokenResourceError("an earlier send was cut off: the peer lost the edges of messages")
            await trio.lowlevel.checkpoint_if_cancelled()
            self._torn = self._tears
            await self._write(frames)
            self._torn = False
        except trio.BrokenResourceError:
            self._check_open()
            raise
        finally:
            self._send_lock.release()

    async def receive(self) -> Message:
        """The next message. Cancelling loses nothing. One task at a time.

        Raises:
            MessageError: What came in its place is no message; the next call goes on after it.
            trio.EndOfChannel: The peer closed cleanly, and all it sent was received.
            trio.BrokenResourceError: The transport failed or the edges of messages are lost.
            trio.ClosedResourceError: This side closed the channel.
            trio.BusyResourceError: Another task is receiving.
        """
        if self._receiving or not self._pending:
            self._pending.extend(await self.receive_batch())
            self.weights = {}
        else:
            await self._pause()
        message = self._pending.popleft()
        if isinstance(message, MessageError):
            raise message
        return message.decode() if type(message) is Undecoded else message

    async def receive_batch(self) -> list[Message | MessageError]:
        """The next messages, at least one, as many as one read gave. One task at a time.

        A bad message whose edges are known stands in its place as its error. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The peer closed cleanly, and all it sent was received.
            trio.BrokenResourceError: The transport failed or the edges of messages are lost (then ``__cause__`` is
                the ``MessageError``).
            trio.ClosedResourceError: This side closed the channel.
            trio.BusyResourceError: Another task is receiving.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this channel")
        if self._pending:
            await self._pause()
            batch = list(self._pending)
            self._pending.clear()
            self.weights = None  # they were of the whole batch, of which `receive` may have taken some
            return batch
        self._check_open()
        self._receiving = True
        try:
            return await self._read()
        except (trio.BrokenResourceError, trio.EndOfChannel):
            self._check_open()
            raise
        finally:
            self._receiving = False

    async def _pause(self) -> None:
        """The checkpoint of a receive that need not wait."""
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._receiving = False
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this side closed the channel") from None

    async def aclose(self) -> None:
        """Close the channel; who waits in ``receive`` or ``send`` gets `trio.ClosedResourceError`. Idempotent.

        Takes ``close_timeout`` seconds at most; after that, or cancelled, the transport is closed without a goodbye.
        A second call waits for the first, since its caller may be about to close the transport underneath; cancelled,
        it ends the goodbye of the first.
        """
        if self._closed:
            try:
                await self._gone.wait()
            except trio.Cancelled:
                self._goodbye.cancel()
                raise
            return
        self._closed = True
        self._rest = []
        self._rest_bytes = 0
        self._goodbye.deadline = trio.current_time() + self._close_timeout
        try:
            with self._goodbye, suppress(trio.BrokenResourceError):
                await self._close()
        finally:
            self._gone.set()

    def _encode(self, message: Message) -> bytes:
        data = self._codec.encode(message)
        if len(data) > self._max_message_bytes:
            raise self._too_large(data)
        return data

    def _too_large(self, data: bytes) -> MessageTooLargeError:
        return MessageTooLargeError(f"{len(data)} bytes; max_message_bytes is {self._max_message_bytes}")

    def _decoded(self, payloads: list[Any], *, all_of_them: bool = False) -> list[Message | MessageError]:
        """The messages of one read, each in its place; what is no payload but an error already stays as it is.

        Behind a long one that took its time the others are kept for `_decode_rest`, so that other tasks have a turn
        between two such messages, and that the one may be gone when the next is decoded: six messages of 10 kB at a
        time are 1,600 containers, for which Python's collector takes a quarter of the processor's time.
        """
        messages: list[Message | MessageError] = []
        decode, useless, enough = self._open, 0, 0.0
        weights: dict[int, Callable[[], int]] = {}
        self.weights = weights
        for payload in payloads:
            if isinstance(payload, MessageError):
                useless += 1
                messages.append(payload)
                continue
            is_long = len(payload) >= LONG_BYTES
            if is_long and not weights:
                enough = perf_counter() + TOGETHER_SECONDS
            try:
                messages.append(decode(payload))
            except MessageError as error:
                useless += 1
                messages.append(error)
            if is_long:
                weights[len(messages) - 1] = partial(estimate, payload, text=self._codec.text)
                if len(messages) < len(payloads) and not all_of_them and perf_counter() >= enough:
                    self._rest = payloads[len(messages) :]
                    self._rest_bytes = sum(len(rest) for rest in self._rest if not isinstance(rest, MessageError))
                    self.bytes_received -= self._rest_bytes
                    break
        self._useful += len(messages) - useless
        if useless:
            self._note_useless(useless)
        return messages

    def _decode_rest(self, *, all_of_them: bool = False) -> list[Message | MessageError]:
        """The next messages of the last read, some of which `_decoded` has kept."""
        rest, self._rest = self._rest, []
        self.bytes_received += self._rest_bytes  # only now: a last look for a reply goes on while bytes come
        self._rest_bytes = 0
        return self._decoded(rest, all_of_them=all_of_them)

    def _note_useless(self, useless: int) -> None:
        """Take note of messages that cannot be read; `_useful` has the number of those that came since the last."""

    @abstractmethod
    async def _write(self, frames: Sequence[Frame]) -> None:
        """Write the frames, with a checkpoint, counting their bytes."""

    @abstractmethod
    async def _read(self) -> list[Message | MessageError]:
        """The messages of one read, with a checkpoint, counting their bytes."""

    @abstractmethod
    async def _close(self) -> None:
        """Close the transport, with a checkpoint: forcefully where it is cancelled."""
