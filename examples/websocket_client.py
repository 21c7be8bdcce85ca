"""A WebSocket client: a dialogue of two turns. Give it a URL, or it starts the server that it needs by itself."""

import sys

import trio
from trio_websocket import open_websocket_url

from psession import Session, SessionError, SessionManager
from psession.channels import WebSocketChannel, serve_websocket, trio_websocket

clients = SessionManager()

DEVICES = {"lamp-1": {"watts": 9, "on": True}, "oven-7": {"watts": 2300, "on": False}}


async def talk(url: str) -> None:
    """Ask for the devices, then for the first one's details, in one session."""
    manager = SessionManager(session_timeout=5, on_message=lambda message: print("news:", message["text"]))
    async with open_websocket_url(url) as connection, manager.port("server", trio_websocket(connection)) as server:
        await server.post({"type": "command", "command": "getStatus"})
        try:
            async with server.session() as session:
                listed = await session.send({"type": "query", "query": "getDeviceList"})
                print("devices:", [device["id"] for device in listed["devices"]])
                first = listed["devices"][0]["id"]
                print("details:", await session.send({"type": "query", "query": "getDeviceDetails", "deviceId": first}))
        except SessionError as error:
            print("session error:", error)


async def answer(session: Session) -> None:
    """The server's side of a dialogue."""
    async for message in session:
        if message["query"] == "getDeviceList":
            await session.post({"devices": [{"id": name} for name in DEVICES]})
        else:
            await session.post({"deviceId": message["deviceId"]} | DEVICES[message["deviceId"]])


async def serve_client(channel: WebSocketChannel) -> None:
    """Serve one client."""
    async with clients.accept(channel, on_session=answer) as port:
        await port.post({"type": "news", "text": f"{len(DEVICES)} devices are connected"})
        await port.wait_closed()


async def main(url: str | None = None) -> None:
    """Talk to the server at `url`, or to one of our own."""
    async with trio.open_nursery() as nursery:
        if url is None:
            server = await nursery.start(serve_websocket, serve_client, "127.0.0.1", 0)
            url = f"ws://127.0.0.1:{server.port}"
        await talk(url)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if sys.argv[1:] else None)
