"""JSON-RPC 2.0 (jsonrpc.org/specification, 2013), and the protocols that are made of it. Pure."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from psession.errors import MalformedMessageError
from psession.protocol.turn_dialect import Answer, Event, Failure, Part, Question, TurnDialect, Withdrawn

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from psession.protocol.turn_dialect import Word

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
SERVER_ERROR: Final = -32000
REQUEST_CANCELLED: Final = -32800
"""LSP 3.17, `ErrorCodes.RequestCancelled`; JSON-RPC itself has no word for it."""

CODES: Final[Mapping[str, int]] = {
    "refused.unknown_method": METHOD_NOT_FOUND,
    "refused.no_handler": METHOD_NOT_FOUND,
    "refused.bad_arguments": INVALID_PARAMS,
    "refused.duplicate": INVALID_REQUEST,
    "crashed": INTERNAL_ERROR,
    "unanswered": INTERNAL_ERROR,
    "cancelled": REQUEST_CANCELLED,
}
"""The numbers of the errors that psession itself gives; any other code is -32000, with the code in ``data``."""

REFUSALS: Final = frozenset((PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS))
"""Errors which say that nothing was done."""

MOST_IN_BATCH: Final = 1024
"""Messages in one batch of the peer's; more are refused. A batch is answered as a whole, so its answers wait for the
slowest."""


class JsonRpc(TurnDialect):
    """JSON-RPC 2.0, in both directions.

    What is asked is ``{"method": ..., "params": ...}``, the reply is the ``result``, any JSON value; ``post`` sends a
    notification of the same form, and ``on_message`` gets the peer's. ``on_request`` gets ``{"method", "params"}`` of
    the peer's questions; what it returns is the ``result``. Errors have the numbers of section 5.1.

    A batch of the peer's (section 6) is answered by a batch, once all in it are. What this side asks at one time
    travels in one write anyway, so it sends none. A channel for batches needs a codec that takes arrays:
    ``JsonCodec(type=Any)``.

    Args:
        cancel: The notification by which a question is given up, such as LSP's ``"$/cancelRequest"`` with the ``id`` in
            its params; ``None``: the protocol has none.
    """

    def __init__(self, *, cancel: str | None = None) -> None:
        self._cancel = cancel

    def begin(self) -> None:
        """Number from 1, which leaves 0 and ``null`` to peers that take them for nothing."""
        self._ids = count(1)
        self._batches: dict[Hashable, _Batch] = {}

    # -- this side asks ----------------------------------------------------------------------------------------------

    def new_id(self) -> int:
        """The next number."""
        return next(self._ids)

    def ask(self, payload: Any, id: Any) -> Any:
        """A Request object (section 4)."""
        return {"jsonrpc": "2.0", "id": id, **_call(payload)}

    def tell(self, payload: Any) -> Any:
        """A Notification (section 4.1)."""
        return {"jsonrpc": "2.0", **_call(payload)}

    def quit(self, id: Any, payload: Any) -> Any:
        """The notification that gives a question up."""
        return None if self._cancel is None else self.tell({"method": self._cancel, "params": {"id": id}})

    # -- the peer asks -----------------------------------------------------------------------------------------------

    def answer(self, id: Any, payload: Any) -> Any:
        """A Response object with a result (section 5)."""
        return self._respond(id, {"jsonrpc": "2.0", "id": id, "result": payload})

    def call_of(self, payload: Any) -> tuple[str, Any]:
        """The method and its params."""
        return payload["method"], payload.get("params", {})

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        """A Response object with an error (section 5.1)."""
        return self._respond(id, {"jsonrpc": "2.0", "id": id, "error": error_object(code, text, data)})

    def malformed(self, why: str) -> Any:
        """A Response object for what had no id that could be read (section 5)."""
        return {"jsonrpc": "2.0", "id": None, "error": {"code": PARSE_ERROR, "message": f"Parse error: {why}"[:500]}}

    def _respond(self, id: Any, response: dict[str, Any]) -> Any:
        batch = self._batches.pop(id, None) if self._batches else None
        return response if batch is None else batch.collect(response)

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, message: Any) -> Word | Iterable[Word]:
        """Tell a question, an answer, a notification and a batch of them apart."""
        if type(message) is list:
            return self._read_batch(message)
        if type(message) is not dict:
            raise MalformedMessageError(f"a JSON-RPC message is an object, not {message!r:.100}")
        return self._read_one(message)

    def _read_one(self, message: dict[str, Any]) -> Word:
        id, method = message.get("id"), message.get("method")
        if method is None:
            if "error" in message:
                return _failure(id, message["error"])
            if id is None or "result" not in message:
                raise MalformedMessageError(f"neither a method, nor an id with a result or an error: {message!r:.100}")
            return Answer(_checked(id), message["result"])
        if type(method) is not str:
            raise MalformedMessageError(f"method must be a text, not {method!r:.100}")
        params = message.get("params")
        if params is not None and type(params) is not dict and type(params) is not list:
            raise MalformedMessageError(f"params must be an object or an array, not {params!r:.100}")
        call = {"method": method} if params is None else {"method": method, "params": params}
        if id is None:
            return self._notified(call)
        return Question(_checked(id), call)

    def _notified(self, call: dict[str, Any]) -> Word:
        """A notification: it may give up a question."""
        if self._cancel is not None and call["method"] == self._cancel:
            return Withdrawn(_checked(_member(call, "id")))
        return Event(call)

    def _read_batch(self, batch: list[Any]) -> list[Word]:
        """Section 6. What of it is no message is answered in the batch, as the section's examples have it."""
        if not 0 < len(batch) <= MOST_IN_BATCH:
            raise MalformedMessageError(f"a batch has 1 to {MOST_IN_BATCH} messages, not {len(batch)}")
        words = [self._read_one(one) if type(one) is dict else None for one in batch]
        if None in words:
            raise MalformedMessageError("a batch has objects alone")
        read = [word for word in words if word is not None]
        asked = [word.id for word in read if type(word) is Question]
        if len(set(asked)) < len(asked) or not self._batches.keys().isdisjoint(asked):
            raise MalformedMessageError("an id is used twice in a batch")
        whole = _Batch(len(asked))
        self._batches.update(dict.fromkeys(asked, whole))
        return read


class _Batch:
    """The answers to a batch, until all are there."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.responses: list[Any] = []

    def collect(self, *response: Any) -> list[Any] | None:
        """Add an answer, or note that there will be none. Return all of them where nothing is missing any more."""
        self.responses += response
        self.missing -= 1
        return None if self.missing or not self.responses else self.responses


class Lsp(JsonRpc):
    """The Language Server Protocol, 3.17: JSON-RPC over `psession.channels.content_length`.

    Questions are given up by ``$/cancelRequest``; the peer's that is given up is answered with -32800. Partial results
    and progress are notifications (``$/progress``), which ``on_message`` gets.
    """

    def __init__(self) -> None:
        super().__init__(cancel="$/cancelRequest")


class Mcp(JsonRpc):
    """The Model Context Protocol, 2025-06-18: JSON-RPC whose questions may report progress.

    Each question asks for progress (``_meta.progressToken``). What comes of it are the parts of a ``stream``, the
    result being the last, and to a ``request`` a sign of life. Questions are given up by ``notifications/cancelled``;
    one of the peer's that is given up gets no answer (section "Cancellation").
    """

    streams = True

    def ask(self, payload: Any, id: Any) -> Any:
        """A request with a progress token, which is its id."""
        call = _call(payload)
        params = call.get("params")
        if call["method"] == "initialize" or not (params is None or isinstance(params, dict)):
            return {"jsonrpc": "2.0", "id": id, **call}
        meta = {"progressToken": id, **((params or {}).get("_meta") or {})}
        return {"jsonrpc": "2.0", "id": id, **call, "params": {**(params or {}), "_meta": meta}}

    def quit(self, id: Any, payload: Any) -> Any:
        """Give a question up; but the first, ``initialize``, must not be."""
        if payload["method"] == "initialize":
            return None
        return self.tell({"method": "notifications/cancelled", "params": {"requestId": id, "reason": "given up"}})

    def call_of(self, payload: Any) -> tuple[str, Any]:
        """The method and its params, without what is about the protocol (``_meta``)."""
        name, arguments = super().call_of(payload)
        if type(arguments) is dict and "_meta" in arguments:
            arguments = {name: value for name, value in arguments.items() if name != "_meta"}
        return name, arguments

    def fail(self, id: Any, code: str, text: str, data: Any) -> Any:
        """Make the answer that is an error; a question that was given up gets none."""
        if code != "cancelled":
            return super().fail(id, code, text, data)
        batch = self._batches.pop(id, None)
        return None if batch is None else batch.collect()

    def _notified(self, call: dict[str, Any]) -> Word:
        if call["method"] == "notifications/cancelled":
            return Withdrawn(_checked(_member(call, "requestId")))
        if call["method"] == "notifications/progress":
            token = _member(call, "progressToken")
            if token in self.asked:
                return Part(token, {name: value for name, value in call["params"].items() if name != "progressToken"})
        return Event(call)


class Cdp(TurnDialect):
    """The Chrome DevTools Protocol, with flat sessions.

    What is asked is ``{"method": ..., "params": {...}}``, the reply the ``result``; ``on_message`` gets the events, as
    ``{"method", "params"}``. The browser asks nothing. One connection serves many targets: `share` it, and open a port
    for each with the ``sessionId`` that ``Target.attachToTarget`` gave (with ``flatten``), which
    `psession.SessionManager.listen` picks by ``message.get("sessionId")``.

    Args:
        session: The ``sessionId`` of the target; ``None``: the browser itself.
    """

    def __init__(self, session: str | None = None) -> None:
        self.session = session

    def begin(self) -> None:
        """Number from 1."""
        self._ids = count(1)

    def new_id(self) -> int:
        """The next number."""
        return next(self._ids)

    def ask(self, payload: Any, id: Any) -> Any:
        """A command."""
        message = {"id": id, **_call(payload)}
        if self.session is not None:
            message["sessionId"] = self.session
        return message

    def read(self, message: Any) -> Word | Iterable[Word]:
        """Tell results and events apart; those of another target are none of this port's."""
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is an object, not {message!r:.100}")
        if message.get("sessionId") != self.session:
            other = message.get("sessionId")
            raise MalformedMessageError(
                f"a message of another session, {other!r:.100}: open a port for each by listen()"
            )
        if "id" not in message:
            if type(message.get("method")) is not str:
                raise MalformedMessageError(f"neither an id nor a method: {message!r:.100}")
            return Event({"method": message["method"], "params": message.get("params", {})})
        if "error" in message:
            return _failure(message["id"], message["error"])
        return Answer(_checked(message["id"]), message.get("result", {}))


def error_object(code: str, text: str, data: Any) -> dict[str, Any]:
    """The error of a Response object for a code of psession's.

    A `SessionRefusedError` whose code is a number has that one.
    """
    number = CODES.get(code)
    if number is None:
        number, named = SERVER_ERROR, code.removeprefix("refused.")
        if named.lstrip("-").isdigit():
            number = int(named)
        elif data is None:
            data = {"code": named}
    error: dict[str, Any] = {"code": number, "message": text or code.removeprefix("refused.").replace("_", " ")}
    if data is not None:
        error["data"] = data
    return error


def _call(payload: Any) -> dict[str, Any]:
    """The method and the params of a payload."""
    if not isinstance(payload, dict) or type(payload.get("method")) is not str:
        raise MalformedMessageError(f'a payload is {{"method": "...", "params": ...}}, not {payload!r:.100}')
    if not payload.keys() <= {"method", "params"}:
        others = ", ".join(sorted(map(repr, payload.keys() - {"method", "params"})))
        raise MalformedMessageError(f"a payload has a method and params; put {others} into params")
    return payload


def _checked(id: Any) -> int | str:
    """An id that may be looked up: ``true`` is no 1."""
    if type(id) is int or type(id) is str:
        return id
    if type(id) is float and id.is_integer():
        return int(id)
    raise MalformedMessageError(f"an id must be an integer or a text, not {id!r:.100}")


def _member(call: dict[str, Any], name: str) -> Any:
    params = call.get("params")
    if type(params) is not dict or name not in params:
        raise MalformedMessageError(f"{call['method']} needs {name!r} in its params")
    return _checked(params[name])


def _failure(id: Any, error: Any) -> Failure:
    if type(error) is not dict or type(error.get("code")) not in (int, str):
        raise MalformedMessageError(f"an error has a code and a message, which {error!r:.100} does not")
    code, text = error["code"], error.get("message", "")
    if id is None:  # it answers no question, and is not answered: two ports would go on for ever
        return Failure(None, code, f"the peer could not read a message of this side's: {text!r:.200}")
    return Failure(_checked(id), code, text if type(text) is str else repr(text), error.get("data"), code in REFUSALS)
