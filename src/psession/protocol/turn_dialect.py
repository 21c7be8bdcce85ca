"""What a connection asks of a dialect of a protocol that knows no sessions, only questions and answers. Pure."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from psession.errors import MalformedMessageError

if TYPE_CHECKING:
    from typing import Self


class Answer(msgspec.Struct, frozen=True):
    """The peer answers a question of this side's; there are no more answers to it."""

    id: Hashable
    payload: Any


class Part(msgspec.Struct, frozen=True):
    """One of many answers to a question of this side's.

    To a ``send`` it is a sign of progress, and its reply where an `End` follows it.
    """

    id: Hashable
    payload: Any


class End(msgspec.Struct, frozen=True):
    """There are no more answers to a question of this side's."""

    id: Hashable


class Failure(msgspec.Struct, frozen=True):
    """The peer answers a question of this side's with an error.

    Attributes:
        id: The question.
        code: The kind of error, as the peer wrote it.
        text: More about it, for people.
        data: More about it, for programs.
        is_refusal: True where it says that nothing was done.
        is_unsent: True where what carries the messages says that the question reached nobody.
    """

    id: Hashable
    code: int | str
    text: str = ""
    data: Any = None
    is_refusal: bool = False
    is_unsent: bool = False


class Question(msgspec.Struct, frozen=True):
    """The peer asks something."""

    id: Hashable
    payload: Any


class Withdrawn(msgspec.Struct, frozen=True):
    """The peer does not want the answer to a question of its own any more."""

    id: Hashable


class Event(msgspec.Struct, frozen=True):
    """A message that is no turn's: it goes to ``on_message``."""

    payload: Any


Word: TypeAlias = Answer | Part | End | Failure | Question | Withdrawn | Event
"""What a message says."""


class TurnDialect(ABC):
    """A protocol whose messages are questions and answers with an id in each, or in order; one object for each link.

    A subclass says how the messages are written and read. The port keeps what is open, matches, times out and gives
    up: which table an id is looked up in follows from the kind of word, never from the id. The one that is given to a
    manager is a model, of which each port gets a copy: state belongs into `begin`.

    Attributes:
        asked: The payloads of this side's questions that wait for their answer, by id, the oldest first; kept by the
            port.
        repeats: True where a question that is not answered is asked again (`Retry`), under a fresh id; the first answer
            to any of them counts. False: a retry only waits on.
        streams: True where a question may have many answers.
        in_order: True where answers have no ids and come in the order of the questions: then one that was given up
            keeps its place until its answer has come. `read` finds the id of the next by ``next(iter(self.asked))``.
    """

    repeats: bool = False
    streams: bool = False
    in_order: bool = False
    asked: dict[Hashable, Any]

    def for_link(self) -> Self:
        """A copy for one link."""
        link = copy.copy(self)
        link.asked = {}
        link.begin()
        return link

    def begin(self) -> None:  # noqa: B027 - a dialect without state needs none
        """Begin the state of a link."""

    # -- this side asks ----------------------------------------------------------------------------------------------

    @abstractmethod
    def new_id(self) -> Hashable:
        """An id that no open question has. Called when the message is written, so that ids may rise on the wire."""

    @abstractmethod
    def ask(self, payload: Any, id: Any) -> Any:
        """The message that asks something. The payload is not changed.

        Raises:
            MalformedMessageError: The payload is none of this protocol's.
        """

    @abstractmethod
    def read(self, message: Any) -> Word | Iterable[Word]:
        """Return what a message of the peer's says; of a batch, or of nothing, an iterable.

        Raises:
            Exception: It is none of this protocol's: it is counted as malformed, and the port goes on.
        """

    def tell(self, payload: Any) -> Any:
        """The message that wants no answer (``post``).

        Raises:
            MalformedMessageError: The protocol has none, or the payload is none of this protocol's.
        """
        raise MalformedMessageError(f"{type(self).__name__} has no messages that want no answer: use request or send")

    def quit(self, id: Any, payload: Any) -> Any:
        """The message that tells the peer that a question was given up which it has; ``None``: there is none."""
        return None

    def unsent(self, id: Any) -> None:  # noqa: B027 - nor one that does not care
        """Take note that a question was never sent."""

    # -- the peer asks -----------------------------------------------------------------------------------------------

    def answer(self, id: Any, payload: Any) -> Any:
        """The message that answers a question of the peer's; ``None`` where it is not to be sent now."""
        raise MalformedMessageError(f"{type(self).__name__} has no answers to questions of the peer's")

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        """The message that answers a question of the peer's with an error; ``None`` where the protocol has none.

        Args:
            id: The question.
            code: Why: ``"refused"`` or ``"refused."`` and the code of a `SessionRefusedError`, among them
                ``no_handler``, ``full``, ``closing`` and ``duplicate`` by the port itself; ``"cancelled"``,
                ``"crashed"``, ``"unanswered"``, ``"aborted"``, or one of ``error_codes``.
            text: More about it, for people; may be empty.
            data: More about it, for programs: that of a `SessionRefusedError`.
        """
        return None

    def call_of(self, payload: Any) -> tuple[str, Any] | None:
        """The method that a question of the peer's calls, and its arguments by name or by position: for a `Service`.

        ``None``: a `Service` finds both in the payload, as on PSession's wires.
        """
        return None

    def is_stream(self, payload: Any) -> bool:
        """Return True if a question of the peer's wants many answers."""
        return False

    def part(self, id: Any, payload: Any) -> Any:
        """The message that is one of many answers."""
        raise MalformedMessageError(f"{type(self).__name__} has no streams")

    def end(self, id: Any) -> Any:
        """The message that says that there are no more answers."""
        raise MalformedMessageError(f"{type(self).__name__} has no streams")

    def malformed(self, why: str) -> Any:
        """The message that tells the peer that one of its own cannot be read; ``None`` where the protocol has none."""
        return None
