"""Ctrl-C ends the command with status 130 and no traceback, at whatever moment: real processes, real signals."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import psession
from psession._cli._address import Address
from psession._cli._url import serve_url

from .commands import LIMIT, echoing, environment, finish, start
from .peers import start_and_cancel

INTERRUPTED = 130

DELAYS = [0, 4, 16, 64, 200]
"""Milliseconds from a moment of the start-up to the signal. A command runs after 20, or 200 for all of psession."""

SCRIPT = """\
import os
import sys


class Marker:
    def find_spec(self, name, *_):
        if name == os.environ["MARKED"]:
            os.write(int(os.environ["MARK"]), b".")


sys.meta_path.insert(0, Marker())
from psession._cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""The script that an installer makes for the command. A pipe tells when a certain module is about to be imported."""

package = ast.parse(Path(psession.__file__).read_text(encoding="utf-8"))
first_import = next(node for node in package.body if isinstance(node, ast.Import | ast.ImportFrom))
guards_first = pytest.mark.skipif(
    "_interrupt" not in ast.unparse(first_import),
    reason="psession/__init__.py imports the rest of psession before _interrupt, which guards the start",
)


@contextmanager
def starting(script: Path, marked: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command as an installed script, which is about to import the module `marked`."""
    script.write_text(SCRIPT)
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() | {"MARKED": marked, "MARK": str(writing)},
            encoding="utf-8",
            pass_fds=[writing],
        )
        os.close(writing)
        assert os.read(reading, 1) == b"."
        yield process
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    "marked",
    ["psession._cli._console", pytest.param("psession._version", marks=guards_first)],
    ids=["its own modules", "the package"],
)
@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize(
    "arguments", [["echo", "tcp://127.0.0.1:0"], ["demo"], ["--version"]], ids=lambda given: given[0]
)
def test_ctrl_c_while_the_command_starts_is_status_130(
    arguments: list[str], delay: int, marked: str, tmp_path: Path
) -> None:
    with starting(tmp_path / "psession", marked, *arguments) as process:
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGINT)
        code, _, err = finish(process)
    assert (code, err) in ([(INTERRUPTED, ""), (0, "")] if arguments == ["--version"] else [(INTERRUPTED, "")])


@pytest.mark.parametrize("delay", [0, 2, 50])
def test_ctrl_c_at_the_first_line_of_the_demo_is_status_130(delay: int) -> None:
    process = start("demo")
    assert process.stdout is not None
    assert process.stdout.readline() != ""
    time.sleep(delay / 1000)
    process.send_signal(signal.SIGINT)
    assert finish(process)[::2] == (INTERRUPTED, "")


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
@pytest.mark.parametrize("delay", [0, 2, 50])
def test_ctrl_c_ends_a_listening_echo_with_status_130(delay: int, scheme: str) -> None:
    with echoing(f"{scheme}://127.0.0.1:0") as (_, process):
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGINT)
        assert finish(process) == (INTERRUPTED, "", "")


@pytest.mark.parametrize("url", ["ws://127.0.0.1:0", "tcp://127.0.0.1:0", "unix:{folder}/s"])
@pytest.mark.parametrize("passes", range(16))
async def test_a_server_is_cancelled_at_any_step_of_its_start(passes: int, url: str, socket_folder: Path) -> None:
    address = Address.parse(url.format(folder=socket_folder))
    scope = await start_and_cancel(passes, serve_url, handle, address)
    assert scope.cancelled_caught


async def handle(channel: object) -> None:
    """Nobody connects."""


def test_the_second_of_two_quick_ctrl_cs_changes_nothing() -> None:
    process = start("demo")
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert finish(process)[::2] == (INTERRUPTED, "")


def ignore_ctrl_c() -> None:
    """Do as a shell does for a command in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_process_that_was_told_to_ignore_ctrl_c_ignores_it() -> None:
    process = start("--version", preexec_fn=ignore_ctrl_c)
    process.send_signal(signal.SIGINT)
    process.wait(LIMIT)
    assert finish(process) == (0, f"psession {psession.__version__}\n", "")


def test_a_program_that_calls_the_command_keeps_its_own_handler() -> None:
    code = (
        "import signal\n"
        "from psession._cli import main\n"
        "main(['--version'])\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment(), timeout=LIMIT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
