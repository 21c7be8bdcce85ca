"""The client of clients/js in a real browser: asking, answering, giving up, links that are cut; and the example."""

from __future__ import annotations

import importlib.util
import json
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    Classic,
    Exact,
    Port,
    PortClosedError,
    Session,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
)
from psession.channels import open_websocket

from .browsing import LIMIT, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession.channels import WebSocketChannel

    from .conftest import OpenPage

pytestmark = pytest.mark.browser

PAGE = Path(__file__).with_name("client.html")
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "browser_page.py"
CROWD = 200
SIZES = [(400, 760), (1600, 900)]
EXACT = {"dialect": Exact()}


async def echo(session: Session) -> None:
    """Answer with the value, or count."""
    async for message in session:
        if "count" not in message:
            await session.post({"value": message["value"]})
        for n in range(message.get("count", 0)):
            await session.post({"n": n})


@pytest.mark.parametrize("dialect", ["exact", "classic"])
async def test_a_page_and_python_ask_each_other_over_one_socket(open_page: OpenPage, dialect: str) -> None:
    """The numbers of the two sides must differ on the classic wire, where nothing else tells whose a session is."""
    done = trio.Event()
    is_exact = dialect == "exact"
    options: dict[str, Any] = {"dialect": Exact() if is_exact else Classic(), "on_session": echo}
    options |= {"on_message": lambda _: done.set()} | ({} if is_exact else {"session_ids": range(1, 60000)})
    async with open_page("both", page=PAGE, port=options, told={"dialect": dialect}) as page:
        _, port = await page.visitor()

        async def ask(n: int) -> None:
            assert await port.request({"value": n}) == {"value": n}

        async with trio.open_nursery() as nursery:
            for n in range(CROWD):
                nursery.start_soon(ask, n)
            if is_exact:
                async with port.stream({"count": 500}) as replies:
                    assert [reply["n"] async for reply in replies] == list(range(500))
        await done.wait()
        port.close()
        streamed = 500 if is_exact else 0
        assert await page.report() == {"matched": 10 + CROWD + streamed, "stray": 0, "asked": CROWD, "most": 1}


async def test_refusals_and_giving_up_reach_the_other_side(open_page: OpenPage) -> None:
    cancelled = []

    async def handle(session: Session) -> None:
        message = await session.receive()
        if message["how"] == "refuse":
            raise SessionRefusedError("no such thing", code="unknown")
        try:
            while message["how"] == "count":
                await session.post({"n": 1})
            await trio.sleep_forever()
        finally:
            cancelled.append(message["how"])

    async with open_page("refusals", page=PAGE, port={**EXACT, "on_session": handle}) as page:
        _, port = await page.visitor()
        with pytest.raises(SessionRemoteError) as refused:
            await port.request({"how": "refuse"})
        assert (refused.value.code, refused.value.text) == ("refused.locked", "it is locked")
        found = await page.report()
        assert found["refused"] == {"name": "RemoteError", "code": "refused.unknown", "outcome": "refused"}
        assert found["given"] == {"name": "TimeoutError", "code": 23}  # the signal's own reason, a DOMException
        assert found["late"] == {"name": "TimeoutError", "outcome": "sent"}
        assert found["after"] == {"name": "PortClosedError", "outcome": "not_sent"}
        await port.wait_closed()
        assert cancelled == ["wait", "wait", "count"]


async def test_a_page_goes_on_after_its_connection_was_cut_and_nothing_is_run_twice(open_page: OpenPage) -> None:
    manager = SessionManager(dialect=Exact(), session_timeout=LIMIT, resume_within=LIMIT)
    links: list[WebSocketChannel] = []
    runs: list[Any] = []

    async def handle(session: Session) -> None:
        async for message in session:
            runs.append(message)
            if "break" in message and "count" not in message:
                await trio.aclose_forcefully(links[-1])
                await trio.sleep(0.05)  # so that the answer is made while there is no link
            if "count" not in message:
                await session.post({"value": message["value"], "runs": len(runs)})
            for n in range(message.get("count", 0)):
                if n == 100:
                    await trio.aclose_forcefully(links[-1])
                await session.post({"n": n})

    async def serve(channel: WebSocketChannel) -> None:
        links.append(channel)
        async with manager.accept(channel, on_session=handle) as port:
            await port.wait_closed()

    async with open_page("resumes", page=PAGE, handler=serve) as page:
        assert await page.report() == {"reply": {"value": 1, "runs": 2}, "known": [None, True, True], "resumed": 2}
    assert len(runs) == 3


async def test_a_user_who_goes_to_another_page_ends_the_port_though_the_page_is_kept(open_page: OpenPage) -> None:
    async with open_page("leaves", page=PAGE, port={**EXACT, "on_session": echo}, told={"resume": 0}) as page:
        _, port = await page.visitor()
        await port.wait_closed()
        with pytest.raises(PortClosedError) as caught:
            await port.request({})
        assert caught.value.__cause__ is None
        assert (await page.report(), await page.report()) == ("left", "back")
        found = await page.report()
        assert (found["persisted"], found["again"]["name"]) == (True, "PortClosedError")


async def test_a_user_who_comes_back_to_a_page_finds_its_port_again(open_page: OpenPage) -> None:
    manager = SessionManager(dialect=Exact(), session_timeout=LIMIT, resume_within=LIMIT)

    async def serve(channel: WebSocketChannel) -> None:
        async with manager.accept(channel, on_session=echo) as port:
            await port.wait_closed()

    async with open_page("leaves", page=PAGE, handler=serve, told={"resume": LIMIT}) as page:
        assert (await page.report(), await page.report()) == ("left", "back")
        found = await page.report()
        assert (found["persisted"], found["again"], found["known"]) == (True, "no error", True)
        assert [state for state in found["states"] if state != "waiting"][:3] == ["connecting", "open", "broken"]
        assert len(manager.ports) == 1


# -- the example -------------------------------------------------------------------------------------------------------


class Tab:
    """A page that is looked into: the browser's own protocol, whose numbers are called ``id``."""

    def __init__(self, port: Port, session: str) -> None:
        self._port = port
        self._session = session

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the browser's, and return its result."""
        reply = await self._port.request({"method": method, "params": params, "sessionId": self._session})
        assert "error" not in reply, reply
        return reply["result"]

    async def run(self, code: str) -> Any:
        """What an expression comes to in the page."""
        result = await self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Return when that is true in the page."""
        look = (
            f"try {{ if ({condition}) return resolve(); }} catch {{}} setTimeout(look, 10);"  # it may not be loaded yet
        )
        await self.run(f"new Promise((resolve) => {{ const look = () => {{ {look} }}; look(); }})")

    async def slide(self, degrees: float) -> None:
        """Move the slider, as a user does."""
        await self.run(
            f"(slider => {{ slider.value = {degrees}; slider.dispatchEvent(new Event('input'));"
            " slider.dispatchEvent(new Event('change')); })(document.querySelector('#wanted'))"
        )

    async def answer(self, question: str, button: str) -> None:
        """Wait for a question that has this in it, and press a button."""
        asked = "document.querySelector('dialog[open] p')?.textContent"
        await self.until(f"{asked}?.includes({json.dumps(question)})")
        await self.run(f"document.querySelector('dialog button[value={button}]').click()")


@asynccontextmanager
async def looking_into(chromium: str, folder: Path, address: str) -> AsyncIterator[Tab]:
    """A page in a browser of its own, which is looked into."""
    manager = SessionManager(dialect=Classic("id"), session_timeout=LIMIT, on_message=lambda _: None)
    async with running(chromium, folder, "about:blank", "--remote-debugging-port=0"):
        told = folder / "profile" / "DevToolsActivePort"
        while not told.exists() or "\n" not in told.read_text():  # noqa: ASYNC110 - a file sets no event
            await trio.sleep(0.02)
        number, path = told.read_text().split("\n")
        async with (
            open_websocket(f"ws://127.0.0.1:{number}{path}", max_message_bytes=1 << 24) as channel,
            manager.port("browser", channel) as port,
        ):
            targets = (await port.request({"method": "Target.getTargets"}))["result"]["targetInfos"]
            (target,) = [target["targetId"] for target in targets if target["type"] == "page"]
            attach = {"targetId": target, "flatten": True}
            attached = await port.request({"method": "Target.attachToTarget", "params": attach})
            tab = Tab(port, attached["result"]["sessionId"])
            await tab.call("Page.navigate", url=address)
            yield tab


def example() -> Any:
    """The example as a fresh module."""
    spec = importlib.util.spec_from_file_location("example_browser_page", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_example_heats_as_its_page_says_and_asks_back(chromium: str, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(partial(example().main, 0, 0))
            async with looking_into(chromium, tmp_path, address) as tab:
                wanted = "document.querySelector('output').textContent"
                await tab.until("document.querySelector('#degrees-line').getAttribute('points')?.split(' ').length > 5")
                assert await tab.run("document.querySelector('[role=status]').textContent") == "connected"
                await tab.slide(26.5)
                await tab.answer("Heat to 26.5 °C?", "no")
                await tab.until(f"{wanted} === '19.0 °C'")
                await tab.slide(24.5)
                await tab.answer("Heat to 24.5 °C?", "yes")
                await tab.until("document.querySelector('#wanted-line').getAttribute('points').endsWith(',3.5')")
                await tab.slide(20)
                await tab.answer("The room has 20 °C now.", "yes")  # the server asks by itself
                await tab.until(f"{wanted} === '19.0 °C'")
                for width, height in SIZES:
                    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                    await tab.call("Emulation.setDeviceMetricsOverride", **size)
                    assert await tab.run("document.documentElement.scrollWidth") == width
            nursery.cancel_scope.cancel()


async def test_the_page_of_the_example_comes_back_when_its_server_does(chromium: str, tmp_path: Path) -> None:
    status = "document.querySelector('[role=status]').textContent"
    drawn = "document.querySelector('#degrees-line').getAttribute('points')"
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            server = trio.CancelScope()

            async def serve(page: int, socket: int, task_status: trio.TaskStatus[str]) -> None:
                with server:
                    await example().main(page, socket, task_status)

            address = await nursery.start(serve, 0, 0)
            async with looking_into(chromium, tmp_path, address) as tab:
                await tab.until(f"{status} === 'connected' && {drawn}")
                server.cancel()
                await tab.until(f"{status} !== 'connected'")
                server = trio.CancelScope()
                page, socket = (int(number) for number in address.removeprefix("http://127.0.0.1:").split("/?socket="))
                await nursery.start(serve, page, socket)
                before = await tab.run(drawn)
                await tab.until(f"{status} === 'connected' && {drawn} !== {json.dumps(before)}")
            nursery.cancel_scope.cancel()
