"""A TCP server with a port for each client: clients ask in sessions, and say plain things besides.

TCP has no edges between messages; `lines` gives it some: each message is one line of JSON.
"""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import trio

from psession import Session, SessionManager
from psession.channels import lines

manager = SessionManager(session_timeout=10)


async def handle(session: Session) -> None:
    """Answer in one session that a client opened."""
    async for message in session:
        if message.get("command") == "getTime":
            await session.post({"status": "success", "time": datetime.now(UTC).isoformat(timespec="seconds")})
        else:
            await session.post({"status": "unknownCommand"})


async def serve_client(stream: trio.SocketStream) -> None:
    """Keep a port open for as long as the client is there; what is in it goes with it."""
    host, number = stream.socket.getpeername()[:2]
    name = f"client_{host}:{number}"

    def plain(message: Any) -> None:
        print(f"server: {message['name']} says {message['text']!r}, in no session")

    async with manager.port(name, lines(stream), on_session=handle, on_message=plain) as port:
        await port.wait_closed()


async def client(name: str, address: tuple[str, int]) -> None:
    """Say hello, then ask three things at once on the one connection."""
    stream = await trio.open_tcp_stream(*address)
    async with SessionManager(session_timeout=5).port("server", lines(stream)) as server:
        await server.post({"name": name, "text": "hello"})
        async with trio.open_nursery() as nursery:
            for command in ("getTime", "getTime", "makeTea"):
                nursery.start_soon(ask, name, server.request, command)


async def ask(name: str, request: Any, command: str) -> None:
    """One question; its own answer comes back, whatever else is under way."""
    reply = await request({"command": command})
    print(f"{name}: {command} -> {reply['status']} {reply.get('time', '')} (session {reply['sid']})")


async def main() -> None:
    """Serve two clients, then stop."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_client, 0, host="127.0.0.1"))
        async with trio.open_nursery() as clients:
            for name in ("anna", "bert"):
                clients.start_soon(client, name, listeners[0].socket.getsockname())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
