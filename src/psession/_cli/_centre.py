"""The demo's server: a port for each device that connects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from psession import SessionManager
from psession._cli._devices import THINKING
from psession._cli._transcript import Tap

if TYPE_CHECKING:
    from psession import Port, Session
    from psession._cli._transcript import Transcript
    from psession._cli._url import Channel

OWN_IDS = range(1, 65536)
"""The numbers of sessions that the centre opens. A port with ``on_session``, such as a device's, counts from 65536."""


class Centre:
    """A server that waits for devices, then asks them.

    Args:
        transcript: Shows each message and each check.
        expected: The number of devices that will come.

    Attributes:
        manager: Holds a port for each device that is connected.
        complete: Set when all devices are connected.
        deserted: Set when the last device has left.
    """

    def __init__(self, transcript: Transcript, expected: int) -> None:
        self.transcript = transcript
        self.manager = SessionManager(session_timeout=2, session_ids=OWN_IDS, on_session=self._answer)
        self.complete = trio.Event()
        self.deserted = trio.Event()
        self._expected = expected

    def port(self, device: str) -> Port:
        """Return the port of a device that is connected."""
        return self.manager.ports[device]

    async def welcome(self, channel: Channel) -> None:
        """Serve one connection. Its first message names the device; its port lasts as long as it does."""
        name = (await channel.receive())["device"]
        async with self.manager.accept(Tap(channel, partial(self._report, name)), name) as port:
            if len(self.manager.ports) == self._expected:
                self.complete.set()
            await port.wait_closed()
        if not self.manager.ports:
            self.deserted.set()

    def _report(self, device: str, message: Any, out: bool) -> None:
        late = not out and message.get("sid") in OWN_IDS and self.port(device).get_session(message) is None
        self.transcript.message(device, message, out=out, remark="too late: dropped" if late else "")

    async def _answer(self, session: Session) -> None:
        """Answer a device that opened a session: somebody rings."""
        await session.receive()
        await trio.sleep(THINKING)
        reply = await session.send({"question": "who is it?"})
        await trio.sleep(THINKING)
        await session.post({"door": "open" if reply["name"] == "the postman" else "shut"})
