"""Sessions for code that has a receive loop of its own: a sender out, `dispatch` in. The port touches no socket."""

import json
from functools import partial
from typing import Any

import trio

from psession import SessionManager


async def receive_loop(stream: trio.SocketStream, manager: SessionManager) -> None:
    """Your loop, with your framing: messages end with a NUL, which nothing in psession knows of."""
    buffer = b""
    async for data in stream:
        *frames, buffer = (buffer + data).split(b"\0")
        for frame in frames:
            message = json.loads(frame)
            # In one: is it a session's (`is_session`), whose (`get_session`), and give it (`session.next`). Never waits.
            if not manager.dispatch(message):
                print("no session's:", message)


async def legacy_server(stream: trio.SocketStream) -> None:
    """The other side, which has never heard of psession: it copies `sid` from the question to the answer."""
    buffer = b""
    async for data in stream:
        *frames, buffer = (buffer + data).split(b"\0")
        for question in map(json.loads, frames):
            answers = [{"news": "somebody asked"}, {"sid": question["sid"], "sum": sum(question["numbers"])}]
            await stream.send_all(b"".join(json.dumps(answer).encode() + b"\0" for answer in answers))


async def ask(manager: SessionManager, numbers: list[int]) -> None:
    """One question of several at once."""
    with manager.create_session() as session:
        reply = await session.send({"numbers": numbers})
        print(f"session {session.sid}: {'+'.join(map(str, numbers))} = {reply['sum']}")


async def main() -> None:
    """Three questions at once over one stream."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, legacy_server, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())

        async def sender(
            message: Any,
        ) -> None:  # called by one task, so that no write is cut by another or by a timeout
            await stream.send_all(json.dumps(message).encode() + b"\0")

        async with stream, SessionManager(sender, session_timeout=2) as manager:
            nursery.start_soon(receive_loop, stream, manager)
            async with trio.open_nursery() as questions:
                for numbers in ([1, 2], [3, 4, 5], [6]):
                    questions.start_soon(ask, manager, numbers)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
