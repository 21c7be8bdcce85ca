"""The rules of the house that a program can check: who may import what, how long a file is, what must be explained."""

import ast
import graphlib
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import psession

PACKAGE = Path(psession.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
PURE = [
    "envelope.py",
    "errors.py",
    "_backoff.py",
    "_bucket.py",
    "_ending.py",
    "_ids.py",
    "_idle.py",
    "_options.py",
    "_parts.py",
    "_retry.py",
    "_rules.py",
    "_statistics.py",
    "_taken.py",
    "channels/_framings.py",
    "testing/_fate.py",
    "testing/_flight.py",
    "testing/_odds.py",
]
IMPURE = {"anyio", "logging", "random", "socket", "time", "trio"}
LONGEST_FILE = 420  # at 400 lines a file is asked what its second noun is; the rest is for finishing the thought


def module_name(room: str) -> str:
    """The dotted name of a source file: `channels/__init__.py` is `psession.channels`."""
    return ".".join(["psession", *room.removesuffix(".py").split("/")]).removesuffix(".__init__")


MODULES = {module_name(room): room for room in SOURCES}
PUBLIC = [module for module in MODULES if not any(part.startswith("_") for part in module.split("."))]


def parse(room: str) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(SOURCES[room].read_text(encoding="utf-8"), room)


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of the tree but what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_run_time(node)


def imports(room: str) -> set[str]:
    """The dotted names that a source file imports when it runs, relative ones made absolute.

    `from a import b` counts as `a.b`: only `MODULES` can tell a module `b` from a name in `a`.
    """
    package = module_name(room) if room.endswith("__init__.py") else module_name(room).rpartition(".")[0]
    names: set[str] = set()
    for node in at_run_time(parse(room)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, [above, node.module]))
            names.update(f"{source}.{alias.name}" for alias in node.names)
    return names


def imported_modules(room: str) -> set[str]:
    """Which of our modules a source file imports."""
    names = imports(room)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names if name.startswith("psession")}


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_cannot_do_io(room: str) -> None:
    assert not {name.partition(".")[0] for name in imports(room)} & IMPURE


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_stands_on_pure_rooms_alone(room: str) -> None:
    assert imported_modules(room) <= {module_name(pure) for pure in PURE}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: imported_modules(room) - {module} for module, room in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # the error names the circle


@pytest.mark.parametrize("room", SOURCES)
def test_a_file_holds_one_noun(room: str) -> None:
    assert len(SOURCES[room].read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("room", SOURCES)
def test_who_catches_everything_raises_it_again(room: str) -> None:
    broad = {"", "BaseException", "trio.Cancelled", "Cancelled"}
    handlers = [node for node in ast.walk(parse(room)) if isinstance(node, ast.ExceptHandler)]
    swallowing = [
        handler.lineno
        for handler in handlers
        if (ast.unparse(handler.type) if handler.type else "") in broad
        and not any(isinstance(node, ast.Raise) for node in ast.walk(handler))
    ]
    assert swallowing == []


@pytest.mark.parametrize("room", SOURCES)
def test_nothing_leans_on_what_trio_keeps_private(room: str) -> None:
    used = {ast.unparse(node) for node in ast.walk(parse(room)) if isinstance(node, ast.Attribute)} | imports(room)
    names = {name for name in used if name.split(".")[0] == "trio"}
    assert {name for name in names if "._" in name or name.endswith("spawn_system_task")} == set()


@pytest.mark.parametrize("module", PUBLIC)
def test_everything_public_says_what_it_is(module: str) -> None:
    imported = importlib.import_module(module)
    assert imported.__doc__
    undocumented = [name for name in imported.__all__ for name in undocumented_in(name, getattr(imported, name))]
    assert undocumented == []


def undocumented_in(name: str, value: object) -> list[str]:
    """The names in a public class or function that have no docstring; a dataclass's own signature is none."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return []
    missing = [] if value.__doc__ and not value.__doc__.startswith(f"{name}(") else [name]
    if inspect.isclass(value):
        members = {key: member for key, member in vars(value).items() if not key.startswith("_")}
        methods = {key for key, member in members.items() if inspect.isroutine(member) or isinstance(member, property)}
        missing += [f"{name}.{key}" for key in sorted(methods) if not inspect.getdoc(getattr(value, key))]
    return missing
