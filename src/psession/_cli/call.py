"""``psession call``: one request, and its reply on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from psession import MessageError, PortClosedError, SessionError, SessionManager, SessionTimeoutError
from psession._cli._console import can_say, say
from psession._cli._problem import Exit, Problem
from psession._cli._url import open_url
from psession.channels import DEFAULT_MAX_MESSAGE_BYTES, JsonCodec

if TYPE_CHECKING:
    from psession import Port, PortOptions
    from psession._cli._address import Address

CODES: list[tuple[type[SessionError], Exit]] = [
    (SessionTimeoutError, Exit.TIMEOUT),
    (PortClosedError, Exit.CONNECTION),
    (MessageError, Exit.MESSAGE),
    (SessionError, Exit.FAILED),
]


def read_message(text: str) -> Any:
    """The message that the argument MESSAGE gives: JSON, or ``-`` for what standard input has.

    Raises:
        Problem: It is no JSON object.
    """
    try:
        return JsonCodec().decode(_standard_input() if text == "-" else text)
    except MessageError as error:
        why = error.why.partition(";")[0]
        raise Problem(f'MESSAGE must be a JSON object, such as {{"command": "status"}}: {why}', Exit.MESSAGE) from error


def _standard_input() -> bytes:
    if sys.stdin is None:
        return b""
    try:
        return sys.stdin.buffer.read(DEFAULT_MAX_MESSAGE_BYTES + 1)
    except OSError as error:
        raise Problem(f"cannot read standard input: {error}", Exit.MESSAGE) from error


async def run(address: Address, message: Any, *, within: float, options: PortOptions) -> Exit:
    """Send `message` to the peer at `address` and say its reply.

    Args:
        address: Who is asked.
        message: What is asked.
        within: Seconds for the connection.
        options: How the port asks.

    Raises:
        Problem: There is no reply; it says why.
    """
    manager = SessionManager(**options)
    async with open_url(address, within=within) as channel, manager.port(str(address), channel) as port:
        reply = await _ask(port, message)
    say(_as_json(reply))
    return Exit.OK


async def _ask(port: Port, message: Any) -> Any:
    try:
        return await port.request(message)
    except SessionError as error:
        text = str(error)
        if bad := port.statistics().malformed:
            text += f"; {bad} came that {'is' if bad == 1 else 'are'} no message"
        raise Problem(text, next(code for kind, code in CODES if isinstance(error, kind))) from error


def _as_json(reply: Any) -> str:
    """One line, in characters that standard output has."""
    text = JsonCodec().encode(reply).decode()
    return text if can_say(text) else json.dumps(reply)
