"""The Debug Adapter Protocol, 1.68 (microsoft.github.io/debug-adapter-protocol). Pure."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from psession.errors import MalformedMessageError
from psession.protocol.turn_dialect import Answer, Event, Failure, Question, TurnDialect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psession.protocol.turn_dialect import Word


class Dap(TurnDialect):
    """The Debug Adapter Protocol, over `psession.channels.content_length`.

    What is asked is ``{"command": ..., "arguments": {...}}``, the reply the response's ``body``. ``on_message`` gets
    the events, as ``{"event", "body"}``; ``on_request`` the adapter's own questions (``runInTerminal``,
    ``startDebugging``), in the form that this side asks in. A request that is given up is cancelled by the request
    ``cancel``, which an adapter with ``supportsCancelRequest`` understands.

    Args:
        cancels: True where the adapter said ``supportsCancelRequest``.
    """

    def __init__(self, *, cancels: bool = False) -> None:
        self.cancels = cancels

    def begin(self) -> None:
        """Number from 1, as the protocol wants it."""
        self._ids = count(1)
        self._commands: dict[int, str] = {}

    def new_id(self) -> int:
        """The next ``seq``."""
        return next(self._ids)

    def ask(self, payload: Any, id: Any) -> Any:
        """A request."""
        if not isinstance(payload, dict) or type(payload.get("command")) is not str:
            raise MalformedMessageError(f'a payload is {{"command": "...", "arguments": ...}}, not {payload!r:.100}')
        if not payload.keys() <= {"command", "arguments"}:
            raise MalformedMessageError(f"a payload has a command and arguments, not {', '.join(sorted(payload))}")
        return {"seq": id, "type": "request", **payload}

    def quit(self, id: Any, payload: Any) -> Any:
        """The request ``cancel``, whose answer nobody waits for."""
        if not self.cancels:
            return None
        return self.ask({"command": "cancel", "arguments": {"requestId": id}}, self.new_id())

    def answer(self, id: Any, payload: Any) -> Any:
        """A response that says success."""
        return self._response(id, success=True, body=payload)

    def call_of(self, payload: Any) -> tuple[str, Any]:
        """The command and its arguments."""
        return payload["command"], payload.get("arguments", {})

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        """A response that says why there is none; its ``message`` is the code, for programs."""
        code = code.removeprefix("refused.")
        return self._response(id, success=False, message=code, body={"error": {"id": 1, "format": text or code}})

    def _response(self, id: Any, **rest: Any) -> Any:
        command = self._commands.pop(id, "")
        return {"seq": self.new_id(), "type": "response", "request_seq": id, "command": command, **rest}

    def read(self, message: Any) -> Word | Iterable[Word]:
        """Tell requests, responses and events apart."""
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is an object, not {message!r:.100}")
        kind = message.get("type")
        if kind == "response":
            id = _seq(message, "request_seq")
            if message.get("success") is True:
                return Answer(id, message.get("body"))
            return _failure(id, message)
        if kind == "event":
            return Event({"event": message.get("event"), "body": message.get("body")})
        if kind != "request" or type(message.get("command")) is not str:
            raise MalformedMessageError(f"a message is a request, a response or an event, not {kind!r:.100}")
        id = _seq(message, "seq")
        self._commands[id] = message["command"]
        question = {name: message[name] for name in ("command", "arguments") if name in message}
        return Question(id, question)


def _seq(message: dict[str, Any], name: str) -> int:
    seq = message.get(name)
    if type(seq) is not int:
        raise MalformedMessageError(f"{name} must be an integer, not {seq!r:.100}")
    return seq


def _failure(id: int, message: dict[str, Any]) -> Failure:
    body = message.get("body")
    error = body.get("error") if type(body) is dict else None
    code, text = message.get("message"), ""
    if type(error) is dict:
        text = str(error.get("format", ""))
        for name, value in (error.get("variables") or {}).items():
            text = text.replace(f"{{{name}}}", str(value))
    return Failure(id, code if type(code) is str else "failed", text or str(code or ""), error)
