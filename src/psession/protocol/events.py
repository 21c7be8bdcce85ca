"""What follows from a message or a command, for the shell to carry out: waking, cancelling, sending, telling. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from psession.protocol.counters import Drop
    from psession.protocol.credit import Departing
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.protocol.endings import Ending
    from psession.protocol.header import Trace
    from psession.protocol.peer_turns import LastTurn


class Answered(msgspec.Struct, frozen=True, eq=False):
    """A turn of this side's has its answer."""

    turn: AskedTurn
    payload: Any


class Refused(msgspec.Struct, frozen=True, eq=False):
    """A turn of this side's was answered with an error.

    Attributes:
        turn: The turn.
        code: The kind of error, as the peer wrote it.
        text: More about it, for people.
        data: More about it, for programs.
        is_refusal: True where it says that nothing was done.
        is_unsent: True where the question reached nobody.
    """

    turn: AskedTurn
    code: int | str
    text: str
    data: Any = None
    is_refusal: bool = False
    is_unsent: bool = False


class Postponed(msgspec.Struct, frozen=True, eq=False):
    """The peer is at work on a turn: the next attempt need not come before that moment."""

    turn: AskedTurn
    until: float


class Heard(msgspec.Struct, frozen=True, eq=False):
    """A turn with many answers has one where it had none for the application, or its end."""

    turn: AskedTurn


class Overrun(msgspec.Struct, frozen=True, eq=False):
    """The peer sent more answers to a turn than it had credit for."""

    turn: AskedTurn


class GivenUp(msgspec.Struct, frozen=True, eq=False):
    """A turn of this side's is over without an answer."""

    turn: AskedTurn
    ending: Ending


class AskAgain(msgspec.Struct, frozen=True, eq=False):
    """The link is back: the question of a turn may have been lost with it."""

    turn: AskedTurn


class Opened(msgspec.Struct, frozen=True, eq=False):
    """The peer has opened a session; what it says in it comes as the next event."""

    dialogue: Dialogue


class Asked(msgspec.Struct, frozen=True, eq=False):
    """The peer asks something that stands alone: a session of one turn, which nothing is kept of unless need be.

    It counts among the handlers at work until `Connection.handler_done` is called.

    Attributes:
        sid: The session's number.
        payload: What the peer asks.
        turn: The number of the turn; 0 on the classic wire.
        memory: What is remembered of that turn; ``None`` on the classic wire.
        life: The epoch of the peer's port.
        began: The moment it came.
        wait: Seconds that its asker waits for the answer; ``None``: it does not say.
        trace: Its asker's place in a trace.
    """

    sid: Any
    payload: Any
    turn: int = 0
    memory: LastTurn | None = None
    life: int | None = None
    began: float = 0.0
    wait: float | None = None
    trace: Trace | None = None


class Received(msgspec.Struct, frozen=True, eq=False):
    """A message for the inbox of a session.

    Attributes:
        dialogue: The session.
        payload: What the peer said.
        question: The number of the turn that it asks; 0 where it asks none, or wants no answer.
        wait: Seconds that its asker waits for the answer; ``None``: it does not say.
        trace: Its asker's place in a trace.
    """

    dialogue: Dialogue
    payload: Any
    question: int = 0
    wait: float | None = None
    trace: Trace | None = None


class Ended(msgspec.Struct, frozen=True, eq=False):
    """A session is over.

    Attributes:
        dialogue: The session.
        ending: Why.
        cancels: True where nobody wants its handler's work any more.
    """

    dialogue: Dialogue
    ending: Ending
    cancels: bool = False


class Say(msgspec.Struct, frozen=True, eq=False):
    """A frame of the protocol's own is to be sent, unless too much is queued already.

    Attributes:
        frame: The frame.
        must: True where the peer would be left waiting without it: then there is more room for it.
    """

    frame: Any
    must: bool = False


class Repeat(msgspec.Struct, frozen=True, eq=False):
    """Stored frames are to be sent again.

    Attributes:
        frames: The frames.
        stream: The stream that they belong to, where they do: it is not sent again while it still is.
    """

    frames: list[Any]
    stream: Departing | None = None


class NumberFree(msgspec.Struct, frozen=True, eq=False):
    """A session's number is free again, and somebody may wait for one."""


class PeerClosing(msgspec.Struct, frozen=True, eq=False):
    """The peer takes no new sessions any more."""


class Plain(msgspec.Struct, frozen=True, eq=False):
    """A message that is no session's."""

    payload: Any


class Dropped(msgspec.Struct, frozen=True, eq=False):
    """A message was dropped and counted.

    Attributes:
        reason: Why.
        sid: The session's number in it, where there is one.
        detail: What was wrong, where that is not the same each time.
    """

    reason: Drop
    sid: int | None = None
    detail: str = ""


Event: TypeAlias = (
    Answered
    | Refused
    | Postponed
    | Heard
    | Overrun
    | GivenUp
    | AskAgain
    | Opened
    | Asked
    | Received
    | Ended
    | Say
    | Repeat
    | NumberFree
    | PeerClosing
    | Plain
    | Dropped
)
