"""A TCP server with a port for each client. TCP has no edges between messages: here each is a line of JSON."""

from datetime import UTC, datetime
from functools import partial

import trio

from psession import Port, Session, SessionManager
from psession.channels import FramedChannel, open_tcp, serve_tcp

manager = SessionManager(session_timeout=10)


async def handle(session: Session) -> None:
    """Answer in one session that a client opened; a client may have several open at once."""
    async for message in session:
        if message["command"] == "getTime":
            await session.post({"status": "success", "time": datetime.now(UTC).isoformat(timespec="seconds")})
        else:
            await session.post({"status": "unknown command"})


async def serve_client(channel: FramedChannel) -> None:
    """Keep a port open for as long as the client is there. A failure of one client ends no other."""
    async with manager.accept(channel, on_session=handle, on_message=print) as port:
        await port.wait_closed()


async def client(name: str, tcp_port: int) -> None:
    """Say hello, then ask two things at once on the one connection."""
    clients = SessionManager(session_timeout=5)
    async with open_tcp("127.0.0.1", tcp_port) as channel, clients.port("server", channel) as server:
        await server.post({"hello": f"this is {name}, in no session"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, name, server, "getTime")
            nursery.start_soon(ask, name, server, "makeTea")


async def ask(name: str, server: Port, command: str) -> None:
    """One question; its own answer comes back, whatever else is under way."""
    async with server.session() as session:
        reply = await session.send({"command": command})
        print(f"{name}: {command} -> {reply.get('time', reply['status'])} (session {session.sid})")


async def main() -> None:
    """Serve two clients, then stop."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_tcp, serve_client, 0, host="127.0.0.1"))
        async with trio.open_nursery() as clients:
            for name in ("anna", "bert"):
                clients.start_soon(client, name, server.port)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
