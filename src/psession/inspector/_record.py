"""The record of what ports do: samples of their turns, counts of each second, in bounded space. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from psession import hooks
from psession.inspector._redaction import cut, shown
from psession.protocol.counters import BOUNDS, Histogram
from psession.text import printable

if TYPE_CHECKING:
    from psession.inspector._redaction import Redact

MAX_ROWS: Final = 1000
"""Rows of the diagram that are kept: five seconds at full rate."""
TURNS_A_SECOND: Final = 40
"""Turns that the diagram begins to follow in a second: more than an eye can."""
ROWS_A_SECOND: Final = 200
FAILURES_A_SECOND: Final = 20
"""Failures and drops beyond the sample: they are what one looks for, so the answered turns do not crowd them out."""
MAX_FOLLOWED: Final = 1000
"""Turns that the diagram follows at a time. One that is never answered keeps its place until it ends."""
SECONDS: Final = 120
"""The length of the charts."""
MAX_LINKS: Final = 10_000
"""Ports whose link's state is remembered."""
MAX_CLOSED: Final = 20
MAX_DROPS: Final = 100
MAX_DETAIL_CHARS: Final = 200


class Second:
    """The counts of one second."""

    __slots__ = ("answered", "at", "dropped", "failed", "latency", "parts", "posted", "started")

    def __init__(self, at: int) -> None:
        self.at = at
        self.started = self.answered = self.failed = self.dropped = self.posted = self.parts = 0
        self.latency = [0] * (len(BOUNDS) + 1)

    def told(self) -> dict[str, Any]:
        """Return it as the page gets it; a latency is ``None`` where there is none."""
        latency = Histogram(tuple(self.latency))
        p50, p99 = (latency.quantile(share) for share in (0.5, 0.99))
        counts = {name: getattr(self, name) for name in self.__slots__ if name not in ("at", "latency")}
        return {"at": self.at, **counts, "p50": _finite(p50), "p99": _finite(p99)}


class Record:
    """What a listener has heard. Call it with each event.

    Attributes:
        left_out: How many turns, failures, drops and messages have no row, since there were more than a sample holds.
    """

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._rows: deque[dict[str, Any]] = deque(maxlen=MAX_ROWS)
        self._number = 0
        self._followed: dict[hooks.Turn, int] = {}
        self._turns = 0
        self._seconds: deque[Second] = deque(maxlen=SECONDS)
        self._spent = [0, 0, 0]
        self._drops: dict[tuple[str, str], dict[str, Any]] = {}
        self._closed: deque[dict[str, Any]] = deque(maxlen=MAX_CLOSED)
        self._links: dict[str, tuple[str, float]] = {}
        self.left_out = 0

    def __call__(self, event: hooks.Event) -> None:
        """Take an event into the record."""
        second = self._second(event.time)
        if isinstance(event, hooks.TurnStarted):
            second.started += 1
            self._start(event)
        elif isinstance(event, hooks.TurnAttempted):
            if event.attempt > 1:
                self._follow(event, event.turn, "retry", f"attempt {event.attempt}")
        elif isinstance(event, hooks.TurnPart):
            second.parts += 1
            self._follow(event, event.turn, "part", event.payload, is_payload=True)
        elif isinstance(event, hooks.TurnAnswered):
            second.answered += 1
            if not event.turn.streamed:
                second.latency[bisect_left(BOUNDS, event.seconds)] += 1
            self._follow(event, event.turn, "answer", event.payload, is_payload=True, seconds=event.seconds)
            self._followed.pop(event.turn, None)
        elif isinstance(event, hooks.TurnFailed):
            second.failed += 1
            self._fail(event)
        elif isinstance(event, hooks.MessageDropped):
            second.dropped += 1
            self._drop(event)
        elif isinstance(event, hooks.MessagePosted):
            second.posted += 1
            if self._may(1, ROWS_A_SECOND):
                way = "in" if event.incoming else "out"
                self._row(event, "message", way, shown(event.payload, self._redact), sid=event.sid)
        else:
            self._tell(event)

    def link(self, port: str) -> tuple[str, float] | None:
        """Return why a port has no link, and since when on Trio's clock; ``None`` where it has one."""
        return self._links.get(port)

    def rows(self, since: int, port: str | None) -> tuple[list[dict[str, Any]], int]:
        """Return the rows after number `since`, of one port or of all, and how many of these were not kept so long."""
        oldest = self._rows[0]["n"] if self._rows else self._number + 1
        rows = [row for row in self._rows if row["n"] > since and (port is None or row["port"] == port)]
        return rows, max(0, oldest - since - 1) if since else 0

    def told(self) -> dict[str, Any]:
        """Return all else of it, as the page gets it."""
        return {
            "seconds": [second.told() for second in self._seconds],
            "drops": sorted(self._drops.values(), key=lambda drop: -drop["t"]),
            "closed": list(self._closed),
            "left_out": self.left_out,
        }

    def _second(self, now: float) -> Second:
        at = int(now)
        if not self._seconds or self._seconds[-1].at != at:
            self._seconds.append(Second(at))
            self._spent = [0, 0, 0]
        return self._seconds[-1]

    def _may(self, which: int, most: int) -> bool:
        """Return True if this second's sample has a place for one more; else count it as left out."""
        if self._spent[which] < most:
            self._spent[which] += 1
            return True
        self.left_out += 1
        return False

    def _start(self, event: hooks.TurnStarted) -> None:
        turn = event.turn
        if len(self._followed) >= MAX_FOLLOWED:
            self.left_out += 1
        elif self._may(0, TURNS_A_SECOND):
            self._turns += 1
            self._followed[turn] = self._turns
            self._row(event, "question", _way(turn, asks=True), shown(turn.payload, self._redact), turn)

    def _follow(
        self,
        event: hooks.Event,
        turn: hooks.Turn,
        kind: str,
        text: Any,
        *,
        is_payload: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Make a row of an event of a turn that is followed. The end of one always has its row."""
        if turn in self._followed and (kind == "answer" or self._may(1, ROWS_A_SECOND)):
            text = shown(text, self._redact) if is_payload else text
            self._row(event, kind, _way(turn, asks=kind == "retry"), text, turn, seconds=seconds)

    def _fail(self, event: hooks.TurnFailed) -> None:
        turn = event.turn
        if turn in self._followed or self._may(2, FAILURES_A_SECOND):
            kind = f" ({type(event.error).__name__})" if event.error is not None else ""
            text = f"{event.reason}, {event.outcome.replace('_', ' ')}{kind}"
            if turn not in self._followed:
                text += f": {shown(turn.payload, self._redact)}"
            self._row(event, "failed", _way(turn, asks=False), text, turn, seconds=event.seconds)
        self._followed.pop(turn, None)

    def _drop(self, event: hooks.MessageDropped) -> None:
        key = (event.port, event.reason)
        drop = self._drops.pop(key, None) or {"port": event.port, "reason": event.reason, "count": 0}
        drop |= {"count": drop["count"] + 1, "t": event.time, "sid": _plain(event.sid)}
        drop["detail"] = cut(event.detail, MAX_DETAIL_CHARS)
        self._drops[key] = drop
        if len(self._drops) > MAX_DROPS:
            del self._drops[next(iter(self._drops))]  # the one that was heard of least lately
        if self._may(2, FAILURES_A_SECOND):
            self._row(event, "dropped", "in", f"{event.reason} {drop['detail']}".rstrip(), sid=event.sid)

    def _tell(self, event: hooks.Event) -> None:
        """Take in what happened to a port or a session."""
        sid = None
        if isinstance(event, hooks.LinkDown):
            text = f"no link: {event.reason}"
            if len(self._links) < MAX_LINKS:
                self._links[event.port] = (cut(event.reason, MAX_DETAIL_CHARS), event.time)
        elif isinstance(event, hooks.LinkUp):
            self._links.pop(event.port, None)
            text = "link up" if event.resumed is None else f"link up again, {'' if event.resumed else 'not '}resumed"
        elif isinstance(event, hooks.PortOpened):
            text = "port opened"
        elif isinstance(event, hooks.PortClosed):
            self._links.pop(event.port, None)
            reason = cut(event.reason, MAX_DETAIL_CHARS)
            label = printable(event.label)
            self._closed.append({"port": event.port, "label": label, "reason": reason, "t": event.time})
            text = f"port closed: {reason}"
        elif isinstance(event, hooks.SessionOpened):
            sid, text = event.sid, f"session opened by {'the peer' if event.incoming else 'this side'}"
        elif isinstance(event, hooks.SessionEnded):
            sid, text = event.sid, f"session ended: {cut(event.reason, MAX_DETAIL_CHARS)}"
        else:
            return
        if self._may(1, ROWS_A_SECOND):
            self._row(event, "state", "", text, sid=sid)

    def _row(
        self,
        event: hooks.Event,
        kind: str,
        way: str,
        text: str,
        turn: hooks.Turn | None = None,
        *,
        sid: Any = None,
        seconds: float | None = None,
    ) -> None:
        self._number += 1
        row: dict[str, Any] = {
            "n": self._number,
            "t": event.time,
            "port": event.port,
            "kind": kind,
            "way": way,
            "text": text,
        }
        row["sid"] = _plain(sid if turn is None else turn.sid)
        if turn is not None:
            row["turn"] = self._followed.get(turn)
        if seconds is not None:
            row["seconds"] = seconds
        self._rows.append(row)


def _way(turn: hooks.Turn, *, asks: bool) -> str:
    return "out" if (turn.side == "asker") == asks else "in"


def _plain(sid: Any) -> Any:
    """Return a session's number as JSON has it: of a foreign protocol it may be anything."""
    return sid if isinstance(sid, int | None) else cut(str(sid), 40)


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else BOUNDS[-1] if seconds == math.inf else None
