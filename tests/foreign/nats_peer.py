"""A program on nats-py: answers "py.echo" and "py.plain", asks what it is told.

Each line of its standard input is a subject to ask with some data. ``all SUBJECT`` asks whoever is there, as tools do
that look for micro services, and prints a list of the answers, each read by nats-py's own type of it as well.
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

KINDS = {"PING": ServicePing, "INFO": ServiceInfo, "STATS": ServiceStats}
NO_DATA: dict[str, object] = {}
"""What nats-py wants to be there in the counters of an endpoint, and the published schema does not."""

QUIET = 0.3
"""Seconds without one more answer after which there will be none."""


async def ask_all(connection: nats.aio.client.Client, subject: str) -> str:
    """Publish nothing with a subject for answers, and return the list of them, or that nobody is there."""
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox)
    await connection.publish(subject, b"", reply=inbox)
    answers = []
    while True:
        try:
            message = await subscription.next_msg(timeout=QUIET if answers else 5)
        except TimeoutError:
            break
        if message.headers and message.headers.get("Status") == "503":
            return "no responders"
        answers.append(json.loads(message.data))
        given = dict(answers[-1])
        verb = subject.split(".")[1]
        if verb == "STATS":
            given["endpoints"] = [{"data": NO_DATA, **endpoint} for endpoint in given["endpoints"]]
        kind = KINDS[verb].from_dict(given)
        assert (kind.name, kind.id) == (answers[-1]["name"], answers[-1]["id"])
    await subscription.unsubscribe()
    return json.dumps(answers)


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
        if subject == "all":
            print(await ask_all(connection, data), flush=True)
            continue
        try:
            reply = await connection.request(subject, data.encode(), timeout=5)
            headers = " ".join(f"{name}={value}" for name, value in (reply.headers or {}).items())
            print(reply.data.decode(), headers, flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
