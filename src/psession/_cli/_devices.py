"""The six devices of the demo. Each is a WebSocket client with a port of its own, and knows only the wire."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import trio

from psession import SessionManager
from psession._cli._url import open_url

if TYPE_CHECKING:
    from psession import Port, Session
    from psession._cli._address import Address
    from psession._cli._url import Channel

THINKING = 0.14
"""Seconds that a device takes for an answer: slow enough for a reader to follow."""

PASSWORD = "123456"


class Device:
    """One device. The classes below say what it does in a session that the centre opens."""

    channel: Channel
    port: Port

    @property
    def name(self) -> str:
        """The name that it gives itself."""
        return type(self).__name__.lower()

    async def run(self, address: Address) -> None:
        """Connect, say hello, and serve the centre until one of the two leaves."""
        async with open_url(address, within=5) as self.channel:
            await self.channel.send({"device": self.name})
            async with SessionManager().port("centre", self.channel, on_session=self.answer) as self.port:
                await self.port.wait_closed()

    async def answer(self, session: Session) -> None:
        """Answer the peer in one session that the peer opened."""


class Lamp(Device):
    """A device that wants a password. Its question is its reply, and the centre's next message the reply to that."""

    async def answer(self, session: Session) -> None:
        await session.receive()
        await trio.sleep(THINKING)
        reply = await session.send({"status": "needPassword"})
        await trio.sleep(THINKING)
        right = reply.get("password") == PASSWORD
        await session.post({"status": "ok", "light": "on"} if right else {"status": "wrongPassword"})


class Sensor(Device):
    """A device that sleeps through the first attempt."""

    async def answer(self, session: Session) -> None:
        await session.receive()
        await session.receive()
        await trio.sleep(THINKING)
        await session.post({"humidity": 47})


class Oven(Device):
    """A device that is slow as long as it is cold: its first answer comes too late."""

    cold = True

    async def answer(self, session: Session) -> None:
        await session.receive()
        celsius, thinking = (60, 4.5 * THINKING) if self.cold else (180, 2.5 * THINKING)
        self.cold = False
        await trio.sleep(thinking)
        await session.post({"celsius": celsius})


class Drone(Device):
    """A device that crashes in the middle of a turn, without a goodbye."""

    async def answer(self, session: Session) -> None:
        await session.receive()
        await trio.sleep(2 * THINKING)
        await trio.aclose_forcefully(self.channel)


class Meter(Device):
    """A device that answers many questions at once, each as soon as it can."""

    async def answer(self, session: Session) -> None:
        message = await session.receive()
        await trio.sleep(random.uniform(0.2, 2) * THINKING)
        await session.post({"register": message["register"]})


class Doorbell(Device):
    """A device that opens a session itself when somebody presses it."""

    async def press(self) -> Any:
        """Ring, answer the centre's question, and return the centre's last answer."""
        async with self.port.session(timeout=2) as session:
            await session.send({"event": "ring"})
            await trio.sleep(THINKING)
            return await session.send({"name": "the postman"})
