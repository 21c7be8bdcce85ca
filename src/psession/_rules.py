"""What the exact wire does in each case: two tables, one for who asks and one for who answers. Pure.

docs/protocol.md shows the same tables, made from these; the code looks its next step up here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# -- who answers: what it remembers of a session's number, for the last turn of the peer's that it took ----------------
NOTHING: Final = "nothing"
RUNNING: Final = "running"
STREAMING: Final = "streaming"
ANSWERED: Final = "answered"
OVER: Final = "over"

ASK_NEXT: Final = "asks a higher turn"
STREAM_NEXT: Final = "asks a higher turn, for many answers"
STREAM_REST: Final = "asks a higher turn, for many answers but the first"
ASK_SAME: Final = "asks this turn again"
ASK_OLDER: Final = "asks a lower turn"
ASK_FORGOTTEN: Final = "asks a turn from before what is remembered"
QUIT_NEXT: Final = "gives up a higher turn"
QUIT_SAME: Final = "gives up this turn"
QUIT_OLDER: Final = "gives up a lower turn"
GRANT_SAME: Final = "has room for more answers to this turn"
GRANT_OTHER: Final = "has room for more answers to another turn"
PART: Final = "the handler gives one of many answers"
FINISH: Final = "the handler has given its last answer"
ANSWER: Final = "the handler answers"
LEAVE: Final = "the handler leaves without an answer"

RUN: Final = "run"
PROGRESS: Final = "say in progress"
REPEAT: Final = "send the stored answer again"
DENY: Final = "say that it is forgotten"
QUIT_DENY: Final = "do as when it is given up, and say that it is forgotten"
CANCEL: Final = "cancel the handler"
FORGET: Final = "forget the answer"
SEND: Final = "store and send the answer"
FAIL: Final = "store and send an error"
RESEND: Final = "send the stored answers again, from the one that it names; where there are none say in progress"
ADVANCE: Final = "forget the answers that it has, and let the handler go on"
SEND_PART: Final = "wait for credit, then number, store and send it"
SEND_END: Final = "store and send the end mark"
DROP: Final = "drop"

FIRST_BACK: Final = 2**49
"""Turns from this number up are asked in a session of the other side's."""

# -- who asks: a session's turn ----------------------------------------------------------------------------------------
IDLE: Final = "idle"
WAITING: Final = "waiting"
LISTENING: Final = "listening"

REPLY: Final = "an answer to this turn"
ERROR: Final = "an error for this turn"
BUSY: Final = "in progress, for this turn"
STRAY: Final = "anything for another turn"
PART_NEXT: Final = "the next of many answers"
PART_AHEAD: Final = "one of many answers, the one before it not there yet"
PART_AGAIN: Final = "one of many answers that was there before"
PART_BEYOND: Final = "one of many answers, more than there was credit for"
LAST: Final = "the end mark, all answers before it there"
UNMARKED: Final = "a message without exact fields, the peer not known to be exact"
POST: Final = "a message that answers no turn"

TAKE: Final = "return it"
TAKE_CLASSIC: Final = "return it, count it as classic"
RAISE: Final = "raise it"
HAND_OVER: Final = "give it to the application"
HOLD: Final = "hold it until those before it are there"
STOP: Final = "end the stream"
STOP_OVERRUN: Final = "end the stream, count it as overrun"
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
    (STREAMING, ASK_NEXT): Step(RUNNING, RUN, "its asker has given the last one up"),
    (ANSWERED, ASK_NEXT): Step(RUNNING, RUN, "its asker has the last answer, which is forgotten"),
    (OVER, ASK_NEXT): Step(RUNNING, RUN, "a new turn"),
    (NOTHING, ASK_FORGOTTEN): Step(NOTHING, DENY, "it may have been run: never again"),
    (NOTHING, STREAM_NEXT): Step(STREAMING, RUN, "a new turn"),
    (RUNNING, STREAM_NEXT): Step(STREAMING, RUN, "its asker has given the last one up"),
    (STREAMING, STREAM_NEXT): Step(STREAMING, RUN, "its asker has given the last one up"),
    (ANSWERED, STREAM_NEXT): Step(STREAMING, RUN, "its asker has the last answer, which is forgotten"),
    (OVER, STREAM_NEXT): Step(STREAMING, RUN, "a new turn"),
    (NOTHING, STREAM_REST): Step(OVER, QUIT_DENY, "it was begun where no memory reaches"),
    (RUNNING, STREAM_REST): Step(OVER, QUIT_DENY, "likewise, and its asker has given the last one up"),
    (STREAMING, STREAM_REST): Step(OVER, QUIT_DENY, "likewise, and its asker has given the last one up"),
    (ANSWERED, STREAM_REST): Step(OVER, QUIT_DENY, "it was begun where no memory reaches"),
    (OVER, STREAM_REST): Step(OVER, QUIT_DENY, "it was begun where no memory reaches"),
    (RUNNING, ASK_SAME): Step(RUNNING, PROGRESS, "another attempt joins the one that runs"),
    (STREAMING, ASK_SAME): Step(STREAMING, RESEND, "answers were lost, or the handler has none yet"),
    (ANSWERED, ASK_SAME): Step(ANSWERED, REPEAT, "the answer was lost, or is on its way"),
    (OVER, ASK_SAME): Step(OVER, DENY, "it was run or given up, and its answer is gone"),
    (RUNNING, ASK_OLDER): Step(RUNNING, DROP, "nobody waits for it"),
    (STREAMING, ASK_OLDER): Step(STREAMING, DROP, "nobody waits for it"),
    (ANSWERED, ASK_OLDER): Step(ANSWERED, DROP, "nobody waits for it"),
    (OVER, ASK_OLDER): Step(OVER, DROP, "nobody waits for it"),
    (NOTHING, QUIT_NEXT): Step(OVER, DROP, "it overtook its turn, which must not be run when it comes"),
    (RUNNING, QUIT_NEXT): Step(OVER, CANCEL, "it overtook its turn, and the one that runs is given up too"),
    (STREAMING, QUIT_NEXT): Step(OVER, CANCEL, "it overtook its turn, and the one that runs is given up too"),
    (ANSWERED, QUIT_NEXT): Step(OVER, FORGET, "it overtook its turn, which must not be run when it comes"),
    (OVER, QUIT_NEXT): Step(OVER, DROP, "it overtook its turn, which must not be run when it comes"),
    (RUNNING, QUIT_SAME): Step(OVER, CANCEL, "nobody waits for the answer"),
    (STREAMING, QUIT_SAME): Step(OVER, CANCEL, "nobody waits for more answers"),
    (ANSWERED, QUIT_SAME): Step(OVER, FORGET, "the answer met it on the way, and is dropped there as late"),
    (OVER, QUIT_SAME): Step(OVER, DROP, "known"),
    (NOTHING, QUIT_OLDER): Step(NOTHING, DROP, "known"),
    (RUNNING, QUIT_OLDER): Step(RUNNING, DROP, "known"),
    (STREAMING, QUIT_OLDER): Step(STREAMING, DROP, "known"),
    (ANSWERED, QUIT_OLDER): Step(ANSWERED, DROP, "known"),
    (OVER, QUIT_OLDER): Step(OVER, DROP, "known"),
    (NOTHING, GRANT_OTHER): Step(NOTHING, DROP, "nothing is known of it"),
    (RUNNING, GRANT_SAME): Step(RUNNING, DROP, "it was asked for one answer"),
    (RUNNING, GRANT_OTHER): Step(RUNNING, DROP, "that turn is over"),
    (STREAMING, GRANT_SAME): Step(STREAMING, ADVANCE, "the asker's application has consumed half a window"),
    (STREAMING, GRANT_OTHER): Step(STREAMING, DROP, "that turn is over"),
    (ANSWERED, GRANT_SAME): Step(ANSWERED, ADVANCE, "all but the end may be forgotten"),
    (ANSWERED, GRANT_OTHER): Step(ANSWERED, DROP, "that turn is over"),
    (OVER, GRANT_SAME): Step(OVER, DROP, "it is over"),
    (OVER, GRANT_OTHER): Step(OVER, DROP, "that turn is over"),
    (STREAMING, PART): Step(STREAMING, SEND_PART, "until its asker has it: a window of them at the most"),
    (STREAMING, FINISH): Step(ANSWERED, SEND_END, "the handler takes its next message, returns, or calls finish()"),
    (STREAMING, LEAVE): Step(ANSWERED, FAIL, "after the answers before it"),
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
    (LISTENING, PART_NEXT): Step(LISTENING, HAND_OVER, "in order, each once"),
    (LISTENING, PART_AHEAD): Step(LISTENING, HOLD, "it overtook another, or that one was lost"),
    (LISTENING, PART_AGAIN): Step(LISTENING, COUNT, "a duplicate"),
    (LISTENING, PART_BEYOND): Step(IDLE, STOP_OVERRUN, "its peer keeps no measure"),
    (LISTENING, LAST): Step(IDLE, STOP, "all is there"),
    (LISTENING, REPLY): Step(IDLE, TAKE, "its peer knows no parts: the only one, and the end"),
    (LISTENING, ERROR): Step(IDLE, RAISE, "after the answers that are there"),
    (LISTENING, BUSY): Step(LISTENING, POSTPONE, "the peer has it; never past the whole time"),
    (LISTENING, UNMARKED): Step(IDLE, TAKE_CLASSIC, "the peer can do no better: the only one, and the end"),
    (LISTENING, STRAY): Step(LISTENING, COUNT, "it answers a turn that is over"),
    (LISTENING, POST): Step(LISTENING, KEEP, "it answers nothing"),
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
