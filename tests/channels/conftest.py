"""Connected streams on this machine alone, for the tests of what runs over them."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trustme
from trio_websocket import WebSocketConnection, wrap_client_stream, wrap_server_stream

StreamPair = tuple[trio.abc.Stream, trio.abc.Stream]
OpenStreams = Callable[[], AbstractAsyncContextManager[StreamPair]]


@asynccontextmanager
async def open_tcp() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname())
        server = await listener.accept()
    async with client, server:
        yield client, server


@asynccontextmanager
async def open_unix() -> AsyncIterator[StreamPair]:
    client, server = trio.socket.socketpair()
    async with trio.SocketStream(client) as left, trio.SocketStream(server) as right:
        yield left, right


@pytest.fixture(scope="session")
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's context and the server's, under an authority that lives as long as the tests."""
    authority = trustme.CA()
    client, server = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(client)
    authority.issue_cert("localhost").configure_cert(server)
    return client, server


@pytest.fixture
def open_tls(tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> OpenStreams:
    """TLS 1.3 over TCP, both handshakes done and the session tickets read."""

    @asynccontextmanager
    async def open_pair() -> AsyncIterator[StreamPair]:
        async with open_tcp() as (left, right):
            client = trio.SSLStream(left, tls_contexts[0], server_hostname="localhost")
            server = trio.SSLStream(right, tls_contexts[1], server_side=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.do_handshake)
                nursery.start_soon(server.do_handshake)
            await server.send_all(
                b"!"
            )  # the tickets go with the server's first bytes; unread, they turn a close into a reset
            assert await client.receive_some() == b"!"
            try:
                yield client, server
            finally:
                await trio.aclose_forcefully(client)
                await trio.aclose_forcefully(server)

    return open_pair


@pytest.fixture(params=["tcp", "unix", "tls"])
def open_streams(request: pytest.FixtureRequest) -> OpenStreams:
    """Each kind of connected byte stream in turn."""
    if request.param == "tls":
        return request.getfixturevalue("open_tls")
    return {"tcp": open_tcp, "unix": open_unix}[request.param]


@pytest.fixture
def open_websockets() -> Callable[..., AbstractAsyncContextManager[tuple[WebSocketConnection, WebSocketConnection]]]:
    """A connection of trio-websocket, the client's end and the server's; keywords go to both.

    Over streams of our own: a client that its server has closed leaves its socket open (trio-websocket 0.12.2).
    """

    @asynccontextmanager
    async def open_pair(**options: int) -> AsyncIterator[tuple[WebSocketConnection, WebSocketConnection]]:
        async with open_tcp() as streams, trio.open_nursery() as nursery:
            accepted: list[WebSocketConnection] = []

            async def accept() -> None:
                request = await wrap_server_stream(nursery, streams[1], **options)
                accepted.append(await request.accept())

            async with trio.open_nursery() as handshake:
                handshake.start_soon(accept)
                client = await wrap_client_stream(nursery, streams[0], "127.0.0.1", "/", **options)
            yield client, accepted[0]
            nursery.cancel_scope.cancel()

    return open_pair


@pytest.fixture(name="open_tcp")
def give_open_tcp() -> OpenStreams:
    """A TCP connection, both ends."""
    return open_tcp
