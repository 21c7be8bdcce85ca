"""A service with methods of each kind, for tests of plain requests."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from psession import Service, SessionRefusedError


class Status(msgspec.Struct):
    """The state of a lamp."""

    level: int


def make_lamp() -> Service:
    """A service with methods of each kind."""
    lamp = Service("command")

    @lamp.method
    async def dim(level: int) -> Status:
        """Dim the lamp."""
        await trio.sleep(1)
        return Status(level)

    @lamp.method
    def name() -> str:
        return "lamp"

    @lamp.method
    async def count(to: int) -> Any:
        for number in range(to):
            yield {"n": number}

    @lamp.method
    def fail() -> None:
        raise KeyError("inside")

    @lamp.method
    def refuse() -> None:
        raise SessionRefusedError("not today", code="holiday", data={"until": 2})

    return lamp
