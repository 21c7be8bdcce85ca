"""The two wires of PSession: flat fields beside the application's own. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from psession.checks import LARGEST
from psession.errors import MalformedMessageError
from psession.message import Joined
from psession.protocol.dialect import Dialect, ExactFields
from psession.protocol.header import Header, checked

_FIELDS: Final = ExactFields()
_MAX_TEXT_ID: Final = 16
"""Digits of 2**53, the largest integer that JavaScript keeps exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""

Question = Callable[[Mapping[str, Any]], bool]


class _Flat(Dialect):
    """Fields that stand in one object with the payload's own: ``{"command": "status", "sid": 5}``."""

    __slots__ = ("_header_names", "_is_question", "_refused", "_reserved", "_sid_alone", "text_ids")

    def __init__(
        self,
        session_id_name: str = "sid",
        *,
        text_ids: bool = False,
        fields: ExactFields | None = None,
        is_question: Question | None = None,
    ) -> None:
        if not isinstance(session_id_name, str):
            raise TypeError(f"session_id_name must be a str, not {session_id_name!r}")
        if not session_id_name:
            raise ValueError("session_id_name must not be empty")
        if fields is not None and not isinstance(fields, ExactFields):
            raise TypeError(f"fields must be ExactFields, not {fields!r}")
        if is_question is not None and not callable(is_question):
            raise TypeError(f"is_question must be callable, not {is_question!r}")
        self.session_id_name = session_id_name
        self.text_ids: bool = text_ids
        self.fields: ExactFields = fields or _FIELDS
        names = dataclasses.astuple(self.fields)
        self.exact_names: frozenset[str] = frozenset(names)
        if session_id_name in self.exact_names:
            raise ValueError(f"session_id_name {session_id_name!r} is the name of an exact field as well")
        self._header_names = names[:11]
        self._sid_alone = frozenset((session_id_name,))
        self._reserved = self.exact_names | self._sid_alone
        if is_question is None and session_id_name == "id":
            is_question = _is_json_rpc_question
        self._is_question = is_question
        self.tells_questions: bool = is_question is not None
        self._refused: dict[tuple[type, bool], str | None] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id_name!r}, text_ids={self.text_ids})"

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, _Flat) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return type(self), self.session_id_name, self.text_ids, self.fields, self._is_question

    # -- writing -----------------------------------------------------------------------------------------------------

    def open(self, payload: Any, sid: int, *, exact: bool) -> tuple[Any, dict[str, Any]]:
        """Begin a message: the payload's own fields first, then the number; the header is put behind them."""
        if type(payload) is dict:
            message = payload.copy()  # half the price of `{**payload}`
        elif isinstance(payload, Mapping):
            message = dict(payload)
        else:
            self._check_type(payload, exact=exact)
            fields = {self.session_id_name: sid}
            return Joined(payload, fields), fields
        if exact:
            if not self._reserved.isdisjoint(payload):
                raise self._reserved_name(next(name for name in payload if name in self._reserved))
        elif self.session_id_name in payload:
            raise self._reserved_name(self.session_id_name)
        message[self.session_id_name] = sid
        return message, message

    def check_plain(self, payload: Any) -> None:
        """Refuse a payload that has a session's number in it."""
        if isinstance(payload, Mapping):
            if self.session_id_name in payload:
                raise self._reserved_name(self.session_id_name)
        else:
            self._check_type(payload, exact=False)

    def _check_type(self, payload: Any, *, exact: bool) -> None:
        """Refuse a Struct or dataclass that has a field of psession's own; found out once for each type."""
        kind = type(payload)
        if (kind, exact) not in self._refused:
            reserved = self._reserved if exact else self._sid_alone
            self._refused[kind, exact] = next((name for name in _field_names(kind) if name in reserved), None)
        name = self._refused[kind, exact]
        if name is not None:
            raise self._reserved_name(name)

    def _reserved_name(self, name: str) -> MalformedMessageError:
        if name == self.session_id_name:
            remedy = "leave it out, session.sid has the number; or choose another name for it with session_id_name="
        else:
            remedy = "rename it, or choose other names for psession's own with fields=ExactFields(...)"
        return MalformedMessageError(f"the payload has a field {name!r}, which is psession's own here: {remedy}")

    # -- reading -----------------------------------------------------------------------------------------------------

    def fields_of(self, message: Any) -> dict[str, Any] | None:
        """All fields of a message; of a `Joined` those of the wire alone."""
        if type(message) is dict:
            return message
        if isinstance(message, Mapping):
            return dict(message)
        fields = getattr(message, "fields", None)
        return fields if type(fields) is dict and hasattr(message, "payload") else None

    def sid_of(self, fields: dict[str, Any]) -> int | None:
        """The session's number: an `int` from 1 to 2**53 - 1. ``True``, ``1.0`` and ``"0x5"`` are none."""
        sid = fields.get(self.session_id_name)
        if type(sid) is int:
            return sid if 0 < sid <= LARGEST else None
        return _number(sid) if self.text_ids and type(sid) is str else None

    def header_of(self, fields: dict[str, Any]) -> Header | None:
        """The exact fields, checked."""
        return checked(tuple(map(fields.get, self._header_names)))

    def payload_of(self, message: Any, *, exact: bool) -> Any:
        """The payload: a new dict without the reserved names, or whatever the codec's type makes of it."""
        without = self._reserved if exact else self._sid_alone
        if type(message) is dict or isinstance(message, Mapping):
            return {name: value for name, value in message.items() if name not in without}
        return message.payload(without)

    def whole(self, message: Any) -> Any:
        """All of a message."""
        if type(message) is dict or not (hasattr(message, "fields") and hasattr(message, "payload")):
            return message
        return message.payload(frozenset())

    def is_bare(self, message: Any) -> bool:
        """Return True if a message has reserved names alone. A `Joined` has a payload beside its fields."""
        if type(message) is Joined:
            return False
        fields = self.fields_of(message)
        return fields is not None and self._reserved.issuperset(fields)

    def is_empty(self, payload: Any) -> bool:
        """Return True for an empty mapping, and for a Struct or dataclass that encodes to one."""
        return not (payload if isinstance(payload, Mapping) else msgspec.to_builtins(payload))

    def is_question(self, fields: dict[str, Any]) -> bool:
        """Return True if the application's own test says so; without one it cannot be told."""
        return self._is_question is not None and self._is_question(fields)


class Classic(_Flat):
    """The wire of PSession 1.0: one integer field, put last, and nothing else.

    A message with a number of this side's is an answer, any other a question: the wire says no more. Exact questions
    of the peer's are answered exactly all the same.

    Args:
        session_id_name: The name of the field.
        text_ids: Take ``"5"`` from a peer as 5. What is sent is an integer always.
        fields: Other names for the exact fields, which an exact peer may use.
        is_question: Called with the fields of a message; returns True where it asks something, so that a question of
            the peer's under a number of this side's is not taken for an answer. Where the number is called ``"id"``
            it is by default the rule of JSON-RPC 2.0, section 4: a message with ``"method"`` asks.
    """

    __slots__ = ()
    asks_exactly = False


class Exact(_Flat):
    """The wire that numbers its turns: no late, repeated or stray reply can answer another turn, and none is run twice.

    A peer that knows only the classic wire answers as it would there.

    Args:
        session_id_name: The name of the field for the session's number.
        text_ids: Take ``"5"`` from a peer as 5. What is sent is an integer always.
        fields: Other names for the exact fields.
        is_question: As for `Classic`; for messages of peers that are not exact.
    """

    __slots__ = ()
    asks_exactly = True


def _is_json_rpc_question(fields: Mapping[str, Any]) -> bool:
    return "method" in fields


def _field_names(kind: type) -> list[str]:
    """The names that a type's fields have on the wire, its tag's included; none where it has no fields."""
    if issubclass(kind, msgspec.Struct):
        tag = kind.__struct_config__.tag_field
        return [*kind.__struct_encode_fields__, *([tag] if tag is not None else [])]
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return []


def _number(text: str) -> int | None:
    """A plain decimal number above 0: no sign, no space, no leading zero, no digit of another script."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= _MAX_TEXT_ID:
        number = int(text)
        return number if number <= LARGEST else None
    return None
