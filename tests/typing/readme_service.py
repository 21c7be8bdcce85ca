"""The service that the README shows, as type checkers see it. Checked by `nox -s types`, never run from here."""

from collections.abc import AsyncIterator

import msgspec
import trio

from psession import Exact, Service, SessionManager, SessionRefusedError, SessionRemoteError
from psession.channels import memory_pair

lamp = Service("command")  # the field that names a method; the other fields are its arguments


class Status(msgspec.Struct):
    level: int


@lamp.method
def status() -> Status:
    return Status(40)


@lamp.method
async def dim(level: int) -> Status:
    if level > 100:
        raise SessionRefusedError("100 is the brightest", code="too_bright")
    return Status(level)


@lamp.method
async def fade(to: int, step: int = 20) -> AsyncIterator[Status]:
    for level in range(0, to + 1, step):
        yield Status(level)


async def main() -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with manager.port("client", there, on_request=lamp), manager.port("lamp", here) as port:
        for message in ({"command": "status"}, {"command": "dim", "level": 200}, {"command": "dim", "level": "high"}):
            try:
                print(await port.request(message, reply_type=Status))
            except SessionRemoteError as error:
                print(f"{error.code}: {error.text}")
        async with port.stream({"command": "fade", "to": 60}, reply_type=Status) as replies:
            print([reply.level async for reply in replies])


trio.run(main)
