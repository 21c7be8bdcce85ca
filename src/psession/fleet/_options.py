"""What a gateway and a fleet may be told, checked; and what they tell of themselves. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypedDict

from psession import checks
from psession.options import PortOptions

BEAT_INTERVAL: Final = 1.0
"""Seconds between two beats of a gateway."""

DEFAULT_ANNOUNCE_INTERVAL: Final = 30.0
"""Seconds in which a gateway claims each of its devices once more: 100 messages in a second for 3,000 devices."""

DEFAULT_SETTLE: Final = 2.0
"""Seconds in which a claim is fresh: a thousand round trips, and a reconnect of a broker's client."""

DEFAULT_SILENCE: Final = 3.0
"""Seconds after which a gateway that says nothing is gone: three beats."""

DEFAULT_RETURN_WITHIN: Final = 10.0
"""Seconds that gateways have after a watcher's own reconnect: a client's longest wait between two rounds is 7.5."""


class GatewaySettings(TypedDict, total=False):
    """Options of `Gateway`, each with a default.

    Attributes:
        prefix: The first token of all subjects, by default ``"psession"``.
        announce_interval: Seconds in which each device is claimed once more, by default 30.
        settle: Seconds in which a claim is fresh, by default 2: a device's newer connection wins also where the clocks
            of two gateways differ, if its claim arrives in that time.
        resume_within: Seconds for which links to askers may be broken, by default 30, where the askers want that.
        max_devices: Devices at once, by default 10,000.
        max_links: Links of askers at once, one for each asker and device, by default 20,000.
    """

    prefix: str
    announce_interval: float
    settle: float
    resume_within: float
    max_devices: int
    max_links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """The options of a gateway, checked; `GatewaySettings` says what each means."""

    prefix: str = "psession"
    announce_interval: float = DEFAULT_ANNOUNCE_INTERVAL
    settle: float = DEFAULT_SETTLE
    resume_within: float = 30.0
    max_devices: int = 10_000
    max_links: int = 20_000

    def __post_init__(self) -> None:
        for name in ("announce_interval", "settle", "resume_within"):
            checks.seconds(name, getattr(self, name))
        if not self.announce_interval:
            raise ValueError("announce_interval must be above 0 seconds (math.inf: never)")
        for name in ("max_devices", "max_links"):
            checks.count(name, getattr(self, name))


class FleetSettings(PortOptions, total=False):
    """Options of `Fleet` beside those of its ports, each with a default.

    Attributes:
        prefix: The first token of all subjects, as the gateways have it.
        wait: Seconds that a call waits for a device that is nowhere, or for the broker; by default 0: it fails at once.
        idle: Seconds after which a link that no call uses is closed, by default 60.
        max_links: Links at once, by default 1,000; the one whose last use is longest ago gives way, never one in use.
        max_changes: Joins and leaves that may wait in a `Presence`, by default 100,000.
        max_devices: Devices that a `Presence` knows, by default 1,000,000: about 400 bytes each.
        silence: Seconds after which a gateway that says nothing is gone, by default 3.
        return_within: Seconds that gateways have after this side's own reconnect, by default 10.
    """

    prefix: str
    wait: float
    idle: float
    max_links: int
    max_changes: int
    max_devices: int
    silence: float
    return_within: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """The options of a fleet, checked; `FleetSettings` says what each means."""

    prefix: str = "psession"
    wait: float = 0.0
    idle: float = 60.0
    max_links: int = 1_000
    max_changes: int = 100_000
    max_devices: int = 1_000_000
    silence: float = DEFAULT_SILENCE
    return_within: float = DEFAULT_RETURN_WITHIN

    def __post_init__(self) -> None:
        for name in ("wait", "idle", "silence", "return_within"):
            checks.seconds(name, getattr(self, name))
        if not self.silence or self.silence == math.inf:
            raise ValueError("silence must be above 0 seconds, and finite")
        for name in ("max_links", "max_changes", "max_devices"):
            checks.count(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """The counters of a gateway.

    Attributes:
        devices: Devices that it has now.
        joined: Devices that joined so far.
        left: Devices that left so far, those that were given up among them.
        replaced: Devices that connected anew here while an older connection stood.
        given_up: Devices that were given up, since a newer connection is at another gateway.
        answered_claims: Claims of others that were older.
        claimed_again: Claims that were made again with a higher number, since the clocks differ.
        flapping: Connections that had to wait, since several processes share a device's name.
        refused_devices: Devices that were not taken (``max_devices``, or it is being drained).
        links: Links of askers that are open.
        refused_links: Links that there was no place for.
        strays: Links for devices that had just left.
        changes: Messages about joins and leaves so far.
        lists: Lists of all devices that were asked for.
        malformed: Messages that were none of a fleet's.
    """

    devices: int
    joined: int
    left: int
    replaced: int
    given_up: int
    answered_claims: int
    claimed_again: int
    flapping: int
    refused_devices: int
    links: int
    refused_links: int
    strays: int
    changes: int
    lists: int
    malformed: int


@dataclass(frozen=True, slots=True)
class FleetStatistics:
    """The counters of a fleet.

    Attributes:
        calls: Requests, streams, dialogues and posts so far.
        asked_again: Requests that were asked again at the device's next place: nothing had been done.
        nowhere: Calls that failed since their device was nowhere.
        waited: Calls that waited for their device.
        links: Links that are open.
        opened: Links that were opened so far.
        reused: Calls that found a link.
        idle_closed: Links that were closed since no call used them.
        evicted: Links that gave way to others (``max_links``).
        refused: Calls for which there was no place (``max_links``, all in use).
        probes: Words to see whether a gateway is there still.
        silent: Links that were given up since their gateway, which the broker had still, did not answer these.
        presence_gaps: Times that a watcher missed changes and asked for the list.
        presence_unknown: Joins that a watcher had no room for (``max_devices``).
        presence_lost: Watchers that read too slowly.
        malformed: Messages that were none of a fleet's.
    """

    calls: int
    asked_again: int
    nowhere: int
    waited: int
    links: int
    opened: int
    reused: int
    idle_closed: int
    evicted: int
    refused: int
    probes: int
    silent: int
    presence_gaps: int
    presence_unknown: int
    presence_lost: int
    malformed: int
