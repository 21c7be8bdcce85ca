"""Who is where, as one watcher knows it: put together from beats, changes and lists. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from psession.fleet._epochs import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psession.fleet._words import Beat, Change, Numbers, Part

MAX_LATER: Final = 1000
"""Changes that are kept for a gateway whose list is on its way. Those beyond are asked for again."""

ASK_AGAIN: Final = 1.0
"""Seconds after which a list that did not come is asked for again: a round trip is a thousandth of it."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A device is there, or has moved to another gateway or connected anew.

    Attributes:
        device: Its name.
        gateway: The id of the gateway that has it.
        epoch: When it connected; a higher one is newer.
    """

    device: str
    gateway: str
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Left:
    """A device is nowhere any more.

    Attributes:
        device: Its name.
        gateway: The id of the gateway that had it.
        epoch: When it had connected.
    """

    device: str
    gateway: str
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """A gateway, as it says of itself.

    Attributes:
        id: Its id, which no other has, nor the same process when it is started anew.
        name: Its name, for people.
        devices: The number of its devices.
        draining: True where it takes no more.
    """

    id: str
    name: str
    devices: int
    draining: bool = False


@dataclass(slots=True)
class _Gateway:
    """What is known of a gateway."""

    info: GatewayInfo
    heard: float
    seq: int = -1
    """The last change that its devices are up to; -1: they are not known yet."""
    asked: float = -math.inf
    devices: dict[str, int] = field(default_factory=dict)
    later: dict[int, Change] = field(default_factory=dict)
    parts: dict[int, Numbers] = field(default_factory=dict)
    parts_of: tuple[int, int] = (-1, 0)


class View:
    """What a watcher knows.

    Args:
        silence: Seconds after which a gateway that says nothing is gone, and its devices with it.
        max_devices: How many devices are remembered; those beyond are counted and unknown.

    Attributes:
        places: Where each device is.
        gaps: The number of times that changes were missed and the list was asked for.
        unknown: The number of joins that there was no room for.
    """

    def __init__(self, silence: float, max_devices: float) -> None:
        self.places: dict[str, Epoch] = {}
        self.gaps: int = 0
        self.unknown: int = 0
        self._silence = silence
        self._max_devices = max_devices
        self._gateways: dict[str, _Gateway] = {}
        self._holders: dict[str, set[str]] = {}
        self._patient_until = -math.inf

    @property
    def gateways(self) -> dict[str, GatewayInfo]:
        """The gateways that are there, by id."""
        return {id: known.info for id, known in self._gateways.items()}

    @property
    def gateway_count(self) -> int:
        """The number of gateways that are there."""
        return len(self._gateways)

    @property
    def is_complete(self) -> bool:
        """True where the devices of every gateway that is there are known."""
        return all(known.seq >= 0 for known in self._gateways.values())

    # -- what comes --------------------------------------------------------------------------------------------------

    def hear_beat(self, beat: Beat, now: float) -> bool:
        """A gateway is there. Return True if its list is to be asked for."""
        known = self._known(beat.gateway, now)
        known.info = GatewayInfo(beat.gateway, beat.name, beat.count, beat.draining)
        if known.seq >= beat.seq:
            return False
        return self._is_missed(known, now)

    def hear_change(self, change: Change, now: float) -> tuple[list[Joined | Left], bool]:
        """Devices joined and left. Return what is new, and whether the list is to be asked for."""
        known = self._known(change.gateway, now)
        if change.seq <= known.seq:
            return [], False
        if len(known.later) < MAX_LATER:
            known.later[change.seq] = change
        if known.seq < 0 or change.seq > known.seq + 1:
            return self._catch_up(known), self._is_missed(known, now)
        return self._catch_up(known), False

    def hear_part(self, part: Part, now: float) -> list[Joined | Left]:
        """A part of a gateway's list came. Return what is new."""
        known = self._known(part.gateway, now)
        if part.seq < known.seq or not part.part < part.parts:
            return []
        if known.parts_of != (part.seq, part.parts):
            if part.seq < known.parts_of[0]:
                return []
            known.parts_of = part.seq, part.parts
            known.parts.clear()
        known.parts[part.part] = part.devices
        if len(known.parts) < part.parts:
            return []
        devices = {device: number for some in known.parts.values() for device, number in some}
        known.parts.clear()
        known.parts_of = (-1, 0)
        known.asked = -math.inf
        touched = {device: self.places.get(device) for device in known.devices.keys() | devices.keys()}
        for device in known.devices.keys() - devices.keys():
            self._drop(known, device)
        for device, number in devices.items():
            self._put(known, device, number)
        known.seq = part.seq
        return self._news(touched) + self._catch_up(known)

    def look(self, now: float) -> list[Joined | Left]:
        """Forget gateways that are silent. Return what is new."""
        news: list[Joined | Left] = []
        if now < self._patient_until:
            return news
        for known in [one for one in self._gateways.values() if now - one.heard >= self._silence]:
            del self._gateways[known.info.id]
            touched = {device: self.places.get(device) for device in known.devices}
            for device in list(known.devices):
                self._drop(known, device)
            news += self._news(touched)
        return news

    def be_patient(self, until: float) -> None:
        """Take silence for nothing until then: this side heard nobody, or the gateways may not be back yet."""
        self._patient_until = until

    # -- how it is put together --------------------------------------------------------------------------------------

    def _known(self, gateway: str, now: float) -> _Gateway:
        known = self._gateways.get(gateway)
        if known is None:
            known = self._gateways[gateway] = _Gateway(GatewayInfo(gateway, "", 0), now)
        known.heard = now
        return known

    def _is_missed(self, known: _Gateway, now: float) -> bool:
        if now - known.asked < ASK_AGAIN:
            return False
        known.asked = now
        self.gaps += known.seq >= 0
        return True

    def _catch_up(self, known: _Gateway) -> list[Joined | Left]:
        """Do what is next of the changes that are kept."""
        news: list[Joined | Left] = []
        if known.seq < 0:
            return news
        for seq in [seq for seq in known.later if seq <= known.seq]:
            del known.later[seq]
        while (change := known.later.pop(known.seq + 1, None)) is not None:
            known.seq = change.seq
            touched = {device: self.places.get(device) for device, _ in (*change.left, *change.joined)}
            for device, _ in change.left:
                self._drop(known, device)
            for device, number in change.joined:
                self._put(known, device, number)
            news += self._news(touched)
        return news

    def _put(self, known: _Gateway, device: str, number: int) -> None:
        if device not in self._holders and len(self._holders) >= self._max_devices:
            self.unknown += 1
            return
        known.devices[device] = number
        self._holders.setdefault(device, set()).add(known.info.id)

    def _drop(self, known: _Gateway, device: str) -> None:
        if known.devices.pop(device, None) is None:
            return
        holders = self._holders[device]
        holders.discard(known.info.id)
        if not holders:
            del self._holders[device]

    def _news(self, touched: dict[str, Epoch | None]) -> list[Joined | Left]:
        """What is new of devices, by where they were before."""
        news: list[Joined | Left] = []
        for device, before in touched.items():
            after = self._place(self._holders.get(device, ()), device)
            if after == before:
                continue
            if after is None:
                assert before is not None
                del self.places[device]
                news.append(Left(device, before.gateway, before))
            else:
                self.places[device] = after
                news.append(Joined(device, after.gateway, after))
        return news

    def _place(self, holders: Iterable[str], device: str) -> Epoch | None:
        return max((Epoch(self._gateways[id].devices[device], id) for id in holders), default=None)
