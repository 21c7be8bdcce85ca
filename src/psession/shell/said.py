"""Lines of the log that are said once, and then quietly: a hostile peer must not fill the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from psession.protocol.counters import ADVICE, EXPECTED

if TYPE_CHECKING:
    from psession.protocol.counters import Drop

log = logging.getLogger("psession")


class Said:
    """What has been said about one port, or about the channels that a manager listens to.

    Args:
        who: The beginning of each line.
    """

    __slots__ = ("_said", "_who")

    def __init__(self, who: str) -> None:
        self._who = who
        self._said: set[str] = set()

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
        level = logging.INFO if reason in EXPECTED and not detail else logging.WARNING
        place = "" if sid is None else f" of session {sid}"
        text = f"message%s dropped (%s): %s{' (%s)' if detail else ''}"
        values = (place, reason.value, ADVICE[reason], *([detail] if detail else []))
        self.once(reason.value, text, *values, level=level)
