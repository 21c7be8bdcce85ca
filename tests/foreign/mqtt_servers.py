"""Real mosquitto brokers for the tests, Debian's."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from ..ports import free_port
from .test_systems import wait_for_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "127.0.0.1"


def find_program(name: str) -> str:
    """One of mosquitto's programs."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"no {name} here: apt-get install mosquitto")
    return found


def write_passwords(path: Path, **users: str) -> None:
    """Write a file of users and their passwords."""
    path.write_text("".join(f"{user}:{password}\n" for user, password in users.items()))
    subprocess.run([find_program("mosquitto_passwd"), "-U", str(path)], check=True, capture_output=True)
    path.chmod(0o644)


class Mosquitto:
    """A broker that may be killed and started again on its port."""

    def __init__(self, folder: Path, nursery: trio.Nursery, *lines: str) -> None:
        self.port = free_port()
        self.process: trio.Process | None = None
        self._nursery = nursery
        path = folder / f"{self.port}.conf"
        plain = [f"listener {self.port} {HOST}", "set_tcp_nodelay true", "user root"]
        if not any(line.startswith("password_file") for line in lines):
            plain.append("allow_anonymous true")
        path.write_text("\n".join([*plain, *lines, ""]))
        self._command = [find_program("mosquitto"), "-c", str(path)]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"mqtt://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it, and return when it listens."""
        run = partial(trio.run_process, self._command, check=False, stderr=subprocess.DEVNULL)
        self.process = await self._nursery.start(run)
        await wait_for_listener(self.port, self.process)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and return when it is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        await self.process.wait()


@asynccontextmanager
async def mosquitto(folder: Path, *lines: str) -> AsyncIterator[Mosquitto]:
    """A broker for as long as the block lasts.

    Args:
        folder: For its configuration.
        lines: What that has beside the listener.
    """
    async with trio.open_nursery() as nursery:
        broker = Mosquitto(folder, nursery, *lines)
        await broker.start()
        yield broker
        nursery.cancel_scope.cancel()
