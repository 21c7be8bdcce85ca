"""What the exact wire does in each case: two tables, one for who asks and one for who answers. Pure.

docs/protocol.md shows the same tables, made from these; the code looks its next step up here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# -- who answers: what it remembers of a session's number, for the last turn of the peer's that it took ----------------
NOTHING: Final = "nothing"
RUNNING: Final = "running"
ANSWERED: Final = "answered"
OVER: Final = "over"

ASK_NEXT: Final = "asks a higher turn"
ASK_SAME: Final = "asks this turn again"
ASK_OLDER: Final = "asks a lower turn"
ASK_FORGOTTEN: Final = "asks a turn from before what is remembered"
QUIT_NEXT: Final = "gives up a higher turn"
QUIT_SAME: Final = "gives up this turn"
QUIT_OLDER: Final = "gives up a lower turn"
ANSWER: Final = "the handler answers"
LEAVE: Final = "the handler leaves without an answer"

RUN: Final = "run"
PROGRESS: Final = "say in progress"
REPEAT: Final = "send the stored answer again"
DENY: Final = "say that it is forgotten"
CANCEL: Final = "cancel the handler"
FORGET: Final = "forget the answer"
SEND: Final = "store and send the answer"
FAIL: Final = "store and send an error"
DROP: Final = "drop"

FIRST_BACK: Final = 2**49
"""Turns from this number up are asked in a session of the other side's."""

# -- who asks: a session's turn ----------------------------------------------------------------------------------------
IDLE: Final = "idle"
WAITING: Final = "waiting"

REPLY: Final = "an answer to this turn"
ERROR: Final = "an error for this turn"
BUSY: Final = "in progress, for this turn"
STRAY: Final = "anything for another turn"
UNMARKED: Final = "a message without exact fields, the peer not known to be exact"
POST: Final = "a message that answers no turn"

TAKE: Final = "return it"
TAKE_CLASSIC: Final = "return it, count it as classic"
RAISE: Final = "raise it"
POSTPONE: Final = "postpone the next attempt"
COUNT: Final = "count it as late, duplicate or unknown"
KEEP: Final = "put it into the inbox"


class Step(NamedTuple):
    """One transition: the next state, what is done, and why."""

    to: str
    do: str
    why: str


ANSWERER: Final[dict[tuple[str, str], Step]] = {
    (NOTHING, ASK_NEXT): Step(RUNNING, RUN, "a new turn"),
    (RUNNING, ASK_NEXT): Step(RUNNING, RUN, "a session has one turn at a time: its asker has given the last one up"),
    (ANSWERED, ASK_NEXT): Step(RUNNING, RUN, "its asker has the last answer, which is forgotten"),
    (OVER, ASK_NEXT): Step(RUNNING, RUN, "a new turn"),
    (NOTHING, ASK_FORGOTTEN): Step(NOTHING, DENY, "it may have been run: never again"),
    (RUNNING, ASK_SAME): Step(RUNNING, PROGRESS, "another attempt joins the one that runs"),
    (ANSWERED, ASK_SAME): Step(ANSWERED, REPEAT, "the answer was lost, or is on its way"),
    (OVER, ASK_SAME): Step(OVER, DENY, "it was run or given up, and its answer is gone"),
    (RUNNING, ASK_OLDER): Step(RUNNING, DROP, "nobody waits for it"),
    (ANSWERED, ASK_OLDER): Step(ANSWERED, DROP, "nobody waits for it"),
    (OVER, ASK_OLDER): Step(OVER, DROP, "nobody waits for it"),
    (NOTHING, QUIT_NEXT): Step(OVER, DROP, "it overtook its turn, which must not be run when it comes"),
    (RUNNING, QUIT_NEXT): Step(OVER, CANCEL, "it overtook its turn, and the one that runs is given up too"),
    (ANSWERED, QUIT_NEXT): Step(OVER, FORGET, "it overtook its turn, which must not be run when it comes"),
    (OVER, QUIT_NEXT): Step(OVER, DROP, "it overtook its turn, which must not be run when it comes"),
    (RUNNING, QUIT_SAME): Step(OVER, CANCEL, "nobody waits for the answer"),
    (ANSWERED, QUIT_SAME): Step(OVER, FORGET, "the answer met it on the way, and is dropped there as late"),
    (OVER, QUIT_SAME): Step(OVER, DROP, "known"),
    (NOTHING, QUIT_OLDER): Step(NOTHING, DROP, "known"),
    (RUNNING, QUIT_OLDER): Step(RUNNING, DROP, "known"),
    (ANSWERED, QUIT_OLDER): Step(ANSWERED, DROP, "known"),
    (OVER, QUIT_OLDER): Step(OVER, DROP, "known"),
    (RUNNING, ANSWER): Step(ANSWERED, SEND, "for as long as its asker may ask again"),
    (RUNNING, LEAVE): Step(ANSWERED, FAIL, "rather than let its asker wait"),
}
"""By what is remembered of the number, and what happens."""

ASKER: Final[dict[tuple[str, str], Step]] = {
    (WAITING, REPLY): Step(IDLE, TAKE, "its number is this turn's alone, in this life"),
    (WAITING, ERROR): Step(IDLE, RAISE, "its number is this turn's alone, in this life"),
    (WAITING, BUSY): Step(WAITING, POSTPONE, "the peer has it; never past the whole time"),
    (WAITING, UNMARKED): Step(IDLE, TAKE_CLASSIC, "the peer can do no better"),
    (WAITING, STRAY): Step(WAITING, COUNT, "it answers a turn that is over"),
    (WAITING, POST): Step(WAITING, KEEP, "it answers nothing"),
    (IDLE, REPLY): Step(IDLE, COUNT, "a duplicate"),
    (IDLE, ERROR): Step(IDLE, COUNT, "a duplicate"),
    (IDLE, BUSY): Step(IDLE, COUNT, "the answer overtook it"),
    (IDLE, UNMARKED): Step(IDLE, KEEP, "it answers nothing"),
    (IDLE, STRAY): Step(IDLE, COUNT, "it answers a turn that is over"),
    (IDLE, POST): Step(IDLE, KEEP, "it answers nothing"),
}
"""By whether the session's turn waits, and what came."""

# -- what is known of the peer -----------------------------------------------------------------------------------------
UNKNOWN: Final = "unknown"
EXACT: Final = "exact"
CLASSIC: Final = "classic"

# -- codes in the error field ------------------------------------------------------------------------------------------
REFUSED: Final = "refused"
"""A code that is this, or starts with this and a dot, says that nothing was done: the turn is safe to ask again."""

NO_SESSION: Final = "refused.no_session"
NO_HANDLER: Final = "refused.no_handler"
FULL: Final = "refused.full"
CLOSING: Final = "refused.closing"
LATE: Final = "refused.late"
FORGOTTEN: Final = "forgotten"
CRASHED: Final = "crashed"
UNANSWERED: Final = "unanswered"
OVERRUN: Final = "overrun"
CLOSED: Final = "closed"

ENDED: Final = "ended"
CANCELLED: Final = "cancelled"
TIMEOUT: Final = "timeout"
ABORTED: Final = "aborted"


def is_refusal(code: str) -> bool:
    """Whether an error of this code says that nothing was done."""
    return code == REFUSED or code.startswith(REFUSED + ".")


def join_error(code: str, text: str) -> str:
    """A code and a text as they travel in one field."""
    return f"{code}: {text}" if text else code


def split_error(field: str) -> tuple[str, str]:
    """The code and the text in an error field."""
    code, _, text = field.partition(": ")
    return code, text
