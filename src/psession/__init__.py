"""Request/reply sessions for Trio: thousands of dialogues over one channel, each `send` with its own reply."""

from psession import _interrupt as _interrupt  # isort: skip - first of all: Ctrl-C while the command imports the rest
from psession._version import __version__
from psession.budget import Budget
from psession.collector import tune_gc
from psession.dialects import Classic, Dialect, Exact, ExactFields
from psession.errors import (
    MalformedMessageError,
    MessageError,
    MessageTooLargeError,
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
    TurnOutcome,
)
from psession.method import Method
from psession.options import (
    ErrorReply,
    MessageHandler,
    Overflow,
    OverflowChooser,
    PortOptions,
    RequestHandler,
    SessionHandler,
    TurnOptions,
    Unanswered,
)
from psession.protocol.counters import Histogram, Statistics
from psession.protocol.retry import Retry
from psession.service import Service
from psession.shell.manager import SessionManager
from psession.shell.port import Opening, Port, Session
from psession.shell.relay import Relay
from psession.shell.replies import Replies
from psession.shell.sender_outbox import Sender
from psession.shell.share import SharedChannel, share
from psession.shell.stream import StreamOptions

__all__ = [
    "Budget",
    "Classic",
    "Dialect",
    "ErrorReply",
    "Exact",
    "ExactFields",
    "Histogram",
    "MalformedMessageError",
    "MessageError",
    "MessageHandler",
    "MessageTooLargeError",
    "Method",
    "Opening",
    "Overflow",
    "OverflowChooser",
    "Port",
    "PortClosedError",
    "PortExistsError",
    "PortNotFoundError",
    "PortOptions",
    "Relay",
    "Replies",
    "RequestHandler",
    "Retry",
    "Sender",
    "Service",
    "Session",
    "SessionAbortError",
    "SessionCancelError",
    "SessionError",
    "SessionHandler",
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
    "TurnOptions",
    "TurnOutcome",
    "Unanswered",
    "__version__",
    "share",
    "tune_gc",
]
