"""What keeps a message from travelling, and where in it that stands: the slow half of the codecs, for bad messages."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_REASON_CHARS: Final = 200
"""How much of a library's words an error repeats: they may quote a hostile message at length."""

_HINT: Final = 'a message is an object, such as {"command": "status"}'

FLOAT32: Final = 0xCA
FLOAT64: Final = 0xCB
_odd_float32: Final = re.compile(rb"\xca(?=[\x7f\xff][\x80-\xff])")
_odd_float64: Final = re.compile(rb"\xcb(?=[\x7f\xff][\xf0-\xff])")
"""MessagePack's type byte of a float, then an exponent of all ones: NaN or infinity (IEEE 754). Text or bytes may hold
these bytes too; where they find nothing every float is finite. Two, and not one with a choice, because a pattern that
starts with a fixed byte is searched for three to six times as fast."""

_NO_VALUE: Final = b"\xc1"
"""The one byte that begins no value of MessagePack."""

_as_msgpack: Final = msgspec.msgpack.Encoder().encode
_pass_over: Final = msgspec.msgpack.Decoder(msgspec.Raw).decode

MOST_SEARCHED: Final = 1000
"""Members of a peer's message that are looked at to say where it is wrong: in less than a millisecond."""

LONG_BYTES: Final = 65_536
"""Messages of a peer's as long as that are not searched at all for the place: taking one apart takes milliseconds."""


# ----------------------------------------------------------------------------------------------- NaN and the infinities
def has_odd_float(data: bytes) -> bool:
    """Return True if a well-formed MessagePack message holds NaN or an infinity.

    Nothing is made of it, so that 1 MB takes 2 ms. What looks like one may be part of a text. So its type byte is
    replaced by one that begins no value: a decoder stops there, unless it is inside of a text.
    """
    found64 = FLOAT64 in data and _odd_float64.search(data)
    found32 = FLOAT32 in data and _odd_float32.search(data)
    if not found64 and not found32:
        return False
    try:
        _pass_over(_odd_float32.sub(_NO_VALUE, _odd_float64.sub(_NO_VALUE, data)))
    except msgspec.DecodeError:
        return True
    return False


def refuse_null_from_float(message: Any) -> None:
    """Raise if a ``null`` in the message's JSON was NaN or an infinity; most were ``None``, or part of a text.

    MessagePack keeps them apart, so a second encoding tells: 0.25 us for 108 bytes, against 2 us for a look in Python.

    Raises:
        MalformedMessageError: It was; the text says where.
    """
    try:
        data = _as_msgpack(message)
    except (OverflowError, TypeError, ValueError):  # such as an integer beyond 64 bits, which only JSON has
        refuse_odd_members(message)
    else:
        if has_odd_float(data):
            refuse_odd_members(message)


_Place: TypeAlias = "tuple[_Place, Any] | None"
"""Where a member stands: where its container stands, and its key there. Linked, since a path is seldom shown."""


def refuse_odd_members(message: Any, most: int | None = None) -> None:
    """Raise for the first NaN or infinity in the message, in time proportional to its size.

    Args:
        message: The message.
        most: Members that are looked at, in somebody else's message that is known to have one; ``None``: all, and
            nothing is raised where there is none.

    Raises:
        MalformedMessageError: There is one; the text says where, if that was found out.
    """
    # to_builtins takes apart just what the encoders do (Structs, dataclasses, sets, enums), with the names of the wire.
    try:
        plain = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=repr)
    except TypeError as error:  # a Struct as a key of MessagePack: it encodes, and cannot be looked through
        raise MalformedMessageError(f"it may hold NaN, and cannot be searched for it: {reason(error)}") from error
    members: list[tuple[Any, _Place]] = [(plain, None)]
    for _ in count() if most is None else range(most):
        if not members:
            return
        member, place = members.pop()
        if isinstance(member, float):
            if not math.isfinite(member):
                raise MalformedMessageError(f"{member} at {_path(place)} cannot travel; send None or text instead")
        elif isinstance(member, dict):
            mapping: dict[Any, Any] = member
            for key, child in reversed(mapping.items()):
                members.append((child, (place, key)))
                if not isinstance(key, str):
                    members.append((key, (place, key)))
        elif isinstance(member, list | tuple):
            children: list[Any] | tuple[Any, ...] = member
            members += [(children[index], (place, index)) for index in reversed(range(len(children)))]
    raise odd_member()


def odd_member() -> MalformedMessageError:
    """The error for NaN or an infinity somewhere in a message."""
    return MalformedMessageError("NaN or an infinity in it cannot travel; send None or text instead")


def refuse_odd_message(message: Any, data: bytes) -> None:
    """Raise if a message of a peer's, which came as this MessagePack, holds NaN or an infinity.

    Raises:
        MalformedMessageError: It does; the text says where, if that is found soon.
    """
    if has_odd_float(data):
        if len(data) >= LONG_BYTES:
            raise odd_member()
        refuse_odd_members(message, MOST_SEARCHED)


def _path(place: _Place) -> str:
    steps: list[str] = []
    while place is not None:
        place, key = place
        steps.append(_step(key))
    return "$" + "".join(reversed(steps))


def _step(key: Any) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


# ------------------------------------------------------------------------------------------------ what the codecs raise
def not_encoded(form: str, message: Any, encode: Callable[[Any], bytes], error: Exception) -> MalformedMessageError:
    """The error for a message that ``encode`` failed on, with the path of the member that it failed at."""
    if isinstance(error, RecursionError):
        return MalformedMessageError(f"no {form} for it: nested too deeply, or it contains itself")
    return MalformedMessageError(f"no {form} for it: {reason(error)} - at {_where_it_fails(message, encode)}")


def _where_it_fails(value: Any, encode: Callable[[Any], bytes]) -> str:
    # It ends: each step goes where the encoder went, and the encoder came to an end with its error.
    path = "$"
    while True:
        for step, member in _members(value):
            try:
                encode(member)
            except Exception:
                path, value = path + step, member
                break
        else:
            return path


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        mapping: dict[Any, Any] = value
        for key, member in mapping.items():
            yield _step(key), member
    elif isinstance(value, list | tuple | set | frozenset):
        sequence: Iterable[Any] = value
        for index, member in enumerate(sequence):
            yield _step(index), member
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield _step(name), getattr(value, name, None)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield _step(field.name), getattr(value, field.name, None)


def not_decoded(form: str, data: bytes | str, error: Exception) -> MalformedMessageError:
    """The error for data that could not be decoded."""
    if form == "MessagePack" and isinstance(data, str):
        return MalformedMessageError("text came where MessagePack belongs, which is bytes")
    if isinstance(error, RecursionError):
        return MalformedMessageError(f"not {form}: nested too deeply")
    if isinstance(error, msgspec.ValidationError):
        return MalformedMessageError(f"not the message that belongs here: {reason(error)}; {_HINT}")
    if (
        form == "JSON"
        and not isinstance(data, str)
        and (isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error))
    ):
        # msgspec counts from the start of one text, or says no place (0.23); a reader can look up the message's byte.
        try:
            bytes(data).decode()
        except UnicodeDecodeError as whole:
            return MalformedMessageError(f"not {form}: not UTF-8, {whole.reason} (byte {whole.start})")
    return MalformedMessageError(f"not {form}: {reason(error)}")


def not_an_object(message: Any) -> MalformedMessageError:
    """The error for a message that has a form, but not that of an object."""
    return MalformedMessageError(f"not a message: {type(message).__name__}; {_HINT}")


def reason(error: Exception) -> str:
    """The text of an error, in at most 200 characters."""
    text = str(error) or type(error).__name__
    return text if len(text) <= _REASON_CHARS else text[:_REASON_CHARS] + "..."
