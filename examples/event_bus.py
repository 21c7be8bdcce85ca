"""One connection to a bus, many devices behind it: `manager.listen` gives each message to its device's port."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

from psession import Port, SessionManager, share
from psession.channels import lines

manager = SessionManager(session_timeout=2)


async def devices(stream: trio.SocketStream) -> None:
    """The devices behind the bus: the doorbell speaks unasked, the others answer."""
    try:
        async with lines(stream) as bus:
            await bus.send({"from": "doorbell", "event": "pressed"})
            async for message in bus:
                await bus.send({"from": message["to"], "sid": message["sid"], "status": "ok"})
    except Exception as error:  # trio.serve_tcp would end with it, and every other client too
        print(f"a client was lost: {error!r}")


def device(bus: trio.abc.Channel[Any], name: str, **options: Any) -> AbstractAsyncContextManager[Port]:
    """A port for one device: its sender puts the address on every message."""
    return manager.port(name, lambda message: bus.send({"to": name} | message), **options)


async def newcomer(bus: trio.abc.Channel[Any], name: str, message: Any) -> None:
    """Somebody speaks who has no port: as soon as it has one, that gets the message, and what follows."""
    async with device(bus, name, on_message=lambda message: print(f"{name}: {message['event']}")) as port:
        await port.wait_closed()


async def ask(bus: trio.abc.Channel[Any], name: str) -> None:
    """One question to one device. Each is asked in a session 1, in its own port."""
    async with device(bus, name) as port, port.session() as session:
        reply = await session.send({"query": "status"})
        print(f"{name}: {reply['status']} (session {session.sid})")


async def main() -> None:
    """Ask three devices at once over one connection."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, devices, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        async with share(lines(stream)) as bus:  # for many writers, of whom one may be cancelled while it writes
            listen = partial(manager.listen, port_of=lambda m: m["from"], on_unknown=partial(newcomer, bus))
            nursery.start_soon(listen, bus)
            async with trio.open_nursery() as asking:
                for name in ("lamp", "oven", "heating"):
                    asking.start_soon(ask, bus, name)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
