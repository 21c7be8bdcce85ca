"""A look at a manager: its ports, the turns that wait and why, what was recorded; and cancelling one turn."""

from __future__ import annotations

import math
import time
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from psession.inspector._record import Record
from psession.inspector._redaction import shown
from psession.text import printable

if TYPE_CHECKING:
    from psession.hooks import Waiting
    from psession.inspector._redaction import Redact
    from psession.shell.manager import SessionManager
    from psession.shell.port import Port

MAX_PORTS: Final = 300
MAX_WAITING: Final = 1000
MAX_SESSIONS: Final = 100
FRESH_SECONDS: Final = 0.25
"""How long a look is shown again instead of taking another, however many watch."""


class Looker:
    """Answers the questions of pages and terminals about one manager.

    Args:
        manager: The manager.
        redact: The rule for payloads.
    """

    def __init__(self, manager: SessionManager, redact: Redact) -> None:
        self._manager = manager
        self._redact = redact
        self._taken: tuple[float, dict[str, Any]] | None = None
        self.record = Record(redact)

    def answer(self, question: Any) -> dict[str, Any]:
        """Return the answer to one question: ``{"do": "look"}`` or ``{"do": "cancel"}``."""
        do = question.get("do") if isinstance(question, dict) else None
        if do == "look":
            since, port = question.get("since", 0), question.get("port")
            if isinstance(since, int) and isinstance(port, str | None):
                return self._look(since, port)
        if do == "cancel":
            port, sid, number, started = (question.get(name) for name in ("port", "session", "number", "started"))
            if isinstance(port, str) and isinstance(number, int) and isinstance(started, int | float):
                return {"cancelled": self._cancel(port, sid, number, started)}
        return {"error": 'ask {"do": "look", "since": N, "port": NAME} or {"do": "cancel", ...}'}

    def _look(self, since: int, port: str | None) -> dict[str, Any]:
        now = trio.current_time()
        if self._taken is None or not 0 <= now - self._taken[0] < FRESH_SECONDS:
            self._taken = (now, self._survey(now))
        rows, missed = self.record.rows(since, port)
        sessions, sessions_left_out = self._sessions(port)
        return {
            **self._taken[1],
            "now": now,
            "rows": rows,
            "missed": missed,
            "sessions": sessions,
            "sessions_left_out": sessions_left_out,
        }

    def _survey(self, now: float) -> dict[str, Any]:
        ports = list(self._manager.ports.values())
        waiting: list[tuple[Port, float, Waiting]] = []
        for port in ports:
            turns = port.waiting
            silent = port.statistics().silent if turns else 0.0
            waiting += [(port, silent, turn) for turn in turns]
        oldest = nsmallest(MAX_WAITING, waiting, key=lambda one: -one[2].seconds)
        return {
            "wall": time.time(),
            "ports": [self._port(port, now) for port in islice(ports, MAX_PORTS)],
            "ports_total": len(ports),
            "ports_left_out": max(0, len(ports) - MAX_PORTS),
            "waiting": [self._waiting(port, silent, turn) for port, silent, turn in oldest],
            "waiting_total": len(waiting),
            "waiting_left_out": len(waiting) - len(oldest),
            **self.record.told(),
        }

    def _port(self, port: Port, now: float) -> dict[str, Any]:
        counted = port.statistics()
        lost = self.record.link(port.name)
        state = "closed" if port.closed else "no link" if lost is not None else "open"
        return {
            "name": port.name,
            "label": printable(port.label),
            "state": state,
            "why": f"{lost[0]}, for {now - lost[1]:.1f} s" if lost is not None else "",
            "sessions": counted.open,
            "waiting": counted.waiting,
            "oldest": counted.oldest,
            "silent": counted.silent if counted.silent < math.inf else None,  # it has not said a word
            "queued_bytes": counted.queued_bytes,
            "retried": counted.retried,
        }

    def _waiting(self, port: Port, silent: float, turn: Waiting) -> dict[str, Any]:
        return {
            "port": port.name,
            "label": printable(port.label),
            "sid": turn.sid,
            "number": turn.number,
            "payload": shown(turn.payload, self._redact),
            "seconds": turn.seconds,
            "started": turn.started,
            "attempts": turn.attempts,
            "why": why(turn, silent, self.record.link(port.name)),
        }

    def _sessions(self, name: str | None) -> tuple[list[dict[str, Any]], int]:
        port = self._manager.ports.get(name) if name is not None else None
        if port is None:
            return [], 0
        sessions = [
            {"sid": session.sid, "incoming": session.incoming}
            for session in islice(port.sessions.values(), MAX_SESSIONS)
        ]
        return sessions, max(0, len(port.sessions) - len(sessions))

    def _cancel(self, name: str, sid: Any, number: int, started: float) -> bool:
        """Cancel the turn that was shown, if it still waits; the next one of its session is another."""
        port = self._manager.ports.get(name)
        if port is None:
            return False
        for turn in port.waiting:
            same = (turn.sid, turn.number) == (sid, number) and turn.started == started
            if same and (session := port.sessions.get(sid)) is not None:
                session.cancel()
                self._taken = None
                return True
        return False


def why(turn: Waiting, silent: float, lost: tuple[str, float] | None) -> str:
    """Return why a turn waits, as far as this side can know.

    Args:
        turn: The turn.
        silent: Seconds since the last message of its peer's.
        lost: Why its port has no link; ``None`` where it has one.
    """
    if lost is not None:
        return f"the port has no link: {lost[0]}"
    if turn.sent == 0:
        return "it has not left this side: the channel takes no more for now"
    asked = "asked once" if turn.sent == 1 else f"asked {turn.sent} times"
    if silent >= turn.seconds:
        return f"{asked}, and the peer has said nothing since"
    return f"{asked}; the peer last spoke {silent:.1f} s ago, and has not answered this"
