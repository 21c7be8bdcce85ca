"""Events that a port tells its listeners: turns, sessions, links and messages, on both sides, as they happen. Pure.

::

    def listener(event: hooks.Event) -> None: ...

    manager.observe(listener)                           # all events of all its ports, those of tomorrow included
    manager.observe(listener, hooks.TurnAnswered, hooks.TurnFailed)     # these alone: no other is even made
    with port.observe(listener): ...                    # one port, while the block lasts

A listener is a plain function. It is called in the step that the event belongs to, so it must be quick, must not wait,
and must change nothing of the port's; to do more it hands the event on, to a memory channel for instance. What it
raises is logged within a budget and harms nobody. A Ctrl-C waits until it has returned.

Turns come in this order, on each of the two sides::

    TurnStarted  TurnAttempted*  TurnPart*  (TurnAnswered | TurnFailed)

The payloads in events are those of the application, by reference: not copied, not redacted. A listener changes none,
and decides itself what of them it keeps and shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = [
    "EVENTS",
    "REASONS",
    "Event",
    "LinkDown",
    "LinkUp",
    "Listener",
    "MessageDropped",
    "MessagePosted",
    "Observation",
    "PortClosed",
    "PortOpened",
    "SessionEnded",
    "SessionOpened",
    "Side",
    "Turn",
    "TurnAnswered",
    "TurnAttempted",
    "TurnFailed",
    "TurnPart",
    "TurnStarted",
    "Waiting",
]

Side: TypeAlias = Literal["asker", "answerer"]


class Turn(msgspec.Struct, eq=False, weakref=True):
    """One turn, as one of its two sides sees it. All its events have the same object, which may be the key of a dict.

    Attributes:
        port: The name of the port.
        side: ``"asker"`` where this side asks, ``"answerer"`` where its handler has the question.
        sid: The number of the session. Of a protocol without sessions: the number that a session has on this side, or
            the id of the peer's question.
        number: The number of the turn on the exact wire; 0 on the classic one.
        streamed: True where it may have many answers.
        payload: The question.
        started: The moment from which its time is counted, in seconds on Trio's clock. For the answerer: when the
            question came; on the classic wire when the handler received it.
        attempts: How often this side has asked so far; for the answerer 0.
        parts: How many parts of a stream the application has taken, or sent.
    """

    port: str
    side: Side
    sid: Any
    number: int
    streamed: bool
    payload: Any
    started: float
    attempts: int = 0
    parts: int = 0


class Event(msgspec.Struct, frozen=True, eq=False):
    """Something that happened.

    Attributes:
        time: The moment, in seconds on Trio's clock.
        port: The name of the port.
    """

    time: float
    port: str


class PortOpened(Event, frozen=True, eq=False):
    """A port was opened: its block was entered."""


class PortClosed(Event, frozen=True, eq=False):
    """A port is over; every waiter has its error, and the block may not be left yet.

    Attributes:
        reason: Why, in words.
        error: What the world did, where it was not one of the two sides that closed it.
        label: Its `psession.Port.label`.
    """

    reason: str
    error: BaseException | None = None
    label: str = ""


class LinkUp(Event, frozen=True, eq=False):
    """A port has a link: its channel, or another one after a break.

    Attributes:
        resumed: True where a link is back and the peer still knows this side, False where it does not; ``None`` for the
            first link.
    """

    resumed: bool | None = None


class LinkDown(Event, frozen=True, eq=False):
    """A port has no link: its channel ended or broke. Another one may follow (``resume_within``).

    Attributes:
        reason: Why, in words.
    """

    reason: str


class SessionOpened(Event, frozen=True, eq=False):
    """A session was opened. Sessions for one request alone are not told of: their turn is.

    Attributes:
        sid: Its number.
        incoming: True where the peer opened it.
    """

    sid: Any
    incoming: bool


class SessionEnded(Event, frozen=True, eq=False):
    """Such a session is over.

    Attributes:
        sid: Its number by now.
        incoming: True where the peer opened it.
        reason: Why, in words.
    """

    sid: Any
    incoming: bool
    reason: str


class TurnStarted(Event, frozen=True, eq=False):
    """A turn begins: its asker is about to ask, or the answerer's application has the question.

    The listener runs in the context variables of the task that asks, or of the handler: what it sets there, the handler
    sees, and whatever the handler asks in its turn.

    Attributes:
        turn: The turn.
        carrier: Trace context of W3C, ``"traceparent"`` and ``"tracestate"``. What the asker's listener puts there
            travels in the header of the exact wire; the answerer's finds what came. Any other key goes nowhere.
    """

    turn: Turn
    carrier: dict[str, str]


class TurnAttempted(Event, frozen=True, eq=False):
    """The asker asks, for the first time or again.

    Attributes:
        turn: The turn.
        attempt: 1 for the first.
    """

    turn: Turn
    attempt: int


class TurnPart(Event, frozen=True, eq=False):
    """One of many answers: the asker's application takes it, or the answerer's sends it.

    Attributes:
        turn: The turn.
        payload: The answer.
    """

    turn: Turn
    payload: Any


class TurnAnswered(Event, frozen=True, eq=False):
    """A turn is over, with its answer.

    Attributes:
        turn: The turn.
        payload: The answer; ``None`` at the end of a stream.
    """

    turn: Turn
    payload: Any = None

    @property
    def seconds(self) -> float:
        """The time that it took."""
        return self.time - self.turn.started


class TurnFailed(Event, frozen=True, eq=False):
    """A turn is over without its answer.

    Attributes:
        turn: The turn.
        reason: For the asker one of `REASONS`. For the answerer the code that its asker is told: ``"crashed"``,
            ``"refused"`` and others (docs/protocol.md), ``"given_up"`` where the asker gave the turn up, ``"timeout"``
            where its time was over, ``"unanswered"`` where the session ended, or the handler took its next message.
        outcome: What the asker knows: ``"not_sent"``, ``"refused"`` (nothing was done) or ``"sent"`` (it may have been
            done). For the answerer ``"refused"`` or ``"sent"`` likewise, as the asker is told.
        error: The exception that the asker's caller gets, or that the handler raised; ``None`` where there is none.
    """

    turn: Turn
    reason: str
    outcome: Literal["not_sent", "refused", "sent"]
    error: BaseException | None = None

    @property
    def seconds(self) -> float:
        """The time that it took."""
        return self.time - self.turn.started


REASONS: Final = ("timeout", "cancelled", "aborted", "closed", "remote", "overrun", "invalid", "message", "error")
"""The reasons for which an asker has no answer.

``timeout``: none came in time. ``cancelled``: by ``cancel()``, the session's end or the caller's own scope; of a stream
also that its block was left early. ``aborted``: by ``abort()``, ``clear()``, or leaving the port. ``closed``: the
channel ended or broke. ``remote``: the peer answered with an error. ``overrun``: more parts than there was credit for.
``invalid``: the session is over. ``message``: the question cannot travel. ``error``: the sender raised.
"""


class MessageDropped(Event, frozen=True, eq=False):
    """A message of the peer's goes nowhere: it is late, a copy, or for nobody.

    Attributes:
        reason: The name of its counter in `psession.Statistics`: ``"late"``, ``"duplicate"``, ``"unknown_sid"``, ...
        sid: The number of the session in it, where there is one.
        detail: What was wrong, where that is not the same each time.
    """

    reason: str
    sid: Any = None
    detail: str = ""


class MessagePosted(Event, frozen=True, eq=False):
    """A message that neither asks nor answers a turn was accepted for sending, or the application receives one.

    Attributes:
        sid: The number of the session; ``None`` for a message that is no session's.
        incoming: True where the peer sent it.
        payload: The message.
    """

    sid: Any
    incoming: bool
    payload: Any


class Waiting(msgspec.Struct, frozen=True, eq=False):
    """A turn of this side's that waits for its answer, as it is at one moment: ``Port.waiting`` gives them.

    Attributes:
        sid: The number of the session.
        number: The number of the turn on the exact wire; 0 on the classic one.
        payload: The question, by reference.
        seconds: The time that it has waited.
        attempts: How often it was asked.
        sent: How many of these left this side.
        started: The moment from which its time is counted, in seconds on Trio's clock.
        label: The `psession.Port.label` of its port.
    """

    sid: Any
    number: int
    payload: Any
    seconds: float
    attempts: int
    sent: int
    started: float
    label: str = ""


Listener: TypeAlias = "Callable[[Any], object]"
"""A function that is called with each event."""

EVENTS: Final[tuple[type[Event], ...]] = (
    PortOpened,
    PortClosed,
    LinkUp,
    LinkDown,
    SessionOpened,
    SessionEnded,
    TurnStarted,
    TurnAttempted,
    TurnPart,
    TurnAnswered,
    TurnFailed,
    MessageDropped,
    MessagePosted,
)
"""All kinds of events."""


class Observation:
    """A listener that is being called: ``SessionManager.observe`` and ``Port.observe`` give it.

    ``end()`` stops that, and so does leaving its ``with`` block; without either it goes on for as long as the manager
    or the port does.
    """

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def end(self) -> None:
        """Call the listener no more. Idempotent."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
