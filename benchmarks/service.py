"""What a `psession.Service` costs a call, against handlers written by hand. Nothing is sent.

    python benchmarks/service.py [--rounds N] [--calls N]

Microseconds of one call, the best of the rounds. "unchecked" reads the fields as they come; "checked" refuses the same
as the service does: unknown and missing arguments, and those of a wrong type.
"""

from __future__ import annotations

import argparse
from functools import partial
from timeit import repeat
from typing import TYPE_CHECKING, Any

import msgspec
from harness import markdown

from psession import Service, SessionRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

Message = dict[str, Any]

MESSAGES: dict[str, Message] = {
    "no arguments": {"command": "status"},
    "two of three arguments": {"command": "dim", "level": 40, "colour": "red"},
    "two arguments, a number as the result": {"command": "add", "a": 1, "b": 2},
    "an object as the argument": {"command": "move", "to": {"x": 1, "y": 2}},
}


class Status(msgspec.Struct):
    """An object on the wire."""

    level: int


class Place(msgspec.Struct):
    """An argument that is an object."""

    x: int
    y: int


STATUS = Status(1)
service = Service("command")


@service.method
def status() -> Status:
    """Take nothing."""
    return STATUS


@service.method
def dim(level: int, seconds: float = 0.0, colour: str = "white") -> Status:
    """Take one argument and may take two more."""
    return STATUS


@service.method
def add(a: int, b: int) -> int:
    """Return what is no object."""
    return a + b


@service.method
def move(to: Place) -> Status:
    """Take an object."""
    return STATUS


def unchecked(message: Message) -> Any:
    """Read the fields as they come."""
    command = message["command"]
    if command == "status":
        return status()
    if command == "dim":
        return dim(message["level"], message.get("seconds", 0.0), message.get("colour", "white"))
    if command == "add":
        return {"result": add(message["a"], message["b"])}
    if command == "move":
        return move(Place(message["to"]["x"], message["to"]["y"]))
    raise SessionRefusedError(f"no method is called {command!r}", code="unknown_method")


def checked(message: Message) -> Any:
    """Look at each field first."""
    command = message.get("command")
    if command == "status":
        only(message)
        return status()
    if command == "dim":
        only(message, "level", "seconds", "colour")
        seconds = float(argument(message, "seconds", int | float, 0.0))
        return dim(argument(message, "level", int), seconds, argument(message, "colour", str, "white"))
    if command == "add":
        only(message, "a", "b")
        return {"result": add(argument(message, "a", int), argument(message, "b", int))}
    if command == "move":
        only(message, "to")
        to = argument(message, "to", dict)
        return move(Place(argument(to, "x", int), argument(to, "y", int)))
    raise SessionRefusedError(f"no method is called {command!r}", code="unknown_method")


def only(message: Message, *names: str) -> None:
    """Refuse fields of other names."""
    if not message.keys() <= {"command", *names}:
        raise SessionRefusedError("an unknown argument", code="bad_arguments")


def argument(message: Message, name: str, kind: Any, default: Any = ...) -> Any:
    """Return a field of that type, or refuse it."""
    value = message.get(name, default)
    if value is ... or not isinstance(value, kind) or isinstance(value, bool):
        raise SessionRefusedError(f"{name} is missing or wrong", code="bad_arguments")
    return value


WAYS: dict[str, Callable[[Message], Any]] = {
    "`Service`": service,
    "by hand, unchecked": unchecked,
    "by hand, checked": checked,
}


def table(rounds: int, calls: int) -> str:
    """µs of a call, the best of so many rounds, as Markdown."""
    rows = []
    for what, message in MESSAGES.items():
        best = [min(repeat(partial(way, message), number=calls, repeat=rounds)) for way in WAYS.values()]
        rows.append([what, *(f"{seconds / calls * 1e6:.2f}" for seconds in best)])
    return markdown(["µs a call, without the turn around it", *WAYS], rows)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=100_000)
    arguments = parser.parse_args()
    print(table(arguments.rounds, arguments.calls))


if __name__ == "__main__":
    main()
