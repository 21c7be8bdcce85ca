"""``psession fleet``: who is where."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from psession._cli._console import one_line, say
from psession._cli._problem import Exit, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psession._cli._nats import NatsPlace
    from psession.fleet import GatewayInfo, Presence

LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at the gateways, which have no stream of their own."""


async def run(broker: NatsPlace, name: str, *, watch: bool) -> Exit:
    """Print the gateways and the devices of a fleet; with `watch` also what changes, until Ctrl-C.

    Raises:
        Problem: There is no broker; or with `watch` more changed at once than could be told.
        OutputLost: Standard output cannot be written.
    """
    from psession.fleet import Fleet, PresenceLostError

    async with broker.open("psession fleet") as nats:
        try:
            fleet = Fleet(nats, name)
        except ValueError as error:
            raise Problem(str(error), Exit.USAGE) from error
        async with fleet, fleet.presence() as presence:
            list_all(presence, name)
            if watch:
                try:
                    await Watching(presence).run()
                except PresenceLostError as error:
                    raise Problem(str(error), Exit.FAILED) from error
    return Exit.OK


def list_all(presence: Presence, name: str) -> None:
    """Print who is where, gateways first."""
    gateways, devices = presence.gateways, presence.devices
    say(f"fleet {one_line(name)}: {counted(len(gateways), 'gateway')}, {counted(len(devices), 'device')}")
    for info in sorted(gateways.values(), key=lambda info: (info.name, info.id)):
        say(f"  gateway {named(info)}  {counted(info.devices, 'device')}{'  draining' if info.draining else ''}")
    for device, epoch in sorted(devices.items()):
        say(f"  {one_line(device)}  at {place(gateways, epoch.gateway)}")


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def named(info: GatewayInfo) -> str:
    """Return a gateway's name and id, or its id alone where it has no other name."""
    return info.id if info.name == info.id else f"{one_line(info.name)} ({info.id})"


def place(gateways: Mapping[str, GatewayInfo], id: str) -> str:
    """Return the name of a gateway by its id."""
    return one_line(gateways[id].name) if id in gateways else id


class Watching:
    """A printer of what changes, a line each: ``+`` came, ``-`` left, ``>`` moved or connected anew."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._gateways = dict(presence.gateways)
        self._names = {id: info.name for id, info in self._gateways.items()}
        self._there = set(presence.devices)
        self._at_first = set(self._there)

    async def run(self) -> None:
        """Tell of changes until cancelled.

        Raises:
            PresenceLostError: More changed at once than the presence holds.
            OutputLost: Standard output cannot be written.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_gateways)
            async for change in self._presence:
                self._look()
                self._tell_device(change)

    def _tell_device(self, change: object) -> None:
        from psession.fleet import Joined, Left

        at = one_line(self._names.get(getattr(change, "gateway", ""), getattr(change, "gateway", "")))
        if isinstance(change, Joined):
            if change.device in self._at_first:  # the list that every presence begins with
                self._at_first.discard(change.device)
                return
            mark = ">" if change.device in self._there else "+"
            self._there.add(change.device)
            tell(f"{mark} {one_line(change.device)}  at {at}")
        elif isinstance(change, Left):
            self._there.discard(change.device)
            tell(f"- {one_line(change.device)}  from {at}")

    async def _watch_gateways(self) -> None:
        while True:
            await trio.sleep(LOOK_INTERVAL)
            self._look()

    def _look(self) -> None:
        """Tell of gateways that came, went or began to drain.

        The names of those that went are kept, since their devices leave after them.
        """
        now = self._presence.gateways
        for id, info in now.items():
            before = self._gateways.get(id)
            self._gateways[id] = info
            self._names[id] = info.name
            if before is None:
                tell(f"+ gateway {named(info)}")
            elif info.draining and not before.draining:
                tell(f"~ gateway {named(info)} is being drained")
        for id in [id for id in self._gateways if id not in now]:
            tell(f"- gateway {named(self._gateways.pop(id))}")


def tell(text: str) -> None:
    """Print a change with the time of day."""
    say(f"{time.strftime('%H:%M:%S')}  {text}")
