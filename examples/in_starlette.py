"""An app of Starlette's that exists already, on Hypercorn with Trio: one of its WebSockets gets sessions.

python in_starlette.py [PORT]     needs pip install starlette "hypercorn[trio]"; FastAPI has the same WebSocket
"""

import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect, WebSocketState

from psession import Service, SessionManager

lamp = Service("command")
manager = SessionManager(on_request=lamp)


class StarletteChannel(trio.abc.Channel):
    """Messages over a WebSocket of Starlette's."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, message):
        try:
            await self.socket.send_json(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise trio.BrokenResourceError from error

    async def receive(self):
        try:
            return await self.socket.receive_json()
        except WebSocketDisconnect as error:
            raise trio.EndOfChannel from error

    async def aclose(self):
        if WebSocketState.DISCONNECTED not in (self.socket.client_state, self.socket.application_state):
            await self.socket.close()


@lamp.method
def dim(level: int) -> dict[str, int]:
    return {"level": level}


async def sessions(socket):
    await socket.accept()
    async with manager.accept(StarletteChannel(socket)) as port:
        await port.wait_closed()


async def status(request):  # as it was
    return PlainTextResponse(f"{len(manager.ports)} with sessions")


app = Starlette(routes=[Route("/status", status), WebSocketRoute("/sessions", sessions)])


async def main(port=8000):
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    await serve(app, config)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
