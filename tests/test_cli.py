"""The command psession: what it takes, what echo and call do, and that nothing a user does gives a traceback."""

import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import psession
from psession._cli import main
from psession._cli._address import FORM, Address
from psession._cli._problem import Exit

from .commands import LIMIT, accept_websocket, connect, echoing, finish, peer, read_on, repeat_once, start
from .ports import free_port

STATUS = '{"command": "status"}'
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", params=["ws", "tcp"])
def echo_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with echoing(f"{request.param}://127.0.0.1:0") as (url, _):
        yield url


def complaint(capsys: Captured) -> str:
    """What stands on standard error, which must be one line, and nothing on standard output."""
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:10]) == ("", 1, "psession: ")
    return err.removeprefix("psession: ").strip()


# ------------------------------------------------------------------------------------------------------------ arguments
WRONG = [
    ([], "give a command: demo, echo, call, watch, gateway, fleet, completion"),
    (["sing"], "choose from"),
    (["--loud"], "give a command: demo, echo, call, watch, gateway, fleet, completion"),
    (["demo", "now"], "unrecognized arguments: now; usage: psession demo"),
    (["echo"], "required: URL; usage: psession echo"),
    (["echo", "127.0.0.1:80"], f"URL: give {FORM}, not '127.0.0.1:80'"),
    (["echo", "http://127.0.0.1:80"], f"URL: give {FORM}"),
    (["echo", "tcp://127.0.0.1"], "names no port; give such as tcp://127.0.0.1:8080"),
    (["echo", "tls://127.0.0.1:"], "names no port; give such as tls://127.0.0.1:8080"),
    (["echo", "ws://:8080"], "names no host; give ws://HOST:PORT"),
    (["echo", "unix:"], "names no file; give unix:PATH"),
    (["echo", "unix://run/lamp"], "has a host, which a Unix socket has not; give unix:PATH"),
    (["echo", "wss://127.0.0.1:0"], "URL: wss:// needs a certificate; give --certfile FILE"),
    (["echo", "tcp://127.0.0.1:0", "--certfile", "x"], "--certfile: it is for wss:// and tls://, not for tcp://"),
    (["echo", "ws://127.0.0.1:0", "--keyfile", "x"], "--keyfile: it is for wss:// and tls://, not for ws://"),
    (
        ["echo", "tls://127.0.0.1:0", "--certfile", "/none"],
        "--certfile /none: no certificate with its key in PEM: no such",
    ),
    (["echo", "tls://127.0.0.1:0", "--certfile", __file__], "no certificate with its key in PEM"),
    (["echo", "ws://127.0.0.1:0/path"], "echo answers on every path"),
    (["echo", "ws://127.0.0.1:65536"], "Port out of range 0-65535"),
    (["echo", "ws://127.0.0.1:0", "--drain", "never"], "--drain: give 0 or more seconds, such as 2.5"),
    (["call", "tcp://127.0.0.1:1"], "required: MESSAGE; usage: psession call"),
    (["call", "tcp://127.0.0.1:0", "{}"], "give the peer's port, 1 to 65535"),
    (["call", "tcp://127.0.0.1:1/path", "{}"], "only a WebSocket can have; give tcp://HOST:PORT"),
    (["call", "ws://me@127.0.0.1:1", "{}"], "has a user or a fragment"),
    (["call", "ws://[::1", "{}"], "Invalid IPv6 URL"),
    (["call", "tcp://127.0.0.1:1", "{}", "--timeout", "soon"], "--timeout: give 0 or more seconds, such as 2.5"),
    (["call", "tcp://127.0.0.1:1", "{}", "--timeout=-1"], "--timeout: give 0 or more seconds, such as 2.5"),
    (["call", "tcp://127.0.0.1:1", "{}", "--timeout", "nan"], "--timeout: give 0 or more seconds, such as 2.5"),
    (["call", "tcp://127.0.0.1:1", "{}", "--retry-count", "1.5"], "--retry-count: give a whole number, 0 or more"),
    (["call", "tcp://127.0.0.1:1", "{}", "--retry-interval", ""], "--retry-interval: give 0 or more seconds"),
    (["call", "tcp://127.0.0.1:1", "{}", "--sid-name", ""], "--sid-name: give the name of a field, such as sid"),
    (["call", "tls://127.0.0.1:1", "{}", "--cafile", "/none"], "--cafile /none: no certificates in PEM: no such file"),
    (["call", "tls://127.0.0.1:1", "{}", "--cafile", __file__], "no certificates in PEM"),
    (["call", "tls://127.0.0.1:1", "{}", "--cafile", "x", "--insecure"], "give one of the two"),
    (["call", "ws://127.0.0.1:1", "{}", "--insecure"], "--insecure: it is for wss:// and tls://, not for ws://"),
    (["call", "tcp://127.0.0.1:1", "{}", "--cafile", "x"], "--cafile: it is for wss:// and tls://, not for tcp://"),
    (["call", "tcp://127.0.0.1:1", "{}", "--header", "a: b"], "--header: it is for ws:// and wss://, not for tcp://"),
    (["call", "unix:x", "{}", "--subprotocol", "a"], "--subprotocol: it is for ws:// and wss://, not for unix:x"),
    (["call", "ws://127.0.0.1:1", "{}", "--header", "a"], "--header: give 'NAME: VALUE', such as 'Authorization:"),
    (["call", "ws://127.0.0.1:1", "{}", "--header", "Upgrade: x"], "Upgrade"),
    (["call", "ws://127.0.0.1:1", "{}", "--subprotocol", "a b"], "subprotocol"),
    (["call", "ws://127.0.0.1:1", "{}", "--dialect", "soap"], "--dialect: invalid choice: 'soap' (choose from"),
    (["call", "ws://127.0.0.1:1", "{}", "--dialect", "lsp", "--exact"], "--exact: not allowed with argument --dialect"),
    (
        ["call", "ws://127.0.0.1:1", "{}", "--dialect", "cdp", "--sid-name", "id"],
        "--sid-name: cdp has no such field; it is for --dialect classic or --dialect exact",
    ),
    (
        ["call", "ws://127.0.0.1:1", "{}", "--stream"],
        "--stream: classic has one reply to a message; give --dialect exact or --dialect graphql-ws",
    ),
    (["call", "ws://127.0.0.1:1", "{}", "--lines"], "--lines: the messages come from standard input; give - for MESS"),
    (["call", "ws://127.0.0.1:1", "-", "--rate", "5"], "--rate: it is for many messages; give --lines, and - for"),
    (["call", "ws://127.0.0.1:1", "-", "--concurrency", "5"], "--concurrency: it is for many messages; give --lines"),
    (["call", "ws://127.0.0.1:1", "-", "--lines", "--rate", "0"], "--rate: give messages a second, such as 100 or 0.5"),
    (["call", "ws://127.0.0.1:1", "-", "--lines", "--rate", "inf"], "--rate: give messages a second"),
    (["call", "ws://127.0.0.1:1", "-", "--lines", "--concurrency", "0"], "--concurrency: give 1 to 65535, not 0"),
    (["watch"], "required: URL; usage: psession watch"),
    (["watch", "tcp://127.0.0.1:1"], "URL: give http://HOST:PORT/?token=TOKEN, as the program printed it, not 'tcp:"),
    (["watch", "http://127.0.0.1:0"], "nobody listens on port 0"),
    (["watch", "http://127.0.0.1:1", "--every", "0"], "--every: give 0.1 or more seconds, such as 2.5, not '0'"),
    (["watch", "http://127.0.0.1:1", "--every", "1", "--once"], "--every: it is for the terminal, not for --once"),
    (["watch", "http://127.0.0.1:1", "--listen", "8765"], "--listen: give HOST:PORT, such as 127.0.0.1:8765, not"),
    (["watch", "http://127.0.0.1:1", "--listen", "a:1", "--once"], "--once: not allowed with argument --listen"),
    (["completion"], "required: SHELL; usage: psession completion"),
    (["completion", "tcsh"], "SHELL: invalid choice: 'tcsh' (choose from"),
    (["call", "tcp://127.0.0.1:1", "{}", "two\nlines"], r"unrecognized arguments: two\nlines; usage: psession call"),
]


@pytest.mark.parametrize(("argv", "right"), WRONG)
def test_wrong_arguments_get_one_line_that_says_what_is_right(argv: list[str], right: str, capsys: Captured) -> None:
    assert main(argv) == 2
    assert right in complaint(capsys)


@pytest.mark.parametrize("command", [[], ["call"]])
def test_help_tells_the_exit_codes(command: list[str], capsys: Captured) -> None:
    assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"\n  {code.value:<3}  " in out for code in Exit)


def test_the_version_can_be_asked_for(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"psession {psession.__version__}\n"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://localhost:80", Address("ws", "localhost", 80)),
        ("ws://10.0.0.7:8080/devices?id=3", Address("ws", "10.0.0.7", 8080, "/devices?id=3")),
        ("wss://lamp.example:8443/a", Address("wss", "lamp.example", 8443, "/a")),
        ("tcp://[::1]:9000", Address("tcp", "::1", 9000)),
        ("tls://[::1]:9000", Address("tls", "::1", 9000)),
        ("unix:/run/lamp.sock", Address("unix", path="/run/lamp.sock")),
        ("unix:lamp socket?", Address("unix", path="lamp socket?")),
    ],
)
def test_an_address_is_read_and_written_alike(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert str(address) == url


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("ws://localhost", "ws://localhost:80"),
        ("wss://lamp.example/a?b", "wss://lamp.example:443/a?b"),
        ("WS://localhost:81/", "ws://localhost:81"),
        ("unix:///run/lamp.sock", "unix:/run/lamp.sock"),
    ],
)
def test_what_an_address_leaves_out_has_a_default(url: str, whole: str) -> None:
    assert str(Address.parse(url)) == whole


@pytest.mark.parametrize("argv", [["demo"], ["echo", "ws://127.0.0.1:0"], ["call", "ws://127.0.0.1:1", STATUS]])
def test_without_the_library_it_says_what_to_install(
    argv: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert main(argv) == Exit.FAILED
    assert 'pip install "psession[websocket]"' in complaint(capsys)


# ----------------------------------------------------------------------------------------------------------- echo, call
def test_a_call_is_answered_by_echo(echo_url: str) -> None:
    assert finish(start("call", echo_url, '{"a": "ü", "list": [1, null]}')) == (
        0,
        '{"a":"ü","list":[1,null]}\n',
        "",
    )


def test_the_message_may_come_from_standard_input(
    echo_url: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}\n')))
    assert main(["call", echo_url, "-", "--sid-name", "number", "--timeout", "inf"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_a_reply_is_json_whatever_characters_the_output_has(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="ascii"))
    with peer(repeat_once) as port:
        assert main(["call", f"tcp://127.0.0.1:{port}", '{"a": "ü"}']) == 0
    assert json.loads(output.getvalue()) == {"a": "ü"}


def test_echo_survives_garbage_and_resets(echo_url: str) -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for garbage in (b"", b"\xff\x00\r\n\r\n", b"[1]\n", upgrade, upgrade + b"\r\n", upgrade + key + b"\xff" * 500):
        for reset in (False, True):
            with connect(echo_url) as connection:
                connection.sendall(garbage)
                if reset:  # close() then sends RST
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert finish(start("call", echo_url, STATUS))[0] == 0


def test_echo_goes_on_serving_a_client_while_others_reset() -> None:
    with echoing("tcp://127.0.0.1:0") as (url, process):
        with connect(url) as patient:
            for number in range(20):
                with connect(url) as rude:  # reset before its task has looked at it, and with a question on its way
                    rude.sendall(b'{"sid":1}\n' * (number % 2))
                    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                patient.sendall(b'{"sid":%d}\n' % (number + 1))
                assert patient.recv(4096) == b'{"sid":%d}\n' % (number + 1)
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0


def test_echo_answers_any_number_and_skips_what_is_no_message() -> None:
    with echoing("tcp://localhost:0") as (url, process):
        with connect(url) as connection:
            connection.sendall(b'{"sid":70000}\nnonsense\n[1]\n{"sid":"5"}\n{"hello":true}\n')
            connection.shutdown(socket.SHUT_WR)
            answer = read_on(connection)
        process.send_signal(signal.SIGTERM)
        code, _, err = finish(process)
    assert answer == b'{"sid":70000}\n{"sid":"5"}\n{"hello":true}\n'
    assert (code, err.count("\n")) == (0, 1)
    assert "a message was skipped: not JSON" in err


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.OK)])
def test_a_signal_ends_echo_cleanly_while_a_client_is_connected(
    scheme: str, number: signal.Signals, status: Exit
) -> None:
    with echoing(f"{scheme}://127.0.0.1:0") as (url, process), connect(url):
        process.send_signal(number)
        assert finish(process) == (status, "", "")


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
def test_echo_says_when_it_cannot_listen(scheme: str, capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert main(["echo", f"{scheme}://127.0.0.1:{port}"]) == Exit.CONNECTION
    assert complaint(capsys) == f"cannot listen on {scheme}://127.0.0.1:{port}: address already in use"


# ---------------------------------------------------------------------------------------------------- a call that fails
@pytest.mark.parametrize("text", ["[1]", "nonsense", "{", "", '{"a": NaN}', '{"a": "\udcff"}'])
def test_a_message_that_is_no_json_object_is_not_sent(text: str, capsys: Captured) -> None:
    assert main(["call", "tcp://127.0.0.1:1", text]) == Exit.MESSAGE
    assert 'MESSAGE must be a JSON object, such as {"command": "status"}' in complaint(capsys)


@pytest.mark.parametrize("size", [2_000_000, 2**20])
def test_a_message_that_is_too_large_is_refused_before_it_connects(
    size: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"a": "x" * size})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for given in ("-", text):
        assert main(["call", "tcp://127.0.0.1:1", given]) == Exit.USAGE
        assert complaint(capsys) == "MESSAGE is too large: more than 1048576 bytes, which is the most it may have"


def test_a_message_that_is_too_large_with_its_number_is_not_sent(capsys: Captured) -> None:
    came: list[bytes] = []
    with peer(lambda connection: came.append(read_on(connection))) as port:
        text = json.dumps({"a": "x" * (2**20 - 12)}, separators=(",", ":"))
        assert main(["call", f"tcp://127.0.0.1:{port}", text]) == Exit.USAGE
    assert complaint(capsys).startswith("MESSAGE is too large: ")
    assert came == [b""]


def test_a_large_message_on_standard_input_is_refused_in_one_line_in_a_process_of_its_own() -> None:
    process = start("call", "tcp://127.0.0.1:1", "-", stdin=subprocess.PIPE)
    out, err = process.communicate(json.dumps({"a": "x" * 2_000_000}), timeout=LIMIT)
    assert (process.returncode, out, err.count("\n")) == (Exit.USAGE, "", 1)
    assert "more than 1048576 bytes" in err


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
def test_a_refused_connection_is_told_in_one_line(scheme: str, capsys: Captured) -> None:
    assert main(["call", f"{scheme}://127.0.0.1:{free_port()}", STATUS]) == Exit.CONNECTION
    assert complaint(capsys).endswith(": connection refused")


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
def test_a_host_name_that_cannot_be_is_told_in_one_line(scheme: str, capsys: Captured) -> None:
    assert main(["call", f"{scheme}://no..host:1", STATUS]) == Exit.CONNECTION
    assert "cannot connect to" in complaint(capsys)


def test_silence_is_a_timeout_after_every_attempt(capsys: Captured) -> None:
    came: list[bytes] = []
    with peer(lambda connection: came.append(read_on(connection))) as port:
        patience = ["--timeout", "0.05", "--retry-count", "2", "--retry-interval", "0.01"]
        assert main(["call", f"tcp://127.0.0.1:{port}", '{"a": 1}', *patience]) == Exit.TIMEOUT
    told = re.search(r"\(3 attempts, ([\d.]+) s\)", complaint(capsys))
    assert told is not None
    assert 0.17 <= float(told[1]) < 2  # a busy machine is late
    assert came[0] == b'{"a":1,"sid":1}\n' * 3


def test_replies_that_are_no_messages_are_counted_in_the_complaint(capsys: Captured) -> None:
    def mumble(connection: socket.socket) -> None:
        connection.sendall(b"nonsense\n\xff\n")
        read_on(connection)

    with peer(mumble) as port:
        assert main(["call", f"tcp://127.0.0.1:{port}", STATUS, "--timeout", "0.1"]) == Exit.TIMEOUT
    assert complaint(capsys).endswith("2 came that are no message")


def test_a_connection_that_is_lost_is_told_at_once(capsys: Captured) -> None:
    with peer(lambda connection: None) as port:
        assert main(["call", f"tcp://127.0.0.1:{port}", STATUS, "--timeout", "60"]) == Exit.CONNECTION
    complaint(capsys)


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answered HTTP 404"), (b"", "no WebSocket handshake")],
)
def test_who_is_no_websocket_server_is_told_in_one_line(answer: bytes, told: str, capsys: Captured) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)
        read_on(connection)

    with peer(serve) as port:
        assert main(["call", f"ws://127.0.0.1:{port}", STATUS, "--timeout", "0.3"]) == Exit.CONNECTION
    assert told in complaint(capsys)


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
def test_ctrl_c_in_the_middle_of_a_call_is_status_130(scheme: str) -> None:
    asked = threading.Event()

    def listen(connection: socket.socket) -> None:
        if scheme == "ws":
            accept_websocket(connection)
        connection.recv(4096)
        asked.set()
        read_on(connection)

    with peer(listen) as port:
        process = start("call", f"{scheme}://127.0.0.1:{port}", STATUS, "--timeout", "60")
        assert asked.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        assert finish(process) == (130, "", "")


def test_closed_standard_output_is_told_in_one_line() -> None:
    with peer(repeat_once) as port:
        process = start("call", f"tcp://127.0.0.1:{port}", STATUS, stdout=None, preexec_fn=lambda: os.close(1))
        assert finish(process)[::2] == (Exit.FAILED, "psession: standard output is closed\n")


def test_full_standard_output_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full, peer(repeat_once) as port:
        code, _, err = finish(start("call", f"tcp://127.0.0.1:{port}", STATUS, stdout=full))
    assert (code, err.count("\n")) == (Exit.FAILED, 1)
    assert "No space left on device" in err
