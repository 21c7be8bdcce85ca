"""Every error that psession raises on purpose, one tree.

::

    SessionError
    ├── SessionTimeoutError      no reply in the time the caller gave     (also a TimeoutError)
    ├── SessionCancelError       session.cancel(), end() or an overflow gave the turn up
    ├── SessionAbortError        the port was left, aborted or cleared
    │   └── PortClosedError      the port is closed, or its channel broke  (also a SessionInvalidError)
    ├── SessionInvalidError      the session is over, or may not do this
    ├── SessionOverrunError      the peer sent more than the session's inbox holds
    ├── SessionOverflowError     no free session number
    ├── SessionRemoteError       the peer answered with an error
    ├── SessionRefusedError      for a handler to raise: nothing was done, and why
    ├── PortNotFoundError        no port of that name is open             (also a LookupError)
    ├── PortExistsError          a port of that name is open already
    └── MessageError             a message that cannot travel             (also a ValueError)
        ├── MalformedMessageError    it cannot be encoded, or decoded
        └── MessageTooLargeError     it is larger than ``max_message_bytes``

*Closed* is what this side did, *broken* what the world did: a `PortClosedError` caused by a `trio.BrokenResourceError`
was the world. ``trio.Cancelled`` is not in the tree: it passes through untouched.
"""

from __future__ import annotations

from typing import Any, Literal

from psession.text import port_named

__all__ = [
    "MalformedMessageError",
    "MessageError",
    "MessageTooLargeError",
    "PortClosedError",
    "PortExistsError",
    "PortNotFoundError",
    "SessionAbortError",
    "SessionCancelError",
    "SessionError",
    "SessionInvalidError",
    "SessionOverflowError",
    "SessionOverrunError",
    "SessionRefusedError",
    "SessionRemoteError",
    "SessionTimeoutError",
    "TurnOutcome",
]

TurnOutcome = Literal["not_sent", "refused", "sent"]
"""The state of knowledge about a turn that failed.

``"not_sent"``: its message never left. ``"refused"``: the peer says that nothing was done. Both are safe to ask again.
``"sent"``: it may have been done.
"""


class SessionError(Exception):
    """The root of the tree. What is known travels as data; ``str()`` puts it in words.

    Attributes:
        why: What happened and what to do about it, without the data below.
        port: The port's name, ``None`` where no port is involved.
        label: The port's `Port.label`, empty where it has none.
        sid: The session's number, ``None`` where no session is involved.
        attempts: How many times the turn's message was handed to the channel.
        waited: Seconds from the start of the turn to the error, on Trio's clock.
        outcome: What is known of the turn that failed (see `TurnOutcome`), ``None`` where no turn did.
    """

    def __init__(
        self,
        why: str = "",
        *,
        port: str | None = None,
        sid: int | None = None,
        attempts: int = 0,
        waited: float = 0.0,
        outcome: TurnOutcome | None = None,
        label: str = "",
    ) -> None:
        super().__init__(why)
        self.why = why
        self.port = port
        self.label = label
        self.sid = sid
        self.attempts = attempts
        self.waited = waited
        self.outcome: TurnOutcome | None = outcome

    def __str__(self) -> str:
        place = []
        if self.port is not None:
            place.append(port_named(self.port, self.label))
        if self.sid is not None:
            place.append(f"session {self.sid}")
        text = self.why or type(self).__name__
        if place:
            text = f"{', '.join(place)}: {text}"
        if self.attempts:
            times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
            text += f" ({times}, {self.waited:.3g} s)"
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.why,), self.__dict__


class SessionTimeoutError(SessionError, TimeoutError):
    """No reply came in the time the caller gave, all attempts included."""


class SessionCancelError(SessionError):
    """The turn was given up by this side: ``cancel()``, ``end()``, or its session was recycled."""


class SessionAbortError(SessionError):
    """The turn was cut off with its port: the block was left, or ``abort()`` or ``clear()`` was called."""


class SessionInvalidError(SessionError):
    """The session is over, or what was asked of it is not possible in its state."""


class PortClosedError(SessionAbortError, SessionInvalidError):
    """The port is closed: its block was left, its channel ended (no cause) or broke (``__cause__`` says how)."""


class SessionOverrunError(SessionError):
    """The peer sent more messages than the session's inbox holds; the session was ended, the port lives."""


class SessionOverflowError(SessionError):
    """No session number is free: all are in use or rest after an unanswered turn."""


class SessionRemoteError(SessionError):
    """The peer answered the turn with an error.

    Attributes:
        code: What kind of error, for programs, as the peer wrote it; docs/protocol.md lists those that psession itself
            sends. A number where the protocol has numbers (`psession.dialects.JsonRpc`).
        text: More about it, for people; may be empty.
        data: More about it, for programs; ``None`` where the protocol has none.
    """

    code: int | str = ""
    text: str = ""
    data: Any = None


class SessionRefusedError(SessionError):
    """For a handler to raise: the turn is refused, and nothing was done.

    Its asker gets a `SessionRemoteError` whose code is ``"refused"``, or ``"refused."`` and `code`, and whose outcome
    is ``"refused"``. A peer on the classic wire, which has no word for it, is not answered.

    Args:
        why: Why, for people.
        code: Why, for programs: letters, digits, ``_``, ``-`` and ``.``; or a number, for a protocol that has numbers.
        data: More about it, for programs, where the protocol has a place for it. PSession's wires have none.
        known: What every `SessionError` may know.
    """

    def __init__(self, why: str = "", *, code: int | str = "", data: Any = None, **known: Any) -> None:
        if code and not str(code).replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise ValueError(f"a code has letters, digits, '_', '-' and '.', which {code!r} does not")
        super().__init__(why, **known)
        self.code = code
        self.data = data


class PortNotFoundError(SessionError, LookupError):
    """No port of that name is open."""


class PortExistsError(SessionError):
    """A port of that name is open already."""


class MessageError(SessionError, ValueError):
    """A message that cannot travel. The session and the port live on."""


class MalformedMessageError(MessageError):
    """The message cannot be encoded, or what came cannot be decoded into one or, of a reply, read as ``reply_type``."""


class MessageTooLargeError(MessageError):
    """The message is larger than the channel's ``max_message_bytes``."""
