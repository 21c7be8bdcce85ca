"""What a connection asks of a dialect: how headers are written and read. Pure."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psession.protocol.header import Header


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFields:
    """The names of the fields of the exact wire; docs/protocol.md says how they are used.

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
        traceparent: On a question: the asker's place in a trace (W3C Trace Context), which nothing else depends on.
        tracestate: There too: what the vendors of tracing systems add to it.
        port: In a message that is no session's: the name that the accepting side gives the port.
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
    traceparent: str = "_traceparent"
    tracestate: str = "_tracestate"
    port: str = "_port"
    resume: str = "_resume"

    def __post_init__(self) -> None:
        names = dataclasses.astuple(self)
        for name in names:
            if not isinstance(name, str) or not name:
                raise TypeError(f"a field's name must be a str with something in it, not {name!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"the names of the fields must differ: {', '.join(names)}")


class Dialect(ABC):
    """A way to write headers beside payloads, and to read them: that of one protocol.

    A dialect has no state: one object may serve any number of ports.

    Attributes:
        session_id_name: The field of a message that holds the session's number.
        fields: The names of the exact fields.
        exact_names: The same as a set.
        asks_exactly: True where this side numbers the turns that it asks. Those of the peer are answered exactly
            either way.
        tells_questions: True where `is_question` can tell.
    """

    __slots__ = ("exact_names", "fields", "session_id_name", "tells_questions")

    session_id_name: str
    fields: ExactFields
    exact_names: frozenset[str]
    asks_exactly: bool
    tells_questions: bool

    @abstractmethod
    def open(self, payload: Any, sid: int, *, exact: bool) -> tuple[Any, dict[str, Any]]:
        """Begin a message of a payload and a session's number. The payload is not changed.

        Args:
            payload: The payload.
            sid: The number.
            exact: True where exact fields follow.

        Returns:
            The message, and the dict that its exact fields are to be put into, by their names: one made for them, to be
            joined to the message, would be half of what it costs.

        Raises:
            MalformedMessageError: The payload has a field of psession's own.
        """

    def join(self, payload: Any, sid: int, header: dict[str, Any]) -> Any:
        """Make a message of a payload, a session's number and exact fields by their names; no fields: classic."""
        message, fields = self.open(payload, sid, exact=bool(header))
        fields.update(header)
        return message

    @abstractmethod
    def check_plain(self, payload: Any) -> None:
        """Refuse a payload that would be taken for a session's message.

        Raises:
            MalformedMessageError: It has a session's number in it.
        """

    @abstractmethod
    def fields_of(self, message: Any) -> dict[str, Any] | None:
        """All fields of a message, not to be changed; ``None`` where it is no object."""

    @abstractmethod
    def sid_of(self, fields: dict[str, Any]) -> Any:
        """The session's number; ``None`` where the message is no session's.

        An `int` above 0. A peer that asks without exact fields may name its sessions by any other value that has a
        hash, such as a text: the answers bear it as it came. This side's own sessions have numbers.
        """

    @abstractmethod
    def header_of(self, fields: dict[str, Any]) -> Header | None:
        """The exact fields; ``None`` where one of them is not what it must be."""

    @abstractmethod
    def payload_of(self, message: Any, *, exact: bool) -> Any:
        """The payload of a session's message, without its number and, where it is `exact`, without the exact fields.

        Raises:
            MalformedMessageError: It is not of the type that the codec was given.
        """

    @abstractmethod
    def whole(self, message: Any) -> Any:
        """The payload of a message that is no session's: all of it.

        Raises:
            MalformedMessageError: It is not of the type that the codec was given.
        """

    @abstractmethod
    def is_bare(self, message: Any) -> bool:
        """Return True if nothing in a message is the application's."""

    @abstractmethod
    def is_empty(self, payload: Any) -> bool:
        """Return True if a payload has no members of its own on the wire."""

    @abstractmethod
    def is_question(self, fields: dict[str, Any]) -> bool:
        """Return True if a message without exact fields asks something, whatever its number says."""
