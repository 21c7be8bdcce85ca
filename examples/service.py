"""A service: methods that a peer calls by name, with typed arguments, a stream of results, and an object's state.

What the client asks in a wrong way is refused before any method runs, and it is told what would be right.
"""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import msgspec
import trio

from psession import Exact, Port, Service, SessionManager, SessionRefusedError, SessionRemoteError
from psession.channels import lines

manager = SessionManager(session_timeout=5, dialect=Exact())

Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Status(msgspec.Struct):
    """How bright a lamp is."""

    level: int


class Lamp:
    """A lamp, one for each client; its public methods are what the client may call."""

    def __init__(self) -> None:
        self.level = 0
        self.locked = False

    def status(self) -> Status:
        """Say how bright it is."""
        return Status(self.level)

    def lock(self) -> bool:
        """Let nobody dim it from now on."""
        self.locked = True
        return self.locked

    def dim(self, level: Percent) -> Status:
        """Set its brightness."""
        if self.locked:
            raise SessionRefusedError("the lamp is locked", code="locked")
        self.level = level
        return Status(level)

    async def fade(self, to: Percent, seconds: float = 0.1) -> AsyncIterator[Status]:
        """Become brighter in steps of 25."""
        while self.level < to:
            self.level += 25
            await trio.sleep(seconds)
            yield Status(self.level)

    def service(self) -> Service:
        """Make the service of this very lamp."""
        service = Service("command")
        for method in (self.status, self.lock, self.dim, self.fade, service.describe):
            service.add(method)
        return service


async def serve_client(stream: trio.SocketStream) -> None:
    """The lamp's network side."""
    async with manager.accept(lines(stream), on_request=Lamp().service()) as port:
        await port.wait_closed()


async def ask(port: Port, message: dict[str, Any]) -> None:
    """Ask one question and print its answer, or what is wrong with it."""
    try:
        print(message, "->", await port.request(message))
    except SessionRemoteError as error:
        print(message, "->", f"{error.code}, {error.text}")


async def main() -> None:
    """Use the lamp, rightly and wrongly."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_client, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        async with manager.port("lamp", lines(stream)) as port:
            methods = (await port.request({"command": "describe"}))["methods"]
            print(*(f"{name}: {method['description']}" for name, method in methods.items()), sep="\n")

            async with port.stream({"command": "fade", "to": 75, "seconds": 0.01}, reply_type=Status) as replies:
                async for status in replies:
                    print(f"the lamp is at {status.level} %")

            await ask(port, {"command": "dim", "level": 50})
            await ask(port, {"command": "dim", "level": 200})
            await ask(port, {"command": "dim", "levle": 50})
            await ask(port, {"command": "explode"})
            await ask(port, {"command": "lock"})
            await ask(port, {"command": "dim", "level": 100})
            await ask(port, {"command": "status"})
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
