"""A control centre, a port for each device: all are asked at once, and one that is slow or gone holds up no other."""

from functools import partial

import trio

from psession import PortClosedError, Session, SessionManager, SessionTimeoutError
from psession.channels import lines

DEVICES = {"lamp": 0.01, "lock": 0.02, "heating": 0.1, "garage": 60, "drone": None}
"""The seconds that each takes for an answer; the drone crashes."""

manager = SessionManager(session_timeout=0.3, retry_count=1, retry_interval=0.05)
network = SessionManager()


async def device(stream: trio.SocketStream, *, delay: float | None) -> None:
    """A device on the network."""

    async def handle(session: Session) -> None:
        async for _ in session:
            if delay is None:
                port.close()
            else:
                await trio.sleep(delay)
                await session.post({"status": "ok"})

    async with network.accept(lines(stream), on_session=handle) as port:
        await port.wait_closed()


async def watch(name: str, address: tuple[str, int]) -> None:
    """Connect to one device and ask it. Sessions of two ports never meet, though each counts from 1."""
    async with manager.port(name, lines(await trio.open_tcp_stream(*address))) as port:
        try:
            async with port.session() as session:
                reply = await session.send({"query": "status"})
        except SessionTimeoutError as error:
            print(f"{name:<8} silent: {error.attempts} attempts in {error.waited:.2f} s")
        except PortClosedError as error:
            print(f"{name:<8} gone, which was known after {error.waited:.2f} s")
        else:
            print(f"{name:<8} {reply['status']}, session {session.sid}")


async def main() -> None:
    """Start the devices, ask them all, and leave nothing behind."""
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as watching:
            for name, delay in DEVICES.items():
                serve = partial(trio.serve_tcp, partial(device, delay=delay), 0, host="127.0.0.1")
                listeners = await nursery.start(serve)
                watching.start_soon(watch, name, listeners[0].socket.getsockname())
        nursery.cancel_scope.cancel()
    counted = manager.statistics()
    print(f"answers: {counted.matched}, timeouts: {counted.timed_out}, ports still open: {len(manager.ports)}")


if __name__ == "__main__":
    trio.run(main)
