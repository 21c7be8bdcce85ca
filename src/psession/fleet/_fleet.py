"""The asker's side of a fleet."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

from psession import checks
from psession.dialects import Exact
from psession.fleet._broker import Broker
from psession.fleet._device import Asking, FleetDevice
from psession.fleet._errors import FleetClosedError
from psession.fleet._links import LinkPool
from psession.fleet._options import FleetOptions, FleetStatistics
from psession.fleet._watching import open_presence
from psession.nursery import open_quiet_nursery
from psession.options import Options
from psession.shell.manager import SessionManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self, Unpack

    from psession.brokers.nats import Nats
    from psession.fleet._epochs import Epoch
    from psession.fleet._options import FleetSettings
    from psession.fleet._presence import GatewayInfo
    from psession.fleet._watching import Presence

_OWN = frozenset(FleetOptions.__dataclass_fields__)


@final
class Fleet:
    """All devices of a fleet, wherever they are: ``async with Fleet(nats, "home") as fleet``. ::

        async with open_nats(servers) as nats, Fleet(nats, "home") as fleet:
            answer = await fleet.device("lamp").request({"command": "on"}, timeout=2)

    Args:
        nats: The client of the broker.
        fleet: The fleet's name, as the gateways have it.
        options: See `FleetSettings`, and `PortOptions` for the ports towards the devices' gateways. With
            ``resume_within`` calls go on where a link breaks, as the exact wire does: what was under way is done once.
            Calls on a link that is broken then wait for so long, also where the device is gone.

    Raises:
        TypeError, ValueError: An argument that will not do; the text says why.
    """

    def __init__(self, nats: Nats, fleet: str, **options: Unpack[FleetSettings]) -> None:
        given: dict[str, Any] = dict(options)
        self._options = FleetOptions(**{name: value for name, value in given.items() if name in _OWN})
        port_options: Any = {"dialect": Exact(), **{name: one for name, one in given.items() if name not in _OWN}}
        self._manager = SessionManager(**port_options)
        checked_options = Options().override(port_options)
        self._resume_within = checked_options.resume_within
        self._name = fleet
        self._broker = Broker(nats, fleet, self._options.prefix)
        self._asking = Asking(self._links, checked_options.patience)
        self._pool: LinkPool | None = None
        self._open: AbstractAsyncContextManager[None] | None = None
        self._gaps = self._unknown = self._lost = 0

    def __repr__(self) -> str:
        return f"<psession.fleet.Fleet {self._name!r}, {0 if self._pool is None else len(self._pool)} links>"

    # -- the block ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("a Fleet is entered once")
        self._open = self._run()
        await self._open.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._open is not None
        return await self._open.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with open_quiet_nursery() as nursery:
            pool = self._pool = LinkPool(self._broker, self._manager, self._options, self._resume_within, nursery)
            nursery.start_soon(pool.keep)
            try:
                yield
            finally:
                pool.close()
                nursery.cancel_scope.cancel()

    def _links(self) -> LinkPool:
        if self._pool is None:
            raise FleetClosedError("use `async with Fleet(...) as fleet`: it was not entered", outcome="not_sent")
        return self._pool

    # -- for users ---------------------------------------------------------------------------------------------------

    def device(self, name: str, *, wait: float | None = None) -> FleetDevice:
        """Return a device by its name. No I/O: whether it is anywhere is found out by asking it.

        Args:
            name: Its name, any text.
            wait: Seconds that each call waits for it while it is nowhere; ``None``: as the fleet.

        Raises:
            TypeError, ValueError: An argument that will not do; the text says why.
        """
        self._broker.device(name)
        if wait is not None:
            checks.seconds("wait", wait)
        return FleetDevice(name, self._options.wait if wait is None else wait, self._asking)

    @asynccontextmanager
    async def presence(self) -> AsyncIterator[Presence]:
        """``async with fleet.presence() as presence``: who is where, and each join and leave.

        The block begins when all gateways that are there have said what they have, after about 0.25 s. While this side
        has no connection to the broker nothing changes; after that gateways have ``return_within`` seconds to be heard
        again before their devices leave, so that a broker that was gone is no storm of leaves and joins.
        """
        async with open_presence(self._broker, self._options) as presence:
            try:
                yield presence
            finally:
                self._gaps += presence.view.gaps
                self._unknown += presence.view.unknown
                self._lost += presence.is_lost

    async def devices(self) -> dict[str, Epoch]:
        """Return the devices that are there, with their epochs, which have their gateways' ids."""
        async with self.presence() as presence:
            return dict(presence.devices)

    async def gateways(self) -> list[GatewayInfo]:
        """Return the gateways that are there, by their names."""
        async with self.presence() as presence:
            return sorted(presence.gateways.values(), key=lambda info: (info.name, info.id))

    def statistics(self) -> FleetStatistics:
        """Return what was counted so far; of a presence when its block was left."""
        pool = self._pool
        return FleetStatistics(
            calls=self._asking.calls,
            asked_again=self._asking.asked_again,
            nowhere=pool.nowhere if pool is not None else 0,
            waited=pool.waited if pool is not None else 0,
            links=len(pool) if pool is not None else 0,
            opened=pool.opened if pool is not None else 0,
            reused=pool.reused if pool is not None else 0,
            idle_closed=pool.idle_closed if pool is not None else 0,
            evicted=pool.evicted if pool is not None else 0,
            refused=pool.refused if pool is not None else 0,
            probes=pool.probes if pool is not None else 0,
            silent=pool.silent if pool is not None else 0,
            presence_gaps=self._gaps,
            presence_unknown=self._unknown,
            presence_lost=self._lost,
            malformed=self._broker.malformed,
        )
