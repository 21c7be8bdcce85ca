"""A turn with many replies, the asker's side; `replies` is what the application sees of it.

The messages on the wire are in docs/protocol.md, "Streams".
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypedDict

import trio
from outcome import Error

from psession import checks, errors
from psession.options import checked
from psession.protocol.credit import DEFAULT_WINDOW, Arriving
from psession.protocol.states import Turn as State
from psession.shell.outbox import PARTS_A_PASS
from psession.shell.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psession.protocol.endings import Ending
    from psession.protocol.events import Refused
    from psession.protocol.retry import Patience, Retry
    from psession.shell.live_session import LiveSession
    from psession.shell.outbox import Ticket
    from psession.shell.waiting import Delivery

NEEDS_EXACT: Final = (
    "many replies to one turn need the exact wire, which numbers them: SessionManager(dialect=psession.Exact())"
)

LARGEST_CREDIT: Final = checks.LARGEST // 2
"""So that a window more than what was consumed is still an integer that JSON carries."""

_NEVER: Final = math.inf


class StreamOptions(TypedDict, total=False):
    """The keyword arguments of `Session.stream` and `Port.stream`; ``None``, or left out, is the default.

    Attributes:
        timeout: Seconds without a reply, for each attempt. The time that the application takes for a reply is not
            counted. By default the session's, as in `Session.send`, and so are the three below.
        retry: How often it is tried again since the last reply, and when.
        retry_count: Attempts after the first, on top of `retry`.
        retry_interval: Seconds between two attempts, likewise.
        total: Seconds for the whole of it, which nothing extends. By default there is no limit.
        count: How many replies are wanted. By default all.
        credit: How many replies this side has room for; beyond it the peer's handler waits. By default 32.
    """

    timeout: float | None
    retry: Retry | None
    retry_count: float | None
    retry_interval: float | None
    total: float | None
    count: int | None
    credit: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """`StreamOptions`, checked, on top of a session's patience."""

    patience: Patience
    total: float
    count: float
    window: int


def plan(patience: Patience, options: StreamOptions) -> Plan:
    """Check what a call says on top of `patience`.

    Raises:
        TypeError, ValueError: No such option, or a value that is no duration, no number of retries or replies.
    """
    unknown = options.keys() - StreamOptions.__annotations__.keys()
    if unknown:
        raise checks.no_option(unknown, StreamOptions.__annotations__, "a stream has ")
    total, count, credit = options.get("total"), options.get("count"), options.get("credit")
    if total is not None:
        checks.seconds("total", total)
    if count is not None:
        checks.count("count", count)
    if credit is not None:
        checks.count("credit", credit)
        if credit > LARGEST_CREDIT:
            raise ValueError(f"credit must be at most {LARGEST_CREDIT}, not {credit}")
    retry, retries, interval = options.get("retry"), options.get("retry_count"), options.get("retry_interval")
    return Plan(
        checked(patience, options.get("timeout"), retry, retries, interval, None),
        math.inf if total is None else total,
        math.inf if count is None else count,
        credit or DEFAULT_WINDOW,
    )


class StreamTurn(Turn):
    """A turn with many replies. Its outcome is its end; a nudge says: look again."""

    __slots__ = ("_granted", "_limit", "_pause", "_pauses", "parts", "plan", "since_yield")

    keeps_deadline: ClassVar[bool] = False
    arriving: Arriving | None
    outcome: Delivery | None
    parts: Arriving

    def __init__(self, live: LiveSession, plan: Plan) -> None:
        super().__init__(live)
        self.plan: Plan = plan
        self.parts = self.arriving = Arriving(plan.window, plan.count)
        self.since_yield: int = 0
        self._granted: Ticket | None = None
        self._pauses: Iterator[float | None] = iter(())
        self._pause: float | None = None
        self._limit: float | None = None

    # -- the caller's side -------------------------------------------------------------------------------------------

    async def ask(self, payload: Any) -> None:
        """Ask. Cancelled before the writer had the message: it is never sent."""
        patience = self.plan.patience
        self.live.engine.check_run()
        is_safe = self.start()
        await trio.lowlevel.checkpoint_if_cancelled()
        if not is_safe:
            await self.make_safe(patience.timeout)
        self.begin(payload, self.plan.total, patience.retry)
        self._be_patient(self.started)
        self._attempt()

    async def next(self) -> Any:
        """The next reply. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: There are no more.
            SessionError: There may have been more.
        """
        parts = self.parts
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if parts.is_enough:
                raise trio.EndOfChannel
            if self.has_reply:
                return self.take()
            if parts.ready:
                self.since_yield = 0
                await trio.lowlevel.checkpoint()
                continue
            if self.outcome is not None:
                self.reply_in_hand()
            await self._wait()

    @property
    def has_reply(self) -> bool:
        """True while a reply is there that may be taken before other tasks have a turn."""
        return self.since_yield < PARTS_A_PASS and len(self.parts.ready) > 0

    def take(self) -> Any:
        """The first reply that is there; the peer is told where it may send more."""
        parts = self.parts
        reply = parts.take()
        if parts.consumed >= parts.grants_at and self.state is not State.IDLE:
            credit = parts.grant()
            if credit is not None:
                self._grant(credit)
        self.due = _NEVER
        self._limit = None
        self.since_yield += 1
        if self.told is not None:
            self.live.engine.told.took_part(self.told, reply)
        return reply

    async def _wait(self) -> None:
        """Wait until there is something to look at, or the time of an attempt is over: then make the next attempt."""
        engine = self.live.engine
        if self._limit is None:
            self._be_patient(engine.now())
        assert self._limit is not None
        self.since_yield = 0
        busy = engine.busy
        if busy is not None and engine.outbox.turns == 1 and await self.look_awake(busy):
            return  # it is alone: its peer may be near
        await self.reply_until(min(self._limit, self.deadline))
        now = engine.now()
        if self.outcome is not None or self.parts.ready:
            return
        if now >= self.deadline:
            self.time_out(f"the stream was not over in {self.plan.total:g} s")
        if now < self._limit:
            return
        if self._pause is None:
            replies = f"no reply after the first {self.parts.consumed}" if self.parts.consumed else "no reply"
            self.time_out(f"{replies}: {self.advice()}")
        self._pause = next(self._pauses)
        self._limit = now + self.plan.patience.timeout + (self._pause or 0.0)
        if self.is_paid(self.plan.patience.retry):
            self.note_retry()
            self._attempt()

    def look(self) -> bool:
        """Take what has come. Return True if there is something to see."""
        if not self.parts.ready and self.outcome is None:
            self.live.engine.look()
        return self.outcome is not None or len(self.parts.ready) > 0

    async def _reply_at_once(self) -> Any:
        """The outcome waits until the replies before it are taken."""
        await trio.lowlevel.checkpoint()

    def _be_patient(self, now: float) -> None:
        """Begin all attempts anew, the first of which was made before `now`."""
        patience = self.plan.patience
        self._pauses = patience.pauses(self.live.engine.luck)
        self._pause = next(self._pauses)
        self._limit = now + patience.timeout + (self._pause or 0.0)

    def _attempt(self) -> None:
        try:
            self.transmit()
        except self.plan.patience.retry_on:
            if self._pause is None:
                raise

    @property
    def is_complete(self) -> bool:
        """True where all replies came, and no error."""
        last = self.parts.last
        return self.answered and last is not None and last.error is None

    @property
    def has_all(self) -> bool:
        """True where all replies came, or as many as were wanted."""
        return self.is_complete or self.parts.is_enough

    def _grant(self, credit: int) -> None:
        engine = self.live.engine
        frame = engine.connection.grant(self, credit)
        if frame is not None:
            if self._granted is not None:
                engine.outbox.withdraw(self._granted)
            self._granted = engine.say_at_once(frame)  # one at a time: without it the peer may wait for ever

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def heard(self) -> None:
        """There are more replies, or all that there will be."""
        if self.parts.last is not None and self.parts.last.error is None:
            self._over(trio.EndOfChannel())
        else:
            self.nudge()

    def overrun(self) -> None:
        """The peer sent more replies than it had credit for."""
        why = f"the peer sent more than the {self.parts.credit} replies that it had credit for"
        self._over(self.live.error(errors.SessionOverrunError, why, self))

    def refused(self, event: Refused) -> None:
        """The stream ends with an error of the peer's, after the replies that are there."""
        self._over(self.remote_error(event))

    def postponed(self, until: float) -> None:
        """The peer is at work on it: the next attempt need not come before that moment."""
        if self._limit is not None:
            self._limit = max(self._limit, until)
        super().postponed(until)

    def given_up(self, ending: Ending) -> None:
        """The turn is over without an end of the stream; a frame that the writer does not have yet is never sent."""
        if self.ticket is not None:
            self.live.engine.outbox.withdraw(self.ticket)
        self._over(self.live.ending_error(ending, self))

    def sender_failed(self, error: BaseException) -> None:
        """The sender raised on this turn's message: it is tried again where `retry_on` and the patience allow it."""
        if self.state is State.IDLE or self.dialogue.turn is not self:
            return
        self.live.engine.connection.not_sent(self)
        if self._pause is None or not isinstance(error, self.plan.patience.retry_on):
            self._over(error)

    def close(self) -> None:
        """Have the task that waits for a reply look: there will be none."""
        if self.outcome is None:
            self._over(trio.ClosedResourceError())

    def _over(self, error: BaseException) -> None:
        if self.outcome is None:
            self.outcome = Error(error)
        self.nudge()
