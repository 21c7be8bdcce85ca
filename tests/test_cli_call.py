"""`psession call` to every kind of peer: TLS, Unix sockets, WebSockets with headers, and the protocols of others."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from psession import SessionManager
from psession._cli import main
from psession._cli._problem import Exit
from psession.channels import serve_tcp, serve_unix, serve_websocket
from psession.dialects import Exact

from .commands import echoing, environment, peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

Captured = pytest.CaptureFixture[str]
STATUS = '{"command": "status"}'


async def call(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit status, output and complaints of `psession call`."""
    command = [sys.executable, "-m", "psession", "call", *arguments]
    done = await trio.run_process(
        command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=environment()
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# ------------------------------------------------------------------------------------------------------------------ TLS
@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of an authority, and of a certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    blobs = {"ca": authority.cert_pem, "key": own.private_key_pem, "cert": own.cert_chain_pems[0]}
    blobs |= {"both": own.private_key_and_cert_chain_pem, "other": trustme.CA().cert_pem}
    for name, blob in blobs.items():
        blob.write_to_path(folder / f"{name}.pem")
    return {name: str(folder / f"{name}.pem") for name in blobs}


@pytest.fixture(scope="module", params=["wss", "tls"])
def secure_url(request: pytest.FixtureRequest, certificates: dict[str, str]) -> Iterator[str]:
    options = ["--certfile", certificates["cert"], "--keyfile", certificates["key"]]
    with echoing(f"{request.param}://127.0.0.1:0", *options) as (url, _):
        yield url


def test_a_peer_with_tls_is_trusted_by_its_authority(
    secure_url: str, certificates: dict[str, str], capsys: Captured
) -> None:
    assert main(["call", secure_url, STATUS, "--cafile", certificates["ca"]]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(STATUS)


def test_a_peer_with_tls_may_be_trusted_blindly_whatever_its_name(secure_url: str, capsys: Captured) -> None:
    other_name = secure_url.replace("127.0.0.1", "localhost")
    assert main(["call", other_name, STATUS, "--insecure"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(STATUS)


@pytest.mark.parametrize("given", [[], ["--cafile", "other"]])
def test_a_peer_that_nobody_vouches_for_is_told_in_one_line_that_says_what_helps(
    given: list[str], secure_url: str, certificates: dict[str, str], capsys: Captured
) -> None:
    options = [certificates.get(word, word) for word in given]
    assert main(["call", secure_url, STATUS, *options]) == Exit.CONNECTION
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"psession: no TLS with {secure_url}: ")
    assert "give --cafile FILE with the authority that signed it, or --insecure" in err


def test_a_peer_of_another_name_is_told_in_one_line(
    secure_url: str, certificates: dict[str, str], capsys: Captured
) -> None:
    other_name = secure_url.replace("127.0.0.1", "localhost")
    assert main(["call", other_name, STATUS, "--cafile", certificates["ca"]]) == Exit.CONNECTION
    err = capsys.readouterr().err
    assert err.startswith(f"psession: no TLS with {other_name}: hostname mismatch, ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("scheme", ["wss", "tls"])
def test_a_peer_without_tls_is_told_in_one_line(scheme: str, capsys: Captured) -> None:
    with peer(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert main(["call", f"{scheme}://127.0.0.1:{port}", STATUS, "--insecure"]) == Exit.CONNECTION
    told = f"no TLS with {scheme}://127.0.0.1:{port}: wrong version number; a peer without TLS is ws:// or tcp://"
    assert capsys.readouterr().err == f"psession: {told}\n"


def test_certificate_and_key_may_be_in_one_file(certificates: dict[str, str], capsys: Captured) -> None:
    with echoing("tls://127.0.0.1:0", "--certfile", certificates["both"]) as (url, _):
        assert main(["call", url, STATUS, "--cafile", certificates["ca"]]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(STATUS)


# ------------------------------------------------------------------------------------------ Unix sockets and WebSockets
def test_a_unix_socket_is_listened_on_and_called(socket_folder: Path, capsys: Captured) -> None:
    url = f"unix:{socket_folder}/lamp"
    assert main(["call", url, STATUS]) == Exit.CONNECTION
    assert capsys.readouterr().err.startswith(f"psession: cannot connect to {url}: no such file or directory")
    with echoing(url) as (listening, _):
        assert listening == url
        assert main(["call", listening, STATUS]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(STATUS)


async def test_headers_and_subprotocols_reach_the_server() -> None:
    met: list[Any] = []

    async def serve(channel: Any) -> None:
        headers = channel.request.headers
        met.append((headers["Authorization"], headers.get_all("X-Lamp"), channel.subprotocol, channel.path))
        await channel.send(await channel.receive())

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, serve, "127.0.0.1", 0, subprotocols=["lamp.v2"]))
        options = ["--header", "Authorization: Bearer a:b", "--header", "X-Lamp:1", "--header", "X-Lamp: 2"]
        options += ["--subprotocol", "lamp.v3", "--subprotocol", "lamp.v2"]
        done = await call(f"ws://127.0.0.1:{server.port}/lamps?id=7", STATUS, *options)
        assert done == (0, '{"command":"status"}\n', "")
        assert (await call(f"ws://127.0.0.1:{server.port}", STATUS))[::2] == (
            Exit.CONNECTION,
            f"psession: ws://127.0.0.1:{server.port} is no WebSocket: it answered HTTP 400\n",
        )
        nursery.cancel_scope.cancel()
    assert met == [("Bearer a:b", ["1", "2"], "lamp.v2", "/lamps?id=7")]


# ------------------------------------------------------------------------------------------------------------ protocols
async def count_down(message: Any) -> AsyncIterator[Any]:
    """Answer with each number down to zero."""
    for number in reversed(range(message["from"])):
        yield {"number": number}


async def test_a_stream_is_a_line_for_each_reply(socket_folder: Path) -> None:
    manager = SessionManager(dialect=Exact("id"), on_request=count_down)

    async def serve(channel: Any) -> None:
        async with manager.accept(channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_unix, serve, socket_folder / "s")
        options = ["--exact", "--sid-name", "id", "--stream"]
        done = await call(f"unix:{server.path}", '{"from": 3}', *options)
        assert done == (0, '{"number":2}\n{"number":1}\n{"number":0}\n', "")
        status, out, err = await call(f"unix:{server.path}", '{"to": 3}', *options)
        assert (status, out) == (Exit.FAILED, "")
        assert "crashed" in err
        nursery.cancel_scope.cancel()


def rpc(message: Any) -> list[Any]:
    """A server of JSON-RPC that subtracts."""
    if message["method"] != "subtract":
        error = {"code": -32601, "message": "Method not found"}
        return [{"jsonrpc": "2.0", "id": message["id"], "error": error}]
    first, second = message["params"]
    return [{"jsonrpc": "2.0", "method": "log"}, {"jsonrpc": "2.0", "id": message["id"], "result": first - second}]


def debugger(message: Any) -> list[Any]:
    """A debug adapter that says what it can."""
    answer = {"type": "response", "request_seq": message["seq"], "command": message["command"], "success": True}
    return [{"seq": 1, "type": "event", "event": "x"}, {"seq": 2, **answer, "body": {"supportsCancelRequest": True}}]


def chromium(message: Any) -> list[Any]:
    """A browser that says its version."""
    return [{"method": "Target.event", "params": {}}, {"id": message["id"], "result": {"product": message["method"]}}]


def graphql(message: Any) -> list[Any]:
    """A server whose every subscription has two results."""
    if message["type"] != "subscribe":
        return [{"type": "connection_ack"}] if message["type"] == "connection_init" else []
    results = [{"id": message["id"], "type": "next", "payload": {"data": {"n": n}}} for n in (1, 2)]
    return [*results, {"id": message["id"], "type": "complete"}]


PROTOCOLS: list[tuple[str, str, Callable[[Any], list[Any]], Any, str]] = [
    ("json-rpc", "lines", rpc, {"method": "subtract", "params": [42, 23]}, "19"),
    ("lsp", "content_length", rpc, {"method": "subtract", "params": [42, 23]}, "19"),
    ("dap", "content_length", debugger, {"command": "initialize"}, '{"supportsCancelRequest":true}'),
    ("cdp", "lines", chromium, {"method": "Browser.getVersion"}, '{"product":"Browser.getVersion"}'),
    ("graphql-ws", "lines", graphql, {"query": "{n}"}, '{"data":{"n":2}}'),
]
"""A dialect, its framing over TCP, a server, a question, and the answer."""


@pytest.mark.parametrize("over", ["a WebSocket", "TCP"])
@pytest.mark.parametrize(
    ("dialect", "framing", "answer", "message", "told"), PROTOCOLS, ids=[protocol[0] for protocol in PROTOCOLS]
)
async def test_a_peer_of_another_protocol_is_asked_in_its_own(
    over: str, dialect: str, framing: Any, answer: Callable[[Any], list[Any]], message: Any, told: str
) -> None:
    async def serve(channel: Any) -> None:
        async for asked in channel:
            for one in answer(asked):
                await channel.send(one)

    if over == "TCP":
        listen: Any = partial(serve_tcp, serve, host="127.0.0.1", port=0, framing=framing)
    else:
        subprotocols = ["graphql-transport-ws"] if dialect == "graphql-ws" else []
        listen = partial(serve_websocket, serve, host="127.0.0.1", port=0, subprotocols=subprotocols)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(listen)
        url = f"{'tcp' if over == 'TCP' else 'ws'}://127.0.0.1:{server.port}"
        assert await call(url, json.dumps(message), "--dialect", dialect) == (0, f"{told}\n", "")
        if dialect == "graphql-ws":
            done = await call(url, json.dumps(message), "--dialect", dialect, "--stream")
            assert done == (0, '{"data":{"n":1}}\n{"data":{"n":2}}\n', "")
        if dialect == "json-rpc":
            status, out, err = await call(url, '{"method": "add"}', "--dialect", dialect)
            assert (status, out) == (Exit.FAILED, "")
            assert "Method not found" in err
            status, _, err = await call(url, '{"add": 1}', "--dialect", dialect)
            assert status == Exit.MESSAGE
            assert 'a payload is {"method": "...", "params": ...}' in err
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_answer_the_greeting_of_its_protocol_is_told_in_one_line() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_tcp, lambda channel: channel.receive(), host="127.0.0.1", port=0))
        url = f"tcp://127.0.0.1:{server.port}"
        status, out, err = await call(url, '{"query": "{n}"}', "--dialect", "graphql-ws")
        assert (status, out, err.count("\n")) == (Exit.CONNECTION, "", 1)
        nursery.cancel_scope.cancel()
