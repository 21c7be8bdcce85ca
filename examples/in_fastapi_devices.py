"""FastAPI on uvicorn: devices connect to a WebSocket route of the app, and other routes ask them.

uvicorn in_fastapi_devices:app     needs pip install fastapi uvicorn; a device connects to ws://host:port/devices/NAME
"""

import logging
from contextlib import asynccontextmanager

import trio
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse
from fastapi.websockets import WebSocketState
from in_fastapi import as_http, unless_gone

from psession import Exact, PortNotFoundError, SessionError, SessionManager, SessionRemoteError
from psession.asyncio import bridge

log = logging.getLogger("uvicorn.error")
manager = SessionManager(dialect=Exact(), session_timeout=3)
devices = {}  # the ports of those that are connected, by name


class RouteChannel(trio.abc.Channel):
    """Messages over a WebSocket of Starlette's, which is asyncio's: a channel's methods are Trio's."""

    def __init__(self, bridged, socket):
        self.socket = socket
        self.on_asyncio = bridged.handler(self.call)

    async def call(self, function):
        return await function()

    async def send(self, message):
        try:
            await self.on_asyncio(lambda: self.socket.send_json(message))
        except (WebSocketDisconnect, RuntimeError) as error:
            raise trio.BrokenResourceError from error

    async def receive(self):
        try:
            return await self.on_asyncio(self.socket.receive_json)
        except WebSocketDisconnect as error:
            raise trio.EndOfChannel from error
        except (KeyError, ValueError) as error:  # bytes, or no JSON
            raise trio.BrokenResourceError from error

    async def aclose(self):
        if WebSocketState.DISCONNECTED not in (self.socket.client_state, self.socket.application_state):
            await self.on_asyncio(self.socket.close)


@asynccontextmanager
async def lifespan(app):
    async with bridge() as app.state.bridged:
        yield


app = FastAPI(lifespan=lifespan)
app.add_exception_handler(SessionError, as_http)


async def is_alive(port):
    try:
        await port.request({"command": "status"}, timeout=1)
    except SessionRemoteError:  # it refuses to say, but it does so
        return True
    except SessionError:
        return False
    return True


@app.websocket("/devices/{name}")  # a dependency that checks a token belongs here
async def device(socket: WebSocket, name: str):
    bridged = socket.app.state.bridged
    if name in devices and await is_alive(devices[name]):
        log.warning("a second %s is refused", name)
        await socket.send_denial_response(PlainTextResponse(f"another {name} is here", 409))
        return
    await socket.accept()
    async with bridged.open(manager.accept(RouteChannel(bridged, socket))) as port:
        if name in devices:  # which says nothing any more
            devices[name].close(f"{name} was started anew")  # those who wait for it read why
        port.label = name  # in errors and in the log
        devices[name] = port
        log.info("%s is here", name)
        try:
            await port.wait_closed()
        finally:
            if devices.get(name) is port:
                del devices[name]
                log.info("%s is gone", name)


@app.get("/devices/{name}/{command}")
async def ask(request: Request, name: str, command: str):
    if name not in devices:
        raise PortNotFoundError(f"no device is called {name!r}")
    return await unless_gone(request, devices[name].request({"command": command}))
