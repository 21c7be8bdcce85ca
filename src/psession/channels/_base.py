"""What the port asks of a channel beyond ``trio.abc.Channel``, so that one system call can carry many messages."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from psession.errors import MessageError

Message = Any
"""What an application sends: a mapping, unless its dialect says otherwise."""

Frame = Any
"""One message made ready to be sent. Only the channel that made it looks inside: ``bytes`` with their edges on a byte
stream, text or bytes on a WebSocket, the message itself where nothing is encoded (in memory)."""

DEFAULT_MAX_MESSAGE_BYTES = 1024 * 1024
"""1 MiB, as in trio-websocket and websockets: large for a request, small for a memory that holds a few of them."""


class FrameChannel(trio.abc.Channel[Message]):
    """A channel that can encode ahead of sending and take and give many messages at once.

    A port uses the methods below where a channel has them, and plain ``send`` and ``receive`` where it does not.
    Any other object may implement ``trio.abc.Channel`` alone.
    """

    hops: int = 1
    """Scheduler passes from the socket to ``receive_batch``: how often a late look must yield before it gives up."""

    joins: bool = False
    """Whether frames are ``bytes`` that may be concatenated and given to ``send_frame_now`` as one."""

    weights: dict[int, Callable[[], int]] | None = None
    """Functions that estimate what the long messages of the last batch take now that they are decoded, in bytes, by
    their places in it; the others have fewer than 4 KiB. A port empties it when it is done with the batch, since these
    hold on to what they estimate. ``None`` where the channel does not know."""

    kept_bytes: int = 0
    """What the channel keeps of a message that has come in part."""

    bytes_sent: int = 0
    bytes_received: int = 0

    @abstractmethod
    def encode(self, message: Message) -> Frame:
        """One message as a frame.

        Raises:
            MalformedMessageError: It has no encoding (NaN, an unknown type).
            MessageTooLargeError: The frame's payload is larger than ``max_message_bytes``.
        """

    @abstractmethod
    async def send_frames(self, frames: Sequence[Frame]) -> None:
        """Write whole frames, joined into as few writes as the transport allows. One task at a time.

        Cancelling may cut a frame: only a caller who closes the channel next may cancel.

        Raises:
            trio.BrokenResourceError: The transport failed; the channel is of no further use.
            trio.ClosedResourceError: This side closed the channel.
        """

    def send_frame_now(self, frame: Frame) -> Frame | None:
        """Write a frame without waiting, as far as the transport takes it.

        Returns:
            What is left to be written (``b""``: nothing), or ``None`` when the transport cannot be written
            without waiting; then nothing of the frame was.
        """
        return None

    def pace(self, more: float = 0.0) -> None:
        """Take note that the port is done with the last batch: where that took long, the next is to be smaller.

        A port calls it before it waits again. Nothing happens where the channel cannot read less.

        Args:
            more: Seconds of work that the batch leaves to other tasks.
        """

    def follow(self) -> None:
        """Go on for a channel that broke: frames which that one encoded are written to this one, beside its own.

        For channels of one kind. Nothing happens where a frame does not say by which link it goes.
        """

    def watch_kept_bytes(self, call: Callable[[], None]) -> None:
        """Have `call` called where more of a message has come, and it is not whole: `kept_bytes` grew.

        A port calls it once. Nothing happens where the channel keeps no part of a message.
        """

    def receive_batch_now(self) -> list[Message | MessageError]:
        """Receive what has arrived and nobody has received, without waiting; most often nothing.

        Another task may be waiting in ``receive_batch`` meanwhile: it goes on waiting. An end or a failure of the
        transport is left to it.
        """
        return []

    def watch(self, until: Callable[[], bool]) -> Awaitable[bool] | None:
        """Have `until` called each time that more may have come, while the result is awaited.

        This is in place of waiting in ``receive_batch``: one reader waits for the sockets of many channels, and each
        port takes what its own has by ``receive_batch_now``. Cancelling loses nothing.

        Args:
            until: Returns True where the watch is to end.

        Returns:
            ``None`` where the channel is not watched now. Otherwise, awaited, True where `until` said so, and False
            where only ``receive_batch`` can say what is the matter; it raises what `until` raised.
        """
        return None

    @abstractmethod
    async def receive_batch(self) -> list[Message | MessageError]:
        """The next messages, at least one. A bad message whose edges are known stands in its place as its error.

        A port reads by this: of a codec with a type of the user's the messages come as
        `psession.channels.codecs.Undecoded`, while ``receive`` decodes them to that type.

        Cancelling loses nothing: what had arrived comes with the next call.

        Raises:
            trio.EndOfChannel: The peer closed cleanly, and all it sent was received.
            trio.BrokenResourceError: The transport failed or the edges of messages are lost (then ``__cause__`` is
                the ``MessageError``).
            trio.ClosedResourceError: This side closed the channel.
        """
