"""One connection to one server: its handshake, its bytes."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import trio

from psession import _version
from psession.brokers._stream import BrokerStream
from psession.brokers.nats._errors import NatsAuthError, NatsConnectError, NatsProtocolError
from psession.brokers.nats._wire import PING, PONG, Failure, Info, Parser, Ping, Pong, connect_line
from psession.channels._connecting import connect

if TYPE_CHECKING:
    from psession.brokers.nats._credentials import Credentials
    from psession.brokers.nats._options import NatsOptions
    from psession.brokers.nats._servers import Server
    from psession.brokers.nats._wire import Word

_AUTH_WORDS = ("authorization", "authentication", "user authentication", "account authentication")


class Link(BrokerStream):
    """A connection whose handshake is done; `open_link` makes one.

    Attributes:
        server: The server.
        info: What the server said of itself last.
        left: True where this side moves to another server: nothing more is put on this one.
    """

    def __init__(self, stream: trio.abc.Stream, server: Server, parser: Parser) -> None:
        super().__init__(stream)
        self.server = server
        self.info: Info = Info()
        self.left = False
        self._parser = parser

    async def read(self) -> list[Word]:
        """Return what comes with the next read, which may be nothing whole.

        Raises:
            trio.EndOfChannel: The server hung up.
            trio.BrokenResourceError: The connection broke.
            NatsProtocolError: It is not the protocol.
        """
        return self._parser.feed(await self.read_bytes())

    # -- the handshake -----------------------------------------------------------------------------------------------

    async def greet(self, options: NatsOptions, credentials: Credentials) -> None:
        """Hear the server's INFO, make TLS of the connection where that is wanted, say who this client is.

        Raises:
            NatsConnectError: The server does not take this client.
            trio.BrokenResourceError, NatsProtocolError: As `read`.
        """
        wants_tls = self.server.tls or options.tls_first or options.ssl_context is not None
        if options.tls_first:
            await self._encrypt(options)
        self.info = await self._first_info()
        if not options.tls_first and (wants_tls or self.info.tls_required):
            if not (self.info.tls_required or self.info.tls_available):
                raise NatsConnectError("it has no TLS, which this client was told to use (tls:// or ssl_context)")
            if self._parser.kept_bytes:
                raise NatsProtocolError("it says something between its INFO and TLS, which somebody may have put there")
            await self._encrypt(options)
        fields: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "tls_required": wants_tls or self.info.tls_required,
            "name": options.name,
            "lang": "python-trio",
            "version": _version.__version__,
            "protocol": 1,
            "echo": options.echo,
            "headers": True,
            "no_responders": True,
        }
        given = self.server.credentials or credentials
        await self.send(connect_line({**fields, **given.fields(self.info.nonce)}) + PING)
        while True:
            for word in await self._read_some():
                if type(word) is Pong:
                    if not self.info.headers:
                        raise NatsConnectError("it is older than headers (nats-server 2.2), which this client needs")
                    return
                if type(word) is Ping:
                    await self.send(PONG)
                elif type(word) is Info:
                    self.info = word
                elif type(word) is Failure:
                    raise refusal(word.text, given)

    async def _first_info(self) -> Info:
        words: list[Word] = []
        while not words:
            words = await self._read_some()
        if type(words[0]) is Failure:
            raise NatsConnectError(f"it says {words[0].text!r}")
        if type(words[0]) is not Info:
            raise NatsProtocolError(f"not a NATS server: it says {words[0]!r:.100} where one says INFO first")
        if len(words) > 1:
            raise NatsProtocolError("it says something behind its INFO before this client has spoken")
        return words[0]

    async def _read_some(self) -> list[Word]:
        try:
            return await self.read()
        except trio.EndOfChannel:
            raise NatsConnectError("it hung up during the handshake") from None

    async def _encrypt(self, options: NatsOptions) -> None:
        context = options.ssl_context or ssl.create_default_context()
        name = options.tls_hostname or self.server.tls_name
        stream = trio.SSLStream(self.stream, context, server_hostname=name, https_compatible=True)
        self.change_stream(stream)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise NatsConnectError(f"no TLS with {name!r}: {error.__cause__ or error}") from error


async def open_link(server: Server, options: NatsOptions, credentials: Credentials) -> Link:
    """Connect to a server, at most ``connect_timeout`` seconds; cancelled, nothing is left open.

    Raises:
        NatsConnectError: It did not take this client; the text says why, and begins with its URL.
    """
    failure: NatsConnectError | None = None
    cause: Exception | None = None
    with trio.move_on_after(options.connect_timeout):
        try:
            open_stream = options.open_stream
            if open_stream is None:
                stream = await connect(server.host, server.port, None)
            else:
                stream = await open_stream(server.host, server.port)
            link = Link(stream, server, Parser(options.max_message_bytes))
            try:
                await link.greet(options, credentials)
            except BaseException:
                await link.close()
                raise
            return link
        except NatsConnectError as error:
            failure = type(error)(f"{server.url}: {error.why}", outcome="not_sent")
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, NatsProtocolError) as error:
            failure, cause = NatsConnectError(f"{server.url}: {_why(error)}", outcome="not_sent"), error
    if failure is None:
        failure = NatsConnectError(f"{server.url}: no answer in {options.connect_timeout:g} s", outcome="not_sent")
    raise failure from cause


def refusal(text: str, credentials: Credentials) -> NatsConnectError:
    """Return what an error of the server's during the handshake means."""
    if text.lower().startswith(_AUTH_WORDS):
        return NatsAuthError(f"it refuses {credentials.said} ({text!r})")
    hint = {
        "maximum connections exceeded": ": it has no place for one more client (max_connections)",
        "secure connection - tls required": ": give ssl_context, or tls:// in the URL",
        "user authentication expired": ": the JWT is out of date",
    }.get(text.lower(), "")
    return NatsConnectError(f"it says {text!r}{hint}")


def _why(error: Exception) -> str:
    if isinstance(error, NatsProtocolError):
        return error.why
    found = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    if isinstance(found, OSError) and found.strerror:
        return found.strerror
    return str(found) or type(found).__name__
