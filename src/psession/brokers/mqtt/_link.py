"""One connection to the broker: its handshake, its packets."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import mqtt5
import trio

from psession.brokers._stream import BrokerStream
from psession.brokers.mqtt._errors import MqttAuthError, MqttConnectError, MqttProtocolError, MqttTakenOverError
from psession.brokers.mqtt._packets import QOS, Parser, said
from psession.channels._connecting import connect

if TYPE_CHECKING:
    from mqtt5 import ConnAckPacket, DisconnectPacket, Packet

    from psession.brokers.mqtt._options import MqttOptions
    from psession.brokers.mqtt._server import Server

AUTH_CODES: Final = frozenset((0x86, 0x87))
"""Bad user name or password, not authorized."""

FINAL_CODES: Final = frozenset((0x84, 0x85, 0x8A, 0x8C, 0x8E, 0x90, 0x95, 0x99, 0x9A, 0x9B, 0x9C, 0x9D))
"""The reasons that trying again with the same words does not change: version, client id, banned, method, taken over,
what is wrong with the will, another server."""

_TAKEN_OVER: Final = 0x8E
_HINTS: Final = {
    0x84: ": it does not speak MQTT 5",
    0x85: ": give another client_id",
    0x8E: ": each client needs a client_id of its own",
    0x90: ": the will's",
    0x9A: ": the will's retain",
    0x9B: ": the will's qos",
}


class Link(BrokerStream):
    """A connection whose handshake is done; `open_link` makes one.

    Attributes:
        connack: What the broker said of itself and the session.
    """

    connack: ConnAckPacket

    def __init__(self, stream: trio.abc.Stream, parser: Parser) -> None:
        super().__init__(stream)
        self._parser = parser

    async def read(self) -> list[Packet]:
        """Return the packets that come with the next read, which may be none.

        Raises:
            trio.EndOfChannel: The broker hung up.
            trio.BrokenResourceError: The connection broke.
            MqttProtocolError: It is not MQTT 5.
        """
        return self._parser.feed(await self.read_bytes())

    async def greet(self, server: Server, options: MqttOptions, client_id: str, *, clean_start: bool) -> list[Packet]:
        """Make TLS of the connection where that is wanted, say who this client is. Return what came behind the CONNACK.

        Raises:
            MqttConnectError: The broker does not take this client.
            trio.BrokenResourceError, MqttProtocolError: As `read`.
        """
        if server.tls or options.ssl_context is not None:
            await self._encrypt(server, options)
        await self.send(_connect(server, options, client_id, clean_start))
        packets: list[Packet] = []
        try:
            while not packets:
                packets = await self.read()
        except trio.EndOfChannel:
            raise MqttConnectError("it hung up during the handshake: it may not speak MQTT 5") from None
        first = packets[0]
        if type(first) is mqtt5.DisconnectPacket:
            raise refusal(first)
        if type(first) is not mqtt5.ConnAckPacket:
            raise MqttProtocolError(f"not a broker of MQTT 5: it says {type(first).__name__} where one says CONNACK")
        if int(first.reason_code):
            raise refusal(first)
        if first.session_present and clean_start:
            raise MqttProtocolError("it has a session for a client that began a new one")
        self.connack = first
        return packets[1:]

    async def _encrypt(self, server: Server, options: MqttOptions) -> None:
        context = options.ssl_context or ssl.create_default_context()
        name = options.tls_hostname or server.host
        stream = trio.SSLStream(self.stream, context, server_hostname=name, https_compatible=True)
        self.change_stream(stream)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise MqttConnectError(f"no TLS with {name!r}: {error.__cause__ or error}") from error


def _connect(server: Server, options: MqttOptions, client_id: str, clean_start: bool) -> bytes:
    user = options.user if options.user is not None else server.user
    password = options.password if options.password is not None else server.password
    if isinstance(password, str):
        password = password.encode()
    will = options.will
    return mqtt5.ConnectPacket(
        client_id,
        username=user,
        password=password,
        clean_start=clean_start,
        will=None
        if will is None
        else mqtt5.Will(
            will.topic,
            payload=will.payload,
            qos=QOS[will.qos],
            retain=will.retain,
            will_delay_interval=int(will.delay),
            content_type=will.content_type,
        ),
        keep_alive=int(options.keepalive),
        session_expiry_interval=options.expiry,
        receive_max=options.receive_maximum,
        topic_alias_max=0,
        max_packet_size=options.max_packet_bytes,
    ).write()


async def open_link(
    server: Server, options: MqttOptions, client_id: str, *, clean_start: bool
) -> tuple[Link, list[Packet]]:
    """Connect, at most ``connect_timeout`` seconds; cancelled, nothing is left open. Also return what came at once.

    Raises:
        MqttConnectError: The broker did not take this client; the text says why, and begins with its URL.
    """
    failure: MqttConnectError | None = None
    cause: BaseException | None = None
    with trio.move_on_after(options.connect_timeout):
        try:
            open_stream = options.open_stream
            if open_stream is None:
                stream = await connect(server.host, server.port, None)
            else:
                stream = await open_stream(server.host, server.port)
            link = Link(stream, Parser(options.max_packet_bytes))
            try:
                return link, await link.greet(server, options, client_id, clean_start=clean_start)
            except BaseException:
                await link.close()
                raise
        except MqttConnectError as error:
            failure = type(error)(f"{server.url}: {error.why}", code=error.code, outcome="not_sent")
            failure.server_reference = error.server_reference
            cause = error.__cause__
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, MqttProtocolError) as error:
            failure, cause = MqttConnectError(f"{server.url}: {why(error)}", outcome="not_sent"), error
    if failure is None:
        failure = MqttConnectError(f"{server.url}: no answer in {options.connect_timeout:g} s", outcome="not_sent")
    raise failure from cause


def refusal(packet: ConnAckPacket | DisconnectPacket) -> MqttConnectError:
    """Return what a broker means that does not take this client, or hangs up."""
    code = int(packet.reason_code)
    kind = MqttAuthError if code in AUTH_CODES else MqttTakenOverError if code == _TAKEN_OVER else MqttConnectError
    reference = packet.server_reference or ""
    text = f"the broker says {said(code, packet.reason_str)}{_HINTS.get(code, '')}"
    if reference:
        text += f"; it names {reference!r:.200}"
    error = kind(text, code=code)
    error.server_reference = reference
    return error


def why(error: Exception) -> str:
    """Return what went wrong with a connection, as text."""
    if isinstance(error, MqttProtocolError | MqttConnectError):
        return error.why
    if isinstance(error, trio.EndOfChannel):
        return "the broker hung up"
    found = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    if isinstance(found, OSError) and found.strerror:
        return found.strerror
    return str(found) or type(found).__name__
