"""What a gateway tells of itself: beats, joins and leaves as they happen, lists for who asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from psession.fleet._options import BEAT_INTERVAL
from psession.fleet._words import Ask, Beat, Change, Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.fleet._broker import Broker
    from psession.fleet._claims import Holdings
    from psession.fleet._words import Word

MAX_BATCH: Final = 500
"""Devices in one message: with names of 256 bytes 150 kB, of the 1 MiB that a broker's message may have."""

PAUSE: Final = 0.02
"""Seconds between two messages about changes: a thousand devices that connect in a second are fifty."""

CLAIM_PAUSE: Final = 0.1
"""Seconds between two batches of claims that are made again."""


class Announcer:
    """Tells what a gateway holds.

    Args:
        broker: Where it is told.
        holdings: What is held.
        id: The gateway's id.
        name: Its name.
        claim: Claims a device now. Returns False where that is not possible now.
        announce_interval: Seconds in which each device is claimed once more.

    Attributes:
        seq: The number of changes that were published.
        lists: The number of lists that were asked for.
        draining: Whether the gateway takes no more devices.
    """

    def __init__(
        self,
        broker: Broker,
        holdings: Holdings,
        id: str,
        name: str,
        claim: Callable[[str], bool],
        announce_interval: float,
    ) -> None:
        self.seq: int = 0
        self.lists: int = 0
        self.draining: bool = False
        self._broker = broker
        self._holdings = holdings
        self._id = id
        self._name = name
        self._claim = claim
        self._interval = announce_interval
        self._changed: dict[str, int | None] = {}
        self._moved: list[str] = []
        self._moved_before: list[str] = []
        self._wake = trio.Event()

    def joined(self, device: str, number: int) -> None:
        """A device is here, or has another epoch."""
        self._changed[device] = number
        self._wake.set()

    def left(self, device: str) -> None:
        """A device is here no more."""
        self._changed[device] = None
        self._wake.set()

    def moved(self, device: str) -> None:
        """A device is at another gateway now. That is said a beat later: who watches hears of its next place first."""
        self._moved.append(device)

    # -- answers -----------------------------------------------------------------------------------------------------

    def asked(self, ask: Ask, reply: str) -> None:
        """A watcher asks what there is."""
        self._broker.say(reply, self._beat())
        if not ask.list:
            return
        self.lists += 1
        devices = self._holdings.numbers()
        parts = max(1, math.ceil(len(devices) / MAX_BATCH))
        for part in range(parts):
            some = devices[part * MAX_BATCH : (part + 1) * MAX_BATCH]
            self._broker.say(reply, Part(self._id, self.seq, part, parts, some))

    def _beat(self) -> Beat:
        holdings = self._holdings
        return Beat(self._id, self._name, self.seq, len(holdings), holdings.clock.highest, self.draining)

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Say once a second that this gateway is there."""
        while True:
            self.beat_now()
            for device in self._moved_before:
                if device not in self._holdings:
                    self.left(device)
            self._moved, self._moved_before = [], self._moved
            await trio.sleep(BEAT_INTERVAL)

    def beat_now(self) -> None:
        """Say it now."""
        self._broker.say(self._broker.beat(self._id), self._beat())

    async def publish_changes(self) -> None:
        """Publish joins and leaves, at once where the last were some time ago.

        What cannot be published counts all the same: watchers miss it, and ask for the list.
        """
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._changed:
                batch = [self._changed.popitem() for _ in range(min(MAX_BATCH, len(self._changed)))]
                joined = [(device, number) for device, number in batch if number is not None]
                self.seq += 1
                left = [(device, 0) for device, number in batch if number is None]
                self._say_change(Change(self._id, self.seq, joined, left))
            await trio.sleep(PAUSE)

    def _say_change(self, change: Word) -> None:
        self._broker.say(self._broker.change(self._id), change)

    async def claim_again(self) -> None:
        """Claim each device once in each interval, spread over it; all in a few seconds after a break."""
        while True:
            await self._broker.until_connected()
            self.beat_now()
            devices = list(self._holdings)
            for place in range(0, len(devices), MAX_BATCH):
                for device in devices[place : place + MAX_BATCH]:
                    if device in self._holdings:
                        self._claim(device)
                await trio.sleep(CLAIM_PAUSE)
            with trio.CancelScope() as connected:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_disconnected, connected)
                    await self._claim_in_turn()

    async def _until_disconnected(self, scope: trio.CancelScope) -> None:
        await self._broker.until_disconnected()
        scope.cancel()

    async def _claim_in_turn(self) -> None:
        while True:
            devices = list(self._holdings)
            if not devices or self._interval == math.inf:
                await trio.sleep(self._interval)
                continue
            steps = max(1, min(len(devices), math.ceil(self._interval / CLAIM_PAUSE)))
            for step in range(steps):
                await trio.sleep(self._interval / steps)
                for device in devices[step * len(devices) // steps : (step + 1) * len(devices) // steps]:
                    if device in self._holdings:
                        self._claim(device)
