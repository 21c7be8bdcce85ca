"""The links that a fleet has to devices: opened when a call needs one, kept for the next, closed when idle."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import trio

from psession.channels import reconnecting
from psession.errors import SessionError
from psession.fleet._broker import log
from psession.fleet._errors import (
    DeviceNotFoundError,
    FleetClosedError,
    FleetDisconnectedError,
    FleetError,
    FleetFullError,
)
from psession.fleet._words import Claim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession.brokers.nats import NatsChannel, Tap
    from psession.fleet._broker import Broker
    from psession.fleet._options import FleetOptions
    from psession.shell.manager import SessionManager
    from psession.shell.port import Port

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for a gateway to say welcome: a gateway that is busy for so long is of no use."""

PROBE_INTERVAL: Final = 0.5
"""Seconds of silence after which a link that is in use asks whether the gateway is there still."""

IDLE_PROBE_INTERVAL: Final = 5.0
"""The same for a link that no call uses: a thousand of them are 200 words a second. What is asked on a link whose
gateway has died, before that is known, fails as ``"sent"``."""

SILENCE: Final = 5.0
"""Seconds without an answer to probes after which a link is given up: its gateway stands still, or the way to it is cut
and nobody says so. As long as `CONNECT_TIMEOUT`, for the same reason."""

MOVING: Final = 5.0
"""Seconds that a call waits for a device which was there a moment ago and is moving: a reconnect takes 1 or 2."""

ALARM_INTERVAL: Final = 0.1
"""Seconds between two times that all links are looked after, since others break."""

FIRST_PAUSE: Final = 0.1
MAX_PAUSE: Final = 1.0
"""Seconds between two looks for a device that is nowhere: its gateway's claim, which wakes the call, may be lost."""


class _FirstLinkError(Exception):
    """The first link of a port that resumes could not be opened: there is nothing to come back to yet."""

    def __init__(self, error: FleetError) -> None:
        super().__init__(str(error))
        self.error = error


@final
class DeviceLink:
    """A link to a device, and the port over it.

    Attributes:
        name: The device's name.
        users: The number of calls that use it.
        unanswered: Looks at it, each `PROBE_INTERVAL` after the other, since a probe that was not answered.
    """

    __slots__ = ("_port", "channel", "error", "last_used", "name", "probed", "ready", "scope", "unanswered", "users")

    def __init__(self, name: str) -> None:
        self.name = name
        self.users: int = 0
        self.last_used: float = trio.current_time()
        self.probed: float = self.last_used
        self.unanswered: int = 0
        self.channel: NatsChannel | None = None
        self.error: SessionError | None = None
        self.ready = trio.Event()
        self.scope = trio.CancelScope()
        self._port: Port | None = None

    @property
    def port(self) -> Port:
        """The port, once it is ready."""
        assert self._port is not None
        return self._port

    @port.setter
    def port(self, port: Port) -> None:
        self._port = port

    @property
    def is_over(self) -> bool:
        """True where it is of no further use."""
        return self.error is not None or (self._port is not None and self._port.closed)


class _Awaited:
    """A device that calls wait for."""

    __slots__ = ("came", "tap", "waiters")

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.waiters = 0
        self.came = trio.Event()


class LinkPool:
    """The links of one fleet.

    Args:
        broker: What they go over.
        manager: Of their ports.
        options: Of the fleet.
        resume_within: Seconds for which a link may be broken.
        nursery: For a task for each link.

    Attributes:
        opened, reused, idle_closed, evicted, refused, nowhere, waited, probes, silent: As in `FleetStatistics`.
    """

    def __init__(
        self,
        broker: Broker,
        manager: SessionManager,
        options: FleetOptions,
        resume_within: float,
        nursery: trio.Nursery,
    ) -> None:
        self.opened: int = 0
        self.reused: int = 0
        self.idle_closed: int = 0
        self.evicted: int = 0
        self.refused: int = 0
        self.nowhere: int = 0
        self.waited: int = 0
        self.probes: int = 0
        self.silent: int = 0
        self._broker = broker
        self._manager = manager
        self._options = options
        self._resume_within = resume_within
        self._nursery: trio.Nursery | None = nursery
        self._links: dict[str, DeviceLink] = {}
        self._awaited: dict[str, _Awaited] = {}
        self._moving: dict[str, float] = {}
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._links)

    # -- for calls ---------------------------------------------------------------------------------------------------

    def standing(self, name: str) -> DeviceLink | None:
        """Return a link that stands, to be given back; ``None`` where one has to be waited for."""
        link = self._links.get(name)
        if link is None or link.is_over or not link.ready.is_set():
            return None
        self.reused += 1
        link.users += 1
        return link

    async def take(self, name: str, until: float) -> DeviceLink:
        """Return a link that stands, to be given back; wait `until` then for a device that is nowhere.

        One that is moving is waited for at least `MOVING` seconds after that was last known.

        Raises:
            FleetError: There is none.
        """
        pause, has_waited = FIRST_PAUSE, False
        while True:
            try:
                return await self._take_now(name)
            except (DeviceNotFoundError, FleetDisconnectedError):
                patient_until = max(until, self.moving_until(name))
                if trio.current_time() >= patient_until:
                    self.nowhere += 1
                    raise
            if not has_waited:
                has_waited = True
                self.waited += 1
            await self._wait_for(name, min(patient_until, trio.current_time() + pause))
            pause = min(MAX_PAUSE, pause * 2)

    async def _take_now(self, name: str) -> DeviceLink:
        link = self._links.get(name)
        if link is not None and link.is_over:
            self.retire(link)
            link = None
        if link is None:
            link = self._begin(name)
        else:
            self.reused += 1
        link.users += 1
        if not link.ready.is_set():
            try:
                await link.ready.wait()
            except trio.Cancelled:
                self.give_back(link)
                raise
        if link.error is not None:
            self.give_back(link)
            raise type(link.error)(link.error.why, outcome="not_sent") from link.error
        return link

    def give_back(self, link: DeviceLink) -> None:
        """A call uses a link no more."""
        link.users -= 1
        link.last_used = trio.current_time()
        if self._links.get(link.name) is link:
            self._links[link.name] = self._links.pop(link.name)  # the last of all, by its use
        elif not link.users:
            link.scope.cancel()

    def retire(self, link: DeviceLink) -> None:
        """Give a link to no further calls; those that have it keep it."""
        if self._links.get(link.name) is link:
            del self._links[link.name]
            if not link.users:
                link.scope.cancel()

    def moved(self, link: DeviceLink) -> None:
        """Retire a link whose device is moving: calls look for that a while, since a reconnect takes 1 or 2 seconds."""
        self.retire(link)
        self._note_moving(link.name)

    def _note_moving(self, name: str) -> None:
        self._moving.pop(name, None)
        self._moving[name] = trio.current_time() + MOVING
        if len(self._moving) > self._options.max_links:
            del self._moving[next(iter(self._moving))]

    def moving_until(self, name: str) -> float:
        """The moment until which a device is looked for, since it is moving; minus infinity where it is not."""
        return self._moving.get(name, -math.inf)

    async def _wait_for(self, name: str, until: float) -> None:
        """Return when a gateway claims the device, at `until` at the latest."""
        awaited = self._awaited.get(name)
        if awaited is None:

            def claimed(word: Claim, reply: str) -> None:
                self._awaited[name].came.set()

            awaited = self._awaited[name] = _Awaited(
                self._broker.hear(self._broker.claim(name), self._broker.listener(claimed, Claim))
            )
        awaited.waiters += 1
        try:
            with trio.move_on_at(until):
                if not self._broker.is_connected:
                    await self._broker.until_connected()
                await awaited.came.wait()
        finally:
            awaited.waiters -= 1
            awaited.came = trio.Event() if awaited.came.is_set() else awaited.came
            if not awaited.waiters:
                awaited.tap.close()
                del self._awaited[name]

    # -- opening and closing -----------------------------------------------------------------------------------------

    def _begin(self, name: str) -> DeviceLink:
        if self._nursery is None:
            raise FleetClosedError("the fleet was left", outcome="not_sent")
        if not self._broker.is_connected:
            raise FleetDisconnectedError(
                f"device {name!r} was not asked: there is no connection to the broker", outcome="not_sent"
            )
        if len(self._links) >= self._options.max_links:
            idle = next((link for link in self._links.values() if not link.users), None)
            if idle is None:
                self.refused += 1
                raise FleetFullError(
                    f"{self._options.max_links} links are open, and all are in use (max_links)", outcome="not_sent"
                )
            self.evicted += 1
            self.retire(idle)
        link = self._links[name] = DeviceLink(name)
        self._wake.set()
        self._nursery.start_soon(self._run, link)
        return link

    async def _run(self, link: DeviceLink) -> None:
        """Open a link, and keep it until it is over."""
        try:
            with link.scope:
                async with self._open(link) as channel, self._manager.port(self._port_name(link.name), channel) as port:
                    link.port = port
                    self.opened += 1
                    self._moving.pop(link.name, None)
                    link.ready.set()
                    await port.wait_closed()
        except _FirstLinkError as failed:
            link.error = failed.error
        except SessionError as error:
            link.error = error
        except (trio.BrokenResourceError, trio.EndOfChannel) as error:
            link.error = FleetDisconnectedError(f"the link to device {link.name!r} broke as it was opened: {error}")
        finally:
            if link.error is None:
                link.error = FleetClosedError("the link was closed", outcome="not_sent")
                if not link.scope.cancel_called:
                    self._look_after_all()  # its gateway may be dead, and others go there
            if self._links.get(link.name) is link:
                del self._links[link.name]
            link.ready.set()
            log.debug("link to device %r is over", link.name, extra={"event_name": "fleet_link_over"})

    @asynccontextmanager
    async def _open(self, link: DeviceLink) -> AsyncIterator[trio.abc.Channel[Any]]:
        returning = self._broker.returning(link.name, CONNECT_TIMEOUT)
        note_moving = partial(self._note_moving, link.name)

        @asynccontextmanager
        async def connect() -> AsyncIterator[NatsChannel]:
            opening = self._broker.link(returning, link.name, note_moving)
            try:
                channel = await opening.__aenter__()
            except FleetError as error:
                if self._resume_within and not link.ready.is_set():
                    raise _FirstLinkError(error) from error
                if isinstance(error, DeviceNotFoundError):
                    raise ConnectionError(error.why) from error  # it may be somewhere soon
                raise
            link.channel = channel
            try:
                yield channel
            finally:
                link.channel = None
                await opening.__aexit__(None, None, None)

        if self._resume_within:
            async with reconnecting(connect, max_delay=MAX_PAUSE) as channel:
                yield channel
            return
        opening = self._broker.link(returning, link.name, note_moving)
        async with opening as link.channel:
            yield link.channel

    def _port_name(self, name: str) -> str:
        """The name that a port has in the manager: one that is being left has the device's still."""
        ports, made, number = self._manager.ports, name, 1
        while made in ports:
            number += 1
            made = f"{name} ({number})"
        return made

    # -- looking after them ------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Probe the links that are in use, and close those that are not."""
        while True:
            if not self._links:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(PROBE_INTERVAL)
            now = trio.current_time()
            for link in list(self._links.values()):
                if not link.users and now - link.last_used >= self._options.idle:
                    self.idle_closed += 1
                    self.retire(link)
                    continue
                channel = link.channel
                if channel is not None and not self._is_silent(link, channel):
                    patience = PROBE_INTERVAL if link.users or link.unanswered else IDLE_PROBE_INTERVAL
                    self._look_after(link, max(channel.heard, link.probed) + patience, now)

    def _is_silent(self, link: DeviceLink, channel: NatsChannel) -> bool:
        """Give a link up whose other end has not answered for long. It counts looks, so that a pause here is none."""
        link.unanswered = 0 if channel.heard >= link.probed else link.unanswered + 1
        if link.unanswered * PROBE_INTERVAL < SILENCE:
            return False
        self.silent += 1
        link.unanswered, link.probed = 0, trio.current_time()
        channel.give_up(
            f"the gateway of device {link.name!r} has said nothing for {SILENCE:g} s, though it was asked to"
        )
        return True

    def _look_after(self, link: DeviceLink, due: float, now: float) -> None:
        """Ask whether the other end of a link is there, if it is time."""
        channel = link.channel
        if channel is not None and now >= due:
            link.probed = now
            self.probes += 1
            channel.probe()

    def _look_after_all(self) -> None:
        """Ask whether the other ends of all links are there."""
        now = trio.current_time()
        for link in self._links.values():
            self._look_after(link, link.probed + ALARM_INTERVAL, now)

    def close(self) -> None:
        """Open no more, and close all."""
        self._nursery = None
        for link in list(self._links.values()):
            link.scope.cancel()
