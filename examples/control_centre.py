"""A control centre with a port per device: all are asked at once, and one that is slow or gone holds up no other."""

from functools import partial

import trio

from psession import PortClosedError, Session, SessionManager, SessionTimeoutError
from psession.channels import lines

manager = SessionManager(session_timeout=0.3, retry_count=1, retry_interval=0.05)


async def device(stream: trio.SocketStream, *, answers_after: float) -> None:
    """A device on the network: it answers every question, sooner or later; `inf` is one that hangs up."""

    async def handle(session: Session) -> None:
        async for _ in session:
            if answers_after == float("inf"):
                port.close()
            await trio.sleep(answers_after)
            await session.post({"status": "ok"})

    async with SessionManager().port("centre", lines(stream), on_session=handle) as port:
        await port.wait_closed()


async def watch(name: str, address: tuple[str, int], report: dict[str, str]) -> None:
    """Connect to one device and ask it: sessions of different ports never meet, though all count from 1."""
    async with manager.port(name, lines(await trio.open_tcp_stream(*address))) as port:
        started = trio.current_time()
        try:
            reply = await port.request({"query": "status"})
            report[name] = f"{reply['status']} (session {reply['sid']}, {trio.current_time() - started:.2f} s)"
        except SessionTimeoutError as error:
            report[name] = f"silent: {error.attempts} attempts in {error.waited:.2f} s"
        except PortClosedError as error:
            report[name] = f"gone after {error.waited:.2f} s, which is told at once"


async def main() -> None:
    """Start five devices, ask them all, print what was found."""
    devices = {"lamp": 0.01, "lock": 0.02, "heating": 0.1, "garage": 60.0, "drone": float("inf")}
    report: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as watching:
            for name, delay in devices.items():
                serve = partial(trio.serve_tcp, partial(device, answers_after=delay), 0, host="127.0.0.1")
                listeners = await nursery.start(serve)
                watching.start_soon(watch, name, listeners[0].socket.getsockname(), report)
        nursery.cancel_scope.cancel()
    for name in devices:
        print(f"{name:<8} {report[name]}")
    print(f"{len(manager.ports)} ports are left open")


if __name__ == "__main__":
    trio.run(main)
