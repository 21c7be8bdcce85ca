"""deploy/nats.conf in a real nats-server: each kind of program can do its work, and nothing of another's."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, SessionManager
from psession.brokers.nats import Nats, NatsAuthError, NatsNoRespondersError, NatsPermissionError, open_nats
from psession.channels import memory_pair
from psession.fleet import Fleet, Gateway

from ..ports import free_port
from .nats_servers import HOST, find_server
from .test_systems import wait_for_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession import Port

pytestmark = pytest.mark.foreign

CONF = Path(__file__).parents[2] / "deploy" / "nats.conf"
ROOT = "psession.home"
PASSWORDS = {"GATEWAY_PASSWORD": "g1", "SERVICE_PASSWORD": "s1", "WATCHER_PASSWORD": "w1", "CLUSTER_PASSWORD": "c1"}


@dataclass
class Place:
    """A server with that configuration, and who connects to it."""

    url: str
    stack: AsyncExitStack

    async def nats(self, user: str, **options: Any) -> Nats:
        """A client as one kind of program."""
        options = {"inbox_prefix": f"_INBOX_{user}", "user": user, "password": f"{user[0]}1", **options}
        return await self.stack.enter_async_context(open_nats(self.url, **options))


@asynccontextmanager
async def a_place(folder: Path) -> AsyncIterator[Place]:
    """A single node."""
    async with nodes(folder, 1) as (port,), AsyncExitStack() as stack:
        yield Place(f"nats://{HOST}:{port}", stack)


@asynccontextmanager
async def nodes(folder: Path, count: int) -> AsyncIterator[list[int]]:
    """Nodes with deploy/nats.conf, on ports that are free here."""
    program = find_server("newest")
    clients, routes, monitors = ([free_port() for _ in range(count)] for _ in range(3))
    async with trio.open_nursery() as nursery:
        for number in range(count):
            text = CONF.read_text(encoding="utf-8")
            for there, here in (
                ('listen: "0.0.0.0:4222"', f'listen: "{HOST}:{clients[number]}"'),
                ('listen: "0.0.0.0:6222"', f'listen: "{HOST}:{routes[number]}"'),
                ('http: "127.0.0.1:8222"', f'http: "{HOST}:{monitors[number]}"'),
            ):
                assert there in text
                text = text.replace(there, here)
            path = folder / f"node{number}.conf"
            path.write_text(text)
            told = ", ".join(f"nats://cluster:c1@{HOST}:{port}" for port in routes) if count > 1 else ""
            there = os.environ | PASSWORDS | {"NATS_NAME": f"node{number}", "NATS_ROUTES": f"[{told}]"}
            command = [program, "-c", str(path), "-l", str(folder / f"node{number}.log")]
            process = await nursery.start(partial(trio.run_process, command, check=False, env=there))
            await wait_for_listener(clients[number], process)
        yield clients
        nursery.cancel_scope.cancel()


async def lamp(message: Any) -> Any:
    """A device."""
    return {"lamp": message["command"]}


@asynccontextmanager
async def a_device(gateway: Gateway, name: str) -> AsyncIterator[Port]:
    """A device at a gateway."""
    near, far = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with (
        manager.port("gateway", near, on_request=lamp) as own,
        manager.port("device", far) as port,
        gateway.device(name, port),
    ):
        yield own


async def test_each_kind_of_program_does_its_work(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        clients = [await place.nats(user) for user in ("gateway", "gateway", "service", "watcher")]
        await do_the_work_of_each(*clients)


async def do_the_work_of_each(one: Nats, two: Nats, service: Nats, looks: Nats) -> None:
    """Two gateways, a service and a watcher, with all that they may do."""
    async with (
        Gateway(one, "home", name="one") as gateway,
        Gateway(two, "home", name="two") as other,
        a_device(gateway, "lamp") as own,
        Fleet(service, "home") as fleet,
        Fleet(looks, "home") as watcher,
    ):
        await one.flush()  # the server knows what the gateway serves
        assert await fleet.device("lamp").request({"command": 1}, timeout=10) == {"lamp": 1}
        assert list(await watcher.devices()) == ["lamp"]
        assert [info.name for info in await watcher.gateways()] == ["one", "two"]
        async with trio.open_nursery() as nursery:

            async def ask_for_it() -> None:
                answer = await fleet.device("oven", wait=20).request({"command": 2}, timeout=10)
                assert answer == {"lamp": 2}
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask_for_it)
            await trio.sleep(0.3)
            async with a_device(other, "oven"):
                await trio.sleep_forever()
        async with a_device(other, "lamp"):  # it moves: the other gateway hears the claim, and gives it up
            with trio.fail_after(10):
                await own.wait_closed()
            assert await fleet.device("lamp").request({"command": 3}, timeout=10) == {"lamp": 3}
        assert gateway.statistics().given_up == 1


PUBLISHED = {
    "gateway": {"claim.lamp", "gateway.x", "beat.x", "change.x"},
    "service": {"device.lamp"},
    "watcher": {"gateways", "ask.x"},
}
HEARD = {
    "gateway": {"device.lamp", "claim.lamp", "gateway.x", "gateways", "ask.x"},
    "service": {"claim.lamp"},
    "watcher": {"beat.x", "change.x"},
}
SUBJECTS = sorted(set().union(*PUBLISHED.values(), *HEARD.values()))


@pytest.mark.parametrize("user", PUBLISHED)
async def test_what_one_kind_may_publish_no_other_may(tmp_path: Path, user: str) -> None:
    async with a_place(tmp_path) as place:
        nats = await place.nats(user)
        for subject in SUBJECTS:
            allowed = subject in PUBLISHED[user]
            with pytest.raises(NatsNoRespondersError if allowed else NatsPermissionError):
                await nats.request(f"{ROOT}.{subject}", b"x", timeout=10)
        with pytest.raises(NatsPermissionError):
            await nats.request("psession.office.device.lamp", b"x", timeout=10)


async def is_heard(nats: Nats, subject: str) -> bool:
    """Return True where a client may subscribe to a subject."""
    try:
        async with nats.subscribe(subject) as subscription:
            await nats.flush()
            with trio.move_on_after(0.1):
                await subscription.receive()
    except NatsPermissionError:
        return False
    return True


@pytest.mark.parametrize("user", HEARD)
async def test_what_one_kind_may_hear_no_other_may(tmp_path: Path, user: str) -> None:
    inboxes = [f"_INBOX_{kind}.>" for kind in HEARD]
    async with a_place(tmp_path) as place:
        nats = await place.nats(user)
        for subject in [*(f"{ROOT}.{subject}" for subject in [*SUBJECTS, "*.*", ">"]), *inboxes, "_INBOX.>", ">"]:
            allowed = subject.removeprefix(f"{ROOT}.") in HEARD[user] or subject == f"_INBOX_{user}.>"
            assert await is_heard(nats, subject) is allowed, subject


async def test_a_stranger_is_not_let_in(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(NatsAuthError):
            await place.nats("service", password="wrong")
        with pytest.raises(NatsAuthError):
            await place.stack.enter_async_context(open_nats(place.url))


async def test_three_nodes_are_a_cluster(tmp_path: Path) -> None:
    async with nodes(tmp_path, 3) as ports, AsyncExitStack() as stack:
        here, there = (Place(f"nats://{HOST}:{port}", stack) for port in (ports[0], ports[2]))
        one, other = await here.nats("gateway"), await there.nats("service")
        async with (
            Gateway(one, "home") as gateway,
            a_device(gateway, "lamp"),
            Fleet(other, "home", wait=20) as fleet,
        ):
            with trio.fail_after(30):
                assert await fleet.device("lamp").request({"command": 1}, timeout=10) == {"lamp": 1}


async def test_the_command_lines_of_deploy_work_with_its_permissions(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        await run_command_lines(place, tmp_path)


async def run_command_lines(place: Place, tmp_path: Path) -> None:
    """A gateway as deploy/compose.yaml starts it, and who looks at it."""
    (tmp_path / "tokens").write_text("secret lamp\n")
    host = place.url.removeprefix("nats://")

    def servers(user: str) -> dict[str, str]:
        return os.environ | {"PSESSION_NATS": f"nats://{user}:{user[0]}1@{host}"}

    psession = [sys.executable, "-m", "psession"]
    options = ["--listen=ws://127.0.0.1:0", "--inbox=_INBOX_gateway", "--fleet=home", f"--tokens={tmp_path}/tokens"]
    async with trio.open_nursery() as nursery:
        gateway = [*psession, "gateway", *options, "--name", "one", "--drain=10"]
        run = partial(trio.run_process, gateway, stdout=subprocess.PIPE, check=False, env=servers("gateway"))
        process = await nursery.start(run)
        with trio.fail_after(30):
            assert (await process.stdout.receive_some()).startswith(b"ws://127.0.0.1:")
        fleet = [*psession, "fleet", "--inbox", "_INBOX_watcher"]
        done = await trio.run_process(fleet, capture_stdout=True, env=servers("watcher"))
        assert done.stdout.startswith(b"fleet home: 1 gateway, 0 devices\n  gateway one (")
        nursery.cancel_scope.cancel()
