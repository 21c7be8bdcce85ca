"""The states of a turn, on both sides, and of an exact session, and the tables that lead from one to the next. Pure.

Each thing that has a state keeps it in one attribute, and one function changes it: it looks the next state up here.
docs/protocol.md shows the two tables of turns, made from these.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar


class State(Enum):
    """A member of a closed set, hashed by identity: the hash of `Enum` is a Python function (0.15 us a look-up)."""

    if TYPE_CHECKING:

        def __hash__(self) -> int: ...
    else:
        __hash__ = object.__hash__


To = TypeVar("To", bound=State)
Do = TypeVar("Do", bound=State)


class Step(NamedTuple, Generic[To, Do]):
    """One transition: the next state, what is done, and why."""

    to: To
    do: Do
    why: str


class IllegalStepError(RuntimeError):
    """Something happened that no table has: a fault of psession's own. Nothing was changed."""


# -- a turn that the peer asks -----------------------------------------------------------------------------------------
class PeerTurn(State):
    """The state of the last turn of the peer's that this side took, for one session's number."""

    NOTHING = "nothing"
    RUNNING = "running"
    STREAMING = "streaming"
    ANSWERED = "answered"
    OVER = "over"


class PeerEvent(State):
    """An event of that turn."""

    ASK_NEXT = "asks a higher turn"
    STREAM_NEXT = "asks a higher turn, for many answers"
    STREAM_REST = "asks a higher turn, for many answers but the first"
    ASK_SAME = "asks this turn again"
    ASK_OLDER = "asks a lower turn"
    ASK_FORGOTTEN = "asks a turn from before what is remembered"
    QUIT_NEXT = "gives up a higher turn"
    QUIT_SAME = "gives up this turn"
    QUIT_OLDER = "gives up a lower turn"
    GRANT_SAME = "has room for more answers to this turn"
    GRANT_OTHER = "has room for more answers to another turn"
    PART = "the handler gives one of many answers"
    FINISH = "the handler has given its last answer"
    ANSWER = "the handler answers"
    LEAVE = "the handler leaves without an answer"
    PASS = "asks a higher turn, and wants no answer"
    OUTGROW = "room is needed for younger answers"


class PeerDo(State):
    """The action that a step asks for."""

    RUN = "run"
    PROGRESS = "say in progress"
    REPEAT = "send the stored answer again"
    DENY = "say that it is forgotten"
    QUIT_DENY = "do as when it is given up, and say that it is forgotten"
    CANCEL = "cancel the handler"
    FORGET = "forget the answer"
    SEND = "store and send the answer"
    FAIL = "store and send an error"
    RESEND = "send the stored answers again, from the one that it names; where there are none say in progress"
    ADVANCE = "forget the answers that it has, and let the handler go on"
    SEND_PART = "wait for credit, then number, store and send it"
    SEND_END = "store and send the end mark"
    DROP = "drop"


# -- a turn that this side asks ----------------------------------------------------------------------------------------
class Turn(State):
    """The state of a turn that this side asks."""

    IDLE = "idle"
    WAITING = "waiting"
    LISTENING = "listening"
    FAILED = "failed"


class TurnEvent(State):
    """An event of that turn."""

    REPLY = "an answer to this turn"
    ERROR = "an error for this turn"
    BUSY = "in progress, for this turn"
    STRAY = "anything for another turn"
    PART_NEXT = "the next of many answers"
    PART_AHEAD = "one of many answers, the one before it not there yet"
    PART_AGAIN = "one of many answers that was there before"
    PART_BEYOND = "one of many answers, more than there was credit for"
    LAST = "the end mark, all answers before it there"
    UNMARKED = "a message without exact fields, the peer not known to be exact"
    SENDER_FAILED = "the sender raises on its message"
    TRY_AGAIN = "it is tried again"
    GIVE_UP = "it is given up: cancelled, timed out, ended"


class TurnDo(State):
    """The action that a step asks for."""

    TAKE = "return it"
    TAKE_CLASSIC = "return it, count it as classic"
    RAISE = "raise it"
    HAND_OVER = "give it to the application"
    HOLD = "hold it until those before it are there"
    STOP = "end the stream"
    STOP_OVERRUN = "end the stream, count it as overrun"
    POSTPONE = "postpone the next attempt"
    COUNT = "count it as late, duplicate or unknown"
    KEEP = "put it into the inbox"
    HOLD_ERROR = "give the sender's exception to the caller, who may try again"
    GO_ON = "go on"
    LEAVE = "leave every table; an exact peer is told"


P, E, D = PeerTurn, PeerEvent, PeerDo

ANSWERER: Final[dict[tuple[PeerTurn, PeerEvent], Step[PeerTurn, PeerDo]]] = {
    (P.NOTHING, E.ASK_NEXT): Step(P.RUNNING, D.RUN, "a new turn"),
    (P.RUNNING, E.ASK_NEXT): Step(
        P.RUNNING, D.RUN, "a session has one turn at a time: its asker has given the last one up"
    ),
    (P.STREAMING, E.ASK_NEXT): Step(P.RUNNING, D.RUN, "its asker has given the last one up"),
    (P.ANSWERED, E.ASK_NEXT): Step(P.RUNNING, D.RUN, "its asker has the last answer, which is forgotten"),
    (P.OVER, E.ASK_NEXT): Step(P.RUNNING, D.RUN, "a new turn"),
    (P.NOTHING, E.ASK_FORGOTTEN): Step(P.NOTHING, D.DENY, "it may have been run: never again"),
    (P.NOTHING, E.STREAM_NEXT): Step(P.STREAMING, D.RUN, "a new turn"),
    (P.RUNNING, E.STREAM_NEXT): Step(P.STREAMING, D.RUN, "its asker has given the last one up"),
    (P.STREAMING, E.STREAM_NEXT): Step(P.STREAMING, D.RUN, "its asker has given the last one up"),
    (P.ANSWERED, E.STREAM_NEXT): Step(P.STREAMING, D.RUN, "its asker has the last answer, which is forgotten"),
    (P.OVER, E.STREAM_NEXT): Step(P.STREAMING, D.RUN, "a new turn"),
    (P.NOTHING, E.STREAM_REST): Step(P.OVER, D.QUIT_DENY, "it was begun where no memory reaches"),
    (P.RUNNING, E.STREAM_REST): Step(P.OVER, D.QUIT_DENY, "likewise, and its asker has given the last one up"),
    (P.STREAMING, E.STREAM_REST): Step(P.OVER, D.QUIT_DENY, "likewise, and its asker has given the last one up"),
    (P.ANSWERED, E.STREAM_REST): Step(P.OVER, D.QUIT_DENY, "it was begun where no memory reaches"),
    (P.OVER, E.STREAM_REST): Step(P.OVER, D.QUIT_DENY, "it was begun where no memory reaches"),
    (P.RUNNING, E.ASK_SAME): Step(P.RUNNING, D.PROGRESS, "another attempt joins the one that runs"),
    (P.STREAMING, E.ASK_SAME): Step(P.STREAMING, D.RESEND, "answers were lost, or the handler has none yet"),
    (P.ANSWERED, E.ASK_SAME): Step(P.ANSWERED, D.REPEAT, "the answer was lost, or is on its way"),
    (P.OVER, E.ASK_SAME): Step(P.OVER, D.DENY, "it was run or given up, and its answer is gone"),
    (P.RUNNING, E.ASK_OLDER): Step(P.RUNNING, D.DROP, "nobody waits for it"),
    (P.STREAMING, E.ASK_OLDER): Step(P.STREAMING, D.DROP, "nobody waits for it"),
    (P.ANSWERED, E.ASK_OLDER): Step(P.ANSWERED, D.DROP, "nobody waits for it"),
    (P.OVER, E.ASK_OLDER): Step(P.OVER, D.DROP, "nobody waits for it"),
    (P.NOTHING, E.QUIT_NEXT): Step(P.OVER, D.DROP, "it overtook its turn, which must not be run when it comes"),
    (P.RUNNING, E.QUIT_NEXT): Step(P.OVER, D.CANCEL, "it overtook its turn, and the one that runs is given up too"),
    (P.STREAMING, E.QUIT_NEXT): Step(P.OVER, D.CANCEL, "it overtook its turn, and the one that runs is given up too"),
    (P.ANSWERED, E.QUIT_NEXT): Step(P.OVER, D.FORGET, "it overtook its turn, which must not be run when it comes"),
    (P.OVER, E.QUIT_NEXT): Step(P.OVER, D.DROP, "it overtook its turn, which must not be run when it comes"),
    (P.RUNNING, E.QUIT_SAME): Step(P.OVER, D.CANCEL, "nobody waits for the answer"),
    (P.STREAMING, E.QUIT_SAME): Step(P.OVER, D.CANCEL, "nobody waits for more answers"),
    (P.ANSWERED, E.QUIT_SAME): Step(P.OVER, D.FORGET, "the answer met it on the way, and is dropped there as late"),
    (P.OVER, E.QUIT_SAME): Step(P.OVER, D.DROP, "known"),
    (P.NOTHING, E.QUIT_OLDER): Step(P.NOTHING, D.DROP, "known"),
    (P.RUNNING, E.QUIT_OLDER): Step(P.RUNNING, D.DROP, "known"),
    (P.STREAMING, E.QUIT_OLDER): Step(P.STREAMING, D.DROP, "known"),
    (P.ANSWERED, E.QUIT_OLDER): Step(P.ANSWERED, D.DROP, "known"),
    (P.OVER, E.QUIT_OLDER): Step(P.OVER, D.DROP, "known"),
    (P.NOTHING, E.GRANT_OTHER): Step(P.NOTHING, D.DROP, "nothing is known of it"),
    (P.RUNNING, E.GRANT_SAME): Step(P.RUNNING, D.DROP, "it was asked for one answer"),
    (P.RUNNING, E.GRANT_OTHER): Step(P.RUNNING, D.DROP, "that turn is over"),
    (P.STREAMING, E.GRANT_SAME): Step(P.STREAMING, D.ADVANCE, "the asker's application has consumed half a window"),
    (P.STREAMING, E.GRANT_OTHER): Step(P.STREAMING, D.DROP, "that turn is over"),
    (P.ANSWERED, E.GRANT_SAME): Step(P.ANSWERED, D.ADVANCE, "all but the end may be forgotten"),
    (P.ANSWERED, E.GRANT_OTHER): Step(P.ANSWERED, D.DROP, "that turn is over"),
    (P.OVER, E.GRANT_SAME): Step(P.OVER, D.DROP, "it is over"),
    (P.OVER, E.GRANT_OTHER): Step(P.OVER, D.DROP, "that turn is over"),
    (P.STREAMING, E.PART): Step(P.STREAMING, D.SEND_PART, "until its asker has it: a window of them at the most"),
    (P.STREAMING, E.FINISH): Step(
        P.ANSWERED, D.SEND_END, "the handler takes its next message, returns, or calls finish()"
    ),
    (P.STREAMING, E.LEAVE): Step(P.ANSWERED, D.FAIL, "after the answers before it"),
    (P.RUNNING, E.ANSWER): Step(P.ANSWERED, D.SEND, "for as long as its asker may ask again"),
    (P.RUNNING, E.LEAVE): Step(P.ANSWERED, D.FAIL, "rather than let its asker wait"),
    (P.NOTHING, E.PASS): Step(P.OVER, D.RUN, "a post opens the session"),
    (P.RUNNING, E.PASS): Step(P.OVER, D.RUN, "its asker has given the last one up"),
    (P.STREAMING, E.PASS): Step(P.OVER, D.RUN, "its asker has given the last one up"),
    (P.ANSWERED, E.PASS): Step(P.OVER, D.RUN, "its asker has the last answer, which is forgotten"),
    (P.OVER, E.PASS): Step(P.OVER, D.RUN, "a post"),
    (P.ANSWERED, E.OUTGROW): Step(P.OVER, D.FORGET, "the oldest go first"),
    (P.STREAMING, E.OUTGROW): Step(P.STREAMING, D.FORGET, "the oldest go first; it goes on"),
}
"""By what is remembered of the number, and what happens."""

T, TE, TD = Turn, TurnEvent, TurnDo

ASKER: Final[dict[tuple[Turn, TurnEvent], Step[Turn, TurnDo]]] = {
    (T.WAITING, TE.REPLY): Step(T.IDLE, TD.TAKE, "its number is this turn's alone, in this life"),
    (T.WAITING, TE.ERROR): Step(T.IDLE, TD.RAISE, "its number is this turn's alone, in this life"),
    (T.WAITING, TE.BUSY): Step(T.WAITING, TD.POSTPONE, "the peer has it; never past the whole time"),
    (T.WAITING, TE.UNMARKED): Step(T.IDLE, TD.TAKE_CLASSIC, "the peer can do no better"),
    (T.WAITING, TE.STRAY): Step(T.WAITING, TD.COUNT, "it answers a turn that is over"),
    (T.LISTENING, TE.PART_NEXT): Step(T.LISTENING, TD.HAND_OVER, "in order, each once"),
    (T.LISTENING, TE.PART_AHEAD): Step(T.LISTENING, TD.HOLD, "it overtook another, or that one was lost"),
    (T.LISTENING, TE.PART_AGAIN): Step(T.LISTENING, TD.COUNT, "a duplicate"),
    (T.LISTENING, TE.PART_BEYOND): Step(T.IDLE, TD.STOP_OVERRUN, "its peer keeps no measure"),
    (T.LISTENING, TE.LAST): Step(T.IDLE, TD.STOP, "all is there"),
    (T.LISTENING, TE.REPLY): Step(T.IDLE, TD.TAKE, "its peer knows no parts: the only one, and the end"),
    (T.LISTENING, TE.ERROR): Step(T.IDLE, TD.RAISE, "after the answers that are there"),
    (T.LISTENING, TE.BUSY): Step(T.LISTENING, TD.POSTPONE, "the peer has it; never past the whole time"),
    (T.LISTENING, TE.UNMARKED): Step(T.IDLE, TD.TAKE_CLASSIC, "the peer can do no better: the only one, and the end"),
    (T.LISTENING, TE.STRAY): Step(T.LISTENING, TD.COUNT, "it answers a turn that is over"),
    (T.IDLE, TE.REPLY): Step(T.IDLE, TD.COUNT, "a duplicate"),
    (T.IDLE, TE.ERROR): Step(T.IDLE, TD.COUNT, "a duplicate"),
    (T.IDLE, TE.BUSY): Step(T.IDLE, TD.COUNT, "the answer overtook it"),
    (T.IDLE, TE.UNMARKED): Step(T.IDLE, TD.KEEP, "it answers nothing"),
    (T.IDLE, TE.STRAY): Step(T.IDLE, TD.COUNT, "it answers a turn that is over"),
    (T.WAITING, TE.SENDER_FAILED): Step(T.FAILED, TD.HOLD_ERROR, "whether the message left is not known"),
    (T.WAITING, TE.GIVE_UP): Step(T.IDLE, TD.LEAVE, "an answer that comes later is late"),
    (T.LISTENING, TE.GIVE_UP): Step(T.IDLE, TD.LEAVE, "an answer that comes later is late"),
    (T.FAILED, TE.GIVE_UP): Step(T.IDLE, TD.LEAVE, "it is not tried again"),
    (T.FAILED, TE.TRY_AGAIN): Step(T.WAITING, TD.GO_ON, "the caller retries on this exception"),
    (T.FAILED, TE.REPLY): Step(T.FAILED, TD.COUNT, "its caller has the exception already"),
    (T.FAILED, TE.ERROR): Step(T.FAILED, TD.COUNT, "its caller has the exception already"),
    (T.FAILED, TE.BUSY): Step(T.FAILED, TD.COUNT, "its caller has the exception already"),
    (T.FAILED, TE.UNMARKED): Step(T.FAILED, TD.KEEP, "it answers nothing"),
    (T.FAILED, TE.STRAY): Step(T.FAILED, TD.COUNT, "it answers a turn that is over"),
}
"""By whether the session's turn waits, and what came."""


# -- a session on the exact wire, as its peer knows it -----------------------------------------------------------------
class Opened(State):
    """The peer's knowledge of a session that has a turn of this side's."""

    FRESH = "it has never heard of it"
    OPEN = "it has it as it is"
    STALE = "it may have it, or the rest of it: the next turn opens it anew"
    TOLD = "it was told that it is over"
    DONE = "it knows that it is over"


class OpenedEvent(State):
    """An event that changes that knowledge."""

    ANSWERED = "it answers a turn"
    POSTED = "a post opens it"
    UNSENT = "a turn ends that never left"
    UNANSWERED = "a turn ends that had left, without its answer"
    TELL = "this side says that it is over"
    PEER_DONE = "the peer says that it is done with it, or was refused it"


SESSION: Final[dict[tuple[Opened, OpenedEvent], Opened]] = {
    **{(state, OpenedEvent.ANSWERED): Opened.OPEN for state in (Opened.FRESH, Opened.OPEN, Opened.STALE)},
    **{(state, OpenedEvent.POSTED): Opened.OPEN for state in (Opened.FRESH, Opened.OPEN, Opened.STALE)},
    (Opened.FRESH, OpenedEvent.UNSENT): Opened.FRESH,
    (Opened.OPEN, OpenedEvent.UNSENT): Opened.STALE,
    (Opened.STALE, OpenedEvent.UNSENT): Opened.STALE,
    **{(state, OpenedEvent.UNANSWERED): Opened.STALE for state in (Opened.FRESH, Opened.OPEN, Opened.STALE)},
    **{(state, OpenedEvent.TELL): Opened.TOLD for state in (Opened.FRESH, Opened.OPEN, Opened.STALE)},
    **{(state, OpenedEvent.PEER_DONE): Opened.DONE for state in (Opened.FRESH, Opened.OPEN, Opened.STALE, Opened.TOLD)},
    **{
        (state, event): state
        for state in (Opened.TOLD, Opened.DONE)
        for event in OpenedEvent
        if (state, event) != (Opened.TOLD, OpenedEvent.PEER_DONE)
    },
}
"""The next state, by what the peer knows and what happens. What is over stays over."""


# -- what is known of the peer -----------------------------------------------------------------------------------------
class Peer(State):
    """The wire that the peer is known to speak."""

    UNKNOWN = "unknown"
    EXACT = "exact"
    CLASSIC = "classic"


FIRST_BACK: Final = 2**49
"""Turns from this number up are asked in a session of the other side's."""

# -- codes in the error field ------------------------------------------------------------------------------------------
REFUSED: Final = "refused"
"""A code that is this, or starts with this and a dot, says that nothing was done: the turn is safe to ask again."""

NO_SESSION: Final = "refused.no_session"
NO_HANDLER: Final = "refused.no_handler"
FULL: Final = "refused.full"
CLOSING: Final = "refused.closing"
LATE: Final = "refused.late"
MALFORMED: Final = "refused.malformed"
FORGOTTEN: Final = "forgotten"
CRASHED: Final = "crashed"
UNANSWERED: Final = "unanswered"
UNREADABLE: Final = "unreadable"
"""This code is never on the wire: the asker gives it to an answer that its own codec refuses."""

OVERRUN: Final = "overrun"
CLOSED: Final = "closed"

ENDED: Final = "ended"
CANCELLED: Final = "cancelled"
TIMEOUT: Final = "timeout"
ABORTED: Final = "aborted"


def is_refusal(code: str) -> bool:
    """Return True if an error of this code says that nothing was done."""
    return code == REFUSED or code.startswith(REFUSED + ".")


def join_error(code: str, text: str) -> str:
    """Join a code and a text as they travel in one field."""
    return f"{code}: {text}" if text else code


def split_error(field: str) -> tuple[str, str]:
    """Split an error field into its code and its text."""
    code, _, text = field.partition(": ")
    return code, text
