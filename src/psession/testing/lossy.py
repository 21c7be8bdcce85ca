"""A terrible network for tests of your own: it loses, repeats, delays and reorders, the same way each time."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from psession._nursery import close_forcefully, open_quiet_nursery
from psession.channels import FrameChannel
from psession.channels._pushed_back import UNKNOWN_HOPS
from psession.errors import MessageError
from psession.testing._fate import DEFAULT_LOG_LIMIT, Direction, Fate, FateLog, Moment, Tally
from psession.testing._odds import (
    DEFAULT_CLOSE_TIMEOUT,
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_REORDER_WITHIN,
    Delay,
    Directions,
    LossyOptions,
)
from psession.testing._ways import Line, WayIn, WayOut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["Direction", "Fate", "FateLog", "LossyChannel", "Moment", "Tally", "lossy"]


class _Frame(NamedTuple):
    """A message for the log beside what the wrapped channel made of it."""

    message: Any
    frame: Any


class LossyChannel(FrameChannel):
    """A channel with a bad network in front of it; `lossy` makes one. Several tasks may send, and several receive.

    Attributes:
        log: The fate of each message, both directions, the latest ``log_limit`` of them.
    """

    def __init__(self, channel: trio.abc.Channel[Any], options: LossyOptions) -> None:
        self.log = FateLog(options.log_limit)
        self.hops = 1 + (channel.hops if isinstance(channel, FrameChannel) else UNKNOWN_HOPS)
        self._options = options
        self._line = Line(channel, self.log, options.max_in_flight, options.reorder_within)
        self._out = WayOut(self._line, options.odds("send"), options.seed)
        self._in = WayIn(self._line, options.odds("receive"), options.seed)
        self._scope = trio.CancelScope(shield=True)

    def __repr__(self) -> str:
        return f"lossy(channel, {self._options})"

    # -- how to see it again -----------------------------------------------------------------------------------------

    def note(self) -> str:
        """The call that makes this network again, and what it has done so far."""
        return f"the network was {self!r}: {self._out.tally} sent, {self._in.tally} received"

    def annotate(self, error: BaseException) -> None:
        """Add `note` to an error, once; leaving the block of `lossy` by an error does it too."""
        note = self.note()
        if not any(repr(self) in given for given in getattr(error, "__notes__", ())):
            error.add_note(note)

    def statistics(self) -> dict[Direction, Tally]:
        """How many messages met what so far, in each direction."""
        return {"send": dataclasses.replace(self._out.tally), "receive": dataclasses.replace(self._in.tally)}

    # -- the channel -------------------------------------------------------------------------------------------------

    def encode(self, message: Any) -> Any:
        """The frame that the wrapped channel makes of the message, or the message where it makes none.

        Raises:
            MessageError: The wrapped channel has no encoding for it, or it is too large.
        """
        frames = self._line.frames
        return _Frame(message, message if frames is None else frames.encode(message))

    async def send(self, value: Any) -> None:
        """Let one message set out; waits while ``max_in_flight`` are on their way. Cancelled: it never set out.

        Raises:
            MessageError: The wrapped channel has no encoding for it; nothing was sent.
            trio.BrokenResourceError: The line broke, at this message or before, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await self.send_frames((self.encode(value),))

    async def send_frames(self, frames: Sequence[_Frame]) -> None:
        """Let the messages set out in order. Cancelled: those that found room did, the rest did not.

        Raises:
            trio.BrokenResourceError: The line broke, at one of these messages or before, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await trio.lowlevel.checkpoint()
        for frame in frames:
            self._out.check_open()
            await self._out.wait_for_room()
            self._out.check_open()
            self._out.take(frame.message, frame.frame)
        self._out.check_open()

    def send_frame_now(self, frame: _Frame) -> bytes | None:
        """Let one message set out if there is room.

        Returns:
            ``b""`` when it did, or ``None`` when there is no room, or a side is closed.
        """
        if not self._out.open_now:
            return None
        self._out.take(frame.message, frame.frame)
        return b""

    async def receive(self) -> Any:
        """The next message. Cancelling loses nothing.

        Raises:
            MessageError: What the wrapped channel received is no message; the next call goes on after it.
            trio.EndOfChannel: The other side closed, and all that was in the air has landed.
            trio.BrokenResourceError: The line broke, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await trio.lowlevel.checkpoint()
        await self._in.wait_for_message()
        (message,) = self._in.take_landed(1)
        if isinstance(message, MessageError):
            raise message
        return message

    async def receive_batch(self) -> list[Any]:
        """The next message, and all that landed behind it. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The other side closed, and all that was in the air has landed.
            trio.BrokenResourceError: The line broke, or the wrapped channel did.
            trio.ClosedResourceError: This side closed the channel.
        """
        await trio.lowlevel.checkpoint()
        await self._in.wait_for_message()
        return self._in.take_landed()

    def receive_batch_now(self) -> list[Any]:
        """What has landed, without waiting."""
        return self._in.take_landed()

    async def aclose(self) -> None:
        """Close this side and the wrapped channel. Idempotent.

        What was sent lands first, at its own time: closing takes at most ``close_timeout`` seconds more than the
        longest delay, ``reorder_within`` included. Cancelled: at once, and what is in the air is lost.

        Raises:
            Exception: What the wrapped channel raises when it is closed.
        """
        self._line.closed = True
        self._in.lose_everything()
        self._out.stop_waiting()
        if self._line.broken.is_set():
            await close_forcefully(self._line.channel)
            await trio.lowlevel.checkpoint()
            return
        longest = self._out.odds.delay[1] + self._options.reorder_within + self._options.close_timeout
        try:
            with trio.move_on_after(longest):
                await self._out.wait_until_silent()
        except trio.Cancelled:
            await close_forcefully(self._line.channel)
            raise
        await self._line.channel.aclose()

    # -- the tasks ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        # Shielded, as a port's own tasks are: what is said in a shielded `finally` still travels.
        with self._scope:
            async with open_quiet_nursery() as nursery:
                nursery.start_soon(self._out.carry)
                nursery.start_soon(self._in.fetch)
                nursery.start_soon(self._in.carry)
                await self._line.broken.wait()
                await close_forcefully(self._line.channel)
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
    """``async with lossy(channel, seed=7, drop=0.2) as line``: use ``line`` where you would use ``channel``.

    The seed says what becomes of each message: the third that this side sends meets the same fate in each run,
    whatever the timing, and so does the third that it receives. Delays pass on Trio's clock, so with `MockClock` a test
    of an hour takes no time. An error that leaves the block carries a note with the call that makes the network again,
    and ``sequence_diagram(line.log)`` shows what it did.

    One end is enough for both directions. Where both ends are wrapped each message passes both networks.

    Args:
        channel: Any channel of messages; it must keep the contract of `check_channel`. Closed on leaving the block.
        seed: An int or a text.
        drop: How likely a message is to be lost, from 0 to 1, as the other four are.
        duplicate: How likely it is to arrive twice, each copy with a delay of its own.
        reorder: How likely it is to let one to three later messages of its direction go ahead. It waits for them at
            most ``reorder_within`` seconds.
        delay: Seconds that a message is on its way, or ``(from, to)`` for anything between. Each takes its own time, as
            on a datagram network: one with less overtakes one with more.
        disconnect: How likely the line is to break at a message: sending and receiving raise
            `trio.BrokenResourceError` from then on, what is in the air is lost, and the wrapped channel is closed
            without a goodbye, so that the other side notices as well.
        directions: ``"send"`` spoils only what this side sends, ``"receive"`` only what it receives.
        reorder_within: See ``reorder``. Seconds, above 0.
        max_in_flight: How many messages may be on their way in each direction, received ones that nobody took yet
            among them; a duplicate may be one too many. Beyond it ``send`` waits, and the wrapped channel is not read.
        log_limit: How many messages ``log`` remembers.
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
        line = LossyChannel(channel, options)
        nursery.start_soon(line._run, name=f"psession {line!r}")
        try:
            yield line
            await line.aclose()
        except BaseException as error:
            if not isinstance(error, trio.Cancelled):
                line.annotate(error)
            await close_forcefully(line)
            raise
        finally:
            line._scope.cancel()
