"""Lines of the log that a peer can cause: said once, or within a budget, so that no peer fills the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from psession.protocol.bucket import Lines
from psession.protocol.counters import ADVICE, EXPECTED
from psession.text import port_named

if TYPE_CHECKING:
    from psession.protocol.counters import Drop

log: logging.Logger = logging.getLogger("psession")


class Said:
    """What has been said about a manager and its ports, or about one of its ports.

    The lines of each kind are paid out of one budget of the manager's: a peer may connect again and again.

    Args:
        who: The beginning of each line.
        budget: The manager's, by kind.
        port: The name of the port, where it is about one.

    Attributes:
        label: What the application calls the port.
    """

    __slots__ = ("_budget", "_port", "_said", "_unsaid", "_who", "label")

    def __init__(self, who: str, budget: dict[str, Lines] | None = None, port: str | None = None) -> None:
        self._who = who
        self._port = port
        self.label: str = ""
        self._budget: dict[str, Lines] = {} if budget is None else budget
        self._said: set[str] = set()
        self._unsaid: dict[tuple[str, str], int] = {}

    def of_port(self, name: str) -> Said:
        """What is said about one port."""
        return Said("", self._budget, name)

    @property
    def who(self) -> str:
        """The beginning of each line."""
        return self._who if self._port is None else port_named(self._port, self.label)

    @property
    def about(self) -> dict[str, object]:
        """The fields of a record that say which port it is about."""
        return {} if self._port is None else {"port": self._port, "label": self.label}

    def _extra(self, event_name: str, fields: dict[str, object]) -> dict[str, object]:
        """The fields of a record, for programs: its stable name, and what it is about."""
        return {"event_name": event_name, **self.about, **fields}

    def _paid(self, about: str) -> str | None:
        """What belongs at the end of a line about this; ``None`` where there is nothing to pay it from."""
        try:
            now = trio.current_time()
        except RuntimeError:
            return ""  # a manager may be told of a message outside of any run: then it is the caller who does so
        return self._budget.setdefault(about, Lines(now)).take(now)

    def once(
        self,
        event_name: str,
        text: str,
        *values: object,
        about: str | None = None,
        level: int = logging.WARNING,
        **fields: object,
    ) -> None:
        """Log a line the first time, within the budget of its kind, and for debugging alone after that.

        Args:
            event_name: The stable name of the record, for programs.
            text: The line, and `values` for what stands in it.
            values: See `text`.
            about: Its kind, where there are several of one name.
            level: Its level.
            fields: More fields of the record.
        """
        about = about or event_name
        more = None if about in self._said or not log.isEnabledFor(level) else self._paid(about)
        self._said.add(about)
        if more is None:
            level = logging.DEBUG
        extra = self._extra(event_name, fields)
        log.log(level, f"%s: {text} (said once; see statistics())%s", self.who, *values, more or "", extra=extra)

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
        fields = {"reason": reason.value} if sid is None else {"reason": reason.value, "sid": sid}
        self.once("message_dropped", text, *values, about=reason.value, level=level, **fields)

    def raised(self, event_name: str, what: str, whose: str, error: BaseException, **fields: object) -> None:
        """Log what the user's code raised, with its traceback, within the budget of `what`.

        Args:
            event_name: The stable name of the record, for programs.
            what: What raised: ``"the handler"``.
            whose: What it was doing, in words: ``" of session 5"``, or nothing.
            error: What it raised.
            fields: More fields of the record.
        """
        more = self._paid(what)
        if more is None:
            self._unsaid[event_name, what] = self._unsaid.get((event_name, what), 0) + 1
            return
        self._unsaid.pop((event_name, what), None)
        extra = self._extra(event_name, fields)
        log.error("%s: %s%s raised%s", self.who, what, whose, more, exc_info=error, extra=extra)

    def limited(self, event_name: str, text: str, *values: object) -> None:
        """Log a warning that may come often, within the budget of its name."""
        more = self._paid(event_name)
        if more is not None:
            log.warning(f"%s: {text}%s", self.who, *values, more, extra=self._extra(event_name, {}))

    def end(self) -> None:
        """Say what has not been said: there will be no next line."""
        for (event_name, what), times in self._unsaid.items():
            more = self._paid(f"the end of {what}")
            if more is not None:
                extra = self._extra(event_name, {"times": times})
                log.error("%s: %s raised %s times more%s", self.who, what, f"{times:,}", more, extra=extra)
        self._unsaid.clear()
