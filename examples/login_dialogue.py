"""A login: several turns in one session, straight code on both sides.

Inside a session either side may `send`, and the other's next message is the reply. So a device asks for the password
by answering with a question, and the same `await` brings the reply to it.
"""

from functools import partial

import trio

from psession import Session, SessionManager
from psession.channels import lines

PASSWORD = "123456"

manager = SessionManager(session_timeout=2)


async def device(session: Session) -> None:
    """Turn the light on for a peer that knows the password within three guesses."""
    await session.receive()
    question = "needPassword"
    for _ in range(3):
        if (await session.send({"status": question}))["password"] == PASSWORD:
            await session.post({"status": "ok", "light": "on"})
            return
        question = "wrongPassword"
    await session.post({"status": "locked"})


async def log_in(session: Session, guesses: list[str]) -> str:
    """Try the guesses in turn until the device has decided, and return what it says then."""
    answer = await session.send({"command": "turnOnLight"})
    for guess in guesses:
        print(f"  {answer['status']:<13} -> {guess}")
        answer = await session.send({"password": guess})
        if answer["status"] in ("ok", "locked"):
            break
    return str(answer["status"])


async def serve_device(stream: trio.SocketStream) -> None:
    """The device's network side."""
    async with manager.accept(lines(stream), on_session=device) as port:
        await port.wait_closed()


async def main() -> None:
    """Know the password at the second guess, then not at all."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_device, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        async with manager.port("device", lines(stream)) as port:
            for guesses in (["hunter2", PASSWORD], ["0000", "1111", "2222"]):
                async with port.session() as session:
                    print(f"session {session.sid}: {await log_in(session, guesses)}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
