"""A program on nats-py: answers "py.echo" and "py.plain", asks what it is told."""

from __future__ import annotations

import asyncio
import sys

import nats


async def main(url: str) -> None:
    """Until the standard input ends; each line there is a subject to ask, its answer is printed."""
    connection = await nats.connect(url)

    async def echo(message: nats.aio.msg.Msg) -> None:
        await connection.publish(message.reply, b"py " + message.data, headers=message.headers)

    await connection.subscribe("py.echo", queue="py", cb=echo)

    async def plain(message: nats.aio.msg.Msg) -> None:
        await message.respond(message.data)

    await connection.subscribe("py.plain", cb=plain)
    await connection.flush()
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().strip():
        subject, _, data = line.partition(" ")
        try:
            reply = await connection.request(subject, data.encode(), timeout=5)
            headers = " ".join(f"{name}={value}" for name, value in (reply.headers or {}).items())
            print(reply.data.decode(), headers, flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
