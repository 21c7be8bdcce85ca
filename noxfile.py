"""Every check of the project: `nox` runs all but the benchmark, `nox -l` lists them, `nox -s tests-3.12` runs one."""

import os
import shutil
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST_PYTHON = PYTHONS[0]

ON_ALL_CORES = ("-n", "auto")
"""The suite on two cores takes half of the four minutes that it takes on one."""

nox.needs_version = ">=2025.2.9"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = bool(os.environ.get("CI"))  # elsewhere it is a warning


def group(name: str) -> tuple[str, ...]:
    """What a dependency group of pyproject.toml asks for."""
    return nox.project.dependency_groups(PYPROJECT, name)


def run_suite(session: nox.Session, *what: str) -> None:
    """Run pytest against the psession installed in the session, after making sure that it is that one."""
    where = session.run("python", "-c", "import psession; print(psession.__file__)", silent=True)
    if not where or "site-packages" not in where:
        session.error(f"the tests would run against {where}, not against what is installed")
    session.run("python", "-m", "pytest", *what, *session.posargs)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Ruff's rules and its format."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(reuse_venv=True)
def types(session: nox.Session) -> None:
    """Mypy and pyright, both strict."""
    session.install("-e", ".[all]", *group("types"))
    session.run("mypy")
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite, on each Python."""
    session.install(".[all]", *group("test"))
    run_suite(session, *ON_ALL_CORES)


@nox.session(python=OLDEST_PYTHON)
def tests_oldest(session: nox.Session) -> None:
    """The suite with the oldest dependencies that pyproject.toml admits."""
    constraints = Path(session.create_tmp()) / "oldest.txt"
    constraints.write_text("\n".join(oldest(PYPROJECT)) + "\n")
    session.install("-c", str(constraints), ".[all]", *group("test"))
    run_suite(session, *ON_ALL_CORES)


def oldest(pyproject: dict[str, Any]) -> list[str]:
    """Every `>=` of the package's own dependencies and extras, as `==`."""
    project = pyproject["project"]
    pins = []
    for requirement in map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values())):
        floors = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        if requirement.name != project["name"]:
            pins.append(f"{requirement.name}=={floors[0]}")
    return pins


@nox.session
def wheel(session: nox.Session) -> None:
    """The suite as it stands in the sdist, without src, against the wheel that was built from that sdist."""
    built = Path(session.create_tmp()) / "built"
    shutil.rmtree(built, ignore_errors=True)
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(built), silent=True)
    (sdist,), (wheel_file,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(built, filter="data")
    root = built / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(root / "src")
    session.install(f"{wheel_file}[all]", *group("test"))
    session.chdir(root)
    run_suite(session, *ON_ALL_CORES)


@nox.session
def examples(session: nox.Session) -> None:
    """The examples, over real sockets, with no more installed than a user of them has."""
    session.install(".[all]", "pytest", "pytest-trio")
    run_suite(session, "tests/test_examples.py")


@nox.session
def browser(session: nox.Session) -> None:
    """The tests that a page in a real Chromium takes part in."""
    bring_chromium(session)
    session.install(".[all]", *group("test"))
    run_suite(session, "-m", "browser")


@nox.session
def foreign(session: nox.Session) -> None:
    """The tests whose far end is a program that nobody here wrote: language servers, a debugger, QEMU and others."""
    bring(session, aria2="aria2c", mpv="mpv", qemu_system_x86="qemu-system-x86_64", redis_server="redis-server")
    bring(session, fish="fish", zsh="zsh")
    session.install(".[all]", *group("test"), *group("foreign"))
    run_suite(session, "-m", "foreign")


def bring_chromium(session: nox.Session) -> None:
    """A browser, whatever it is called here."""
    if not any(map(shutil.which, ("chromium-browser", "google-chrome"))):
        bring(session, chromium="chromium")


def bring(session: nox.Session, **programs: str) -> None:
    """Programs of Debian's, as ``package="program"`` with ``_`` for ``-`` in the package, on a machine of CI.

    Elsewhere nobody's machine is touched, and the tests skip without them.
    """
    packages = [name.replace("_", "-") for name, program in programs.items() if shutil.which(program) is None]
    if not packages:
        return
    if not (os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get")):
        session.warn(f"tests will skip for want of programs that Debian has: apt-get install {' '.join(packages)}")
        return
    session.run("apt-get", "update", "-qq", external=True)
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
    session.run(*command, external=True, env={"DEBIAN_FRONTEND": "noninteractive"}, silent=True)


@nox.session(default=False)
def attacks(session: nox.Session) -> None:
    """What hostile clients cost an honest one, and the server: figures, no test. `nox -s attacks -- --attackers 10`."""
    session.install(".[all]")
    session.run("python", "tests/attacks/field.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks, on the newest dependencies; their tables are the result. `-- --quick` only tries them."""
    session.install(".[all]", *group("bench"))
    if shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        session.warn("no nats-server here, so nats-py is left out; Debian has it: apt-get install nats-server")
    quick = ["--quick"] if "--quick" in session.posargs else []
    effort = ["--rounds", "1", "--seconds", "0.2"] if quick else []
    effort += [argument for argument in session.posargs if argument != "--quick"]
    results = Path(session.create_tmp())
    session.run("python", "benchmarks/core.py", *effort)
    for name in ("peers", "loads", "scale"):
        files = ["--json", str(results / f"{name}.json")]
        files += ["--svg", str(results / f"{name}.svg")] if name != "loads" else []
        session.run("python", f"benchmarks/{name}.py", *effort, *files, *(quick if name != "peers" else []))
    session.run("python", "benchmarks/pauses.py", *(["--sessions", "1000", "--connections", "20"] if quick else []))
    session.log(f"figures and pictures are in {results}")
