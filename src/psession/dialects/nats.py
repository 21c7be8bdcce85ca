"""Plain requests of NATS: a message with a reply subject, and one answer to it. Pure.

The messages are those of the channel that ``nats.requests`` gives; errors are the headers that micro services of NATS
use (``Nats-Service-Error``, ``Nats-Service-Error-Code``, ADR-32), and ``Psession-Code`` beside them.
"""

from __future__ import annotations

from psession.dialects._broker_requests import BrokerRequests


class NatsRequests(BrokerRequests):
    """Plain requests of NATS, to and from programs that know no psession: `psession.brokers.nats.Nats.requests`.

    What is asked is any value that the channel's codec has a form for, the reply one likewise; an empty payload is
    ``None``. An error has the code that the other side wrote. ``post`` publishes without wanting an answer, which
    ``on_message`` gets there. Nobody there is the error ``"no_responders"``, at once, with the outcome ``"not_sent"``.

    Args:
        by_subject: For a `psession.Service`: the last token of the subject names the method, and the payload is its
            arguments. By default the service finds the method in the payload.
    """

    separator = "."
    _address = "subject"
    _where = "nats.requests()"

    def __init__(self, *, by_subject: bool = False) -> None:
        self.by_subject = self._is_by_method = by_subject
