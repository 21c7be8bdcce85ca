"""What type checkers know of ports outside Trio: the same as of those inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import msgspec

import psession
import psession.asyncio
import psession.blocking
from psession import SessionManager
from psession.channels import memory_pair

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class Command(msgspec.Struct):
    """What is sent."""

    name: str


class Status(msgspec.Struct):
    """What is replied."""

    light: str


async def from_asyncio(block: AbstractAsyncContextManager[psession.Port[Command, Status]]) -> None:
    """A bridge, and a port whose types are known."""
    async with psession.asyncio.bridge() as bridge:
        async with bridge.open(SessionManager().port("lamp", memory_pair()[0])) as anything:
            assert_type(await anything.request({"a": 1}), Any)
            assert_type(await anything.request({"a": 1}, reply_type=Status), Status)
        async with bridge.open(block) as port:
            assert_type(port, psession.asyncio.Port[Command, Status])
            assert_type(await port.request(Command("status"), timeout=3), Status)
            await port.request("status")  # type: ignore[call-overload]  # pyright: ignore
            async with port.session() as session:
                assert_type(await session.send(Command("status")), Status)
            async with port.stream(Command("watch")) as replies:
                async for reply in replies:
                    assert_type(reply, Status)
            async with port.stream(Command("watch"), reply_type=int) as numbers:
                assert_type(await numbers.receive(), int)

        async def length(text: str) -> int:
            return len(text)

        assert_type(await bridge.run(length, "four"), int)


def from_threads(port: psession.blocking.Port[Command, Status]) -> None:
    """A port for plain functions."""
    assert_type(port.request(Command("status"), timeout=3), Status)
    assert_type(port.request(Command("status"), reply_type=int), int)
    with port.session() as session:
        assert_type(session.send(Command("status")), Status)
    with port.stream(Command("watch")) as replies:
        for reply in replies:
            assert_type(reply, Status)
