"""One method of a service: what a function's signature says, found out once, and calls with a peer's data. Pure."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import msgspec

from psession.errors import SessionRefusedError
from psession.text import SHORT_CHARS, short
from psession.typed import UNFIT, Form, form_of

RESULT: Final = "result"
"""The field that a result stands in which is no object by itself: the wire carries objects."""

UNKNOWN_METHOD: Final = "unknown_method"
BAD_ARGUMENTS: Final = "bad_arguments"

MOST_NAMED: Final = 20
"""Names that an error lists."""

_STREAMS: Final = (AsyncGenerator, AsyncIterable, AsyncIterator)
_AWAITABLES: Final = (Awaitable, Coroutine)
_AS_THEY_ARE: Final = (str, int, float, bool, bytes, Enum, type(None))
_MISSING: Final = inspect.Parameter.empty


class Argument(NamedTuple):
    """One parameter of a function."""

    name: str
    form: Form
    default: Any
    by_name: bool

    @property
    def is_required(self) -> bool:
        """True where there is no default."""
        return self.default is _MISSING


class Signature:
    """All that is known of a function before it is called.

    Attributes:
        arguments: Its parameters, in order.
        gives: How it gives its results: ``"returns"``, ``"awaits"`` or ``"streams"``.
        result: The form of what it returns or yields.
        struct: A Struct of its arguments.
        options: The arguments of `msgspec.convert` that these need.

    Raises:
        TypeError: It can never be called by a peer. The text says why, and what to write.
    """

    __slots__ = ("arguments", "gives", "options", "result", "struct")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        hints = _hints_of(name, function)
        self.arguments: list[Argument] = [_argument(name, one, hints) for one in _parameters_of(name, function)]
        self.gives: str
        self.gives, returns = _results_of(name, function, hints.get("return", Any))
        self.result: Form = _form(f"{name}: its result", returns)
        self.struct: type[msgspec.Struct] = msgspec.defstruct(
            "Arguments",
            [(one.name, one.form.kind, _field(one.default)) for one in self.arguments],
            kw_only=True,
            forbid_unknown_fields=True,
        )
        self.options: dict[str, Any] = {}
        for argument in self.arguments:
            self.options |= argument.form.options


_of_methods: WeakKeyDictionary[Callable[..., Any], Signature] = WeakKeyDictionary()
"""The signatures of functions of classes: a server that makes an object for each client needs no Struct for each."""


def _signature_of(name: str, function: Callable[..., Any]) -> Signature:
    if not inspect.ismethod(function):
        return Signature(name, function)
    signature = _of_methods.get(function.__func__)
    if signature is None:
        signature = _of_methods[function.__func__] = Signature(name, function)
    return signature


class Method:
    """A function that a peer may call.

    To call it is three steps, each of which can be taken alone: find it (`Service.find`), `convert` the arguments,
    and give them to `call` or `answer`. Nothing of the function's runs before they are converted.

    Attributes:
        name: The name by which it is called.
        description: The first line of its docstring; may be empty.
        arguments: Its parameters, in order.
        result: The form of what it returns or, with `streams`, yields.
        streams: True where it gives many results.
        call: The function, which takes the converted arguments by position.
        answer: The same for a wire that carries objects: each result that is none by its type stands in one, as the
            field `RESULT`.

    Raises:
        TypeError: The function can never be called so.
    """

    __slots__ = ("_options", "_struct", "answer", "arguments", "call", "description", "name", "result", "streams")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        signature = _signature_of(name, function)
        self.name: str = name
        self.description: str = (inspect.getdoc(function) or "").partition("\n")[0]
        self.arguments: list[Argument] = signature.arguments
        self.result: Form = signature.result
        self.streams: bool = signature.gives == "streams"
        self.call: Callable[..., Any] = _by_position(function, self.arguments)
        in_objects = _IN_OBJECTS[signature.gives]
        self.answer: Callable[..., Any] = self.call if self.result.is_object else in_objects(self.call)
        self._struct = signature.struct
        self._options = signature.options

    def convert(self, arguments: Mapping[str, Any] | Sequence[Any]) -> tuple[Any, ...]:
        """Return what a peer gave, by name or by position, as the arguments that `call` and `answer` take.

        Raises:
            SessionRefusedError: ``"bad_arguments"``: one is missing, unknown, or not of its type.
        """
        try:
            given = arguments if type(arguments) is dict else self._by_name(arguments)
            return msgspec.structs.astuple(msgspec.convert(given, self._struct, **self._options))
        except UNFIT as error:
            raise self._refused(self._fault(arguments, error)) from error

    def _by_name(self, arguments: Any) -> dict[str, Any]:
        if isinstance(arguments, Mapping):
            return dict(arguments)
        if not isinstance(arguments, list | tuple):
            raise self._refused("its arguments must be an object or an array")
        names = [one.name for one in self.arguments if not one.by_name]
        if len(arguments) > len(names):
            raise self._refused(
                f"it takes {listed(names) or 'nothing'} by position, and got {len(arguments)} arguments"
            )
        return dict(zip(names, arguments, strict=False))

    def _fault(self, arguments: Any, error: Exception) -> str:
        """What is wrong with arguments that do not fit."""
        names = [one.name for one in self.arguments]
        if isinstance(arguments, Mapping):
            unknown = next((name for name in arguments if isinstance(name, str) and name not in names), None)
            if unknown is not None:
                return f"no argument is called {shown(unknown)}: there are {listed(names) or 'none'}"
        return short(str(error))

    def _refused(self, why: str) -> SessionRefusedError:
        return SessionRefusedError(f"{self.name}: {why}", code=BAD_ARGUMENTS)


def shown(name: str) -> str:
    """A name that a peer gave, safe to show."""
    return short(repr(name[:SHORT_CHARS]))


def listed(names: Collection[str]) -> str:
    """The names that there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, islice(names, MOST_NAMED))) + more


# -- what a signature says ---------------------------------------------------------------------------------------------


def _hints_of(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, those that are text resolved."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        raise TypeError(
            f"{name}: an annotation cannot be resolved: {error}; its module must have that name at run time, which is "
            "neither under TYPE_CHECKING alone nor in another function"
        ) from error


def _parameters_of(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function, each of which a message can give by its name."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and not inspect.ismethod(function):
        raise TypeError(
            f"{name}: a function of a class has no object to work on: add the method of an object, such as "
            f"service.add(lamp.{function.__name__})"
        )
    for one in parameters:
        if one.kind is one.POSITIONAL_ONLY:
            raise TypeError(
                f"{name}: {one.name!r} is positional-only, and a message gives arguments by name: drop the /"
            )
        if one.kind is one.VAR_POSITIONAL:
            raise TypeError(f"{name}: *{one.name} has no names that a message could give: write {one.name}: list[...]")
        if one.kind is one.VAR_KEYWORD:
            raise TypeError(
                f"{name}: **{one.name} takes what nobody has named or checked: write {one.name}: dict[str, ...], which "
                "is one argument"
            )
    return parameters


def _argument(name: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> Argument:
    form = _form(f"{name}: its argument {parameter.name!r}", hints.get(parameter.name, Any))
    return Argument(parameter.name, form, parameter.default, parameter.kind is parameter.KEYWORD_ONLY)


def _form(what: str, kind: Any) -> Form:
    try:
        return form_of(kind)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from error.__cause__


def _results_of(name: str, function: Callable[..., Any], returns: Any) -> tuple[str, Any]:
    """How a function gives its results: at once, awaited or as a stream; and the type of one."""
    written = inspect.unwrap(function)  # a decorator's function may do neither by itself
    origin = get_origin(returns) or returns
    if any(map(inspect.isasyncgenfunction, (function, written))):
        if returns is Any:
            return "streams", Any
        if origin not in _STREAMS:
            raise TypeError(f"{name}: it yields its results, so what it returns is an AsyncIterator[...]")
    elif any(map(inspect.iscoroutinefunction, (function, written))):
        return "awaits", returns
    elif any(map(inspect.isgeneratorfunction, (function, written))):
        raise TypeError(f"{name}: a generator gives no result that can travel: write `async def` to yield many results")
    if origin in _STREAMS:
        return "streams", (*get_args(returns), Any)[0]
    if origin in _AWAITABLES:
        return "awaits", (Any, *get_args(returns))[-1]
    return "returns", returns


def _field(default: Any) -> Any:
    """A parameter's default as a field's: the very object, as Python gives it."""
    if default is _MISSING:
        return msgspec.field()
    if isinstance(default, _AS_THEY_ARE):
        return msgspec.field(default=default)
    return msgspec.field(default_factory=lambda: default)


# -- calls -------------------------------------------------------------------------------------------------------------


def _by_position(function: Callable[..., Any], arguments: list[Argument]) -> Callable[..., Any]:
    """The function, which takes all of its arguments by position."""
    names = [one.name for one in arguments if one.by_name]
    if not names:
        return function
    first = len(arguments) - len(names)

    def call(*values: Any) -> Any:
        return function(*values[:first], **dict(zip(names, values[first:], strict=True)))

    return call


def _returned_in_objects(function: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*values: Any) -> Any:
        return {RESULT: function(*values)}

    return answer


def _awaited_in_objects(function: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(*values: Any) -> Any:
        return {RESULT: await function(*values)}

    return answer


def _streamed_in_objects(function: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(*values: Any) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(function(*values)) as results:
            async for result in results:
                yield {RESULT: result}

    return answer


_IN_OBJECTS: Final = {
    "returns": _returned_in_objects,
    "awaits": _awaited_in_objects,
    "streams": _streamed_in_objects,
}
