"""FastAPI on uvicorn, which run on asyncio: a route asks a device over a WebSocket.

python in_fastapi.py [DEVICE [PORT]]     needs pip install fastapi uvicorn; DEVICE is ws://host:port

GET /light?seconds=3 waits so long at most. A client that leaves cancels its turn, and the device is told.
"""

import asyncio
import sys
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request

import psession.asyncio
from psession import Exact, SessionError, SessionManager
from psession.channels import open_websocket, reconnecting

manager = SessionManager(dialect=Exact(), resume_within=30)
DEVICE = "ws://127.0.0.1:8765"


@asynccontextmanager
async def lifespan(app):
    async with (
        psession.asyncio.bridge() as bridge,
        bridge.open(reconnecting(lambda: open_websocket(DEVICE))) as channel,
        bridge.open(manager.port("lamp", channel)) as app.state.lamp,
    ):
        yield


app = FastAPI(lifespan=lifespan)


async def unless_gone(request, asking):
    """Await what asks a device, unless the client leaves before."""
    asks = asyncio.ensure_future(asking)
    try:
        while not asks.done():
            await asyncio.wait([asks], timeout=0.2)
            if await request.is_disconnected():
                raise HTTPException(499)
        return asks.result()
    finally:
        asks.cancel()


@app.get("/light")
async def light(request: Request, seconds: float = 3):
    lamp = request.app.state.lamp
    try:
        async with asyncio.timeout(seconds):
            return await unless_gone(request, lamp.request({"command": "status"}))
    except TimeoutError:
        raise HTTPException(504, f"the lamp says nothing for {seconds:g} s") from None
    except SessionError as error:
        raise HTTPException(502, str(error)) from None


if __name__ == "__main__":
    DEVICE = sys.argv[1] if sys.argv[1:] else DEVICE
    uvicorn.run(app, port=int(sys.argv[2]) if sys.argv[2:] else 8000)
