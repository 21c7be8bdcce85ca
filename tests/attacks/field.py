"""A server, an honest client and an attacker, a process each: what the attack costs the other two.

python tests/attacks/field.py [ATTACK ...] [--attackers N] [--seconds S]

Prints for each attack the honest client's 50th and 99th percentile and longest time of a request in milliseconds, its
errors, the longest time of a newcomer to connect and be answered, how many failed to, how much memory of the server's
is in use above its start, and the size of its log.
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
from psession.channels import length_prefixed, lines, open_websocket, serve_websocket

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
    """Serve lines, MessagePack and a WebSocket; print the ports; answer each line of standard input with the memory."""
    logging.basicConfig(filename=log, level=logging.INFO)
    manager = SessionManager(on_session=handle)

    async def tcp(stream: trio.SocketStream) -> None:
        async with manager.accept(lines(stream), name=None) as port:
            await port.wait_closed()

    async def packed(stream: trio.SocketStream) -> None:
        async with manager.accept(length_prefixed(stream, codec="msgpack"), name=None) as port:
            await port.wait_closed()

    async def websocket(channel: Any) -> None:
        resumes = 30 if channel.path == "/resume" else None
        async with manager.accept(channel, name=None, resume_within=resumes) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, tcp, 0, host=HOST))
        more = await nursery.start(partial(trio.serve_tcp, packed, 0, host=HOST))
        serving = partial(serve_websocket, websocket, HOST, 0, compression="deflate")
        server = await nursery.start(serving)
        gc.freeze()  # what a server that counts in milliseconds does: a full collection of what was imported takes 10
        print(listeners[0].socket.getsockname()[1], server.port, more[0].socket.getsockname()[1], flush=True)
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


def packed(ports: list[int]) -> socket.socket:
    """Connect to the server of MessagePack."""
    return socket.create_connection((HOST, ports[2]))


def websocket(ports: list[int], *, deflate: bool = False, path: str = "/") -> socket.socket:
    """Connect to the WebSocket server."""
    connection = socket.create_connection((HOST, ports[1]))
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
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


def in_hand(ports: list[int], until: float) -> None:
    """As many sessions as there may be, each with one long message, which its handler is at work on."""
    connection = tcp(ports)
    for sid in range(1, 4096):
        if time.monotonic() > until:
            return
        connection.sendall(b'{"sid":%d,"hard":600,"n":"%s"}\n' % (sid, b"x" * 1_000_000))


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


def hold(connections: list[socket.socket], until: float) -> None:
    """Keep connections, and read nothing."""
    time.sleep(max(0.0, until - time.monotonic()))
    for connection in connections:
        connection.close()


def say_all(connections: list[socket.socket], data: bytes) -> None:
    """Say the same on each, as far as it is taken."""
    for connection in connections:
        connection.settimeout(0.2)
        with suppress(OSError):
            connection.sendall(data)


def unfinished(ports: list[int], until: float) -> None:
    """400 messages of 1 MB without their ends, as lines and as frames."""
    connections = [tcp(ports) for _ in range(200)]
    say_all(connections, b"x" * 1_000_000)
    framed = [websocket(ports) for _ in range(200)]
    say_all(framed, struct.pack("!BBQ", 0x81, 0xFF, 1_048_000) + b"\0\0\0\0" + b"x" * 1_000_000)
    hold(connections + framed, until)


def fragments(ports: list[int], until: float) -> None:
    """200 messages of 1 MB in fragments, the last of which does not come."""
    connections = [websocket(ports) for _ in range(200)]
    say_all(connections, frame(1, b"x" * 60_000, 0) + frame(0, b"x" * 60_000, 0) * 16)
    hold(connections, until)


def sessions(ports: list[int], until: float) -> None:
    """100 clients with 1,000 sessions each, whose handlers are at work."""
    connections = [tcp(ports) for _ in range(100)]
    say_all(connections, b"".join(b'{"sid":%d,"n":0,"hard":600}\n' % sid for sid in range(1, 1001)))
    hold(connections, until)


def deaf(ports: list[int], until: float) -> None:
    """200 clients that ask without end and never read."""
    connections = [tcp(ports) for _ in range(200)]
    data = b"".join(b'{"sid":%d,"n":"%s"}\n' % (n, b"y" * 5000) for n in range(1, 100))
    for connection in connections:
        connection.setblocking(False)
    while time.monotonic() < until:
        for connection in connections:
            with suppress(OSError):
                connection.send(data)
        time.sleep(0.01)


def silent(ports: list[int], until: float) -> None:
    """1,000 connections that say nothing, and new ones for those that are closed."""
    connections: list[socket.socket] = []
    while time.monotonic() < until:
        with suppress(OSError):
            connections.append(socket.create_connection((HOST, ports[1]), timeout=0.5))
        if len(connections) > 1000:
            connections.pop(0).close()


def come_and_go(ports: list[int], until: float) -> None:
    """Connect, say hello by which one could come back, go."""
    life = 0
    while time.monotonic() < until:
        life += 1
        with suppress(OSError):
            connection = websocket(ports, path="/resume")
            connection.sendall(frame(1, b'{"_new":true,"_life":%d}' % life))
            connection.close()


def packed_nested(ports: list[int], until: float) -> None:
    """MessagePack of 1 MB of empty lists, a busy handler."""
    connection = packed(ports)
    first = b"\x83\xa3sid\x01\xa1n\x00\xa4hard\xcd\x02\x58"
    connection.sendall(struct.pack("!I", len(first)) + first)
    data = b"\x82\xa3sid\x01\xa1n\xdd" + struct.pack("!I", 1_000_000) + b"\x90" * 1_000_000
    flood(connection, struct.pack("!I", len(data)) + data, until)


def packed_keys(ports: list[int], until: float) -> None:
    """MessagePack whose keys collide: pairs of -1 and -2, whose hashes are the same."""
    key = [b"\x9f" + bytes(0xFF - (n >> bit & 1) for bit in range(15)) for n in range(2**15)]
    data = b"\x82\xa3sid\x01\xa1n\xdf" + struct.pack("!I", len(key)) + b"".join(one + b"\x01" for one in key)
    flood(packed(ports), struct.pack("!I", len(data)) + data, until)


def packed_nan(ports: list[int], until: float) -> None:
    """MessagePack of 1 MB that looks like NaN in nine places."""
    blob = b"\xcb\x7f\xf8\0\0\0\0\0\0"
    data = b"\x82\xa3sid\x01\xa1n\x92\xc4\x09" + blob + b"\xdd" + struct.pack("!I", 100_000)
    data += b"\xcb\x3f\xf8\0\0\0\0\0\0" * 100_000
    flood(packed(ports), struct.pack("!I", len(data)) + data, until)


def packed_tiny(ports: list[int], until: float) -> None:
    """Messages of one byte, each after its length."""
    flood(packed(ports), b"\0\0\0\x01\x01" * 10_000, until)


def waits(ports: list[int], until: float) -> None:
    """Numbers that no honest peer uses."""
    strange = [b"1" + b"0" * 400, b"1e300", b"-1", b"[]", b"{}", b'"1"', b"9007199254740993", b"1.5", b"true", b"null"]
    names = [b"sid", b"_turn", b"_wait", b"_re", b"_part", b"_credit", b"_life"]
    lines_ = [b'{"sid":1,"n":1,"_turn":1,"_life":7,"%s":%s}\n' % (name, odd) for name in names for odd in strange]
    flood(tcp(ports), b"".join(lines_) * 50, until)


ATTACKS: dict[str, Callable[[list[int], float], None]] = {
    attack.__name__: attack
    for attack in (
        nested, one_sid, in_hand, many_sids, tiny_lines, empty_objects, pings, continuations, empty_texts, deflated,
        crashing, closing, collisions, unread, unfinished, fragments, sessions, deaf, silent, come_and_go,
        packed_nested, packed_keys, packed_nan, packed_tiny, waits,
    )
}  # fmt: skip


# -- the measurement ---------------------------------------------------------------------------------------------------


async def honest(ports: list[int], seconds: float, over: str) -> dict[str, Any]:
    """Ask at a steady rate; each request's time, and what failed."""
    times: list[float] = []
    errors: list[str] = []
    new: list[float] = []
    failed: list[str] = []

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

    async def arrive() -> None:
        start = time.perf_counter()
        try:
            async with (
                open_websocket(f"ws://{HOST}:{ports[1]}", connect_timeout=10) as channel,
                SessionManager(dialect=Exact()).port("new", channel) as port,
            ):
                await port.request({"n": 1}, timeout=10)
        except (OSError, SessionError) as error:
            failed.append(repr(error)[:200])
        new.append(time.perf_counter() - start)

    async def newcomers() -> None:
        while True:
            await arrive()
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(newcomers)
        if over == "websocket":
            async with open_websocket(f"ws://{HOST}:{ports[1]}", connect_timeout=30) as channel:
                await ask(channel)
        else:
            await ask(lines(await trio.open_tcp_stream(HOST, ports[0])))
        nursery.cancel_scope.cancel()
    times.sort()
    return {
        "p50": times[len(times) // 2] * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
        "longest": times[-1] * 1000,
        "errors": errors,
        "newcomer": max(new) * 1000,
        "failed": failed[:1] and [len(failed), *failed[:1]],
    }


async def measure(attack: str, attackers: int, seconds: float, over: str, log: Path) -> dict[str, Any]:
    """Run one attack against a fresh server."""
    await trio.Path(log).unlink(missing_ok=True)
    command = [sys.executable, os.environ.get("FIELD", __file__), "--serve", str(log)]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, check=False))
        output = words(server.stdout)
        ports = [int(await anext(output)) for _ in range(3)]
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
            ATTACKS[sys.argv[2]]([*map(int, sys.argv[3:6])], time.monotonic() + float(sys.argv[6]))
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
        shown = {name: round(value, 1) if isinstance(value, float) else value for name, value in found.items()}
        print(attack, json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
