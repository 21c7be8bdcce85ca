"""Lines of the log that a peer can cause: said once, or within a budget, so that no peer fills the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from psession.protocol.bucket import Lines
from psession.protocol.counters import ADVICE, EXPECTED

if TYPE_CHECKING:
    from psession.protocol.counters import Drop

log = logging.getLogger("psession")


class Said:
    """What has been said about one port, or about the channels that a manager listens to.

    Args:
        who: The beginning of each line.
    """

    __slots__ = ("_limited", "_lines", "_said", "_who")

    def __init__(self, who: str) -> None:
        self._who = who
        self._said: set[str] = set()
        self._lines: dict[str, Lines] = {}
        self._limited: dict[str, Lines] = {}

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
        more = self._lines.setdefault(what, Lines(now)).take(now)
        if more is not None:
            log.error("%s: %s%s raised%s", self._who, what, whose, more, exc_info=error)

    def limited(self, about: str, text: str, *values: object) -> None:
        """Log a warning that may come often, within the budget of `about`."""
        now = trio.current_time()
        more = self._limited.setdefault(about, Lines(now)).take(now)
        if more is not None:
            log.warning(f"%s: {text}%s", self._who, *values, more)

    def end(self) -> None:
        """Say what has not been said: there will be no next line."""
        for what, lines in self._lines.items():
            if lines.skipped:
                log.error("%s: %s raised %s times more", self._who, what, f"{lines.skipped:,}")
                lines.skipped = 0
