"""Channels by URL, to a server and as one: `open_url` and `serve_url` are all that the commands use."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import trio

from psession import channels
from psession._cli._console import complain
from psession._cli._problem import Exit, Problem, reason
from psession.channels._websocket_options import check_library as find_websockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from psession._cli._address import Address
    from psession.channels._streams import FramingName

Channel: TypeAlias = trio.abc.Channel[Any]
Handler: TypeAlias = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Listening:
    """The report of a server that listens.

    Attributes:
        address: Where, with the real port.
        stop: Stops listening; connections stay.
    """

    address: Address
    stop: Callable[[], None]


def check_library() -> None:
    """Check that the WebSocket library is installed.

    Raises:
        Problem: It is not; the text says how to install it.
    """
    try:
        find_websockets()
    except ModuleNotFoundError as error:
        raise Problem(str(error), Exit.FAILED) from error


def client_tls(cafile: str | None, *, insecure: bool) -> ssl.SSLContext:
    """Return how to trust a server: by the authorities of this machine, by those in a file, or blindly.

    Raises:
        Problem: The file cannot be read, or has no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:  # ssl.SSLError is one
        raise Problem(f"--cafile {cafile}: no certificates in PEM: {_tls_reason(error)}", Exit.USAGE) from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_tls(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """Return what a server shows for itself.

    Raises:
        Problem: A file cannot be read, or has no certificate or no key that fits.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Of a key that is locked nobody is asked for the password: that would wait for a terminal.
        context.load_cert_chain(certfile, keyfile, password="")
    except (OSError, ValueError) as error:
        files = certfile if keyfile is None else f"{certfile}, --keyfile {keyfile}"
        told = f"--certfile {files}: no certificate with its key in PEM: {_tls_reason(error)}"
        raise Problem(told, Exit.USAGE) from error
    return context


@asynccontextmanager
async def open_url(
    address: Address,
    *,
    within: float,
    tls: ssl.SSLContext | None = None,
    framing: FramingName = "lines",
    headers: Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] = (),
) -> AsyncIterator[Channel]:
    """Open a channel to a server: ``async with open_url(address, within=5) as channel``.

    Args:
        address: The server's.
        within: Seconds that all may take, the look-up of the address and handshakes included.
        tls: For ``wss`` and ``tls``.
        framing: For streams of bytes.
        headers: For WebSockets.
        subprotocols: For WebSockets, the best first.

    Raises:
        Problem: No connection, or no WebSocket there; raised on entering.
    """
    opening: AbstractAsyncContextManager[Channel]
    if address.is_websocket:
        check_library()
        opening = channels.open_websocket(
            str(address), ssl_context=tls, headers=headers, subprotocols=subprotocols, connect_timeout=within
        )
    elif address.scheme == "unix":
        opening = channels.open_unix(address.path, framing=framing, connect_timeout=within)
    else:
        opening = channels.open_tcp(
            address.host, address.port, framing=framing, ssl_context=tls, connect_timeout=within
        )
    async with AsyncExitStack() as stack:
        # Only errors on entering are translated: the body's own errors are not about connecting.
        try:
            channel = await stack.enter_async_context(opening)
        except (OSError, ValueError) as error:
            raise _no_connection(address, error) from error
        yield channel


def _no_connection(address: Address, error: OSError | ValueError) -> Problem:
    """Return what to tell of a connection that did not come about."""
    if (fault := _tls_fault(error)) is not None:
        return Problem(f"no TLS with {address}: {_tls_reason(fault)}", Exit.CONNECTION)
    if isinstance(error, channels.HandshakeError):
        told = str(error) if error.status is None else f"it answered HTTP {error.status}"
        return Problem(f"{address} is no WebSocket: {told}", Exit.CONNECTION)
    if isinstance(error, TimeoutError) and error.errno is None:
        return Problem(str(error), Exit.CONNECTION)
    if isinstance(error, OSError | UnicodeError):
        return Problem(f"cannot connect to {address}: {reason(error)}", Exit.CONNECTION)
    return Problem(str(error), Exit.USAGE)  # a header or a subprotocol


def _tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """Return the error of TLS from which another one came, if there is one."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__
    return error


def _tls_reason(error: Exception) -> str:
    """Return the text of an error of TLS, and what would be right."""
    if isinstance(error, ssl.SSLCertVerificationError):
        trust = "give --cafile FILE with the authority that signed it, or --insecure to trust anybody"
        return f"{error.verify_message[:1].lower()}{error.verify_message[1:].rstrip('.')}; {trust}"
    if isinstance(error, ssl.SSLError) and error.reason:
        told = error.reason.replace("_", " ").lower()
        return f"{told}; a peer without TLS is ws:// or tcp://" if error.reason == "WRONG_VERSION_NUMBER" else told
    return reason(error)


async def serve_url(
    handler: Handler,
    address: Address,
    *,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED,
    **websocket: Any,
) -> NoReturn:
    """Call `handler` with the channel of each connection, until cancelled.

    A failure ends one connection, and is told in one line.

    Args:
        handler: Gets the channel.
        address: Where to listen.
        tls: For ``wss`` and ``tls``.
        task_status: Gets the `Listening`.
        websocket: Further options of `serve_websocket`, for a WebSocket.

    Raises:
        Problem: It cannot listen there; the text says why.
    """
    leaving = False

    async def notice_leaving() -> None:
        nonlocal leaving
        try:
            await trio.sleep_forever()
        finally:
            leaving = True

    async def handle(channel: channels.FramedChannel) -> None:
        try:
            await handler(channel)
        except Exception as error:
            if leaving:  # handlers are cancelled a few steps later, and clients in the same process are gone by then
                return
            remote = channel.remote
            client = address if remote is None else f"{remote[0]} port {remote[1]}"
            complain(f"{client}: connection closed: {reason(error)}")

    serve: Callable[..., Awaitable[NoReturn]]
    if address.scheme == "unix":
        serve = partial(channels.serve_unix, handle, address.path)
    else:
        listen: Any = channels.serve_websocket if address.is_websocket else channels.serve_tcp
        serve = partial(listen, handle, host=address.host, port=address.port, ssl_context=tls, **websocket)
    async with trio.open_nursery() as nursery:
        try:
            server: Any = await nursery.start(serve)
        except (OSError, UnicodeError) as error:
            raise Problem(f"cannot listen on {address}: {reason(error)}", Exit.CONNECTION) from error
        nursery.start_soon(notice_leaving)
        port = 0 if address.scheme == "unix" else server.port
        task_status.started(Listening(dataclasses.replace(address, port=port), server.stop_listening))
    raise AssertionError("a server never returns")
