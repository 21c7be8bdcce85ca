"""Every example runs as it stands, over real sockets, and says what it is there to show."""

import contextlib
import importlib.util
import re
import socket
import struct
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from psession import Exact, SessionManager
from psession.channels import open_tcp, open_websocket, serve_tcp, serve_websocket

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST_RUN = 10  # seconds; the slowest takes about one

ELSEWHERE = {
    "chromium": "tests/browser/test_devtools.py",
    "debugger": "tests/foreign/test_programs.py",
    "download": "tests/foreign/test_systems.py",
    "graphql_client": "tests/foreign/test_systems.py",
    "home_assistant": "tests/foreign/test_home_assistant.py",
    "in_fastapi": "tests/foreign/test_web_frameworks.py",
    "in_fastapi_devices": "tests/foreign/test_web_frameworks.py",
    "in_flask": "tests/foreign/test_web_frameworks.py",
    "in_starlette": "tests/foreign/test_systems.py",
    "key_value_store": "tests/foreign/test_systems.py",
    "language_server": "tests/foreign/test_programs.py",
    "mcp_client": "tests/foreign/test_programs.py",
    "mcp_server": "tests/foreign/test_programs.py",
    "media_player": "tests/foreign/test_systems.py",
    "plain_script": "tests/foreign/test_web_frameworks.py",
    "virtual_machine": "tests/foreign/test_systems.py",
}
"""Examples whose far end is a program that only those tests have."""

SAYS = {
    "control_centre": [
        r"lamp +ok, session 1",
        r"lock +ok, session 1",
        r"heating +ok, session 1",
        r"garage +silent: 2 attempts in \d\.\d\d s",
        r"drone +gone, which was known after \d\.\d\d s",
        r"answers: 3, timeouts: 1, ports still open: 0",
    ],
    "event_bus": [r"doorbell: pressed", *(rf"{name}: ok \(session 1\)" for name in ("lamp", "oven", "heating"))],
    "in_trio_websocket": [r"echo: hello", r"{'level': 40}", r"clients: 1"],
    "login_dialogue": [
        r"  needPassword  -> hunter2\n  wrongPassword -> 123456\nsession 1: ok",
        r"  wrongPassword -> 2222\nsession 2: locked",
    ],
    "own_receive_loop": [
        r"session \d: the sum of \[1, 2\] is 3",
        r"session \d: the sum of \[3, 4, 5\] is 12",
        r"session \d: the sum of \[6\] is 6",
        r"no session's: {'news': 'a question came'}",
    ],
    "progress": [
        *(rf"good\.bin: {percent} %" for percent in (0, 25, 50, 75, 100)),
        r"broken\.bin: 0 %\nbroken\.bin: bad_file, the checksum is wrong",
        r"large\.bin: 0 %\nlarge\.bin: 25 %\n  device: nobody waits for it any more",
    ],
    "reconnecting_client": [
        r"  connecting\n  open\n20.5 degrees\n20.9 degrees\n  broken, EndOfChannel\(\)",
        r"  connecting\n  open\n21.4 degrees\n21.6 degrees\n  broken, EndOfChannel\(\)",
        r"21.5 degrees\n21.1 degrees\n  closed",
    ],
    "server_opens_sessions": [
        *(rf"the centre hears: {name} is well \(session 1\)" for name in ("lamp", "lock", "oven")),
        r"  the centre is asked 'is the centre there for oven\?' in session 2",
        r"  the centre is asked 'and still there for oven\?' in session 4",
    ],
    "service": [
        r"status: Say how bright it is\.\nlock: Let nobody dim it from now on\.\ndim: Set its brightness\.\nfade: .*",
        r"the lamp is at 25 %\nthe lamp is at 50 %\nthe lamp is at 75 %",
        r"{'command': 'dim', 'level': 50} -> {'level': 50}",
        r"{'command': 'dim', 'level': 200} -> refused\.bad_arguments, dim: Expected `int` <= 100 - at `\$\.level`",
        r"{'command': 'dim', 'levle': 50} -> refused\.bad_arguments, dim: no argument is called 'levle': .* 'level'",
        r"{'command': 'explode'} -> refused\.unknown_method, no method is called 'explode': there are 'status', .*",
        r"{'command': 'lock'} -> {'result': True}",
        r"{'command': 'dim', 'level': 100} -> refused\.locked, the lamp is locked",
        r"{'command': 'status'} -> {'level': 50}",
    ],
    "socket_server": [
        *(rf"{{'hello': 'this is {name}, in no session'}}" for name in ("anna", "bert")),
        *(rf"{name}: getTime -> \d{{4}}-.+ \(session \d\)" for name in ("anna", "bert")),
        *(rf"{name}: makeTea -> unknown command \(session \d\)" for name in ("anna", "bert")),
    ],
    "websocket_client": [
        r"news: 2 devices are connected",
        r"devices: \['lamp-1', 'oven-7'\]",
        r"details: {'deviceId': 'lamp-1', 'watts': 9, 'on': True}",
    ],
    "websocket_server": [
        r"client: getStatus is processing",
        r"server: the client is listening, session 1",
        r"client: getStatus is completed 42 devices, all well",
    ],
}

LASTING = {"browser_page"}
"""Examples that run until they are stopped; each has a test of its own, and this one more in tests/browser."""


def load(name: str) -> ModuleType:
    """An example as a fresh module, its `__main__` part not run."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SAYS)
async def test_an_example_runs_to_its_end_and_says_what_it_should(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(LONGEST_RUN):
        await load(name).main()
    output = capsys.readouterr().out
    assert [line for line in SAYS[name] if not re.search(rf"^{line} *$", output, re.MULTILINE)] == []


async def test_the_websocket_client_talks_to_the_server_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("websocket_client")
    with trio.fail_after(LONGEST_RUN):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_websocket, example.serve_client, "127.0.0.1", 0))
            await example.main(f"ws://127.0.0.1:{server.port}")
            nursery.cancel_scope.cancel()
    assert "devices: ['lamp-1', 'oven-7']" in capsys.readouterr().out


async def test_the_browser_page_comes_with_its_modules_and_its_server_asks_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the page does is said here by a port."""
    example = load("browser_page")
    asked = []

    def answer(message: Any) -> Any:
        asked.append(message["question"])
        return {"yes": True}

    def fetch(path: str) -> tuple[str, bytes]:
        with urllib.request.urlopen(urllib.parse.urljoin(address, path)) as response:
            return response.headers["Content-Type"], response.read()

    with trio.fail_after(LONGEST_RUN):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(partial(example.main, 0, 0))
            kind, page = await trio.to_thread.run_sync(fetch, address)
            assert (kind, b"./psession.js" in page) == ("text/html", True)
            for name in ("psession.js", "protocol.js", "link.js"):
                kind, module = await trio.to_thread.run_sync(fetch, name)
                assert (kind, b"export" in module) == ("text/javascript", True)
            for path in ("/../pyproject.toml", "/browser_page.py", "/examples"):
                with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                    await trio.to_thread.run_sync(fetch, path)
                refused.value.close()
            socket_number = address.rpartition("=")[2]
            async with (
                open_websocket(f"ws://127.0.0.1:{socket_number}") as channel,
                SessionManager(dialect=Exact()).port("heating", channel, on_request=answer) as port,
            ):
                async with port.session() as session:
                    question = await session.send({"command": "heat", "degrees": 24.5})
                    assert question == {"question": "Heat to 24.5 °C? That costs a third more."}
                    assert await session.send({"yes": False}) == {"wanted": 19.0}
                    assert await session.send({"command": "heat", "degrees": 19.5}) == {"wanted": 19.5}
                async with port.stream({"command": "watch"}) as moments:
                    while (await moments.receive())["wanted"] == 19.5:
                        pass
            nursery.cancel_scope.cancel()
    assert asked == ["The room has 19.5 °C now. Turn it down to 19?"]
    assert capsys.readouterr().out == f"open {address}\n"


TCP_SERVERS: dict[str, Callable[[ModuleType], Any]] = {
    "control_centre": lambda example: partial(example.device, delay=0.01),
    "event_bus": lambda example: example.devices,
    "login_dialogue": lambda example: example.serve_device,
    "own_receive_loop": lambda example: example.adder,
    "progress": lambda example: example.serve_device,
    "reconnecting_client": lambda example: example.serve_client,
    "service": lambda example: example.serve_client,
}
CHANNEL_SERVERS: dict[str, Callable[[ModuleType], Any]] = {"socket_server": lambda example: example.serve_client}
WEBSOCKET_SERVERS: dict[str, Callable[[ModuleType], Any]] = {
    "browser_page": lambda example: example.Heating().serve,
    "server_opens_sessions": lambda example: example.serve_device,
    "websocket_client": lambda example: example.serve_client,
    "websocket_server": lambda example: example.serve_client,
}
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
RUDE = [b"", b"nonsense\n", b"[1]\n{}\n", b"{}\0\xff\0\n", UPGRADE[:60], UPGRADE, UPGRADE + b"\x81\x82\0\0\0\0{}"]
"""What a rude client says before it resets its connection."""


async def serve(name: str, nursery: trio.Nursery) -> int:
    """Start an example's server, and return its port."""
    if name in TCP_SERVERS:
        handler = TCP_SERVERS[name](load(name))
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        return int(listeners[0].socket.getsockname()[1])
    if name in CHANNEL_SERVERS:
        handler = CHANNEL_SERVERS[name](load(name))
        return int((await nursery.start(partial(serve_tcp, handler, 0, host="127.0.0.1"))).port)
    handler = WEBSOCKET_SERVERS[name](load(name))
    return int((await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0))).port)


async def reset(port: int, said: bytes, *, at_once: bool) -> None:
    """Connect, say something, and reset the connection, before the server's task for it starts or in its middle."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(said)
        if not at_once:
            await trio.testing.wait_all_tasks_blocked(0.01)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() then sends RST


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", [*TCP_SERVERS, *CHANNEL_SERVERS, *WEBSOCKET_SERVERS])
async def test_a_client_that_resets_does_not_take_an_examples_server_down(name: str, at_once: bool) -> None:
    with trio.fail_after(LONGEST_RUN):
        async with trio.open_nursery() as nursery:
            port = await serve(name, nursery)
            for said in RUDE:
                await reset(port, said, at_once=at_once)
                await trio.testing.wait_all_tasks_blocked(0.01)
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", [*TCP_SERVERS, *CHANNEL_SERVERS, *WEBSOCKET_SERVERS])
async def test_an_examples_server_serves_several_clients_at_once(name: str) -> None:
    with trio.fail_after(LONGEST_RUN), contextlib.ExitStack() as connections:
        async with trio.open_nursery() as nursery:
            port = await serve(name, nursery)
            clients = [connections.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
            for client in clients:
                client.setblocking(False)
                client.sendall(UPGRADE if name in WEBSOCKET_SERVERS else b"")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert [is_open(client) for client in clients] == [True, True, True]
            connections.close()  # first, or each is waited for: it says no goodbye
            nursery.cancel_scope.cancel()


def is_open(client: socket.socket) -> bool:
    """Return True if the server has not closed this connection."""
    try:
        while client.recv(4096):
            pass
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_socket_server_goes_on_serving_a_client_while_another_resets(at_once: bool) -> None:
    example = load("socket_server")
    with trio.fail_after(LONGEST_RUN):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_tcp, example.serve_client, 0, host="127.0.0.1"))
            async with (
                open_tcp("127.0.0.1", server.port) as channel,
                SessionManager().port("server", channel) as port,
                port.session() as session,
            ):
                for _ in range(3):
                    await reset(server.port, b'{"command": "getTime", "sid": 1}\n', at_once=at_once)
                    assert (await session.send({"command": "getTime"}))["status"] == "success"
            nursery.cancel_scope.cancel()


def test_no_example_goes_untested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SAYS.keys() | ELSEWHERE.keys() | LASTING
    for name, test in ELSEWHERE.items():
        assert name in (EXAMPLES.parent / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*SAYS, *LASTING])
def test_an_example_says_what_it_shows(name: str) -> None:
    assert load(name).__doc__
