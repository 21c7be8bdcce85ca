"""Who gets in: a server's side of the opening handshake, in bounded time and space."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from psession.channels._framed import RECEIVE_BYTES
from psession.channels._websocket_options import Opening

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from websockets.http11 import Request, Response
    from websockets.server import ServerProtocol

MAX_REQUEST_BYTES: Final = 64 * 1024
"""Of a whole handshake. Browsers send 1 to 2 kB, with large cookies 8; the library alone would let through 1 MiB."""

_REFUSALS_AT_ONCE: Final = 32
_REFUSAL_SECONDS: Final = 2.0
"""So many clients beyond ``max_connections``, for so long, are told about it; the others are just hung up on."""

_LINGER_SECONDS: Final = 1.0
"""How long a client that was refused may take to read why: closing on bytes not read would reset the connection."""

Refusal: TypeAlias = tuple[int, str] | None
"""An HTTP status and a text, or nothing to go on."""
RequestHook: TypeAlias = "Callable[[Request], Refusal | Awaitable[Refusal]]"

log = logging.getLogger("psession")


class Acceptor:
    """Takes the handshakes of a server's clients, and counts them.

    Args:
        make_protocol: Makes a protocol of websockets for one connection.
        process_request: The user's hook.
        ssl_context: For TLS.
        timeout: Seconds for TLS and the handshake.
        max_connections: How many clients there may be, those in their handshake included.

    Attributes:
        connections: How many there are.
        refused: How many there was no room for.
    """

    def __init__(
        self,
        make_protocol: Callable[[], ServerProtocol],
        *,
        process_request: RequestHook | None,
        ssl_context: ssl.SSLContext | None,
        timeout: float,
        max_connections: int,
    ) -> None:
        self.connections = 0
        self.refused = 0
        self._make_protocol = make_protocol
        self._process_request = process_request
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._max_connections = max_connections
        self._refusing = 0

    async def open(self, stream: trio.SocketStream) -> tuple[trio.abc.Stream, Opening] | None:
        """A client's stream and what was agreed on, or ``None`` for one that does not get in; it has been told why.

        The caller has counted it in ``connections``, where it does not stay while it is turned away.
        """
        try:
            if self.connections <= self._max_connections:
                with trio.move_on_after(self._timeout):
                    return await self._shake_hands(stream)
                log.debug("no WebSocket handshake in %g s", self._timeout)
                return None
            self.refused += 1
            if self._refusing < _REFUSALS_AT_ONCE:
                await self._turn_away(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("a WebSocket handshake broke off: %s", error.__cause__ or error)
        return None

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        self.connections -= 1
        self._refusing += 1
        try:
            with trio.move_on_after(min(_REFUSAL_SECONDS, self._timeout)):
                await self._shake_hands(stream, (503, "There is no room for another client.\n"))
        finally:
            self._refusing -= 1
            self.connections += 1

    async def _shake_hands(
        self, plain: trio.SocketStream, refusal: Refusal = None
    ) -> tuple[trio.abc.Stream, Opening] | None:
        stream: trio.abc.Stream = plain
        if self._ssl_context is not None:
            stream = trio.SSLStream(plain, self._ssl_context, server_side=True, https_compatible=True)
            await stream.do_handshake()
        protocol = self._make_protocol()
        request, rest = await self._listen(stream, protocol)
        response = None
        if request is not None:
            response = await self._decide(protocol, request, refusal)
            protocol.send_response(response)
        await stream.send_all(b"".join(protocol.data_to_send()))
        if request is not None and response is not None and response.status_code == 101:
            return stream, Opening(protocol, request, response, rest)
        await _linger(plain)
        return None

    async def _listen(self, stream: trio.abc.Stream, protocol: ServerProtocol) -> tuple[Request | None, bytes]:
        """The request and what came behind it; without one the protocol has the answer."""
        from psession.channels._websocket_handshake import feed

        received = 0
        while protocol.handshake_exc is None:
            data = bytes(await stream.receive_some(RECEIVE_BYTES))
            received += len(data)
            if not data:
                raise trio.BrokenResourceError("the client hung up")
            request, rest = feed(protocol, data)
            if request is not None:
                return request, rest
            if received > MAX_REQUEST_BYTES and protocol.handshake_exc is None:
                protocol.send_response(protocol.reject(431, "The request is too long.\n"))
                return None, b""
        if not any(protocol.writes):  # the library hangs up without a word on what is no HTTP
            protocol.writes.insert(0, protocol.reject(400, "This is no HTTP request.\n").serialize())
        return None, b""

    async def _decide(self, protocol: ServerProtocol, request: Request, refusal: Refusal) -> Response:
        try:
            if refusal is None and self._process_request is not None:
                answer: Any = self._process_request(request)
                refusal = await answer if inspect.isawaitable(answer) else answer
            if refusal is not None:
                return protocol.reject(*refusal)
        except Exception:
            log.exception("process_request failed")
            return protocol.reject(500, "The server failed; its log has more.\n")
        return protocol.accept(request)


async def _linger(stream: trio.SocketStream) -> None:
    with trio.move_on_after(_LINGER_SECONDS):
        await stream.send_eof()
        while await stream.receive_some(RECEIVE_BYTES):
            pass
