"""Endings: why something is over, as data, from which each waiter gets an error of its own. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from psession import errors
from psession.protocol import states as rules


@dataclass(frozen=True, slots=True)
class Ending:
    """An end as data: each waiter gets an error of its own made from it.

    Attributes:
        error: The error of a turn that waits.
        why: What happened, in words.
        cause: What the world did, the ``__cause__`` of each error.
        clean: True where ``async for`` simply stops.
        after: The error of a call after the end.
        counter: The statistic that counts a turn ended this way.
        code: The code that an exact peer is told; empty where the end says nothing more than that it is one.
    """

    error: type[errors.SessionError]
    why: str
    cause: BaseException | None = None
    clean: bool = False
    after: type[errors.SessionError] = errors.SessionInvalidError
    counter: str = "cancelled"
    code: str = ""


CANCELLED = Ending(errors.SessionCancelError, "the turn was cancelled by cancel()", code=rules.CANCELLED)
TIMED_OUT = Ending(
    errors.SessionTimeoutError, "no reply until timeout() was called", counter="timed_out", code=rules.TIMEOUT
)
ENDED = Ending(errors.SessionCancelError, "the session was ended", clean=True)
UNANSWERED = Ending(errors.SessionCancelError, 'a turn was not answered (on_unanswered="end")')
RECYCLED = Ending(errors.SessionCancelError, "the session was recycled: all numbers were in use or rested")
MADE_ROOM = Ending(errors.SessionCancelError, "the session was recycled: the peer opened another", clean=True)
PEER_ENDED = Ending(errors.SessionCancelError, "the peer ended the session", clean=True)
GIVEN_UP = Ending(errors.SessionCancelError, "the peer gave the turn up", clean=True)
OUTGROWN = Ending(errors.SessionCancelError, "answers that the peer lacks outgrew max_answer_bytes", clean=True)
REPLACED = Ending(errors.SessionCancelError, "the peer opened the session anew", clean=True)
PEER_RESTARTED = Ending(errors.SessionCancelError, "the peer began a new life", clean=True)
FORGOTTEN = Ending(
    errors.SessionAbortError,
    "the link broke, and the peer that came back has lost its memory: whether the turn was done is not known",
    counter="aborted",
)

CLEARED = {
    "abort": Ending(errors.SessionAbortError, "aborted by clear()", counter="aborted"),
    "cancel": Ending(errors.SessionCancelError, "cancelled by clear()"),
    "timeout": Ending(errors.SessionTimeoutError, "timed out by clear()", counter="timed_out"),
}


def aborted(cause: BaseException | None) -> Ending:
    """The ending of turns that ``abort(cause)`` cut off."""
    why = "the turn was aborted by abort()"
    if cause is not None:
        why += f": {str(cause) or repr(cause)}"
    return Ending(errors.SessionAbortError, why, cause, counter="aborted", code=rules.ABORTED)


def port_left(why: str) -> Ending:
    """The ending of a port that this side closed."""
    return Ending(errors.SessionAbortError, why, after=errors.PortClosedError, counter="aborted", code=rules.CLOSED)


def port_closed(why: str, cause: Exception | None = None) -> Ending:
    """The ending of a port that the peer closed (without a cause) or the world broke."""
    error = errors.PortClosedError
    return Ending(error, why, cause, clean=cause is None, after=error, counter="aborted")


def gave_way(held: int) -> Ending:
    """The ending of a port that held the most when the budget of all was used up."""
    why = f"the budget of all ports is used up, and its peer made this one hold the most ({held} bytes)"
    return Ending(errors.PortClosedError, why, after=errors.PortClosedError, counter="aborted", code=rules.CLOSED)


def overrun(limit: int) -> Ending:
    """The ending of a session whose inbox is full."""
    why = f"the peer sent more than the {limit} messages that the inbox holds; receive them, or raise inbox_limit"
    return Ending(errors.SessionOverrunError, why, after=errors.SessionOverrunError, code=rules.OVERRUN)


def held_too_much(most_bytes: float) -> Ending:
    """The ending of a session that would hold more than there is room for."""
    why = (
        "messages that nobody has received hold all that there may be "
        f"({most_bytes:g} bytes of the port's, three times as many with long ones that handlers are at work on, "
        "or all of the budget): receive them, or raise max_held_bytes or the budget"
    )
    return Ending(errors.SessionOverrunError, why, after=errors.SessionOverrunError, code=rules.OVERRUN)


def expired(life: float) -> Ending:
    """The ending of a session in which nothing happened for too long."""
    return Ending(errors.SessionCancelError, f"it was idle for {life:g} s (session_max_life)", clean=True)
