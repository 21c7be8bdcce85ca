"""The errors of the MQTT client, one tree under `psession.SessionError`. Pure.

::

    MqttError
    ├── MqttConnectError         the broker did not take this client      (also a ConnectionError)
    │   ├── MqttAuthError        it refused who this client says it is
    │   └── MqttTakenOverError   another client has this one's id now
    ├── MqttDisconnectedError    the connection broke meanwhile           (also a ConnectionError)
    ├── MqttClosedError          this client is closed, or was given up
    ├── MqttNoSubscribersError   nobody has subscribed to the topic       (also a ConnectionError)
    ├── MqttTimeoutError         no answer in the time the caller gave    (also a TimeoutError)
    ├── MqttRefusedError         the broker refused a message or a subscription, or does not offer what is wanted
    │   └── MqttPermissionError  it does not allow the topic              (also a PermissionError)
    ├── MqttOverrunError         a subscription's reader was too slow
    └── MqttProtocolError        what came is not MQTT 5

Each has an ``outcome`` where it is a request's or a message's, as `psession.TurnOutcome` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psession.errors import SessionError

if TYPE_CHECKING:
    from psession.errors import TurnOutcome

__all__ = [
    "MqttAuthError",
    "MqttClosedError",
    "MqttConnectError",
    "MqttDisconnectedError",
    "MqttError",
    "MqttNoSubscribersError",
    "MqttOverrunError",
    "MqttPermissionError",
    "MqttProtocolError",
    "MqttRefusedError",
    "MqttTakenOverError",
    "MqttTimeoutError",
]


class MqttError(SessionError):
    """The root of what goes wrong with MQTT.

    Attributes:
        code: The reason code that the broker gave (MQTT 5, 2.4); 0 where it gave none.
    """

    def __init__(
        self,
        why: str = "",
        *,
        code: int = 0,
        attempts: int = 0,
        waited: float = 0.0,
        outcome: TurnOutcome | None = None,
    ) -> None:
        super().__init__(why, attempts=attempts, waited=waited, outcome=outcome)
        self.code: int = code


class MqttConnectError(MqttError, ConnectionError):
    """The broker did not take this client; the text says why.

    Attributes:
        server_reference: The broker that it names in its place, as it wrote it; ``""`` where it names none. Nothing
            follows it: whether to trust it is the caller's to decide.
    """

    server_reference: str = ""


class MqttAuthError(MqttConnectError):
    """The broker refused the user, password or certificate of this client."""


class MqttTakenOverError(MqttConnectError):
    """Another client connected with this one's client id, so this one has ended: two would throw each other out."""


class MqttDisconnectedError(MqttError, ConnectionError):
    """The connection broke while somebody waited for something that it should have brought."""


class MqttClosedError(MqttError):
    """This client is closed: its block was left, it was drained, or the broker takes it no more (``__cause__``)."""


class MqttNoSubscribersError(MqttError, ConnectionError):
    """Nobody has subscribed to the topic: the broker says so at once, and nothing was done."""


class MqttTimeoutError(MqttError, TimeoutError):
    """No answer came in the time that the caller gave."""


class MqttRefusedError(MqttError):
    """The broker refused a message or a subscription, or said before that it does not offer what is wanted."""


class MqttPermissionError(MqttRefusedError, PermissionError):
    """The broker does not allow this client the topic."""


class MqttOverrunError(MqttError):
    """More messages waited in a subscription than it holds; it was ended, and the client lives."""


class MqttProtocolError(MqttError):
    """Bytes that a broker sent are not MQTT 5; the connection is left."""
