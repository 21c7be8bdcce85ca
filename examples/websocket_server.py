"""A WebSocket server: a plain command from a client makes the server open a session and tell how it gets on."""

from functools import partial
from typing import Any

import trio
from trio_websocket import WebSocketRequest, open_websocket_url, serve_websocket

from psession import Session, SessionError, SessionManager
from psession.channels import trio_websocket

manager = SessionManager(session_timeout=10)


async def serve_client(request: WebSocketRequest) -> None:
    """One client: its port is open for as long as its connection."""
    client = f"{request.remote.address}:{request.remote.port}"
    channel = trio_websocket(await request.accept())

    async def on_message(message: Any) -> None:  # one at a time; a nursery of your own would run them side by side
        if message.get("type") != "command":
            print("server: a plain message:", message)
            return
        response = {"type": "response", "command": message["command"]}
        try:
            async with port.session() as session:
                ready = await session.send(response | {"status": "processing"})
                print(f"server: session {session.sid}, the client is {ready['status']}")
                await trio.sleep(0.1)  # the work
                # Nobody answers a last word: a `send` would wait in vain.
                await session.post(response | {"status": "completed", "result": "42 devices, all well"})
        except SessionError as error:
            print("server: the client did not follow:", error)

    async with manager.port(client, channel, on_message=on_message) as port:
        await port.wait_closed()


async def follow(session: Session, done: trio.Event) -> None:
    """The client's side of the session that the server opens."""
    async for message in session:
        print(f"client: {message['command']} is {message['status']}", message.get("result", ""))
        if message["status"] == "completed":
            done.set()
            return
        await session.post({"status": "listening"})


async def main() -> None:
    """Serve one client, then stop."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve_client, "127.0.0.1", 0, None)
        done = trio.Event()
        async with (
            open_websocket_url(f"ws://127.0.0.1:{server.port}") as connection,
            manager.port("server", trio_websocket(connection), on_session=partial(follow, done=done)) as port,
        ):
            await port.post({"type": "command", "command": "getStatus"})
            await done.wait()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
