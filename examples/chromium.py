"""Chromium as the peer: open a page, hear what it loads, take a picture of it: python chromium.py [PICTURE]

Chrome DevTools Protocol over one WebSocket, on which each tab is a port of its own.
"""

import base64
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from subprocess import DEVNULL

import trio

from psession import SessionManager, share
from psession.channels import open_websocket
from psession.dialects import Cdp

PAGE = "data:text/html,<title>A lamp</title><body style='background:gold'><h1>The lamp is on</h1>"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]


@asynccontextmanager
async def chromium():
    """Start a browser that nobody's profile is touched by. Gives the URL of its debugger."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("no Chromium here; Debian has it: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        browser = await trio.lowlevel.open_process(command, stdout=DEVNULL, stderr=DEVNULL)
        try:
            said = trio.Path(profile, "DevToolsActivePort")
            with trio.fail_after(30):
                while not (await said.exists() and (await said.read_text()).count("\n")):  # noqa: ASYNC110 - a file has no event
                    await trio.sleep(0.05)
            yield "ws://127.0.0.1:{}{}".format(*(await said.read_text()).split())
        finally:
            browser.terminate()
            with trio.CancelScope(shield=True):
                await browser.wait()


async def main(picture):
    loaded = trio.Event()

    def heard(event):
        if event["method"] == "Network.responseReceived":
            print("loaded:", event["params"]["response"]["mimeType"], event["params"]["response"]["status"])
        elif event["method"] == "Page.loadEventFired":
            loaded.set()

    manager = SessionManager(dialect=Cdp(), session_timeout=20, on_message=lambda event: None)
    async with (
        chromium() as url,
        open_websocket(url, max_message_bytes=16 * 2**20) as channel,
        share(channel) as shared,
        trio.open_nursery() as nursery,
        manager.port("browser", shared.send) as browser,
    ):
        nursery.start_soon(partial(manager.listen, shared, port_of=lambda said: said.get("sessionId", "browser")))
        print("browser:", (await browser.request({"method": "Browser.getVersion"}))["product"].partition("/")[0])
        tab = await browser.request({"method": "Target.createTarget", "params": {"url": "about:blank"}})
        tab = await browser.request({"method": "Target.attachToTarget", "params": {**tab, "flatten": True}})
        async with manager.port(tab["sessionId"], shared.send, dialect=Cdp(tab["sessionId"]), on_message=heard) as page:
            for method in ("Page.enable", "Network.enable", "Runtime.enable"):
                await page.request({"method": method})
            await page.request({"method": "Page.navigate", "params": {"url": PAGE}})
            await loaded.wait()
            title = await page.request({"method": "Runtime.evaluate", "params": {"expression": "document.title"}})
            print("title:", title["result"]["value"])
            image = base64.b64decode((await page.request({"method": "Page.captureScreenshot"}))["data"])
        print(f"{picture}: a picture of {await trio.Path(picture).write_bytes(image) // 1000} kB")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "lamp.png")
