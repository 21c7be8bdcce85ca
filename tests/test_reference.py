"""The reference: it has every public name and every option, and no signature names what is hidden."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import psession
from psession import PortOptions, Session, SessionManager

if TYPE_CHECKING:
    from types import ModuleType

DOCS = Path(__file__).parent.parent / "docs"
SOURCES = Path(psession.__file__).parent
MODULES = ["psession", "psession.channels", "psession.dialects", "psession.hooks", "psession.opentelemetry"]
MODULES += ["psession.brokers.mqtt", "psession.brokers.nats", "psession.fleet"]
MODULES += ["psession.inspector", "psession.prometheus", "psession.testing"]
DIRECTIVE = re.compile(r"^\.\. auto(?:class|exception|function|data):: (\w+)(?:\(\))?$", re.MULTILINE)
FOR_TYPE_CHECKERS = {"Ask", "Reply", "T", "Function", "ChannelT"}
"""Type variables: nobody imports them."""
INTERNAL = {
    "Account",
    "Backoff",
    "Flight",
    "Inbox",
    "Outgoing",
    "Watched",
}  # of methods of Budget, Retry, Nats and Mqtt that are psession's own, and not on the page


def page_of(module: str) -> Path:
    """The page of a module."""
    return DOCS / "reference" / f"{module.rpartition('.')[2]}.md"


@pytest.fixture(scope="module")
def rendering() -> ModuleType:
    """docs/render_options.py."""
    spec = importlib.util.spec_from_file_location("render_options", DOCS / "render_options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_the_page_of_its_module_once(module: str) -> None:
    named = DIRECTIVE.findall(page_of(module).read_text(encoding="utf-8"))
    public = set(importlib.import_module(module).__all__)
    elsewhere = set(psession.__all__) if module == "psession.dialects" else set[str]()  # which has two of them too
    assert sorted(named) == sorted(public - elsewhere)


# -- the table of options ----------------------------------------------------------------------------------------------


def test_the_table_is_what_the_code_says(rendering: Any) -> None:
    page = rendering.PAGE.read_text(encoding="utf-8")
    assert rendering.updated(page) == page, "run docs/render_options.py"


def test_the_table_has_every_option_that_a_call_of_any_level_takes(rendering: Any) -> None:
    rows = set(re.findall(r"^\| \[`(\w+)`\]", "\n".join(rendering.table()), re.MULTILINE))
    taken = {
        name
        for functions in rendering.LEVELS.values()
        for function in functions.values()
        for name in rendering.keywords(function)
    }
    long = {short: name for name, short in rendering.SHORT.items()}
    assert {long.get(name, name) for name in taken} == rows
    assert rows > PortOptions.__annotations__.keys()


async def test_each_level_takes_what_the_table_says_and_nothing_else(rendering: Any) -> None:
    async with SessionManager(lambda message: None, dialect=psession.Exact()).port("p") as port:
        for name in rendering.meanings():
            for level, call in [
                ("manager", SessionManager),
                ("port", lambda **o: SessionManager(print).port("q", **o)),
            ]:
                accepted = rendering.cell(level, name) == "✓"
                assert takes(call, name) is accepted, (level, name)
            short = rendering.SHORT.get(name, name)
            assert takes(port.session, short) is bool(rendering.cell("session", name)), name
            with port.create() as session:
                for method in ("send", "stream"):
                    given = rendering.cell("call", name)
                    accepted = bool(given) and (f"`{method}`" in given or given in ("✓", f"`{short}`"))
                    assert takes(lambda method=method, **o: started(session, method, o), short) is accepted, (
                        method,
                        name,
                    )


def started(session: Session, method: str, options: dict[str, Any]) -> None:
    """Call a method of a session, and do no more with what it gives."""
    made = getattr(session, method)({}, **options)
    if inspect.iscoroutine(made):
        made.close()


def takes(call: Any, name: str) -> bool:
    """True if it takes an argument of that name, as ``None``: "what the next one up says"."""
    try:
        call(**{name: None})
    except TypeError as error:
        if name not in str(error):
            raise
        return False
    return True


# -- what a signature names --------------------------------------------------------------------------------------------


@functools.cache
def defined() -> frozenset[str]:
    """The names of all classes and aliases at the top of psession's modules."""
    names = set[str]()
    for path in SOURCES.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names.add(node.targets[0].id)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return frozenset(names)


def annotations_of(thing: Any, *, is_made: bool = True) -> set[str]:
    """The names in the annotations of a function; of a class those of what is public in it, and of its constructor."""
    texts, functions = list[str](), [thing]
    if inspect.isclass(thing):
        texts += [str(said) for name, said in getattr(thing, "__annotations__", {}).items() if name[0] != "_"]
        functions = [value for name, value in vars(thing).items() if name[0] != "_" or (name == "__init__" and is_made)]
    for given in functions:
        function = inspect.unwrap(given.fget if isinstance(given, property) else getattr(given, "__func__", given))
        texts += map(str, getattr(function, "__annotations__", {}).values())
    return {name for text in texts for name in re.findall(r"(?<![\w.'\"])[A-Z]\w*", text)}


@pytest.mark.parametrize("module", MODULES)
def test_what_a_public_signature_names_is_public(module: str) -> None:
    public = {name for known in MODULES for name in importlib.import_module(known).__all__}
    page = "".join(page_of(known).read_text(encoding="utf-8") for known in MODULES)
    ours, hidden = defined() - public - FOR_TYPE_CHECKERS - INTERNAL, list[tuple[str, str]]()
    for name in importlib.import_module(module).__all__:
        thing = getattr(importlib.import_module(module), name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            is_made = f"autoclass:: {name}()" not in page  # "()" there: users get one, and do not make it
            hidden += [(name, part) for part in annotations_of(thing, is_made=is_made) & ours]
    assert hidden == []


def test_the_check_of_signatures_sees_what_they_name() -> None:
    assert {"PortOptions", "Sender"} <= annotations_of(SessionManager)
    assert {"PortOptions", "Sender"} <= defined()
    assert "Codec" in annotations_of(psession.channels.lines)
