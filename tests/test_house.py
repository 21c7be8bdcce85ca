"""The rules of the house that a program can check: imports go downward, nothing reads another's private names."""

import ast
import functools
import graphlib
import importlib
import inspect
import re
from pathlib import Path

import pytest

import psession

PACKAGE = Path(psession.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
FLOORS = [
    ["_interrupt", "_version", "absences", "checks", "collector", "errors", "text"],
    ["budget", "hooks", "message", "nursery", "typed"],
    ["method", "service"],
    ["protocol"],
    ["dialects"],
    ["options"],
    ["_listeners", "channels"],
    ["shell"],
    ["brokers"],
    ["fleet"],
    [""],
    ["asyncio", "blocking", "inspector", "opentelemetry", "prometheus", "testing"],
    ["_cli"],
    ["__main__"],
]
"""The house from the bottom up: a room imports from its own floor and those below it. ``""`` is the package itself."""

PURE = [
    "absences.py",
    "budget.py",
    "checks.py",
    "errors.py",
    "hooks.py",
    "message.py",
    "method.py",
    "options.py",
    "service.py",
    "text.py",
    "typed.py",
    *[room for room in SOURCES if room.startswith(("protocol/", "dialects/"))],
    "channels/_content_length.py",
    "channels/_framings.py",
    *[f"brokers/nats/_{room}.py" for room in ("errors", "headers", "subjects", "wire")],
    *[f"brokers/mqtt/_{room}.py" for room in ("errors", "message", "packets", "server", "topics")],
    *[f"fleet/_{room}.py" for room in ("claims", "epochs", "errors", "flapping", "options", "presence", "words")],
    "testing/_events.py",
    "testing/_flight.py",
    "testing/_faults.py",
    "inspector/_redaction.py",
]
IMPURE = {"anyio", "logging", "os", "random", "secrets", "socket", "time", "trio"}

REACHES = {
    "shell/port.py": {"_open"},  # a port opens its own sessions by a method that the manager does not show
}
"""The private names of another object that a module may read, and why."""


def module_name(room: str) -> str:
    """The dotted name of a source file: `channels/__init__.py` is `psession.channels`."""
    return ".".join(["psession", *room.removesuffix(".py").split("/")]).removesuffix(".__init__")


MODULES = {module_name(room): room for room in SOURCES}
PUBLIC = [
    "psession",
    "psession.channels",
    "psession.channels.codecs",
    "psession.dialects",
    "psession.errors",
    "psession.hooks",
    "psession.inspector",
    "psession.prometheus",
]
PUBLIC += ["psession.asyncio", "psession.blocking"]
PUBLIC += ["psession.testing", "psession.testing.contract", "psession.testing.diagram", "psession.testing.lossy"]
PUBLIC += ["psession.brokers.mqtt", "psession.brokers.nats", "psession.fleet", "psession.testing.pairs"]


def parse(room: str) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(SOURCES[room].read_text(encoding="utf-8"), room)


@functools.cache
def imports(room: str) -> frozenset[str]:
    """The dotted names that a source file imports, also for type checkers alone, relative ones made absolute.

    `from a import b` counts as `a.b`: only `MODULES` can tell a module `b` from a name in `a`.
    """
    package = module_name(room) if room.endswith("__init__.py") else module_name(room).rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(parse(room)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, [above, node.module]))
            names.update(f"{source}.{alias.name}" for alias in node.names)
    return frozenset(names)


def imported_modules(room: str) -> set[str]:
    """Which of our modules a source file imports."""
    names = imports(room)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names if name.startswith("psession")}


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_cannot_do_io(room: str) -> None:
    assert not {name.partition(".")[0] for name in imports(room)} & IMPURE


def floor_of(module: str) -> int:
    """How high in the house a module stands."""
    name = module.removeprefix("psession").removeprefix(".").partition(".")[0]
    return next(height for height, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("room", SOURCES)
def test_imports_go_downward(room: str) -> None:
    module = module_name(room)
    allowed = floor_of(module)
    assert [other for other in imported_modules(room) if floor_of(other) > allowed] == []


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_stands_on_pure_rooms_alone(room: str) -> None:
    pure = {module_name(one) for one in PURE} | {
        "psession",
        "psession.brokers.mqtt",
        "psession.brokers.nats",
        "psession.channels",
        "psession.fleet",
        "psession.testing",
    }
    assert imported_modules(room) <= pure


def test_no_module_imports_itself_by_way_of_others_not_even_for_its_types() -> None:
    graph = {module: imported_modules(room) - {module, "psession"} for module, room in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # the error names the circle


@pytest.mark.parametrize("room", SOURCES)
def test_a_module_reads_no_private_name_of_another_object(room: str) -> None:
    """An attribute with one underscore, of anything but ``self``, ``cls`` or a class of the module, is such a name."""
    nodes = list(ast.walk(parse(room)))
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls", *own})
    }
    assert read - defined_privately(nodes) <= REACHES.get(room, set())


def defined_privately(nodes: list[ast.AST]) -> set[str]:
    """The private names that the classes of this very module define: they may read each other's of the same class."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize("room", SOURCES)
def test_nothing_but_waiting_reschedules_a_task(room: str) -> None:
    assert ("reschedule(" in SOURCES[room].read_text(encoding="utf-8")) == (room == "shell/waiting.py")


def test_nearly_every_docstring_opens_with_a_subject() -> None:
    headless, every = [], 0
    for room in SOURCES:
        for node in ast.walk(parse(room)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
                doc := ast.get_docstring(node)
            ):
                every += 1
                if re.match(r"(What|Whether|How|Who|It,|The one|As )\b", doc):
                    headless.append(f"{room}:{node.lineno}")
    assert len(headless) <= 0.02 * every, headless


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


def is_of_trio(node: ast.expr) -> bool:
    """Return True for a name in Trio, or in what is in it or comes from it."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id == "trio"


@pytest.mark.parametrize("room", SOURCES)
def test_nothing_leans_on_what_trio_keeps_private(room: str) -> None:
    used = {ast.unparse(node) for node in ast.walk(parse(room)) if isinstance(node, ast.Attribute) and is_of_trio(node)}
    names = used | {name for name in imports(room) if name.split(".")[0] == "trio"}
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
