"""A client that outlives its links: the server drops it again and again, and it goes on where it was."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from psession.channels import FramedChannel, LinkState, lines, reconnecting

READINGS = [20.5, 20.9, 21.4, 21.6, 21.5, 21.1]


async def serve_client(stream: trio.SocketStream) -> None:
    """A thermometer in bad health: it sends two readings to each client, then drops it."""
    try:
        async with lines(stream) as channel:
            wanted = await channel.receive()
            for number in range(wanted["from"], wanted["from"] + 2):
                await channel.send({"number": number, "degrees": READINGS[number]})
    except Exception as error:  # trio.serve_tcp would end with it, and every other client too
        print(f"a client was lost: {error!r}")


class Watcher:
    """Knows what it has heard so far, so that each new link goes on from there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[FramedChannel]:
        """One link. What the server must know of its client is said first on each."""
        async with lines(await trio.open_tcp_stream("127.0.0.1", self.port)) as channel:
            await channel.send({"from": self.heard})
            yield channel

    async def watch(self) -> None:
        """Hear all readings, on however many links."""
        async with reconnecting(self.connect, first_delay=0.01, max_delay=1, on_state=tell) as channel:
            while self.heard < len(READINGS):
                reading = await channel.receive()
                self.heard = reading["number"] + 1
                print(f"{reading['degrees']} degrees")


def tell(state: LinkState) -> None:
    """Say what becomes of the link."""
    print(f"  {state.state}" + (f", {state.error!r}" if state.state == "broken" else ""))


async def main() -> None:
    """Serve one client, then stop."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_client, 0, host="127.0.0.1"))
        await Watcher(listeners[0].socket.getsockname()[1]).watch()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
