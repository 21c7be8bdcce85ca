"""A long job that tells how far it is: many replies to one request, and a listener who loses interest.

Each `post` of the device's handler is one reply. It waits when the client, who has room for eight of them, does not
keep up, and is cancelled when the client leaves the block.
"""

from functools import partial

import trio

from psession import Exact, Session, SessionManager, SessionRemoteError
from psession.channels import lines

manager = SessionManager(session_timeout=2, dialect=Exact())


async def device(session: Session) -> None:
    """Install what is asked for in steps of 25 percent."""
    async for message in session:
        try:
            for percent in range(0, 100, 25):
                await session.post({"percent": percent})
                await trio.sleep(message["seconds"])
                if message["name"] == "broken.bin":
                    raise ValueError("the checksum is wrong")
            await session.finish({"percent": 100})
        except trio.Cancelled:
            print("  device: nobody waits for it any more")
            raise


async def serve_device(stream: trio.SocketStream) -> None:
    """The device's network side."""
    async with manager.accept(lines(stream), on_session=device, error_codes={ValueError: "bad_file"}) as port:
        await port.wait_closed()


async def main() -> None:
    """Install something, then something broken, then something that takes too long."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_device, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        async with manager.port("device", lines(stream)) as port:
            for name, seconds in (("good.bin", 0.01), ("broken.bin", 0.01), ("large.bin", 0.2)):
                try:
                    async with port.stream({"name": name, "seconds": seconds}, total=5, credit=8) as replies:
                        async for reply in replies:
                            print(f"{name}: {reply['percent']} %")
                            if name == "large.bin" and reply["percent"] >= 25:
                                break
                except SessionRemoteError as error:
                    print(f"{name}: {error.code}, {error.text}")
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
