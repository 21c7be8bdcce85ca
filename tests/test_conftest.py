"""What holds for every test, tried on a suite of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ONE = 'import pytest\ndef test_it(): pytest.skip("no coffee")'
WHOLE_FILE = 'import pytest\npytest.importorskip("coffee")'
EXPECTED = "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False"


@pytest.mark.parametrize(
    ("text", "ci", "words"),
    [
        (ONE, "", "1 skipped"),
        (ONE, "true", "In CI nothing is skipped. Skipped: no coffee"),
        (WHOLE_FILE, "", "1 skipped"),
        (WHOLE_FILE, "true", "In CI nothing is skipped. Skipped: could not import 'coffee'"),
        (EXPECTED, "true", "1 xfailed"),
    ],
)
def test_in_ci_a_skip_is_a_failure(tmp_path: Path, text: str, ci: str, words: str) -> None:
    (tmp_path / "conftest.py").write_bytes(Path(__file__).with_name("conftest.py").read_bytes())
    (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # else a folder above may have settings
    command = [sys.executable, "-m", "pytest", "-rfE", "-p", "no:cacheprovider", str(tmp_path)]
    environment = os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert words in done.stdout
    assert (done.returncode in (1, 2)) is ("nothing is skipped" in words)
