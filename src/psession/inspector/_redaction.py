"""Payloads as a line of text: bounded, and without secrets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from operator import is_
from typing import Any, Final, TypeAlias

import msgspec

HIDDEN: Final = "[redacted]"

MAX_CHARS: Final = 300
"""Of a payload as text; a line of the page has less."""
MAX_VALUES: Final = 60
MAX_DEPTH: Final = 6
MAX_REPR_DEPTH: Final = 50
"""Where a payload for a ``repr`` is cut off: it may hold itself."""
MAX_TEXT_CHARS: Final = 100
"""Of one text in a payload. Together these bound the time that a payload of any size takes."""

_SECRETS: Final = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "apikey",
    "privatekey",
)

Redact: TypeAlias = Callable[[str, Any], Any]
"""Gets the name of a field and its value, and returns what to show. The name of a whole payload is ``""``."""


def redact_secrets(name: str, value: Any) -> Any:
    """Hide the values of fields that are called like a secret; `serve` does so unless told otherwise.

    Args:
        name: The name of the field. Case, ``_`` and ``-`` do not matter: ``"API-Key"`` and ``"api_key"`` are hidden.
        value: Its value. A secret inside a text is not found.
    """
    plain = name.lower().replace("_", "").replace("-", "")
    return HIDDEN if any(word in plain for word in _SECRETS) else value


def without_secrets(payload: Any, depth: int = 0) -> Any:
    """Return a payload with the values of fields that `redact_secrets` hides replaced, for its ``repr``.

    What has no such field is the same object; a Struct or a dataclass that has one becomes a dict.
    """
    if isinstance(payload, msgspec.Struct):
        members: Any = {name: getattr(payload, name) for name in payload.__struct_fields__}
    elif is_dataclass(payload) and not isinstance(payload, type):
        members = {field.name: getattr(payload, field.name) for field in fields(payload)}
    elif isinstance(payload, Mapping):
        members = payload
    elif isinstance(payload, list | tuple):
        if depth == MAX_REPR_DEPTH:
            return f"<{len(payload)} items>"
        items = [without_secrets(item, depth + 1) for item in payload]
        return payload if all(map(is_, items, payload)) else items
    else:
        return payload
    if depth == MAX_REPR_DEPTH:
        return f"<{len(members)} fields>"
    copy = {
        name: without_secrets(redact_secrets(name, value) if isinstance(name, str) else value, depth + 1)
        for name, value in members.items()
    }
    return payload if all(map(is_, copy.values(), members.values())) else copy


def shown(payload: Any, redact: Redact) -> str:
    """Return a payload as one line of text. What cannot be shown or redacted is not shown."""
    try:
        text = msgspec.json.encode(_Copy(redact).of("", payload, 0)).decode()
    except Exception as error:
        return f"[cannot be shown: {type(error).__name__}]"
    return cut(text, MAX_CHARS)


def cut(text: str, chars: int) -> str:
    """Return the text, or its beginning and three dots."""
    return text if len(text) <= chars else text[: chars - 3] + "..."


class _Copy:
    """A redacted copy of one payload, of values that JSON has."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._left = MAX_VALUES

    def of(self, name: str, value: Any, depth: int) -> Any:
        self._left -= 1
        value = self._redact(name, value)
        if isinstance(value, str):
            return cut(value, MAX_TEXT_CHARS)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if value.bit_length() <= 63 else f"<int of {value.bit_length()} bits>"
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, msgspec.Struct):
            value = {name: getattr(value, name) for name in value.__struct_fields__[:MAX_VALUES]}
        elif is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in fields(value)[:MAX_VALUES]}
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple):
            return self._items(value, name, depth)
        return f"<{type(value).__name__}>"  # its repr might say anything, at any length

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        if depth == MAX_DEPTH or self._left <= 0:
            return f"<{len(value)} fields>"
        copy: dict[str, Any] = {}
        for key in islice(value, MAX_VALUES):
            if self._left <= 0:
                break
            name = key if isinstance(key, str) else f"<{type(key).__name__}>" if not isinstance(key, int) else str(key)
            copy[cut(name, MAX_TEXT_CHARS)] = self.of(name, value[key], depth + 1)
        if len(copy) < len(value):
            copy["..."] = f"{len(value) - len(copy)} more"
        return copy

    def _items(self, value: list[Any] | tuple[Any, ...], name: str, depth: int) -> Any:
        if depth == MAX_DEPTH or self._left <= 0:
            return f"<{len(value)} items>"
        copy: list[Any] = []
        for item in islice(value, MAX_VALUES):
            if self._left <= 0:
                break
            copy.append(self.of(name, item, depth + 1))
        if len(copy) < len(value):
            copy.append(f"... {len(value) - len(copy)} more")
        return copy
