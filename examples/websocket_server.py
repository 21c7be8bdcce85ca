"""A WebSocket server: a plain command of a client makes the server open a session, and tell in it how it gets on."""

import trio

from psession import Session, SessionError, SessionManager
from psession.channels import WebSocketChannel, open_websocket, serve_websocket

manager = SessionManager(session_timeout=10)


async def serve_client(channel: WebSocketChannel) -> None:
    """Serve one client. Its port is open for as long as its connection."""

    async def on_message(message: dict[str, str]) -> None:  # one at a time, in order
        response = {"type": "response", "command": message["command"]}
        try:
            async with port.session() as session:
                ready = await session.send(response | {"status": "processing"})
                print(f"server: the client is {ready['status']}, session {session.sid}")
                await trio.sleep(0.1)  # the work
                # Not `send`: nobody replies to a last word.
                await session.post(response | {"status": "completed", "result": "42 devices, all well"})
        except SessionError as error:
            print("server:", error)

    async with manager.accept(channel, on_message=on_message) as port:
        await port.wait_closed()


async def client(url: str) -> None:
    """Give a command, and follow it to its end in the session that the server opens for it."""
    done = trio.Event()

    async def follow(session: Session) -> None:
        async for message in session:
            print("client:", message["command"], "is", message["status"], message.get("result", ""))
            if message["status"] == "processing":
                await session.post({"status": "listening"})
            else:
                done.set()

    clients = SessionManager(on_session=follow)
    async with open_websocket(url) as channel, clients.port("server", channel) as port:
        await port.post({"type": "command", "command": "getStatus"})
        await done.wait()


async def main() -> None:
    """Serve a client, then stop."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve_client, "127.0.0.1", 0)
        await client(f"ws://127.0.0.1:{server.port}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
