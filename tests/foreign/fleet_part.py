"""A part of a fleet, a process that is there to be killed.

python fleet_part.py gateway NATS PORT
python fleet_part.py devices LOG PORTS SEED NAME...
python fleet_part.py service NATS LOG LABEL NAME...

A device writes down the id of each turn that it begins, a service each outcome: ``id outcome``.
"""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

from psession import Exact, Port, SessionError, SessionManager
from psession.brokers.nats import open_nats
from psession.channels import open_tcp, reconnecting, serve_tcp
from psession.fleet import Fleet, FleetDevice, Gateway

HOST = "127.0.0.1"


def append_to(log: Path) -> Any:
    """Return a function that writes a line, which is there also after a kill -9."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda line: os.write(written, f"{line}\n".encode())


async def log_in(port: Port) -> str | None:
    """Ask a device who it is."""
    answer = await port.request({"who": True}, timeout=5)
    return str(answer["name"])


async def gateway(url: str, number: int) -> None:
    """A gateway, until killed."""
    async with open_nats(url, max_delay=0.5) as nats, Gateway(nats, "killed", resume_within=5) as here:

        async def serve(channel: Any) -> None:
            await here.serve(channel, log_in, resume_within=5)

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_tcp, serve, number, host=HOST))
            print("ready", flush=True)


async def devices(log: Path, numbers: list[int], seed: int, names: list[str]) -> None:
    """Devices, each with a connection of its own to one gateway or another, as a load balancer would choose."""
    rng, write = random.Random(seed), append_to(log)
    manager = SessionManager(dialect=Exact())

    async def answer(session: Any, name: str) -> None:
        async for message in session:
            if "who" in message:
                await session.post({"name": name})
                continue
            write(message["id"])
            await trio.sleep(message["work"])
            await session.post({"did": message["id"]})

    async def live(name: str) -> None:
        while True:
            async with (
                reconnecting(lambda: open_tcp(HOST, rng.choice(numbers)), first_delay=0.05, max_delay=0.3) as channel,
                manager.port(name, channel, on_session=partial(answer, name=name), resume_within=5) as port,
            ):
                await port.wait_closed()
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(live, name)
        print("ready", flush=True)


async def ask(device: FleetDevice, label: str, number: int, outcomes: dict[str, str], rng: random.Random) -> None:
    """One request, or a dialogue of some turns; each turn has an outcome."""
    turns = rng.choice([1, 1, 1, 3])
    ids = [f"{label}.{number}.{turn}" for turn in range(turns)]

    def message(id: str) -> dict[str, Any]:
        return {"id": id, "work": rng.choice([0, 0, 0.01, 0.05])}

    if turns == 1:
        outcomes[ids[0]] = await outcome_of(device.request(message(ids[0]), timeout=4))
        return
    try:
        async with device.session() as session:
            for id in ids:
                outcomes[id] = await outcome_of(session.send(message(id), timeout=4))
    except SessionError as error:
        outcomes[ids[0]] = str(error.outcome)


async def outcome_of(call: Any) -> str:
    """What became of a turn: "answered", or what its error says."""
    try:
        await call
    except SessionError as error:
        return str(error.outcome)
    return "answered"


async def service(url: str, log: Path, label: str, names: list[str]) -> None:
    """Who asks, until killed."""
    write, rng = append_to(log), random.Random(label)
    async with open_nats(url, max_delay=0.5) as nats, Fleet(nats, "killed", wait=1) as fleet:

        async def load(worker: int) -> None:
            for number in range(10**6):
                outcomes: dict[str, str] = {}
                await ask(fleet.device(rng.choice(names)), f"{label}.{worker}", number, outcomes, rng)
                for id, outcome in outcomes.items():
                    write(f"{id} {outcome}")
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            for worker in range(4):
                nursery.start_soon(load, worker)
            print("ready", flush=True)


def main() -> None:
    """Be the part that the arguments say."""
    role, *rest = sys.argv[1:]
    if role == "gateway":
        trio.run(gateway, rest[0], int(rest[1]))
    elif role == "devices":
        trio.run(devices, Path(rest[0]), [int(number) for number in rest[1].split(",")], int(rest[2]), rest[3:])
    else:
        trio.run(service, rest[0], Path(rest[1]), rest[2], rest[3:])


if __name__ == "__main__":
    main()
