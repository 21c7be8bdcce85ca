"""What a server says, given to whom it is for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from psession.brokers.nats import _wire as wire
from psession.brokers.nats._errors import NatsAuthError, NatsConnectError
from psession.brokers.nats._inbox import INBOX_SID

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._outgoing import Outgoing
    from psession.brokers.nats._inbox import Inbox
    from psession.brokers.nats._link import Link
    from psession.brokers.nats._pings import Pings
    from psession.brokers.nats._table import Table
    from psession.brokers.nats._wire import Info, Word

log = logging.getLogger("psession")
_protected = trio.lowlevel.enable_ki_protection

MAX_SAID: Final = 100
"""Errors of a server's, each of another text, that the log has."""


class Dispatcher:
    """Gives each word of a server's to whom it is for: a subscription, who asked, who waits for a PONG.

    Attributes:
        messages_in: Messages that came.
        errors: Errors of a server's (``-ERR``).
    """

    def __init__(self, out: Outgoing, inbox: Inbox, table: Table, pings: Pings) -> None:
        self.messages_in: int = 0
        self.errors: int = 0
        self._out = out
        self._inbox = inbox
        self._table = table
        self._pings = pings
        self._said: set[str] = set()

    @_protected
    def take(self, words: list[Word], link: Link, informed: Callable[[Info], None]) -> None:
        """Take the words of one read.

        Args:
            words: The words.
            link: What they came by.
            informed: Called with an INFO.

        Raises:
            NatsError: The server hangs up.
        """
        out, inbox, table = self._out, self._inbox, self._table
        out.burst = len(words)
        for said in words:
            if type(said) is wire.NatsMessage:
                self.messages_in += 1
                if said.sid == INBOX_SID:
                    inbox.deliver(said)
                else:
                    table.deliver(said)
            elif type(said) is wire.Ping:
                if out.has_link:
                    out.say(wire.PONG)
                elif link.is_free:
                    link.write(wire.PONG)
                    out.rouse()
            elif type(said) is wire.Pong:
                self._pings.answered()
            elif type(said) is wire.Info:
                informed(said)
            elif type(said) is wire.Failure:
                self._failed(said)

    def _failed(self, failure: wire.Failure) -> None:
        """The server says that something is wrong.

        Raises:
            NatsError: It hangs up.
        """
        self.errors += 1
        text, small = failure.text, failure.text.lower()
        if small.startswith("permissions violation"):
            subject = _quoted(text)
            error = f"the server does not allow {subject!r} to this client ({text!r})"
            if "publish" in small:
                self._inbox.forbidden(subject, error)
            else:
                self._table.refused(subject, error)
                self._inbox.refused(subject, error)
            self._say_once(error)
        elif small.startswith("invalid"):
            self._say_once(f"the server says {text!r}")
        elif small.startswith(("authorization", "authentication", "user authentication", "account authentication")):
            raise NatsAuthError(f"the server says {text!r}")
        else:
            hint = ""
            if small.startswith("slow consumer"):
                hint = ": this program does not read as fast as messages come for it"
            raise NatsConnectError(f"the server says {text!r}{hint}")

    def _say_once(self, text: str) -> None:
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            log.warning("%s", text, extra={"event_name": "server_error"})


def _quoted(text: str) -> str:
    """The subject in an error of the server's."""
    parts = text.split('"')
    return parts[1] if len(parts) > 2 else ""
