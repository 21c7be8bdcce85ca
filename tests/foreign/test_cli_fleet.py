"""`psession gateway`, `call nats://`, `fleet` and `demo --fleet` in processes of their own, over a real nats-server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Session, SessionError, SessionManager
from psession._cli._tokens import digest_of
from psession.brokers.nats import open_nats
from psession.channels import HandshakeError, open_websocket, reconnecting
from psession.fleet import Fleet

from ..commands import environment, start
from ..fleet.test_fleet_page import PROGRAMS, SHOWN
from ..ports import free_port
from .nats_servers import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from psession import Port

pytestmark = pytest.mark.foreign

LIMIT = 30.0


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A nats-server."""
    async with servers(tmp_path) as (server,):
        yield server.url


class Gateway:
    """`psession gateway` in a process."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.url = ""
        self.said = ""

    async def read_errors(self) -> None:
        """Keep what it says on standard error."""
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.said += data.decode()


@asynccontextmanager
async def a_gateway(url: str, *options: str) -> AsyncIterator[Gateway]:
    """One, for as long as the block lasts."""
    command = [sys.executable, "-m", "psession", "gateway", "--nats", url, "--listen", "ws://127.0.0.1:0", *options]
    run = partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    async with trio.open_nursery() as nursery:
        gateway = Gateway(await nursery.start(partial(run, env=environment())))
        nursery.start_soon(gateway.read_errors)
        with trio.fail_after(LIMIT):
            assert gateway.process.stdout is not None
            while not gateway.url.endswith("\n"):
                gateway.url += (await gateway.process.stdout.receive_some()).decode()
        gateway.url = gateway.url.strip()
        yield gateway
        nursery.cancel_scope.cancel()


async def answer(session: Session) -> None:
    """What a device does: it takes the time that it is told to."""
    async for message in session:
        await trio.sleep(message.get("wait", 0))
        for part in range(message.get("parts", 0)):
            await session.post({"part": part})
        if "parts" in message:
            await session.finish()
        else:
            await session.post({"light": message["command"]})


@asynccontextmanager
async def a_device(url: str, token: str | None = None) -> AsyncIterator[Port]:
    """A device that comes back, as docs/fleet.md has it."""
    headers = [] if token is None else [("Authorization", f"Bearer {token}")]
    manager = SessionManager(dialect=Exact(), resume_within=30, on_session=answer)
    async with (
        reconnecting(lambda: open_websocket(url, headers=headers)) as channel,
        manager.port("gateway", channel) as port,
    ):
        yield port


async def command(*arguments: str, stdin: bytes = b"", **more: str) -> tuple[int, str, str]:
    """Exit status, output and complaints of a command."""
    line = [sys.executable, "-m", "psession", *arguments]
    with trio.fail_after(LIMIT):
        done = await trio.run_process(
            line, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=environment() | more
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def until(happens: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something of other processes is so."""
    with trio.fail_after(LIMIT):
        while not await happens():  # noqa: ASYNC110 - of other processes
            await trio.sleep(0.05)


async def call_when_there(place: str, *options: str) -> str:
    """What a device answers, which is there in a moment."""
    code, out, err = await command("call", place, '{"command": "on"}', "--wait", "20", "--timeout", "20", *options)
    assert (code, err) == (0, "")
    return out


async def test_a_device_with_a_token_is_asked_by_its_name_from_another_process(url: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# devices\n\nsecret lamp\nsha256:{digest_of('other').hex()} the big oven\n")
    async with a_gateway(url, "--tokens", str(file), "--name", "east") as gateway:
        async with a_device(gateway.url, "secret"), a_device(f"{gateway.url}/?token=other"):
            assert await call_when_there(f"{url}/device.lamp") == '{"light":"on"}\n'
            assert await call_when_there(f"{url}/device.the%20big%20oven") == '{"light":"on"}\n'
            code, out, err = await command("call", f"{url}/device.lamp", '{"parts": 2}', "--stream")
            assert (code, out, err) == (0, '{"part":0}\n{"part":1}\n', "")
            lines = b"".join(json.dumps({"command": number}).encode() + b"\n" for number in range(20))
            code, out, err = await command("call", f"{url}/device.lamp", "-", "--lines", stdin=lines)
            assert (code, out.count("\n"), "20 answered" in err) == (0, 20, True)
            code, out, err = await command("fleet", "--nats", url)
            assert (code, err) == (0, "")
            head, one, *devices = out.splitlines()
            assert head == "fleet home: 1 gateway, 2 devices"
            assert one.startswith("  gateway east (")
            assert one.endswith(")  2 devices")
            assert devices == ["  lamp  at east", "  the big oven  at east"]
        for where in (gateway.url, f"{gateway.url}/?token=wrong", f"{gateway.url}/lamp"):
            with pytest.raises(HandshakeError) as caught:
                async with open_websocket(where):
                    pass
            assert caught.value.status == 401
        assert gateway.said == ""


async def test_a_file_of_tokens_is_read_anew_and_a_bad_one_changes_nothing(url: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("secret lamp\n")
    async with a_gateway(url, "--tokens", str(file)) as gateway:

        async def said(text: str) -> bool:
            return text in gateway.said

        file.write_text("secret\n")
        gateway.process.send_signal(signal.SIGHUP)
        await until(partial(said, "line 1: give TOKEN NAME; the tokens stay as they were\n"))
        file.write_text("secret lamp\nmore oven\n")
        gateway.process.send_signal(signal.SIGHUP)
        await until(partial(said, "psession: read 2 tokens\n"))
        async with a_device(gateway.url, "more"):
            assert await call_when_there(f"{url}/device.oven") == '{"light":"on"}\n'


async def test_without_tokens_the_path_is_the_name_and_that_is_said_loudly(url: str) -> None:
    async with a_gateway(url) as gateway:
        async with a_device(f"{gateway.url}/a%2Fb%20lamp"):
            assert await call_when_there(f"{url}/device.a%2Fb%20lamp") == '{"light":"on"}\n'
        assert "WITHOUT --tokens FILE: whoever connects from this machine is the device that its path" in gateway.said
        with pytest.raises(HandshakeError) as caught:
            async with open_websocket(gateway.url):
                pass
        assert caught.value.status == 400
        with pytest.raises(HandshakeError) as caught:  # a page in a browser is not let in
            async with open_websocket(f"{gateway.url}/lamp", headers=[("Origin", "https://evil.example")]):
                pass
        assert caught.value.status == 403


async def test_a_device_that_is_nowhere_is_told_at_once(url: str) -> None:
    began = time.monotonic()
    code, out, err = await command("call", f"{url}/device.lamp", '{"command": "on"}', "--timeout", "20")
    assert (code, out) == (4, "")
    assert err == "psession: no gateway has a device 'lamp'\n"
    assert time.monotonic() - began < 10


async def test_a_subject_that_somebody_serves_is_called_and_one_that_nobody_serves_is_told(url: str) -> None:
    manager = SessionManager(dialect=Exact(), on_session=answer)

    async def serve(channel: Any) -> None:
        async with manager.port("asker", channel) as port:
            await port.wait_closed()

    async with open_nats(url) as nats, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: nats.serve("house.lamp", serve, task_status=task_status))
        await nats.flush()
        assert await command("call", f"{url}/house.lamp", '{"command": "off"}') == (0, '{"light":"off"}\n', "")
        code, _, err = await command("call", f"{url}/house.oven", '{"command": "off"}')
        assert code == 4
        assert "house.oven" in err
        assert err.count("\n") == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_lets_turns_end_and_sends_devices_elsewhere(url: str, number: int, status: int) -> None:
    async with a_gateway(url, "--name", "one") as one, a_gateway(url, "--name", "two") as two:
        urls = [f"{one.url}/lamp", f"{two.url}/lamp"]
        manager = SessionManager(dialect=Exact(), resume_within=30, on_session=answer)

        async def live() -> None:
            while True:
                async with (
                    reconnecting(lambda: open_websocket(urls[0]), first_delay=0.05) as channel,
                    manager.port("gateway", channel) as port,
                ):
                    await port.wait_closed()
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await call_when_there(f"{url}/device.lamp")
            slow = ["call", f"{url}/device.lamp", '{"command": "slow", "wait": 2}', "--timeout", "20"]
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await command(*slow))

            nursery.start_soon(ask)
            await trio.sleep(1.5)
            urls.pop(0)
            one.process.send_signal(number)
            with trio.fail_after(LIMIT):
                assert await one.process.wait() == status
            await call_when_there(f"{url}/device.lamp")
            _, out, _ = await command("fleet", "--nats", url)
            assert "  lamp  at two\n" in out
            with trio.fail_after(LIMIT):
                while not answers:  # noqa: ASYNC110 - of another process
                    await trio.sleep(0.05)
            assert answers == [(0, '{"light":"slow"}\n', "")]
            nursery.cancel_scope.cancel()


async def test_a_drain_costs_no_call_of_those_that_do_not_wait(url: str) -> None:
    """Twelve devices move to the other gateway, as a load balancer sends them; a second later than they might."""
    names = [f"lamp-{number}" for number in range(12)]
    outcomes: Counter[str] = Counter()
    manager = SessionManager(dialect=Exact(), on_session=answer)
    drained = trio.Event()

    async def live(name: str, gateways: list[str]) -> None:
        for gateway in gateways:
            async with open_websocket(f"{gateway}/{name}") as channel, manager.port(name, channel) as port:
                await port.wait_closed()
            await trio.sleep(1)

    with trio.fail_after(LIMIT):
        async with a_gateway(url) as one, a_gateway(url) as two, open_nats(url) as nats, Fleet(nats, "home") as fleet:

            async def ask(first: int) -> None:
                number = first
                while not drained.is_set():
                    try:
                        await fleet.device(names[number % 12]).request({"command": number}, timeout=10)
                    except SessionError as error:
                        outcomes[f"{type(error).__name__} {error.outcome}"] += 1
                    else:
                        outcomes["answered"] += 1
                    number += 1
                    await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(live, name, [one.url, two.url])

                async def all_are_there() -> bool:
                    return set(await fleet.devices()) == set(names)

                await until(all_are_there)
                for first in range(4):
                    nursery.start_soon(ask, first)
                await trio.sleep(0.5)
                one.process.send_signal(signal.SIGTERM)
                assert await one.process.wait() == 0
                await until(all_are_there)
                before = outcomes["answered"]
                while outcomes["answered"] < before + 50:  # noqa: ASYNC110 - of other processes
                    await trio.sleep(0.01)
                assert max(info.devices for info in await fleet.gateways()) == 12
                drained.set()
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
    assert set(outcomes) == {"answered"}
    assert one.said.count("cut off") == 0


async def test_joins_leaves_and_gateways_are_told_as_they_happen(url: str) -> None:
    line = [sys.executable, "-m", "psession", "fleet", "--watch"]
    said = b""
    async with trio.open_nursery() as nursery:
        run = partial(
            trio.run_process, line, stdout=subprocess.PIPE, check=False, env=environment() | {"PSESSION_NATS": url}
        )
        process = await nursery.start(run)

        async def read() -> None:
            nonlocal said
            async for data in process.stdout:
                said += data

        nursery.start_soon(read)

        async def has(text: bytes) -> bool:
            return text in said

        await until(partial(has, b"fleet home: 0 gateways, 0 devices\n"))
        async with a_gateway(url, "--name", "east") as gateway:
            await until(partial(has, b"  + gateway east ("))
            async with a_device(f"{gateway.url}/lamp"):
                await until(partial(has, b"  + lamp  at east\n"))
            await until(partial(has, b"  - lamp  from east\n"))
        await until(partial(has, b"  - gateway east ("))
        process.send_signal(signal.SIGINT)
        with trio.fail_after(LIMIT):
            assert await process.wait() == 130
        nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------------------------------- docs
async def test_the_first_program_of_the_page_runs_as_three_processes(url: str, tmp_path: Path) -> None:
    number = free_port()
    for name, code in PROGRAMS.items():
        assert "4222" in code or "8080" in code
        here = code.replace("nats://127.0.0.1:4222", url).replace("8080", str(number))
        (tmp_path / f"{name}.py").write_text(here)
    async with trio.open_nursery() as nursery:
        for name in ("gateway", "lamp"):
            line = [sys.executable, str(tmp_path / f"{name}.py")]
            nursery.start_soon(partial(trio.run_process, line, check=False, env=environment()))
        with trio.fail_after(LIMIT):
            line = [sys.executable, str(tmp_path / "service.py")]
            done = await trio.run_process(line, capture_stdout=True, env=environment())
        assert done.stdout.decode() == SHOWN[0]
        nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------------------------------- demo
def processes_of(pid: int) -> set[int]:
    """The processes that a process has started and that are there."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[1]) == pid:
            found.add(int(entry.name))
    return found


def is_there(pid: int) -> bool:
    """True while a process is there, but for its parent's last look at it."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("columns", [50, 80])
def test_the_demo_of_a_fleet_shows_that_every_call_has_a_true_outcome(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    began = time.monotonic()
    process = start("demo", "--fleet")
    children: set[int] = set()
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            children |= processes_of(process.pid)
        code = process.wait(LIMIT)
        assert process.stderr is not None
        assert (code, process.stderr.read()) == (0, "")
    finally:
        process.kill()
        process.communicate()
    took = time.monotonic() - began
    text = " ".join(" ".join(lines).split())
    for shown in (
        "300 devices connected in",
        "kill -9 g2: 100 devices,",
        "all 100 are back after",
        "✓ every call has an outcome; without one: 0",
        "✓ no outcome is untrue by the devices' logs; untrue: 0",
        "✓ nothing was done twice; twice: 0",
    ):
        assert shown in text
    assert "✗" not in text
    assert "…" not in text
    assert "\x1b" not in text
    assert max(map(len, lines)) <= columns
    assert len(lines) <= 48
    assert len(children) == 4
    assert not any(map(is_there, children))
    assert took < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_demo_of_a_fleet_leaves_no_process_behind_however_it_is_ended(number: int) -> None:
    process = start("demo", "--fleet")
    try:
        assert process.stdout is not None
        assert any("a service asks" in line for line in process.stdout)
        children = processes_of(process.pid)
        assert len(children) == 4
        process.send_signal(number)
        code = process.wait(LIMIT)
        assert code == (130 if number == signal.SIGINT else -number)
    finally:
        process.kill()
        process.communicate()
    until_then = time.monotonic() + 5
    while any(map(is_there, children)) and time.monotonic() < until_then:
        time.sleep(0.02)
    assert not any(map(is_there, children))
    assert os.getpid() not in children
