"""Child processes: what passes through their pipes, how their end is told, and that nothing of them is left."""

import contextlib
import errno
import logging
import math
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from psession import PortClosedError, SessionManager
from psession.channels import FramedChannel, ProcessChannel, _process, lines, process, reconnecting
from psession.testing import check_channel

LIMIT = 20.0
"""Seconds that no test here takes."""


def python(code: str, *arguments: str) -> list[str]:
    """The command that runs this code, in an interpreter that starts fast."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


ECHO = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line); sys.stdout.flush()"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('{}', flush=True); time.sleep(60)"
SLEEPING = "import time; print('{}', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Any:
    """No child, dead or alive, and no open pipe."""
    before = open_files()
    yield
    assert open_files() - before == set()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def open_files() -> set[str]:
    """The pipes, sockets and process descriptors that this process has open, by their names in ``/proc``."""
    links: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/self/fd/{number}"))
    return {link for link in links if link.startswith(("pipe:", "socket:", "anon_inode:[pidfd]"))}


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_a_port_asks_a_child_and_is_answered() -> None:
    async with (
        process(python(ECHO)) as channel,
        SessionManager(session_timeout=LIMIT).port("child", channel) as port,
    ):
        assert [await port.request({"n": n}) for n in range(3)] == [{"n": n} for n in range(3)]
    assert channel.process.returncode == 0


COUNTING = """
import sys
while header := sys.stdin.buffer.readline():
    length = int(header.split()[1])
    sys.stdin.buffer.readline()
    body = sys.stdin.buffer.read(length)
    sys.stdout.buffer.write(b"Content-Type: x; charset=utf-8\\r\\n%b\\r\\n%b" % (header, body))
    sys.stdout.flush()
"""


async def test_framing_and_codec_are_to_be_chosen() -> None:
    async with process(python(COUNTING), framing="content_length", codec="msgpack") as channel:
        for n in range(3):
            await channel.send({"n": n})
            assert await channel.receive() == {"n": n}


async def test_options_of_the_process_are_passed_on(tmp_path: Path) -> None:
    code = "import json, os; print(json.dumps({'cwd': os.getcwd(), 'lamp': os.environ['LAMP']}))"
    async with process(python(code), cwd=tmp_path, env={"LAMP": "on"}) as channel:
        assert await channel.receive() == {"cwd": str(tmp_path), "lamp": "on"}


RELAY = """
import os, socket, sys, threading
link = socket.socket(fileno=int(sys.argv[1]))

def carry(read, write):
    try:
        while data := read(65536):
            while data:
                data = data[write(data):]
    except OSError:
        pass
    os._exit(0)

threading.Thread(target=carry, args=(link.recv, lambda data: os.write(1, data))).start()
carry(lambda size: os.read(0, size), link.send)
"""


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[ProcessChannel, FramedChannel]]:
    """A channel to a child, and the socket to which the child carries all that passes."""
    near, far = socket.socketpair()
    async with lines(trio.SocketStream(trio.socket.from_stdlib_socket(near)), close_timeout=0.05) as right:
        with far:
            child = process(python(RELAY, str(far.fileno())), grace=0.2, pass_fds=[far.fileno()])
            left = await child.__aenter__()
        try:
            yield left, right
        finally:
            with trio.CancelScope(shield=True):
                await right.aclose()
            await child.__aexit__(None, None, None)


async def test_a_child_keeps_the_contract() -> None:
    def padded(number: int, text: str) -> dict[str, Any]:  # so that 1,000 are more than a pipe holds
        return {"number": number, "text": text, "more": "x" * 200}

    await check_channel(relayed, make_message=padded)


# -- the child ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["", "\nsys.exit(3)"], ids=["status 0", "status 3"])
async def test_the_end_comes_after_all_that_the_child_wrote(code: str) -> None:
    async with process(python(f"import sys\nfor n in range(20000): print('{{\"n\":%d}}' % n){code}")) as channel:
        for n in range(20000):
            assert await channel.receive() == {"n": n}
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError if code else trio.EndOfChannel):
                await channel.receive()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", r"^'.*python[^']*' \(process \d+\) ended with status 3$"),
        ("raise SystemExit('out of\\x1b oil')", r"status 1; the end of its standard error:\n  \| out of\\x1b oil$"),
        (
            "1 / 0",
            r"status 1; .*standard error:\n  \| Traceback .*\n(  \| .*\n)*  \| ZeroDivisionError: division by zero$",
        ),
        ("import os; os.kill(os.getpid(), 9)", r"was killed by SIGKILL$"),
        ("import os; os.kill(os.getpid(), 40)", r"was killed by signal 40$"),
        ("import os; print('{', end='', flush=True); os._exit(4)", r"ended with status 4$"),
    ],
)
async def test_the_error_says_how_the_child_ended_and_what_it_said_last(code: str, says: str) -> None:
    async with process(python(code), stderr="keep") as channel:
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await channel.receive()
            assert re.search(says, str(caught.value))


async def test_a_child_that_ends_with_status_0_inside_a_message_breaks_the_channel() -> None:
    async with process(python("print('{', end='')")) as channel:
        with pytest.raises(trio.BrokenResourceError, match="ended inside a message: 1 bytes came"):
            await channel.receive()


async def test_a_send_to_a_child_that_is_gone_says_how_it_ended() -> None:
    async with process(python("import sys; sys.stdin.readline(); sys.exit('no more')"), stderr="keep") as channel:
        await channel.send({})
        await channel.process.wait()
        with pytest.raises(trio.BrokenResourceError, match=r"status 1; .*\n  \| no more"):
            await channel.send({})
        with pytest.raises(trio.BrokenResourceError):
            await channel.send({})


async def test_everybody_who_waits_under_a_port_learns_of_the_death_at_once() -> None:
    took = math.inf
    for _ in range(5):  # the machine may be busy
        took = min(took, await death_of_a_child_with_ten_turns())
        if took < 0.05:
            break
    assert took < 0.05


async def death_of_a_child_with_ten_turns() -> float:
    """Seconds from the death of a child to the last of ten errors."""
    errors: list[PortClosedError] = []
    code = "import os, time; os.write(2, b'oil is low\\n'); print('{}', flush=True); time.sleep(60)"

    async def ask(port: Any) -> None:
        with pytest.raises(PortClosedError) as caught:
            await port.request({"n": 1})
        errors.append(caught.value)

    alive = trio.Event()
    async with (
        process(python(code), stderr="keep") as channel,
        SessionManager(session_timeout=LIMIT, on_message=lambda _: alive.set()).port("child", channel) as port,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask, port)
            await alive.wait()
            start = trio.current_time()
            channel.process.kill()
        took = trio.current_time() - start
    assert len({id(error) for error in errors}) == 10
    for error in errors:
        assert isinstance(error.__cause__, trio.BrokenResourceError)
        assert re.search(r"was killed by SIGKILL; .*\n  \| oil is low$", str(error.__cause__))
    return took


async def test_a_process_that_holds_the_pipes_of_a_dead_child_open_holds_nobody_up() -> None:
    code = """
import os, sys, time
if child := os.fork():
    print('{"pid":%d}' % child, flush=True)
    sys.stdin.readline()
    print('{"last":1}', flush=True)
    os._exit(5)
time.sleep(60)
"""
    async with process(python(code), stderr="keep") as channel:
        other = (await channel.receive())["pid"]
        try:
            await channel.send({})
            assert await channel.receive() == {"last": 1}
            with trio.fail_after(2):
                with pytest.raises(trio.BrokenResourceError, match="status 5"):
                    await channel.receive()
                with pytest.raises(trio.BrokenResourceError, match="status 5"):
                    await channel.send({})
        finally:
            os.kill(other, signal.SIGKILL)


async def test_a_sender_that_waits_is_woken_when_the_child_dies_though_its_pipe_stays_open() -> None:
    code = """
import os, time
if child := os.fork():
    print('{"pid":%d}' % child, flush=True)
time.sleep(60)
"""
    async with process(python(code), max_message_bytes=math.inf) as channel:
        other = (await channel.receive())["pid"]
        try:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def flood() -> None:
                    with pytest.raises(trio.BrokenResourceError, match="SIGKILL"):
                        await channel.send({"text": "x" * 1_000_000})

                await trio.testing.wait_all_tasks_blocked()
                channel.process.kill()
        finally:
            os.kill(other, signal.SIGKILL)


@pytest.mark.parametrize(
    ("closes", "use", "error", "says"),
    [
        (1, lambda channel: channel.receive(), trio.EndOfChannel, None),
        (0, lambda channel: channel.send({}), trio.BrokenResourceError, r"\(process \d+\) closed its standard input"),
    ],
)
async def test_a_child_that_closes_a_pipe_and_goes_on_is_not_waited_for(
    closes: int, use: Callable[[Any], Any], error: type[Exception], says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "EXIT_SECONDS", 0.02)
    code = f"import os, time; os.close({closes}); os.write(2, b'!'); time.sleep(60)"
    told = trio.Event()
    async with process(python(code), stderr=lambda _: told.set(), grace=0) as channel:
        await told.wait()
        with pytest.raises(error, match=says):
            await use(channel)
        assert channel.process.returncode is None


# -- standard error ----------------------------------------------------------------------------------------------------


async def test_standard_error_is_passed_on_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    async with process(python("import sys; sys.exit('oil is low')")) as channel:
        with pytest.raises(trio.BrokenResourceError, match=r"status 1$"):
            await channel.receive()
        assert channel.stderr == b""
    assert capfd.readouterr().err == "oil is low\n"


async def test_no_more_than_the_end_of_standard_error_is_kept() -> None:
    code = "import sys; sys.stderr.write('x' * 1_000_000 + 'the end'); sys.exit(1)"
    async with process(python(code), stderr="keep", max_stderr_bytes=10) as channel:
        with pytest.raises(trio.BrokenResourceError, match=r"\| xxxthe end$"):
            await channel.receive()
        assert channel.stderr == b"xxxthe end"


async def test_a_function_gets_standard_error_as_it_comes_and_its_end_is_kept() -> None:
    got: list[bytes] = []
    async with process(python("import sys; sys.exit('oil is low')"), stderr=got.append) as channel:
        with pytest.raises(trio.BrokenResourceError, match=r"\| oil is low$"):
            await channel.receive()
    assert b"".join(got) == b"oil is low\n"


async def test_a_function_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fail(data: bytes) -> None:
        raise KeyError("oops")

    code = "import os, sys, time\nfor n in range(20):\n    os.write(2, b'x'); time.sleep(0.002)\nprint('{}')"
    async with process(python(code), stderr=fail) as channel:
        assert await channel.receive() == {}
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        assert len(channel.stderr) == 20
    assert 1 <= len([record for record in caplog.records if record.exc_info]) <= 3
    assert "the function that takes the standard error of" in caplog.text


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_a_child_that_ends_when_its_input_ends_is_waited_for() -> None:
    code = "import sys; sys.stdin.read(); print('x' * 1_000_000); sys.exit(7)"
    async with process(python(code), grace=LIMIT) as channel:
        pass
    assert channel.process.returncode == 7, "it was neither killed nor cut off while it wrote its last megabyte"


async def test_a_child_that_does_not_end_is_told_to_after_half_of_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async with process(python(SLEEPING), grace=1) as channel:
        await channel.receive()
        start = trio.current_time()
    assert 0.5 <= trio.current_time() - start < 1
    assert channel.process.returncode == -signal.SIGTERM
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_child_that_does_not_listen_is_killed_after_all_of_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async with process(python(STUBBORN), grace=0.2) as channel:
        await channel.receive()
        start = trio.current_time()
    assert 0.2 <= trio.current_time() - start < LIMIT
    assert channel.process.returncode == -signal.SIGKILL
    assert re.search(r"\(process \d+\) was killed: it did not end in 0\.2 s \(grace\)", caplog.text)


async def test_without_grace_a_child_is_killed_at_once() -> None:
    async with process(python(STUBBORN), grace=0) as channel:
        await channel.receive()
        start = trio.current_time()
    assert trio.current_time() - start < LIMIT
    assert channel.process.returncode == -signal.SIGKILL


async def test_cancelled_a_child_is_told_to_end_at_once() -> None:
    with trio.CancelScope() as scope:
        async with process(python(SLEEPING), grace=LIMIT) as channel:
            await channel.receive()
            start = trio.current_time()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - start < LIMIT / 4
    assert channel.process.returncode == -signal.SIGTERM


async def test_cancelled_a_child_that_does_not_listen_is_killed_in_time() -> None:
    with trio.CancelScope() as scope:
        async with process(python(STUBBORN), grace=0.1) as channel:
            await channel.receive()
            scope.cancel()
    assert channel.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("passes", range(12))
async def test_nothing_is_left_of_a_child_that_is_cancelled_while_it_starts(passes: int) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            async with process(python(SLEEPING), grace=0.2):
                await trio.sleep_forever()


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with process(python(SLEEPING), grace=0.01):
            raise error
    assert caught.value is error


async def test_leaving_is_no_error_however_the_child_ended() -> None:
    async with process(python("raise SystemExit(3)")) as channel:
        await channel.process.wait()


def interrupted(code: str, *, again: bool) -> ProcessChannel:
    """Run a child, raise SIGINT in the body, or once more while the child is being ended."""
    seen: list[ProcessChannel] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery, process(python(code), grace=2 * LIMIT) as channel:
            seen.append(channel)
            await channel.receive()
            if again:
                nursery.start_soon(once_more)
            else:
                signal.raise_signal(signal.SIGINT)

    async def once_more() -> None:
        await trio.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - it is looked into below
            trio.run(main)
    finally:
        signal.signal(signal.SIGINT, handler)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, KeyboardInterrupt)
    return seen[0]


def test_ctrl_c_in_the_body_ends_the_child() -> None:
    assert interrupted(SLEEPING.replace("time.sleep(60)", "input()"), again=False).process.returncode == 1


def test_ctrl_c_while_a_child_is_being_ended_ends_it_at_once() -> None:
    assert interrupted(SLEEPING, again=True).process.returncode in (-signal.SIGTERM, -signal.SIGKILL)


# -- starting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "options", "kind", "says"),
    [
        (["no-such-lamp", "--stdio"], {}, FileNotFoundError, "cannot start 'no-such-lamp': No such file or directory"),
        ([b"/dev/null"], {}, PermissionError, "cannot start '/dev/null': Permission denied"),
        ([Path("/no/lamp")], {}, FileNotFoundError, "cannot start '/no/lamp'"),
        ([sys.executable], {"cwd": "/no/folder"}, FileNotFoundError, "No such file or directory: '/no/folder'"),
        ("lamp --stdio", {}, TypeError, r'command must be a list, such as \["lamp", "--stdio"\], not \'lamp --stdio\''),
        (Path("lamp"), {}, TypeError, "command must be a list"),
        ([], {}, ValueError, "command must name a program"),
        (["lamp"], {"stderr": "drop"}, ValueError, 'stderr must be "pass", "keep" or a function'),
        (["lamp"], {"grace": -1}, ValueError, "grace must be 0 or more seconds"),
        (["lamp"], {"max_stderr_bytes": 0}, ValueError, "max_stderr_bytes must be 1 or more"),
        (["lamp"], {"max_message_bytes": 0}, ValueError, "max_message_bytes must be above 0"),
        (["lamp"], {"framing": "cobs"}, ValueError, "no framing is called 'cobs'"),
        (["lamp"], {"codec": "msgpack"}, ValueError, "is binary"),
        (["lamp"], {"text": True}, TypeError, "text"),
    ],
)
async def test_a_command_that_cannot_be_started_says_why(
    command: Any, options: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        async with process(command, **options):
            raise AssertionError
    if isinstance(caught.value, OSError):
        assert caught.value.errno in (errno.ENOENT, errno.EACCES)


async def test_a_child_that_dies_is_started_again_by_reconnecting() -> None:
    code = "import os, sys; print('{\"pid\":%d}' % os.getpid(), flush=True); sys.stdin.readline(); sys.exit(1)"
    async with reconnecting(lambda: process(python(code)), first_delay=0.01) as channel:
        first = await channel.receive()
        await channel.send({})
        assert await channel.receive() != first
