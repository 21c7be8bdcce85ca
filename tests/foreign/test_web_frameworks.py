"""Programs on asyncio and in threads that ask a device: FastAPI on uvicorn, Flask, a script, a notebook's cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, MalformedMessageError, SessionManager, SessionRefusedError
from psession.channels import HandshakeError, open_websocket, reconnecting, serve_websocket

from ..pages import Reader, blocks_of, name_of
from ..ports import free_port
from .test_systems import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession import TurnOutcome

pytestmark = pytest.mark.foreign
EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "asyncio.md"
LONGEST_RUN = 60


class Device:
    """A lamp behind a WebSocket: it answers, or is slow, and says what became of those who asked."""

    def __init__(self) -> None:
        self.is_slow = False
        self.given_up = 0
        self.url = ""

    async def until_given_up(self, times: int) -> None:
        """Wait until so many have given up."""
        while self.given_up < times:  # noqa: ASYNC110 - one thing of a test, in real time
            await trio.sleep(0.01)

    async def answer(self, session: Any) -> None:
        """Answer what one session asks."""
        async for message in session:
            match message["command"]:
                case "watch":
                    for level in range(3):
                        await session.post({"level": level})
                case "status" if not self.is_slow:
                    await session.post({"light": "on"})
                case "dim":
                    await session.post({"level": message["level"]})
                case _:
                    try:
                        await trio.sleep_forever()
                    finally:
                        self.given_up += 1


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    """A device that can be connected to."""
    made = Device()

    async def meet(channel: Any) -> None:
        async with SessionManager(on_session=made.answer, resume_within=5).accept(channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, meet, "127.0.0.1", 0)
        made.url = f"ws://127.0.0.1:{server.port}"
        yield made
        nursery.cancel_scope.cancel()


def get(url: str) -> tuple[int, Any]:
    """The status and the answer of a web page."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@asynccontextmanager
async def a_program(name: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """An example, as a process that Ctrl-C ends."""
    async with a_process([sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]) as process:
        yield process


@asynccontextmanager
async def a_process(command: list[str], **options: Any) -> AsyncIterator[trio.Process]:
    """A command, as a process that Ctrl-C ends."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, check=False, **options))
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            with trio.move_on_after(10, shield=True):
                await process.wait()
            if process.returncode is None:
                process.kill()
                pytest.fail("Ctrl-C did not end the program")


async def fetched(url: str) -> tuple[int, Any]:
    """The answer of a server that may be just starting."""
    while True:
        try:
            return await trio.to_thread.run_sync(get, url)
        except urllib.error.URLError:
            await trio.sleep(0.1)


async def test_a_route_of_fastapis_asks_a_device_with_a_timeout_and_gives_up_with_its_client(device: Device) -> None:
    pytest.importorskip("fastapi", reason="pip install --group foreign")
    number = free_port()
    url = f"http://127.0.0.1:{number}/lamp/status"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(number), "in_fastapi:app"]
    with trio.fail_after(LONGEST_RUN):
        async with a_process(command, env=os.environ | {"LAMP": device.url}):
            while (answer := await fetched(url))[0] == 503:  # noqa: ASYNC110 - until the lamp is there
                await trio.sleep(0.1)
            assert answer == (200, {"light": "on"})
            device.is_slow = True
            status, text = await fetched(f"{url}?seconds=0.1")
            assert status == 504
            assert "no reply" in text
            await device.until_given_up(1)
            client = await trio.open_tcp_stream("127.0.0.1", number)
            await client.send_all(b"GET /lamp/status?seconds=50 HTTP/1.1\r\nHost: here\r\n\r\n")
            await trio.sleep(0.2)
            await client.aclose()
            await device.until_given_up(2)
            device.is_slow = False
            assert await fetched(url) == (200, {"light": "on"})


async def test_an_address_that_is_wrong_for_good_leaves_the_app_at_work_and_is_logged() -> None:
    pytest.importorskip("fastapi", reason="pip install --group foreign")
    number = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(number), "in_fastapi:app"]
    with trio.fail_after(LONGEST_RUN):
        async with a_process(command, env=os.environ | {"LAMP": "127.0.0.1:1"}, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            said = b""
            while b"the lamp is not looked for any more" not in said:
                said += await process.stderr.receive_some()
            assert b"no link to the lamp: 127.0.0.1:1 isn't a valid URI: scheme isn't ws or wss" in said
            assert (await fetched(f"http://127.0.0.1:{number}/lamp/status"))[0] == 503


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_test_client_of_fastapis_reaches_the_device_on_either_loop(
    device: Device, loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fastapi", reason="pip install --group foreign")
    from fastapi.testclient import TestClient

    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "in_fastapi", raising=False)
    monkeypatch.setenv("LAMP", device.url)
    in_fastapi = import_module("in_fastapi")

    def ask() -> list[Any]:
        answers = [TestClient(in_fastapi.app).get("/lamp/status").status_code]
        with TestClient(in_fastapi.app, backend_options={"use_uvloop": loop == "uvloop"}) as client:
            while (answer := client.get("/lamp/status")).status_code == 503:
                time.sleep(0.05)
            answers.append(answer.json())
            for outcome in (None, "sent"):
                monkeypatch.setitem(in_fastapi.ports, "lamp", Mistaken(outcome))
                answers.append(client.get("/lamp/status").status_code)
        return answers

    with trio.fail_after(LONGEST_RUN):
        assert await trio.to_thread.run_sync(ask) == [503, {"light": "on"}, 500, 502]
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


class Mistaken:
    """In the place of a port: asks what cannot travel, or gets a reply that does not fit."""

    def __init__(self, outcome: TurnOutcome | None) -> None:
        self.outcome: TurnOutcome | None = outcome

    async def request(self, message: Any, timeout: float) -> Any:  # noqa: ASYNC109 - as a port's
        """Raise what a port would."""
        raise MalformedMessageError("no JSON for it", outcome=self.outcome)


async def test_of_two_devices_of_one_name_the_second_is_refused_while_the_first_gives_a_sign_of_life() -> None:
    pytest.importorskip("fastapi", reason="pip install --group foreign")
    number = free_port()
    url = f"ws://127.0.0.1:{number}/devices/oven"
    program = "in_fastapi_devices:app"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(number), program]
    hangs = False

    async def answer(message: Any) -> dict[str, Any]:
        if hangs:
            await trio.sleep_forever()
        raise SessionRefusedError("an oven cannot do it")

    ovens = SessionManager(dialect=Exact(), on_request=answer)
    with trio.fail_after(LONGEST_RUN):
        async with (
            a_process(command),
            reconnecting(lambda: open_websocket(url), max_delay=0.1) as first,
            ovens.port("first", first) as oven,
        ):
            while (await fetched(f"http://127.0.0.1:{number}/devices/oven/dim"))[0] == 404:  # noqa: ASYNC110 - as above
                await trio.sleep(0.05)
            with pytest.raises(HandshakeError, match="409 Conflict: another oven is here"):
                async with open_websocket(url):
                    pass
            assert not oven.closed
            hangs = True
            async with open_websocket(url) as second, ovens.port("second", second):
                await oven.wait_closed()


def test_a_reader_of_the_page_on_asyncio_gets_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="pip install --group foreign")
    need("curl", "curl")
    Reader(tmp_path).follow(PAGE)


@pytest.mark.parametrize("name", ["in_fastapi.py", "in_fastapi_devices.py"])
def test_the_page_on_asyncio_has_the_example_word_for_word(name: str) -> None:
    (shown,) = [block.code for block in blocks_of(PAGE) if name_of(block) == name]
    assert shown == f"# {name}\n{(EXAMPLES / name).read_text(encoding='utf-8')}"


async def test_a_view_of_flasks_asks_a_device(device: Device) -> None:
    pytest.importorskip("flask", reason="pip install --group foreign")
    number = free_port()
    url = f"http://127.0.0.1:{number}/light"
    with trio.fail_after(LONGEST_RUN):
        async with a_program("in_flask", device.url, str(number)):
            assert await fetched(url) == (200, {"light": "on"})
            device.is_slow = True
            assert (await fetched(url))[0] == 504


async def test_a_script_asks_a_device_and_ctrl_c_gives_up(device: Device) -> None:
    with trio.fail_after(LONGEST_RUN):
        command = [sys.executable, str(EXAMPLES / "plain_script.py"), device.url]
        ran = await trio.run_process(command, capture_stdout=True)
        assert ran.stdout.decode().splitlines() == [
            "{'light': 'on'}",
            "{'level': 40}",
            *(f"{{'level': {level}}}" for level in range(3)),
            "no answer in 0.2 s",
        ]


CELL = """
import asyncio
import psession.asyncio
from psession import Exact, SessionManager
from psession.channels import open_websocket

async with psession.asyncio.bridge() as bridged:
    async with (
        bridged.open(open_websocket({url!r})) as channel,
        bridged.open(SessionManager(dialect=Exact()).port("lamp", channel)) as lamp,
    ):
        print(await lamp.request({{"command": "status"}}))
        try:
            async with asyncio.timeout(0.1):
                await lamp.request({{"command": "sleep"}})
        except TimeoutError:
            print("no answer")
"""


async def test_a_cell_of_a_notebook_asks_a_device_and_may_be_run_again(device: Device) -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install --group foreign")
    nbformat = pytest.importorskip("nbformat", reason="pip install --group foreign")
    pytest.importorskip("ipykernel", reason="pip install --group foreign")
    code = CELL.format(url=device.url)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for _ in range(2)])
    with trio.fail_after(LONGEST_RUN):
        await trio.to_thread.run_sync(nbclient.NotebookClient(notebook, timeout=30).execute)
    said = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert said == ["{'light': 'on'}\nno answer\n"] * 2
