"""Plain requests of MQTT 5: a message with a Response Topic and Correlation Data, and one answer to it. Pure.

The messages are those of the channel that ``mqtt.requests`` gives; MQTT has no errors among its messages, so these are
user properties: ``Psession-Code``, ``Psession-Error``.
"""

from __future__ import annotations

from psession.dialects._broker_requests import BrokerRequests


class MqttRequests(BrokerRequests):
    """Plain requests of MQTT 5, to and from programs that know no psession: `psession.brokers.mqtt.Mqtt.requests`.

    What is asked is any value that the channel's codec has a form for, the reply one likewise; an empty payload is
    ``None``. ``post`` publishes without wanting an answer, which ``on_message`` gets there. Nobody there is the error
    ``"no_responders"``, at once, with the outcome ``"not_sent"``, where the broker says so.

    Args:
        by_topic: For a `psession.Service`: the last level of the topic names the method, and the payload is its
            arguments. By default the service finds the method in the payload.
    """

    separator = "/"
    _address = "topic"
    _where = "mqtt.requests()"

    def __init__(self, *, by_topic: bool = False) -> None:
        self.by_topic = self._is_by_method = by_topic
