"""A client of NATS for Trio, without asyncio: publish, subscribe, request; and sessions over it.

==================== ================================================================================================
`open_nats`          connect to a server or a cluster: ``async with open_nats(servers) as nats``
`Nats`               the client: `Nats.publish`, `Nats.request`, `Nats.subscribe`, `Nats.drain`
`Subscription`       the messages of a subject: ``async for message in subscription``
`NatsMessage`        a message that came
`token`              any text as one token of a subject
==================== ================================================================================================

docs/nats.md tells more.
"""

from psession.brokers._options import OpenStream
from psession.brokers.nats._channel import NatsChannel, Returning
from psession.brokers.nats._client import Nats, open_nats
from psession.brokers.nats._errors import (
    NatsAuthError,
    NatsClosedError,
    NatsConnectError,
    NatsDisconnectedError,
    NatsError,
    NatsNoRespondersError,
    NatsOverrunError,
    NatsPermissionError,
    NatsProtocolError,
    NatsTimeoutError,
)
from psession.brokers.nats._headers import Headers
from psession.brokers.nats._micro import NatsService
from psession.brokers.nats._options import NatsSettings, NatsState, NatsStatistics
from psession.brokers.nats._requests import RequestChannel
from psession.brokers.nats._serving import NatsServer
from psession.brokers.nats._subjects import token
from psession.brokers.nats._subscription import Subscription
from psession.brokers.nats._tap import Tap
from psession.brokers.nats._wire import Info, NatsMessage

__all__ = [
    "Headers",
    "Info",
    "Nats",
    "NatsAuthError",
    "NatsChannel",
    "NatsClosedError",
    "NatsConnectError",
    "NatsDisconnectedError",
    "NatsError",
    "NatsMessage",
    "NatsNoRespondersError",
    "NatsOverrunError",
    "NatsPermissionError",
    "NatsProtocolError",
    "NatsServer",
    "NatsService",
    "NatsSettings",
    "NatsState",
    "NatsStatistics",
    "NatsTimeoutError",
    "OpenStream",
    "RequestChannel",
    "Returning",
    "Subscription",
    "Tap",
    "open_nats",
    "token",
]
