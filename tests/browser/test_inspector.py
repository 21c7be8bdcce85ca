"""The page of the inspector in a real browser: what it shows, in both colours and sizes, and by keyboard."""

from __future__ import annotations

import base64
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Port, SessionCancelError, SessionManager, inspector
from psession.channels import memory_pair

from .browsing import LIMIT
from .test_client import Tab, looking_into

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.browser
SIZES = [(400, 900), (1600, 1100)]
CROWD = 1000


@asynccontextmanager
async def deaf_and_lively() -> AsyncIterator[tuple[SessionManager, list[str]]]:
    """A manager with turns that wait for a deaf peer, and a peer that answers."""
    ends: list[str] = []
    here, _there = memory_pair()
    lively_here, lively_there = memory_pair()
    manager = SessionManager(session_timeout=600, on_session_overflow="refuse")
    peers = SessionManager(on_request=lambda message: {"ok": message["n"]})

    async def ask(port: Port, n: int) -> None:
        try:
            await port.request({"n": n, "password": "hunter2"})
        except SessionCancelError:
            ends.append(f"cancelled {n}")

    async def talk(port: Port) -> None:
        for n in range(10**6):
            await port.request({"n": n})
            await trio.sleep(0.01)

    async with (
        peers.port("app", lively_there),
        manager.port("deaf", here) as deaf,
        manager.port("lively", lively_here) as lively,
        trio.open_nursery() as nursery,
    ):
        for n in range(CROWD):
            nursery.start_soon(ask, deaf, n)
        nursery.start_soon(talk, lively)
        yield manager, ends
        nursery.cancel_scope.cancel()


async def press(tab: Tab, key: str, code: int) -> None:
    """Press a key, as a user does."""
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        await tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


async def test_the_page_shows_who_waits_and_cancels_a_turn_by_keyboard(chromium: str, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with deaf_and_lively() as (manager, ends), inspector.serve(manager) as page:  # noqa: SIM117 - as it reads
            async with looking_into(chromium, tmp_path, page.url) as tab:
                status = "document.querySelector('#status').textContent"
                await tab.until(f"{status} === 'connected' && document.querySelectorAll('#waiting tr').length === 50")
                first = await tab.run("document.querySelector('#waiting tr').innerText")
                assert "deaf" in first
                assert ',"password":"[redacted]"}' in first
                oldest = json.loads(first.split("\t")[2])["n"]  # Trio starts tasks in any order
                assert "the peer has said nothing since" in first
                await tab.until("document.querySelector('#wait-sum').textContent.endsWith('left out: 950')")
                await tab.until("document.querySelectorAll('#rows .answer').length > 5")
                await tab.until(
                    "document.querySelector('#rate polyline').getAttribute('points').split(' ').length === 120"
                )
                assert "hunter2" not in await tab.run("document.documentElement.outerHTML")
                assert await tab.run(
                    "[...document.querySelectorAll('#ports td:first-child')].map(c => c.textContent)"
                ) == [
                    "deaf",
                    "lively",
                ]
                await look_at_it(tab)
                label = "document.activeElement.getAttribute('aria-label') || ''"
                for _ in range(10):
                    await press(tab, "Tab", 9)
                    if (await tab.run(label)).startswith("Cancel"):
                        break
                await press(tab, "Enter", 13)
                await tab.until(f"{status}.startsWith('cancelled session')")
                await tab.until("document.querySelector('#wait-sum').textContent.startsWith('999')")
                assert ends == [f"cancelled {oldest}"]
                assert (await tab.run(label)).startswith("Cancel")  # the focus is on the next one, and stays
                await tab.run("document.querySelector('#more').click()")
                await tab.until("document.querySelectorAll('#waiting tr').length === 999")


async def look_at_it(tab: Tab) -> None:
    """See that it fits in both sizes and colours; with PSESSION_PICTURES set, write a picture of each there."""
    await tab.call("Emulation.setScrollbarsHidden", hidden=True)
    for scheme in ("light", "dark"):
        await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for width, height in SIZES:
            metrics: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            await tab.call("Emulation.setDeviceMetricsOverride", **metrics)
            assert await tab.run("document.documentElement.scrollWidth") == width
            colour = await tab.run("getComputedStyle(document.body).backgroundColor")
            assert colour == {"light": "rgb(246, 247, 249)", "dark": "rgb(17, 20, 24)"}[scheme]
            if folder := os.environ.get("PSESSION_PICTURES"):
                shot = await tab.call("Page.captureScreenshot", captureBeyondViewport=True)
                picture = trio.Path(folder, f"watch-{scheme}-{width}.png")
                await picture.write_bytes(base64.b64decode(shot["data"]))


async def test_the_page_comes_back_when_its_server_does(chromium: str, tmp_path: Path) -> None:
    status = "document.querySelector('#status').textContent"
    manager, server = SessionManager(), trio.CancelScope()

    async def serve(port: int, task_status: trio.TaskStatus[inspector.Inspector]) -> None:
        with server:
            async with inspector.serve(manager, port, token="a token of the test") as page:
                task_status.started(page)
                await trio.sleep_forever()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            page = await nursery.start(serve, 0)
            async with looking_into(chromium, tmp_path, page.url) as tab:
                await tab.until(f"{status} === 'connected'")
                server.cancel()
                await tab.until(f"{status} !== 'connected'")
                server = trio.CancelScope()
                await nursery.start(serve, page.port)
                await tab.until(f"{status} === 'connected'")
            nursery.cancel_scope.cancel()


async def test_a_label_stands_beside_the_name_of_its_port_wherever_the_page_has_it(
    chromium: str, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT):
        async with deaf_and_lively() as (manager, _), inspector.serve(manager) as page:  # noqa: SIM117 - as it reads
            async with looking_into(chromium, tmp_path, page.url) as tab:
                names = "[...document.querySelectorAll('#ports td:first-child')].map(c => c.textContent).join()"
                await tab.until(f"{names} === 'deaf,lively'")
                manager.ports["deaf"].label = "lamp <b>"
                await tab.until(f"{names} === 'deaf (lamp <b>),lively'")
                await tab.until("document.querySelector('#waiting tr').innerText.startsWith('deaf (lamp <b>)')")
                await tab.until("[...document.querySelector('#port').options].some(o => o.text === 'deaf (lamp <b>)')")
                assert await tab.run("document.querySelector('#port').options[1].value") == "deaf"
                manager.ports["lively"].label = "app"
                await tab.until(
                    "[...document.querySelectorAll('#rows .answer')].some(r => r.innerText.includes('lively (app)'))"
                )
                async with manager.port("third", memory_pair()[0]) as third:
                    third.label = "bell"
                await tab.until("document.querySelector('#closed tr')?.innerText.startsWith('third (bell)')")
