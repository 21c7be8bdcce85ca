"""A fleet: devices that connect to any of several gateways, asked by their names from anywhere, over a broker.

==================== ================================================================================================
`Gateway`            where devices connect: ``async with Gateway(nats, "home") as gateway``
`Fleet`              who asks them: ``async with Fleet(nats, "home") as fleet``, then ``fleet.device("lamp")``
`FleetDevice`        a device: `FleetDevice.request`, `FleetDevice.stream`, `FleetDevice.session`, `FleetDevice.post`
`Presence`           who is where: ``async for change in presence``, with `Joined` and `Left`
==================== ================================================================================================

docs/fleet.md tells more.
"""

from psession.fleet._askers import HeldDevice
from psession.fleet._device import FleetDevice
from psession.fleet._epochs import Epoch
from psession.fleet._errors import (
    DeviceNotFoundError,
    FleetClosedError,
    FleetDisconnectedError,
    FleetError,
    FleetFullError,
    PresenceLostError,
)
from psession.fleet._fleet import Fleet
from psession.fleet._gateway import Gateway
from psession.fleet._options import FleetSettings, FleetStatistics, GatewaySettings, GatewayStatistics
from psession.fleet._presence import GatewayInfo, Joined, Left
from psession.fleet._watching import Presence

__all__ = [
    "DeviceNotFoundError",
    "Epoch",
    "Fleet",
    "FleetClosedError",
    "FleetDevice",
    "FleetDisconnectedError",
    "FleetError",
    "FleetFullError",
    "FleetSettings",
    "FleetStatistics",
    "Gateway",
    "GatewayInfo",
    "GatewaySettings",
    "GatewayStatistics",
    "HeldDevice",
    "Joined",
    "Left",
    "Presence",
    "PresenceLostError",
]
