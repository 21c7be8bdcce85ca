"""Plain requests of NATS: a message with a reply subject, and one answer to it. Pure.

The messages are those of the channel that ``nats.requests`` gives; errors are the headers that micro services of NATS
use (``Nats-Service-Error``, ``Nats-Service-Error-Code``, ADR-32), and ``Psession-Code`` beside them.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from psession.errors import MalformedMessageError
from psession.protocol.turn_dialect import Answer, Event, Failure, Question, TurnDialect

if TYPE_CHECKING:
    from psession.protocol.turn_dialect import Word

CODES: Final = {
    "refused.bad_arguments": "400",
    "refused.malformed": "400",
    "refused.unknown_method": "404",
    "refused.no_handler": "404",
    "refused.full": "429",
    "refused.closing": "503",
}
"""What a code of psession's is among those of HTTP, which micro services use; the others are 500."""


class NatsRequests(TurnDialect):
    """Plain requests of NATS, to and from programs that know no psession: `psession.brokers.nats.Nats.requests`.

    What is asked is any value that the channel's codec has a form for, the reply one likewise; an empty payload is
    ``None``. An error has the code that the other side wrote. ``post`` publishes without wanting an answer, which
    ``on_message`` gets there. Nobody there is the error ``"no_responders"``, at once, with the outcome ``"not_sent"``.

    Args:
        by_subject: For a `psession.Service`: the last token of the subject names the method, and the payload is its
            arguments. By default the service finds the method in the payload.
    """

    def __init__(self, *, by_subject: bool = False) -> None:
        self.by_subject = by_subject

    def begin(self) -> None:
        """Number from 1."""
        self._ids = count(1)

    def new_id(self) -> int:
        """The next number."""
        return next(self._ids)

    def ask(self, payload: Any, id: Any) -> Any:
        """A request."""
        return {"kind": "ask", "id": id, "payload": payload}

    def tell(self, payload: Any) -> Any:
        """A message without a reply subject."""
        return {"kind": "tell", "payload": payload}

    def answer(self, id: Any, payload: Any) -> Any:
        """A message to the reply subject."""
        return {"kind": "answer", "id": id, "payload": payload}

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        """The same with the headers of an error; nothing for a question that was given up, since NATS has no such word.

        A `SessionRefusedError` whose code is a number has that one.
        """
        named = code.removeprefix("refused.")
        number = CODES.get(code) or (named if named.isdigit() else "500")
        return {"kind": "fail", "id": id, "payload": data, "number": number, "code": code, "text": text or named}

    def malformed(self, why: str) -> Any:
        """There is no word for that: who asked is told by the channel."""
        return None

    def call_of(self, payload: Any) -> tuple[str, Any] | None:
        """The method is in the subject, where it is to be."""
        if not self.by_subject:
            return None
        return payload["method"], payload["arguments"]

    def read(self, message: Any) -> Word:
        """Tell requests, answers, errors and plain messages apart."""
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is one of nats.requests(), not {message!r:.100}")
        kind, id, payload = message.get("kind"), message.get("id"), message.get("payload")
        if kind in ("ask", "tell") and self.by_subject and "subject" in message:
            payload = {"method": message["subject"].rpartition(".")[2], "arguments": {} if payload is None else payload}
        if kind == "answer":
            return Answer(id, payload)
        if kind == "ask":
            return Question(id, payload)
        if kind == "tell":
            return Event(payload)
        if kind == "unsent":
            return Failure(id, "no_responders", "nobody serves the subject", is_unsent=True)
        if kind != "fail":
            raise MalformedMessageError(f"a message is one of nats.requests(), not {message!r:.100}")
        code = message.get("code") or message.get("number") or "500"
        refused = str(code).partition(".")[0] == "refused"
        return Failure(id, code, str(message.get("text") or ""), payload, refused)
