"""The npm package of clients/js: what is in it, its types, and its README, whose programs run as a reader runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import psession

from .ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Node

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "clients" / "js"
TYPED = Path(__file__).parent / "typing" / "client.ts"
TYPESCRIPT = "typescript@5.9"
SHIPPED = {"LICENSE", "README.md", "link.js", "package.json", "protocol.js", "psession.d.ts", "psession.js"}
LIMIT = 60
"""Seconds for a command; the slowest, tsc, takes two."""

IMPURE = ["Date", "Math.random", "WebSocket", "console", "crypto", "fetch", "globalThis", "performance", "setTimeout"]
STRICT = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noEmit"]
TARGET = ["--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.asynciterable"]


def npm(node: Node, *arguments: str, cwd: Path) -> str:
    """What npm prints."""
    script = Path(node.program).parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [node.program, str(script), *arguments, "--loglevel=error", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=cwd, timeout=LIMIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifest() -> Any:
    """What package.json says."""
    return json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def installed(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's, with the package installed from what npm would publish."""
    folder = tmp_path_factory.mktemp("user")
    (packed,) = json.loads(npm(node, "pack", "--json", "--pack-destination", str(folder), cwd=CLIENT))
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    npm(node, "install", "--no-save", f"./{packed['filename']}", TYPESCRIPT, cwd=folder)
    return folder


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_the_package_has_the_modules_their_types_and_no_more(node: Node) -> None:
    (packed,) = json.loads(npm(node, "pack", "--dry-run", "--json", cwd=CLIENT))
    assert {file["path"] for file in packed["files"]} == SHIPPED


def test_the_folder_has_nothing_that_is_not_shipped() -> None:
    assert {path.name for path in CLIENT.iterdir()} == SHIPPED


def test_the_package_says_what_it_is() -> None:
    package = manifest()
    assert (package["name"], package["type"], package["license"]) == ("psession", "module", "MIT")
    assert package["version"] == psession.__version__
    assert not any("ependencies" in key for key in package)
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("module", ["psession.js", "protocol.js", "link.js"])
def test_a_module_imports_nothing_but_its_neighbours(module: str) -> None:
    text = (CLIENT / module).read_text(encoding="utf-8")
    imported = set(re.findall(r'^(?:import|export|\}) .*from "([^"]*)"', text, re.MULTILINE))
    assert imported <= {"./protocol.js", "./link.js"}
    assert "import(" not in text
    assert "require(" not in text


def test_the_machine_cannot_do_io() -> None:
    code = re.sub(r"//.*|/\*.*?\*/", "", (CLIENT / "protocol.js").read_text(encoding="utf-8"))
    assert not re.search(r"^import", code, re.MULTILINE)
    assert [name for name in IMPURE if re.search(rf"\b{re.escape(name)}\b(?!\.js|\")", code)] == []


# -- its types ---------------------------------------------------------------------------------------------------------


def test_a_typed_program_passes_and_what_would_be_wrong_does_not(node: Node, installed: Path) -> None:
    shutil.copy(TYPED, installed)
    command = [node.program, "node_modules/typescript/bin/tsc", *STRICT, *TARGET, TYPED.name]
    done = subprocess.run(command, cwd=installed, timeout=LIMIT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


NAMES = """
import * as psession from "psession";
const members = {};
for (const [name, value] of Object.entries(psession)) {
    const own = typeof value === "function" && value.prototype ? Object.getOwnPropertyNames(value.prototype) : [];
    members[name] = own.filter((one) => one !== "constructor" && one !== "name");
}
const options = await psession.connect("ws://127.0.0.1", { nonsense: 1 }).catch(({ message }) => message);
console.log(JSON.stringify({ members, options: options.split("there are ")[1].split(", ") }));
"""


@pytest.fixture(scope="session")
def names(node: Node, installed: Path) -> Any:
    """The public names that there are at run time."""
    command = [node.program, "--input-type=module", "--eval", NAMES]
    done = subprocess.run(command, cwd=installed, timeout=LIMIT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def declared(kind: str, name: str) -> set[str]:
    """The members of a class or an interface in the types."""
    text = re.sub(r"/\*.*?\*/", "", (CLIENT / "psession.d.ts").read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.search(rf"^export {kind} {name}\b[^{{]*\{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r"^    (?:readonly )?(\w+)(?:<[^>]*>)?\??[:(]", found[1], re.MULTILINE)) - {"constructor"}


def test_the_types_name_what_there_is(names: Any) -> None:
    text = (CLIENT / "psession.d.ts").read_text(encoding="utf-8")
    exported = set(re.findall(r"^export (?:class|function) (\w+)", text, re.MULTILINE))
    assert exported == names["members"].keys()
    for name in ("Port", "Session"):
        assert declared("class", name) == set(names["members"][name])
    options = declared("interface", "PortOptions") | declared("interface", "Patience")
    assert options == set(names["options"]) - {"clock", "luck"}  # which are for tests


def test_the_types_name_every_counter(node: Node) -> None:
    code = f'import {{ newCounters }} from "{CLIENT / "protocol.js"}"; console.log(JSON.stringify(newCounters()));'
    command = [node.program, "--input-type=module", "--eval", code]
    done = subprocess.run(command, timeout=LIMIT, capture_output=True, text=True, check=True)
    gauges = {"open", "incoming", "resting", "queuedBytes", "heldBytes"}
    assert declared("interface", "Statistics") == json.loads(done.stdout).keys() | gauges


# -- its README --------------------------------------------------------------------------------------------------------


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def number() -> int:
    """The port of the README's server."""
    return free_port()


@pytest.fixture
def server(installed: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    """The README's server."""
    program = installed / "server.py"
    program.write_text(blocks(CLIENT / "README.md", "python")[0].replace("8765", str(number)), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(Path(psession.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-u", "-W", "error", str(program)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_for(number)
            yield process
        finally:
            process.kill()


def wait_for(number: int) -> None:
    """Return when somebody listens there."""
    for _ in range(1000):
        with socket.socket() as tried:
            tried.settimeout(0.01)
            if tried.connect_ex(("127.0.0.1", number)) == 0:
                return
        time.sleep(0.02)  # nothing tells when another process listens
    raise AssertionError(f"nobody listens on port {number}")


def test_the_programs_of_the_readme_run(
    node: Node, installed: Path, server: subprocess.Popen[str], number: int
) -> None:
    program = installed / "client.mjs"
    program.write_text(blocks(CLIENT / "README.md", "js")[0].replace("8765", str(number)), encoding="utf-8")
    done = subprocess.run([node.program, program.name], cwd=installed, timeout=LIMIT, capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "{ status: 'on' }",
        "{ watts: 3 }",
        "{ watts: 6 }",
        "{ watts: 9 }",
        "refused.unknown this lamp knows no such command refused",
    ]
    assert server.stdout is not None
    assert server.stdout.readline() == "the peer says: {'name': 'a client that was asked who are you?'}\n"


GUIDE_SERVER = """
import trio
from psession import Exact, SessionManager
from psession.channels import serve_websocket

async def heating(session):
    async for message in session:
        if message["command"] == "queryStatus":
            reply = await session.port.request({"question": "Are you there?"})
            await session.post({"there": reply["yes"]})
        else:
            for degrees in (20, 21):
                await session.post({"degrees": degrees})

async def serve(channel):
    async with SessionManager(dialect=Exact()).accept(channel, on_session=heating, resume_within=30) as port:
        await port.wait_closed()

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0)
        print(server.port, flush=True)

trio.run(main)
"""
GUIDE_PAGE = """
globalThis.window = { confirm: (question) => question === "Are you there?" };
globalThis.draw = (degrees) => console.log(degrees);
"""


def test_the_piece_of_the_guide_runs(node: Node, installed: Path) -> None:
    (piece,) = blocks(ROOT / "docs" / "guide.md", "js")
    path = os.pathsep.join(filter(None, [str(Path(psession.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "error", "-c", GUIDE_SERVER]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"ws://127.0.0.1:{int(server.stdout.readline())}/heating"
            program = piece.replace("wss://example.org/heating", url).replace("./psession.js", "psession")
            (installed / "guide.mjs").write_text(
                f"{GUIDE_PAGE}{program}console.log(status); await port.close();", encoding="utf-8"
            )
            run = [node.program, "guide.mjs"]
            done = subprocess.run(run, cwd=installed, timeout=LIMIT, capture_output=True, text=True, check=False)
        finally:
            server.kill()
    assert (done.stdout.splitlines(), done.stderr) == (["20", "21", "{ there: true }"], "")


def test_the_pieces_of_the_readme_are_programs(node: Node, installed: Path) -> None:
    for number, block in enumerate(blocks(CLIENT / "README.md", "js")[1:]):
        piece = installed / f"piece{number}.mjs"
        piece.write_text(block, encoding="utf-8")
        subprocess.run([node.program, "--check", piece.name], cwd=installed, timeout=LIMIT, check=True)


def test_each_option_that_the_readme_names_is_one(names: Any) -> None:
    text = (CLIENT / "README.md").read_text(encoding="utf-8")
    inline = set(re.findall(r"`(\w+)(?:: [^`]*)?`", text))
    mentioned = {name for name in inline if re.match(r"(max|on[A-Z]|inbox|resume|keepalive|session[A-Z])", name)}
    assert mentioned - set(names["options"]) == {"resume_within"}  # which is Python's
