"""A fleet of real processes around a real nats-server, killed by seed: every call has an outcome, and none is untrue.

PSESSION_FLEET_SEEDS says how many seeds (6 by default): ``nox -s fleet_kills`` takes 100.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Port, SessionError, SessionManager
from psession.brokers.nats import open_nats
from psession.channels import memory_pair, open_tcp
from psession.fleet import DeviceNotFoundError, Fleet, Gateway

from ..ports import free_port
from .fleet_part import ask
from .nats_servers import HOST, servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.foreign

PART = Path(__file__).parent / "fleet_part.py"
SEEDS = int(os.environ.get("PSESSION_FLEET_SEEDS", "6"))
NAMES = [f"device {number}" for number in range(6)]
LOAD_SECONDS = 2.0
KILLS = 4


class Part:
    """A process of the fleet, which is started again after each kill."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = [*map(str, arguments)]
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it is ready."""
        process = self._process = await trio.lowlevel.open_process(
            [sys.executable, str(PART), *self.arguments], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert b"ready" in await process.stdout.receive_some(), "a part did not start"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """``kill -9``, and return when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


@asynccontextmanager
async def parts(*made: Part) -> AsyncIterator[None]:
    """All parts for as long as the block lasts."""
    try:
        async with trio.open_nursery() as nursery:
            for part in made:
                nursery.start_soon(part.start)
        yield
    finally:
        with trio.CancelScope(shield=True):
            for part in made:
                await part.kill()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_kills_by_seed_leave_every_call_with_a_true_outcome(seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"fleet {seed}")
    numbers = [free_port(), free_port()]
    done, asked = tmp_path / "done", tmp_path / "asked"
    outcomes: dict[str, str] = {}
    begun = 0
    with trio.fail_after(90):
        async with servers(tmp_path) as (broker,):
            gateways = [Part("gateway", broker.url, number) for number in numbers]
            ports = ",".join(map(str, numbers))
            fleets = [Part("devices", done, ports, seed * 2 + half, *NAMES[half::2]) for half in range(2)]
            service, runs = Part("service", broker.url, asked, "s0", *NAMES), 0
            async with (
                parts(*gateways, *fleets),
                open_nats(broker.url, max_delay=0.5) as nats,
                Fleet(nats, "killed", wait=2) as plain,
                Fleet(nats, "killed", wait=2, resume_within=3) as resuming,
            ):
                await until_all_are_there(plain)
                over = trio.Event()

                async def load(worker: int) -> None:
                    nonlocal begun
                    number, mine = 0, random.Random(f"{seed} {worker}")
                    while not over.is_set():
                        fleet = (plain, resuming)[worker % 2]
                        begun += 1
                        number += 1
                        await ask(fleet.device(mine.choice(NAMES)), f"t{worker}", number, outcomes, mine)
                        await trio.sleep(0.002)

                async with parts(service), trio.open_nursery() as nursery:
                    for worker in range(8):
                        nursery.start_soon(load, worker)
                    for _ in range(KILLS):
                        await trio.sleep(rng.uniform(0.1, LOAD_SECONDS / KILLS))
                        victim = rng.choice(["gateway", "gateway", "devices", "service", "broker"])
                        if victim == "broker":
                            await broker.kill()
                            await trio.sleep(rng.uniform(0, 0.5))
                            await broker.start()
                        elif victim == "service":
                            await service.kill()
                            runs += 1  # its next life asks under other ids
                            service.arguments[3] = f"s{runs}"
                            await service.start()
                        else:
                            part = rng.choice(gateways if victim == "gateway" else fleets)
                            await part.kill()
                            await trio.sleep(rng.uniform(0, 0.5))
                            await part.start()
                    await trio.sleep(0.3)
                    over.set()
                await until_all_are_there(plain)  # all comes back by itself
                for name in NAMES:
                    assert await plain.device(name).request({"id": f"last {name}", "work": 0}, timeout=5)
    for line in asked.read_text(encoding="utf-8").splitlines() if asked.exists() else ():
        id, _, outcome = line.rpartition(" ")
        outcomes[id] = outcome
    ran = Counter(done.read_text(encoding="utf-8").splitlines())
    untrue = {
        id: (outcome, ran[id])
        for id, outcome in outcomes.items()
        if (outcome == "answered" and ran[id] != 1)
        or (outcome in ("not_sent", "refused") and ran[id])
        or outcome not in ("answered", "not_sent", "refused", "sent")
    }
    print(f"seed {seed}: {begun} calls here, {len(outcomes)} turns, {Counter(outcomes.values())}")
    assert untrue == {}
    assert max(ran.values()) == 1  # no work was done twice
    assert sum(outcome == "answered" for outcome in outcomes.values()) > 100


async def until_all_are_there(fleet: Fleet) -> None:
    """Wait until each device is at some gateway."""
    with trio.fail_after(30):
        while set(await fleet.devices()) != set(NAMES):  # noqa: ASYNC110 - as the fleet says it
            await trio.sleep(0.05)


@pytest.mark.parametrize("which", ["newest", "oldest"])
async def test_a_gateway_that_is_stopped_and_goes_on_gives_its_device_up_and_no_outcome_is_untrue(
    which: str, tmp_path: Path
) -> None:
    """SIGSTOP, under load; its device connects elsewhere, with the old connection still open; SIGCONT."""
    numbers = [free_port(), free_port()]
    outcomes: dict[str, str] = {}
    times: dict[str, float] = {}
    ran: Counter[str] = Counter()

    async def answer(message: dict[str, Any]) -> dict[str, str]:
        if "who" in message:
            return {"name": "lamp"}
        ran[message["id"]] += 1
        await trio.sleep(message["work"])
        return {"did": message["id"]}

    async def connect(number: int, task_status: trio.TaskStatus[Port]) -> None:
        async with (
            open_tcp(HOST, number) as channel,
            SessionManager(dialect=Exact()).port("gateway", channel, on_request=answer) as port,
        ):
            task_status.started(port)
            await trio.sleep_forever()

    async def outcome_of(fleet: Fleet, id: str, work: float = 0.0) -> str:
        started = trio.current_time()
        try:
            await fleet.device("lamp").request({"id": id, "work": work}, timeout=60)
        except SessionError as error:
            outcomes[id] = str(error.outcome)
        else:
            outcomes[id] = "answered"
        times[id] = trio.current_time() - started
        return outcomes[id]

    with trio.fail_after(90):
        async with servers(tmp_path, which) as (broker,):
            gateways = [Part("gateway", broker.url, number) for number in numbers]
            async with (
                parts(*gateways),
                open_nats(broker.url) as nats,
                Fleet(nats, "killed") as fleet,
                trio.open_nursery() as nursery,
            ):
                old: Port = await nursery.start(connect, numbers[0])
                while await outcome_of(fleet, f"first {trio.current_time()}") != "answered":  # noqa: ASYNC110
                    await trio.sleep(0.02)
                over = trio.Event()

                async def load(worker: int) -> None:
                    number = 0
                    while not over.is_set():
                        await outcome_of(fleet, f"{worker} {number}", work=0.01)
                        number += 1
                        await trio.sleep(0.002)

                async with trio.open_nursery() as loads:
                    for worker in range(4):
                        loads.start_soon(load, worker)
                    loads.start_soon(outcome_of, fleet, "long", 45)
                    await trio.sleep(0.5)
                    gateways[0].signal(signal.SIGSTOP)
                    await until(lambda: "long" in outcomes)
                    assert outcomes["long"] == "sent"
                    assert 5.0 <= times["long"] - 0.5 <= 12.0  # 5.5 to 6 s, and what a busy machine takes; not 45
                    new: Port = await nursery.start(connect, numbers[1])
                    answered = sum(outcome == "answered" for outcome in outcomes.values())
                    await until(lambda: sum(outcome == "answered" for outcome in outcomes.values()) > answered + 50)
                    assert not old.closed  # a gateway that stands still cannot close it
                    gateways[0].signal(signal.SIGCONT)
                    await until(lambda: old.closed)
                    await trio.sleep(0.5)
                    over.set()
                assert not new.closed
                assert await outcome_of(fleet, "last") == "answered"
                assert len({epoch.gateway for epoch in (await fleet.devices()).values()}) == 1
                assert fleet.statistics().silent == 1
                nursery.cancel_scope.cancel()
    allowed = {"answered": (1,), "sent": (0, 1), "refused": (0,), "not_sent": (0,)}
    assert {id: (outcome, ran[id]) for id, outcome in outcomes.items() if ran[id] not in allowed[outcome]} == {}
    assert max(ran.values()) == 1
    print(Counter(outcomes.values()), f"the longest wait: {max(times.values()):.1f} s")
    assert max(times.values()) < 15


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    while not true():  # noqa: ASYNC110 - of another process
        await trio.sleep(0.005)


@pytest.mark.parametrize("which", ["newest", "oldest"])
async def test_a_devices_name_reaches_nobody_else_at_a_real_server(which: str, tmp_path: Path) -> None:
    """The broker's own matching of subjects is what keeps devices apart."""
    names = ["*", ">", "a.b", "a.>", " ", "\r\nPUB x 0\r\n\r\n", "=2A", "ä", "\U0001f4a1", "a\x00b", "." * 256, "a b"]
    did: list[tuple[str, int]] = []

    async def serve(name: str, port: Port, gateway: Gateway, task_status: trio.TaskStatus[None]) -> None:
        async with gateway.device(name, port):
            task_status.started()
            await port.wait_closed()

    async with (
        servers(tmp_path, which) as (broker,),
        open_nats(broker.url) as nats,
        open_nats(broker.url) as asking,
        Gateway(nats, "a.*") as gateway,
        Fleet(asking, "a.*") as fleet,
        AsyncExitStack() as stack,
    ):
        nursery = await stack.enter_async_context(trio.open_nursery())
        for name in names:
            near, far = memory_pair()

            def answer(message: dict[str, int], name: str = name) -> dict[str, str]:
                did.append((name, message["n"]))
                return {"by": name}

            manager = SessionManager(dialect=Exact())
            await stack.enter_async_context(manager.port("gateway", near, on_request=answer))
            port = await stack.enter_async_context(manager.port("device", far))
            await nursery.start(serve, name, port, gateway)
        await nats.flush()
        for number, name in enumerate(names):
            assert await fleet.device(name).request({"n": number}, timeout=5) == {"by": name}
        assert did == [(name, number) for number, name in enumerate(names)]
        assert set(await fleet.devices()) == set(names)
        with pytest.raises(DeviceNotFoundError):
            await fleet.device("a").request({"n": 0})
        nursery.cancel_scope.cancel()
