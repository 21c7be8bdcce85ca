"""The errors of a fleet, one tree under `psession.SessionError`. Pure.

::

    FleetError
    ├── DeviceNotFoundError    the device is nowhere                     (also a LookupError)
    ├── FleetDisconnectedError there is no connection to the broker      (also a ConnectionError)
    ├── FleetFullError         a limit of this side's is reached; the text names it
    ├── FleetClosedError       the gateway or the fleet was left, or is being drained
    └── PresenceLostError      a watcher read too slowly

Each that a call of a device's raises has the outcome ``"not_sent"``.
"""

from __future__ import annotations

from psession.errors import SessionError

__all__ = [
    "DeviceNotFoundError",
    "FleetClosedError",
    "FleetDisconnectedError",
    "FleetError",
    "FleetFullError",
    "PresenceLostError",
]


class FleetError(SessionError):
    """The root of what goes wrong between a fleet and who asks its devices."""


class DeviceNotFoundError(FleetError, LookupError):
    """No gateway has a device of that name: the broker says so at once, and nothing was done."""


class FleetDisconnectedError(FleetError, ConnectionError):
    """There is no connection to the broker, and the call was not to wait for one; nothing was done."""


class FleetFullError(FleetError):
    """A limit is reached: ``max_devices`` of a gateway, ``max_links`` of a fleet with all of them in use."""


class FleetClosedError(FleetError):
    """The gateway or the fleet was left, or the gateway is being drained and takes no more devices."""


class PresenceLostError(FleetError):
    """More joins and leaves waited than ``max_changes``: who watches read too slowly, and has to begin anew."""
