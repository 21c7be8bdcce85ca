"""Serving and connecting over TCP, TLS and Unix sockets: places, handlers that fail, files, and leaving."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Exact, SessionManager
from psession._listeners import UnixListener
from psession.channels import FramedChannel, Framing, open_tcp, open_unix, serve_tcp, serve_unix
from psession.testing import check_channel

from ..peers import start_and_cancel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from psession import Session

HERE = "127.0.0.1"
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def echo(channel: FramedChannel) -> None:
    async for message in channel:
        await channel.send(message)


async def forever(channel: FramedChannel) -> None:
    await trio.sleep_forever()


async def settled(condition: Callable[[], bool]) -> None:
    """Sockets take a moment to tell."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the system sets no event
            await trio.sleep(0.001)


class Kind:
    """One kind of socket: how it is served, and how a client connects."""

    def __init__(self, name: str, folder: Path, contexts: Contexts) -> None:
        self.name = name
        self.path = folder / "socket"
        self.contexts = contexts

    @asynccontextmanager
    async def serving(self, handler: Callable[[FramedChannel], Any] = echo, **options: Any) -> AsyncIterator[Any]:
        serve: Callable[..., Any] = functools.partial(serve_unix, handler, self.path, **options)
        if self.name != "unix":
            serve = functools.partial(serve_tcp, handler, 0, host=HERE, **options)
        if self.name == "tls":
            serve = functools.partial(serve, ssl_context=self.contexts[1])
        async with trio.open_nursery() as nursery:
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()

    def opening(self, server: Any, **options: Any) -> Any:
        if self.name == "unix":
            return open_unix(server.path, **options)
        if self.name == "tls":
            return open_tcp("localhost", server.port, ssl_context=self.contexts[0], **options)
        return open_tcp(HERE, server.port, **options)


@pytest.fixture(params=["tcp", "tls", "unix"])
def kind(request: pytest.FixtureRequest, socket_folder: Path, tls_contexts: Contexts) -> Kind:
    return Kind(request.param, socket_folder, tls_contexts)


@pytest.fixture
def tcp(socket_folder: Path, tls_contexts: Contexts) -> Kind:
    return Kind("tcp", socket_folder, tls_contexts)


@pytest.fixture
def tls(socket_folder: Path, tls_contexts: Contexts) -> Kind:
    return Kind("tls", socket_folder, tls_contexts)


@pytest.fixture
def unix(socket_folder: Path, tls_contexts: Contexts) -> Kind:
    return Kind("unix", socket_folder, tls_contexts)


def open_sockets() -> set[str]:
    """The sockets that this process has open, by their names in ``/proc``."""
    links: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/self/fd/{number}"))
    return {link for link in links if link.startswith("socket:")}


# -- messages ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def both_ends(kind: Kind, **options: Any) -> AsyncIterator[tuple[FramedChannel, FramedChannel]]:
    """A client's channel, and the one that the server's handler gets."""
    got: list[FramedChannel] = []
    came = trio.Event()

    async def handler(channel: FramedChannel) -> None:
        got.append(channel)
        came.set()
        await trio.sleep_forever()

    async with (
        kind.serving(handler, close_timeout=0.05, **options) as server,
        kind.opening(server, close_timeout=0.05, **options) as client,
    ):
        await came.wait()
        yield client, got[0]


async def test_both_ends_keep_the_contract(kind: Kind) -> None:
    await check_channel(functools.partial(both_ends, kind))


@pytest.mark.parametrize("framing", ["length_prefixed", "content_length"])
async def test_framing_and_codec_are_to_be_chosen(kind: Kind, framing: Any) -> None:
    async with both_ends(kind, framing=framing, codec="msgpack") as (client, server):
        await client.send({"a": b"\n\0"})
        assert await server.receive() == {"a": b"\n\0"}


class Dots(Framing):
    """Messages that end with a dot on a line of its own."""

    def frame(self, payload: bytes) -> bytes:
        return payload + b"\n.\n"

    def cut(self, data: bytes, at: int) -> tuple[bytes, int] | int:
        end = data.find(b"\n.\n", at)
        return (data[at:end], end + 3) if end >= 0 else len(data) + 1


async def test_each_client_has_a_framing_of_its_own(tcp: Kind) -> None:
    async with (
        tcp.serving(framing=Dots) as server,
        tcp.opening(server, framing=Dots) as one,
        tcp.opening(server, framing=Dots) as other,
    ):
        for n in range(3):
            await one.send({"one": n})
            await other.send({"other": n})
        assert [await one.receive() for _ in range(3)] == [{"one": n} for n in range(3)]
        assert [await other.receive() for _ in range(3)] == [{"other": n} for n in range(3)]


async def test_a_manager_talks_through_it_both_ways(kind: Kind) -> None:
    async def answer(session: Session) -> None:
        async for message in session:
            await session.post({"twice": 2 * message["n"]})

    async def serve(channel: FramedChannel) -> None:
        async with SessionManager().accept(channel, on_session=answer) as port:
            await port.wait_closed()

    async with (
        kind.serving(serve) as server,
        kind.opening(server) as channel,
        SessionManager(session_timeout=5).port("server", channel) as port,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def ask() -> None:
            assert [(await port.request({"n": n}))["twice"] for n in range(50)] == [2 * n for n in range(50)]


async def test_both_sides_know_of_each_other(kind: Kind) -> None:
    async with both_ends(kind) as (client, server):
        if kind.name == "unix":
            assert (client.remote, server.remote) == (None, None)
            return
        for channel in (client, server):
            assert channel.remote is not None
            assert channel.remote[0] == HERE
        assert client.remote != server.remote


async def test_small_messages_are_not_held_back(tcp: Kind) -> None:
    async with both_ends(tcp) as ends:
        for end in ends:
            assert end._socket is not None
            assert end._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_the_server_says_where_it_listens(kind: Kind) -> None:
    async with kind.serving() as server:
        if kind.name == "unix":
            assert server.addresses == [str(kind.path)] == [server.path]
        else:
            assert server.addresses == [(HERE, server.port)]


# -- places ------------------------------------------------------------------------------------------------------------


async def test_clients_beyond_the_limit_are_hung_up_on_until_one_leaves(kind: Kind) -> None:
    async with kind.serving(max_connections=2) as server, kind.opening(server) as first:
        async with kind.opening(server) as second:
            for client in (first, second):
                await client.send({})
                assert await client.receive() == {}
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError, OSError)):
                async with kind.opening(server) as third:
                    await third.receive()
            assert (server.refused, server.connections) == (1, 2)
        await settled(lambda: server.connections == 1)
        async with kind.opening(server) as third:
            await third.send({})
            assert await third.receive() == {}
            assert (server.refused, server.connections, server.handlers) == (1, 2, 2)


async def test_a_handler_that_goes_on_without_its_client_holds_a_handlers_place_alone(kind: Kind) -> None:
    async def handler(channel: FramedChannel) -> None:
        await channel.aclose()
        await trio.sleep_forever()

    async with kind.serving(handler, max_connections=1, max_handlers=2) as server:
        for number in (1, 2):
            async with kind.opening(server):
                await settled(lambda number=number: server.handlers == number)  # type: ignore[misc]
                await settled(lambda: server.connections == 0)
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError, OSError)):
            async with kind.opening(server) as third:
                await third.receive()
        assert server.refused == 1
    assert (server.connections, server.handlers) == (0, 0)


async def test_a_port_that_waits_for_its_peer_holds_no_clients_place(tcp: Kind) -> None:
    manager = SessionManager(dialect=Exact(), resume_within=60)

    async def serve(channel: FramedChannel) -> None:
        async with manager.accept(channel) as port:
            await port.wait_closed()

    async with tcp.serving(serve) as server:
        async with tcp.opening(server) as client:
            await client.send({"_new": True, "_life": 5})
            assert "_resume" in await client.receive()
        await settled(lambda: server.connections == 0)
        assert (server.handlers, manager.budget.absent) == (1, 1)


async def test_the_oldest_tls_handshake_is_given_up_for_a_newcomer(tls: Kind) -> None:
    async with tls.serving(max_handshakes=2) as server, contextlib.AsyncExitStack() as stack:
        silent: list[trio.SocketStream] = []
        for number in range(1, 4):
            silent.append(await stack.enter_async_context(await trio.open_tcp_stream(HERE, server.port)))
            await settled(lambda number=number: server.handshakes + server.given_up == number)  # type: ignore[misc]
        assert (server.handshakes, server.given_up, server.connections) == (2, 1, 0)
        assert await silent[0].receive_some() == b""
        async with tls.opening(server) as client:
            await client.send({})
            assert await client.receive() == {}
            assert (server.given_up, server.connections) == (2, 1)


async def test_a_tls_handshake_that_takes_too_long_or_is_none_is_cut_off(tls: Kind) -> None:
    async with tls.serving(handshake_timeout=0.02) as server:
        for said in (b"", b"{}\n"):
            async with await trio.open_tcp_stream(HERE, server.port) as stream:
                await stream.send_all(said)
                with contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
        await settled(lambda: server.handshakes == 0)
        assert server.connections == 0


PROGRAM = """
import logging, resource, sys, trio
from functools import partial
from psession.channels import serve_tcp, serve_unix

async def echo(channel):
    async for message in channel:
        await channel.send(message)

async def main():
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, hard))
    path = sys.argv[1]
    async with trio.open_nursery() as nursery:
        serve = partial(serve_unix, echo, path) if path else partial(serve_tcp, echo, 0, host="127.0.0.1")
        server = await nursery.start(serve)
        print(0 if path else server.port, flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("name", ["tcp", "unix"])
async def test_a_server_that_runs_out_of_files_goes_on_when_there_are_some_again(
    name: str, socket_folder: Path
) -> None:
    path = str(socket_folder / "socket") if name == "unix" else ""
    with trio.fail_after(20):
        program = await trio.lowlevel.open_process(
            [sys.executable, "-c", PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert program.stdout is not None
        assert program.stderr is not None
        async with program.stdout, program.stderr:
            try:
                port = int(await program.stdout.receive_some())
                async with contextlib.AsyncExitStack() as stack:
                    for _ in range(40):
                        stream = open_unix(path) if path else open_tcp(HERE, port)
                        await stack.enter_async_context(stream)
                    assert b"no more connections can be taken for now" in await program.stderr.receive_some()
                async with open_unix(path) if path else open_tcp(HERE, port) as client:
                    await client.send({"a": 1})
                    assert await client.receive() == {"a": 1}
            finally:
                program.kill()
        await program.wait()


# -- handlers, and leaving ---------------------------------------------------------------------------------------------


async def test_a_handler_that_fails_ends_its_own_connection_alone(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(channel: FramedChannel) -> None:
        if "bad" in await channel.receive():
            raise ExceptionGroup("two", [ValueError("one"), KeyError("two")])
        await echo(channel)

    async with kind.serving(handler) as server, kind.opening(server) as good:
        await good.send({})
        async with kind.opening(server) as bad:
            await bad.send({"bad": True})
            with pytest.raises(trio.EndOfChannel):
                await bad.receive()
        assert "ValueError: one" in caplog.text
        assert re.search(r"the handler of the (TCP|Unix socket) connection of .* failed", caplog.text)
        await good.send({"a": 1})
        assert await good.receive() == {"a": 1}
        await settled(lambda: server.connections == 1)


async def test_failures_that_every_client_causes_write_a_few_tracebacks(
    tcp: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(channel: FramedChannel) -> None:
        raise KeyError("missing")

    async with tcp.serving(fail) as server:
        for _ in range(20):
            async with tcp.opening(server) as client:
                with pytest.raises(trio.EndOfChannel):
                    await client.receive()
    assert len([record for record in caplog.records if record.exc_info]) == 3


async def test_a_client_that_leaves_is_no_failure_of_its_handler(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(channel: FramedChannel) -> None:
        while True:
            await channel.receive()

    async with kind.serving(handler) as server:
        async with kind.opening(server):
            pass
        await settled(lambda: server.handlers == 0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_when_a_handler_returns_its_client_sees_a_clean_end(kind: Kind) -> None:
    async def handler(channel: FramedChannel) -> None:
        await channel.send({"a": 1})

    async with kind.serving(handler) as server, kind.opening(server) as client:
        assert [message async for message in client] == [{"a": 1}]


async def test_a_server_that_is_cancelled_closes_its_clients_and_leaves_nothing(kind: Kind) -> None:
    before = open_sockets()
    async with contextlib.AsyncExitStack() as stack:
        async with kind.serving() as server:
            clients = [await stack.enter_async_context(kind.opening(server)) for _ in range(3)]
            await settled(lambda: server.connections == 3)
        for client in clients:
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
    assert (server.connections, server.handlers, server.handshakes) == (0, 0, 0)
    assert open_sockets() <= before
    assert not kind.path.exists()


async def test_a_server_that_listens_no_more_goes_on_with_who_is_there(kind: Kind) -> None:
    async with kind.serving() as server, kind.opening(server) as client:
        await client.send({})
        assert await client.receive() == {}
        server.stop_listening()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match=r"all attempts|cannot connect"):
            async with kind.opening(server):
                raise AssertionError
        await client.send({"a": 1})
        assert await client.receive() == {"a": 1}


@pytest.mark.parametrize("host", [HERE, "localhost", None])
@pytest.mark.parametrize("passes", range(10))
async def test_a_server_that_is_cancelled_while_it_starts_leaves_no_socket_open(passes: int, host: str | None) -> None:
    before, threads = open_sockets(), trio.to_thread.current_default_thread_limiter()
    await start_and_cancel(passes, functools.partial(serve_tcp, echo, 0, host=host))
    await settled(lambda: not threads.borrowed_tokens)  # a name may still be looked up
    assert not open_sockets() - before


@pytest.mark.parametrize("passes", range(10))
async def test_a_unix_server_that_is_cancelled_while_it_starts_leaves_no_file(passes: int, socket_folder: Path) -> None:
    before = open_sockets()
    await start_and_cancel(passes, serve_unix, echo, socket_folder / "socket")
    assert (open_sockets() - before, os.listdir(socket_folder)) == (set(), [])


def test_ctrl_c_ends_a_server_and_removes_its_file(socket_folder: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_unix, echo, socket_folder / "socket")
            async with open_unix(server.path) as client:
                await client.send({})
                await client.receive()
                signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = open_sockets()
    try:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - it is looked into below
            trio.run(main)
    finally:
        signal.signal(signal.SIGINT, handler)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, KeyboardInterrupt)
    assert (open_sockets() - before, list(socket_folder.iterdir())) == (set(), [])


async def test_what_the_body_of_a_client_raises_comes_out_as_it_is(kind: Kind) -> None:
    error = KeyError("mine")
    async with kind.serving() as server:
        with pytest.raises(KeyError) as caught:
            async with kind.opening(server):
                raise error
        assert caught.value is error
        with trio.move_on_after(0.01) as scope:
            async with kind.opening(server):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await settled(lambda: server.connections == 0)


# -- the file of a Unix socket -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o666, 0o666), (None, 0o750)])
async def test_the_permissions_of_the_file_are_to_be_chosen(unix: Kind, mode: int | None, expected: int) -> None:
    mask = os.umask(0o027)
    try:
        async with unix.serving(mode=mode):
            assert stat.S_IMODE(unix.path.stat().st_mode) == expected
    finally:
        os.umask(mask)


async def test_by_default_its_owner_alone_may_connect(unix: Kind) -> None:
    async with unix.serving():
        assert stat.S_IMODE(unix.path.stat().st_mode) == 0o600


async def test_the_file_of_a_server_that_was_killed_is_replaced(unix: Kind) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(unix.path))
        dead.listen()
    assert unix.path.is_socket()
    async with unix.serving() as server, unix.opening(server) as client:
        await client.send({})
        assert await client.receive() == {}
    assert not unix.path.exists()


@pytest.mark.parametrize("backlog", [0, 100])
async def test_a_socket_that_somebody_listens_on_is_left_alone(unix: Kind, backlog: int) -> None:
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as stack:
        other.bind(str(unix.path))
        other.listen(backlog)
        if not backlog:
            full = stack.enter_context(socket.socket(socket.AF_UNIX))
            full.connect(str(unix.path))
        with pytest.raises(OSError, match=rf"cannot listen: somebody else does: '{unix.path}'"):
            await serve_unix(echo, unix.path)
        assert unix.path.is_socket()


@pytest.mark.parametrize("what", ["file", "folder", "link", "datagram"])
async def test_a_file_that_is_something_else_is_left_alone(unix: Kind, what: str, socket_folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        if what == "file":
            unix.path.write_text("precious")
        elif what == "folder":
            unix.path.mkdir()
        elif what == "link":
            unix.path.symlink_to(socket_folder / "nothing")
        else:
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            other.bind(str(unix.path))
        with pytest.raises(OSError, match=r"cannot listen: (a file that is no socket is there|somebody else may, )"):
            await serve_unix(echo, unix.path)
        assert unix.path.name in os.listdir(socket_folder)


async def test_the_file_of_another_server_is_not_removed_at_the_end(unix: Kind) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        async with unix.serving():
            unix.path.unlink()
            other.bind(str(unix.path))
        assert unix.path.is_socket()


async def test_a_file_that_is_gone_already_is_no_failure(unix: Kind) -> None:
    async with unix.serving():
        unix.path.unlink()


@pytest.mark.parametrize(
    ("path", "says"),
    [("no/folder/socket", "cannot listen: No such file"), ("x" * 200, "cannot listen: AF_UNIX path too long")],
)
async def test_a_path_that_cannot_be_listened_on_is_named(path: str, says: str, socket_folder: Path) -> None:
    before = open_sockets()
    with pytest.raises(OSError, match=rf"{says}.*{path}'$"):
        await serve_unix(echo, socket_folder / path)
    assert open_sockets() == before


async def test_a_socket_that_cannot_be_made_public_leaves_no_file(unix: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "chmod", refuse)
    before = open_sockets()
    with pytest.raises(PermissionError):
        UnixListener.open(unix.path, 0o600)
    assert not unix.path.exists()
    assert open_sockets() == before


# -- connecting --------------------------------------------------------------------------------------------------------


async def test_tls_that_fails_says_why(tls: Kind) -> None:
    before = open_sockets()
    async with tls.serving() as server:
        listening = open_sockets()
        for name, context in ((HERE, tls.contexts[0]), ("localhost", ssl.create_default_context())):
            with pytest.raises(ConnectionError, match=rf"{name} port {server.port}: no TLS: .*certificate"):
                async with open_tcp(name, server.port, ssl_context=context):
                    raise AssertionError
        await settled(lambda: server.handshakes == 0)
        await settled(lambda: open_sockets() <= listening)
    assert open_sockets() <= before


async def test_a_tls_client_of_a_server_without_tls_is_told(tcp: Kind) -> None:
    async with tcp.serving() as server:
        with pytest.raises((ConnectionError, TimeoutError)):
            async with open_tcp("localhost", server.port, ssl_context=tcp.contexts[0], connect_timeout=0.05):
                raise AssertionError


async def test_a_server_that_is_not_there_is_told_with_its_address(unix: Kind) -> None:
    with pytest.raises(OSError, match=r"all attempts to connect to 127\.0\.0\.1:1 failed"):
        async with open_tcp(HERE, 1):
            raise AssertionError
    with pytest.raises(FileNotFoundError, match=rf"cannot connect: No such file or directory: '{unix.path}'"):
        async with open_unix(unix.path):
            raise AssertionError
    with pytest.raises(OSError, match="cannot connect: AF_UNIX path too long"):
        async with open_unix("x" * 200):
            raise AssertionError
    unix.path.write_text("")
    with pytest.raises(ConnectionRefusedError, match=rf"cannot connect: Connection refused: '{unix.path}'"):
        async with open_unix(unix.path):
            raise AssertionError


async def test_a_server_that_says_nothing_is_given_up(tls: Kind) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    port = listener.socket.getsockname()[1]
    before = open_sockets()
    async with listener:
        with pytest.raises(TimeoutError, match=rf"no connection to localhost port {port} in 0\.02 s"):
            async with open_tcp("localhost", port, ssl_context=tls.contexts[0], connect_timeout=0.02):
                raise AssertionError
        assert len(open_sockets() - before) == 0


async def test_a_full_backlog_is_waited_for_within_the_time_for_that(unix: Kind) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(unix.path))
        server.listen(0)
        async with open_unix(unix.path):
            with pytest.raises(TimeoutError, match=rf"no connection to '{unix.path}' in 0\.05 s"):
                async with open_unix(unix.path, connect_timeout=0.05):
                    raise AssertionError
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def accept() -> None:
                    await trio.sleep(0.05)
                    server.accept()[0].close()

                async with open_unix(unix.path) as client:
                    assert client._socket is not None
                    assert client._socket.getpeername() == str(unix.path)


WRONG = [{name: 0} for name in ("max_connections", "max_handlers", "max_message_bytes")] + [{"close_timeout": -1}]


@pytest.mark.parametrize("wrong", [*WRONG, {"handshake_timeout": 0}, {"max_handshakes": 0}, {"framing": "cobs"}])
async def test_a_server_with_wrong_options_does_not_start(wrong: Any, unix: Kind) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await serve_tcp(echo, 0, host=HERE, **wrong)
    if next(iter(wrong)) not in ("handshake_timeout", "max_handshakes"):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await serve_unix(echo, unix.path, **wrong)
    with pytest.raises(TypeError, match="max_connections must be a whole number"):
        await serve_tcp(echo, 0, host=HERE, max_connections=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"framing": "cobs"}, {"codec": "msgpack"}, {"max_message_bytes": 0}])
async def test_a_client_with_wrong_options_does_not_connect(wrong: Any) -> None:
    for opening in (open_tcp(HERE, 1, **wrong), open_unix("/nowhere", **wrong)):
        with pytest.raises(ValueError, match=r"cobs|binary|max_message_bytes"):
            async with opening:
                raise AssertionError
