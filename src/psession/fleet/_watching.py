"""Watching who is where: ``async with fleet.presence() as presence``."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import trio

from psession.fleet._errors import PresenceLostError
from psession.fleet._presence import Joined, Left, View
from psession.fleet._words import Ask, Beat, Change, Part
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from typing import Self

    from psession.brokers.nats import Tap
    from psession.fleet._broker import Broker
    from psession.fleet._epochs import Epoch
    from psession.fleet._options import FleetOptions
    from psession.fleet._presence import GatewayInfo

QUIET: Final = 0.25
"""Seconds without a word of another gateway after which all that are there have answered: a round trip takes 0.001."""

LOOK_INTERVAL: Final = 0.25
"""Seconds between two looks for gateways that fell silent."""


@final
class Presence:
    """Who is where, and what changes; `Fleet.presence` makes it.

    ``async for change in presence`` gives a `Joined` for each device that is there as the block begins, then each join
    and leave. A device that moves is `Joined` once more, with its next gateway, and does not leave.
    """

    def __init__(self, broker: Broker, options: FleetOptions) -> None:
        self._broker = broker
        self._options = options
        self.view: View = View(options.silence, options.max_devices)
        self._inbox = broker.new_inbox()
        self._first: deque[Joined | Left] = deque()
        self._changes: deque[Joined | Left] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._has_begun = False
        self._nobody = False
        self._heard_new = trio.current_time()
        self._is_lost = False
        self._known = 0
        self._reconnects = broker.reconnects

    def __repr__(self) -> str:
        return f"<psession.fleet.Presence of {len(self.view.places)} devices at {len(self.view.gateways)} gateways>"

    # -- for users ---------------------------------------------------------------------------------------------------

    @property
    def devices(self) -> Mapping[str, Epoch]:
        """The devices that are there now; the epoch has the gateway's id."""
        return dict(self.view.places)

    @property
    def gateways(self) -> Mapping[str, GatewayInfo]:
        """The gateways that are there, by id."""
        return self.view.gateways

    @property
    def is_lost(self) -> bool:
        """True where its reader was too slow."""
        return self._is_lost

    def __aiter__(self) -> Self:
        """Iterate over joins and leaves; it has no end of its own."""
        return self

    async def __anext__(self) -> Joined | Left:
        return await self.receive()

    async def receive(self) -> Joined | Left:
        """Return the next join or leave. Cancelling loses none.

        Raises:
            PresenceLostError: More waited than ``max_changes``: begin anew.
        """
        await trio.lowlevel.checkpoint()
        if self._first:
            return self._first.popleft()
        while not self._changes:
            if self._is_lost:
                raise PresenceLostError(
                    f"more than {self._options.max_changes} joins and leaves waited (max_changes): take them faster, "
                    "and begin anew by another presence()"
                )
            await self._arrived.park()
        return self._changes.popleft()

    # -- what comes --------------------------------------------------------------------------------------------------

    def open(self) -> list[Tap]:
        """Want to hear of everything, and ask for what there is."""
        broker = self._broker
        listener = broker.listener(self._hear, Beat, Change)
        taps = [broker.hear(subject, listener) for subject in (broker.beat(), broker.change())]
        taps.append(broker.hear(self._inbox, broker.listener(self._hear_answer, Beat, Part, nobody=self._hear_nobody)))
        self._ask_all()
        return taps

    def _ask_all(self) -> None:
        self._broker.say(self._broker.gateways, Ask(list=True), self._inbox)

    def _hear_nobody(self) -> None:
        self._nobody = True

    def _hear_answer(self, word: Beat | Part, reply: str) -> None:
        if isinstance(word, Beat):
            self.view.hear_beat(word, trio.current_time())  # the list that was asked for follows
            self._note_gateways()
        else:
            self._hear(word, reply)

    def _hear(self, word: Beat | Change | Part, reply: str) -> None:
        now = trio.current_time()
        if isinstance(word, Beat):
            if self.view.hear_beat(word, now):
                self._ask_for_list(word.gateway)
        elif isinstance(word, Change):
            news, is_missed = self.view.hear_change(word, now)
            self._put(news)
            if is_missed:
                self._ask_for_list(word.gateway)
        elif isinstance(word, Part):
            self._put(self.view.hear_part(word, now))
            self._heard_new = now
        self._note_gateways()

    def _note_gateways(self) -> None:
        count = self.view.gateway_count
        if count != self._known:
            self._known, self._heard_new = count, trio.current_time()

    def _ask_for_list(self, gateway: str) -> None:
        self._broker.say(self._broker.ask(gateway), Ask(list=True), self._inbox)

    def _put(self, news: Iterable[Joined | Left]) -> None:
        if self._is_lost or not self._has_begun:
            return
        self._changes.extend(news)
        if len(self._changes) > self._options.max_changes:
            self._is_lost = True
            self._changes.clear()
        if self._changes or self._is_lost:
            self._arrived.unpark_all()

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def until_begun(self) -> None:
        """Return when all gateways that are there have said what they have."""
        await self._broker.until_connected()
        until = trio.current_time() + self._options.silence
        while (now := trio.current_time()) < until and not (self._nobody and not self.view.gateways):
            if self.view.is_complete and now - self._heard_new >= QUIET:
                break
            await trio.sleep(QUIET / 10)
        self._has_begun = True
        self._first.extend(Joined(device, epoch.gateway, epoch) for device, epoch in self.view.places.items())

    async def keep(self) -> None:
        """Look for gateways that fell silent; after a break of the own connection not for some time."""
        while True:
            await trio.sleep(LOOK_INTERVAL)
            now = trio.current_time()
            if not self._broker.is_connected:
                continue
            if self._broker.reconnects != self._reconnects:
                self._reconnects = self._broker.reconnects
                self.view.be_patient(now + self._options.return_within)
                self._ask_all()
            self._put(self.view.look(now))


@asynccontextmanager
async def open_presence(broker: Broker, options: FleetOptions) -> AsyncIterator[Presence]:
    """Watch for as long as the block lasts."""
    presence = Presence(broker, options)
    taps = presence.open()
    try:
        async with open_quiet_nursery() as nursery:
            nursery.start_soon(presence.keep)
            await presence.until_begun()
            yield presence
            nursery.cancel_scope.cancel()
    finally:
        for tap in taps:
            tap.close()
