"""A link between two ports over NATS: each side has a subject of its own, which nobody else can guess.

========== =============================================================================================================
word       what it says, in the header ``Psession-Link``
========== =============================================================================================================
open       on the subject that is served: who asks has the subject in ``reply`` and wants a link
welcome    to that subject: the link stands, ``reply`` is the other end's subject from now on
refused    to that subject: there will be no link, ``Psession-Why`` says why
alive      is the other end there? If it is not, the broker says so, or whoever has its connection says ``closed``
here       the answer to that: a process that stands still says nothing
closed     this end is closed, after all that it has sent
broken     this end has lost what came meanwhile, so the link is of no further use
========== =============================================================================================================

All else is a message of the port's. Each is published with ``reply``: where nobody is there the broker says so at once.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import checks
from psession.brokers._channel import (
    DEFAULT_KEEPALIVE,
    LinkEnd,
    LinkOpener,
    LinkRoad,
    Mailbox,
)
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._errors import (
    NatsConnectError,
    NatsNoRespondersError,
    NatsOverrunError,
    NatsProtocolError,
    NatsTimeoutError,
)
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._subjects import subject_bytes
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession.brokers.nats._wire import NatsMessage
    from psession.channels._base import Message
    from psession.channels.codecs import Codec, CodecName

LINK_HEADER: Final = "Psession-Link"
DOOR_HEADER: Final = "Psession-Door"
WHY_HEADER: Final = "Psession-Why"


def word(kind: str, to: bytes, reply: bytes = b"", **more: str) -> bytes:
    """Return a word about a link, as it is written."""
    headers = {LINK_HEADER: kind, **{f"Psession-{name.capitalize()}": value for name, value in more.items()}}
    return wire.hpub(to, reply, encode_headers(headers), b"")


def word_of(message: NatsMessage) -> str:
    """Return the word about a link that a message is; ``""`` where it is none."""
    if not message.header_bytes:
        return ""
    try:
        return message.header(LINK_HEADER) or ""
    except MalformedMessageError:
        return ""


class NatsChannel(LinkEnd[LinkRoad]):
    """One end of a link between two ports over NATS; `Nats.connect` and `Nats.serve` make one.

    Attributes:
        subject: The subject that is served.
        peer: The subject of the other end.
        door: The subject by which who serves can be reached again, this very process.
        remote: ``None``: over a broker nobody has an address.
    """

    peer: str
    door: str
    heard: float
    _overran = NatsOverrunError
    _no_door = (NatsNoRespondersError, NatsConnectError)  # nobody has it, or what it led to is served there no more

    def __init__(
        self,
        road: LinkRoad,
        subject: str,
        *,
        codec: Codec | CodecName,
        max_message_bytes: float,
        close_timeout: float,
        keepalive: float,
    ) -> None:
        super().__init__(road, codec, max_message_bytes, close_timeout)
        self.subject = subject
        self._own = self._begin(keepalive).encode() + b" "
        self._peer = b""

    def __repr__(self) -> str:
        return f"<psession.brokers.nats.NatsChannel to {self.subject!r}, {self.state}>"

    def encode(self, message: Message) -> bytes:
        """The message as the bytes of a PUB.

        Raises:
            MalformedMessageError: It has no encoding.
            MessageTooLargeError: It is longer than ``max_message_bytes``, or the server's ``max_payload``.
        """
        data = self._codec.encode(message)
        if len(data) > self._max_message_bytes or len(data) > self._road.max_payload:
            limit = min(self._max_message_bytes, self._road.max_payload)
            raise type(self._too_large(data))(
                f"{len(data)} bytes; {limit:g} are the most (max_message_bytes, the server's max_payload)"
            )
        return wire.pub(self._peer, self._own, data)

    def _addressed(self, frame: bytes) -> bytes:
        """A frame, or several that were joined, which were encoded for this link or for those before it."""
        made: list[bytes] = []
        place = 0
        while place < len(frame):
            line_end = frame.index(b"\r\n", place)
            size = int(frame[frame.rindex(b" ", place, line_end) : line_end])
            made.append(wire.pub(self._peer, self._own, frame[line_end + 2 : line_end + 2 + size]))
            place = line_end + 2 + size + 2
        return b"".join(made)

    # -- the link ----------------------------------------------------------------------------------------------------

    def stand(self, peer: str, door: str = "") -> None:
        """The link stands: the other end has this subject."""
        self.peer, self.door = peer, door
        self._peer = subject_bytes(peer, "subject of the other end")
        self._road.watch_link(self)

    def say(self, kind: str, **more: str) -> None:
        """Say something about the link to the other end."""
        reply = b"" if kind in ("closed", "broken", "refused", "here") else self._own
        self._road.outgoing.put_word(word(kind, self._peer, reply, **more))

    def probe(self) -> None:
        """Ask at once whether the other end is there: where it is not, the channel breaks as soon as that is known."""
        if self.peer and self._over is None and not self._closed and self._road.outgoing.has_link:
            self.say("alive")

    def give_up(self, why: str) -> None:
        """Break the channel, since the other end does not answer; it is told so, for when it goes on."""
        if self._over is None and not self._closed:
            if self.peer and self._road.outgoing.has_link:
                self.say("broken")
            self.end(NatsTimeoutError(why))

    async def open(self, address: str, timeout: float) -> None:  # noqa: ASYNC109 - the caller's, for the text
        """Ask who serves a subject for a link.

        Raises:
            NatsNoRespondersError: Nobody serves it.
            NatsConnectError: There is no place for a link.
            NatsProtocolError: Who serves it does not speak psession.
            NatsTimeoutError: No answer came in time.
        """
        waiting = self._welcome = Mailbox()
        out = self._road.outgoing
        number = out.put(word("open", subject_bytes(address), self._own), 1)
        try:
            with trio.move_on_after(timeout):
                message: NatsMessage = await waiting.park()
                self._welcomed(address, message)
                return
            out.withdraw(number)
            raise NatsTimeoutError(
                f"who serves {address!r} did not say welcome in {timeout:g} s", waited=timeout, outcome="not_sent"
            )
        except trio.Cancelled:
            out.withdraw(number)
            raise
        finally:
            self._welcome = None

    def _welcomed(self, subject: str, message: NatsMessage) -> None:
        if message.says_no_responders:
            raise NatsNoRespondersError(f"nobody serves {subject!r}", outcome="not_sent")
        kind = word_of(message)
        if kind == "welcome" and message.reply:
            self.stand(message.reply, message.header(DOOR_HEADER) or "")
        elif kind == "refused":
            why = message.header(WHY_HEADER) or "it does not say why"
            error = NatsConnectError(f"who serves {subject!r} refuses a link: {why:.200}", outcome="not_sent")
            error.reason = why
            raise error
        else:
            raise NatsProtocolError(
                f"who serves {subject!r} speaks no psession: ask it by nats.requests() and the dialect NatsRequests",
                outcome="not_sent",
            )

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def _said(self, message: NatsMessage) -> bool:
        if not message.header_bytes:
            return False
        if message.says_no_responders:
            self.end(NatsNoRespondersError("the other end of the link is gone: nobody has its subject any more"))
            return True
        kind = word_of(message)
        if kind == "alive":
            if self._over is None and not self._closed:
                self.say("here")
        elif kind == "closed":
            self.end(trio.EndOfChannel())
        elif kind == "welcome" and message.reply and message.reply != self.peer:
            self._refuse(message.reply)
        elif kind == "broken":
            self.end(NatsConnectError("the other end lost its connection to the broker, and what came meanwhile"))
        return bool(kind)

    def _refuse(self, second: str) -> None:
        """Somebody else serves the subject as well, and was second to say welcome."""
        with suppress(ValueError):
            self._road.outgoing.put_word(word("closed", subject_bytes(second, "reply")))


@asynccontextmanager
async def open_channel(
    road: LinkRoad,
    subject: str,
    door: str = "",
    *,
    codec: Codec | CodecName = "json",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    keepalive: float = DEFAULT_KEEPALIVE,
) -> AsyncIterator[NatsChannel]:
    """Open a link to who serves a subject: by the door of one who did before, if that is there still.

    Raises:
        NatsError: As `NatsChannel.open`.
    """
    checks.seconds("connect_timeout", connect_timeout)
    subject_bytes(subject)
    channel = NatsChannel(
        road,
        subject,
        codec=codec,
        max_message_bytes=max_message_bytes,
        close_timeout=close_timeout,
        keepalive=keepalive,
    )
    async with channel:
        await channel.find(subject, door, connect_timeout)
        yield channel


class Returning(LinkOpener[NatsChannel]):
    """Opens links to who serves a subject, the same process again where it is there still; `Nats.returning` makes one.

    Attributes:
        door: The subject of the process that served the last link; ``""``: there was none.
    """

    def __init__(self, road: LinkRoad, subject: str, options: dict[str, Any]) -> None:
        subject_bytes(subject)
        super().__init__(partial(open_channel, road, subject, **options))
