"""Ports whose peer has gone and may come back: how many may wait for it, and which is given up first. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_ABSENT_PORTS: Final = 1000
"""As many as `psession.channels.serve_websocket` lets in by default: all of them may lose their links at once."""

DEFAULT_ABSENT_PORTS_PER_ADDRESS: Final = 100
"""More devices than most households and offices have behind one address."""

_NETWORK_BITS: Final = 64


class Absence:
    """The wait of one port for its peer.

    Args:
        give_up: Ends it; gets the reason, in words.

    Attributes:
        host: Where the peer was, as `host_of` says.
    """

    __slots__ = ("give_up", "host")

    def __init__(self, give_up: Callable[[str], None]) -> None:
        self.give_up: Callable[[str], None] = give_up
        self.host: str | None = None


class Absences:
    """The ports that wait now, the one that has waited longest first.

    Args:
        most: How many may wait.
        most_per_address: How many of these may wait for peers of the same address.

    Attributes:
        given_up: How many were given up because there were more.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self.given_up: int = 0
        self._most = most
        self._most_per_address = most_per_address
        self._all: dict[Absence, None] = {}
        self._by_host: dict[str, dict[Absence, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, absence: Absence, host: str | None) -> None:
        """Let a port wait for its peer, which was at `host`; others may be given up for it. Idempotent."""
        if absence in self._all:
            return
        absence.host = host
        self._all[absence] = None
        if host is not None:
            same = self._by_host.setdefault(host, {})
            same[absence] = None
            if len(same) > self._most_per_address:
                limit = f"absent_ports_per_address={self._most_per_address}"
                self._give_up(next(iter(same)), f"for a peer at {host}", limit)
        if len(self._all) > self._most:
            self._give_up(next(iter(self._all)), "for their peers", f"absent_ports={self._most}")

    def leave(self, absence: Absence) -> None:
        """The port waits no more. Idempotent."""
        if absence not in self._all:
            return
        del self._all[absence]
        if absence.host is not None:
            same = self._by_host[absence.host]
            del same[absence]
            if not same:
                del self._by_host[absence.host]

    def _give_up(self, absence: Absence, whom: str, limit: str) -> None:
        self.leave(absence)
        self.given_up += 1
        absence.give_up(f"of all ports that waited {whom} to come back this one had waited longest ({limit})")


def host_of(remote: object) -> str | None:
    """The host in a channel's ``remote``; ``None`` where that is unknown.

    Of a public IPv6 address the first 64 bits: one customer has at least as many addresses (RFC 6177).
    """
    if not isinstance(remote, tuple):
        return None
    host: object = next(iter(remote), None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not isinstance(host, str) or not host:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:  # a listener for both kinds shows IPv4 so
        return str(address.ipv4_mapped)
    if not address.is_global:
        return host
    return f"{IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS)}/{_NETWORK_BITS}"
