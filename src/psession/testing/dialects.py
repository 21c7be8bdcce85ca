"""The contract that every `TurnDialect` keeps, checked clause by clause."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

from psession.protocol.turn_dialect import Answer, End, Event, Failure, Part, Question, TurnDialect, Withdrawn

__all__ = ["check_dialect"]

MANY: Final = 1000
"""Questions that are asked, each with an id that no other has."""

WORDS: Final = (Answer, Part, End, Failure, Question, Withdrawn, Event)

RUBBISH: Final[list[Any]] = [
    *(None, True, 0, 1.5, "", "text", b"\x00", [], {}, [[]], [{}], {"": None}),
    {"id": None},
    {"id": [1]},
    {"id": {"a": 1}},
    {"id": True},
    {"id": 10**400},
    {"method": 5, "params": 5, "type": 5, "result": 5, "error": 5},
]
"""What a peer may send that speaks another protocol; a dialect may raise on it, or return words."""


def check_dialect(
    dialect: TurnDialect,
    question: Any,
    *,
    answer: Callable[[Any], Any] | None = None,
    failure: Callable[[Any], Any] | None = None,
    event: Any = None,
    both_ways: bool = False,
) -> None:
    """Check that a dialect keeps the contract that a port relies on.

    ::

        def test_my_dialect():
            check_dialect(
                Qmp(),
                {"execute": "query-status"},
                answer=lambda asked: {"return": {"running": True}, "id": asked["id"]},
                failure=lambda asked: {"error": {"class": "GenericError", "desc": "no"}, "id": asked["id"]},
                event={"event": "STOP"},
            )

    Each link has a state of its own; ids differ, can be looked up, and come back; the caller's payload is not changed;
    a message is read as what it is, and rubbish as nothing worse than an error.

    Args:
        dialect: The dialect.
        question: A payload that it asks.
        answer: Makes the peer's answer to the message that asked; needed where the protocol is not the same both ways.
        failure: Makes its error, likewise; ``None``: the protocol has none.
        event: A message of the peer's that is no turn's; ``None``: it has none.
        both_ways: True where both sides speak the protocol in the same way: then the dialect answers itself.

    Raises:
        AssertionError: A clause is not kept; the text says which.
    """
    asker, other = dialect.for_link(), dialect.for_link()
    _check_links(dialect, asker, other)
    asked = _check_ids(asker, question)
    _check_rubbish(asker)
    peer = dialect.for_link() if both_ways else None
    if peer is not None:
        _check_peer(asker, peer, question, asked)
        return
    message = asked[next(iter(asked))]
    id = next(iter(asked))
    if answer is not None:
        word = _one(asker, answer(message), "the peer's answer")
        _expect(type(word) in (Answer, Part), f"the peer's answer is read as {word!r}, and not as an Answer or a Part")
        _expect(word.id == id, f"the answer to {id!r} is read as one to {word.id!r}")
    if failure is not None:
        word = _one(asker, failure(message), "the peer's error")
        _expect(type(word) is Failure, f"the peer's error is read as {word!r}, and not as a Failure")
        _expect(word.id == id, f"the error for {id!r} is read as one for {word.id!r}")
        _expect(type(word.code) in (int, str), f"an error's code is a number or a text, not {word.code!r}")
    if event is not None:
        word = _one(asker, event, "the event")
        _expect(type(word) is Event, f"the event is read as {word!r}, and not as an Event")


def _check_links(model: TurnDialect, first: TurnDialect, second: TurnDialect) -> None:
    _expect(first is not second and first is not model, "for_link() must return a copy")
    _expect(first.asked is not second.asked, "each link has its own `asked`: for_link() must call the base class's")
    for name, value in vars(first).items():
        shared = isinstance(value, dict | list | set) and value is getattr(second, name, None)
        _expect(not shared, f"two links share {name!r}: make it in begin(), which is called for each link")


def _check_ids(dialect: TurnDialect, question: Any) -> dict[Hashable, Any]:
    """Ask many times. Return the messages by their ids."""
    before = copy.deepcopy(question)
    asked: dict[Hashable, Any] = {}
    for _ in range(MANY):
        id = dialect.new_id()
        try:
            hash(id)
        except TypeError:
            raise AssertionError(f"new_id() must return what has a hash, not {id!r}") from None
        _expect(id not in asked, f"new_id() gave {id!r} twice, while it was open")
        asked[id] = dialect.ask(question, id)
        dialect.asked[id] = question
        _expect(question == before, f"ask() changed its payload from {before!r} to {question!r}")
    return asked


def _check_rubbish(dialect: TurnDialect) -> None:
    for message in RUBBISH:
        before = copy.deepcopy(message)
        try:
            words = _words(dialect.read(message))
        except Exception:
            continue
        _expect(message == before, f"read() changed its message {before!r}")
        _expect(all(isinstance(word, WORDS) for word in words), f"read({message!r}) returned {words!r}")


def _check_peer(asker: TurnDialect, peer: TurnDialect, question: Any, asked: dict[Hashable, Any]) -> None:
    """The dialect at the other end reads and answers what this one writes."""
    ids = iter(asked)
    id = next(ids)
    word = _one(peer, asked[id], "the question")
    _expect(type(word) is Question, f"the question is read as {word!r}, and not as a Question")
    _expect(word.payload == question, f"the payload {question!r} is read as {word.payload!r}")
    reply = {"answer": [1, "two", None]}
    word = _one(asker, peer.answer(word.id, reply), "the answer")
    _expect(type(word) is Answer and word.id == id, f"the answer to {id!r} is read as {word!r}")
    _expect(word.payload == reply, f"the answer {reply!r} is read as {word.payload!r}")
    id = next(ids)
    word = _one(peer, asked[id], "the question")
    failed = peer.fail(word.id, "refused.why", "a text", None)
    if failed is not None:
        word = _one(asker, failed, "the error")
        _expect(type(word) is Failure and word.id == id, f"the error for {id!r} is read as {word!r}")
    id = next(ids)
    theirs = _one(peer, asked[id], "the question").id
    given_up = asker.quit(id, question)
    if given_up is not None:
        words = _words(peer.read(given_up))
        _expect(Withdrawn(theirs) in words, f"giving up {id!r} is read as {words!r}, and not as Withdrawn({theirs!r})")


def _words(read: Any) -> list[Any]:
    return [read] if isinstance(read, WORDS) else list(_iterable(read))


def _iterable(read: Any) -> Iterable[Any]:
    if not isinstance(read, Iterable):
        raise AssertionError(f"read() must return a word or an iterable of words, not {read!r}")
    return read


def _one(dialect: TurnDialect, message: Any, what: str) -> Any:
    words = _words(dialect.read(message))
    _expect(len(words) == 1, f"{what}, {message!r:.200}, is read as {words!r}, and not as one word")
    return words[0]


def _expect(is_kept: bool, text: str) -> None:
    if not is_kept:
        raise AssertionError(text)
