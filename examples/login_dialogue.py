"""A login: several turns in one session, written as straight code on both sides.

Inside a session either side may `send`: the other's next message is the reply. So a device asks for the password by
answering with a question, and gets the reply to it from the same `await`.
"""

from functools import partial

import trio

from psession import Session, SessionManager, SessionTimeoutError
from psession.channels import lines

PASSWORD = "123456"
ATTEMPTS = 3


async def device(session: Session) -> None:
    """Turn the light on for who knows the password."""
    request = await session.receive()
    answer = {"status": "needPassword", "for": request["command"]}
    for left in reversed(range(ATTEMPTS)):
        if (await session.send(answer)).get("password") == PASSWORD:
            await session.post({"status": "ok", "light": "on"})
            return
        answer = {"status": "wrongPassword", "left": left}
    await session.post({"status": "locked"})


async def log_in(session: Session, guesses: list[str]) -> str:
    """Try one password after the other; returns how it ended."""
    answer = await session.send({"command": "turnOnLight"})
    for guess in guesses:
        print(f"  device: {answer['status']:<13} -> we say {guess!r}")
        answer = await session.send({"password": guess})
        if answer["status"] in ("ok", "locked"):
            break
    return str(answer["status"])


async def serve_device(stream: trio.SocketStream) -> None:
    """The device's network side."""
    async with SessionManager().port("centre", lines(stream), on_session=device) as port:
        await port.wait_closed()


async def main() -> None:
    """Log in with the second guess, then fail three times."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_device, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        async with SessionManager(session_timeout=2).port("device", lines(stream)) as port:
            for guesses in (["hunter2", PASSWORD], ["0000", "1111", "2222"]):
                try:
                    async with port.session() as session:
                        print(f"session {session.sid}: {await log_in(session, guesses)}")
                except SessionTimeoutError as error:
                    print("the device does not answer:", error)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
