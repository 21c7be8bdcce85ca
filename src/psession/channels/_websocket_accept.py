"""Who gets in: a server's side of the opening handshake, in bounded space; the server bounds its time."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from psession.channels._pace import MOST_BYTES
from psession.channels._websocket_options import Opening
from psession.protocol.bucket import Lines

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from websockets.http11 import Request, Response
    from websockets.server import ServerProtocol

    from psession.channels._places import Places, Visit

MAX_REQUEST_BYTES: Final = 64 * 1024
"""Of a whole handshake. Browsers send 1 to 2 kB, with large cookies 8; the library alone would let through 1 MiB."""

_LINGER_SECONDS: Final = 1.0
"""How long a client that was refused may take to read why: closing on bytes not read would reset the connection."""

Refusal: TypeAlias = "tuple[int, str] | Response | None"
"""An HTTP status and a text, a whole response, or nothing to go on."""
NO_ROOM: Final = (503, "There is no room for another client.\n")
RequestHook: TypeAlias = "Callable[[Request], Refusal | Awaitable[Refusal]]"
"""A function, sync or async, that gets each request of a handshake, and may refuse it."""

log = logging.getLogger("psession")


class Acceptor:
    """Takes the handshakes of a server's clients.

    Args:
        make_protocol: Makes a protocol of websockets for one connection.
        places: The places of the server.
        process_request: The user's hook.
        ssl_context: For TLS.
    """

    def __init__(
        self,
        make_protocol: Callable[[], ServerProtocol],
        places: Places,
        *,
        process_request: RequestHook | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._make_protocol = make_protocol
        self._places = places
        self._process_request = process_request
        self._ssl_context = ssl_context
        self._lines = Lines(trio.current_time())

    async def open(
        self, plain: trio.SocketStream, visit: Visit, scope: trio.CancelScope
    ) -> tuple[trio.abc.Stream, Opening] | None:
        """A client's stream and what was agreed on, or ``None`` for one that does not get in; it has been told why.

        One that gets in has taken its places in `visit`; one that does not is the first to go of those in `scope`.

        Raises:
            trio.BrokenResourceError: The connection broke, or TLS failed.
        """
        stream: trio.abc.Stream = plain
        if self._ssl_context is not None:
            stream = trio.SSLStream(plain, self._ssl_context, server_side=True, https_compatible=True)
            await stream.do_handshake()
        protocol = self._make_protocol()
        request, rest = await self._listen(stream, protocol)
        response = None
        if request is not None:
            response = await self._decide(protocol, request, visit)
            protocol.send_response(response)
        await stream.send_all(b"".join(protocol.data_to_send()))
        if request is not None and response is not None and response.status_code == 101:
            return stream, Opening(protocol, request, response, rest)
        self._places.goes_first(scope)
        await _linger(plain)
        return None

    async def _listen(self, stream: trio.abc.Stream, protocol: ServerProtocol) -> tuple[Request | None, bytes]:
        """The request and what came behind it; without one the protocol has the answer."""
        from psession.channels._websocket_handshake import feed

        received = 0
        while protocol.handshake_exc is None:
            data = bytes(await stream.receive_some(MOST_BYTES))
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

    async def _decide(self, protocol: ServerProtocol, request: Request, visit: Visit) -> Response:
        """The answer. With 101 the client has its places: from here on none can get in beyond the limits."""
        if not self._places.has_room:  # before the hook looks into a database for nothing
            return self._refuse(protocol)
        try:
            if self._process_request is not None:
                answer: Any = self._process_request(request)
                refusal: Refusal = await answer if inspect.isawaitable(answer) else answer
                if isinstance(refusal, tuple):
                    return protocol.reject(*refusal)
                if refusal is not None:
                    return refusal
        except Exception:
            more = self._lines.take(trio.current_time())
            if more is not None:
                log.exception("process_request failed%s", more, extra={"event_name": "process_request_raised"})
            return protocol.reject(500, "The server failed; its log has more.\n")
        response = protocol.accept(request)
        if response.status_code == 101 and not visit.enter():
            return self._refuse(protocol)
        return response

    def _refuse(self, protocol: ServerProtocol) -> Response:
        self._places.refused += 1
        return protocol.reject(*NO_ROOM)


async def _linger(stream: trio.SocketStream) -> None:
    with trio.move_on_after(_LINGER_SECONDS):
        await stream.send_eof()
        while await stream.receive_some(MOST_BYTES):
            pass
