"""What a turn costs, against bare Trio doing as little as it can: in memory, over TCP, over trio-websocket.

    python benchmarks/core.py [--rounds N] [--seconds S]

Two processes on loopback, 100-byte JSON messages. Quote the ratios: they are taken round by round in one run.
"""

from __future__ import annotations

import argparse
import json
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio
import trio_websocket
from harness import MANY, REQUEST, Work, end_with_parent, rounds, server, table

from psession import Classic, Exact, Port, Session, SessionManager
from psession.channels import lines, memory_pair
from psession.channels import trio_websocket as websocket_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# -- servers, each in a process of its own ---------------------------------------------------------------------------


async def answer(session: Session) -> None:
    """Answer each message with itself."""
    async for message in session:
        await session.post(message)


async def serve(kind: str) -> None:
    """Serve `kind` on a port of loopback, which is printed, until killed."""
    manager = SessionManager(on_session=answer)
    numbers = iter(range(10**9))

    async def bare(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def sessions(stream: trio.SocketStream) -> None:
        async with manager.port(f"peer {next(numbers)}", lines(stream)) as port:
            await port.wait_closed()

    async def websocket(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        async with manager.port(f"peer {next(numbers)}", websocket_channel(connection)) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        if kind == "websocket":
            served = await nursery.start(trio_websocket.serve_websocket, websocket, "127.0.0.1", 0, None)
            print(served.port, flush=True)
        else:
            handler = {"bare": bare, "sessions": sessions}[kind]
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
            print(listeners[0].socket.getsockname()[1], flush=True)


# -- works -----------------------------------------------------------------------------------------------------------


async def bare_memory(turns: int) -> None:
    """One memory channel and a cancel scope: the least that a wait with a timeout costs."""
    send, receive = trio.open_memory_channel[int](10)
    for number in range(turns):
        with trio.move_on_after(10):
            send.send_nowait(number)
            await receive.receive()


def bare_tcp(streams: list[trio.SocketStream]) -> Work:
    """As many connections as turns in flight; newline JSON, no sessions, no timeouts."""

    async def one(stream: trio.SocketStream, turns: int) -> None:
        decode, encode = msgspec.json.decode, msgspec.json.encode
        for _ in range(turns):
            await stream.send_all(encode(REQUEST) + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                data += await stream.receive_some(65536)
            decode(data)

    async def work(turns: int) -> None:
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(one, stream, turns // len(streams) + 1)

    return work


def sends(port: Port, in_flight: int) -> Work:
    """So many sessions of one port, each in a loop of turns."""

    async def one(turns: int) -> None:
        async with port.session() as session:
            for _ in range(turns):
                await session.send(REQUEST)

    async def work(turns: int) -> None:
        if in_flight == 1:
            await one(turns)
            return
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(one, turns // in_flight + 1)

    return work


def requests(port: Port) -> Work:
    """A session for each turn."""

    async def work(turns: int) -> None:
        for _ in range(turns):
            await port.request(REQUEST)

    return work


@asynccontextmanager
async def works() -> AsyncIterator[dict[str, Work]]:
    """Everything that is measured, with its servers running."""
    manager = SessionManager()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context

        def echo(message: dict[str, object]) -> None:
            memory.dispatch(message)

        async def connect(kind: str) -> trio.SocketStream:
            return await trio.open_tcp_stream("127.0.0.1", ports[kind])

        ports = {kind: await enter(server("core.py", kind)) for kind in ("bare", "sessions", "websocket")}

        async def both_ends(wire: str) -> Port:
            """A port in memory whose peer is psession too, in this process."""
            here, there = memory_pair()
            await enter(SessionManager(on_session=answer).port(wire, there))
            return await enter(manager.port(f"memory, {wire}", here, dialect=WIRES[wire]))

        pairs = {wire: await both_ends(wire) for wire in WIRES}
        exact = await enter(manager.port("exact", lines(await connect("sessions")), dialect=Exact()))
        memory = await enter(manager.port("memory", echo))
        tcp = await enter(manager.port("tcp", lines(await connect("sessions"))))
        url = f"ws://127.0.0.1:{ports['websocket']}"
        connection = await enter(trio_websocket.open_websocket_url(url))
        websocket = await enter(manager.port("websocket", websocket_channel(connection)))
        yield {
            "memory: bare channel, move_on_after": bare_memory,
            "memory: session.send": sends(memory, 1),
            "memory: port.request": requests(memory),
            "TCP: bare echo, 1 in flight": bare_tcp([await connect("bare")]),
            "TCP: psession, 1 in flight": sends(tcp, 1),
            f"TCP: bare echo, {MANY} connections": bare_tcp([await connect("bare") for _ in range(MANY)]),
            f"TCP: psession, {MANY} in flight, 1 connection": sends(tcp, MANY),
            "TCP: exact, 1 in flight": sends(exact, 1),
            f"TCP: exact, {MANY} in flight, 1 connection": sends(exact, MANY),
            **{f"both ends in memory: {wire}, 1 in flight": sends(port, 1) for wire, port in pairs.items()},
            **{f"both ends in memory: {wire}, {MANY} in flight": sends(port, MANY) for wire, port in pairs.items()},
            "trio-websocket: psession, 1 in flight": sends(websocket, 1),
            f"trio-websocket: psession, {MANY} in flight": sends(websocket, MANY),
        }


WIRES = {"classic": Classic(), "exact": Exact()}

AGAINST = {
    "memory: session.send": "memory: bare channel, move_on_after",
    "memory: port.request": "memory: bare channel, move_on_after",
    "TCP: psession, 1 in flight": "TCP: bare echo, 1 in flight",
    f"TCP: psession, {MANY} in flight, 1 connection": f"TCP: bare echo, {MANY} connections",
    "TCP: exact, 1 in flight": "TCP: psession, 1 in flight",
    f"TCP: exact, {MANY} in flight, 1 connection": f"TCP: psession, {MANY} in flight, 1 connection",
    "both ends in memory: exact, 1 in flight": "both ends in memory: classic, 1 in flight",
    f"both ends in memory: exact, {MANY} in flight": f"both ends in memory: classic, {MANY} in flight",
    "trio-websocket: psession, 1 in flight": "TCP: bare echo, 1 in flight",
    f"trio-websocket: psession, {MANY} in flight": f"TCP: bare echo, {MANY} connections",
}


async def measured(count: int, seconds: float) -> dict[str, list[float]]:
    """The figures of all works, a list of so many rounds each."""
    figures: dict[str, list[float]] = {}

    async def run(all_works: dict[str, Work], done: trio.Event) -> None:
        figures.update(await rounds(all_works, count, seconds))
        done.set()

    # In a task that is not inside the blocks of all those ports: an exact turn asks for the deadline of its caller,
    # which is 0.2 us for each block around it.
    async with trio.open_nursery() as nursery, works() as all_works:
        done = trio.Event()
        nursery.start_soon(run, all_works, done)
        await done.wait()
    return figures


async def main(count: int, seconds: float) -> None:
    """Measure and print."""
    size = len(json.dumps(REQUEST, separators=(",", ":")))
    figures = await measured(count, seconds)
    print(f"{size}-byte JSON, {count} rounds of about {seconds:g} s each; medians\n")
    print(table(figures, AGAINST))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--serve", metavar="KIND", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        end_with_parent()
        trio.run(serve, arguments.serve)
    else:
        trio.run(main, arguments.rounds, arguments.seconds)
