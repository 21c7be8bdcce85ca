"""What a fleet needs of a broker, in few calls: words, links, and whether there is a connection."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from psession.brokers.nats import (
    NatsClosedError,
    NatsConnectError,
    NatsDisconnectedError,
    NatsNoRespondersError,
    NatsTimeoutError,
    token,
)
from psession.errors import MalformedMessageError
from psession.fleet._errors import DeviceNotFoundError, FleetClosedError, FleetDisconnectedError
from psession.fleet._words import MAX_LABEL_BYTES, MAX_NAME_BYTES, MOVING, checked_name, decode, encode
from psession.protocol.bucket import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from psession.brokers.nats import Nats, NatsChannel, NatsMessage, NatsServer, Returning, Tap
    from psession.fleet._words import Word

log: logging.Logger = logging.getLogger("psession.fleet")

DEFAULT_PREFIX: Final = "psession"
"""The first token of all subjects of fleets."""


class Broker:
    """The subjects of one fleet, over one client of a broker's.

    Attributes:
        malformed: The number of messages so far that were no words.
    """

    def __init__(self, nats: Nats, fleet: str, prefix: str) -> None:
        self.malformed: int = 0
        self._nats = nats
        self._lines = Lines(0.0)
        checked_name("fleet", fleet, MAX_LABEL_BYTES)
        checked_name("prefix", prefix, MAX_LABEL_BYTES)
        self._root = f"{token(prefix)}.{token(fleet)}"

    # -- subjects ----------------------------------------------------------------------------------------------------

    def device(self, name: str) -> str:
        """Return the subject at which a device's links are opened.

        Raises:
            TypeError, ValueError: It is no name.
        """
        return f"{self._root}.device.{token(checked_name('device', name, MAX_NAME_BYTES))}"

    def claim(self, name: str) -> str:
        """Return the subject at which a device is claimed."""
        return f"{self._root}.claim.{token(name)}"

    def gateway(self, id: str) -> str:
        """Return the subject at which one gateway is told that it is not the newest that has a device."""
        return f"{self._root}.gateway.{token(id)}"

    def ask(self, id: str) -> str:
        """Return the subject at which one gateway is asked something."""
        return f"{self._root}.ask.{token(id)}"

    @property
    def gateways(self) -> str:
        """The subject at which all gateways are asked something."""
        return f"{self._root}.gateways"

    def beat(self, id: str = "") -> str:
        """Return the subject of a gateway's beats; without an id that of all."""
        return f"{self._root}.beat.{token(id) if id else '*'}"

    def change(self, id: str = "") -> str:
        """Return the subject of a gateway's changes, likewise."""
        return f"{self._root}.change.{token(id) if id else '*'}"

    # -- words -------------------------------------------------------------------------------------------------------

    def say(self, subject: str, word: Word, reply: str | None = None) -> bool:
        """Publish a word now. Return False where that is not possible now, or the subject, a peer's, is none."""
        try:
            return self._nats.publish_nowait(subject, encode(word), reply=reply)
        except NatsClosedError:
            return False
        except ValueError:
            self.malformed += 1
            return False

    def listener(
        self, take: Callable[[Any, str], None], *kinds: type[Word], nobody: Callable[[], None] | None = None
    ) -> Callable[[NatsMessage], None]:
        """Make what `hear` gives messages to; one may hear on thousands of subjects.

        Args:
            take: Called with each word, and the subject that an answer goes to.
            kinds: The words that may be said there: who may publish on a subject says nothing else by it.
            nobody: Called where the broker says that nobody hears what was asked.
        """

        def took(message: NatsMessage) -> None:
            if message.header_bytes and message.says_no_responders:
                if nobody is not None:
                    nobody()
                return
            try:
                word = decode(message.data)
            except MalformedMessageError as error:
                self._note_malformed(message, error)
                return
            if isinstance(word, kinds):
                take(word, message.reply)
            else:
                self._note_malformed(message, MalformedMessageError(f"a {type(word).__name__} is not said there"))

        return took

    def hear(self, subject: str, listener: Callable[[NatsMessage], None]) -> Tap:
        """Hear what is said on a subject, which may have wildcards.

        Raises:
            FleetClosedError: The client is closed.
        """
        try:
            return self._nats.tap(subject, listener)
        except NatsClosedError as error:
            raise FleetClosedError(error.why, outcome="not_sent") from error

    def _note_malformed(self, message: NatsMessage, error: MalformedMessageError) -> None:
        self.malformed += 1
        more = self._lines.take(trio.current_time())
        if more is not None:
            log.warning(
                "a message on %s is none of a fleet's: %s%s",
                message.subject,
                error.why,
                more,
                extra={"event_name": "fleet_malformed"},
            )

    def new_inbox(self) -> str:
        """A subject that nobody else has, for answers."""
        return self._nats.new_inbox()

    # -- the connection ----------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """True while there is a connection."""
        return bool(self._nats.connected_url)

    @property
    def reconnects(self) -> int:
        """The number of connections after the first."""
        return self._nats.statistics().reconnects

    async def until_connected(self) -> None:
        """Return when there is a connection.

        Raises:
            NatsClosedError: There will be none.
        """
        await self._nats.until_connected()

    async def until_disconnected(self) -> None:
        """Return when there is none."""
        await self._nats.until_disconnected()

    # -- links -------------------------------------------------------------------------------------------------------

    async def serve(
        self,
        handler: Callable[[NatsChannel], Awaitable[object]],
        max_links: int,
        task_status: trio.TaskStatus[NatsServer],
    ) -> None:
        """Serve links on the subjects that are added."""
        await self._nats.serve(None, handler, max_links=max_links, task_status=task_status)

    def returning(self, name: str, connect_timeout: float) -> Returning:
        """Return what opens one link after the other to a device, by the same gateway where that is possible."""
        return self._nats.returning(self.device(name), connect_timeout=connect_timeout)

    @asynccontextmanager
    async def link(
        self, returning: Returning, name: str, note_moving: Callable[[], None]
    ) -> AsyncIterator[NatsChannel]:
        """A link to a device.

        Args:
            returning: What opens it.
            name: The device's.
            note_moving: Called where its gateway says that it was sent elsewhere.

        Raises:
            DeviceNotFoundError: It is nowhere.
            FleetDisconnectedError: There is no connection, or no answer.
            FleetClosedError: The client is closed.
        """
        opening = returning()
        try:
            channel = await opening.__aenter__()
        except NatsNoRespondersError as error:
            raise DeviceNotFoundError(f"no gateway has a device {name!r}", outcome="not_sent") from error
        except NatsClosedError as error:
            raise FleetClosedError(error.why, outcome="not_sent") from error
        except (NatsConnectError, NatsDisconnectedError, NatsTimeoutError) as error:
            returning.door = ""  # where that gateway stands still, another may have the device
            if isinstance(error, NatsConnectError) and error.reason == MOVING:
                note_moving()
                text = f"device {name!r} is on its way to another gateway, and not there yet"
                raise DeviceNotFoundError(text, outcome="not_sent") from error
            raise FleetDisconnectedError(f"no link to device {name!r}: {error.why}", outcome="not_sent") from error
        try:
            yield channel
        finally:
            await opening.__aexit__(None, None, None)
