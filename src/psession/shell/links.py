"""One channel over several links: what a port reads and writes that lives on when its link breaks.

The side that connects opens the next link, says who it is with a secret that it was given, and hears whether its peer
still knows it. The side that accepts is handed the next link by `SessionManager.accept`. To the port both are a channel
that is silent for a while; messages that were on their way when the link broke may be lost, which the port mends.
"""

from __future__ import annotations

import hmac
import logging
import math
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import trio

from psession.absences import Absence, host_of
from psession.channels._base import FrameChannel
from psession.channels._plain import UNKNOWN_HOPS, receive_some
from psession.errors import MessageError
from psession.message import flat
from psession.nursery import close_forcefully

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from psession.absences import Absences
    from psession.protocol.handshake import Handshake
    from psession.shell.said import Said

log: logging.Logger = logging.getLogger("psession")

LINK_ENDS: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)

HELLO_INTERVAL: Final = 0.5
"""Seconds after which a hello is said again: on a link that loses one message of five, ten of them are lost once in ten
million times, which is as long as `SessionManager.accept` waits."""

WELCOME_PATIENCE: Final = 5.0
"""Seconds for a welcome of a peer that has given none before, and may know of no such thing."""

MESSAGES_BEFORE_WELCOME: Final = 1024
BYTES_BEFORE_WELCOME: Final = 2**20
"""What a peer may say before its welcome, on a link that this side opens anew: as many messages as a session holds by
default (``inbox_limit``), and as many bytes as one of them may have. An honest peer says its welcome first of all."""

SECRET_BYTES: Final = 16
"""128 bits, as many as a UUID has: not to be guessed."""


class Opener(Protocol):
    """An object that opens one link after the other, such as `psession.channels.ReconnectingChannel`."""

    async def open(self, broken_by: Exception | None = None) -> trio.abc.Channel[Any]:
        """Open the next link."""
        ...

    async def aclose(self) -> None:
        """Close the link, and open no more."""
        ...


class Reopened(NamedTuple):
    """The item that a channel gives in place of a message when the next link stands.

    Attributes:
        known: True where the peer still knows this side.
    """

    known: bool


class LinkedChannel(FrameChannel):
    """The links of one port, one after the other.

    Args:
        link: The first, open.
        handshake: The two ports' words about themselves.
        within: Seconds that a break may last; 0: there is one link alone.
        opener: What opens the next link, on the side that connects; ``None``: it is handed over by `adopt`.
        pending: What was read from the first link already.
        absences: Where this port waits, on the side that accepts, while it has no link.
        on_given_up: Called with the reason if that wait is given up for others.
    """

    __slots__ = (
        "_absence",
        "_absences",
        "_adopting",
        "_broken_at",
        "_broken_by",
        "_changed",
        "_half",
        "_handshake",
        "_is_closed",
        "_last",
        "_link",
        "_on_given_up",
        "_on_lost",
        "_opener",
        "_over",
        "_past_bytes",
        "_peers",
        "_pending",
        "_tell_kept",
        "_within",
        "hops",
        "joins",
        "weights",
    )

    def __init__(
        self,
        link: trio.abc.Channel[Any],
        handshake: Handshake,
        absences: Absences,
        *,
        on_given_up: Callable[[str], None],
        within: float = 0.0,
        opener: Opener | None = None,
        pending: Sequence[Any] = (),
    ) -> None:
        self.joins: bool = isinstance(link, FrameChannel) and link.joins
        self.hops: int = link.hops if isinstance(link, FrameChannel) else UNKNOWN_HOPS
        self.weights = link.weights if isinstance(link, FrameChannel) else None
        self._link: trio.abc.Channel[Any] | None = link
        self._last = link
        self._handshake = handshake
        self._within = within
        self._opener = opener
        self._pending: list[Any] = list(pending)
        self._half: tuple[trio.abc.Channel[Any], Any] | None = None
        """The rest of a frame whose beginning is on a link, and that link."""
        self._changed = trio.Event()
        self._broken_by: Exception | None = None
        self._broken_at = 0.0
        self._past_bytes = (0, 0)
        self._is_closed = False
        self._over: Exception | None = None
        self._tell_kept: Callable[[], None] | None = None
        self._on_lost: Callable[[str], object] = bool
        self._peers = 0
        """How often the peer that came back was another."""
        self._absences = absences
        self._absence = Absence(self._give_up)
        self._on_given_up = on_given_up
        self._adopting = 0
        if within and opener is None:
            handshake.secret = secrets.token_urlsafe(SECRET_BYTES)

    @property
    def connects(self) -> bool:
        """True on the side that opens the links."""
        return self._opener is not None

    @property
    def stands(self) -> bool:
        """True while there is a link."""
        return self._link is not None

    @property
    def _comes_back(self) -> bool:
        """True where there may be another link after this one: by what it could be known again, the peer has said."""
        if self._is_closed or not self._within or self._over is not None:
            return False
        return self._opener is not None or self._handshake.guest_life is not None

    # -- the next link -----------------------------------------------------------------------------------------------

    async def _next_link(self) -> None:
        """Return when the next link stands, or the wait for it goes on. Cancelled when it is too late."""
        if self._opener is None:
            await self._changed.wait()
            return
        link = await self._opener.open(self._broken_by)
        try:
            known, batch = await self._greet(link)
        except LINK_ENDS as error:
            self._broken_by = error
            return
        self._stand(link, batch, known=known)

    async def _greet(self, link: trio.abc.Channel[Any]) -> tuple[bool, list[Any]]:
        """Say hello. Return True if the peer still knows this side, and what else it said.

        Raises:
            trio.BrokenResourceError: The link broke, or the peer said too much before its welcome.
        """
        handshake, others = self._handshake, list[Any]()
        until = math.inf if handshake.ticket else trio.current_time() + WELCOME_PATIENCE
        first = link.bytes_received if isinstance(link, FrameChannel) else 0
        while trio.current_time() < until:
            await link.send(handshake.hello())
            with trio.move_on_after(HELLO_INTERVAL):
                while True:
                    batch = await receive_some(link)
                    for place, message in enumerate(batch):
                        known = None if isinstance(message, MessageError) else handshake.welcomed(message)
                        if known is not None:
                            return known, others + batch[place + 1 :]
                        others.append(message)
                        if len(others) > MESSAGES_BEFORE_WELCOME:
                            raise _said_too_much(f"{MESSAGES_BEFORE_WELCOME} messages")
                    if isinstance(link, FrameChannel) and link.bytes_received - first > BYTES_BEFORE_WELCOME:
                        raise _said_too_much(f"{BYTES_BEFORE_WELCOME} bytes")
        return False, others

    def accepts(self, secret: str, life: int | None) -> bool:
        """Return True if the bearer of this secret, in this life, is the peer. Takes as long for any secret."""
        own = self._handshake.secret
        if own is None:
            return False
        same = hmac.compare_digest(secret.encode(errors="surrogatepass"), own.encode())
        known = life is not None and life == self._handshake.guest_life
        return same and known and not self._is_closed and not self._over

    async def adopt(self, link: trio.abc.Channel[Any], rest: list[Any]) -> None:
        """Go on with a link that the peer has opened, and on which `rest` came already.

        Raises:
            trio.BrokenResourceError: It broke at once.
            trio.ClosedResourceError: The port closed, or gave its peer up, before the peer was welcome.
        """
        self._adopting += 1  # the peer is here: nobody need be given up for it
        try:
            await self.drop(trio.BrokenResourceError("the peer came back on another link"))
            await link.send(self._handshake.welcome())
            if self._is_closed or self._over is not None:
                raise trio.ClosedResourceError("the port closed while its peer came back")
            self._stand(link, rest, known=True)
        finally:
            self._adopting -= 1
            self._note_absence()

    async def until_lost(self, link: trio.abc.Channel[Any]) -> None:
        """Return when `link` is no longer the one that stands."""
        while self._link is link:
            await self._changed.wait()

    def _stand(self, link: trio.abc.Channel[Any], batch: list[Any], *, known: bool) -> None:
        """`link` is the next; `batch` came on it already."""
        self._link = self._last = link
        if isinstance(link, FrameChannel):
            link.follow()
            if self._tell_kept is not None:
                link.watch_kept_bytes(self._tell_kept)
        self._pending = [Reopened(known), *batch]
        self._peers += not known
        self._note_absence()
        self._tell()

    @trio.lowlevel.enable_ki_protection
    def lose(self, error: Exception, link: trio.abc.Channel[Any] | None = None) -> trio.abc.Channel[Any] | None:
        """The link, or `link` if it is that, is of no further use. Return it: it is the caller's to close."""
        lost = self._link
        if lost is None or (link is not None and lost is not link):
            return None
        log.debug("a link broke: %r", error, extra={"event_name": "link_broke"})
        self._link, self._broken_by, self._broken_at = None, error, trio.current_time()
        if isinstance(lost, FrameChannel):
            sent, received = self._past_bytes
            self._past_bytes = sent + lost.bytes_sent, received + lost.bytes_received
        self._note_absence()
        self._tell()
        self._on_lost(f"the link broke: {_words_of(error)}")
        return lost

    async def drop(self, error: Exception) -> None:
        """Lose the link and close it, so that its reader finds out."""
        link = self.lose(error)
        if link is not None:
            await close_forcefully(link)

    def _note_absence(self) -> None:
        """Wait among the others for the peer, exactly while there is no link and the peer may bring another."""
        if self._link is None and self._opener is None and not self._adopting and self._comes_back:
            self._absences.enter(self._absence, host_of(getattr(self._last, "remote", None)))
        else:
            self._absences.leave(self._absence)

    def _give_up(self, why: str) -> None:
        """Wait no more: too many do."""
        self._over = trio.BrokenResourceError(f"the link broke, and {why}")
        self._on_given_up(why)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _reopen(self) -> None:
        with suppress(*LINK_ENDS), trio.move_on_at(self._broken_at + self._within):
            while self._link is None and self._comes_back:
                await self._next_link()
        if self._is_closed:
            raise trio.ClosedResourceError("this side closed the channel")
        if self._link is None:
            if self._over is None:
                why = f"the link broke, and did not come back within {self._within:g} s (resume_within)"
                if not self._comes_back:
                    why = "the link broke, and its peer had not said by what it could be known again"
                self._over = trio.BrokenResourceError(why)
            self._note_absence()
            self._tell()
            raise self._over from self._broken_by

    # -- the channel -------------------------------------------------------------------------------------------------

    @property
    def bytes_sent(self) -> int:  # type: ignore[override]
        """The bytes written over all links."""
        return self._past_bytes[0] + (self._link.bytes_sent if isinstance(self._link, FrameChannel) else 0)

    @property
    def bytes_received(self) -> int:  # type: ignore[override]
        """The bytes read over all links."""
        return self._past_bytes[1] + (self._link.bytes_received if isinstance(self._link, FrameChannel) else 0)

    def encode(self, message: Any) -> Any:
        """Encode as the link does that stands, or the last one did: all are of one kind."""
        return self._last.encode(message) if isinstance(self._last, FrameChannel) else flat(message)

    async def until_writable(self) -> None:
        """Return when there is a link, or there will be none any more."""
        while self._link is None and not self._is_closed and self._over is None:
            await self._changed.wait()

    async def send(self, value: Any) -> None:
        """Send one message. As `send_frames`."""
        await self.send_frames([self.encode(value)])

    async def send_frames(self, frames: Sequence[Any]) -> None:
        """Write the frames on the link that stands, or the next. A link that breaks over them is no error here.

        Frames that were meant for a peer that did not come back are for nobody else.
        """
        peers = self._peers
        await self.until_writable()
        link = self._link
        if link is None:
            raise trio.BrokenResourceError("there is no link any more") from self._over
        half, self._half = self._half, None
        if half is not None and half[0] is not link and frames[0] is half[1]:
            frames = frames[1:]  # its beginning went with the link before
        if peers != self._peers or not frames:
            return
        try:
            if isinstance(link, FrameChannel):
                await link.send_frames(frames)
                return
            for frame in frames:
                await link.send(frame)
        except LINK_ENDS as error:
            if self._is_closed or (self._link is link and not self._comes_back):
                raise
            if self._link is link:
                await self.drop(error)

    def send_frame_now(self, frame: Any) -> Any:
        """Write as the link does."""
        link = self._link
        left = link.send_frame_now(frame) if isinstance(link, FrameChannel) else None
        if left and link is not None:
            self._half = link, left
        return left

    def pace(self, more: float = 0.0) -> None:
        """Let the link read less at once, or more."""
        if isinstance(self._link, FrameChannel):
            self._link.pace(more)

    @property
    def kept_bytes(self) -> int:  # type: ignore[override]
        """The bytes of a message that has come in part on the link that stands."""
        return self._link.kept_bytes if isinstance(self._link, FrameChannel) else 0

    def watch_kept_bytes(self, call: Callable[[], None]) -> None:
        """Have `call` called as the links do, this one and the next."""
        self._tell_kept = call
        if isinstance(self._last, FrameChannel):
            self._last.watch_kept_bytes(call)

    def watch_links(self, call: Callable[[str], object]) -> None:
        """Have `call` called with the reason when a link is lost."""
        self._on_lost = call

    def receive_batch_now(self) -> list[Any]:
        """Read as the link does, but nothing overtakes what is pending."""
        if self._pending or not isinstance(self._link, FrameChannel):
            return []
        batch = self._link.receive_batch_now()
        self.weights = self._link.weights
        return batch

    def watch(self, until: Callable[[], bool]) -> Awaitable[bool] | None:
        """Watch as the link does that stands."""
        return self._link.watch(until) if isinstance(self._link, FrameChannel) and not self._pending else None

    async def receive(self) -> Any:
        """The next message of whatever link brings it."""
        while True:
            batch = [item for item in await self.receive_batch() if not isinstance(item, Reopened)]
            if batch:
                break
        self._pending = batch[1:] + self._pending
        if isinstance(batch[0], MessageError):
            raise batch[0]
        return batch[0]

    async def receive_batch(self) -> list[Any]:
        """The next messages, of whatever link brings them; `Reopened` before those of a new one. Cancelling loses none.

        Raises:
            trio.EndOfChannel: The peer has left.
            trio.BrokenResourceError: The link broke, and no other came in time.
            trio.ClosedResourceError: This side closed the channel.
        """
        while True:
            if self._pending:
                # The port must hear of a new link before its writer has a turn: a queue for a peer that did not come
                # back is for nobody else.
                if not isinstance(self._pending[0], Reopened):
                    await trio.lowlevel.checkpoint()
                batch, self._pending = self._pending, []
                if batch:
                    self.weights = None
                    return batch
                continue
            link = self._link
            if link is None:
                await self._reopen()
                continue
            try:
                batch = await receive_some(link)
                self.weights = link.weights if isinstance(link, FrameChannel) else None
                return batch
            except LINK_ENDS as error:
                if self._is_closed or (self._link is link and not self._comes_back):
                    raise
                if isinstance(error, trio.EndOfChannel) and self._handshake.peer_left:
                    raise
                if self._link is link:
                    await self.drop(error)

    async def aclose(self) -> None:
        """Close the link, and wait for no other. Idempotent."""
        self._is_closed = True
        link, self._link = self._link, None
        self._note_absence()
        self._absence.give_up = _give_nothing_up  # no circle is left
        self._tell()
        if self._opener is not None:
            await self._opener.aclose()
        elif link is not None:
            await link.aclose()
        else:
            await trio.lowlevel.checkpoint()


def _words_of(error: Exception) -> str:
    """The text of an error, also of one of Trio's that has none."""
    if isinstance(error, trio.EndOfChannel):
        silent = "the peer closed it"
    else:
        silent = "this side closed it" if isinstance(error, trio.ClosedResourceError) else type(error).__name__
    return str(error) or silent


def _give_nothing_up(_: str) -> None:
    pass


def _said_too_much(limit: str) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"the peer said more than {limit} and no welcome, so this link is given up")


async def linked(
    target: Any,
    handshake: Handshake,
    absences: Absences,
    *,
    within: float,
    asks_exactly: bool,
    said: Said,
    port: Said,
    pending: Sequence[Any] = (),
) -> Any:
    """Open what a port reads and writes over `target`: that itself, or its links one after the other.

    Raises:
        ValueError: The port is to live on when its link breaks, and cannot.
        Exception: As the opener.
    """

    def on_given_up(why: str) -> None:
        said.limited("port_given_up", "%s was given up: %s", port.who, why)

    make = partial(LinkedChannel, handshake=handshake, absences=absences, on_given_up=on_given_up, within=within)
    if getattr(target, "comes_back", False):
        if not within:
            return await target.open()
        if not asks_exactly:
            raise ValueError(f"{port.who}: resume_within needs dialect=Exact() on this side")
        return make(await target.open(), opener=target)
    if (within or pending) and isinstance(target, trio.abc.Channel):
        return make(target, pending=pending)
    return target
