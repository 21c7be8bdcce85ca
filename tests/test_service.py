"""``Service``: a field of a message names a method, and the others are its arguments, converted and checked before."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import gc
import inspect
import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType, MethodType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
import trio
import trio.testing

from psession import Classic, Dialect, Exact, Port, Service, SessionManager, SessionRefusedError, SessionRemoteError
from psession.channels import JsonCodec, MsgpackCodec, length_prefixed, lines
from psession.method import MOST_NAMED, Method
from psession.text import SHORT_CHARS

from .peers import settle
from .tables import assert_empty

if TYPE_CHECKING:
    from trio.testing import MockClock

WIRES: dict[str, Dialect] = {"classic": Classic(), "exact": Exact()}
MSGSPEC = tuple(map(int, msgspec.__version__.split(".")[:2]))
CODECS = {"json": (lines, JsonCodec), "msgpack": (length_prefixed, MsgpackCodec)}

both_wires = pytest.mark.parametrize("wire", WIRES)
both_codecs = pytest.mark.parametrize("codec", CODECS)


class Status(msgspec.Struct):
    """An object on the wire."""

    level: int


class Row(msgspec.Struct, array_like=True):
    """None on the wire."""

    number: int


class Camel(msgspec.Struct, rename="camel"):
    """An object with other names there."""

    lamp_name: str


class Tree(msgspec.Struct):
    """A type that has itself in it."""

    branch: Tree | None = None


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    y: int = 0


class Named(TypedDict):
    """A mapping with a type."""

    name: str


class Pair(NamedTuple):
    """An array on the wire."""

    one: int
    two: int


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Opaque:
    """A class that msgspec knows nothing of."""


NOTHING: Any = None
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


def service_of(*functions: Callable[..., Any], field: str = "command") -> Service:
    """A service of these functions."""
    service = Service(field)
    for function in functions:
        service.add(function)
    return service


async def result_of(reply: Any) -> Any:
    """What a service gives, awaited or gathered where it has to be."""
    if inspect.isasyncgen(reply):
        async with aclosing(reply):
            return [part async for part in reply]
    return await reply if inspect.isawaitable(reply) else reply


def refusal_of(call: Callable[..., Any], *arguments: Any) -> tuple[str, str]:
    """The code and the text with which a call is refused."""
    with pytest.raises(SessionRefusedError) as caught:
        call(*arguments)
    return caught.value.code, caught.value.why


# -- which method, with what -------------------------------------------------------------------------------------------


def dim(level: int, seconds: float = 0.5) -> dict[str, Any]:
    """Say what it got."""
    return {"level": level, "seconds": seconds}


async def dim_slowly(level: int, seconds: float = 0.5) -> dict[str, Any]:
    """The same, from a task."""
    await trio.lowlevel.checkpoint()
    return {"level": level, "seconds": seconds}


async def dim_in_steps(level: int, seconds: float = 0.5) -> AsyncIterator[dict[str, Any]]:
    """The same, twice."""
    for _ in range(2):
        await trio.lowlevel.checkpoint()
        yield {"level": level, "seconds": seconds}


@pytest.mark.parametrize("function", [dim, dim_slowly, dim_in_steps])
async def test_a_field_names_the_method_and_the_others_are_its_arguments(function: Callable[..., Any]) -> None:
    service = service_of(function)
    payload = {"level": 3, "command": function.__name__, "seconds": 1}
    given = {"level": 3, "seconds": 1.0}
    assert await result_of(service(payload)) == ([given, given] if function is dim_in_steps else given)
    assert payload == {"level": 3, "command": function.__name__, "seconds": 1}


async def test_a_method_is_called_as_its_kind_is_and_waits_for_nobody_else() -> None:
    service = service_of(dim, dim_slowly, dim_in_steps)
    assert service({"command": "dim", "level": 1}) == {"level": 1, "seconds": 0.5}
    waiting = service({"command": "dim_slowly", "level": 1})
    assert inspect.iscoroutine(waiting)
    await waiting
    parts = service({"command": "dim_in_steps", "level": 1})
    assert inspect.isasyncgen(parts)
    await parts.aclose()


def test_a_decorated_function_stays_as_it_is_and_may_have_another_name() -> None:
    service = Service("command")

    @service.method
    def on() -> dict[str, Any]:
        return {"light": "on"}

    @service.method("turn off")
    def off() -> dict[str, Any]:
        return {"light": "off"}

    assert (on(), off()) == ({"light": "on"}, {"light": "off"})
    assert (on.__name__, off.__name__) == ("on", "off")
    assert service({"command": "on"}) == {"light": "on"}
    assert service({"command": "turn off"}) == {"light": "off"}
    assert refusal_of(service, {"command": "off"})[0] == "unknown_method"
    assert repr(service) == "<psession.Service by 'command': 'on', 'turn off'>"
    assert repr(Service("command")) == "<psession.Service by 'command': no methods>"


def test_arguments_may_be_keyword_only_and_have_any_default() -> None:
    kept: list[int] = [1, 2]
    opaque = Opaque()

    def mix(a: int, *, b: int = 2, c: int, d: list[int] = kept, e: Any = opaque, f: int = NOTHING) -> dict[str, Any]:
        return {"all": (a, b, c, d, e, f)}

    service = service_of(mix)
    *numbers, given, other, none = service({"command": "mix", "a": 1, "c": 3})["all"]
    assert (numbers, none) == ([1, 2, 3], None)
    assert given is kept
    assert other is opaque
    everything = {"a": 1, "b": 5, "c": 6, "d": [7], "e": "8", "f": 9}
    assert service({"command": "mix", **everything})["all"] == (1, 5, 6, [7], "8", 9)


def test_an_argument_without_an_annotation_is_taken_as_it_came() -> None:
    def keep(value, other=None):  # type: ignore[no-untyped-def]
        return {"value": value, "other": other}

    service = service_of(keep)
    for value in (1, "1", None, [1, {"a": 2}], {"b": 3}):
        assert service({"command": "keep", "value": value}) == {"value": value, "other": None}
    assert refusal_of(service, {"command": "keep"}) == ("bad_arguments", "keep: Object missing required field `value`")


MOMENT = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)
CONVERTED: dict[str, tuple[Any, Any, Any]] = {
    "a float from an integer": (float, 1, 1.0),
    "a Struct": (Status, {"level": 1}, Status(1)),
    "a dataclass": (Point, {"x": 1}, Point(1)),
    "a TypedDict": (Named, {"name": "lamp"}, {"name": "lamp"}),
    "a moment": (datetime.datetime, "2026-03-01T12:30:00Z", MOMENT),
    "a moment of MessagePack": (datetime.datetime, MOMENT, MOMENT),
    "bytes in base64": (bytes, "AAE=", b"\x00\x01"),
    "bytes of MessagePack": (bytes, b"\x00\x01", b"\x00\x01"),
    "numbers as keys of JSON": (dict[int, str], {"1": "a"}, {1: "a"}),
    "numbers as keys of MessagePack": (dict[int, str], {1: "a"}, {1: "a"}),
    "numbers as keys deep inside": (list[dict[int, Status]], [{"1": {"level": 1}}], [{1: Status(1)}]),
    "numbers as keys with a bound": (dict[Percent, str], {"1": "a"}, {1: "a"}),
    "a set": (set[int], [1, 2, 1], {1, 2}),
    "a literal": (Literal["a", "b"], "a", "a"),
    "an enumeration": (Colour, "blue", Colour.BLUE),
    "a number with bounds": (Percent, 100, 100),
    "one of two": (int | str, "a", "a"),
    "what may be None": (Status | None, None, None),
    "a mapping": (Mapping[str, int], {"a": 1}, {"a": 1}),
    "object": (object, {"a": [1]}, {"a": [1]}),
    "objects": (dict[str, object], {"a": [1]}, {"a": [1]}),
    "a type that has itself in it": (Tree, {"branch": {"branch": None}}, Tree(Tree())),
}


@pytest.mark.parametrize(("kind", "given", "got"), CONVERTED.values(), ids=CONVERTED)
def test_an_argument_is_converted_to_its_type(kind: Any, given: Any, got: Any) -> None:
    def keep(value: Any) -> dict[str, Any]:
        return {"value": value}

    keep.__annotations__["value"] = kind
    (value,) = service_of(keep)({"command": "keep", "value": given}).values()
    assert value == got
    assert type(value) is type(got)


class Dim(msgspec.Struct, tag="dim", tag_field="command"):
    """A command as a codec with a type reads it: its tag is the method."""

    level: int


class Rename(msgspec.Struct, tag="rename", tag_field="command"):
    """Another."""

    name: str


@dataclasses.dataclass
class Command:
    """The same with a field for it."""

    command: str
    level: int


@pytest.mark.parametrize("payload", [Dim(3), Command("dim", 3), MappingProxyType({"command": "dim", "level": 3})])
def test_a_payload_that_a_codec_has_read_as_a_type_is_taken_apart(payload: Any) -> None:
    assert service_of(dim)(payload) == {"level": 3, "seconds": 0.5}


# -- what is refused, before anything runs -----------------------------------------------------------------------------


def never(
    level: Percent, names: list[str] | None = None, *, tree: Tree | None = None, keys: set[Any] | None = None
) -> None:
    """A method that must not run."""
    raise AssertionError("it ran")


ALL = "'never', 'dim'"
deep: dict[str, Any] = {}
for _ in range(100_000):
    deep = {"branch": deep}

REFUSED: dict[str, tuple[Any, str, str]] = {
    "no method": ({}, "unknown_method", f"the field 'command' must name a method: there are {ALL}"),
    "None": ({"command": None}, "unknown_method", f"the field 'command' must name a method: there are {ALL}"),
    "a number": ({"command": 5}, "unknown_method", f"the field 'command' must name a method: there are {ALL}"),
    "a list": ({"command": []}, "unknown_method", f"the field 'command' must name a method: there are {ALL}"),
    "another name": ({"command": "nevr"}, "unknown_method", f"no method is called 'nevr': there are {ALL}"),
    "an odd name": ({"command": "a\nb"}, "unknown_method", f"no method is called 'a\\nb': there are {ALL}"),
    "missing": ({"command": "never"}, "bad_arguments", "never: Object missing required field `level`"),
    "wrong type": (
        {"command": "never", "level": "3"},
        "bad_arguments",
        "never: Expected `int`, got `str` - at `$.level`",
    ),
    "out of bounds": (
        {"command": "never", "level": 101},
        "bad_arguments",
        "never: Expected `int` <= 100 - at `$.level`",
    ),
    "wrong inside": (
        {"command": "never", "level": 1, "names": ["a", 2]},
        "bad_arguments",
        "never: Expected `str`, got `int` - at `$.names[1]`",
    ),
    "unknown": (
        {"command": "never", "level": 1, "levle": 2},
        "bad_arguments",
        "never: no argument is called 'levle': there are 'level', 'names', 'tree', 'keys'",
    ),
    "unknown, of a method that has none": (
        {"command": "dim", "level": 1, "b\0": 1},
        "bad_arguments",
        "dim: no argument is called 'b\\x00': there are 'level', 'seconds'",
    ),
    "a key that is no text": ({"command": "never", 5: 1}, "bad_arguments", "never: Expected `str` - at `key` in `$`"),
    "too deep": (
        {"command": "never", "level": 1, "tree": deep},
        "bad_arguments",
        "never: maximum recursion depth exceeded while deserializing an object",
    ),
    "a list in a set": (
        {"command": "never", "level": 1, "keys": [[]]},
        "bad_arguments",
        "never: Expected a hashable value, got `list` - at `$.keys[0]`"
        if MSGSPEC >= (0, 23)
        else "never: unhashable type: 'list'",
    ),
    "no object": ([1], "unknown_method", f"the field 'command' must name a method: there are {ALL}"),
}


@pytest.mark.parametrize(("payload", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_with_what_would_be_right(payload: Any, code: str, text: str) -> None:
    assert refusal_of(service_of(never, dim), payload) == (code, text)


def test_a_service_without_methods_says_so() -> None:
    assert refusal_of(Service("command"), {"command": "a"}) == (
        "unknown_method",
        "no method is called 'a': there are none",
    )

    def bare() -> None: ...

    assert (
        refusal_of(service_of(bare), {"command": "bare", "a": 1})[1]
        == "bare: no argument is called 'a': there are none"
    )


@pytest.mark.parametrize(
    "payload",
    [
        {"command": "x" * 1_000_000},
        {"command": "dim", "level": 1, "x" * 1_000_000: 1},
        {"command": "paint", "colour": "x" * 1_000_000},
        {"command": "\n" * 1_000_000},
        {"command": "paint", "colour": "\n\ud800" * 1_000_000},
        {"command": "paint", "colour": 5},
    ],
    ids=["method", "argument", "value", "unprintable method", "unprintable value", "number"],
)
def test_a_refusal_is_short_and_printable_whatever_the_peer_says(payload: Any) -> None:
    def paint(colour: Colour) -> None: ...

    _, text = refusal_of(service_of(dim, paint), payload)
    assert len(text) <= 5 * SHORT_CHARS
    assert text.isprintable()


def test_a_refusal_lists_the_first_of_many_names() -> None:
    service = Service("command")
    for number in range(MOST_NAMED + 5):
        service.add(dim, f"m{number}")
    _, text = refusal_of(service, {"command": "x"})
    assert text.startswith("no method is called 'x': there are 'm0', 'm1', ")
    assert text.endswith(f"'m{MOST_NAMED - 1}' and 5 more")


# -- results -----------------------------------------------------------------------------------------------------------

AS_THEY_ARE: dict[str, tuple[Any, Any]] = {
    "a Struct": (Status, Status(1)),
    "a dataclass": (Point, Point(1)),
    "a TypedDict": (Named, {"name": "lamp"}),
    "a dict": (dict[str, int], {"a": 1}),
    "a Mapping": (Mapping[str, int], {"a": 1}),
    "one of two": (Dim | Rename, Rename("a")),
    "described": (Annotated[Status, msgspec.Meta(description="how it is")], Status(3)),
    "Any": (Any, {"a": 1}),
    "object": (object, {"a": 1}),
}
IN_OBJECTS: dict[str, tuple[Any, Any]] = {
    "an int": (int, 5),
    "text": (str, "five"),
    "a list": (list[Status], [Status(1)]),
    "None": (None, None),
    "a Struct or None": (Status | None, Status(1)),
    "None after all": (Status | None, None),
    "a Struct or a number": (Status | int, 5),
    "an array-like Struct": (Row, Row(1)),
    "a NamedTuple": (Pair, Pair(1, 2)),
    "a moment": (datetime.datetime, MOMENT),
}
KINDS = ("plain", "async", "stream")


def returning(kind: str, annotation: Any, value: Any) -> Callable[[], Any]:
    """A function of that kind which gives the value."""

    def give() -> Any:
        return value

    async def give_later() -> Any:
        return value

    async def give_twice() -> Any:
        yield value
        yield value

    function: Callable[[], Any] = {"plain": give, "async": give_later, "stream": give_twice}[kind]
    function.__annotations__["return"] = AsyncIterator[annotation] if kind == "stream" else annotation
    return function


@pytest.mark.parametrize(("annotation", "value"), AS_THEY_ARE.values(), ids=AS_THEY_ARE)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_that_is_an_object_travels_as_it_is(kind: str, annotation: Any, value: Any) -> None:
    service = Service("command")
    service.add(returning(kind, annotation, value), "give")
    reply = await result_of(service({"command": "give"}))
    assert reply == ([value, value] if kind == "stream" else value)
    assert (reply[0] if kind == "stream" else reply) is value


@pytest.mark.parametrize(("annotation", "value"), IN_OBJECTS.values(), ids=IN_OBJECTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_any_other_result_travels_in_an_object(kind: str, annotation: Any, value: Any) -> None:
    service = Service("command")
    service.add(returning(kind, annotation, value), "give")
    reply = await result_of(service({"command": "give"}))
    assert reply == ([{"result": value}] * 2 if kind == "stream" else {"result": value})
    bare = await result_of(service.call("give"))
    assert bare == ([value, value] if kind == "stream" else value)


async def test_without_an_annotation_a_result_travels_as_it_is() -> None:
    def nothing():  # type: ignore[no-untyped-def]
        return None

    async def later():  # type: ignore[no-untyped-def]
        return {"a": 1}

    async def many():  # type: ignore[no-untyped-def]
        yield {"a": 1}

    service = service_of(nothing, later, many)
    assert service({"command": "nothing"}) is None
    assert await service({"command": "later"}) == {"a": 1}
    assert await result_of(service({"command": "many"})) == [{"a": 1}]


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function around another, as decorators write it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def counted(to: int) -> AsyncIterator[int]:
    """Yield some numbers."""
    for number in range(to):
        yield number


async def number(of: int) -> int:
    """Return a number."""
    return of


def number_later(of: int) -> Awaitable[int]:
    """Return a number's coroutine."""
    return number(of)


def counted_later(to: int) -> AsyncGenerator[int, None]:
    """Return a generator of numbers."""
    parts = counted(to)
    assert isinstance(parts, AsyncGenerator)
    return parts


@pytest.mark.parametrize("function", [number_later, passed_on(number)], ids=["by itself", "a decorator's"])
async def test_a_plain_function_may_return_an_awaitable(function: Callable[..., Any]) -> None:
    service = Service("command")
    service.add(function, "number")
    assert await service({"command": "number", "of": 5}) == {"result": 5}
    assert service.describe()["methods"]["number"]["result"]["properties"] == {"result": {"type": "integer"}}
    assert refusal_of(service, {"command": "number", "of": "5"})[0] == "bad_arguments"


@pytest.mark.parametrize("function", [counted_later, passed_on(counted)], ids=["by itself", "a decorator's"])
async def test_a_plain_function_may_return_an_async_generator(function: Callable[..., Any]) -> None:
    service = Service("command")
    service.add(function, "count")
    assert await result_of(service({"command": "count", "to": 2})) == [{"result": 0}, {"result": 1}]
    assert service.describe()["methods"]["count"]["stream"]


async def test_closing_a_stream_of_results_closes_the_methods_own_generator() -> None:
    closed: list[str] = []

    async def many() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("yes")

    parts = service_of(many)({"command": "many"})
    assert await anext(parts) == {"result": 1}
    await parts.aclose()
    assert closed == ["yes"]


# -- what can never work -----------------------------------------------------------------------------------------------


def positional(a: int, /) -> None:
    """Take an argument without a name."""


def variable(*levels: int) -> None:
    """Take any number of them."""


def keywords(**levels: int) -> None:
    """Take any names."""


def shadows(command: str) -> None:
    """Take what names the method."""


def unresolved(when: Moment) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Name a type that is nowhere."""


def opaque_argument(lamp: Opaque) -> None:
    """Take what no message has."""


def opaque_inside(lamps: list[Opaque]) -> None:
    """Take some of them."""


def two_objects(shape: Status | Point) -> None:
    """Take what nobody can tell apart."""


def raw(data: msgspec.Raw) -> None:
    """Take bytes that there are no more."""


def opaque_result() -> Opaque:
    """Return what cannot travel."""
    raise NotImplementedError


async def wrong_stream() -> int:  # type: ignore[misc]
    """Yield, and say otherwise."""
    yield 1


async def stream_from_a_task() -> AsyncIterator[int]:
    """Return a stream from a coroutine."""
    raise NotImplementedError


def generator() -> Any:
    """Yield without `async`."""
    yield {}


class Lamp:
    """A class with state."""

    def __init__(self, level: int = 0) -> None:
        self.level = level

    def dim(self, level: int) -> Status:
        """Set the level."""
        self.level = level
        return Status(level)

    async def status(self) -> Status:
        """Say what it is."""
        return Status(self.level)

    @classmethod
    def kinds(cls) -> list[str]:
        """Name the kinds of lamps."""
        return [cls.__name__]

    @staticmethod
    def volts() -> int:
        """Say what they need."""
        return 12


NEVER: dict[str, tuple[Any, type[Exception], str]] = {
    "positional-only": (positional, TypeError, "positional: 'a' is positional-only, .*: drop the /"),
    "*args": (variable, TypeError, r"variable: \*levels has no names .*: write levels: list"),
    "**kwargs": (keywords, TypeError, r"keywords: \*\*levels takes what nobody has .*: write levels: dict"),
    "the field": (shadows, ValueError, "shadows: the field 'command' names the method"),
    "unresolved": (unresolved, TypeError, "unresolved: an annotation cannot be resolved: name 'Moment' is not defined"),
    "an unknown class": (
        opaque_argument,
        TypeError,
        "opaque_argument: its argument 'lamp': Opaque is no type that msgspec can read: .*Opaque.* is not supported",
    ),
    "an unknown class inside": (opaque_inside, TypeError, "its argument 'lamps': list.*Opaque.* msgspec can read"),
    "two objects": (two_objects, TypeError, "may not contain more than one dict-like type"),
    "Raw": (raw, TypeError, "its argument 'data': Raw is no type"),
    "an unknown result": (opaque_result, TypeError, "opaque_result: its result: Opaque is no type"),
    "a stream that says otherwise": (wrong_stream, TypeError, r"wrong_stream: it yields .* is an AsyncIterator\["),
    "a stream from a task": (stream_from_a_task, TypeError, "stream_from_a_task: its result: .*AsyncIterator"),
    "a generator": (generator, TypeError, "generator: a generator gives no result .*: write `async def`"),
    "no object": (Lamp.status, TypeError, r"status: a function of a class .*: add .* service\.add\(lamp\.status\)"),
    "a class": (Lamp, TypeError, "must be a function or the bound method of an object, not <class"),
    "a partial": (
        functools.partial(dim, 1),
        TypeError,
        "must be a function or the bound method of an object, not functo",
    ),
    "a staticmethod": (
        vars(Lamp)["volts"],
        TypeError,
        "must be a function or the bound method of an object, not <static",
    ),
    "a built-in": (len, TypeError, "must be a function or the bound method of an object, not <built-in"),
    "nothing": (None, TypeError, "must be a function or the bound method of an object, not None"),
    "a lambda": (lambda: None, ValueError, r"a method needs a name: service\.add\(function, 'name'\)"),
}


@pytest.mark.parametrize(("function", "kind", "text"), NEVER.values(), ids=NEVER)
def test_what_can_never_work_is_said_when_it_is_added(function: Any, kind: type[Exception], text: str) -> None:
    service = service_of(dim)
    with pytest.raises(kind, match=text):
        service.add(function)
    with pytest.raises(kind, match=text):
        service.method(function)
    assert repr(service) == "<psession.Service by 'command': 'dim'>"


def test_two_methods_of_one_name_are_one_too_many() -> None:
    service = service_of(dim)
    with pytest.raises(
        ValueError, match=r"there is a method 'dim' already: give another name, service\.method\('name'\)"
    ):
        service.add(dim)
    with pytest.raises(ValueError, match="there is a method 'dim' already"):
        service.method("dim")(dim_slowly)
    with pytest.raises(ValueError, match="a method needs a name"):
        service.method("")(dim)
    with pytest.raises(TypeError, match="the name of a method must be a str, not 5"):
        service.add(dim, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "kind"), [(5, TypeError), (None, TypeError), ("", ValueError), (dim, TypeError)])
def test_the_field_that_names_the_method_has_a_name(field: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="field must"):
        Service(field)


# -- state -------------------------------------------------------------------------------------------------------------


async def test_the_methods_of_an_object_have_its_state() -> None:
    lamps = [Lamp(), Lamp(5)]
    services = [service_of(lamp.dim, lamp.status, lamp.kinds, Lamp.volts) for lamp in lamps]
    assert services[0]({"command": "dim", "level": 3}) == Status(3)
    assert [await service({"command": "status"}) for service in services] == [Status(3), Status(5)]
    assert services[1]({"command": "kinds"}) == {"result": ["Lamp"]}
    assert services[1]({"command": "volts"}) == {"result": 12}
    assert refusal_of(services[1], {"command": "dim", "self": 1, "level": 1})[0] == "bad_arguments"


def test_what_a_class_says_of_its_methods_is_found_out_once_and_not_kept_after_it() -> None:
    class Short:
        def dim(self, level: int) -> Status:
            return Status(level)

    methods = [Method("dim", Short().dim) for _ in range(2)]
    assert methods[0].arguments is methods[1].arguments
    gone = weakref.ref(Short.dim)
    del methods, Short
    gc.collect()
    assert gone() is None


# -- for other wires ---------------------------------------------------------------------------------------------------


def subtract(minuend: int, subtrahend: int = 1, *, absolute: bool = False) -> int:
    """Subtract two numbers."""
    return abs(minuend - subtrahend) if absolute else minuend - subtrahend


def test_a_method_may_be_called_with_arguments_by_name_or_by_position() -> None:
    service = service_of(subtract)
    assert service.call("subtract", [42, 23]) == 19
    assert service.call("subtract", (42,)) == 41
    assert service.call("subtract", {"subtrahend": 42, "minuend": 23}) == -19
    assert service.call("subtract", {"subtrahend": 42, "minuend": 23, "absolute": True}) == 19
    assert service.call("subtract", MappingProxyType({"minuend": 1})) == 0
    assert refusal_of(service.call, "subtract")[0] == "bad_arguments"


@pytest.mark.parametrize(
    ("name", "arguments", "code", "text"),
    [
        ("add", [], "unknown_method", "no method is called 'add': there are 'subtract'"),
        ("subtract", [], "bad_arguments", "subtract: Object missing required field `minuend`"),
        ("subtract", ["a"], "bad_arguments", "subtract: Expected `int`, got `str` - at `$.minuend`"),
        (
            "subtract",
            [1, 2, True],
            "bad_arguments",
            "subtract: it takes 'minuend', 'subtrahend' by position, and got 3 arguments",
        ),
        ("subtract", "ab", "bad_arguments", "subtract: its arguments must be an object or an array"),
        ("subtract", 5, "bad_arguments", "subtract: its arguments must be an object or an array"),
        ("subtract", None, "bad_arguments", "subtract: its arguments must be an object or an array"),
        (
            "subtract",
            {"command": "subtract"},
            "bad_arguments",
            "subtract: no argument is called 'command': there are 'minuend', 'subtrahend', 'absolute'",
        ),
    ],
)
def test_such_a_call_is_refused_likewise(name: str, arguments: Any, code: str, text: str) -> None:
    assert refusal_of(service_of(subtract).call, name, arguments) == (code, text)


def test_finding_converting_and_calling_are_three_steps() -> None:
    method = service_of(subtract).find("subtract")
    values = method.convert({"minuend": 5})
    assert values == (5, 1, False)
    assert method.call(*values) == 4
    assert method.answer(*values) == {"result": 4}


# -- what others are told ----------------------------------------------------------------------------------------------

OPAQUE = Opaque()


def draw(
    colour: Colour,
    level: Percent = 50,
    *,
    where: Point,
    names: list[str] = [],  # noqa: B006
    until: float = math.inf,
    note=None,  # type: ignore[no-untyped-def]
) -> list[Status]:
    """Draw it.

    More of that.
    """
    raise NotImplementedError


async def watch(since: datetime.datetime = MOMENT, lamp: Any = OPAQUE) -> AsyncIterator[Camel]:
    yield Camel("lamp")


DESCRIBED = {
    "field": "command",
    "methods": {
        "watch": {
            "description": "",
            "arguments": {
                "type": "object",
                "properties": {
                    "since": {"type": "string", "default": "2026-03-01T12:30:00Z"},
                    "lamp": {},
                },
                "required": [],
                "additionalProperties": False,
            },
            "result": {"$ref": "#/$defs/Camel"},
            "stream": True,
        },
        "draw": {
            "description": "Draw it.",
            "arguments": {
                "type": "object",
                "properties": {
                    "colour": {"$ref": "#/$defs/Colour"},
                    "level": {"type": "integer", "minimum": 0, "maximum": 100, "default": 50},
                    "where": {"$ref": "#/$defs/Point"},
                    "names": {"type": "array", "items": {"type": "string"}, "default": []},
                    "until": {"type": "number"},
                    "note": {"default": None},
                },
                "required": ["colour", "where"],
                "additionalProperties": False,
            },
            "result": {
                "type": "object",
                "properties": {"result": {"type": "array", "items": {"$ref": "#/$defs/Status"}}},
                "required": ["result"],
            },
            "stream": False,
        },
    },
    "$defs": {
        "Camel": {
            "title": "Camel",
            "description": "An object with other names there.",
            "type": "object",
            "properties": {"lampName": {"type": "string"}},
            "required": ["lampName"],
        },
        "Colour": {"title": "Colour", "description": "A colour.", "enum": ["blue", "red"]},
        "Point": {
            "title": "Point",
            "description": "A dataclass.",
            "type": "object",
            "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
            "required": ["x"],
        },
        "Status": {
            "title": "Status",
            "description": "An object on the wire.",
            "type": "object",
            "properties": {"level": {"type": "integer"}},
            "required": ["level"],
        },
    },
}


def test_a_service_describes_its_methods_in_json_schema_in_the_order_of_their_coming() -> None:
    service = service_of(watch, draw)
    described = service.describe()
    assert described == DESCRIBED
    assert json.dumps(described) == json.dumps(DESCRIBED)
    described["methods"].clear()
    assert service.describe() == DESCRIBED


def test_a_result_of_any_type_is_described_as_an_object() -> None:
    described = service_of(returning("plain", Any, 1)).describe()["methods"]["give"]["result"]
    assert described == {"type": "object"}
    assert Service("command").describe() == {"field": "command", "methods": {}, "$defs": {}}


def test_a_peer_may_ask_what_there_is() -> None:
    service = service_of(dim)
    service.add(service.describe)
    described = service({"command": "describe"})
    assert json.loads(json.dumps(described)) == described
    assert list(described["methods"]) == ["dim", "describe"]
    assert described["methods"]["describe"]["result"] == {"type": "object"}


def test_what_is_described_is_the_same_in_every_process() -> None:
    program = (
        "import json, msgspec; from typing import Literal; from psession import Service\n"
        "class A(msgspec.Struct, tag=True): a: int\n"
        "class B(msgspec.Struct, tag=True): b: int\n"
        "service = Service('command')\n"
        "@service.method\n"
        "def mix(one: A | B | int | None, two: Literal['c', 'a', 'b']) -> B | A: ...\n"
        "print(json.dumps(service.describe()))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""


# -- over the wire -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(wire: str, codec: str, service: Service, **options: Any) -> AsyncIterator[Port]:
    """A port whose peer has this service; both are empty in the end."""
    here, there = trio.testing.memory_stream_pair()
    frame, make = CODECS[codec]
    asking = SessionManager(dialect=WIRES[wire], session_timeout=5)
    answering = SessionManager(on_request=service, **options)
    async with (
        answering.port("asker", frame(there, codec=make())) as server,
        asking.port("service", frame(here, codec=make())) as port,
    ):
        yield port
    assert_empty(answering, server)
    assert_empty(asking, port)


async def slow(seconds: float) -> int:
    """Take a while."""
    await trio.sleep(seconds)
    return 5


@both_codecs
@both_wires
async def test_a_service_answers_over_any_wire(wire: str, codec: str, autojump_clock: MockClock) -> None:
    lamp = Lamp()
    async with served(wire, codec, service_of(dim, slow, MethodType(lamp_dim, lamp), lamp.status)) as port:
        assert await port.request({"command": "dim", "level": 3}) == {"level": 3, "seconds": 0.5}
        assert await port.request({"command": "slow", "seconds": 1}) == {"result": 5}
        assert await port.request({"command": "lamp_dim", "level": 7}) == {"level": 7}
        assert await port.request({"command": "status"}) == {"level": 7}
        async with port.session() as session:
            await session.post({"command": "lamp_dim", "level": 8})
            await settle()
        assert await port.request({"command": "status"}, reply_type=Status) == Status(8)


def lamp_dim(self: Lamp, level: int) -> Status:
    """Set the level of a lamp."""
    return self.dim(level)


@both_codecs
async def test_on_the_exact_wire_a_refusal_reaches_its_asker(codec: str, autojump_clock: MockClock) -> None:
    async with served("exact", codec, service_of(never, dim)) as port:
        for payload, code, text in list(REFUSED.values())[:11]:
            with pytest.raises(SessionRemoteError) as caught:
                await port.request(payload)
            assert (caught.value.code, caught.value.text) == (f"refused.{code}", text)
            assert caught.value.outcome == "refused"


@both_codecs
async def test_on_the_classic_wire_the_application_says_what_a_refusal_is(
    codec: str, autojump_clock: MockClock
) -> None:
    def reply(error: Exception) -> Any:
        assert isinstance(error, SessionRefusedError)
        return {"error": error.code, "text": error.why}

    async with served("classic", codec, service_of(never, dim), error_reply=reply) as port:
        for payload, code, text in list(REFUSED.values())[:11]:
            assert await port.request(payload) == {"error": code, "text": text}


@both_codecs
async def test_a_stream_of_results_reaches_its_asker_in_order(codec: str, autojump_clock: MockClock) -> None:
    async with served("exact", codec, service_of(counted, dim_in_steps)) as port:
        async with port.stream({"command": "counted", "to": 100}) as replies:
            assert [reply["result"] async for reply in replies] == list(range(100))
        async with port.stream({"command": "dim_in_steps", "level": 3}) as replies:
            assert [reply["level"] async for reply in replies] == [3, 3]
        with pytest.raises(SessionRemoteError, match="no argument is called 'too'"):
            async with port.stream({"command": "counted", "too": 100}) as replies:
                await replies.receive()


async def test_an_asker_that_has_enough_of_a_stream_ends_the_method(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def tick(seconds: float) -> AsyncIterator[int]:
        try:
            for number in range(1000):
                yield number
                await trio.sleep(seconds)
        finally:
            ended.append(trio.current_time())

    async with served("exact", "json", service_of(tick)) as port:
        async with port.stream({"command": "tick", "seconds": 1}) as replies:
            await replies.receive()
            await replies.receive()
        await settle()
        assert ended == [1.0]
