"""One connection to a bus, many devices behind it: `manager.listen` gives each message to its device's port."""

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from psession import Port, SessionManager
from psession.channels import lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

manager = SessionManager(session_timeout=2)


async def bus_of_devices(stream: trio.SocketStream) -> None:
    """What stands behind the bus: every device answers with its name, and one speaks without being asked."""
    async with lines(stream) as bus:
        await bus.send({"from": "doorbell", "event": "pressed"})
        async for message in bus:
            await bus.send({"from": message["to"], "sid": message["sid"], "status": f"{message['to']} is on"})


@asynccontextmanager
async def device(bus: trio.abc.Channel[Any], name: str, **options: Any) -> "AsyncIterator[Port]":
    """A port of one device on the bus: it sends with the device's address on every message."""

    async def sender(message: Any) -> None:
        await bus.send({"to": name} | message)

    async with manager.port(name, sender, **options) as port:
        yield port


async def newcomer(bus: trio.abc.Channel[Any], name: str, message: Any) -> None:
    """Somebody speaks whom we do not know: a port of its own gets that message, and what follows."""
    heard = trio.Event()

    def on_message(message: Any) -> None:
        print(f"{name} says: {message['event']}")
        heard.set()

    async with device(bus, name, on_message=on_message):
        await heard.wait()


async def main() -> None:
    """Ask three devices at once over one connection."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, bus_of_devices, 0, host="127.0.0.1"))
        async with lines(await trio.open_tcp_stream(*listeners[0].socket.getsockname())) as bus:
            listen = partial(manager.listen, port_of=lambda m: m.get("from"), on_unknown=partial(newcomer, bus))
            nursery.start_soon(listen, bus)
            async with trio.open_nursery() as asking:
                for name in ("lamp", "oven", "heating"):
                    asking.start_soon(ask, bus, name)
            nursery.cancel_scope.cancel()


async def ask(bus: trio.abc.Channel[Any], name: str) -> None:
    """One device, one question; all three get session number 1, each in its own port."""
    async with device(bus, name) as port:
        reply = await port.request({"query": "status"})
        print(f"{name}: {reply['status']} (session {reply['sid']})")


if __name__ == "__main__":
    trio.run(main)
