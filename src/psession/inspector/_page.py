"""The page, and the server that gives it and what it shows to whoever has the token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from psession.channels import serve_websocket
from psession.channels._websocket_options import check_library
from psession.inspector._look import Looker
from psession.inspector._redaction import Redact, redact_secrets
from psession.nursery import open_quiet_nursery
from psession.shell.manager import SessionManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.http11 import Request, Response

    from psession.channels import WebSocketChannel, WebSocketServer

MIN_TOKEN_CHARS: Final = 16
MAX_VIEWERS: Final = 8
MAX_MESSAGE_BYTES: Final = 4 * 2**20
"""Of a look with everything in it that it may hold: 1,000 rows, 1,000 waiting turns and 300 ports take 1.5 MB."""


class Inspector:
    """A page that is being served; `serve` gives it.

    Attributes:
        url: Its address, token included. Whoever has it sees everything and may cancel turns.
        token: The token.
        port: The port that it listens on.
    """

    def __init__(self, host: str, port: int, token: str) -> None:
        self.port = port
        self.token = token
        named = f"[{host}]" if ":" in host else host
        self.url: str = f"http://{named}:{port}/?token={quote(token)}"

    def __repr__(self) -> str:
        return f"<psession.inspector.Inspector on port {self.port}>"


@asynccontextmanager
async def serve(
    manager: SessionManager,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    redact: Redact = redact_secrets,
) -> AsyncIterator[Inspector]:
    """``async with inspector.serve(manager, 8765) as page``: a live page of the ports of `manager`.

    It keeps the last 1,000 rows and 120 seconds, and shows samples of what is more than that, saying what it left out.
    When the block is left, whoever watches is disconnected.

    Args:
        manager: Whose ports to show, those included that open later.
        port: The port to listen on; 0 takes a free one.
        host: The address or name to listen on. Others than this machine's loopback let the network in: there is no TLS.
        token: What the URL must hold, 16 characters or more; ``None`` makes one.
        redact: Called with the name and the value of each field that is shown; what it returns is shown instead. If it
            raises, the payload is not shown.

    Raises:
        ModuleNotFoundError: websockets is not installed.
        OSError: It cannot listen there.
        ValueError: The token is too short.
    """
    looker = Looker(manager, redact)

    async def answer(question: Any) -> dict[str, Any]:
        return looker.answer(question)

    with manager.observe(looker.record):
        async with serve_page(answer, port, host=host, token=token) as page:
            yield page


@asynccontextmanager
async def serve_page(
    answer: Callable[[Any], Awaitable[Any]], port: int, *, host: str, token: str | None
) -> AsyncIterator[Inspector]:
    """The page, whose questions `answer` answers.

    Raises:
        ModuleNotFoundError, OSError, ValueError: As for `serve`.
    """
    check_library()
    token = secrets.token_urlsafe(MIN_TOKEN_CHARS) if token is None else token
    if len(token) < MIN_TOKEN_CHARS:
        raise ValueError(f"token must have {MIN_TOKEN_CHARS} characters or more, or be None; it has {len(token)}")
    viewers = SessionManager(on_request=answer)

    async def view(channel: WebSocketChannel) -> None:
        async with viewers.accept(channel) as viewer:
            await viewer.wait_closed()

    gate = partial(decide, token, files("psession.inspector").joinpath("page.html").read_text(encoding="utf-8"))
    async with open_quiet_nursery() as nursery:
        start = partial(serve_websocket, process_request=gate, max_connections=MAX_VIEWERS)
        server: WebSocketServer = await nursery.start(
            partial(start, view, host, port, max_message_bytes=MAX_MESSAGE_BYTES)
        )
        yield Inspector(host, server.port, token)
        nursery.cancel_scope.cancel()


def decide(token: str, page: str, request: Request) -> tuple[int, str] | Response | None:
    """Return the answer to a request: the page, a refusal, or ``None`` for a WebSocket that may come in."""
    target = urlsplit(request.path)
    given = parse_qs(target.query).get("token", [""])[0]
    if not hmac.compare_digest(given.encode(), token.encode()):
        return 403, "This page needs its token: open the URL that the program printed.\n"
    if target.path != "/":
        return 404, "There is one page here, at /.\n"
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.raw_items():
        headers.setdefault(name.lower(), []).append(value)
    if "upgrade" not in headers:
        return _response(page)
    origins, hosts = headers.get("origin", []), headers.get("host", [])
    if origins and origins != [f"http://{host}" for host in hosts]:  # programs send none
        return 403, "A page from somewhere else may not watch.\n"
    return None


def _response(page: str) -> Response:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    body = page.encode()
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Response(
        200,
        "OK",
        Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
                "Connection": "close",
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",  # the URL holds the token
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": policy,
            }
        ),
        body,
    )
