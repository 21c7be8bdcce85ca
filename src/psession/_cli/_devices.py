"""The six devices of the demo. Each is a WebSocket client with a port of its own, and knows nothing but the wire."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import trio

from psession import SessionManager
from psession._cli._websocket import open_ws

if TYPE_CHECKING:
    from psession import Port, Session
    from psession._cli._sockets import Channel

THINKING = 0.14
"""Seconds that a device takes for an answer: slow enough for a reader to follow."""

PASSWORD = "123456"


class Device:
    """One device; what it does in a session that the centre opens is for the classes below to say."""

    channel: Channel
    port: Port

    @property
    def name(self) -> str:
        """What it calls itself."""
        return type(self).__name__.lower()

    async def run(self, url: str) -> None:
        """Connect, say hello, and serve the centre until one of the two goes."""
        async with open_ws(url, within=5) as self.channel:
            await self.channel.send({"device": self.name})
            async with SessionManager().port("centre", self.channel, on_session=self.answer) as self.port:
                await self.port.wait_closed()

    async def answer(self, session: Session) -> None:
        """Do what the peer asks in one session of its own."""


class Lamp(Device):
    """Wants a password: its question is the reply to the centre's, and the centre's next message the reply to its."""

    async def answer(self, session: Session) -> None:
        await session.receive()
        await trio.sleep(THINKING)
        reply = await session.send({"status": "needPassword"})
        await trio.sleep(THINKING)
        right = reply.get("password") == PASSWORD
        await session.post({"status": "ok", "light": "on"} if right else {"status": "wrongPassword"})


class Sensor(Device):
    """Sleeps through the first attempt."""

    async def answer(self, session: Session) -> None:
        await session.receive()
        await session.receive()
        await trio.sleep(THINKING)
        await session.post({"humidity": 47})


class Oven(Device):
    """Is slow as long as it is cold: its first answer comes too late."""

    cold = True

    async def answer(self, session: Session) -> None:
        await session.receive()
        celsius, thinking = (60, 4.5 * THINKING) if self.cold else (180, 2.5 * THINKING)
        self.cold = False
        await trio.sleep(thinking)
        await session.post({"celsius": celsius})


class Drone(Device):
    """Crashes in the middle of a turn, without a goodbye."""

    async def answer(self, session: Session) -> None:
        await session.receive()
        await trio.sleep(2 * THINKING)
        await trio.aclose_forcefully(self.channel)


class Meter(Device):
    """Answers many questions at once, each as soon as it can."""

    async def answer(self, session: Session) -> None:
        message = await session.receive()
        await trio.sleep(random.uniform(0.2, 2) * THINKING)
        await session.post({"register": message["register"]})


class Doorbell(Device):
    """Opens a session itself when somebody presses it."""

    async def press(self) -> Any:
        """Ring, say who it is, and return what the centre says to that."""
        async with self.port.session(timeout=2) as session:
            await session.send({"event": "ring"})
            await trio.sleep(THINKING)
            return await session.send({"name": "the postman"})
