"""The header of the exact wire: everything that travels beside a payload but the session's number. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from psession.checks import LARGEST

_INFINITY: Final = float("inf")

LONGEST_WAIT: Final = 366 * 24 * 3600.0
"""Seconds, a year: longer waits count as this one, so that no arithmetic overflows and no timer is set for ever."""


MAX_TRACEPARENT: Final = 128
"""Characters of a trace's parent that are passed on: version 00 of W3C Trace Context has 55, a later one maybe more."""

MAX_TRACESTATE: Final = 512
"""Characters of its state: what W3C Trace Context, section 3.3.1.5, asks everybody to pass on at least."""

Trace: TypeAlias = "tuple[str, str]"
"""A place in a trace: its ``traceparent`` and its ``tracestate``, which may be empty."""


class Header(NamedTuple):
    """The exact fields of one message, checked; ``None`` (or ``False``) where a field is not there.

    Attributes:
        turn: The number of the turn that the message asks.
        re: The number of the turn that it answers.
        new: True on what opens a session.
        end: True where its sender has nothing more to say.
        error: A code, or a code, a colon, a space and a text.
        wait: Seconds that the sender still waits; in an answer, seconds to wait before asking again.
        life: The epoch of the port that opened the session.
        part: The place among the answers to one turn, or among the posts of one side.
        credit: How many answers to this turn there is room for, counted from the first.
        trace: The asker's place in a trace.
    """

    turn: int | None
    re: int | None
    new: bool
    end: bool
    error: str | None
    wait: float | None
    life: int | None
    part: int | None
    credit: int | None
    trace: tuple[str, str] | None = None


def checked(values: tuple[Any, ...]) -> Header | None:
    """The fields as a `Header`; ``None`` where one of them is not what it must be (docs/protocol.md, "Fields")."""
    turn, re, new, end, error, wait, life, part, credit, traceparent, tracestate = values
    for number in (turn, re, life, part, credit):
        if number is not None and not (type(number) is int and 0 <= number <= LARGEST):
            return None
    if turn == 0 or re == 0 or credit == 0 or not (error is None or type(error) is str):
        return None
    if not is_wait(wait):
        return None
    if not (new is None or new is True or new is False) or not (end is None or end is True or end is False):
        return None
    if wait is not None and wait > LONGEST_WAIT:
        wait = LONGEST_WAIT
    trace = None if traceparent is None else trace_of(traceparent, tracestate)
    return Header(turn, re, new is True, end is True, error, wait, life, part, credit, trace)


def trace_of(traceparent: object, tracestate: object) -> Trace | None:
    """A place in a trace; ``None`` where it is none, or is too long.

    Unlike any other field one that is wrong costs the trace, and not the message (W3C Trace Context, section 2.2).
    """
    if type(traceparent) is not str or not 0 < len(traceparent) <= MAX_TRACEPARENT:
        return None
    has_state = type(tracestate) is str and len(tracestate) <= MAX_TRACESTATE
    return traceparent, tracestate if has_state and type(tracestate) is str else ""


def is_wait(value: object) -> bool:
    """Return True if this is a number of seconds to wait, or none."""
    return value is None or ((type(value) is float or type(value) is int) and 0 <= value < _INFINITY)
