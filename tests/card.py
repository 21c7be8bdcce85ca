"""The user's card, to the letter: a nursery a port, a memory channel a session, ``move_on_after`` around each attempt.

No engine, no heap of deadlines, no task that keeps the time of others. tests/test_card.py holds the real port to it.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession import PortClosedError, SessionAbortError, SessionCancelError, SessionInvalidError, SessionTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Message = dict[str, Any]

PASSES = 10
"""Passes of the scheduler in which all that the peer said at this moment has come."""


async def hear_all_of_this_moment() -> None:
    for _ in range(PASSES):
        await trio.lowlevel.checkpoint()


class CardSession:
    """One dialogue. What comes while no question is out is no answer, and the card has no other use for it."""

    def __init__(self, port: CardPort) -> None:
        self.port = port
        self.sid = port.take_number(self)
        self.send_channel, self.receive_channel = trio.open_memory_channel[Message](math.inf)
        self.turns = trio.Lock()
        self.sends: dict[trio.CancelScope, type[Exception] | None] = {}
        self.over: type[Exception] | None = None
        self.is_asking = False
        self.owed = 0

    async def send(self, payload: Message, *, timeout: float, retry_count: int, retry_interval: float) -> Message:  # noqa: ASYNC109 - psession's name
        if self.over is not None:
            raise self.over
        with trio.CancelScope() as scope:
            self.sends[scope] = None
            try:
                async with self.turns:
                    return await self.ask(payload, timeout, retry_count, retry_interval)
            finally:
                error = self.sends.pop(scope)
        assert error is not None
        raise error

    async def ask(self, payload: Message, seconds: float, retry_count: int, retry_interval: float) -> Message:
        await hear_all_of_this_moment()  # what came before the question is not its answer
        if self.owed:
            self.sid, self.owed = self.port.take_number(self), 0
        while self.receive_channel.statistics().current_buffer_used:
            self.receive_channel.receive_nowait()  # an answer that was cancelled as it came
        try:
            for attempt in range(retry_count + 1):
                await self.port.channel.send({**payload, "sid": self.sid})
                self.is_asking, self.owed = True, self.owed + 1
                for wait in (seconds, retry_interval) if attempt < retry_count else (seconds,):
                    with trio.move_on_after(wait):
                        return await self.receive_channel.receive()
                    await hear_all_of_this_moment()
                    if self.receive_channel.statistics().current_buffer_used:
                        return self.receive_channel.receive_nowait()
            raise SessionTimeoutError
        finally:
            self.is_asking = False

    def deliver(self, payload: Message) -> None:
        if self.is_asking:
            self.is_asking, self.owed = False, self.owed - 1
            self.send_channel.send_nowait(payload)

    def give_up(self, error: type[Exception]) -> None:
        self.is_asking = False
        for scope in self.sends:
            self.sends[scope] = error
            scope.cancel()

    def cancel(self) -> None:
        self.give_up(SessionCancelError)

    def abort(self) -> None:
        self.give_up(SessionAbortError)

    def end(self) -> None:
        self.over = self.over or SessionInvalidError
        self.give_up(SessionCancelError)


class CardPort:
    """One peer; whose each number was last stands in `sessions`, the first in rotation being 1."""

    def __init__(self, channel: trio.abc.Channel[Message]) -> None:
        self.channel = channel
        self.sessions: list[CardSession] = []
        self.is_left = False

    def take_number(self, session: CardSession) -> int:
        self.sessions.append(session)
        return len(self.sessions)

    def create(self) -> CardSession:
        if self.is_left:
            raise PortClosedError
        return CardSession(self)

    async def read(self) -> None:
        async for message in self.channel:
            session = self.sessions[message["sid"] - 1]
            if session.sid == message["sid"]:
                session.deliver({name: value for name, value in message.items() if name != "sid"})


@asynccontextmanager
async def card_port(channel: trio.abc.Channel[Message]) -> AsyncIterator[CardPort]:
    async with trio.open_nursery() as nursery:
        port = CardPort(channel)
        nursery.start_soon(port.read)
        try:
            yield port
        finally:
            port.is_left = True
            for session in port.sessions:
                session.give_up(SessionAbortError)
                session.over = session.over or PortClosedError
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await channel.aclose()
