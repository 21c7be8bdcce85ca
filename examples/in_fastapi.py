"""FastAPI on uvicorn, which run on asyncio: routes ask a lamp, to which the app holds a WebSocket.

uvicorn in_fastapi:app     needs pip install fastapi uvicorn; LAMP=ws://host:port in the environment says where it is

GET /lamp/status?seconds=3 waits three seconds at most. A client that leaves gives its question up.
"""

import asyncio
import json
import logging
import os
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

import psession
from psession import Exact, SessionManager
from psession.asyncio import bridge
from psession.channels import open_websocket, reconnecting

LAMP = os.environ.get("LAMP", "ws://127.0.0.1:8765")
log = logging.getLogger("uvicorn.error")
manager = SessionManager(dialect=Exact())
ports = {}  # the lamp's, while it is connected


def noting(name):
    """For `on_state`: why there is no link goes to the log, once until it is another reason or the link is back."""
    noted = ""

    def note(state):
        nonlocal noted
        if state.state == "open":
            noted = ""
        elif state.why and state.why != noted:
            noted = state.why
            log.warning("no link to the %s: %s", name, noted)

    return note


async def keep(bridged):
    """Hold a port to the lamp. It ends with its link, and the next link has the next port."""
    links = reconnecting(lambda: open_websocket(LAMP), max_delay=2, on_state=noting("lamp"))
    try:
        async with bridged.open(links) as channel:
            while True:
                async with bridged.open(manager.port("lamp", channel)) as ports["lamp"]:
                    log.info("the lamp is here")
                    await ports["lamp"].wait_closed()
                del ports["lamp"]
                log.info("the lamp is gone")
    except Exception:  # a mistake, in the address for one: what else the app does goes on
        log.exception("the lamp is not looked for any more")


@asynccontextmanager
async def lifespan(app):
    async with bridge() as bridged, asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(keep(bridged))
        yield
        keeper.cancel()


app = FastAPI(lifespan=lifespan)


def lamp():
    if "lamp" not in ports:
        raise psession.PortClosedError("the lamp is not connected")
    return ports["lamp"]


async def unless_gone(request, asking):
    """Await what asks a device, unless the client leaves before: FastAPI does not cancel a route by itself."""
    asks = asyncio.ensure_future(asking)
    try:
        while not asks.done():
            await asyncio.wait([asks], timeout=0.2)
            if await request.is_disconnected():
                raise HTTPException(499)  # nobody reads it
        return asks.result()
    finally:
        asks.cancel()  # nothing, where it is done


@app.get("/lamp/{command}")
async def ask(request: Request, command: str, seconds: Annotated[float, Query(gt=0, le=60)] = 3):
    return await unless_gone(request, lamp().request({"command": command}, timeout=seconds))


@app.get("/levels")
async def levels():
    port = lamp()

    async def lines():  # is cancelled when the client leaves
        async with port.stream({"command": "watch"}) as replies:
            async for reply in replies:
                yield json.dumps(reply) + "\n"

    return StreamingResponse(lines())


def status_of(error):
    match error:
        case psession.SessionTimeoutError():
            return 504
        case psession.SessionAbortError():
            return 503
        case psession.PortNotFoundError():
            return 404
        case psession.MessageTooLargeError():
            return 413
        case psession.MessageError() if error.outcome != "sent":  # what the app asks cannot travel
            return 500
        case psession.SessionRemoteError(code="refused.unknown_method" | "refused.bad_arguments"):
            return 422
        case psession.SessionRemoteError(code="refused.full" | "refused.closing"):
            return 503
        case psession.SessionRemoteError(outcome="refused"):
            return 409
        case _:
            return 502


@app.exception_handler(psession.SessionError)
async def as_http(request, error):
    status = status_of(error)
    if status == 500:
        log.error("a mistake of the app's own", exc_info=error)
    return JSONResponse({"detail": str(error)}, status)
