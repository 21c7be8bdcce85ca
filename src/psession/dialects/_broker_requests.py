"""Plain requests over a broker: a message with an address for its one answer. Pure.

The messages are those of the channels that ``nats.requests`` and ``mqtt.requests`` give.
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


class BrokerRequests(TurnDialect):
    """The part of `NatsRequests` and `MqttRequests` that is the same; ``separator`` divides an address."""

    separator: str
    _address: str
    """What a message has its address under."""
    _where: str
    """What an address is called, and where the messages are from, in texts."""
    _is_by_method = False

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
        """A message that wants no answer."""
        return {"kind": "tell", "payload": payload}

    def answer(self, id: Any, payload: Any) -> Any:
        """A message to where the answer is wanted."""
        return {"kind": "answer", "id": id, "payload": payload}

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        """The same with the headers of an error; nothing for a question that was given up, since there is no such word.

        A `SessionRefusedError` whose code is a number has that one.
        """
        named = code.removeprefix("refused.")
        number = CODES.get(code) or (named if named.isdigit() else "500")
        return {"kind": "fail", "id": id, "payload": data, "number": number, "code": code, "text": text or named}

    def malformed(self, why: str) -> Any:
        """There is no word for that: who asked is told by the channel."""
        return None

    def call_of(self, payload: Any) -> tuple[str, Any] | None:
        """The method is in the address, where it is to be."""
        if not self._is_by_method:
            return None
        return payload["method"], payload["arguments"]

    def read(self, message: Any) -> Word:
        """Tell requests, answers, errors and plain messages apart."""
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is one of {self._where}, not {message!r:.100}")
        kind, id, payload = message.get("kind"), message.get("id"), message.get("payload")
        if kind in ("ask", "tell") and self._is_by_method and self._address in message:
            payload = {
                "method": message[self._address].rpartition(self.separator)[2],
                "arguments": {} if payload is None else payload,
            }
        if kind == "answer":
            return Answer(id, payload)
        if kind == "ask":
            return Question(id, payload)
        if kind == "tell":
            return Event(payload)
        if kind == "unsent":
            return Failure(id, "no_responders", f"nobody serves the {self._address}", is_unsent=True)
        if kind != "fail":
            raise MalformedMessageError(f"a message is one of {self._where}, not {message!r:.100}")
        code = message.get("code") or message.get("number") or "500"
        refused = str(code).partition(".")[0] == "refused"
        return Failure(id, code, str(message.get("text") or ""), payload, refused)
