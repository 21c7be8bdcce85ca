"""Programs that nobody here wrote: language servers, a debugger, and the official SDK of MCP on either side."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import PortClosedError, SessionManager
from psession.channels import process
from psession.dialects import Lsp

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.foreign
ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent
LONGEST_RUN = 90  # seconds; a language server looks through its own library first


def command(name: str, *arguments: str) -> list[str]:
    """A program that the dependency group `foreign` brings."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        pytest.skip(f"no {name} beside {sys.executable}: pip install --group foreign")
    return [str(program), *arguments]


def example(name: str) -> ModuleType:
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(f"foreign_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_said(said: str, *lines: str) -> None:
    """Each of these patterns is a line of what was printed."""
    assert [line for line in lines if not re.search(rf"^{line}$", said, re.MULTILINE)] == [], said


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (("pylsp",), r"line 4: .*(invalid syntax|E999|E901).*"),
        (("pyright-langserver", "--stdio"), r'line 4: "\(" was not closed'),
    ],
    ids=["pylsp", "pyright"],
)
async def test_a_language_server_finds_problems_and_completes(
    server: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(LONGEST_RUN):
        await example("language_server").main(command(*server))
    check_said(capsys.readouterr().out, r"the server can: .*", problem, r"os\.pa could be: .*\bpath\b.*")


async def test_a_debugger_stops_at_a_line_and_reads_variables(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("debugpy", reason="pip install --group foreign")
    with trio.fail_after(LONGEST_RUN):
        await example("debugger").main()
    check_said(
        capsys.readouterr().out,
        r"stopped at line 3 of <module>: breakpoint",
        r"watts = \[40, 60, 9\]",
        r"total = 109",
        r"lamp.*NameError.*",
    )


async def test_a_server_made_by_the_sdk_of_mcp_reports_progress_and_hears_of_giving_up(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("mcp", reason="pip install --group foreign")
    given_up = tmp_path / "given up"
    with trio.fail_after(LONGEST_RUN):
        await example("mcp_client").main([sys.executable, str(PROGRAMS / "mcp_sdk_server.py"), str(given_up)])
    check_said(
        capsys.readouterr().out,
        r"server: lamp",
        r"dim: Dim the lamp\.",
        *(rf"{n}\.?0? of 3\.?0?" for n in range(3)),
        r"at 40",
        r"no answer in 0\.5 s: given up, and the server told",
        r"tools/sing: error -32601, refused",
    )
    assert given_up.read_text() == "yes"


async def test_a_client_made_by_the_sdk_of_mcp_uses_a_server_of_ours() -> None:
    pytest.importorskip("mcp", reason="pip install --group foreign")
    server = str(ROOT / "examples" / "mcp_server.py")
    with trio.fail_after(LONGEST_RUN):
        ran = await trio.run_process(
            [sys.executable, str(PROGRAMS / "mcp_sdk_client.py"), server], capture_stdout=True, stderr=subprocess.STDOUT
        )
    check_said(
        ran.stdout.decode(),
        r"server: lamp",
        r"tools: dim status",
        r"answer: the lamp is at 7 %",
        r"prompts: MCPError no method is called 'prompts/list'.*",
        r"slow: .*[Tt]imed out.*",
        r"still there",
    )


async def test_ten_waiters_hear_at_once_that_a_server_was_killed() -> None:
    errors: list[Any] = []
    manager = SessionManager(dialect=Lsp(), session_timeout=60)
    with trio.fail_after(LONGEST_RUN):
        async with (
            process(command("pylsp"), framing="content_length", stderr="keep") as channel,
            manager.port("server", channel) as server,
            trio.open_nursery() as nursery,
        ):
            await server.request({"method": "initialize", "params": {"processId": None, "capabilities": {}}})
            channel.process.send_signal(signal.SIGSTOP)

            async def ask() -> None:
                with pytest.raises(PortClosedError) as caught:
                    await server.request({"method": "shutdown"})
                errors.append(caught.value)

            for _ in range(10):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            channel.process.kill()
    assert len({id(error) for error in errors}) == 10
    assert all("killed" in str(error).lower() or "-9" in str(error) for error in errors), str(errors[0])
