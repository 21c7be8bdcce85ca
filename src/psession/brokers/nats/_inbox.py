"""The subjects of one client that answers come by: one subscription brings them all."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from outcome import Error

from psession.brokers._lanes import Lanes
from psession.brokers._outgoing import FLUSHED_FRAMES
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._channel import word
from psession.brokers.nats._errors import (
    NatsDisconnectedError,
    NatsNoRespondersError,
    NatsPermissionError,
    NatsTimeoutError,
)
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._requests import CODE_HEADER, ERROR_HEADER, OWN_CODE_HEADER
from psession.brokers.nats._subjects import subject_bytes
from psession.errors import MessageTooLargeError
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._outgoing import Outgoing
    from psession.brokers.nats._errors import NatsClosedError
    from psession.brokers.nats._wire import NatsMessage
    from psession.shell.waiting import Delivery

INBOX_SID: Final = 1
"""The number of the one subscription that all answers come by."""


class Asked(Waiter):
    """A request that waits for its answer.

    Attributes:
        token: The last part of the subject that its answer comes by.
        subject: What it asks on.
        due: When it is too late.
        lane: Those with the same timeout.
        number: Its number among what is written.
    """

    __slots__ = ("due", "lane", "number", "outcome", "subject", "task", "token")

    def __init__(self, token: str, subject: str, due: float, lane: dict[str, Asked]) -> None:
        self.token: str = token
        self.subject: str = subject
        self.lane: dict[str, Asked] = lane
        self.due: float = due
        self.number: int = 0
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None


class Inbox:
    """Requests that wait, and channels that answers come to.

    Attributes:
        subject: What all subjects of answers begin with; nobody else can guess it.
        lanes: The deadlines of the requests that wait.
        requests: Requests made.
        no_responders: Requests that nobody serves the subject of.
        timeouts: Requests without an answer in time.
        late: Answers that nobody waits for any more.
    """

    def __init__(self, prefix: str, out: Outgoing) -> None:
        self.subject: str = f"{prefix}.{secrets.token_hex(11)}"
        self.lanes: Lanes[str, Asked] = Lanes(self._too_late)
        self.requests: int = 0
        self.no_responders: int = 0
        self.timeouts: int = 0
        self.late: int = 0
        self._out = out
        self._subject_bytes = self.subject.encode() + b"."
        self._skipped = len(self.subject) + 1
        self._is_open = False
        self._asked: dict[str, Asked] = {}
        self._takers: dict[str, Callable[[NatsMessage], None]] = {}
        self._last_token = 0

    def __len__(self) -> int:
        return len(self._takers)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their answer."""
        return len(self._asked)

    @property
    def waits_for_written(self) -> bool:
        """True while a request waits that was written."""
        taken = self._out.taken
        return any(asked.number <= taken for asked in self._asked.values())

    def words(self) -> bytes:
        """Return the words that a link needs: none as long as nobody has wanted an answer."""
        return wire.sub(self._subject_bytes + b"*", b"", INBOX_SID) if self._is_open else b""

    def _open(self) -> None:
        self._is_open = True
        self._out.say(self.words())

    # -- requests ----------------------------------------------------------------------------------------------------

    def reply_to(self) -> tuple[str, bytes]:
        """Return the token of a new request, and the subject of its answer with a space behind it, as it is written."""
        if not self._is_open:
            self._open()
        self._last_token += 1
        token = str(self._last_token)
        return token, b"%b%b " % (self._subject_bytes, token.encode())

    def ask(self, token: str, subject: str, frame: bytes, timeout: float) -> Asked:
        """Have a request written. Whoever waits for its answer forgets it in the end."""
        lanes, waiting = self.lanes, self._asked
        due = trio.current_time() + timeout
        lane = lanes.lane(timeout)
        waiting[token] = lane[token] = asked = Asked(token, subject, due, lane)
        self.requests += 1
        if due < lanes.asleep_until:
            lanes.wake()
        asked.number = self._out.put(frame, min(len(waiting) >> 1, FLUSHED_FRAMES))
        return asked

    def forget(self, asked: Asked) -> None:
        """Want no answer any more."""
        self._asked.pop(asked.token, None)
        asked.lane.pop(asked.token, None)

    def nobody(self, subject: str) -> NatsNoRespondersError:
        """Count a request whose subject nobody serves, and return its error."""
        self.no_responders += 1
        return NatsNoRespondersError(f"nobody serves {subject!r}", outcome="not_sent", attempts=1)

    def timed_out(self, asked: Asked, timeout: float) -> NatsTimeoutError:
        """Count a request whose time is over, and return its error; where it was not written, it never is."""
        self.timeouts += 1
        if self._out.withdraw(asked.number):
            why = "the server took nothing in that time" if self._out.has_link else "there was no connection"
            return NatsTimeoutError(
                f"{asked.subject!r} was not asked in {timeout:g} s: {why}", waited=timeout, outcome="not_sent"
            )
        return NatsTimeoutError(
            f"no answer from {asked.subject!r} in {timeout:g} s: who serves it is slow, or sends no answers",
            waited=timeout,
            outcome="sent",
        )

    def _too_late(self, token: str, asked: Asked) -> None:
        if self._asked.pop(token, None) is asked:
            asked.nudge()

    # -- channels ----------------------------------------------------------------------------------------------------

    def take(self, token: str, take: Callable[[NatsMessage], None]) -> str:
        """Have what comes for a token given to `take`, also where ``-`` and more follow it; return the subject."""
        if not self._is_open:
            self._open()
        self._takers[token] = take
        return f"{self.subject}.{token}"

    def leave(self, token: str) -> None:
        """Want nothing more for that token."""
        self._takers.pop(token, None)

    # -- what comes, synchronous -------------------------------------------------------------------------------------

    def deliver(self, message: NatsMessage) -> None:
        """Give a message to who waits for it."""
        token = message.subject[self._skipped :]
        asked = self._asked.pop(token, None)
        if asked is not None:
            asked.wake(Handed(message))
            return
        taker = self._takers.get(token) or self._takers.get(token.partition("-")[0])
        if taker is not None:
            taker(message)
            return
        self.late += 1
        if token.startswith("L") and message.reply and self._out.has_link:
            with suppress(ValueError):  # the other end of a link that is over here
                self._out.put_word(word("closed", subject_bytes(message.reply, "reply")))

    def refused(self, subject: str, text: str) -> None:
        """The server does not allow a subscription: where it is that of the answers, all requests fail."""
        if subject == f"{self.subject}.*":
            self._is_open = False
            self._fail(lambda _: NatsPermissionError(f"{text}; see inbox_prefix", outcome="sent", attempts=1))

    def forbidden(self, subject: str, text: str) -> None:
        """The server does not allow this client to publish to a subject: what was asked there fails."""
        taken = self._out.taken

        def error(asked: Asked) -> NatsPermissionError | None:
            if asked.subject != subject or asked.number > taken:
                return None
            return NatsPermissionError(text, outcome="not_sent", attempts=1)

        self._fail(error)

    def let_go(self, reply: str, size: int, max_payload: int) -> bool:
        """A message is not sent, since it is too long for the server. Return False where nobody waits for an answer."""
        if not reply.startswith(f"{self.subject}."):
            return False
        token = reply[self._skipped :]
        text = f"{size} bytes with headers; the max_payload of the server that is connected to now is {max_payload}"
        asked = self._asked.pop(token, None)
        if asked is not None:
            asked.wake(Error(MessageTooLargeError(text, outcome="not_sent")))
            return True
        taker = self._takers.get(token.partition("-")[0])
        if taker is None:
            return False
        headers = {ERROR_HEADER: text, CODE_HEADER: "413", OWN_CODE_HEADER: "refused.too_large"}
        taker(wire.NatsMessage(reply, "", b"", encode_headers(headers), INBOX_SID))
        return True

    # -- links -------------------------------------------------------------------------------------------------------

    def lose(self, why: str) -> None:
        """The link broke: requests that were written get no answer."""
        taken = self._out.taken

        def error(asked: Asked) -> NatsDisconnectedError | None:
            return NatsDisconnectedError(why, outcome="sent", attempts=1) if asked.number <= taken else None

        self._fail(error)

    def end(self, closed_error: Callable[[], NatsClosedError]) -> None:
        """There will be no more links."""
        taken = self._out.taken

        def error(asked: Asked) -> NatsClosedError:
            made = closed_error()
            made.outcome = "sent" if asked.number <= taken else "not_sent"
            return made

        self._fail(error)

    def _fail(self, error: Callable[[Asked], Exception | None]) -> None:
        """End the requests for which there is an error."""
        for token, asked in list(self._asked.items()):
            made = error(asked)
            if made is not None:
                del self._asked[token]
                asked.wake(Error(made))
