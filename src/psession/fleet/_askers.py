"""Askers at a gateway: a port for each asker and device, which passes all on to the device."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from psession.budget import Budget
from psession.dialects import Exact
from psession.errors import SessionError
from psession.nursery import open_quiet_nursery
from psession.shell.manager import SessionManager
from psession.shell.relay import Relay

if TYPE_CHECKING:
    from psession.brokers.nats import NatsChannel, Tap
    from psession.fleet._epochs import Epoch
    from psession.shell.port import Port

FAREWELL: Final = 1.0
"""Seconds that turns of askers have to end when their device is gone: they have all they will get, or fail at once."""


class Moving:
    """A device that was sent elsewhere, until another gateway claims it.

    Attributes:
        arrived: Set when one does.
    """

    __slots__ = ("arrived", "tap")

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.tap: Tap | None = None


@final
class HeldDevice:
    """A device that a gateway has; `Gateway.device` gives it.

    Attributes:
        name: Its name.
        port: The port towards it.
        epoch: When it connected, as the gateways have it; higher where the clocks of two differ.
    """

    __slots__ = ("askers", "epoch", "name", "port", "subject", "tap")

    def __init__(self, name: str, port: Port, epoch: Epoch, subject: str) -> None:
        self.name: str = name
        self.port: Port = port
        self.epoch: Epoch = epoch
        self.subject: str = subject
        self.tap: Tap | None = None
        self.askers: list[Port] = []  # few, and none as a rule

    def __repr__(self) -> str:
        return f"<psession.fleet.HeldDevice {self.name!r}, {'gone' if self.tap is None else 'here'}>"


class Askers:
    """The ports of all askers at one gateway.

    Args:
        resume_within: Seconds for which a link may be broken, where the asker wants that.
        max_links: How many there may be: all of them break at once where the broker goes.

    Attributes:
        strays: The number of links so far whose device had just left.
    """

    def __init__(self, resume_within: float, max_links: int) -> None:
        self.strays: int = 0
        self._manager = SessionManager(
            dialect=Exact(),
            session_timeout=math.inf,
            resume_within=resume_within,
            budget=Budget(absent_ports=max_links),
        )

    async def serve(self, channel: NatsChannel, held: HeldDevice | None) -> None:
        """Pass on to a device what an asker asks on a link, until the link or the device's connection is over."""
        if held is None or held.tap is None:
            self.strays += 1
            return
        relay = Relay(held.port)
        accepting = self._manager.accept(
            channel, on_request=relay.request, on_session=relay.session, on_message=relay.message
        )
        async with accepting as port:
            if port in held.askers:  # it came back by resume
                await port.wait_closed()
                return
            held.askers.append(port)
            try:
                if held.tap is None:  # the device left while the asker said hello
                    await drain_port(port, trio.current_time() + FAREWELL, [])
                await port.wait_closed()
            finally:
                held.askers.remove(port)


async def send_askers_away(held: HeldDevice, until: float, done: list[bool]) -> None:
    """Take no more turns for a device, and let those under way end until then; their askers are told."""
    async with open_quiet_nursery() as nursery:
        for asker in list(held.askers):
            nursery.start_soon(drain_port, asker, until, done)


async def drain_port(port: Port, until: float, done: list[bool]) -> None:
    """Drain a port until then, and note whether all of it had ended. One that is closed already is."""
    with suppress(SessionError):
        done.append(await port.drain(max(0.0, until - trio.current_time())))
