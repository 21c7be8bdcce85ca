"""Serving and opening WebSockets: handshakes and their refusals, limits, handlers that fail, and leaving."""

import contextlib
import logging
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from websockets.datastructures import Headers
from websockets.http11 import Response

from psession import SessionManager
from psession.channels import HandshakeError, WebSocketChannel, WebSocketServer, open_websocket, serve_websocket

from ..peers import start_and_cancel
from .websocket_ends import HERE, echo, serving, url

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def settled(condition: Callable[[], bool]) -> None:
    """Sockets take a moment to tell."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the system sets no event
            await trio.sleep(0.001)


async def ask(server: WebSocketServer, request: bytes) -> bytes:
    """What the server answers to these bytes, up to where it hangs up."""
    async with await trio.open_tcp_stream(HERE, server.port) as stream:
        await stream.send_all(request)
        return b"".join([bytes(data) async for data in stream])


REQUEST = (
    b"GET /path HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_both_sides_know_of_each_other() -> None:
    seen: list[WebSocketChannel] = []

    async def handler(channel: WebSocketChannel) -> None:
        seen.append(channel)
        await echo(channel)

    async with (
        serving(handler, subprotocols=["b", "a"]) as server,
        open_websocket(url(server, "/x?y=%20z"), subprotocols=["a", "b"], headers={"X-Key": "1"}) as client,
    ):
        await client.send({"a": 1})
        assert await client.receive() == {"a": 1}
        assert [end.path for end in (client, *seen)] == ["/x?y=%20z"] * 2
        assert [end.subprotocol for end in (client, *seen)] == ["b", "b"]
        assert seen[0].request.headers["x-key"] == "1"
        assert seen[0].request.headers["user-agent"].startswith("psession/")
        assert client.remote == (HERE, server.port) == server.addresses[0]
        assert seen[0].remote is not None
        assert client.response.status_code == 101
        assert server.connections == 1


async def test_a_manager_talks_through_it_both_ways() -> None:
    async def handler(channel: WebSocketChannel) -> None:
        async def answer(session: Any) -> None:
            async for message in session:
                await session.post({"twice": 2 * message["n"]})

        async with SessionManager().port("client", channel, on_session=answer) as port:
            await port.wait_closed()

    async with (
        serving(handler) as server,
        open_websocket(url(server)) as channel,
        SessionManager().port("server", channel) as port,
        trio.open_nursery() as nursery,
    ):

        async def call(number: int) -> None:
            assert (await port.request({"n": number}))["twice"] == 2 * number

        for number in range(100):
            nursery.start_soon(call, number)


async def test_tls_and_the_name_in_the_certificate(tls_contexts: Contexts) -> None:
    async with serving(ssl_context=tls_contexts[1], close_timeout=0.5) as server:
        async with open_websocket(f"wss://localhost:{server.port}", ssl_context=tls_contexts[0]) as client:
            await client.send({"a": "x" * 300_000})
            assert len((await client.receive())["a"]) == 300_000
            assert client.remote is not None
        assert client.close_code == 1000
        for name, context in ((HERE, tls_contexts[0]), ("localhost", None)):
            with pytest.raises(HandshakeError, match=f"wss://{name}.*: no TLS: .*certificate"):
                async with open_websocket(f"wss://{name}:{server.port}", ssl_context=context):
                    raise AssertionError
        assert await ask(server, REQUEST) == b""
        await settled(lambda: server.connections == 0)


async def test_an_ipv6_address_stands_in_brackets() -> None:
    async with serving(host="::1") as server, open_websocket(f"ws://[::1]:{server.port}/") as client:
        await client.send({})
        assert await client.receive() == {}
        assert client.request.headers["host"] == f"[::1]:{server.port}"


async def test_deflate_is_used_where_both_want_it() -> None:
    message = {"text": "the same again and again " * 40}
    async with serving(compression="deflate") as server:
        async with open_websocket(url(server), compression="deflate") as client:
            for _ in range(3):
                await client.send(message)
                assert await client.receive() == message
            assert client.bytes_sent + client.bytes_received < 600
        async with open_websocket(url(server)) as client:
            await client.send(message)
            assert await client.receive() == message
            assert client.bytes_sent > 1000


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (REQUEST.replace(b"GET", b"POST"), b"405 "),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), b"505 "),
        (REQUEST.replace(b"Version: 13", b"Version: 8"), b"400 "),
        (REQUEST.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), b"400 "),
        (REQUEST.replace(b"Upgrade: websocket\r\n", b""), b"426 "),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"426 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", b"400 "),
        (b"hello\r\n\r\n", b"400 "),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b"414 "),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", b"431 "),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431 "),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"x" * 8000) for n in range(60)), b"431 "),
    ],
)
async def test_a_bad_handshake_is_answered_with_the_status_that_belongs_there(
    request_bytes: bytes, status: bytes
) -> None:
    async with serving() as server:
        assert (await ask(server, request_bytes)).startswith(b"HTTP/1.1 " + status)
        await settled(lambda: server.connections == 0)
        async with open_websocket(url(server)) as client:
            await client.send({})
            assert await client.receive() == {}


async def test_frames_sent_with_the_request_are_not_lost() -> None:
    async with serving() as server, await trio.open_tcp_stream(HERE, server.port) as stream:
        await stream.send_all(REQUEST + b"\x81\x82\0\0\0\0{}")
        got = b""
        while not got.endswith(b"\x81\x02{}"):
            got += await stream.receive_some()
        assert got.startswith(b"HTTP/1.1 101 ")


async def test_a_handshake_that_takes_too_long_is_cut_off() -> None:
    async with serving(handshake_timeout=0.02) as server:
        assert await ask(server, REQUEST[:-2]) == b""
        await settled(lambda: server.connections == 0)


async def test_origins_are_checked() -> None:
    allowed = ["https://good.example", re.compile(r"https://.*\.good\.example")]
    async with serving(origins=allowed) as server:
        for origin in ("https://good.example", "https://a.good.example"):
            async with open_websocket(url(server), origin=origin) as client:
                assert client.close_code is None
        for origin in ("https://evil.example", None):
            with pytest.raises(HandshakeError, match=r"HTTP status 403 Forbidden: .*Origin") as caught:
                async with open_websocket(url(server), origin=origin):
                    raise AssertionError
            assert (caught.value.status, caught.value.reason) == (403, "Forbidden")


async def test_subprotocols_must_meet() -> None:
    async with serving(subprotocols=["a"]) as server:
        for offered in (["b"], []):
            with pytest.raises(HandshakeError, match=r"HTTP status 400 Bad Request: .*subprotocol"):
                async with open_websocket(url(server), subprotocols=offered):
                    raise AssertionError


async def test_process_request_may_answer_with_a_page() -> None:
    page = Response(200, "OK", Headers({"Content-Type": "text/html", "Content-Length": "4"}), b"page")
    async with serving(process_request=lambda request: page) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\npage")
        assert (server.connections, server.refused) == (0, 0)


async def test_process_request_may_refuse_sync_or_async(caplog: pytest.LogCaptureFixture) -> None:
    async def check(request: Any) -> tuple[int, str] | None:
        if request.path == "/fails":
            raise RuntimeError("oops")
        return (401, "who are you?") if "authorization" not in request.headers else None

    async with serving(process_request=check) as server:
        with pytest.raises(HandshakeError, match=r"HTTP status 401 Unauthorized: who are you\?") as caught:
            async with open_websocket(url(server)):
                raise AssertionError
        assert caught.value.body == b"who are you?"
        async with open_websocket(f"ws://ann:secret@{HERE}:{server.port}/") as client:
            assert client.request.headers["authorization"] == "Basic YW5uOnNlY3JldA=="
        with pytest.raises(HandshakeError, match="500"):
            async with open_websocket(url(server, "/fails")):
                raise AssertionError
        assert "process_request failed" in caplog.text
    async with serving(process_request=lambda request: (404, "not here")) as server:
        with pytest.raises(HandshakeError, match="404 Not Found: not here"):
            async with open_websocket(url(server)):
                raise AssertionError


# -- places ------------------------------------------------------------------------------------------------------------


async def test_clients_beyond_the_limit_get_503_until_one_leaves() -> None:
    async with serving(max_connections=2) as server, open_websocket(url(server)):
        async with open_websocket(url(server)):
            with pytest.raises(HandshakeError, match="HTTP status 503 Service Unavailable: There is no room"):
                async with open_websocket(url(server)):
                    raise AssertionError
            assert (server.refused, server.connections) == (1, 2)
        await settled(lambda: server.connections == 1)
        async with open_websocket(url(server)):
            assert (server.refused, server.connections, server.handlers) == (1, 2, 2)


async def test_the_oldest_handshake_is_given_up_for_a_newcomer() -> None:
    async with serving(max_handshakes=3) as server, contextlib.AsyncExitStack() as stack:
        silent: list[trio.SocketStream] = []
        for number in range(1, 6):
            silent.append(await stack.enter_async_context(await trio.open_tcp_stream(HERE, server.port)))
            await settled(lambda number=number: server.handshakes + server.given_up == number)  # type: ignore[misc]
        assert (server.handshakes, server.given_up, server.connections) == (3, 2, 0)
        assert [await stream.receive_some() for stream in silent[:2]] == [b"", b""]
        async with open_websocket(url(server)) as client:
            await client.send({})
            assert await client.receive() == {}
            assert (server.handshakes, server.given_up, server.connections) == (2, 3, 1)
        assert await silent[2].receive_some() == b""
        await silent[4].send_all(REQUEST)
        assert (await silent[4].receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_a_client_that_was_refused_is_given_up_before_one_that_shakes_hands() -> None:
    async with serving(max_handshakes=2) as server, contextlib.AsyncExitStack() as stack:
        honest = await stack.enter_async_context(await trio.open_tcp_stream(HERE, server.port))
        await settled(lambda: server.handshakes == 1)
        bad = await stack.enter_async_context(await trio.open_tcp_stream(HERE, server.port))
        await bad.send_all(REQUEST.replace(b"GET", b"PUT"))
        assert (await bad.receive_some()).startswith(b"HTTP/1.1 405 ")
        assert server.handshakes == 2
        late = await stack.enter_async_context(await trio.open_tcp_stream(HERE, server.port))
        await settled(lambda: server.given_up == 1)
        for stream in (honest, late):
            await stream.send_all(REQUEST)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_no_more_get_in_than_may_however_many_are_decided_on_at_once() -> None:
    decided, asked, outcomes = trio.Event(), [], list[int | None]()

    async def hook(request: Any) -> None:
        asked.append(request)
        await decided.wait()

    async def come(server: WebSocketServer) -> None:
        try:
            async with open_websocket(url(server)):
                outcomes.append(101)
                await trio.sleep_forever()
        except HandshakeError as error:
            outcomes.append(error.status)

    async with serving(max_connections=2, process_request=hook) as server, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(come, server)
        await settled(lambda: len(asked) == 5)
        assert (server.connections, server.handshakes) == (0, 5)
        decided.set()
        await settled(lambda: len(outcomes) == 5)
        assert (sorted(outcomes, key=str), server.connections, server.refused) == ([101, 101, 503, 503, 503], 2, 3)
        await ask(server, REQUEST)
        assert len(asked) == 5  # where there is no room the hook is not troubled
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("ends", ["closes", "vanishes", "is closed"])
async def test_a_place_is_held_by_an_open_channel_and_not_by_a_handler_that_goes_on(
    ends: str, secure: bool, tls_contexts: Contexts
) -> None:
    found: list[Exception] = []

    async def handler(channel: WebSocketChannel) -> None:
        if ends == "is closed":
            await channel.aclose()
        for _ in range(2):
            try:
                await channel.receive()
            except Exception as error:
                found.append(error)
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await channel.send({})
        await trio.sleep_forever()

    options: Any = {"ssl_context": tls_contexts[1]} if secure else {}
    before = open_sockets()
    async with serving(handler, max_connections=1, max_handlers=2, close_timeout=1, **options) as server:
        listening = open_sockets()
        where = f"wss://localhost:{server.port}" if secure else url(server)
        reaches: Any = {"ssl_context": tls_contexts[0]} if secure else {}
        for number in (1, 2):
            async with open_websocket(where, **reaches) as client:
                if ends == "vanishes":
                    await trio.aclose_forcefully(client._stream)
                elif ends == "is closed":
                    with pytest.raises(trio.EndOfChannel):
                        await client.receive()
            await settled(lambda number=number: len(found) == 2 * number)  # type: ignore[misc]
            await settled(lambda: server.connections == 0)
            assert server.handlers == number
        with pytest.raises(HandshakeError, match="HTTP status 503"):
            async with open_websocket(where, **reaches):
                raise AssertionError
        expected: Any = {"closes": trio.EndOfChannel, "vanishes": trio.BrokenResourceError}
        assert {type(error) for error in found} == {expected.get(ends, trio.ClosedResourceError)}
        await settled(lambda: server.handshakes == 0)
        assert open_sockets() <= listening
    assert open_sockets() <= before
    assert (server.connections, server.handlers) == (0, 0)


@pytest.mark.parametrize("said", [b"", b"\x88\x80\0\0\0\0"], ids=["nothing", "goodbye"])
async def test_a_client_that_resets_its_connection_holds_no_place(said: bytes) -> None:
    found: list[Exception] = []

    async def handler(channel: WebSocketChannel) -> None:
        await settled(lambda: stream.socket.fileno() == -1)
        for _ in range(2):
            try:
                await channel.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError) as error:
                found.append(error)
        await trio.sleep_forever()

    async with serving(handler) as server:
        stream = await trio.open_tcp_stream(HERE, server.port)
        await stream.send_all(REQUEST)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.send_all(said)
        await stream.aclose()
        await settled(lambda: len(found) == 2)
        assert (server.connections, server.handlers) == (0, 1)
        assert str(found[0]) == str(found[1])


async def test_a_client_that_breaks_the_protocol_reads_why_before_its_connection_is_closed() -> None:
    async def handler(channel: WebSocketChannel) -> None:
        with suppress(trio.BrokenResourceError):
            await channel.receive()
        await trio.sleep(0.01)

    async with serving(handler) as server, await trio.open_tcp_stream(HERE, server.port) as stream:
        await stream.send_all(REQUEST)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        await stream.send_all(b"\x83\x80\0\0\0\0" + b"x" * 1000)
        assert (await stream.receive_some()).startswith(b"\x88")


async def test_a_client_that_is_silent_for_too_long_holds_no_place_though_its_handler_goes_on() -> None:
    async def handler(channel: WebSocketChannel) -> None:
        with suppress(trio.BrokenResourceError):
            await channel.receive()
        await trio.sleep_forever()

    async with (
        serving(handler, ping_interval=0.01, ping_timeout=0.01) as server,
        await trio.open_tcp_stream(HERE, server.port) as stream,
    ):
        await stream.send_all(REQUEST)
        await settled(lambda: server.handlers == 1)
        await settled(lambda: server.connections == 0)
        assert server.handlers == 1


PROGRAM = """
import logging, resource, trio
from psession.channels import serve_websocket

async def echo(channel):
    async for message in channel:
        await channel.send(message)

async def main():
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, echo, "127.0.0.1", 0)
        print(server.port, flush=True)

trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
async def test_a_server_that_runs_out_of_files_lets_newcomers_in_and_logs_few_lines() -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(20))
        program = await trio.lowlevel.open_process(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert program.stdout is not None
        assert program.stderr is not None
        async with program.stdout, program.stderr:
            try:
                port = int(await program.stdout.receive_some())
                for _ in range(100):
                    await stack.enter_async_context(await trio.open_tcp_stream(HERE, port))
                with trio.fail_after(2):
                    async with open_websocket(f"ws://{HERE}:{port}") as client:
                        await client.send({"a": 1})
                        assert await client.receive() == {"a": 1}
            finally:
                program.kill()
            said = b"".join([bytes(data) async for data in program.stderr]).decode().splitlines()
        await program.wait()
    assert 1 <= len(said) <= 3
    assert all(line.startswith("psession WARNING no more connections can be taken for now: Too many") for line in said)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"HTTP/1.1 302 Found\r\nLocation: wss://else.where/\r\nContent-Length: 0\r\n\r\n",
            "redirects are not followed",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>until the end", "HTTP status 200 OK: <html>until the end"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", "HTTP status 404 Not Found: nope"),
        (b"HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Sec-WebSocket-Accept"),
        (b"220 mail.example ESMTP\r\n", "valid HTTP response"),
        (b"", "connection closed while reading"),
    ],
)
async def test_a_refusal_says_what_the_server_said(answer: bytes, words: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HERE)

    async def respond() -> None:
        async with await listener.accept() as stream:
            await stream.receive_some()
            await stream.send_all(answer)

    where = f"ws://{HERE}:{listener.socket.getsockname()[1]}/?token=secret"
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(respond)
        with pytest.raises(HandshakeError, match=re.escape(words)) as caught:
            async with open_websocket(where):
                raise AssertionError
    assert "secret" not in str(caught.value)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    async with listener:
        with pytest.raises(TimeoutError, match=r"no WebSocket handshake with ws://.* in 0\.02 s"):
            async with open_websocket(f"ws://{HERE}:{listener.socket.getsockname()[1]}", connect_timeout=0.02):
                raise AssertionError
    with pytest.raises(OSError, match="attempts to connect"):
        async with open_websocket(f"ws://{HERE}:1"):
            raise AssertionError


@pytest.mark.parametrize(
    ("where", "options", "words"),
    [
        ("http://here/", {}, "isn't a valid"),
        ("ws://", {}, "hostname"),
        ("ws://here/", {"ssl_context": ssl.create_default_context()}, "an ssl_context is for wss"),
        ("ws://here/", {"headers": {"Upgrade": "x"}}, "the handshake's own"),
        ("ws://here/", {"headers": {"A\r\nB": "x"}}, "not the name of a header"),
        ("ws://here/", {"headers": [("A", "x\r\nB: y")]}, "invalid A header"),
        ("ws://here/", {"subprotocols": ["a b"]}, "invalid subprotocol"),
        ("ws://here/", {"compression": "br"}, "compression must be"),
    ],
)
async def test_arguments_that_are_wrong_are_refused_before_anything_is_opened(
    where: str, options: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        async with open_websocket(where, **options):
            raise AssertionError
    with pytest.raises(TypeError, match="not a str"):
        async with open_websocket("ws://here", subprotocols="ab"):
            raise AssertionError


@pytest.mark.parametrize(
    "wrong",
    [{name: 0} for name in ("handshake_timeout", "max_connections", "max_handshakes", "max_handlers")]
    + [{"ping_interval": -1}],
)
async def test_a_server_with_wrong_options_does_not_start(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await serve_websocket(echo, HERE, 0, **wrong)


# -- handlers, and leaving ---------------------------------------------------------------------------------------------


async def test_a_handler_that_fails_ends_its_own_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(channel: WebSocketChannel) -> None:
        if channel.path == "/bad":
            raise ExceptionGroup("two", [ValueError("one"), KeyError("two")])
        await echo(channel)

    async with serving(handler) as server, open_websocket(url(server)) as good:
        async with open_websocket(url(server, "/bad")) as bad:
            with pytest.raises(trio.BrokenResourceError, match="code 1011"):
                await bad.receive()
        assert "ValueError: one" in caplog.text
        await good.send({})
        assert await good.receive() == {}
        await settled(lambda: server.connections == 1)


@pytest.mark.parametrize("what", ["handler", "process_request"])
async def test_failures_that_every_client_causes_write_a_few_tracebacks(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(thing: Any) -> None:
        raise KeyError("missing")

    options: Any = {"handler": fail} if what == "handler" else {"process_request": fail}
    async with serving(close_timeout=0.01, **options) as server:
        for _ in range(20):
            assert b" 101 " in (said := await ask(server, REQUEST)) or b" 500 " in said
        assert len([record for record in caplog.records if record.exc_info]) == 3


async def test_a_client_that_leaves_is_no_failure_of_its_handler(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(channel: WebSocketChannel) -> None:
        while True:
            await channel.receive()

    async with serving(handler) as server:
        async with open_websocket(url(server)):
            pass
        await settled(lambda: server.connections == 0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_when_a_handler_returns_its_client_sees_a_clean_end() -> None:
    async def handler(channel: WebSocketChannel) -> None:
        await channel.send({"a": 1})

    async with serving(handler) as server, open_websocket(url(server)) as client:
        assert [message async for message in client] == [{"a": 1}]
        assert client.close_code == 1000


async def test_a_server_that_leaves_says_so_to_all_whoever_closes_their_channels() -> None:
    async def handler(channel: WebSocketChannel) -> None:
        if channel.path == "/port":
            async with SessionManager().port("client", channel) as port:
                await port.wait_closed()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        scope = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[WebSocketServer]) -> None:
            with scope:
                await serve_websocket(handler, HERE, 0, task_status=task_status)

        server = await nursery.start(serve)
        clients = [
            await stack.enter_async_context(open_websocket(url(server, path))) for path in ("/", "/port", "/", "/port")
        ]
        await settled(lambda: server.connections == 4)
        scope.cancel()
        for client in clients:
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
            assert client.close_code == 1001
            await client.aclose()
    assert server.connections == 0


def open_sockets() -> set[str]:
    """The sockets that this process has open, by their names in ``/proc``."""
    links: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            links.add(os.readlink(f"/proc/self/fd/{number}"))
    return {link for link in links if link.startswith("socket:")}


@pytest.mark.parametrize("host", [HERE, "localhost", None])
@pytest.mark.parametrize("passes", range(16))
async def test_a_server_that_is_cancelled_while_it_starts_leaves_no_socket_open(passes: int, host: str | None) -> None:
    before, threads = open_sockets(), trio.to_thread.current_default_thread_limiter()
    await start_and_cancel(passes, serve_websocket, echo, host, 0)
    await settled(lambda: not threads.borrowed_tokens)  # a name may still be looked up
    assert not open_sockets() - before


async def test_a_server_that_listens_no_more_goes_on_with_who_is_there() -> None:
    async with serving() as server, open_websocket(url(server)) as client:
        server.stop_listening()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream(HERE, server.port)
        await client.send({"a": 1})
        assert await client.receive() == {"a": 1}


async def test_leaving_is_bounded_though_no_client_answers() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(lambda **kw: serve_websocket(echo, HERE, 0, close_timeout=0.05, **kw))
        streams = [await trio.open_tcp_stream(HERE, server.port) for _ in range(3)]
        for stream in streams:
            await stream.send_all(REQUEST)
            await stream.receive_some()
        await settled(lambda: server.connections == 3)
        started = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started < 1
    assert server.connections == 0
    for stream in streams:
        assert await stream.receive_some() == b"\x88\x02\x03\xe9"
        await stream.aclose()


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    error = KeyError("mine")
    async with serving() as server:
        with pytest.raises(KeyError) as caught:
            async with open_websocket(url(server)):
                raise error
        assert caught.value is error
        with trio.move_on_after(0.01) as scope:
            async with open_websocket(url(server)):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await settled(lambda: server.connections == 0)


# -- the library -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [lambda: open_websocket("ws://here").__aenter__(), lambda: serve_websocket(echo, HERE, 0)]
)
async def test_a_missing_library_is_told_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[], Any]
) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "psession\[websocket\]"'):
        await start()
