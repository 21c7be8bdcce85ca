"""The command psession in processes of its own, and peers of it that are as rude as a test needs."""

import base64
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psession

LIMIT = 10.0
"""Seconds that anything may take."""

_PATHS = [str(Path(psession.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]


def environment() -> dict[str, str]:
    """This process's environment, with this psession."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, _PATHS)), "PYTHONIOENCODING": "utf-8"}


def start(
    *arguments: str,
    stdin: int | None = None,
    stdout: IO[str] | int | None = subprocess.PIPE,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "psession", *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(),
        encoding="utf-8",
        preexec_fn=preexec_fn,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output and complaints of a process that is about to end."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


@contextmanager
def echoing(url: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`psession echo` on that URL: the one that it says it listens on, and its process."""
    process = start("echo", url, *options)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        if process.poll() is None:
            process.terminate()
            finish(process)


def connect(url: str) -> socket.socket:
    """A bare connection to where that URL points."""
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT)


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server in a thread, for one connection; gives its port."""

    def run() -> None:
        connection, _ = listener.accept()
        connection.settimeout(LIMIT)
        with connection:
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(LIMIT)


def read_on(connection: socket.socket) -> bytes:
    """Everything until the other side has gone."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


def repeat_once(connection: socket.socket) -> None:
    """Answer the first message with itself."""
    connection.sendall(connection.recv(4096))
    read_on(connection)


def accept_websocket(connection: socket.socket) -> None:
    """The server's half of the handshake of RFC 6455."""
    found = re.search(rb"Sec-WebSocket-Key: (\S+)", connection.recv(4096), re.IGNORECASE)
    assert found is not None
    digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(head + b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n")
