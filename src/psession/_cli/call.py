"""``psession call``: requests, and their replies on standard output."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psession import (
    MessageError,
    MessageTooLargeError,
    Port,
    PortClosedError,
    SessionError,
    SessionManager,
    SessionOverflowError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession._cli._console import can_say, say
from psession._cli._problem import Exit, Problem
from psession._cli._url import open_url
from psession.channels import DEFAULT_MAX_MESSAGE_BYTES, JsonCodec

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol, TypeAlias

    from psession import PortOptions
    from psession._cli._address import Address
    from psession._cli._wires import Wire
    from psession.fleet import FleetDevice

    Way: TypeAlias = "Port | FleetDevice"
    """What has a port's calls."""

    class AnyPeer(Protocol):
        """A peer, whatever the way to it."""

        def open(self) -> AbstractAsyncContextManager[Way]:
            """Open the way."""
            ...

        async def ask(self, port: Way, message: Any) -> None:
            """Ask, and write the replies to standard output."""
            ...


FAILURES: Final[list[tuple[type[Exception], Exit, str]]] = [
    (SessionTimeoutError, Exit.TIMEOUT, "timeout"),
    (PortClosedError, Exit.CONNECTION, "connection lost"),
    (SessionRemoteError, Exit.FAILED, "error of the peer"),
    (MessageTooLargeError, Exit.USAGE, "too large"),
    (MessageError, Exit.MESSAGE, "bad message"),
    (SessionOverflowError, Exit.FAILED, "no free number"),
    (LookupError, Exit.CONNECTION, "device nowhere"),
    (ConnectionError, Exit.CONNECTION, "no connection"),
    (SessionError, Exit.FAILED, "other"),
]
"""The exit status of each error, and what a summary calls it; the first that fits."""

TOO_LARGE = "MESSAGE is too large"

ANY_JSON: Final = JsonCodec(type=Any)
"""A reply need not be an object: JSON-RPC's may be any value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Everything that is said of the peer on the command line.

    Attributes:
        address: Where it is.
        wire: Its protocol.
        within: Seconds for the connection.
        tls: For ``wss://`` and ``tls://``.
        headers: For WebSockets.
        subprotocols: For WebSockets.
        stream: True where every reply to a message is wanted.
        options: The options of the port.
    """

    address: Address
    wire: Wire
    within: float
    tls: ssl.SSLContext | None = None
    headers: Sequence[tuple[str, str]] = ()
    subprotocols: Sequence[str] = ()
    stream: bool = False
    options: PortOptions

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Port]:
        """Connect, and open a port.

        Raises:
            Problem: No connection, or the peer did not answer the protocol's greeting.
        """
        opening = open_url(
            self.address,
            within=self.within,
            tls=self.tls,
            framing=self.wire.framing,
            headers=self.headers,
            subprotocols=self.subprotocols or self.wire.subprotocols,
        )
        async with opening as channel, SessionManager(**self.options).port(str(self.address), channel) as port:
            if self.wire.greeting is not None:
                try:
                    await port.request(self.wire.greeting)
                except SessionError as error:
                    raise problem_of(error, port) from error
            yield port

    async def ask(self, port: Way, message: Any) -> None:
        """Ask as `ask` does."""
        await ask(port, message, stream=self.stream)


async def ask(port: Way, message: Any, *, stream: bool) -> None:
    """Ask, and write each reply to standard output as it comes.

    Raises:
        SessionError: There is none, or no further one though the stream has not ended.
        OutputLost: It cannot be written.
    """
    if not stream:
        say(_as_json(await port.request(message)))
        return
    async with port.stream(message) as replies:
        async for reply in replies:
            say(_as_json(reply))


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


async def run(peer: AnyPeer, message: Any) -> Exit:
    """Send `message` to the peer, and write what it replies to standard output.

    Raises:
        Problem: There is no reply; the text says why.
        OutputLost: The reply cannot be written.
    """
    async with peer.open() as port:
        try:
            await peer.ask(port, message)
        except SessionError as error:
            raise problem_of(error, port) from error
    return Exit.OK


def problem_of(error: SessionError, port: Way) -> Problem:
    """Return what to tell of a request that failed."""
    text = f"{TOO_LARGE}: {error}" if isinstance(error, MessageTooLargeError) else str(error)
    if isinstance(port, Port) and (bad := port.statistics().malformed):
        text += f"; {bad} came that {'is' if bad == 1 else 'are'} no message"
    code, _ = failure_of(error)
    return Problem(text, code)


def failure_of(error: SessionError) -> tuple[Exit, str]:
    """Return the exit status of an error, and what a summary calls it."""
    code, kind = next((code, kind) for of, code, kind in FAILURES if isinstance(error, of))
    return code, f"{kind} ({error.code!s:.40})" if isinstance(error, SessionRemoteError) else kind


def _as_json(reply: Any) -> str:
    """Return the reply as one line, in characters that standard output has."""
    text = ANY_JSON.encode(reply).decode()
    return text if can_say(text) else json.dumps(reply)
