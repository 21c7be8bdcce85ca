"""The channel below a port of ``psession echo``. The port reads exact turns; all else is answered here, with itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from psession import Exact, MessageError
from psession._cli._console import complain

if TYPE_CHECKING:
    from psession._cli._url import Channel

DIALECT: Final = Exact()
FIELDS: Final = DIALECT.fields

SILENCE: Final = 0.05
"""Seconds without an answer after which a peer that sends no more has them all. Each is given at once."""


class EchoingChannel(trio.abc.Channel[Any]):
    """A connection whose messages are sent back as they are, in order, unless a port should answer them.

    Those are exact messages that have their session's number where psession has it; `receive` returns them. A peer that
    sends without receiving is not read any further. Messages that cannot be decoded are skipped; the first of each
    connection is reported.

    Attributes:
        broken: The error that broke the connection, unless the peer was leaving: a peer that has ended its session may
            leave before that was confirmed.
    """

    def __init__(self, channel: Channel) -> None:
        self.broken: trio.BrokenResourceError | None = None
        self._channel = channel
        self._writing = trio.Lock()
        self._sent = 0
        self._skipped = 0
        self._is_leaving = False

    async def receive(self) -> Any:
        """Receive the next message for a port."""
        while True:
            async with self._writing:
                pass  # all earlier answers are on their way
            try:
                message = await self._channel.receive()
                if is_for_a_port(message):
                    self._is_leaving = FIELDS.end in message and DIALECT.is_bare(message)
                    return message
                self._is_leaving = False
                answer = answer_to(message)
                if answer is not None:
                    await self.send(answer)
            except trio.EndOfChannel:
                await self._wait_for_silence()  # the peer may have closed its own direction only
                raise
            except trio.BrokenResourceError as error:
                self._broke(error)
                raise
            except MessageError as error:
                self._skipped += 1
                if self._skipped == 1:
                    complain(f"a message was skipped: {error}")

    async def _wait_for_silence(self) -> None:
        sent = -1
        while self._writing.locked() or sent != self._sent:
            sent = self._sent
            await trio.sleep(SILENCE)

    async def send(self, value: Any) -> None:
        """Send one message, after the one that is being sent."""
        async with self._writing:
            try:
                await self._channel.send(value)
                self._sent += 1
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
    """Return True if a message is one of an exact session, or about the port itself."""
    if type(message) is not dict or FIELDS.life not in message:
        return False
    return DIALECT.sid_of(message) is not None or DIALECT.exact_names.issuperset(message)


def answer_to(message: Any) -> Any:
    """Return the answer, or ``None`` if the message is no question: a turn given up, a session's end.

    A turn of the exact wire gets an exact answer, as the smallest device would give it: see docs/protocol.md.
    """
    if type(message) is not dict or FIELDS.life not in message:
        return message
    turn = message.get(FIELDS.turn)
    if type(turn) is not int or FIELDS.error in message or message.get(FIELDS.wait) == 0:
        return None
    plain = {name: value for name, value in message.items() if name not in DIALECT.exact_names}
    return {**plain, FIELDS.re: turn, FIELDS.life: message[FIELDS.life]}
