"""Types of the caller's, which msgspec reads a payload as, and what is known of one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from psession.errors import MalformedMessageError
from psession.text import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import TypeVar

    Ask = TypeVar("Ask", contravariant=True, default=Any)
    Reply = TypeVar("Reply", covariant=True, default=Any)
else:
    from typing import TypeVar

    Ask = TypeVar("Ask", contravariant=True)
    Reply = TypeVar("Reply", covariant=True)

KEPT: Final = 256
"""Types whose forms are kept: as many as a program names in its calls, and few enough for one that makes them."""

UNFIT: Final = (msgspec.ValidationError, TypeError, RecursionError, UnicodeError)
"""What `msgspec.convert` raises for a value that does not fit: also for a list in a set, one that is nested too deep,
and half a character of UTF-16 as a member of an enumeration."""


class Form:
    """What is known of a type.

    Attributes:
        kind: The type.
        name: Its name, for people.
        options: The arguments of `msgspec.convert` that it needs. There are none as a rule: passing one takes 0.3 us
            of a conversion's 0.5.
        is_object: True where every value of it is an object on the wire, or nothing is known of its values.

    Raises:
        TypeError: It is none that msgspec can read.
    """

    __slots__ = ("is_object", "kind", "name", "options")

    def __init__(self, kind: Any) -> None:
        self.kind: Any = Any if kind is object else kind
        self.name: str = kind.__name__ if isinstance(kind, type) else str(kind)
        try:
            schemas([self.kind])
            info = msgspec.inspect.type_info(self.kind)
        except Exception as error:
            why = str(error).strip().rpartition("\n")[2]
            raise TypeError(f"{self.name} is no type that msgspec can read: {why}") from error
        parts = list(_parts(info))
        if any(isinstance(part, msgspec.inspect.RawType) for part in parts):
            raise TypeError(f"{self.name} is no type that msgspec can read here: msgspec.Raw stands for bytes")
        # A key of an object in JSON is text, whatever it stands for.
        has_odd_keys = any(
            isinstance(part, msgspec.inspect.DictType)
            and not isinstance(_bare(part.key_type), msgspec.inspect.StrType | msgspec.inspect.AnyType)
            for part in parts
        )
        self.options: dict[str, Any] = {"str_keys": True} if has_odd_keys else {}
        self.is_object: bool = _is_object(info)

    def read(self, value: Any) -> Any:
        """Return `value`, which is data as a codec decodes it, as the type.

        Raises:
            MalformedMessageError: It does not fit; the text says where, and what was expected there.
        """
        try:
            return msgspec.convert(value if type(value) is dict else plain(value), self.kind, **self.options)
        except UNFIT as error:
            raise MalformedMessageError(f"it is no {self.name}: {short(str(error))}") from error


def form_of(kind: Any) -> Form:
    """The `Form` of a type, kept for the next time.

    Raises:
        TypeError: It is none that msgspec can read.
    """
    try:
        hash(kind)
    except TypeError:  # Annotated with a list, say
        return Form(kind)
    return _kept(kind)


_kept = lru_cache(maxsize=KEPT)(Form)


def plain(payload: Any) -> Any:
    """A payload as data of the wire: a Struct or dataclass, of a codec with a type, becomes a ``dict``.

    Raises:
        TypeError: It cannot travel.
    """
    return dict(payload) if isinstance(payload, Mapping) else msgspec.to_builtins(payload)


def schemas(kinds: Iterable[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """JSON Schemas of types, and of the parts that they share, by name.

    Raises:
        Exception: msgspec can make nothing of one of them.
    """
    made, shared = msgspec.json.schema_components(kinds, schema_hook=_schema_of)
    return made, dict(sorted(shared.items()))


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is object:
        return {"description": "any value"}
    raise NotImplementedError


def _parts(info: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """The type and all types in it, each once."""
    found: list[Any] = [info]
    seen = set[int]()
    while found:
        part = found.pop()
        if isinstance(part, tuple):
            found += part
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            seen.add(id(part))
            found += [getattr(part, name) for name in part.__struct_fields__]
            if isinstance(part, msgspec.inspect.Type):
                yield part


def _bare(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """The type without what is said about it."""
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    return info


def _is_object(info: msgspec.inspect.Type) -> bool:
    info = _bare(info)
    if isinstance(info, msgspec.inspect.UnionType):
        return all(map(_is_object, info.types))
    if isinstance(info, msgspec.inspect.StructType):
        return not info.array_like
    return isinstance(
        info,
        msgspec.inspect.AnyType
        | msgspec.inspect.DataclassType
        | msgspec.inspect.DictType
        | msgspec.inspect.TypedDictType,
    )
