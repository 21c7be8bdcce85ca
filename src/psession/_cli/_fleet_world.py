"""The devices and the service of the demo of a fleet. Each keeps what it did, and what it was told."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import Exact, SessionError, SessionManager
from psession.channels import open_websocket, reconnecting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from psession.channels import WebSocketChannel
    from psession.fleet import Fleet

WORK: Final = 0.03
"""Seconds that a device works at most: some calls are under way whenever a gateway is killed."""

PAUSE: Final = 0.01
"""Seconds between two calls of one asker: about 1,000 calls a second, so that a laptop has time for all of it."""

PATIENCE: Final = 8.0
"""Seconds for a call: longer than a gateway that fell silent is waited for."""

OUTCOMES: Final = ("answered", "not_sent", "refused", "sent")


class FleetDevice:
    """A device: it connects to one gateway or another, and keeps the number of each call that it did.

    Args:
        name: Its name.
        token: Says who it is.
        gateways: Their URLs; it begins with the first, and goes on to the next.
    """

    def __init__(self, name: str, token: str, gateways: Sequence[str]) -> None:
        self.name = name
        self.did: list[int] = []
        self._token = token
        self._gateways = gateways
        self._links = -1
        self._manager = SessionManager(dialect=Exact(), resume_within=30)

    async def run(self) -> None:
        """Be connected, for as long as it is not cancelled."""
        while True:  # a gateway that is being drained says goodbye, which ends the port
            async with (
                reconnecting(self._connect, first_delay=0.2, max_delay=2) as channel,
                self._manager.port("gateway", channel, on_request=self.answer) as port,
            ):
                await port.wait_closed()
            await trio.sleep(random.uniform(0.1, 0.5))

    def _connect(self) -> AbstractAsyncContextManager[WebSocketChannel]:
        """The next link, to the next gateway."""
        self._links += 1
        url = self._gateways[self._links % len(self._gateways)]
        return open_websocket(url, headers=[("Authorization", f"Bearer {self._token}")])

    async def answer(self, message: Any) -> Any:
        """Do what is asked: write it down, work, answer."""
        self.did.append(message["call"])
        await trio.sleep(random.uniform(0, WORK))
        return {"done": message["call"]}


class Service:
    """A client that asks random devices, many at a time.

    Args:
        fleet: The devices, by name.
        names: Their names.

    Attributes:
        asked: The number of calls so far.
        outcomes: What became of each, by its number: one of `OUTCOMES`, or an error's name where there was none.
        under_way: The device of each call that is under way.
        over: Set to have it ask no more.
    """

    def __init__(self, fleet: Fleet, names: Sequence[str]) -> None:
        self.asked = 0
        self.outcomes: dict[int, str] = {}
        self.under_way: dict[int, str] = {}
        self.over = trio.Event()
        self._fleet = fleet
        self._names = names

    async def ask(self) -> None:
        """Ask one device after the other until it is over."""
        while not self.over.is_set():
            name = random.choice(self._names)
            self.asked += 1
            number = self.asked
            self.under_way[number] = name
            try:
                answer = await self._fleet.device(name).request({"call": number}, timeout=PATIENCE)
                self.outcomes[number] = "answered" if answer == {"done": number} else f"the answer {answer!r}"
            except SessionError as error:
                self.outcomes[number] = error.outcome or type(error).__name__
            finally:
                del self.under_way[number]
            await trio.sleep(PAUSE)


class Books:
    """The devices' own logs beside what the service was told.

    Args:
        service: The service.
        devices: The devices.
    """

    def __init__(self, service: Service, devices: Sequence[FleetDevice]) -> None:
        self.done = Counter(number for device in devices for number in device.did)
        self.told = Counter(service.outcomes.values())
        self.asked = service.asked
        self.twice = sum(times > 1 for times in self.done.values())
        self.done_by_outcome = Counter(outcome for number, outcome in service.outcomes.items() if number in self.done)

    @property
    def untrue(self) -> int:
        """Calls that were done though nothing was said to be, or not done though they were answered."""
        done, told = self.done_by_outcome, self.told
        return done["not_sent"] + done["refused"] + told["answered"] - done["answered"]

    @property
    def without(self) -> int:
        """Calls that have no outcome of those there are."""
        return self.asked - sum(self.told[outcome] for outcome in OUTCOMES)
