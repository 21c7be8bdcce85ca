"""What docs/testing.md shows runs as it stands there, and prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psession

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIGURATION = "[pytest]\ntrio_mode = true\nfilterwarnings = error\n"
LONGEST_RUN = 60  # seconds; they take two


def run(directory: Path, *command: str, fails: bool = False) -> str:
    """What the command prints, run with this psession."""
    path = os.pathsep.join(filter(None, [str(Path(psession.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *command],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LONGEST_RUN,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == fails, done.stdout + done.stderr
    return done.stdout


def blocks() -> list[tuple[str, str]]:
    """The blocks of the page: their language and what is in them."""
    return [(found["language"], found["code"]) for found in FENCE.finditer(PAGE.read_text(encoding="utf-8"))]


TRIO = ["-p", "pytest_trio.plugin", "-p", "pytest_psession", "-p", "no:cacheprovider"]


def test_the_tests_on_the_page_pass(tmp_path: Path) -> None:
    tests = [code for language, code in blocks() if language == "python" and "def test_" in code]
    tests = [code for code in tests if "def test_fails" not in code]
    for number, code in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(code, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(CONFIGURATION, encoding="utf-8")
    assert len(tests) >= 5
    assert "passed" in run(tmp_path, "-m", "pytest", "-q", *TRIO)


def test_the_test_on_the_page_that_fails_has_the_report_on_the_page(tmp_path: Path) -> None:
    page = blocks()
    (place,) = [place for place, (_, code) in enumerate(page) if "def test_fails" in code]
    (lamp,) = [code for _, code in page if "def test_the_lamp_is_on(" in code]
    (tmp_path / "test_lamp.py").write_text(lamp + page[place][1], encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(CONFIGURATION, encoding="utf-8")
    printed = run(tmp_path, "-m", "pytest", "-q", *TRIO, "--psession-seed=11", fails=True)
    assert page[place + 1][1] in printed
    assert "1 failed, 3 passed" in printed


def test_the_program_on_the_page_prints_the_diagram_on_the_page(tmp_path: Path) -> None:
    page = blocks()
    (place,) = [place for place, (_, code) in enumerate(page) if "trio.run(main" in code]
    (tmp_path / "program.py").write_text(page[place][1], encoding="utf-8")
    assert run(tmp_path, "-W", "error", "program.py") == page[place + 1][1]
