"""Where a session's number stands in a message: the wire format, in one place. Pure: no clock, no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

__all__ = ["Envelope"]

_MAX_TEXT_ID = 16
"""Digits of 2**53, the largest integer that JavaScript keeps exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""


class Envelope:
    """Reads and writes the reserved field of a message.

    A message is a mapping; a `msgspec.Struct` or a dataclass that has the field as an attribute works as well.
    """

    __slots__ = ("session_id_name", "text_ids")

    def __init__(self, session_id_name: str = "sid", *, text_ids: bool = False) -> None:
        if not isinstance(session_id_name, str):
            raise TypeError(f"session_id_name must be a str, not {session_id_name!r}")
        if not session_id_name:
            raise ValueError("session_id_name must not be empty")
        self.session_id_name = session_id_name
        self.text_ids = text_ids

    @classmethod
    def classic(cls, session_id_name: str = "sid", *, text_ids: bool = False) -> Envelope:
        """The wire of PSession 1.0: one integer field, put last, and nothing else.

        Args:
            session_id_name: The name of the field.
            text_ids: Take ``"5"`` from a peer as 5. What is sent is an integer always.
        """
        return cls(session_id_name, text_ids=text_ids)

    def __repr__(self) -> str:
        return f"Envelope.classic({self.session_id_name!r}, text_ids={self.text_ids})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Envelope):
            return NotImplemented
        return (self.session_id_name, self.text_ids) == (other.session_id_name, other.text_ids)

    def __hash__(self) -> int:
        return hash((self.session_id_name, self.text_ids))

    def stamp(self, message: Any, sid: int) -> Any:
        """A new message with `sid` in it; the caller's own is left as it was.

        A field of that name that is there already (an echoed message has one) is replaced.

        Raises:
            TypeError: `message` is no mapping, `msgspec.Struct` or dataclass.
        """
        name = self.session_id_name
        if type(message) is dict or isinstance(message, Mapping):
            stamped = dict(message)
            stamped.pop(name, None)
            stamped[name] = sid
            return stamped
        with suppress(TypeError):  # it has no such field
            if isinstance(message, msgspec.Struct):
                return msgspec.structs.replace(message, **{name: sid})
            if dataclasses.is_dataclass(message) and not isinstance(message, type):
                return dataclasses.replace(message, **{name: sid})
        raise TypeError(
            f"a message must be a mapping (or a msgspec.Struct or dataclass with the field {name!r}), "
            f"not {type(message).__name__}: {message!r:.80}"
        )

    def read(self, message: Any) -> int | None:
        """The session's number in `message`, ``None`` where the message is no session's.

        A number is an `int` above 0: ``True``, ``1.0`` and ``"0x5"`` are not.
        """
        if type(message) is dict or isinstance(message, Mapping):
            sid = message.get(self.session_id_name)
        else:
            sid = getattr(message, self.session_id_name, None)
        if type(sid) is int:
            return sid if sid > 0 else None
        if self.text_ids and type(sid) is str:
            return _number(sid)
        return None


def _number(text: str) -> int | None:
    """A plain decimal number above 0: no sign, no space, no leading zero, no digit of another script."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= _MAX_TEXT_ID:
        return int(text)
    return None
