"""``psession call``: one request, and its reply on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from psession import (
    MessageError,
    MessageTooLargeError,
    PortClosedError,
    SessionError,
    SessionManager,
    SessionTimeoutError,
)
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
    (MessageTooLargeError, Exit.USAGE),
    (MessageError, Exit.MESSAGE),
    (SessionError, Exit.FAILED),
]


TOO_LARGE = "MESSAGE is too large"


def read_message(text: str) -> Any:
    """Return the message that the argument MESSAGE gives: JSON, or ``-`` for the text on standard input.

    Raises:
        Problem: The text is no JSON object, or is too large.
    """
    given = _standard_input() if text == "-" else text
    if len(given) > DEFAULT_MAX_MESSAGE_BYTES:  # a text has at least as many bytes as characters
        limit = f"more than {DEFAULT_MAX_MESSAGE_BYTES} bytes, which is the most it may have"
        raise Problem(f"{TOO_LARGE}: {limit}", Exit.USAGE)
    try:
        return JsonCodec().decode(given)
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
    """Send `message` to the peer at `address`, and write its reply to standard output.

    Args:
        address: The peer's address.
        message: The request.
        within: Seconds for the connection.
        options: The options of the port.

    Raises:
        Problem: There is no reply; the text says why.
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
        text = f"{TOO_LARGE}: {error}" if isinstance(error, MessageTooLargeError) else str(error)
        if bad := port.statistics().malformed:
            text += f"; {bad} came that {'is' if bad == 1 else 'are'} no message"
        raise Problem(text, next(code for kind, code in CODES if isinstance(error, kind))) from error


def _as_json(reply: Any) -> str:
    """Return the reply as one line, in characters that standard output has."""
    text = JsonCodec().encode(reply).decode()
    return text if can_say(text) else json.dumps(reply)
