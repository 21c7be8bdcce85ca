"""A server, an honest client and an attacker, a process each: what the attack costs the other two.

python tests/attacks/field.py [ATTACK ...] [--attackers N] [--seconds S]

Prints for each attack the honest client's 50th and 99th percentile and longest time of a request in milliseconds, its
errors, how much memory of the server's is in use above its start, and the size of its log.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import socket
import struct
import sys
import time
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import trio

from psession import Exact, Session, SessionError, SessionManager
from psession.channels import lines, open_websocket, serve_websocket

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
RATE = 50
"""Requests a second of the honest client."""


# -- the server --------------------------------------------------------------------------------------------------------


async def handle(session: Session) -> None:
    """Answer at once, unless the message says that it is hard work."""
    async for message in session:
        if "hard" in message:
            await trio.sleep(message["hard"])
        await session.post({"n": message["n"]})


def memory() -> float:
    """The bytes that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def serve(log: str) -> None:
    """Serve lines over TCP and a WebSocket; print the two ports; answer each line of standard input with the memory."""
    logging.basicConfig(filename=log, level=logging.INFO)
    manager = SessionManager(on_session=handle)

    async def tcp(stream: trio.SocketStream) -> None:
        async with manager.accept(lines(stream), name=None) as port:
            await port.wait_closed()

    async def websocket(channel: Any) -> None:
        async with manager.accept(channel, name=None) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, tcp, 0, host=HOST))
        server = await nursery.start(serve_websocket, websocket, HOST, 0)
        gc.freeze()  # what a server that counts in milliseconds does: a full collection of what was imported takes 10
        print(listeners[0].socket.getsockname()[1], server.port, flush=True)
        async for _ in trio.lowlevel.FdStream(os.dup(0)):
            print(memory(), flush=True)
        nursery.cancel_scope.cancel()


# -- the attacks -------------------------------------------------------------------------------------------------------


def flood(connection: socket.socket, data: bytes, until: float) -> None:
    """Say the same over and over, and read nothing."""
    connection.settimeout(0.2)
    while time.monotonic() < until:
        with suppress(TimeoutError):
            connection.send(data)
            with suppress(BlockingIOError):
                connection.recv(1 << 20, socket.MSG_DONTWAIT)


def tcp(ports: list[int]) -> socket.socket:
    """Connect to the server of lines."""
    return socket.create_connection((HOST, ports[0]))


def websocket(ports: list[int], *, deflate: bool = False) -> socket.socket:
    """Connect to the WebSocket server."""
    connection = socket.create_connection((HOST, ports[1]))
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
    connection.sendall(
        f"GET / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n".encode()
    )
    connection.recv(4096)
    return connection


def frame(opcode: int, payload: bytes = b"", first: int = 0x80) -> bytes:
    """One frame, under a mask of zeros."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first | opcode, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first | opcode, 0xFE, length)
    else:
        head = struct.pack("!BBQ", first | opcode, 0xFF, length)
    return head + b"\0\0\0\0" + payload


def nested(ports: list[int], until: float) -> None:
    """One session, a busy handler, messages of 1 MB of nested lists."""
    data = b"[" + b"[]," * 330_000 + b"0]"
    connection = tcp(ports)
    connection.sendall(b'{"sid":1,"n":0,"hard":600}\n')
    flood(connection, b'{"sid":1,"n":' + data + b"}\n", until)


def one_sid(ports: list[int], until: float) -> None:
    """One number, small messages without end, a busy handler."""
    connection = tcp(ports)
    flood(connection, b'{"sid":1,"n":0,"hard":600}\n' * 2000, until)


def many_sids(ports: list[int], until: float) -> None:
    """As many sessions as there may be, each with a busy handler and as many messages as it holds."""
    connection = tcp(ports)
    text = b"x" * 500
    for sid in range(1, 4096):
        if time.monotonic() > until:
            return
        connection.sendall((b'{"sid":%d,"n":"%s","hard":600}\n' % (sid, text)) * 1000)


def tiny_lines(ports: list[int], until: float) -> None:
    """Lines of one byte."""
    flood(tcp(ports), b"1\n" * 32768, until)


def empty_objects(ports: list[int], until: float) -> None:
    """Lines that are no session's."""
    flood(tcp(ports), b"{}\n" * 20000, until)


def pings(ports: list[int], until: float) -> None:
    """Pings without end."""
    flood(websocket(ports), frame(9) * 10000, until)


def continuations(ports: list[int], until: float) -> None:
    """A message of empty fragments."""
    connection = websocket(ports)
    connection.sendall(frame(1, b"{", 0))
    flood(connection, frame(0, b"", 0) * 10000, until)


def empty_texts(ports: list[int], until: float) -> None:
    """Messages that are none."""
    flood(websocket(ports), frame(1) * 10000, until)


def deflated(ports: list[int], until: float) -> None:
    """Messages of 1 MB that take 1 kB on the wire."""
    connection = websocket(ports, deflate=True)
    packer = zlib.compressobj(wbits=-15)
    data = b'{"sid":1,"hard":600,"n":"' + b"x" * 1_000_000 + b'"}'
    packed = (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    flood(connection, frame(1, packed, 0xC0), until)


def crashing(ports: list[int], until: float) -> None:
    """Messages without the field that the handler reads."""
    connection = tcp(ports)
    sid = 0
    while time.monotonic() < until:
        connection.sendall(b"".join(b'{"sid":%d}\n' % (sid + n) for n in range(1, 200)))
        sid = (sid + 200) % 60_000
        time.sleep(0.005)


def closing(ports: list[int], until: float) -> None:
    """Closing notices, with 4,000 sessions open."""
    connection = tcp(ports)
    question = b'{"sid":%d,"n":1,"_turn":%d,"_new":true,"_life":7}\n'
    connection.sendall(b"".join(question % (n, n) for n in range(1, 4000)))
    flood(connection, b'{"_end":true,"_turn":1,"_life":7}\n' * 500, until)


def collisions(ports: list[int], until: float) -> None:
    """Numbers whose hashes are the same."""
    connection = tcp(ports)
    base = 2**61 - 1
    flood(connection, b"".join(b'{"sid":%d,"n":1}\n' % (5 + base * n) for n in range(1, 3000)), until)


def unread(ports: list[int], until: float) -> None:
    """Questions whose answers nobody reads."""
    connection = tcp(ports)
    connection.settimeout(0.2)
    data = b"".join(b'{"sid":%d,"n":"%s"}\n' % (n, b"y" * 5000) for n in range(1, 200))
    while time.monotonic() < until:
        with suppress(TimeoutError):
            connection.send(data)


ATTACKS: dict[str, Callable[[list[int], float], None]] = {
    attack.__name__: attack
    for attack in (
        nested, one_sid, many_sids, tiny_lines, empty_objects, pings, continuations, empty_texts, deflated, crashing,
        closing, collisions, unread,
    )
}  # fmt: skip


# -- the measurement ---------------------------------------------------------------------------------------------------


async def honest(ports: list[int], seconds: float, over: str) -> dict[str, Any]:
    """Ask at a steady rate; each request's time, and what failed."""
    times: list[float] = []
    errors: list[str] = []

    async def one(port: Any) -> None:
        start = time.perf_counter()
        try:
            await port.request({"n": 1}, timeout=30)
        except SessionError as error:
            errors.append(repr(error)[:200])
        times.append(time.perf_counter() - start)

    async def ask(channel: Any) -> None:
        async with SessionManager(dialect=Exact()).port("honest", channel) as port, trio.open_nursery() as nursery:
            end = trio.current_time() + seconds
            while trio.current_time() < end:
                nursery.start_soon(one, port)
                await trio.sleep(1 / RATE)

    if over == "websocket":
        async with open_websocket(f"ws://{HOST}:{ports[1]}", connect_timeout=30) as channel:
            await ask(channel)
    else:
        await ask(lines(await trio.open_tcp_stream(HOST, ports[0])))
    times.sort()
    return {
        "p50": times[len(times) // 2] * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
        "longest": times[-1] * 1000,
        "errors": errors,
    }


async def measure(attack: str, attackers: int, seconds: float, over: str, log: Path) -> dict[str, Any]:
    """Run one attack against a fresh server."""
    await trio.Path(log).unlink(missing_ok=True)
    command = [sys.executable, os.environ.get("FIELD", __file__), "--serve", str(log)]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, check=False))
        output = words(server.stdout)
        ports = [int(await anext(output)), int(await anext(output))]
        await server.stdin.send_all(b"?\n")
        before = float(await anext(output))
        peak = 0.0

        async def watch() -> None:
            nonlocal peak
            while True:
                await server.stdin.send_all(b"?\n")
                peak = max(peak, float(await anext(output)) - before)
                await trio.sleep(0.2)

        result: dict[str, Any] = {}
        async with trio.open_nursery() as attacking:
            attacking.start_soon(watch)
            enemy = [sys.executable, __file__, "--attack", attack, *map(str, ports), str(seconds + 2)]
            enemies = [
                await attacking.start(partial(trio.run_process, enemy, check=False, capture_stderr=True))
                for _ in range(attackers if attack != "nothing" else 0)
            ]
            await trio.sleep(1)
            result = await honest(ports, seconds, over)
            for process in enemies:
                process.terminate()
            attacking.cancel_scope.cancel()
        result["memory MB"] = peak / 2**20
        result["log bytes"] = (await trio.Path(log).stat()).st_size
        await server.stdin.aclose()
        with trio.move_on_after(5):
            await server.wait()
        server.terminate()
        nursery.cancel_scope.cancel()
    return result


async def words(stream: Any) -> Any:
    """The words that a process prints."""
    rest = b""
    async for data in stream:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            for word in line.split():
                yield word


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        trio.run(serve, sys.argv[2])
        return
    if sys.argv[1:2] == ["--attack"]:
        with suppress(OSError):
            ATTACKS[sys.argv[2]]([int(sys.argv[3]), int(sys.argv[4])], time.monotonic() + float(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", default=["nothing", *ATTACKS])
    parser.add_argument("--attackers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--over", default="tcp", choices=["tcp", "websocket"])
    parser.add_argument("--log", type=Path, default=Path("/tmp/attacks.log"))
    given = parser.parse_args()
    for attack in given.attacks:
        found = trio.run(measure, attack, given.attackers, given.seconds, given.over, given.log)
        print(attack, json.dumps(found, default=str), flush=True)


if __name__ == "__main__":
    main()
