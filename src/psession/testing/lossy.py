"""A terrible network for tests: it loses, repeats, delays and reorders messages, the same way in each run."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from psession.channels import FrameChannel
from psession.channels._plain import UNKNOWN_HOPS
from psession.errors import MessageError
from psession.nursery import close_forcefully, open_quiet_nursery
from psession.testing._directions import Incoming, Link, Outgoing
from psession.testing._events import DEFAULT_LOG_LIMIT, Direction, EventLog, Moment, NetworkEvent, Tally
from psession.testing._faults import (
    DEFAULT_CLOSE_TIMEOUT,
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_REORDER_WITHIN,
    Delay,
    Directions,
    LossyOptions,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["Direction", "EventLog", "LossyChannel", "Moment", "NetworkEvent", "Tally", "lossy"]


class _Frame(NamedTuple):
    """A message for the log, and its frame on the wrapped channel."""

    message: Any
    frame: Any


class LossyChannel(FrameChannel):
    """A channel behind a bad network; `lossy` makes it. Several tasks may send, and several receive.

    Attributes:
        log: What happened to each message, in both directions; the latest ``log_limit`` of them.
    """

    def __init__(self, channel: trio.abc.Channel[Any], options: LossyOptions) -> None:
        self.log: EventLog = EventLog(options.log_limit)
        self.hops: int = 1 + (channel.hops if isinstance(channel, FrameChannel) else UNKNOWN_HOPS)
        self._options = options
        self._link = Link(channel, self.log, options.max_in_flight, options.reorder_within)
        self._outgoing = Outgoing(self._link, options.faults("send"), options.seed)
        self._incoming = Incoming(self._link, options.faults("receive"), options.seed)
        self._scope = trio.CancelScope(shield=True)

    def __repr__(self) -> str:
        return f"lossy(channel, {self._options})"

    # -- how to see it again -----------------------------------------------------------------------------------------

    def note(self) -> str:
        """Return the call that makes this network again, and the number of faults so far."""
        return f"the network was {self!r}: {self._outgoing.tally} sent, {self._incoming.tally} received"

    def annotate(self, error: BaseException) -> None:
        """Add `note` to an error, once. An error that leaves the block of `lossy` gets it by itself."""
        note = self.note()
        if not any(repr(self) in given for given in getattr(error, "__notes__", ())):
            error.add_note(note)

    def statistics(self) -> dict[Direction, Tally]:
        """Return the number of messages and of faults so far, for each direction."""
        return {"send": dataclasses.replace(self._outgoing.tally), "receive": dataclasses.replace(self._incoming.tally)}

    # -- the channel -------------------------------------------------------------------------------------------------

    def encode(self, message: Any) -> Any:
        """Return the frame that the wrapped channel makes of the message, or the message where it makes none.

        Raises:
            MessageError: The wrapped channel has no encoding for it, or it is too large.
        """
        frames = self._link.frames
        return _Frame(message, message if frames is None else frames.encode(message))

    async def send(self, value: Any) -> None:
        """Let one message set out.

        Waits while ``max_in_flight`` messages are on their way. If it is cancelled then, nothing is sent.

        Raises:
            MessageError: The wrapped channel has no encoding for it; nothing was sent.
            trio.BrokenResourceError: The link broke, at this message or before, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await self.send_frames((self.encode(value),))

    async def send_frames(self, frames: Sequence[_Frame]) -> None:
        """Let the messages set out in order. If it is cancelled, those that found room have set out, and no others.

        Raises:
            trio.BrokenResourceError: The link broke, at one of these messages or before, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await trio.lowlevel.checkpoint()
        for frame in frames:
            self._outgoing.check_open()
            await self._outgoing.wait_for_room()
            self._outgoing.check_open()
            self._outgoing.start(frame.message, frame.frame)
        self._outgoing.check_open()

    def send_frame_now(self, frame: _Frame) -> bytes | None:
        """Let one message set out if there is room.

        Returns:
            ``b""`` if it set out, or ``None`` if there is no room, or a side is closed.
        """
        if not self._outgoing.open_now:
            return None
        self._outgoing.start(frame.message, frame.frame)
        return b""

    async def receive(self) -> Any:
        """Receive the next message. Cancelling loses nothing.

        Raises:
            MessageError: The wrapped channel received something that is no message; the next call goes on after it.
            trio.EndOfChannel: The other side closed, and all that was in the air has landed.
            trio.BrokenResourceError: The link broke, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await trio.lowlevel.checkpoint()
        await self._incoming.wait_for_message()
        (message,) = self._incoming.pop_landed(1)
        if isinstance(message, MessageError):
            raise message
        return message

    async def receive_batch(self) -> list[Any]:
        """Receive the next message, and all that landed behind it. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The other side closed, and all that was in the air has landed.
            trio.BrokenResourceError: The link broke, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await trio.lowlevel.checkpoint()
        await self._incoming.wait_for_message()
        return self._incoming.pop_landed()

    def receive_batch_now(self) -> list[Any]:
        """Return the messages that have landed, without waiting."""
        return self._incoming.pop_landed()

    async def aclose(self) -> None:
        """Close this side and the wrapped channel. Idempotent.

        Messages in the air land first, at their own time: closing takes at most ``close_timeout`` seconds more than the
        longest delay, ``reorder_within`` included. If it is cancelled it closes at once, and they are lost.

        Raises:
            Exception: Any error of the wrapped channel's own ``aclose``.
        """
        self._link.closed = True
        self._incoming.lose_everything()
        self._outgoing.stop_waiting()
        if self._link.broken.is_set():
            await close_forcefully(self._link.channel)
            await trio.lowlevel.checkpoint()
            return
        longest = self._outgoing.faults.delay[1] + self._options.reorder_within + self._options.close_timeout
        try:
            with trio.move_on_after(longest):
                await self._outgoing.wait_until_silent()
        except trio.Cancelled:
            await close_forcefully(self._link.channel)
            raise
        await self._link.channel.aclose()

    # -- the tasks ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        # Shielded, as a port's own tasks are: a message that is sent in a shielded `finally` still travels.
        with self._scope:
            async with open_quiet_nursery() as nursery:
                nursery.start_soon(self._outgoing.carry)
                nursery.start_soon(self._incoming.fetch)
                nursery.start_soon(self._incoming.carry)
                await self._link.broken.wait()
                await close_forcefully(self._link.channel)
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def lossy(
    channel: trio.abc.Channel[Any],
    *,
    seed: int | str,
    drop: float = 0.0,
    duplicate: float = 0.0,
    reorder: float = 0.0,
    delay: Delay = 0.0,
    disconnect: float = 0.0,
    directions: Directions = "both",
    reorder_within: float = DEFAULT_REORDER_WITHIN,
    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
    log_limit: int = DEFAULT_LOG_LIMIT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> AsyncIterator[LossyChannel]:
    """Put a bad network before a channel: ``async with lossy(channel, seed=7, drop=0.2) as link``.

    Use ``link`` in place of ``channel``. The seed decides the faults: the third message that this side sends meets the
    same ones in each run, whatever the timing, and so does the third that it receives. Delays pass on Trio's clock, so
    with `MockClock` a test of an hour takes no time. An error that leaves the block carries a note with the call that
    makes the network again, and ``sequence_diagram(link.log)`` shows each message's way.

    One end is enough for both directions. Where both ends are wrapped each message passes both networks.

    Args:
        channel: Any channel of messages; it must keep the contract of `check_channel`. Closed on leaving the block.
        seed: An int or a text.
        drop: The probability that a message is lost, from 0 to 1, as the others are.
        duplicate: The probability that it arrives twice, each copy with a delay of its own.
        reorder: The probability that it lets one to three later messages of its direction go ahead. It waits for them
            at most ``reorder_within`` seconds.
        delay: Seconds that a message is on its way, or ``(from, to)`` for a random time between. Each has its own, as
            on a datagram network: a message with less overtakes one with more.
        disconnect: The probability that the link breaks at a message: sending and receiving raise
            `trio.BrokenResourceError` from then on, messages in the air are lost, and the wrapped channel is closed
            without a goodbye, so that the other side notices as well.
        directions: ``"send"`` spoils only what this side sends, ``"receive"`` only what it receives.
        reorder_within: See ``reorder``. Seconds, above 0.
        max_in_flight: The most messages on their way in each direction. Those that have landed and not been received
            count too; a duplicate may be one too many. Beyond it ``send`` waits, and the wrapped channel is not read.
        log_limit: The number of messages that ``log`` remembers.
        close_timeout: Seconds that closing waits, after the last message was due, for the wrapped channel to take it.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: The seed is neither an int nor a text.
    """
    options = LossyOptions(
        seed, drop, duplicate, reorder, delay, disconnect, directions,
        reorder_within, max_in_flight, log_limit, close_timeout,
    )  # fmt: skip
    async with open_quiet_nursery() as nursery:
        link = LossyChannel(channel, options)
        nursery.start_soon(link._run, name=f"psession {link!r}")
        try:
            yield link
            await link.aclose()
        except BaseException as error:
            if not isinstance(error, trio.Cancelled):
                link.annotate(error)
            await close_forcefully(link)
            raise
        finally:
            link._scope.cancel()
