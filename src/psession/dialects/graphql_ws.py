"""The protocol graphql-transport-ws of the library graphql-ws (its PROTOCOL.md). Pure."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from psession.errors import MalformedMessageError
from psession.protocol.turn_dialect import Answer, End, Event, Failure, Part, TurnDialect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psession.protocol.turn_dialect import Word

_CONNECTION: Final = "connection"


class GraphqlWs(TurnDialect):
    """A client of GraphQL over WebSocket, subprotocol ``graphql-transport-ws``.

    What is asked is an operation, ``{"query": ..., "variables": {...}}``; its results are the parts of a ``stream``,
    and a ``request`` returns the last. An error of the operation is a `SessionRemoteError` with the code ``"graphql"``,
    and the list of errors as its ``data``. An operation that is given up is told so (``complete``).

    The first request must be ``{"type": "connection_init", "payload": {...}}``, whose reply is the payload of the
    ``connection_ack``.
    """

    streams = True

    def begin(self) -> None:
        """Number from 1; ids are texts here."""
        self._ids = count(1)
        self._is_initiated = False

    def new_id(self) -> str:
        """The next number as a text; the connection itself has none."""
        return str(next(self._ids)) if self._is_initiated else _CONNECTION

    def ask(self, payload: Any, id: Any) -> Any:
        """``connection_init`` at first, then ``subscribe``."""
        if not isinstance(payload, dict):
            raise MalformedMessageError(f"a payload is an object, not {payload!r:.100}")
        if not self._is_initiated:
            if payload.get("type") != "connection_init":
                raise MalformedMessageError('the first request must be {"type": "connection_init"}')
            self._is_initiated = True
            return payload
        if type(payload.get("query")) is not str:
            raise MalformedMessageError(f'a payload is {{"query": "...", ...}}, not {payload!r:.100}')
        return {"id": id, "type": "subscribe", "payload": payload}

    def tell(self, payload: Any) -> Any:
        """A ``ping`` or ``pong``."""
        if not isinstance(payload, dict) or payload.get("type") not in ("ping", "pong"):
            raise MalformedMessageError(f'what wants no answer is {{"type": "ping"}}, not {payload!r:.100}')
        return payload

    def quit(self, id: Any, payload: Any) -> Any:
        """``complete``: no more results are wanted."""
        return None if id == _CONNECTION else {"id": id, "type": "complete"}

    def read(self, message: Any) -> Word | Iterable[Word]:
        """Tell results, ends and errors apart; a ``ping`` is an event."""
        if type(message) is not dict:
            raise MalformedMessageError(f"a message is an object, not {message!r:.100}")
        kind, id, payload = message.get("type"), message.get("id"), message.get("payload")
        if kind == "connection_ack":
            return Answer(_CONNECTION, payload)
        if kind in ("ping", "pong"):
            return Event(message)
        if type(id) is not str or kind not in ("next", "error", "complete"):
            raise MalformedMessageError(f"not a message of graphql-transport-ws: {message!r:.100}")
        if kind == "next":
            return Part(id, payload)
        if kind == "complete":
            return End(id)
        texts = [str(error.get("message")) for error in payload or () if type(error) is dict]
        return Failure(id, "graphql", "; ".join(texts), payload)
