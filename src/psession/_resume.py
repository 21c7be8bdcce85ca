"""One channel over many lines: what a port reads and writes that lives on when its line breaks.

The side that connects opens the next line, says who it is with a secret that it was given, and hears whether its peer
still knows it. The side that accepts is handed the next line by `SessionManager.resume`. To the port both are a channel
that is silent for a while; what was on its way when the line broke may be lost, which is for the port to mend.
"""

from __future__ import annotations

import hmac
import logging
import math
import secrets
from typing import TYPE_CHECKING, Any, Final

import trio

from psession._nursery import close_forcefully
from psession.channels._base import FrameChannel
from psession.channels._pushed_back import UNKNOWN_HOPS, receive_some
from psession.channels._reconnecting import ReconnectingChannel
from psession.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psession._port import Port
    from psession._talk import PortTalk

log = logging.getLogger("psession")

LINE_ENDS: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)

HELLO_INTERVAL: Final = 0.5
"""Seconds after which a hello is said again: on a line that loses one message of five, ten of them are lost once in ten
million times, which is as long as `SessionManager.resume` waits."""

WELCOME_PATIENCE: Final = 5.0
"""Seconds for a welcome of a peer that has given none before, and may know of no such thing."""

SECRET_BYTES: Final = 16
"""128 bits, as many as a UUID has: not to be guessed."""


class ResumingChannel(FrameChannel):
    """The lines of one port, one after the other.

    Args:
        line: The first, open.
        within: Seconds that a break may last.
        talk: What says hello.
        reopened: Called when the next line stands, with whether the peer still knows this side.
    """

    def __init__(
        self, line: trio.abc.Channel[Any], within: float, talk: PortTalk, reopened: Callable[[bool], None]
    ) -> None:
        self.joins = isinstance(line, FrameChannel) and line.joins
        self.hops = line.hops if isinstance(line, FrameChannel) else UNKNOWN_HOPS
        self._line: trio.abc.Channel[Any] | None = line
        self._last = line
        self._within = within
        self._talk = talk
        self._reopened = reopened
        self._pending: list[Any] = []
        self._half: tuple[trio.abc.Channel[Any], Any] | None = None
        """The rest of a frame whose beginning is on a line, and that line."""
        self._changed = trio.Event()
        self._broken_by: Exception | None = None
        self._broken_at = 0.0
        self._past_bytes = (0, 0)
        self._closed = False
        self._over: Exception | None = None
        self._peers = 0
        """How often the peer that came back was another."""

    @property
    def stands(self) -> bool:
        """Whether there is a line now."""
        return self._line is not None

    @property
    def _comes_back(self) -> bool:
        """Whether there may be another line after this one."""
        return not self._closed

    # -- how the next line comes ---------------------------------------------------------------------------------------

    async def _next_line(self) -> None:
        """Return when the next line stands. Cancelled when it is too late."""
        raise NotImplementedError

    def _stand(self, line: trio.abc.Channel[Any], batch: list[Any], *, known: bool) -> None:
        """`line` is the next; `batch` came on it already."""
        self._line = self._last = line
        self._pending = batch
        self._peers += not known
        self._tell()
        self._talk.exact.port._counters.resumed += known
        self._reopened(known)

    def lose(self, error: Exception) -> trio.abc.Channel[Any] | None:
        """The line is of no further use; it is the caller's to close."""
        line = self._line
        if line is not None:
            log.debug("port %r: the line broke: %r", self._talk.exact.port.name, error)
            self._line, self._broken_by, self._broken_at = None, error, trio.current_time()
            if isinstance(line, FrameChannel):
                sent, received = self._past_bytes
                self._past_bytes = sent + line.bytes_sent, received + line.bytes_received
            self._tell()
        return line

    async def drop(self, error: Exception) -> None:
        """Lose the line and close it, so that its reader finds out."""
        line = self.lose(error)
        if line is not None:
            await close_forcefully(line)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _reopen(self) -> None:
        try:
            with trio.move_on_at(self._broken_at + self._within):
                while self._line is None and self._comes_back:
                    await self._next_line()
        except LINE_ENDS as error:
            self._over = error
        if self._closed:
            raise trio.ClosedResourceError("this side closed the channel")
        if self._line is None:
            why = f"the line broke, and did not come back within {self._within:g} s (resume_within)"
            if not self._comes_back:
                why = "the line broke, and its peer had not said by what it could be known again"
            self._over = trio.BrokenResourceError(why)
            self._tell()
            raise self._over from self._broken_by

    # -- the channel ---------------------------------------------------------------------------------------------------

    @property
    def bytes_sent(self) -> int:  # type: ignore[override]
        """Over all lines."""
        return self._past_bytes[0] + (self._line.bytes_sent if isinstance(self._line, FrameChannel) else 0)

    @property
    def bytes_received(self) -> int:  # type: ignore[override]
        """Over all lines."""
        return self._past_bytes[1] + (self._line.bytes_received if isinstance(self._line, FrameChannel) else 0)

    def encode(self, message: Any) -> Any:
        """As the line does that stands, or the last one did: all come from one ``connect``, and are of one kind."""
        return self._last.encode(message) if isinstance(self._last, FrameChannel) else message

    async def until_stands(self) -> None:
        """Return when there is a line, or there will be none any more."""
        while self._line is None and not self._closed and self._over is None:
            await self._changed.wait()

    async def send(self, value: Any) -> None:
        """Send one message. As `send_frames`."""
        await self.send_frames([self.encode(value)])

    async def send_frames(self, frames: Sequence[Any]) -> None:
        """Write the frames on the line that stands, or the next. A line that breaks over them is no error here.

        What was meant for a peer that did not come back is for nobody else.
        """
        peers = self._peers
        await self.until_stands()
        line = self._line
        if line is None:
            raise trio.BrokenResourceError("there is no line any more") from self._over
        half, self._half = self._half, None
        if half is not None and half[0] is not line and frames[0] is half[1]:
            frames = frames[1:]  # its beginning went with the line before
        if peers != self._peers or not frames:
            return
        try:
            if isinstance(line, FrameChannel):
                await line.send_frames(frames)
                return
            for frame in frames:
                await line.send(frame)
        except LINE_ENDS as error:
            if self._closed or (self._line is line and not self._comes_back):
                raise
            if self._line is line:
                await self.drop(error)

    def send_frame_now(self, frame: Any) -> Any:
        """As the line does."""
        line = self._line
        left = line.send_frame_now(frame) if isinstance(line, FrameChannel) else None
        if left and line is not None:
            self._half = line, left
        return left

    def receive_batch_now(self) -> list[Any]:
        """As the line does."""
        if self._pending or not isinstance(self._line, FrameChannel):
            return []
        return self._line.receive_batch_now()

    async def receive(self) -> Any:
        """The next message of whatever line brings it."""
        batch = await self.receive_batch()
        self._pending = batch[1:] + self._pending
        if isinstance(batch[0], MessageError):
            raise batch[0]
        return batch[0]

    async def receive_batch(self) -> list[Any]:
        """The next messages, of whatever line brings them. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The peer has left.
            trio.BrokenResourceError: The line broke, and no other came in time.
            trio.ClosedResourceError: This side closed the channel.
        """
        while True:
            if self._pending:
                await trio.lowlevel.checkpoint()
                batch, self._pending = self._pending, []
                if batch:
                    return batch
                continue
            line = self._line
            if line is None:
                await self._reopen()
                continue
            try:
                return await receive_some(line)
            except LINE_ENDS as error:
                if self._closed or (self._line is line and not self._comes_back):
                    raise
                if isinstance(error, trio.EndOfChannel) and self._talk.peer_left:
                    raise
                if self._line is line:
                    await self.drop(error)

    async def aclose(self) -> None:
        """Close the line, and wait for no other. Idempotent."""
        self._closed = True
        line, self._line = self._line, None
        self._tell()
        if line is not None:
            await line.aclose()
        else:
            await trio.lowlevel.checkpoint()


class ConnectingLines(ResumingChannel):
    """The side that connects: its lines come from a `ReconnectingChannel`."""

    def __init__(
        self,
        line: trio.abc.Channel[Any],
        within: float,
        talk: PortTalk,
        reopened: Callable[[bool], None],
        source: ReconnectingChannel,
    ) -> None:
        super().__init__(line, within, talk, reopened)
        self._source = source

    async def _next_line(self) -> None:
        line = await self._source.open(self._broken_by)
        try:
            known, batch = await self._greet(line)
        except LINE_ENDS as error:
            self._broken_by = error
            return
        self._stand(line, batch, known=known)

    async def _greet(self, line: trio.abc.Channel[Any]) -> tuple[bool, list[Any]]:
        """Say who this is; whether the peer still knows it, and what else it said."""
        talk, others = self._talk, list[Any]()
        until = math.inf if talk.ticket else trio.current_time() + WELCOME_PATIENCE
        while trio.current_time() < until:
            await line.send(talk.hello())
            with trio.move_on_after(HELLO_INTERVAL):
                while True:
                    batch = await receive_some(line)
                    for place, message in enumerate(batch):
                        known = talk.welcomed(message)
                        if known is not None:
                            return known, others + batch[place + 1 :]
                        others.append(message)
        return False, others

    async def greet_first(self) -> None:
        """Say hello on the first line, until it is answered or has been said for long enough."""
        until = trio.current_time() + WELCOME_PATIENCE
        while self._talk.host_life is None and trio.current_time() < until:
            self._talk.say_hello()
            await trio.sleep(HELLO_INTERVAL)

    async def aclose(self) -> None:
        """Close the line, and open no other."""
        self._closed = True
        self._line = None
        self._tell()
        await self._source.aclose()


class AcceptedLines(ResumingChannel):
    """The side that accepts: `SessionManager.resume` brings the next line."""

    def __init__(
        self, line: trio.abc.Channel[Any], within: float, talk: PortTalk, reopened: Callable[[bool], None]
    ) -> None:
        super().__init__(line, within, talk, reopened)
        self._secret = secrets.token_urlsafe(SECRET_BYTES)
        talk.secret = self._secret

    @property
    def _comes_back(self) -> bool:
        return not self._closed and self._talk.guest_life is not None

    def accepts(self, secret: str, life: int | None) -> bool:
        """Whether who brings this secret, in this life, is the peer of this port. Takes as long for any secret."""
        same = hmac.compare_digest(secret.encode(), self._secret.encode())
        return same and life is not None and life == self._talk.guest_life and not self._closed and not self._over

    async def adopt(self, line: trio.abc.Channel[Any], rest: list[Any]) -> None:
        """Go on with `line`; return when it is done with. Whoever is cancelled here takes it away."""
        await self.drop(trio.BrokenResourceError("the peer came back on another line"))
        try:
            await line.send(self._talk.welcome())
            self._stand(line, rest, known=True)
            while self._line is line:
                await self._changed.wait()
        except LINE_ENDS:
            return
        finally:
            if self._line is line:
                self.lose(trio.BrokenResourceError("its server ended the line"))

    async def _next_line(self) -> None:
        await self._changed.wait()


async def lines_of(port: Port, target: Any) -> Any:
    """What `port` reads and writes over `target`: that itself, or its lines one after the other, the first one open.

    Raises:
        ValueError: The port is to live on when its line breaks, and cannot.
        Exception: As `ReconnectingChannel.open`.
    """
    within = port._options.resume_within
    if isinstance(target, ReconnectingChannel):
        if not within:
            return await target.open()
        if not port._envelope.is_exact:
            raise ValueError(f"port {port.name!r}: resume_within needs envelope=Envelope.exact() on this side")
        exact = port._speak_exactly()
        return ConnectingLines(await target.open(), within, exact.talk, exact.line_reopened, target)
    if within and isinstance(target, trio.abc.Channel):
        exact = port._speak_exactly()
        return AcceptedLines(target, within, exact.talk, exact.line_reopened)
    return target
