"""The peer of ``psession call nats://...``: whoever serves a subject, or a device of a fleet."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psession import SessionError, SessionManager
from psession._cli._problem import Exit, Problem
from psession._cli.call import ask, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession import Port, PortOptions
    from psession._cli._nats import NatsAddress, NatsPlace
    from psession._cli.call import Way
    from psession.brokers.nats import Nats
    from psession.fleet import FleetDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsPeer:
    """Everything that is said of such a peer on the command line.

    Attributes:
        address: The subject or the device, and the server.
        broker: The way to the server.
        fleet: The fleet of a device.
        wait: Seconds to wait for a device that is nowhere.
        within: Seconds for the connection.
        stream: True where every reply to a message is wanted.
        options: The options of the port.
    """

    address: NatsAddress
    broker: NatsPlace
    fleet: str
    wait: float
    within: float
    stream: bool = False
    options: PortOptions

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Way]:
        """Connect, and open a port, or find the way to a device.

        Raises:
            Problem: No connection, or nobody serves the subject, or the names will not do.
        """
        async with AsyncExitStack() as stack:
            try:
                opening = self.broker.open("psession call", connect_timeout=self.within)
                nats = await stack.enter_async_context(opening)
                device = self.address.device
                way = await (self._port(nats, stack) if device is None else self._device(nats, device, stack))
            except SessionError as error:
                code, _ = failure_of(error)
                raise Problem(str(error), code) from error
            except ValueError as error:
                raise Problem(f"{self.address}: {error}", Exit.USAGE) from error
            yield way

    async def _port(self, nats: Nats, stack: AsyncExitStack) -> Port:
        link = nats.connect(self.address.path, connect_timeout=self.within)
        channel = await stack.enter_async_context(link)
        return await stack.enter_async_context(SessionManager(**self.options).port(str(self.address), channel))

    async def _device(self, nats: Nats, name: str, stack: AsyncExitStack) -> FleetDevice:
        from psession.fleet import Fleet

        fleet = await stack.enter_async_context(Fleet(nats, self.fleet, wait=self.wait, **self.options))
        return fleet.device(name)

    async def ask(self, port: Way, message: Any) -> None:
        """Ask, and write the replies to standard output."""
        await ask(port, message, stream=self.stream)
