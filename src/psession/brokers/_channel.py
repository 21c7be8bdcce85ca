"""Channels over a broker's client: what arrives waits in a mailbox, what is written goes the client's way."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

import trio

from psession import checks
from psession.channels._wire import WireChannel
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from psession.brokers._outgoing import Outgoing
    from psession.channels._base import Message
    from psession.channels.codecs import Codec, CodecName
    from psession.errors import MessageError, SessionError
    from psession.shell.waiting import Delivery

DEFAULT_KEEPALIVE: Final = 30.0
"""Seconds of silence after which a link asks whether the other end is there."""

MAX_ARRIVED_MESSAGES: Final = 16384
"""Messages that wait in a link until its port reads them. A port reads at once, so these are of one burst."""

MAX_ARRIVED_BYTES: Final = 16 * 1024 * 1024
"""Their bytes: sixteen messages of full size."""


class Watched(Protocol):
    """A channel that a client tells when its connection breaks."""

    @property
    def keepalive(self) -> float:
        """Seconds of silence after which it looks after its other end."""
        ...

    def look(self, now: float) -> None:
        """Look after the other end, if it is time."""
        ...

    def broke(self, error: SessionError) -> None:
        """The connection broke."""
        ...


class Links:
    """The channels that a client tells when its connection breaks."""

    def __init__(self) -> None:
        self._links: dict[Watched, None] = {}
        self._some = trio.Event()

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Watched) -> None:
        """Tell a link when the connection breaks, and have it look after its other end."""
        self._links[link] = None
        self._some.set()

    def remove(self, link: Watched) -> None:
        """Do so no more."""
        self._links.pop(link, None)

    def break_all(self, error: Callable[[], SessionError]) -> None:
        """The connection broke."""
        for link in list(self._links):
            link.broke(error())

    async def keep(self, out: Outgoing) -> None:
        """Have links ask after their other ends, where these are silent."""
        while True:
            if not self._links:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(max(1.0, min((link.keepalive for link in self._links), default=1.0) / 4))
            now = trio.current_time()
            if out.has_link:
                for link in list(self._links):
                    link.look(now)


class Outlet(Protocol):
    """A client, as far as a channel needs it to write."""

    @property
    def max_payload(self) -> int:
        """The bytes that a message may have."""
        ...

    @property
    def outgoing(self) -> Outgoing:
        """The queue of what is written."""
        ...


class LinkRoad(Outlet, Protocol):
    """A client, as far as the end of a link needs it."""

    def take_inbox(self, token: str, take: Callable[[Any], None]) -> str:
        """Have what comes for a token of the inbox given to `take`; return the address."""
        ...

    def leave_inbox(self, token: str) -> None:
        """Want nothing more for that token."""
        ...

    def watch_link(self, link: Watched) -> None:
        """Tell a link when the connection breaks, and have it look after its other end."""
        ...

    def forget_link(self, link: Watched) -> None:
        """Do so no more."""
        ...

    def note_link_overrun(self) -> None:
        """Count a link that was ended since its port was too slow."""
        ...


R = TypeVar("R", bound=Outlet)
L = TypeVar("L", bound=LinkRoad)


class Mailbox(Waiter):
    """The messages that arrived for a channel and were not read yet, and the one task that reads."""

    __slots__ = ("arrived", "outcome", "size", "task")

    def __init__(self) -> None:
        self.arrived: deque[Any] = deque()
        self.size: int = 0
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None

    def put(self, message: Any) -> bool:
        """Keep a message. Return False where there is no room."""
        if len(self.arrived) >= MAX_ARRIVED_MESSAGES or self.size + message.size > MAX_ARRIVED_BYTES:
            return False
        self.arrived.append(message)
        self.size += message.size
        self.nudge()
        return True

    def take(self) -> list[Any]:
        """Return all that arrived."""
        messages = list(self.arrived)
        self.arrived.clear()
        self.size = 0
        return messages


class BrokerChannel(WireChannel, Generic[R]):
    """A channel over a broker: what arrives waits in a mailbox, what is written goes the client's way."""

    _tears = False
    hops = 2
    bytes_sent: int
    bytes_received: int

    def __init__(self, road: R, codec: Codec | CodecName, max_message_bytes: float, close_timeout: float) -> None:
        super().__init__(codec=codec, max_message_bytes=max_message_bytes, close_timeout=close_timeout)
        self._road = road
        self._box = Mailbox()
        self._over: Exception | None = None
        self._follows = False
        self.joins = True

    def send_frame_now(self, frame: bytes) -> bytes | None:
        """Put a frame among what the client writes, if there is room.

        Returns:
            ``b""``, or ``None`` where the client's queue is full, there is no connection, or the channel is over.
        """
        out = self._road.outgoing
        if self._closed or self._over is not None or not out.has_room:
            return None
        if self._follows:
            frame = self._addressed(frame)
        out.put(frame, out.answers_together())
        self.bytes_sent += len(frame)
        return b""

    def follow(self) -> None:
        """The channel goes on for one that broke: frames that were encoded by that one are written to it as well."""
        self._follows = True

    def _addressed(self, frame: bytes) -> bytes:
        """A frame for this one's other end which may have been encoded by the channel before. By default it is that."""
        return frame

    async def _write(self, frames: Sequence[bytes]) -> None:
        out = self._road.outgoing
        for frame in frames:
            await out.wait_for_room()
            self._check_open()
            if self._over is not None:
                raise trio.BrokenResourceError(str(self._over)) from self._over
            written = self._addressed(frame) if self._follows else frame
            out.put(written, out.answers_together())
            self.bytes_sent += len(written)

    async def _read(self) -> list[Message | MessageError]:
        box = self._box
        waited = False
        while not box.arrived:
            self._check_open()
            if self._over is not None:
                if not waited:
                    await trio.lowlevel.checkpoint()
                if isinstance(self._over, trio.EndOfChannel):
                    raise trio.EndOfChannel
                raise trio.BrokenResourceError(str(self._over)) from self._over
            await box.park()
            waited = True
        if not waited:
            await trio.lowlevel.checkpoint()
        messages = box.take()
        self.bytes_received += sum(message.size for message in messages)
        return self._messages_of(messages)

    def _messages_of(self, messages: list[Any]) -> list[Message | MessageError]:
        return self._decoded([message.data for message in messages])

    def end(self, why: Exception) -> None:
        """There is nothing more to come: what arrived can be read, then `why`."""
        if self._over is None:
            self._over = why
            self._box.nudge()

    async def _close(self) -> None:
        self._leave()
        self._box.take()
        self._box.nudge()
        await trio.lowlevel.checkpoint()

    def _leave(self) -> None:
        """Say that it is over, and want nothing more."""
        raise NotImplementedError


class LinkEnd(BrokerChannel[L]):
    """One end of a link between two ports: it has an address of its own, and looks after the other end.

    Attributes:
        peer: The address of the other end; ``""``: the link does not stand yet.
        door: The address by which who serves can be reached again, this very process.
        heard: The moment at which the other end was heard of.
        remote: ``None``: over a broker nobody has an address.
    """

    remote = None
    peer: str
    door: str
    heard: float
    _overran: ClassVar[type[SessionError]]
    _no_door: ClassVar[tuple[type[SessionError], ...]]
    _welcome: Mailbox | None

    def _begin(self, keepalive: float) -> str:
        """Have an address, and return it.

        Raises:
            TypeError, ValueError: A keepalive that will not do.
        """
        checks.seconds("keepalive", keepalive)
        if not keepalive:
            raise ValueError("keepalive must be above 0 seconds (math.inf for none)")
        self.peer, self.door = "", ""
        self._welcome = None
        self._keepalive = keepalive
        self.heard = trio.current_time()
        self._token = f"L{secrets.token_hex(11)}"
        return self._road.take_inbox(self._token, self._take)

    @property
    def state(self) -> str:
        """Its state in a word, for people."""
        return "closed" if self._closed else "over" if self._over is not None else "open" if self.peer else "opening"

    @property
    def keepalive(self) -> float:
        """Seconds of silence after which it asks whether the other end is there."""
        return self._keepalive

    async def find(self, address: str, door: str, timeout: float) -> None:  # noqa: ASYNC109 - the caller's, for the text
        """Open the link to who serves an address: by the door of one who did before, if that is there still.

        Raises:
            SessionError: As `open`.
        """
        if door:
            try:
                await self.open(door, timeout)
            except self._no_door:
                door = ""
        if not door:
            await self.open(address, timeout)

    @abstractmethod
    async def open(self, address: str, timeout: float) -> None:  # noqa: ASYNC109 - likewise
        """Ask who serves an address for a link."""

    @abstractmethod
    def say(self, kind: str) -> None:
        """Say something about the link to the other end."""

    def look(self, now: float) -> None:
        """Ask whether the other end is there, where it has been silent for long."""
        if now - self.heard >= self._keepalive and self._over is None:
            self.heard = now
            self.say("alive")

    def broke(self, error: SessionError) -> None:
        """The client's connection broke, and what came meanwhile is lost."""
        if self._over is None and self.peer:
            self.say("broken")
        self.end(error)

    async def _write(self, frames: Sequence[bytes]) -> None:
        try:
            await super()._write(frames)
        except trio.BrokenResourceError:
            # Closed by the other end, whose last words are not read yet: they may say which turns it took, and that
            # what is written now was not. So these go the way of all that is sent to who has closed.
            if not (isinstance(self._over, trio.EndOfChannel) and self._box.arrived):
                raise

    def _take(self, message: Any) -> None:
        """A message came for this end."""
        waiting = self._welcome
        if waiting is not None:
            if not self.peer:
                self._welcome = None
                waiting.wake(Handed(message))
            return
        self.heard = trio.current_time()
        if not self._said(message):
            self._keep(message)

    @abstractmethod
    def _said(self, message: Any) -> bool:
        """Hear a word about the link. Return False where it is none."""

    def _keep(self, message: Any) -> None:
        """Keep a message of the other port's until this one reads it; where there is no room the link is over."""
        if self._over is None and not self._box.put(message):
            self._road.note_link_overrun()
            why = (
                f"more than {MAX_ARRIVED_MESSAGES} messages or {MAX_ARRIVED_BYTES} bytes wait in the link: its port is "
                "too slow"
            )
            self.say("broken")
            self.end(self._overran(why))

    def _leave(self) -> None:
        if self.peer and self._over is None:
            self.say("closed")
        self._road.leave_inbox(self._token)
        self._road.forget_link(self)


C = TypeVar("C", bound=LinkEnd[Any])


class LinkOpener(Generic[C]):
    """Opens links to one address, one after another, each to the process that had the last, where it is there still.

    Attributes:
        door: The address of the process that served the last link; ``""``: there was none.

    Args:
        open_link: Opens a link; it gets the door of the last.
    """

    def __init__(self, open_link: Callable[[str], AbstractAsyncContextManager[C]]) -> None:
        self.door: str = ""
        self._open_link = open_link

    def __call__(self) -> AbstractAsyncContextManager[C]:
        """Open the next link."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[C]:
        async with self._open_link(self.door) as channel:
            self.door = channel.door
            yield channel
