"""Both sides open sessions on one connection, and their numbers never meet: one side has the odd ones, one the even."""

from functools import partial

import trio
from trio_websocket import WebSocketRequest, open_websocket_url, serve_websocket

from psession import Session, SessionManager
from psession.channels import trio_websocket

centre = SessionManager(session_timeout=2, session_ids=range(1, 65536, 2))
devices = SessionManager(session_timeout=2, session_ids=range(2, 65536, 2))


async def answer(session: Session, *, who: str) -> None:
    """Answer what the other side asks."""
    async for message in session:
        print(f"  {who} is asked {message['question']!r} in session {session.sid}")
        await session.post({"answer": f"{who} is well"})


async def serve_device(request: WebSocketRequest) -> None:
    """The first message says who it is; from then on both ask and both answer."""
    channel = trio_websocket(await request.accept())
    name = (await channel.receive())["name"]
    async with centre.port(name, channel, on_session=partial(answer, who="the centre")) as port:
        await port.wait_closed()


async def device(url: str, name: str, leave: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    """A device that asks twice, and answers what it is asked until it may leave."""
    async with open_websocket_url(url) as connection:
        channel = trio_websocket(connection)
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
        server = await nursery.start(serve_websocket, serve_device, "127.0.0.1", 0, None)
        async with trio.open_nursery() as running:
            for name in ("lamp", "lock", "oven"):
                await running.start(device, f"ws://127.0.0.1:{server.port}", name, leave)
            for name, port in centre.ports.items():
                reply = await port.request({"question": f"how is {name}?"})
                print(f"the centre hears: {reply['answer']} (session {reply['sid']})")
            leave.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
