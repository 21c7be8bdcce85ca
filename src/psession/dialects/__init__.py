"""Dialects: how a protocol writes headers beside payloads, and reads them.

`Classic` is the wire of PSession 1.0, `Exact` the one that numbers its turns. Either answers the other's questions.

The others are those of protocols without sessions, each a `TurnDialect`: `JsonRpc`, and made of it `Lsp` and `Mcp`;
`Cdp`, `Dap`, `GraphqlWs`, `MqttRequests`, `NatsRequests`. What `TurnDialect.read` returns is made of `Answer`, `Part`,
`End`, `Failure`, `Question`, `Withdrawn` and `Event`. docs/dialects.md says how to write one.
"""

from psession.dialects.dap import Dap
from psession.dialects.graphql_ws import GraphqlWs
from psession.dialects.json_rpc import Cdp, JsonRpc, Lsp, Mcp
from psession.dialects.mqtt import MqttRequests
from psession.dialects.nats import NatsRequests
from psession.dialects.psession import Classic, Exact
from psession.protocol.dialect import Dialect, ExactFields
from psession.protocol.header import Header
from psession.protocol.turn_dialect import Answer, End, Event, Failure, Part, Question, TurnDialect, Withdrawn, Word

__all__ = [
    "Answer",
    "Cdp",
    "Classic",
    "Dap",
    "Dialect",
    "End",
    "Event",
    "Exact",
    "ExactFields",
    "Failure",
    "GraphqlWs",
    "Header",
    "JsonRpc",
    "Lsp",
    "Mcp",
    "MqttRequests",
    "NatsRequests",
    "Part",
    "Question",
    "TurnDialect",
    "Withdrawn",
    "Word",
]
