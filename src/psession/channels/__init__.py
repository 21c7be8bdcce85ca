"""What carries a port's messages: most functions make a channel out of a transport that is open already.

==================== ================================================================================================
`memory_pair`        two ends in one program, nothing encoded
`lines`              a stream of bytes (TCP, TLS, a Unix socket, pipes), one message a line
`length_prefixed`    the same, each message after its length: for MessagePack, or messages with line breaks
`content_length`     the same, each message behind a header that says its length: LSP and DAP
`framed`             the same, by a framing of your own
`open_tcp`           connect to a server by TCP or TLS, with any of these framings; `open_unix`: by a Unix socket
`serve_tcp`          be one: a channel for each client; `serve_unix`
`process`            a child process, over its pipes
`open_websocket`     connect to a WebSocket server (extra ``websocket``)
`serve_websocket`    be one: a channel for each client (the same extra)
`trio_websocket`     an open connection of the library trio-websocket
`anyio_stream`       a byte stream or an object stream of AnyIO's making
`reconnecting`       any of these, opened again whenever it breaks
==================== ================================================================================================

Importing this imports no library but those that psession needs anyway. A channel of your own implements
`trio.abc.Channel`, or `FrameChannel` to be written to in batches; `psession.testing.check_channel` tells whether it
keeps what a port relies on.
"""

from psession.channels._anyio import AnyioObjectChannel, ObjectForm, anyio_stream
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES, Frame, FrameChannel, Message
from psession.channels._content_length import ContentLengthFraming
from psession.channels._framed import FramedChannel
from psession.channels._framings import Framing, LengthFraming, LineFraming
from psession.channels._memory import MemoryChannel, memory_pair
from psession.channels._process import ProcessChannel, StderrChoice, process
from psession.channels._reconnect_options import Connect, LinkState
from psession.channels._reconnecting import ReconnectingChannel, reconnecting
from psession.channels._server import Handler
from psession.channels._socket_client import open_tcp, open_unix
from psession.channels._socket_server import TcpServer, UnixServer, serve_tcp, serve_unix
from psession.channels._streams import FramingMaker, FramingName, content_length, framed, length_prefixed, lines
from psession.channels._trio_websocket import TrioWebSocketChannel, trio_websocket
from psession.channels._websocket import WebSocketChannel
from psession.channels._websocket_accept import Refusal, RequestHook
from psession.channels._websocket_client import open_websocket
from psession.channels._websocket_options import HandshakeError
from psession.channels._websocket_server import WebSocketHandler, WebSocketServer, serve_websocket
from psession.channels.codecs import Codec, CodecName, JsonCodec, MsgpackCodec, Undecoded

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "AnyioObjectChannel",
    "Codec",
    "CodecName",
    "Connect",
    "ContentLengthFraming",
    "Frame",
    "FrameChannel",
    "FramedChannel",
    "Framing",
    "FramingMaker",
    "FramingName",
    "Handler",
    "HandshakeError",
    "JsonCodec",
    "LengthFraming",
    "LineFraming",
    "LinkState",
    "MemoryChannel",
    "Message",
    "MsgpackCodec",
    "ObjectForm",
    "ProcessChannel",
    "ReconnectingChannel",
    "Refusal",
    "RequestHook",
    "StderrChoice",
    "TcpServer",
    "TrioWebSocketChannel",
    "Undecoded",
    "UnixServer",
    "WebSocketChannel",
    "WebSocketHandler",
    "WebSocketServer",
    "anyio_stream",
    "content_length",
    "framed",
    "length_prefixed",
    "lines",
    "memory_pair",
    "open_tcp",
    "open_unix",
    "open_websocket",
    "process",
    "reconnecting",
    "serve_tcp",
    "serve_unix",
    "serve_websocket",
    "trio_websocket",
]
