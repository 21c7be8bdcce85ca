"""Both sides open sessions on one connection, and their numbers never meet: one side has the odd ones, one the even."""

from functools import partial

import trio

from psession import Session, SessionManager
from psession.channels import WebSocketChannel, open_websocket, serve_websocket

centre = SessionManager(session_timeout=2, session_ids=range(1, 65536, 2))
devices = SessionManager(session_timeout=2, session_ids=range(2, 65536, 2))


async def answer(session: Session, *, who: str) -> None:
    """Answer what the other side asks."""
    async for message in session:
        print(f"  {who} is asked {message['question']!r} in session {session.sid}")
        await session.post({"answer": f"{who} is well"})


async def serve_device(channel: WebSocketChannel) -> None:
    """Serve one device. Its first message is its name; from then on both ask and both answer."""
    name = (await channel.receive())["name"]
    async with centre.accept(channel, name, on_session=partial(answer, who="the centre")) as port:
        await port.wait_closed()


async def device(url: str, name: str, leave: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    """A device that asks twice, and answers what it is asked until it may leave."""
    async with open_websocket(url) as channel:
        await channel.send({"name": name})
        async with devices.port(name, channel, on_session=partial(answer, who=name)) as port:
            await port.request({"question": f"is the centre there for {name}?"})
            task_status.started()
            await port.request({"question": f"and still there for {name}?"})
            await leave.wait()


async def main() -> None:
    """Three devices ask the centre while it asks each of them."""
    leave = trio.Event()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve_device, "127.0.0.1", 0)
        async with trio.open_nursery() as running:
            for name in ("lamp", "lock", "oven"):
                await running.start(device, f"ws://127.0.0.1:{server.port}", name, leave)
            for name, port in centre.ports.items():
                async with port.session() as session:
                    reply = await session.send({"question": f"how is {name}?"})
                    print(f"the centre hears: {reply['answer']} (session {session.sid})")
            leave.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
