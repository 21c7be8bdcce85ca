"""The protocols that ``psession call`` speaks, by the names that ``--dialect`` takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psession.dialects import Cdp, Classic, Dap, Dialect, Exact, GraphqlWs, JsonRpc, Lsp, TurnDialect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psession.channels._streams import FramingName


@dataclass(frozen=True, slots=True)
class Wire:
    """A protocol, and what goes with it.

    Attributes:
        make: Makes the dialect; called with the name of the field for the session's number.
        has_sid: True where that name matters.
        streams: True where a message may have many replies.
        framing: The framing over a stream of bytes.
        subprotocols: The subprotocols of a WebSocket, unless others are asked for.
        greeting: The first request on a connection, whose reply is not shown.
    """

    make: Callable[[str], Dialect | TurnDialect]
    has_sid: bool = False
    streams: bool = False
    framing: FramingName = "lines"
    subprotocols: tuple[str, ...] = ()
    greeting: Any = None


WIRES: Final[Mapping[str, Wire]] = {
    "classic": Wire(Classic, has_sid=True),
    "exact": Wire(Exact, has_sid=True, streams=True),
    "json-rpc": Wire(lambda _: JsonRpc()),
    "lsp": Wire(lambda _: Lsp(), framing="content_length"),
    "dap": Wire(lambda _: Dap(), framing="content_length"),
    "cdp": Wire(lambda _: Cdp()),
    "graphql-ws": Wire(
        lambda _: GraphqlWs(),
        streams=True,
        subprotocols=("graphql-transport-ws",),
        greeting={"type": "connection_init"},
    ),
}
