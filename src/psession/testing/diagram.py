"""Sequence diagrams of a bad network's log: text for a terminal, Mermaid for a page."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from psession.testing._events import EventLog, Moment, NetworkEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["sequence_diagram"]

DEFAULT_LABEL_WIDTH = 60
"""Columns for a message: with time, arrow and remark it stays on one line of a wide terminal."""

AT_ONCE = 0.0005
"""Seconds: what takes less is shown as 0.000, as a good network is by a real clock."""

_MERMAID_SPECIAL = frozenset("#;%<>&$\\`")
"""Characters that mean something to Mermaid in the text of a message: entities, the end of a statement, comments and
directives, HTML, KaTeX, and Markdown."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One line of a diagram: a message sets out, or a message lands."""

    moment: Moment
    event: NetworkEvent
    kind: Literal["arrives", "lost", "breaks", "sets out", "lands"]
    remark: str


def sequence_diagram(
    log: Iterable[NetworkEvent],
    *,
    left: str = "here",
    right: str = "there",
    format: Literal["text", "mermaid"] = "text",
    label: Callable[[Any], str] = repr,
    label_width: int = DEFAULT_LABEL_WIDTH,
    start: float | None = None,
) -> str:
    """Return the messages of a log as a sequence diagram, in the order of events.

    Each message has a line for the moment when it set out, with its number within its direction, and one more for each
    arrival that was later::

         time  here                          there
        0.000  |-- #1 {'sid': 1, 'q': 1} --x |  lost
        1.000  |-- #2 {'sid': 1, 'q': 1} --->|
        1.000  | ~-- #1 {'sid': 1, 'a': 1} --|  delayed by 0.250 s
        1.250  |<-- #1 {'sid': 1, 'a': 1} --~|  0.250 s later

    Args:
        log: ``channel.log`` of a `LossyChannel`, or a part of it: ``channel.log[-20:]``.
        left: The name of the side that holds the lossy channel.
        right: The name of the other side.
        format: ``"text"``, or ``"mermaid"`` for the source of a ``sequenceDiagram``.
        label: Makes the text of a message. Characters that cannot be printed are escaped.
        label_width: Columns that this text may take; the rest is cut off. At least 1.
        start: The moment on Trio's clock that is shown as 0; by default the moment when the first message set out.

    Raises:
        ValueError: There is no such format, or no room for a label.
    """
    if format not in ("text", "mermaid"):
        raise ValueError(f"format must be 'text' or 'mermaid', not {format!r}")
    if label_width < 1:
        raise ValueError(f"label_width must be 1 or more columns, not {label_width!r}")
    forgotten = log.forgotten if isinstance(log, EventLog) else 0
    events = list(log)
    steps = sorted((step for event in events for step in _steps(event)), key=lambda step: step.moment)
    if start is None:
        start = events[0].time if events else 0.0
    rows = [(step, f"{step.moment.time - start:.3f}", _label(step.event, label, label_width)) for step in steps]
    draw = _text if format == "text" else _mermaid
    return draw(
        rows, _printable(left), _printable(right), f"{forgotten} earlier messages forgotten" if forgotten else ""
    )


def _steps(event: NetworkEvent) -> list[_Step]:
    departure = Moment(event.time, event.order)
    if event.disconnected:
        return [_Step(departure, event, "breaks", "the link breaks")]
    if event.dropped:
        return [_Step(departure, event, "lost", "lost")]
    at_once = bool(event.arrived) and event.arrived[0].time - event.time < AT_ONCE and not event.reordered
    first = _Step(departure, event, "arrives" if at_once else "sets out", _plan(event))
    lands = [_Step(moment, event, "lands", _lateness(event, again)) for again, moment in enumerate(event.arrived)]
    return [first, *lands[at_once:]]


def _plan(event: NetworkEvent) -> str:
    missing = event.copies - len(event.arrived)
    parts = [
        f"delayed by {event.delayed_by:.3f} s" if event.delayed_by else "",
        f"lets {event.reordered} go ahead" if event.reordered else "",
        "sent twice" if event.duplicated else "",
        "" if not missing else "not arrived" if missing == event.copies else "arrived once",
    ]
    return ", ".join(filter(None, parts))


def _lateness(event: NetworkEvent, again: int) -> str:
    late = event.arrived[again].time - event.time
    parts = ["again" if again else "", f"{late:.3f} s later" if late else "" if again else "overtaken"]
    return ", ".join(filter(None, parts))


_Row: TypeAlias = tuple[_Step, str, str]
"""A step, its time and its label."""


# ---------------------------------------------------------------------------------------------------------------- text
def _text(rows: list[_Row], left: str, right: str, first_line: str) -> str:
    widest = max((_columns(label) for _, _, label in rows), default=0)
    lane = max(widest + len("--  -->~"), _columns(left) + 1)
    margin = max([len("time"), *(len(time) for _, time, _ in rows)])
    lines = [first_line] if first_line else []
    lines.append(f"{'time':>{margin}}  {left}{' ' * (lane + 1 - _columns(left))}{right}")
    for step, time, label in rows:
        lines.append(f"{time:>{margin}}  |{_arrow(step, label, lane)}|  {step.remark}".rstrip())
    return "\n".join(lines)


def _arrow(step: _Step, label: str, lane: int) -> str:
    """Return a message's arrow, as wide as the lane. A received message is drawn from the right."""
    sent = step.event.direction == "send"
    end = {"arrives": ">", "lands": ">", "lost": "x", "breaks": "#", "sets out": "~"}[step.kind]
    start = "~--" if step.kind == "lands" else "--"
    if not sent:
        end = end.replace(">", "<")
        start = start[::-1]
    fill = lane - _columns(label) - len(start) - len("  --") - 1
    line, gap = ("-" * fill, "") if step.kind == "arrives" else ("", " " * fill)
    if step.kind == "lands":
        return f"{gap}{start} {label} --{end}" if sent else f"{end}-- {label} {start}{gap}"
    return f"{start} {label} --{line}{end}{gap}" if sent else f"{gap}{end}{line}-- {label} {start}"


def _label(event: NetworkEvent, label: Callable[[Any], str], width: int) -> str:
    text = _printable(label(event.message))
    used = 0
    for end, char in enumerate(text):
        used += _columns(char)
        if used > width:
            text = _cut(text[:end], width - 1) + "\N{HORIZONTAL ELLIPSIS}"
            break
    return f"#{event.number} {text}"


def _cut(text: str, width: int) -> str:
    while _columns(text) > width:  # at most twice: the text is one column too wide, or one wide character
        text = text[:-1]
    return text


def _printable(text: str) -> str:
    """Return the text on one line, with an escape for each character that cannot be printed."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _columns(text: str) -> int:
    """Return the width of the text: East Asian characters take two columns, combining ones none (UAX #11)."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


# ------------------------------------------------------------------------------------------------------------- Mermaid
def _mermaid(rows: list[_Row], left: str, right: str, first_line: str) -> str:
    lines = ["sequenceDiagram", f"    participant L as {_escaped(left)}", f"    participant R as {_escaped(right)}"]
    if first_line:
        lines.append(f"    Note over L,R: {first_line}")
    for step, time, label in rows:
        sender, receiver = ("L", "R") if step.event.direction == "send" else ("R", "L")
        text = f"{time} {_escaped(label)}" + (f" ({step.remark})" if step.remark else "")
        arrow = {"arrives": "->>", "lands": "-->>", "lost": "--x", "breaks": "-x"}.get(step.kind)
        # Mermaid has no arrow that leaves and does not arrive: a message on its way is a note at its sender.
        lines.append(f"    {sender}{arrow}{receiver}: {text}" if arrow else f"    Note over {sender}: {text}")
        if step.kind == "breaks":
            lines.append("    Note over L,R: the link is broken")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return the text with the characters that mean something to Mermaid as entities."""
    escaped = "".join(f"#{ord(char)};" if char in _MERMAID_SPECIAL else char for char in text)
    # Before it parses, Mermaid cuts the last semicolon off a line that looks like a style: an entity's as well.
    return escaped.replace("style", "st#121;le").replace("classDef", "class#68;ef")
