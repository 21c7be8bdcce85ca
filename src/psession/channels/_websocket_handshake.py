"""The opening handshake of a WebSocket, both sides, on the Sans-I/O half of websockets. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, overload
from urllib.parse import quote

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHeaderValue, InvalidURI
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate, enable_server_permessage_deflate
from websockets.headers import validate_subprotocols
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI, parse_uri

from psession._version import __version__
from psession.channels._websocket_options import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psession.channels._websocket_options import WebSocketOptions


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """The library's logger. What it says of each connection is for debugging here: any peer can have it said."""

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log it for debugging."""
        self.debug(msg, *args, **kwargs)


_CLIENT_LOG: Final = _Quiet(logging.getLogger("websockets.client"), {})
_SERVER_LOG: Final = _Quiet(logging.getLogger("websockets.server"), {})

_OURS: Final = ("connection", "upgrade", "sec-websocket-")
"""Headers that make the handshake; the others are the caller's."""

_is_name: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110, 5.6.2

_ORIGIN: Final = r"[A-Za-z][-+.0-9A-Za-z]*://[!-~]+"
_is_origin: Final = re.compile(f"null|{_ORIGIN}(?: {_ORIGIN})*").fullmatch  # RFC 6454, 7.1

_REASON_CHARS: Final = 200
"""How much of a refusal's body an error repeats."""


def without_user(url: str) -> str:
    """A URL as an error may show it: without the user's name and password."""
    return re.sub(r"//[^/?#]*@", "//...@", url)


def parse_url(url: str) -> WebSocketURI:
    """The parts of a ``ws://`` or ``wss://`` URL (RFC 6455, section 3).

    Raises:
        TypeError: It is no text.
        ValueError: It is none, or has a character in it that no URL has (RFC 3986, section 2).
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str such as 'ws://host/path', not {url!r:.100}")
    shown = without_user(url)
    odd = next((char for char in url if char <= " " or char == "\x7f"), None)
    if odd is not None:
        raise ValueError(f"{shown!r} is no URL: {odd!r} must be written as {quote(odd)!r}")
    try:
        return parse_uri(url)
    except (InvalidURI, ValueError) as error:
        why = without_user(str(error))
        raise ValueError(why if shown in why else f"{shown!r} is no URL: {why}") from None


def client_protocol(
    uri: WebSocketURI, options: WebSocketOptions, *, origin: str | None, subprotocols: Sequence[str]
) -> ClientProtocol:
    """A client that has not asked yet.

    Raises:
        TypeError: ``subprotocols`` is one string, not several; ``origin`` is no text.
        ValueError: One of them is no name; ``origin`` is none.
    """
    if origin is not None:
        if not isinstance(origin, str):
            raise TypeError(f"origin must be a str such as 'https://example.org', not {origin!r:.100}")
        if not _is_origin(origin):
            raise ValueError(f"origin must be such as 'https://example.org' or 'null', not {origin!r:.100}")
    validate_subprotocols(subprotocols)  # type: ignore[arg-type]
    return ClientProtocol(
        uri,
        origin=origin,  # type: ignore[arg-type]  # a NewType of str, as a subprotocol's name is
        subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]
        extensions=enable_client_permessage_deflate(None) if options.compression else None,
        max_size=options.max_size,
        logger=_CLIENT_LOG,
    )


def server_protocol(
    options: WebSocketOptions, *, origins: Sequence[str | re.Pattern[str] | None] | None, subprotocols: Sequence[str]
) -> ServerProtocol:
    """A server that has not been asked yet.

    Raises:
        TypeError: ``subprotocols`` is one string, not several.
        ValueError: One of them is no name.
    """
    validate_subprotocols(subprotocols)  # type: ignore[arg-type]
    return ServerProtocol(
        origins=origins,  # type: ignore[arg-type]
        subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]
        extensions=enable_server_permessage_deflate(None) if options.compression else None,
        max_size=options.max_size,
        logger=_SERVER_LOG,
    )


def request_of(protocol: ClientProtocol, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Request:
    """The client's request, with the caller's headers in it.

    Raises:
        ValueError: A header is one that the handshake itself sets, or holds what no header may.
    """
    request = protocol.connect()
    request.headers["User-Agent"] = f"psession/{__version__}"
    given: list[tuple[str, str]] = [*(headers.items() if isinstance(headers, Mapping) else headers)]  # pyright: ignore
    for name, _value in given:
        if not _is_name(name):
            raise ValueError(f"not the name of a header: {name!r}")
        if name.lower().startswith(_OURS):
            raise ValueError(f"the header {name!r} is the handshake's own")
        if name in request.headers:
            del request.headers[name]
    try:
        request.headers.update(given)
    except InvalidHeaderValue as error:
        raise ValueError(str(error)) from error
    return request


@overload
def feed(protocol: ClientProtocol, data: bytes) -> tuple[Response | None, bytes]: ...


@overload
def feed(protocol: ServerProtocol, data: bytes) -> tuple[Request | None, bytes]: ...


def feed(protocol: ClientProtocol | ServerProtocol, data: bytes) -> tuple[Request | Response | None, bytes]:
    """Take the peer's bytes; return what it said, once that is complete, and the bytes behind it.

    Line by line, since the library would take what stands behind for frames at once, and the channel does that itself.
    """
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at) + 1 or len(data)
        protocol.receive_data(data[at:stop])
        at = stop
        for event in protocol.events_received():
            assert isinstance(event, Request | Response)
            return event, data[at:]
        if protocol.handshake_exc is not None:
            break
    return None, data[at:]


def answer_at_end(protocol: ClientProtocol) -> Response | None:
    """The answer of a server whose body ends with its connection, if that is what ended."""
    protocol.receive_eof()
    return next((event for event in protocol.events_received() if isinstance(event, Response)), None)


def refusal(where: str, protocol: ClientProtocol, response: Response | None) -> HandshakeError:
    """Why no WebSocket came about, as the client tells it."""
    if response is None or response.status_code == 101:
        return HandshakeError(f"{where}: {_reasons(protocol.handshake_exc)}")
    body = bytes(response.body)
    text = f"{where} answered with HTTP status {response.status_code} {response.reason_phrase}".rstrip()
    if 300 <= response.status_code < 400:
        text += f" (redirects are not followed; Location: {response.headers.get('Location', 'not given')})"
    elif body.strip():
        text += f": {' '.join(body.decode(errors='replace').split())[:_REASON_CHARS]}"
    return HandshakeError(text, status=response.status_code, reason=response.reason_phrase, body=body)


def _reasons(error: BaseException | None) -> str:
    texts: list[str] = []
    while error is not None:
        texts.append(str(error) or type(error).__name__)
        error = error.__cause__
    return ": ".join(texts) or "no answer"
