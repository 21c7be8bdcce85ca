"""What a port of ``psession echo`` reads: turns of the exact wire. All else is answered below it, with itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from psession._cli._console import complain
from psession.envelope import Envelope, ExactFields
from psession.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession._cli._sockets import Channel

FIELDS: Final = ExactFields()
ENVELOPE: Final = Envelope.exact()

LAST_LOOK: Final = 0.05
"""Seconds between two looks whether a peer that says no more has all its answers."""


class EchoingChannel(trio.abc.Channel[Any]):
    """A connection whose messages are sent back as they are, in order, but for what a port is better at.

    That is what is exact, and has its session's number where psession has it: `receive` returns it. A peer that sends
    without receiving is not read from any further. What cannot be read is skipped; the first of a connection is told.

    Attributes:
        broken: What broke the connection, unless the peer was leaving: one that has ended its session may be gone
            before it hears that this was understood.
    """

    def __init__(self, channel: Channel, is_at_work: Callable[[], bool]) -> None:
        self.broken: trio.BrokenResourceError | None = None
        self._channel = channel
        self._is_at_work = is_at_work
        self._writing = trio.Lock()
        self._skipped = 0
        self._is_leaving = False

    async def receive(self) -> Any:
        """The next message for a port."""
        while True:
            async with self._writing:
                pass  # what was said before is on its way
            try:
                message = await self._channel.receive()
                if is_for_a_port(message):
                    self._is_leaving = FIELDS.end in message and ENVELOPE.is_bare(message)
                    return message
                self._is_leaving = False
                answer = answer_to(message)
                if answer is not None:
                    await self.send(answer)
            except trio.EndOfChannel:
                while self._is_at_work():  # noqa: ASYNC110 - no event says so; it may have closed its own direction only
                    await trio.sleep(LAST_LOOK)
                raise
            except trio.BrokenResourceError as error:
                self._broke(error)
                raise
            except MessageError as error:
                self._skipped += 1
                if self._skipped == 1:
                    complain(f"a message was skipped: {error}")

    async def send(self, value: Any) -> None:
        """Send one message, after what is being sent."""
        async with self._writing:
            try:
                await self._channel.send(value)
            except trio.BrokenResourceError as error:
                self._broke(error)
                raise

    def _broke(self, error: trio.BrokenResourceError) -> None:
        if not self._is_leaving:
            self.broken = error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._channel.aclose()


def is_for_a_port(message: Any) -> bool:
    """Whether a message is of an exact session, or about the port itself."""
    if type(message) is not dict or FIELDS.life not in message:
        return False
    return ENVELOPE.read(message) is not None or ENVELOPE.exact_names.issuperset(message)


def answer_to(message: Any) -> Any:
    """What to send back; ``None`` for what is no question: a turn given up, a session's end.

    A turn of the exact wire is answered as such, as the smallest device would: see docs/protocol.md.
    """
    if type(message) is not dict or FIELDS.life not in message:
        return message
    turn = message.get(FIELDS.turn)
    if type(turn) is not int or FIELDS.error in message or message.get(FIELDS.wait) == 0:
        return None
    plain = {name: value for name, value in message.items() if name not in ENVELOPE.exact_names}
    return {**plain, FIELDS.re: turn, FIELDS.life: message[FIELDS.life]}
