"""Sessions for code with a receive loop of its own: a sender out, `dispatch` in. The port touches no socket."""

import json
from functools import partial
from typing import Any

import trio

from psession import SessionManager


async def receive_loop(stream: trio.SocketStream, manager: SessionManager) -> None:
    """Your loop, with your framing: here messages end with a NUL."""
    buffer = b""
    async for data in stream:
        *frames, buffer = (buffer + data).split(b"\0")
        for message in map(json.loads, frames):
            # `is_session`, `get_session` and `session.next` in one. It never waits.
            if not manager.dispatch(message):
                print("no session's:", message)


async def adder(stream: trio.SocketStream) -> None:
    """The other side, which has never heard of psession: it copies `sid` from the question to the answer."""
    buffer = b""
    try:
        async for data in stream:
            *frames, buffer = (buffer + data).split(b"\0")
            for question in map(json.loads, frames):
                answers = [{"news": "a question came"}, {"sid": question["sid"], "sum": sum(question["numbers"])}]
                await stream.send_all(b"".join(json.dumps(answer).encode() + b"\0" for answer in answers))
    except Exception as error:  # trio.serve_tcp would end with it, and every other client too
        print(f"a client was lost: {error!r}")


async def ask(manager: SessionManager, numbers: list[int]) -> None:
    """One question of several at once."""
    with manager.create_session() as session:
        reply = await session.send({"numbers": numbers})
        print(f"session {session.sid}: the sum of {numbers} is {reply['sum']}")


async def main() -> None:
    """Three questions at once over one stream."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, adder, 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())

        async def sender(message: Any) -> None:  # called by one task alone, which no timeout reaches
            await stream.send_all(json.dumps(message).encode() + b"\0")

        async with stream, SessionManager(sender, session_timeout=2) as manager:
            nursery.start_soon(receive_loop, stream, manager)
            async with trio.open_nursery() as questions:
                for numbers in ([1, 2], [3, 4, 5], [6]):
                    questions.start_soon(ask, manager, numbers)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
