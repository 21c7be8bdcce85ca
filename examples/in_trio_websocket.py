"""An app on trio-websocket that exists already, and gets one route with sessions; the others stay as they are."""

from contextlib import suppress
from functools import partial

import trio
from trio_websocket import ConnectionClosed, open_websocket_url, serve_websocket

from psession import Service, SessionManager
from psession.channels import open_websocket, trio_websocket

lamp = Service("command")
manager = SessionManager(on_request=lamp)


@lamp.method
def dim(level: int) -> dict[str, int]:
    return {"level": level}


async def serve_sessions(socket):  # the new route
    async with trio_websocket(socket) as channel, manager.accept(channel) as port:
        await port.wait_closed()


async def serve_echo(socket):  # an old one
    while True:
        await socket.send_message(f"echo: {await socket.get_message()}")


async def serve(request):
    routes = {"/echo": serve_echo, "/sessions": serve_sessions}
    if request.path not in routes:
        await request.reject(404)
        return
    with suppress(ConnectionClosed):
        await routes[request.path](await request.accept())


async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, serve, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}"
        async with open_websocket_url(f"{url}/echo") as socket:
            await socket.send_message("hello")
            print(await socket.get_message())
        async with open_websocket(f"{url}/sessions") as channel, SessionManager().port("lamp", channel) as port:
            print(await port.request({"command": "dim", "level": 40}))
            print("clients:", len(manager.ports))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
