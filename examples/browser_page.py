"""A page in a browser and a server ask each other over one WebSocket: a heating, set by a slider and drawn live.

The page (browser_page.html) asks the server to heat, and draws a stream of temperatures. The server asks back before it
heats much, and asks every page when the room is warm. Stop it and start it again: the page comes back by itself.
"""

import threading
from contextlib import ExitStack, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trio

from psession import Exact, Port, Session, SessionError, SessionManager
from psession.channels import WebSocketChannel, serve_websocket

HERE = "127.0.0.1"
FILES = {f"/{module.name}": module for module in Path(__file__).parent.parent.glob("clients/js/*.js")}
FILES["/"] = Path(__file__).with_suffix(".html")


class Files(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        return str(FILES.get(path.partition("?")[0], "no such file"))


class Heating:
    def __init__(self) -> None:
        self.degrees, self.wanted, self.has_asked = 18.0, 19.0, True
        self.manager = SessionManager(dialect=Exact(), on_session=self.answer)

    async def serve(self, channel: WebSocketChannel) -> None:
        async with self.manager.accept(channel, resume_within=30) as port:
            await port.wait_closed()

    async def answer(self, session: Session) -> None:
        async for message in session:
            while message["command"] == "watch":  # until the page leaves, which cancels this
                await session.post({"degrees": self.degrees, "wanted": self.wanted})
                await trio.sleep(0.2)
            if message["degrees"] > 24:
                reply = await session.send({"question": f"Heat to {message['degrees']} °C? That costs a third more."})
            if message["degrees"] <= 24 or reply["yes"]:
                self.wanted, self.has_asked = message["degrees"], False
            await session.post({"wanted": self.wanted})

    async def heat(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(0.1)
            self.degrees += (self.wanted - self.degrees) / 15
            if not self.has_asked and abs(self.wanted - self.degrees) < 0.2 and self.wanted > 19:
                self.has_asked = True
                for port in self.manager.ports.values():
                    nursery.start_soon(self.ask, port)

    async def ask(self, port: Port) -> None:
        with suppress(SessionError):  # nobody may sit before the page
            reply = await port.request({"question": f"The room has {self.wanted} °C now. Turn it down to 19?"})
            self.wanted = 19.0 if reply.get("yes") else self.wanted


async def main(page: int = 8000, socket: int = 8001, task_status: trio.TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
    heating = Heating()
    async with trio.open_nursery() as nursery:
        with ThreadingHTTPServer((HERE, page), Files) as pages, ExitStack() as stack:
            threading.Thread(target=pages.serve_forever, daemon=True).start()
            stack.callback(pages.shutdown)
            origin = f"http://{HERE}:{pages.server_port}"
            serve = partial(serve_websocket, heating.serve, HERE, socket, origins=[origin, None])
            address = f"{origin}/?socket={(await nursery.start(serve)).port}"
            print("open", address)
            task_status.started(address)
            await heating.heat(nursery)


if __name__ == "__main__":
    trio.run(main)
