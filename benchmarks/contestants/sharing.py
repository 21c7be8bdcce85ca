"""What the contestants share: the messages, the codec, and so many round trips at once on either loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio
from harness import HOST, REQUEST, Work

__all__ = ["HOST", "PATIENCE", "REQUEST", "Ask", "Ready", "asyncio_work", "decode", "encode", "long", "trio_work"]

PATIENCE = 10.0
"""Seconds that each request waits for its reply."""

Ask = Callable[[dict[str, Any]], Awaitable[object]]
"""Sends one request and returns its reply."""

Ready = Callable[[int], None]
"""Told the TCP port of a server that listens."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, Any]).decode


def long(size: int) -> dict[str, Any]:
    """A message of about so many bytes of JSON: a list of small ones."""
    return {"type": "report", "requests": [REQUEST] * (size // len(encode(REQUEST)))}


async def _ask_again_and_again(ask: Ask, message: dict[str, Any], turns: int) -> None:
    for _ in range(turns):
        await ask(message)


def trio_work(asks: list[Ask], message: dict[str, Any]) -> Work:
    """As many tasks as `asks`, each with one request at a time; turns are a multiple of their number."""

    async def work(turns: int) -> None:
        if len(asks) == 1:
            await _ask_again_and_again(asks[0], message, turns)
            return
        async with trio.open_nursery() as nursery:
            for ask in asks:
                nursery.start_soon(_ask_again_and_again, ask, message, turns // len(asks))

    return work


def asyncio_work(asks: list[Ask], message: dict[str, Any]) -> Work:
    """The same on asyncio."""

    async def work(turns: int) -> None:
        if len(asks) == 1:
            await _ask_again_and_again(asks[0], message, turns)
            return
        async with asyncio.TaskGroup() as group:
            for ask in asks:
                group.create_task(_ask_again_and_again(ask, message, turns // len(asks)))

    return work
