"""Methods that a peer may call by name, for ``on_request``. Pure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, overload

import msgspec

from psession.errors import SessionRefusedError
from psession.method import RESULT, UNKNOWN_METHOD, Argument, Method, listed, shown
from psession.typed import plain, schemas

__all__ = ["Service"]

Function = TypeVar("Function", bound=Callable[..., Any])


class Service:
    """A table of methods, one of which a field of each message names: give it to a port as ``on_request``.

    ::

        lamp = Service("command")

        @lamp.method
        async def dim(level: int, seconds: float = 0.0) -> Status:
            ...

        manager.port("centre", channel, on_request=lamp)

    ``{"command": "dim", "level": 40}`` calls ``dim(level=40)``. All fields but ``"command"`` are arguments; they are
    converted to the types that the function's annotations say, by msgspec, and checked before anything of the
    function's runs. An argument without an annotation is taken as it came. What is wrong is a `SessionRefusedError`,
    so its asker knows that nothing was done: ``"unknown_method"`` or ``"bad_arguments"``, with a text that says what
    would be right.

    A method may be a plain function, which must be quick, an async one, or an async generator function, whose results
    are the parts of a stream. A result of a type that is an object on the wire (a Struct, a dataclass, a mapping)
    travels as it is. One of any other type that the function is annotated with (``int``, ``list[str]``, ``None``,
    ``Status | None``) travels as ``{"result": ...}``. Without an annotation it travels as it is, and must be an object.

    Args:
        field: The name of the field that names the method.

    Raises:
        TypeError, ValueError: `field` is no text, or empty.
    """

    def __init__(self, field: str) -> None:
        if not isinstance(field, str):
            raise TypeError(f"field must be the name of a message's field, such as Service('command'), not {field!r}")
        if not field:
            raise ValueError("field must not be empty")
        self._field = field
        self._methods: dict[str, Method] = {}

    def __repr__(self) -> str:
        return f"<psession.Service by {self._field!r}: {listed(self._methods) or 'no methods'}>"

    # -- what is in the table ----------------------------------------------------------------------------------------

    @overload
    def method(self, function: Function, /) -> Function: ...
    @overload
    def method(self, name: str, /) -> Callable[[Function], Function]: ...
    def method(self, function: Any, /) -> Any:
        """Add a function, as a decorator: ``@service.method``, or ``@service.method("name")`` for another name.

        The function stays as it is. Raises as `add`.
        """
        if not isinstance(function, str):
            self.add(function)
            return function

        def named(named_function: Function) -> Function:
            self.add(named_function, function)
            return named_function

        return named

    def add(self, function: Callable[..., Any], name: str | None = None) -> None:
        """Add a function or, for methods that work on an object, a bound method: ``service.add(lamp.dim)``.

        Args:
            function: Its parameters are the arguments, each with a name: no ``*args``, ``**kwargs`` or positional-only
                ones. Its annotations are types that msgspec knows.
            name: By which it is called; the function's own by default.

        Raises:
            ValueError: There is a method of that name, or an argument has the name of the field that names the method.
            TypeError: The function can never be called: an annotation cannot be resolved, say. The text says why.
        """
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise TypeError(f"a method must be a function or the bound method of an object, not {function!r}")
        name = function.__name__ if name is None else name
        if not isinstance(name, str):
            raise TypeError(f"the name of a method must be a str, not {name!r}")
        if name in ("", "<lambda>"):
            raise ValueError("a method needs a name: service.add(function, 'name')")
        if name in self._methods:
            raise ValueError(f"there is a method {name!r} already: give another name, service.method('name')")
        method = Method(name, function)
        if self._field in [argument.name for argument in method.arguments]:
            raise ValueError(f"{name}: the field {self._field!r} names the method, so no argument can have that name")
        self._methods[name] = method

    # -- calls -------------------------------------------------------------------------------------------------------

    def __call__(self, payload: Any) -> Any:
        """Answer what a peer asks: call the method that `payload` names with the other fields of it.

        Returns:
            What the method returns: a reply, an awaitable of one, or an async generator of many.

        Raises:
            SessionRefusedError: There is no such method, or its arguments are wrong.
            Exception: What the method raises.
        """
        arguments = payload.copy() if type(payload) is dict else _fields_of(payload)
        method = self.find(arguments.pop(self._field, None))
        return method.answer(*method.convert(arguments))

    def find(self, name: object) -> Method:
        """Return the method of that name.

        Raises:
            SessionRefusedError: ``"unknown_method"``: there is none; the text says which there are.
        """
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None:
            field = f"the field {self._field!r} must name a method"
            what = f"no method is called {shown(name)}" if isinstance(name, str) else field
            raise SessionRefusedError(f"{what}: there are {listed(self._methods) or 'none'}", code=UNKNOWN_METHOD)
        return method

    def call(self, name: str, arguments: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        """Call a method with arguments by name or, of a list, by position. Returns and raises as calling the service.

        What it returns is the function's own, whatever its type: this is for wires that carry results of any kind.
        """
        method = self.find(name)
        return method.call(*method.convert(arguments))

    # -- what others are told ----------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Describe all methods in JSON Schema.

        It is for programs in other languages, in the order in which the methods were added, made of what JSON has, and
        new each time. ``service.add(service.describe)`` lets peers ask for it.

        Returns:
            ``"field"``: the field that names the method. ``"methods"``: each by its name, with ``"description"``, the
            first line of its docstring; ``"arguments"`` and ``"result"``, schemas of what travels; and ``"stream"``,
            true where the result is one of many. ``"$defs"``: what these schemas refer to.
        """
        methods = list(self._methods.values())
        kinds = [one.form.kind for method in methods for one in method.arguments]
        kinds += [method.result.kind for method in methods]
        made, shared = schemas(kinds)
        rest = iter(made)
        arguments = [
            _schema_of_arguments(method.arguments, [next(rest) for _ in method.arguments]) for method in methods
        ]
        described = {
            method.name: {
                "description": method.description,
                "arguments": taken,
                "result": (result or {"type": "object"}) if method.result.is_object else _in_object(result),
                "stream": method.streams,
            }
            for method, taken, result in zip(methods, arguments, rest, strict=True)
        }
        return {"field": self._field, "methods": described, "$defs": shared}


def _fields_of(payload: Any) -> dict[str, Any]:
    """The fields of a payload that a codec with a type has read; none where it is no object."""
    fields = plain(payload)
    return fields if isinstance(fields, dict) else {}


def _schema_of_arguments(arguments: list[Argument], schemas: list[dict[str, Any]]) -> dict[str, Any]:
    properties = {one.name: _with_default(schema, one) for one, schema in zip(arguments, schemas, strict=True)}
    required = [one.name for one in arguments if one.is_required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _with_default(schema: dict[str, Any], argument: Argument) -> dict[str, Any]:
    """The schema of an argument, with its default where JSON has a form for that."""
    if argument.is_required or (isinstance(argument.default, float) and not math.isfinite(argument.default)):
        return schema
    with suppress(Exception):
        return {**schema, "default": msgspec.json.decode(msgspec.json.encode(argument.default))}
    return schema


def _in_object(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {RESULT: schema}, "required": [RESULT]}
