"""A page in a real browser, the WebSocket server that it talks to, and the little HTTP server that it comes from."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import trio

from psession import Port, SessionManager
from psession.channels import WebSocketChannel, WebSocketServer, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HERE = "127.0.0.1"
LIMIT = 30
"""Seconds for a whole test, the browser's start included; without load it takes one or two."""

LOG = "chromium.log"
PAGE = Path(__file__).with_name("page.html")
CLIENT = Path(__file__).parent.parent.parent / "clients" / "js"
MODULES = {f"/{path.name}": path for path in CLIENT.glob("*.js")}
"""The modules of the client in JavaScript, by where a page of ours finds them."""

FLAGS = [
    "--headless",
    "--no-sandbox",  # which root must say, and the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


class Visitor(NamedTuple):
    """A page that has connected, as the server sees it."""

    channel: WebSocketChannel
    port: Port


class Page:
    """One page in a browser of its own.

    Attributes:
        browser: The browser's first process, which leads a process group of its own.
        server: The server that the page talks to.
        origins: The ``Origin`` that each of its handshakes has named.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self.browser: trio.Process
        self.server: WebSocketServer
        self.origins: list[str | None] = []
        self._scope = scope
        self._reports = trio.open_memory_channel[Any](10)
        self._visitors = trio.open_memory_channel[Visitor](10)

    async def report(self) -> Any:
        """What the page found, once its act is over."""
        return await self._reports[1].receive()

    async def visitor(self) -> Visitor:
        """The page's next connection."""
        return await self._visitors[1].receive()

    def stop_serving(self) -> None:
        """Cancel the WebSocket server."""
        self._scope.cancel()

    def kill(self, kind: str | None = None) -> None:
        """Kill the whole browser, or those of its processes that are of this kind; nobody says goodbye."""
        if kind is None:
            os.killpg(self.browser.pid, signal.SIGKILL)
            return
        for pid in self._pids():
            if f"--type={kind}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        """The processes of this browser: those in the group that its first one leads."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        group = []
        for pid in pids:
            with suppress(ProcessLookupError):
                if os.getpgid(pid) == self.browser.pid:
                    group.append(pid)
        return group


@asynccontextmanager
async def open_page(
    chromium: str,
    folder: Path,
    act: str,
    *,
    page: Path = PAGE,
    host: str = HERE,
    told: dict[str, Any] | None = None,
    port: dict[str, Any] | None = None,
    handler: Callable[[WebSocketChannel], Any] | None = None,
    **options: Any,
) -> AsyncIterator[Page]:
    """A page that plays this act with a WebSocket server; when the block is left, browser and servers are gone.

    Args:
        chromium: The browser.
        folder: Where it may write.
        act: One of those in the page.
        page: The page.
        host: The host that the page's own address names.
        told: What the page is told besides.
        port: Options of the port that each connection of the page gets.
        handler: What the server does with a connection instead, before that port is opened.
        options: Those of `serve_websocket`.
    """

    async def serve(channel: WebSocketChannel) -> None:
        if handler is not None:
            await handler(channel)
        async with SessionManager(session_timeout=LIMIT).port("page", channel, **port or {}) as opened:
            await opened_page._visitors[0].send(Visitor(channel, opened))
            await opened.wait_closed()

    def note(request: Any) -> None:
        opened_page.origins.append(request.headers.get("Origin"))

    async def serve_page(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            report = await respond(stream, page)
            assert "error" not in (report or ()), report["error"]
            if report is not None:
                await opened_page._reports[0].send(report)

    async def serve_sockets(task_status: trio.TaskStatus[WebSocketServer]) -> None:
        with opened_page._scope:
            await serve_websocket(serve, HERE, 0, process_request=note, task_status=task_status, **options)

    folder = Path(tempfile.mkdtemp(dir=folder))
    try:
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                opened_page = Page(trio.CancelScope())
                opened_page.server = await nursery.start(serve_sockets)
                listeners = await nursery.start(partial(trio.serve_tcp, serve_page, 0, host=HERE))
                query = {"act": act, "server": f"ws://{HERE}:{opened_page.server.port}/", **(told or {})}
                address = f"http://{host}:{listeners[0].socket.getsockname()[1]}/?{urlencode(query, doseq=True)}"
                async with running(chromium, folder, address) as opened_page.browser:
                    yield opened_page
                nursery.cancel_scope.cancel()
    except trio.TooSlowError as error:
        lines = (folder / LOG).read_text(errors="replace").splitlines()
        error.add_note("\n".join(["the browser said:", *(line for line in lines if "dbus" not in line)]))
        raise


@asynccontextmanager
async def running(chromium: str, folder: Path, address: str, *flags: str) -> AsyncIterator[trio.Process]:
    """A browser, with nothing of its user's; it and its children are killed when the block is left."""
    with (folder / LOG).open("wb") as log:
        browser = await trio.lowlevel.open_process(
            [chromium, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", address],
            stdout=log,
            stderr=log,
            env=os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
            start_new_session=True,  # so that its children are in a group that nobody else is in
        )
    try:
        yield browser
    finally:
        with suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await browser.wait()


async def respond(stream: trio.SocketStream, page: Path) -> Any:
    """Answer one HTTP request: the page or a module to who asks for it; of a report, what it says is returned."""
    head, _, body = (await until(stream, lambda data: b"\r\n\r\n" in data)).partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", 0))
    body += await until(stream, lambda data: len(body) + len(data) >= size)
    method, target, _ = request.split()
    path = page if target.startswith("/?") else MODULES.get(target)
    status, answer = ("200 OK", path.read_bytes()) if path is not None else ("404 Not Found", b"")
    if method == "POST":
        status, answer = "200 OK", b"thanks"
    kind = "text/javascript" if target in MODULES else "text/html"
    kind = f"Content-Type: {kind}; charset=utf-8\r\nConnection: close"
    await stream.send_all(f"HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
    return json.loads(body) if method == "POST" else None


async def until(stream: trio.SocketStream, enough: Callable[[bytes], bool]) -> bytes:
    """What comes, up to where it is enough."""
    data = b""
    while not enough(data):
        some = await stream.receive_some()
        if not some:
            raise trio.BrokenResourceError("the browser hung up")
        data += some
    return data
