"""Write the table of all options into reference/options.md, from the code: ``python docs/render_options.py``."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from pathlib import Path
from typing import Any

from psession import Port, PortOptions, Retry, Session, SessionManager, StreamOptions, TurnOptions
from psession.options import Options
from psession.shell.stream import plan

PAGE = Path(__file__).parent / "reference" / "options.md"
BETWEEN = re.compile(r"(<!-- (\w+): begin[^>]*-->\n).*?(<!-- \2: end -->)", re.DOTALL)

SHORT = {"session_timeout": "timeout"}
"""The names of options in a session and a call, where they differ."""

KIBI, MEBI = 1024, 1024 * 1024


def keywords(function: Any) -> set[str]:
    """The names of a function's keyword arguments; those of ``**options`` by their `TypedDict`."""
    names = set[str]()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            names.add(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            told = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
            if told is None:
                raise TypeError(f"{function}: **{parameter.name} must be Unpack[...], not {parameter.annotation}")
            names |= {kind.__name__: kind for kind in (PortOptions, StreamOptions, TurnOptions)}[
                told[1]
            ].__annotations__.keys()
    return names


LEVELS = {
    "manager": {"": SessionManager.__init__},
    "port": {"": SessionManager.port, "accept": SessionManager.accept},
    "session": {"": Port.session},
    "call": {"send": Session.send, "request": Port.request, "stream": Port.stream},
}
"""The functions that take options, by level and by name; without a name the level has but one."""


def told(documented: Any, section: str = "Attributes") -> dict[str, str]:
    """What a docstring says of each name."""
    text = inspect.getdoc(documented) or ""
    entries = re.search(rf"^{section}:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    found = re.findall(r"^    (\w+): ((?:.*\n?)(?:     .*\n?)*)", entries[1] if entries else "", re.MULTILINE)
    return {name: " ".join(said.split()).replace("``", "`") for name, said in found}


def meanings() -> dict[str, str]:
    """What each option means."""
    return told(Options) | {
        name: said
        for source in (told(StreamOptions), told(Session.send, "Args"), told(SessionManager.accept, "Args"))
        for name, said in source.items()
        if name in ("total", "count", "credit", "reply_type", "hello_timeout")
    }


def defaults() -> dict[str, Any]:
    """The default of each option."""
    stream = plan(Options().patience, {})
    found = {field.name: getattr(Options(), field.name) for field in dataclasses.fields(Options)}
    found |= {"total": stream.total, "count": stream.count, "credit": stream.window, "reply_type": None}
    return found | {"hello_timeout": inspect.signature(SessionManager.accept).parameters["hello_timeout"].default}


def shown(name: str, value: Any) -> str:
    """A default, as one writes it."""
    if name.endswith("_bytes"):
        unit, size = ("MiB", MEBI) if value % MEBI == 0 else ("KiB", KIBI)
        return f"{value // size} {unit}"
    if value == Retry():
        return "`Retry()`"
    if value == math.inf:
        return "`math.inf`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value!r}`".replace("'", '"')


def cell(level: str, name: str) -> str:
    """How an option is given at a level: a tick, its name there, or the functions that alone take it."""
    short = SHORT.get(name, name) if level in ("session", "call") else name
    takers = {where for where, function in LEVELS[level].items() if short in keywords(function)}
    if not takers:
        return ""
    if takers == LEVELS[level].keys():
        return f"`{short}`" if short != name else "✓"
    return ", ".join(f"`{where}`" for where in LEVELS[level] if where in takers)


def table() -> list[str]:
    """The table: a row for each option, a column for each level."""
    rows = ["| option | default | " + " | ".join(LEVELS) + " | |", "|---" * (3 + len(LEVELS)) + "|"]
    values = defaults()
    for name, said in meanings().items():
        first = re.split(r"(?<=[.;:])\s", said)[0].rstrip(".;:")
        cells = " | ".join(cell(level, name) for level in LEVELS)
        rows.append(f"| [`{name}`](#{name}) | {shown(name, values[name])} | {cells} | {first} |")
    return rows


def details() -> list[str]:
    """A section for each option."""
    lines = list[str]()
    for name, said in meanings().items():
        lines += [f"### `{name}`", "", said, ""]
    return lines


def updated(page: str) -> str:
    """The page with the options as they are now."""
    made = {"options": table, "meanings": details}
    return BETWEEN.sub(lambda found: found[1] + "\n".join(made[found[2]]()) + "\n" + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
