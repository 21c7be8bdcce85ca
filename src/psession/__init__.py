"""Request/reply sessions for Trio: thousands of dialogues over one channel, each `send` with its own reply."""

from psession._manager import SessionManager
from psession._options import PortOptions
from psession._port import Port
from psession._replies import Replies
from psession._retry import Retry
from psession._session import Session
from psession._share import SharedChannel, share
from psession._statistics import Statistics
from psession._stream import StreamOptions
from psession._version import __version__
from psession.envelope import Envelope, ExactFields
from psession.errors import (
    MalformedMessageError,
    MessageError,
    MessageTooLargeError,
    Outcome,
    PortClosedError,
    PortExistsError,
    PortNotFoundError,
    SessionAbortError,
    SessionCancelError,
    SessionError,
    SessionInvalidError,
    SessionOverflowError,
    SessionOverrunError,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)

__all__ = [
    "Envelope",
    "ExactFields",
    "MalformedMessageError",
    "MessageError",
    "MessageTooLargeError",
    "Outcome",
    "Port",
    "PortClosedError",
    "PortExistsError",
    "PortNotFoundError",
    "PortOptions",
    "Replies",
    "Retry",
    "Session",
    "SessionAbortError",
    "SessionCancelError",
    "SessionError",
    "SessionInvalidError",
    "SessionManager",
    "SessionOverflowError",
    "SessionOverrunError",
    "SessionRefusedError",
    "SessionRemoteError",
    "SessionTimeoutError",
    "SharedChannel",
    "Statistics",
    "StreamOptions",
    "__version__",
    "share",
]
