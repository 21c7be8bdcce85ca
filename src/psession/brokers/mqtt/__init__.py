"""A client of MQTT 5 for Trio, without asyncio: publish, subscribe, request; and sessions over it.

==================== ================================================================================================
`open_mqtt`          connect to a broker: ``async with open_mqtt(url) as mqtt``
`Mqtt`               the client: `Mqtt.publish`, `Mqtt.request`, `Mqtt.subscribe`, `Mqtt.drain`
`MqttSubscription`   the messages of a topic filter: ``async for message in subscription``
`MqttMessage`        a message that came
`Will`               what the broker says for a client that is gone
`token`              any text as one level of a topic
==================== ================================================================================================

docs/mqtt.md tells more.
"""

try:
    import mqtt5 as _mqtt5
except ImportError as _missing:
    raise ImportError("psession.brokers.mqtt needs the package mqtt5: pip install psession[mqtt]") from _missing

from psession.brokers.mqtt._channel import MqttChannel, Returning
from psession.brokers.mqtt._client import Mqtt, open_mqtt
from psession.brokers.mqtt._errors import (
    MqttAuthError,
    MqttClosedError,
    MqttConnectError,
    MqttDisconnectedError,
    MqttError,
    MqttNoSubscribersError,
    MqttOverrunError,
    MqttPermissionError,
    MqttProtocolError,
    MqttRefusedError,
    MqttTakenOverError,
    MqttTimeoutError,
)
from psession.brokers.mqtt._message import MqttMessage
from psession.brokers.mqtt._options import MqttSettings, MqttState, MqttStatistics, Will
from psession.brokers.mqtt._requests import MqttRequestChannel
from psession.brokers.mqtt._serving import MqttServer
from psession.brokers.mqtt._subscription import MqttSubscription
from psession.brokers.mqtt._topics import token

del _mqtt5

__all__ = [
    "Mqtt",
    "MqttAuthError",
    "MqttChannel",
    "MqttClosedError",
    "MqttConnectError",
    "MqttDisconnectedError",
    "MqttError",
    "MqttMessage",
    "MqttNoSubscribersError",
    "MqttOverrunError",
    "MqttPermissionError",
    "MqttProtocolError",
    "MqttRefusedError",
    "MqttRequestChannel",
    "MqttServer",
    "MqttSettings",
    "MqttState",
    "MqttStatistics",
    "MqttSubscription",
    "MqttTakenOverError",
    "MqttTimeoutError",
    "Returning",
    "Will",
    "open_mqtt",
    "token",
]
