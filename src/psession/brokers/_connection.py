"""The connection of a client, as far as it is the same for all brokers: one link at a time, and an end."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from psession.brokers._channel import Links
from psession.brokers._stream import BrokerStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._outgoing import Outgoing
    from psession.errors import SessionError

log = logging.getLogger("psession")

K = TypeVar("K", bound=BrokerStream)
G = TypeVar("G")


class BrokerConnection(Generic[K]):
    """One link at a time, and what outlasts it.

    Attributes:
        out: The queue of what is written.
        links: The channels that hear when the connection breaks.
        is_closed: True once there will be no more links.
        reconnects: Links after the first.
        unsent: Messages that were accepted and never written.
        too_large: Messages that were accepted, and that are longer than what is connected to now takes.
    """

    def __init__(self, out: Outgoing, grace: float) -> None:
        self.out: Outgoing = out
        self.links: Links = Links()
        self.is_closed: bool = False
        self.reconnects: int = 0
        self.unsent: int = 0
        self.too_large: int = 0
        self._grace = grace
        self._link: K | None = None
        self._past_bytes = (0, 0)
        self._changed = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._finished = trio.Event()

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def has_link(self) -> bool:
        """True while there is a link."""
        return self._link is not None

    @property
    def bytes_in_and_out(self) -> tuple[int, int]:
        """The bytes read and written so far."""
        (past_in, past_out), link = self._past_bytes, self._link
        return (past_in, past_out) if link is None else (past_in + link.bytes_in, past_out + link.bytes_out)

    @abstractmethod
    def check_open(self) -> None:
        """Refuse what needs a client that lives.

        Raises:
            SessionError: There will be no more links.
        """

    async def until_connected(self) -> None:
        """Return when there is a link.

        Raises:
            SessionError: There will be none any more.
        """
        await trio.lowlevel.checkpoint()
        while self._link is None:
            self.check_open()
            await self._changed.wait()

    async def until_disconnected(self) -> None:
        """Return when there is no link, or there will be no more."""
        await trio.lowlevel.checkpoint()
        while self._link is not None and not self.is_closed:
            await self._changed.wait()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- a link ------------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """There is no link any more."""
        self._past_bytes = self.bytes_in_and_out
        self._link = None

    def _let_go_of_too_large(
        self, split: Callable[[bytes], tuple[bytes, list[G]]], let_go: Callable[[G], bool], why: str
    ) -> None:
        """Check what waits by what the next link takes: each message that is too long for it fails alone.

        Args:
            split: Takes such messages out of a frame. Returns what is left, and something for each of them.
            let_go: Gets that, and tells who waits for an answer. Returns False where nobody does.
            why: What the next link takes, for the log.
        """
        unheard = 0

        def revised(frame: bytes) -> bytes:
            nonlocal unheard
            kept, gone = split(frame)
            self.too_large += len(gone)
            unheard += sum(not let_go(one) for one in gone)
            return kept

        self.out.revise(revised)
        if unheard:
            log.warning(
                "%d messages that waited for a connection were let go: %s",
                unheard,
                why,
                extra={"event_name": "messages_too_large"},
            )

    # -- the end -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Write what was accepted, ``grace`` seconds at most, and end. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            try:
                with trio.CancelScope(shield=True), trio.move_on_after(self._grace):
                    await self._until_written()
            finally:
                self._scope.cancel()
        with trio.CancelScope(shield=True):  # what is left of it is the closing of a socket
            await self._finished.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _until_written(self) -> None:
        while self._is_writing:
            await trio.lowlevel.checkpoint()
            if self._is_writing:
                await trio.sleep(0.001)

    @property
    def _is_writing(self) -> bool:
        link, out = self._link, self.out
        return link is not None and (len(out) > 0 or out.has_words or out.is_writing or bool(link.rest))


class LinkTasks:
    """The tasks that use a link, until the first of them fails: then the link is of no further use.

    Args:
        nursery: What they run in.
        failures: What they raise where the link is of no further use, beside what a stream raises.

    Attributes:
        error: Why it is of no further use.
    """

    def __init__(self, nursery: trio.Nursery, failures: type[SessionError]) -> None:
        self.error: Exception | None = None
        self._nursery = nursery
        self._failures = failures

    def start(self, task: Callable[[], Any]) -> None:
        """Run a task."""
        self._nursery.start_soon(self._run, task)

    async def _run(self, task: Callable[[], Any]) -> None:
        try:
            await task()
        except (self._failures, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel) as error:
            if self.error is None:
                self.error = error
            self._nursery.cancel_scope.cancel()
