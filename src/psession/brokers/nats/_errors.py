"""The errors of the NATS client, one tree under `psession.SessionError`. Pure.

::

    NatsError
    ├── NatsConnectError         no server took this client            (also a ConnectionError)
    │   └── NatsAuthError        a server refused who this client says it is
    ├── NatsDisconnectedError    the connection broke meanwhile        (also a ConnectionError)
    ├── NatsClosedError          this client is closed, or was given up
    ├── NatsNoRespondersError    nobody serves the subject             (also a ConnectionError)
    ├── NatsTimeoutError         no answer in the time the caller gave (also a TimeoutError)
    ├── NatsPermissionError      the server does not allow the subject (also a PermissionError)
    ├── NatsOverrunError         a subscription's reader was too slow
    └── NatsProtocolError        what came is not the NATS protocol

Each has an ``outcome`` where it is a request's, as `psession.TurnOutcome` says.
"""

from __future__ import annotations

from psession.errors import SessionError

__all__ = [
    "NatsAuthError",
    "NatsClosedError",
    "NatsConnectError",
    "NatsDisconnectedError",
    "NatsError",
    "NatsNoRespondersError",
    "NatsOverrunError",
    "NatsPermissionError",
    "NatsProtocolError",
    "NatsTimeoutError",
]


class NatsError(SessionError):
    """The root of what goes wrong with NATS."""


class NatsConnectError(NatsError, ConnectionError):
    """No server took this client, and the text says of each what was wrong with it; or who serves refuses a link.

    Attributes:
        reason: What who serves a subject gives as its reason to refuse a link; ``""``: that is not what happened.
    """

    reason: str = ""


class NatsAuthError(NatsConnectError):
    """A server refused the user, password, token, key or certificate of this client."""


class NatsDisconnectedError(NatsError, ConnectionError):
    """The connection to the server broke while somebody waited for something that it should have brought."""


class NatsClosedError(NatsError):
    """This client is closed: its block was left, it was drained, or no server takes it any more (``__cause__``)."""


class NatsNoRespondersError(NatsError, ConnectionError):
    """Nobody serves the subject: the server says so at once, and nothing was done."""


class NatsTimeoutError(NatsError, TimeoutError):
    """No answer came in the time that the caller gave."""


class NatsPermissionError(NatsError, PermissionError):
    """The server does not allow this client the subject."""


class NatsOverrunError(NatsError):
    """More messages waited in a subscription than it holds; it was ended, and the client lives."""


class NatsProtocolError(NatsError):
    """Bytes that a server sent are not the NATS protocol; the connection is left."""
