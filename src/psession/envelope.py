"""Where the reserved fields stand in a message: the wire format, in one place. Pure: no clock, no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

__all__ = ["Envelope", "ExactFields", "Header"]

_INFINITY = float("inf")

LARGEST = 2**53 - 1
"""ECMA-262, Number.MAX_SAFE_INTEGER: RFC 8259, section 6, recommends no integer past it in JSON."""

_MAX_TEXT_ID = 16
"""Digits of 2**53, the largest integer that JavaScript keeps exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExactFields:
    """What the fields of the exact wire are called; docs/protocol.md says how they are used.

    The names start with an underscore so that they meet no field of an application, which may well have an ``error`` or
    an ``end`` of its own.

    Attributes:
        turn: The number of the turn that a message asks.
        re: The number of the turn that a message answers.
        new: On what opens a session: nothing of an earlier session of that number belongs to it.
        end: The sender has nothing more to say: in answer to ``re``, or in the session.
        error: Why there is no answer, or why a turn was given up: a code, or a code, a colon, a space and a text.
        wait: Seconds that the sender still waits; in an answer, how long to wait before asking again.
        life: The epoch of the port that opened the session.
        part: The place of a message among the answers to one turn, or among the posts of one side.
        credit: How many answers to this turn the asker has room for, all that it had before included.
        port: In a message that is no session's: what the accepting side calls the port.
        resume: There too: the secret by which that port is found again.
    """

    turn: str = "_turn"
    re: str = "_re"
    new: str = "_new"
    end: str = "_end"
    error: str = "_error"
    wait: str = "_wait"
    life: str = "_life"
    part: str = "_part"
    credit: str = "_credit"
    port: str = "_port"
    resume: str = "_resume"

    def __post_init__(self) -> None:
        names = dataclasses.astuple(self)
        for name in names:
            if not isinstance(name, str) or not name:
                raise TypeError(f"a field's name must be a str with something in it, not {name!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"the names of the fields must differ: {', '.join(names)}")


class Header(NamedTuple):
    """The exact fields of one message, checked; ``None`` (or ``False``) where a field is not there."""

    turn: int | None
    re: int | None
    new: bool
    end: bool
    error: str | None
    wait: float | None
    life: int | None
    part: int | None
    credit: int | None


class Envelope:
    """Reads and writes the reserved fields of a message.

    A message is a mapping; a `msgspec.Struct` or a dataclass that has the fields as attributes works as well.

    Attributes:
        session_id_name: The field that holds the session's number.
        text_ids: Whether ``"5"`` is taken for 5.
        is_exact: Whether this side numbers the turns that it asks. Those of the peer are answered exactly either way.
        fields: The names of the exact fields.
    """

    __slots__ = ("_exact_names", "_names", "_reserved", "fields", "is_exact", "session_id_name", "text_ids")

    def __init__(
        self,
        session_id_name: str = "sid",
        *,
        text_ids: bool = False,
        is_exact: bool = False,
        fields: ExactFields | None = None,
    ) -> None:
        if not isinstance(session_id_name, str):
            raise TypeError(f"session_id_name must be a str, not {session_id_name!r}")
        if not session_id_name:
            raise ValueError("session_id_name must not be empty")
        if fields is not None and not isinstance(fields, ExactFields):
            raise TypeError(f"fields must be ExactFields, not {fields!r}")
        self.session_id_name = session_id_name
        self.text_ids = text_ids
        self.is_exact = is_exact
        self.fields = fields or ExactFields()
        self._names = dataclasses.astuple(self.fields)
        self._exact_names = frozenset(self._names)
        self._reserved = self._exact_names | {session_id_name}
        if session_id_name in self._exact_names:
            raise ValueError(f"session_id_name {session_id_name!r} is the name of an exact field as well")

    @classmethod
    def classic(cls, session_id_name: str = "sid", *, text_ids: bool = False) -> Envelope:
        """The wire of PSession 1.0: one integer field, put last, and nothing else.

        Args:
            session_id_name: The name of the field.
            text_ids: Take ``"5"`` from a peer as 5. What is sent is an integer always.
        """
        return cls(session_id_name, text_ids=text_ids)

    @classmethod
    def exact(
        cls, session_id_name: str = "sid", *, text_ids: bool = False, fields: ExactFields | None = None
    ) -> Envelope:
        """Numbered turns: no late, repeated or stray reply can answer another turn, and no turn is run twice."""
        return cls(session_id_name, text_ids=text_ids, is_exact=True, fields=fields)

    def __repr__(self) -> str:
        kind = "exact" if self.is_exact else "classic"
        return f"Envelope.{kind}({self.session_id_name!r}, text_ids={self.text_ids})"

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Envelope) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.session_id_name, self.text_ids, self.is_exact, self.fields

    @property
    def exact_names(self) -> frozenset[str]:
        """The names of all exact fields."""
        return self._exact_names

    # -- writing -----------------------------------------------------------------------------------------------------

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
        return self._replace(message, {name: sid})

    def seal(self, message: Any, sid: int, fields: dict[str, Any]) -> Any:
        """A new message with `sid` and these exact `fields`, and no other exact field that it may have had.

        Raises:
            TypeError: `message` is no mapping, nor a `msgspec.Struct` or dataclass that has these fields.
        """
        name = self.session_id_name
        if type(message) is dict or isinstance(message, Mapping):
            sealed = {**message, name: sid, **fields}
            for reserved in self._exact_names.intersection(message):  # an echoed message
                if reserved not in fields:
                    del sealed[reserved]
            return sealed
        gone = {field: None for field in self._names if field not in fields and getattr(message, field, None)}
        return self._replace(message, {name: sid, **gone, **fields})

    def _replace(self, message: Any, fields: dict[str, Any]) -> Any:
        with suppress(TypeError):  # it has no such field
            if isinstance(message, msgspec.Struct):
                return msgspec.structs.replace(message, **fields)
            if dataclasses.is_dataclass(message) and not isinstance(message, type):
                return dataclasses.replace(message, **fields)
        names = " and ".join(map(repr, fields))
        raise TypeError(
            f"a message must be a mapping (or a msgspec.Struct or dataclass with the field {names}), "
            f"not {type(message).__name__}: {message!r:.80}"
        )

    # -- reading -----------------------------------------------------------------------------------------------------

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

    def marks(self, message: Any) -> bool:
        """Whether `message` has exact fields; one that is null is not there."""
        if type(message) is dict or isinstance(message, Mapping):
            if self._exact_names.isdisjoint(message):
                return False
            return any(message.get(name) is not None for name in self._names)
        return any(getattr(message, name, None) is not None for name in self._names)

    def is_bare(self, message: Any) -> bool:
        """Whether nothing in `message` is the application's; in one of a fixed form all that is has its default."""
        if type(message) is dict or isinstance(message, Mapping):
            return self._reserved.issuperset(message)
        if isinstance(message, msgspec.Struct):
            known = {field.name: field.default for field in msgspec.structs.fields(message)}
        elif dataclasses.is_dataclass(message):
            known = {field.name: field.default for field in dataclasses.fields(message)}
        else:
            return False
        return all(getattr(message, name) == value for name, value in known.items() if name not in self._reserved)

    def turn_of(self, message: Any) -> Any:
        """What stands where the number of a turn stands."""
        if type(message) is dict or isinstance(message, Mapping):
            return message.get(self.fields.turn)
        return getattr(message, self.fields.turn, None)

    def header(self, message: Any) -> Header | None:
        """The exact fields of `message`; ``None`` where one of them is not what it must be."""
        if type(message) is dict or isinstance(message, Mapping):
            values = tuple(map(message.get, self._names))
        else:
            values = tuple(getattr(message, name, None) for name in self._names)
        turn, re, new, end, error, wait, life, part, credit, _port, _resume = values
        for number in (turn, re, life, part, credit):
            if number is not None and not (type(number) is int and 0 <= number <= LARGEST):
                return None
        if turn == 0 or re == 0 or credit == 0 or not (error is None or type(error) is str):
            return None
        if not is_wait(wait):
            return None
        if not (new is None or new is True or new is False) or not (end is None or end is True or end is False):
            return None
        return Header(turn, re, new is True, end is True, error, wait, life, part, credit)


def is_wait(value: object) -> bool:
    """Whether this is a number of seconds to wait, or none."""
    return value is None or ((type(value) is float or type(value) is int) and 0 <= value < _INFINITY)


def _number(text: str) -> int | None:
    """A plain decimal number above 0: no sign, no space, no leading zero, no digit of another script."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= _MAX_TEXT_ID:
        return int(text)
    return None
