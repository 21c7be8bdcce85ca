"""Every Python program in the README runs as a reader would run it: copied into a file, in a fresh interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import psession

README = Path(__file__).parent.parent / "README.md"
FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
LONGEST_RUN = 20  # seconds; they take less than one


def python_blocks() -> dict[str, str]:
    """The Python blocks by the line they start in, so that a failure says where to look."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    return {
        f"line {text.count(chr(10), 0, found.start()) + 2}": found["code"]
        for found in FENCE.finditer(text)
        if found["language"] == "python"
    }


def test_the_readme_has_programs() -> None:
    assert python_blocks()


@pytest.mark.parametrize("where", python_blocks())
def test_a_program_of_the_readme_runs(where: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(python_blocks()[where], encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(Path(psession.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LONGEST_RUN,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_type_checkers_see_the_service_of_the_readme_as_it_stands() -> None:
    checked = README.parent / "tests" / "typing" / "readme_service.py"
    (shown,) = [code for code in python_blocks().values() if "Service(" in code]
    assert checked.read_text(encoding="utf-8").endswith(f"\n\n{shown}")
    assert len([line for line in shown.splitlines() if line and "import" not in line]) < 30
