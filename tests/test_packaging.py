"""What is shipped: what importing it costs, what the metadata say, and what must not be in the repository."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import psession

ROOT = Path(__file__).parent.parent
LOCK_FILES = {"Pipfile.lock", "package-lock.json", "pdm.lock", "poetry.lock", "pylock.toml", "uv.lock", "yarn.lock"}
REGISTRIES = [f"{name}.org" for name in ("pypi", "pythonhosted", "npmjs", "debian")]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ALWAYS_THERE = ["psession", "psession.channels", "psession.testing"]


def imported_by(*modules: str) -> set[str]:
    """The names of the top-level packages, the standard library's aside, in a fresh interpreter that imports these."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(loaded.split()) - set(sys.stdlib_module_names)


def project_files() -> list[Path]:
    """What git tracks or would; in an unpacked sdist, which has no git, everything."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        listed = subprocess.run(git, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if "__pycache__" not in path.parts]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("module", ALWAYS_THERE)
def test_importing_it_loads_trio_outcome_msgspec_and_nothing_else_from_outside(module: str) -> None:
    allowed = {"psession.testing": ["trio.testing"]}.get(module, [])  # which brings pytest along where it is there
    assert imported_by(module) - imported_by("trio", "outcome", "msgspec", *allowed) == {"psession"}


def test_the_package_says_that_it_is_typed() -> None:
    assert files("psession").joinpath("py.typed").is_file()


def test_the_version_is_the_same_in_the_package_and_its_metadata() -> None:
    assert psession.__version__ == importlib.metadata.version("psession")


def test_the_command_is_there_to_be_called() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="psession")
    assert callable(command.load())


def test_the_changelog_tells_of_this_version() -> None:
    assert f"\n## {psession.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_extra_is_in_the_extra_all_but_the_server_for_the_demo() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extras["all"] == [f"psession[{','.join(sorted(extras.keys() - {'all', 'demo'}))}]"]


def test_the_client_in_javascript_is_not_in_the_wheel() -> None:
    """It is an npm package of its own, and in the sdist, from which its tests run (nox -s wheel)."""
    installed = importlib.metadata.files("psession") or []
    assert [path for path in installed if path.suffix in {".js", ".mjs", ".ts"}] == []
    assert (ROOT / "clients" / "js" / "psession.js").is_file()


def test_the_readme_and_ci_run_the_tests_with_the_same_command() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command.endswith("nox")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def readme_on_an_index() -> str:
    """The README as the build makes it for a package index."""
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for substitution in hook["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    return text


def test_no_link_of_the_readme_on_a_package_index_leads_nowhere() -> None:
    made, readme = readme_on_an_index(), (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((?!https?:)[^)\s]*\)", CODE.sub("", readme))
    assert re.findall(r"\]\((?!https?:)[^)\s]*\)", CODE.sub("", made)) == []
    assert "](https://trio.readthedocs.io)" in made
    assert "docs/guide.md says more" in made
    assert CODE.findall(made) == CODE.findall(readme), "a program was changed"


def test_the_classifiers_tell_of_the_pythons_that_the_suite_runs_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = [line.rpartition(" ")[2] for line in project["classifiers"] if " :: Python :: 3." in line]
    (run,) = re.findall(r"^PYTHONS = \[(.*)\]$", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert told == re.findall(r"3\.\d+", run)
    assert project["requires-python"] == f">={told[0]}"


def test_there_is_no_lock_file() -> None:
    assert not LOCK_FILES & {path.name for path in project_files()}


def test_no_file_names_the_host_of_a_package_registry() -> None:
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in project_files()}
    assert [(path, host) for path, text in texts.items() for host in REGISTRIES if host in text] == []
