"""Lines of the log that a peer can cause: said once, or within a budget, so that no peer fills the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from psession.protocol.counters import ADVICE, EXPECTED

if TYPE_CHECKING:
    from psession.protocol.counters import Drop

log = logging.getLogger("psession")

LINES_AT_ONCE: Final = 3
"""Lines of one kind, tracebacks of a page each, that may come at once: who looks for a fault needs no more."""

SECONDS_A_LINE: Final = 30.0
"""After these one line in so many seconds, with the number of those in between."""


class _Budget:
    """The lines that there may be of one kind: a token bucket."""

    __slots__ = ("_at", "_lines", "skipped")

    def __init__(self, now: float) -> None:
        self._at = now
        self._lines = float(LINES_AT_ONCE)
        self.skipped = 0

    def take(self, now: float) -> bool:
        """Take a line out of it. Return False if there is none left: the line is counted."""
        self._lines = min(LINES_AT_ONCE, self._lines + (now - self._at) / SECONDS_A_LINE)
        self._at = now
        if self._lines < 1:
            self.skipped += 1
            return False
        self._lines -= 1
        return True


class Said:
    """What has been said about one port, or about the channels that a manager listens to.

    Args:
        who: The beginning of each line.
    """

    __slots__ = ("_budgets", "_said", "_who")

    def __init__(self, who: str) -> None:
        self._who = who
        self._said: set[str] = set()
        self._budgets: dict[str, _Budget] = {}

    def once(self, about: str, text: str, *values: object, level: int = logging.WARNING) -> None:
        """Log a line the first time, and for debugging alone after that."""
        if about in self._said:
            level = logging.DEBUG
        self._said.add(about)
        log.log(level, f"%s: {text} (said once; see statistics())", self._who, *values)

    def dropped(self, reason: Drop, sid: int | None = None, detail: str = "") -> None:
        """Say that a message was dropped, why, and what would be right; the counters go on.

        What a good peer on a bad network may cause is no warning, unless there is something to say about it.
        """
        if reason.value in self._said and not log.isEnabledFor(logging.DEBUG):
            return  # a flood of them costs no more than that
        level = logging.INFO if reason in EXPECTED and not detail else logging.WARNING
        place = "" if sid is None else f" of session {sid}"
        text = f"message%s dropped (%s): %s{' (%s)' if detail else ''}"
        values = (place, reason.value, ADVICE[reason], *([detail] if detail else []))
        self.once(reason.value, text, *values, level=level)

    def raised(self, what: str, whose: str, error: BaseException) -> None:
        """Log what the user's code raised, with its traceback, within the budget of `what`.

        Args:
            what: What raised: ``"the handler"``.
            whose: What it was doing, in words: ``" of session 5"``, or nothing.
            error: What it raised.
        """
        now = trio.current_time()
        budget = self._budgets.get(what)
        if budget is None:
            budget = self._budgets[what] = _Budget(now)
        if not budget.take(now):
            return
        more = f" (and {budget.skipped:,} times more since the last such line)" if budget.skipped else ""
        budget.skipped = 0
        log.error("%s: %s%s raised%s", self._who, what, whose, more, exc_info=error)

    def end(self) -> None:
        """Say what has not been said: there will be no next line."""
        for what, budget in self._budgets.items():
            if budget.skipped:
                log.error("%s: %s raised %s times more", self._who, what, f"{budget.skipped:,}")
                budget.skipped = 0
