"""The gateway's side of a fleet: devices that it has, each served on a subject of its own."""

from __future__ import annotations

import math
import secrets
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import trio

from psession import checks
from psession.budget import Budget
from psession.dialects import Exact
from psession.errors import SessionError
from psession.fleet._announcer import Announcer
from psession.fleet._askers import FAREWELL, Askers, HeldDevice, Moving, drain_port, send_askers_away
from psession.fleet._broker import Broker, log
from psession.fleet._claims import Holdings
from psession.fleet._errors import FleetClosedError, FleetFullError
from psession.fleet._flapping import Flapping
from psession.fleet._options import GatewayOptions, GatewayStatistics
from psession.fleet._words import MAX_LABEL_BYTES, MOVING, Ask, Claim, Held, checked_name
from psession.nursery import open_quiet_nursery
from psession.shell.manager import SessionManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self, Unpack

    from psession.brokers.nats import Nats, NatsChannel, NatsServer, Tap
    from psession.fleet._epochs import Epoch
    from psession.fleet._options import GatewaySettings
    from psession.options import PortOptions
    from psession.shell.port import Port

    Authenticate = Callable[[Port], Awaitable[str | None]]

SENT_AWAY_A_SECOND: Final = 200
"""Devices that a drain sends away in a second: one gateway lets in 1,100 where nothing else is to do."""

SAID_TO_MOVE: Final = 5.0
"""Seconds for which a device that was sent away is said to be moving, where no other gateway claims it: a reconnect
takes 1 or 2, and devices that begin anew wait some more, each as it likes."""


@final
class Gateway:
    """Where devices of a fleet connect: ``async with Gateway(nats, "home") as gateway``. ::

        async def serve(channel):
            async with manager.accept(channel, resume_within=30) as port:
                name = gateway.name_of(port) or await log_in(port)  # your authentication
                async with gateway.device(name, port):
                    await port.wait_closed()

    Leaving the block closes the ports of all devices that it has, and tells the fleet. Where no server takes `nats` any
    more, the block ends with its `NatsClosedError`.

    Args:
        nats: The client of the broker.
        fleet: The fleet's name, any text.
        name: The gateway's name, for people; by default its id.
        manager: Whose options the ports have that `serve` opens; by default one with ``dialect=Exact()``, and a budget
            by which all devices may be absent at once (``resume_within``), also behind one load balancer.
        options: See `GatewaySettings`.

    Attributes:
        id: Its id, which is random: the same program started anew is another gateway.
        name: Its name.

    Raises:
        TypeError, ValueError: An argument that will not do; the text says why.
    """

    def __init__(
        self,
        nats: Nats,
        fleet: str,
        *,
        name: str | None = None,
        manager: SessionManager | None = None,
        **options: Unpack[GatewaySettings],
    ) -> None:
        self._options = GatewayOptions(**options)
        self.id: str = secrets.token_hex(8)
        self.name: str = self.id if name is None else checked_name("gateway", name, MAX_LABEL_BYTES)
        self._broker = Broker(nats, fleet, self._options.prefix)
        self._claims_heard = self._broker.listener(self._hear, Claim)
        self._holdings = Holdings(self.id, self._options.settle)
        self._announcer = Announcer(
            self._broker, self._holdings, self.id, self.name, self._claim, self._options.announce_interval
        )
        most = self._options.max_devices
        budget = Budget(absent_ports=most, absent_ports_per_address=most)  # a load balancer has one address for all
        self._manager = manager if manager is not None else SessionManager(dialect=Exact(), budget=budget)
        self._askers = Askers(self._options.resume_within, self._options.max_links)
        self._flapping = Flapping()
        self._held: dict[str, HeldDevice] = {}
        self._by_subject: dict[str, HeldDevice] = {}
        self._by_port: dict[Port, HeldDevice] = {}
        self._moving: dict[str, Moving] = {}
        self._draining = False
        self._server: NatsServer | None = None
        self._nursery: trio.Nursery | None = None
        self._open: AbstractAsyncContextManager[None] | None = None
        self._joined = self._left = self._replaced = self._given_up = self._answered = 0
        self._again = self._flapped = self._refused = 0

    def __repr__(self) -> str:
        state = "not open" if self._server is None else "draining" if self._draining else "open"
        return f"<psession.fleet.Gateway {self.name!r}, {state}, {len(self._held)} devices>"

    # -- the block ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("a Gateway is entered once")
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
        taps: list[Tap] = []
        async with open_quiet_nursery() as nursery:
            self._nursery = nursery
            try:
                asked = self._broker.listener(self._hear_ask, Ask)
                taps += [self._broker.hear(at, asked) for at in (self._broker.ask(self.id), self._broker.gateways)]
                held_heard = self._broker.listener(self._hear, Held)
                taps.append(self._broker.hear(self._broker.gateway(self.id), held_heard))
                self._server = await nursery.start(self._serve_links)
                for task in (self._announcer.beat, self._announcer.publish_changes, self._announcer.claim_again):
                    nursery.start_soon(task)
                yield
            finally:
                self._draining = True
                for held in list(self._held.values()):
                    self._leave(held)
                    held.port.close()
                for tap in taps:
                    tap.close()
                nursery.cancel_scope.cancel()
                self._nursery = self._server = None

    async def _serve_links(self, task_status: trio.TaskStatus[NatsServer]) -> None:
        async def talk(channel: NatsChannel) -> None:
            await self._askers.serve(channel, self._by_subject.get(channel.subject))

        await self._broker.serve(talk, self._options.max_links, task_status)

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Epoch]:
        """The devices that it has, with their epochs."""
        return {name: held.epoch for name, held in self._held.items()}

    @property
    def draining(self) -> bool:
        """True once it takes no more devices."""
        return self._draining

    def name_of(self, port: Port) -> str | None:
        """Return the name of the device at a port; ``None``: it is none yet. For a port that came back by resume."""
        held = self._by_port.get(port)
        return None if held is None else held.name

    def statistics(self) -> GatewayStatistics:
        """Return what was counted so far."""
        server = self._server
        return GatewayStatistics(
            devices=len(self._held),
            joined=self._joined,
            left=self._left,
            replaced=self._replaced,
            given_up=self._given_up,
            answered_claims=self._answered,
            claimed_again=self._again,
            flapping=self._flapped,
            refused_devices=self._refused,
            links=server.links if server is not None else 0,
            refused_links=server.refused if server is not None else 0,
            strays=self._askers.strays,
            changes=self._announcer.seq,
            lists=self._announcer.lists,
            malformed=self._broker.malformed,
        )

    # -- devices -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def device(self, name: str, port: Port) -> AsyncIterator[HeldDevice]:
        """``async with gateway.device(name, port)``: the device is at this gateway while the block lasts.

        It is served at once, also while the broker is gone, and claimed: an older connection of it, here or at another
        gateway, is given up and its port closed. If a newer one turns up anywhere, this port is closed.

        A port that came back by resume, in a second body of `psession.SessionManager.accept`, is the device that it
        was: the block then does nothing, and the first one goes on.

        Args:
            name: Any text, which authentication has proved: whoever has the name gets what is asked of the device.
            port: The port towards it.

        Raises:
            FleetClosedError: The gateway is being drained, or was left.
            FleetFullError: It has ``max_devices``.
            TypeError, ValueError: It is no name, or this port's device has another.
        """
        subject = self._broker.device(name)
        known = self._by_port.get(port)
        if known is not None:
            if known.name != name:
                raise ValueError(f"this port is device {known.name!r}, and cannot be {name!r} as well")
            yield known
            return
        delay = self._flapping.delay(name, trio.current_time())
        if delay:
            self._flapped += 1
            await trio.sleep(delay)
        held = self._take(name, port, subject)
        try:
            yield held
        finally:
            self._leave(held)

    async def serve(
        self, channel: trio.abc.Channel[Any], authenticate: Authenticate, **options: Unpack[PortOptions]
    ) -> None:
        """Accept a device, have it say who it is, and serve it until it goes: a handler for ``serve_websocket``.

        Args:
            channel: What a device has just opened.
            authenticate: Gets the port, and returns the device's name; ``None``: it is not let in. It bounds its own
                time. Not called for a device that comes back by resume.
            options: Of the port, such as ``resume_within``.

        One that is not let in, or comes while the gateway is being drained, is sent away with a goodbye.

        Raises:
            FleetFullError, TypeError, ValueError: As `device`.
        """
        async with self._manager.accept(channel, **options) as port:
            name = self.name_of(port)
            if name is None:
                try:
                    name = None if self._draining else await authenticate(port)
                except SessionError as error:
                    log.debug("a device was not let in: %s", error, extra={"event_name": "device_not_let_in"})
            if name is None:
                return
            try:
                async with self.device(name, port):
                    await port.wait_closed()
            except FleetClosedError:  # it is being drained: the device goes elsewhere
                log.debug("device %r was sent elsewhere", name, extra={"event_name": "device_not_let_in"})

    async def drain(
        self,
        timeout: float = math.inf,  # noqa: ASYNC109 - as in Port.drain
        *,
        grace: float | None = None,
    ) -> bool:
        """Take no more devices, send all that there are elsewhere, one after the other, and let their turns end.

        Until it is sent away nothing changes for a device. Then no more turns of its are taken, and its askers are told
        that it is moving, so that they ask again elsewhere what was not begun; its port is closed with a goodbye when
        its turns are over. To who looks for it here it is said to be moving until another gateway claims it, 5 s at
        most.

        Args:
            timeout: Seconds to wait, for all of that; then what is left is cut off.
            grace: Seconds over which devices are sent away, so that they do not come to the other gateways all at once;
                ``None``: 200 devices a second, and half of `timeout` at the most.

        Returns:
            True if all turns had come to their end.
        """
        checks.seconds("timeout", timeout)
        if grace is not None:
            checks.seconds("grace", grace)
        self._draining = self._announcer.draining = True
        self._announcer.beat_now()
        until = trio.current_time() + timeout
        done: list[bool] = []
        devices = list(self._held.values())
        spread = min(len(devices) / SENT_AWAY_A_SECOND, timeout / 2) if grace is None else min(grace, timeout)

        async def send_away(held: HeldDevice, after: float) -> None:
            await trio.sleep(after)
            if held.tap is None or self._server is None:
                return
            self._server.refuse(held.subject, MOVING)
            moving = self._moving[held.name] = Moving()
            heard = self._broker.listener(partial(self._hear_moved, held, moving), Claim)
            moving.tap = self._broker.hear(self._broker.claim(held.name), heard)
            try:
                await send_askers_away(held, until, done)
                await drain_port(held.port, until, done)
                self._leave(held)
                with trio.move_on_at(min(until, trio.current_time() + SAID_TO_MOVE)):
                    await moving.arrived.wait()
            finally:
                moving.tap.close()
                self._moving.pop(held.name, None)
                if self._server is not None:
                    self._server.remove(held.subject)

        async with open_quiet_nursery() as nursery:
            for place, held in enumerate(devices):
                nursery.start_soon(send_away, held, spread * place / len(devices))
        return all(done)

    def _hear_moved(self, held: HeldDevice, moving: Moving, claim: Claim, reply: str) -> None:
        """Another gateway claims a device that was sent away. Askers hear that too, and go there."""
        if claim.gateway != self.id:
            moving.arrived.set()
            if self._server is not None:
                self._server.remove(held.subject)

    # -- taking and leaving ------------------------------------------------------------------------------------------

    def _take(self, name: str, port: Port, subject: str) -> HeldDevice:
        older = self._held.get(name)
        if self._draining or self._server is None:
            self._refused += 1
            why = "is being drained" if self._server is not None else "is not open"
            raise FleetClosedError(f"gateway {self.name!r} {why}, and takes no device", outcome="not_sent")
        if older is None and len(self._held) >= self._options.max_devices:
            self._refused += 1
            raise FleetFullError(
                f"gateway {self.name!r} has {self._options.max_devices} devices (max_devices)", outcome="not_sent"
            )
        if older is not None:
            self._replaced += 1
            self._give_up(older, "it connected anew to this gateway")
        tap = self._broker.hear(
            self._broker.claim(name), self._claims_heard
        )  # where the client is closed, nothing was changed
        epoch = self._holdings.take(name, time.time_ns())
        held = HeldDevice(name, port, epoch, subject)
        held.tap = tap
        self._held[name] = self._by_subject[subject] = self._by_port[port] = held
        self._server.add(subject)
        self._joined += 1
        self._claim(name)
        self._announcer.joined(name, epoch.number)
        log.debug("device %r joined", name, extra={"event_name": "device_joined", "device": name})
        return held

    def _claim(self, name: str) -> bool:
        """Claim a device, if there is a connection."""
        if not self._broker.is_connected:
            return False
        return self._broker.say(self._broker.claim(name), self._holdings.claim(name, trio.current_time()))

    def _leave(self, held: HeldDevice, *, moved: bool = False) -> None:
        """A device is here no more. Idempotent."""
        tap, held.tap = held.tap, None
        if tap is None:
            return
        tap.close()
        if self._server is not None and held.name not in self._moving:
            self._server.remove(held.subject)
        self._by_port.pop(held.port, None)
        if self._held.get(held.name) is held:
            del self._held[held.name]
            del self._by_subject[held.subject]
        if self._holdings.leave(held.name, held.epoch):
            (self._announcer.moved if moved else self._announcer.left)(held.name)
        self._left += 1
        if held.askers and self._nursery is not None:
            self._nursery.start_soon(send_askers_away, held, trio.current_time() + FAREWELL, [])
        log.debug("device %r left", held.name, extra={"event_name": "device_left", "device": held.name})

    def _give_up(self, held: HeldDevice, why: str) -> None:
        """A newer connection has the device."""
        now = trio.current_time()
        if self._flapping.taken_away(held.name, now):
            log.warning(
                "device %r flaps: %s, the fourth time in a minute; several processes share its name, or its "
                "connections break. Its next connections have to wait",
                held.name,
                why,
                extra={"event_name": "device_flaps", "device": held.name},
            )
        log.debug("device %r is given up: %s", held.name, why, extra={"event_name": "device_given_up"})
        self._leave(held, moved=True)
        held.port.close()

    # -- what others say ---------------------------------------------------------------------------------------------

    def _hear_ask(self, ask: Ask, reply: str) -> None:
        if reply:
            self._announcer.asked(ask, reply)

    def _hear(self, word: Claim | Held, reply: str) -> None:
        now = trio.current_time()
        verdict = self._holdings.hear(word, time.time_ns(), now)
        if verdict == "give_up":
            self._given_up += 1
            self._give_up(self._held[word.device], f"gateway {word.gateway} has a newer connection")
        elif verdict == "answer":
            self._answered += 1
            self._broker.say(self._broker.gateway(word.gateway), self._holdings.answer(word.device, now))
        elif verdict == "claim_again":
            self._again += 1
            held, epoch = self._held[word.device], self._holdings.epoch(word.device)
            assert epoch is not None
            held.epoch = epoch
            self._claim(word.device)
            self._announcer.joined(word.device, epoch.number)
