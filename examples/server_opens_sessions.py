"""Both sides open sessions on one connection, and their numbers never meet: one side has the odd ones.

Whose a session is follows from its number alone: what is in my `session_ids` I opened, anything else the peer did.
"""

from functools import partial

import trio
from trio_websocket import WebSocketRequest, open_websocket_url, serve_websocket

from psession import Session, SessionManager
from psession.channels import trio_websocket

SERVER_IDS = range(1, 65536, 2)
CLIENT_IDS = range(2, 65536, 2)

server = SessionManager(session_timeout=2, session_ids=SERVER_IDS)
clients = SessionManager(session_timeout=2, session_ids=CLIENT_IDS)


async def answer(session: Session, *, who: str) -> None:
    """Answer what the peer asks."""
    async for message in session:
        print(f"  {who} is asked {message['question']!r} in session {session.sid}")
        await session.post({"answer": f"{who} is well"})


async def serve_client(request: WebSocketRequest) -> None:
    """The first message says who it is; from then on both ask and both answer."""
    channel = trio_websocket(await request.accept())
    name = (await channel.receive())["name"]
    async with server.port(name, channel, on_session=partial(answer, who="the server")) as port:
        await port.wait_closed()


async def client(name: str, url: str, leave: trio.Event) -> None:
    """A client that asks three things, and answers whatever it is asked until it may leave."""
    async with open_websocket_url(url) as connection:
        channel = trio_websocket(connection)
        await channel.send({"name": name})
        async with clients.port(name, channel, on_session=partial(answer, who=name)) as port:
            for _ in range(3):
                await port.request({"question": f"how are you? ({name} asks)"})
            await leave.wait()


async def main() -> None:
    """Three clients ask the server while it asks each of them."""
    leave = trio.Event()
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(serve_websocket, serve_client, "127.0.0.1", 0, None)
        async with trio.open_nursery() as running:
            for name in ("anna", "bert", "cleo"):
                running.start_soon(client, name, f"ws://127.0.0.1:{listening.port}", leave)
            while len(server.ports) < 3:
                await trio.sleep(0.01)
            for name, port in server.ports.items():
                reply = await port.request({"question": "and you?"})
                print(f"the server hears from {name}: {reply['answer']} (session {reply['sid']})")
            leave.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
