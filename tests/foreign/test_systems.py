"""Systems that nobody here wrote: a virtual machine, a store of values, a downloader, servers of GraphQL and ASGI."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import PortClosedError, SessionManager, SessionRemoteError, SessionTimeoutError
from psession.channels import open_unix, open_websocket
from psession.dialects import Exact, GraphqlWs

from ..ports import free_port
from .test_programs import LONGEST_RUN, PROGRAMS, check_said, example

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ..conftest import Node

pytestmark = pytest.mark.foreign


def need(program: str, package: str) -> str:
    """Where a program is that a package of Debian's brings."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here; Debian has it: apt-get install {package}")
    return found


async def wait_for_listener(port: int, process: trio.Process | None = None) -> None:
    """Wait until somebody listens on a port of TCP."""
    with trio.fail_after(LONGEST_RUN):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                if process is not None:
                    assert process.returncode is None, f"{process.args} ended with status {process.returncode}"
                await trio.sleep(0.02)
            else:
                await stream.aclose()
                return


@asynccontextmanager
async def running(command: Sequence[str], port: int) -> AsyncIterator[trio.Process]:
    """A server for as long as the block lasts, which begins when it listens."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, check=False))
        try:
            await wait_for_listener(port, process)
            yield process
        finally:
            nursery.cancel_scope.cancel()


async def test_a_virtual_machine_is_stopped_and_resumed_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = example("virtual_machine")
    program = need("qemu-system-x86_64", "qemu-system-x86")
    with trio.fail_after(LONGEST_RUN):
        await module.main([program, *module.QEMU[1:]])
    check_said(
        capsys.readouterr().out,
        r"QEMU \d+\.\d+",
        r"stop: STOP, and it is paused",
        r"cont: RESUME, and it is running",
        r"system_powerdown: POWERDOWN, and it is running",
        r"eject: DeviceNotFound, Device 'floppy' not found",
        r"the machine ended with status 0",
    )


async def test_a_media_player_plays_pauses_and_seeks(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("media_player")
    program = need("mpv", "mpv")
    with trio.fail_after(LONGEST_RUN):
        await module.main(command=[program, *module.MPV[1:], "--ao=null"])
    check_said(
        capsys.readouterr().out,
        r"mpv v?\d+\.\d+.*",
        r"volume: unsupported format for accessing property",
        r"paused after 1\.\d s",
        r"it stays there: True",
    )


async def test_a_media_player_gives_a_command_up_and_its_end_is_the_end_of_all_that_wait(
    socket_folder: Path,
) -> None:
    module = example("media_player")
    program = need("mpv", "mpv")
    errors: list[PortClosedError] = []
    sleep = {"name": "subprocess", "args": ["sleep", "2"], "playback_only": False}

    async def wait(port: Any) -> None:
        with pytest.raises(PortClosedError) as caught:
            await port.request(sleep)
        errors.append(caught.value)

    manager = SessionManager(dialect=module.Mpv(), session_timeout=30)
    with trio.fail_after(LONGEST_RUN):
        async with (
            module.player([program, *module.MPV[1:], "--ao=null"]) as channel,
            manager.port("mpv", channel) as mpv,
        ):
            with pytest.raises(SessionTimeoutError):
                await mpv.request(sleep, timeout=0.2)
            while not mpv.statistics().late:  # noqa: ASYNC110 - the player has killed the program, and says so to nobody
                await trio.sleep(0.01)
            assert await mpv.request(["get_property", "idle-active"]) is True
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait, mpv)
                os.kill(await mpv.request(["get_property", "pid"]), signal.SIGKILL)
    assert len(errors) == 3


def redis(*arguments: str) -> list[str]:
    """The command of a Redis that keeps nothing."""
    program = need("redis-server", "redis-server")
    return [program, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--loglevel", "warning", *arguments]


async def test_redis_answers_in_order_and_pushes_news(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    port = free_port()
    with trio.fail_after(LONGEST_RUN):
        async with running(redis("--port", str(port), "--dir", str(tmp_path)), port):
            await example("key_value_store").main(port)
    check_said(
        capsys.readouterr().out,
        r"RESP3",
        r"SET: OK",
        r"GET: on, äöü and None",
        r"INCR: ERR, value is not an integer or out of range",
        r"news: doors the front door is open",
        r"heard by: 1",
        r"BLPOP: no job in 0\.2 s; its answer will reach nobody",
        r"GET: on, äöü and late answers: 1",
    )


async def test_large_values_of_redis_and_many_commands_at_once_each_get_their_own_answer(socket_folder: Path) -> None:
    module, port, path = example("key_value_store"), free_port(), str(socket_folder / "redis.sock")
    got: dict[int, str] = {}
    manager = SessionManager(dialect=module.Redis(), session_timeout=30)
    with trio.fail_after(LONGEST_RUN):
        async with (
            running(redis("--port", str(port), "--dir", str(socket_folder), "--unixsocket", path), port),
            open_unix(path, framing=module.Resp, codec=module.Words()) as channel,
            manager.port("redis", channel) as store,
        ):
            await store.request(["HELLO", 3])
            texts = [str(number) * 10 * number for number in range(200)]

            async def keep(number: int) -> None:
                with trio.move_on_after(0 if number % 7 == 3 else 30):  # some are given up before they are sent
                    await store.request(["SET", number, texts[number]])
                with trio.CancelScope() as scope:
                    if number % 7 == 5:  # and some when they are
                        scope.deadline = trio.current_time() + 0.001
                    got[number] = await store.request(["GET", number])

            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(keep, number)
            assert await store.request(["MGET", *range(200)]) == [
                await store.request(["GET", number]) for number in range(200)
            ]
            assert all(text == (None if number % 7 == 3 else texts[number]) for number, text in got.items())
            with pytest.raises(SessionTimeoutError):
                await store.request(["BLPOP", "nothing", 0.3], timeout=0.1)
            assert await store.request(["ECHO", "still there"]) == "still there"
            statistics = store.statistics()
            assert statistics.late >= 1
            assert (statistics.malformed, statistics.unknown_sid) == (0, 0)


class Files(SimpleHTTPRequestHandler):
    """The files of a folder, and no word about it."""

    def log_message(self, format: str, *args: object) -> None:
        pass


async def test_aria2_downloads_a_file_and_says_when_it_is_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    port, program = free_port(), need("aria2c", "aria2")
    folder = tmp_path / "downloads"
    (tmp_path / "lamp.bin").write_bytes(bytes(range(256)) * 2000)
    options = ["--no-conf", "--enable-rpc", f"--rpc-listen-port={port}", "--rpc-secret=sesame", "--quiet"]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with trio.fail_after(LONGEST_RUN):
                async with running([program, *options, f"--dir={tmp_path}"], port):
                    await example("download").main(
                        f"http://127.0.0.1:{server.server_port}/lamp.bin",
                        str(folder),
                        "sesame",
                        f"ws://127.0.0.1:{port}/jsonrpc",
                    )
        finally:
            server.shutdown()
            thread.join()
    check_said(
        capsys.readouterr().out,
        r"aria2 \d+\.\d+\.\d+",
        r"DownloadStart: [0-9a-f]{16}",
        r"DownloadComplete: [0-9a-f]{16}",
        r"\d+ of \d+ kB",
        rf"complete: {folder}/lamp\.bin",
        r"DownloadError: [0-9a-f]{16}",
        r"error: .*",
        r"remove: error 1, .*0123456789abcdef.*",
    )
    assert (folder / "lamp.bin").read_bytes() == bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def graphql_node(node: Node) -> Node:
    """Node with the library graphql-ws beside ``ws``."""
    node.install("ws@8", "graphql@16", "graphql-ws@6")
    return node


@asynccontextmanager
async def graphql_server(node: Node) -> AsyncIterator[str]:
    """The URL of a server made with graphql-ws, for as long as the block lasts."""
    process = await trio.lowlevel.open_process(
        [node.program, str(PROGRAMS / "graphql_server.cjs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(node.folder / "node_modules")},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            said = b""
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some() or pytest.fail(f"no port, but {said!r}")
            yield f"ws://127.0.0.1:{int(said)}/graphql"
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def test_graphql_answers_a_query_streams_a_subscription_and_hears_that_one_is_given_up(
    graphql_node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(LONGEST_RUN):
        async with graphql_server(graphql_node) as url:
            await example("graphql_client").main(url)
    check_said(
        capsys.readouterr().out,
        r"lamp 7: 9 W",
        r'error graphql: Cannot query field "colour" on type "Lamp"\.',
        r"fades: 1\nfades: 2\nfades: 3\nenough",
        r"the server heard it: \d",
    )


async def test_a_subscription_that_fails_in_its_middle_fails_for_its_listener_alone(graphql_node: Node) -> None:
    manager = SessionManager(dialect=GraphqlWs(), session_timeout=10)
    with trio.fail_after(LONGEST_RUN):
        async with (
            graphql_server(graphql_node) as url,
            open_websocket(url, subprotocols=["graphql-transport-ws"]) as channel,
            manager.port("graphql", channel) as graphql,
        ):
            await graphql.request({"type": "connection_init", "payload": {"token": "sesame"}})
            async with graphql.stream({"query": "subscription { fail }"}) as parts:
                assert await anext(parts) == {"data": {"fail": 1}}
                with pytest.raises(SessionRemoteError, match="the lamp broke"):
                    await anext(parts)
            assert await graphql.request({"query": "{ lamp(id: 1) { name } }"}) == {
                "data": {"lamp": {"name": "lamp 1"}}
            }


async def test_a_server_of_graphql_that_refuses_a_token_says_so_to_whoever_waits(graphql_node: Node) -> None:
    manager = SessionManager(dialect=GraphqlWs(), session_timeout=10)
    with trio.fail_after(LONGEST_RUN):
        async with (
            graphql_server(graphql_node) as url,
            open_websocket(url, subprotocols=["graphql-transport-ws"]) as channel,
            manager.port("graphql", channel) as graphql,
        ):
            with pytest.raises(PortClosedError, match=r"4403.*Forbidden"):
                await graphql.request({"type": "connection_init", "payload": {"token": "pepper"}})


async def test_an_app_of_starlettes_on_hypercorn_gets_a_route_with_sessions() -> None:
    pytest.importorskip("hypercorn", reason="pip install --group foreign")
    pytest.importorskip("starlette", reason="pip install --group foreign")
    module, number = example("in_starlette"), free_port()
    manager = SessionManager(dialect=Exact(), session_timeout=10)
    with trio.fail_after(LONGEST_RUN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(module.main, number)
            await wait_for_listener(number)
            async with AsyncExitStack() as stack:
                ports = []
                for name in ("anna", "bert"):
                    channel = await stack.enter_async_context(open_websocket(f"ws://127.0.0.1:{number}/sessions"))
                    ports.append(await stack.enter_async_context(manager.port(name, channel)))
                for level, port in enumerate(ports * 10):
                    assert await port.request({"command": "dim", "level": level}) == {"level": level}
                with pytest.raises(SessionRemoteError, match="no method is called 'sing'"):
                    await ports[0].request({"command": "sing"})
                assert await fetch(number, "/status") == "2 with sessions"
            while await fetch(number, "/status") != "0 with sessions":  # noqa: ASYNC110 - a page has no event
                await trio.sleep(0.01)
            async with (
                open_websocket(f"ws://127.0.0.1:{number}/sessions") as channel,
                manager.port("carl", channel) as port,
            ):
                await port.request({"command": "dim", "level": 1})
                nursery.cancel_scope.cancel()  # the server goes, and its ports with it
    assert len(module.manager.ports) == 0


async def fetch(port: int, path: str) -> str:
    """The body of a page."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        said = b"".join([piece async for piece in stream])
    return said.partition(b"\r\n\r\n")[2].decode()
