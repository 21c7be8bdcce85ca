"""``psession echo``: a peer that answers each message with the message itself."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING, Any, Final

import trio

from psession._cli._console import complain, say
from psession._cli._problem import Exit
from psession._cli._url import serve_url
from psession.envelope import Envelope, ExactFields
from psession.errors import MessageError

if TYPE_CHECKING:
    from psession._cli._address import Address
    from psession._cli._sockets import Channel

FIELDS: Final = ExactFields()
EXACT_NAMES: Final = Envelope.exact().exact_names


async def run(address: Address) -> Exit:
    """Listen on `address`, say on which URL, and answer until SIGINT or SIGTERM.

    Raises:
        Problem: It cannot listen there.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_url, answer_all, address)
            say(str(dataclasses.replace(address, port=port)))
            await anext(signals)
            nursery.cancel_scope.cancel()
    return Exit.OK


async def answer_all(channel: Channel) -> None:
    """Send back what comes, as it is: whatever number it has, and under whatever name.

    A turn of the exact wire is answered as such, as the smallest device would: see docs/protocol.md.

    A peer that sends without receiving is not read from any further. What cannot be read is skipped; the first of a
    connection is told.

    Raises:
        trio.BrokenResourceError: The connection broke.
    """
    skipped = 0
    while True:
        try:
            answer = answer_to(await channel.receive())
            if answer is not None:
                await channel.send(answer)
        except trio.EndOfChannel:
            return
        except MessageError as error:
            skipped += 1
            if skipped == 1:
                complain(f"a message was skipped: {error}")


def answer_to(message: Any) -> Any:
    """What to send back; ``None`` for what is no question: a turn given up, a session's end, a word about the port."""
    if type(message) is not dict or FIELDS.life not in message:
        return message
    turn = message.get(FIELDS.turn)
    if type(turn) is not int or FIELDS.error in message or message.get(FIELDS.wait) == 0:
        return None
    plain = {name: value for name, value in message.items() if name not in EXACT_NAMES}
    return {**plain, FIELDS.re: turn, FIELDS.life: message[FIELDS.life]}
