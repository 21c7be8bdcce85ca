"""A turn with many replies, the asker's side; `psession._replies` is what the application sees of it.

The messages on the wire, besides those of every turn:

* The request: ``{sid, _turn: n, _credit: c, _part: k}`` and the application's fields. ``c`` is how many replies the
  asker has room for, counted from the first; that of the first request is the *window*. ``k`` is the reply that it
  expects next, 1 at first. Silence is answered with the whole request again: the peer then sends what it has from ``k``
  on, and where it has nothing, that it is in progress (``{sid, _re: n, _wait: s}``). Where ``k`` is above 1 and it has
  never heard of the turn, it says that it is forgotten.
* A reply: ``{sid, _re: n, _part: k}`` and the application's fields, ``k`` from 1 on; the last may say ``_end: true``.
* An end mark alone: ``{sid, _re: n, _part: k, _end: true}`` and nothing else, behind the last reply. It takes a place,
  but no credit. (So no reply without fields of the application's says ``_end``: the mark follows it.)
* An error: ``{sid, _re: n, _part: k, _error: "code: text", _end: true}``, behind the last reply; no credit either.
* A grant: ``{sid, _turn: n, _credit: c}`` and nothing else: the application has taken half a window of replies. One
  that is lost or overtaken does no harm: credit is counted from the beginning, and a request again has it too. The peer
  forgets the replies up to ``c - window``, and those before ``k``.
* Giving up, as for every turn: ``{sid, _turn: n, _error: code}``. The peer cancels its handler.

An answer without ``_part`` is the only one: its sender knows no streams. All of these carry ``_life`` as any other.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypedDict

import trio
from outcome import Error

from psession import _rules as rules
from psession import errors
from psession._options import checked, seconds
from psession._options import count as whole
from psession._parts import DEFAULT_WINDOW, Arriving, Item
from psession._turn import SILENCE, Turn
from psession.envelope import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psession._ending import Ending
    from psession._outbox import Ticket
    from psession._retry import Patience, Retry
    from psession._session import Session
    from psession.envelope import ExactFields, Header

NEEDS_EXACT: Final = (
    "many replies to one turn need the exact wire, which numbers them: SessionManager(envelope=Envelope.exact())"
)

LARGEST_CREDIT: Final = LARGEST // 2
"""So that a window more than what was taken is still an integer that JSON carries."""

REPLIES_A_PASS: Final = 16
"""Replies in hand that are taken before other tasks have a turn; as many as a peer posts before it does the same."""


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
    """What one stream may cost: `StreamOptions`, checked, on top of a session's patience."""

    patience: Patience
    total: float
    count: float
    window: int


def plan(patience: Patience, options: StreamOptions) -> Plan:
    """What a call says on top of `patience`.

    Raises:
        TypeError, ValueError: No such option, or a value that is no duration, no number of retries or replies.
    """
    unknown = options.keys() - StreamOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a stream has no such option: {', '.join(sorted(unknown))}")
    total, count, credit = options.get("total"), options.get("count"), options.get("credit")
    if total is not None:
        seconds("total", total)
    if count is not None:
        whole("count", count)
    if credit is not None:
        whole("credit", credit)
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
    """A turn with many replies. What it comes to is in `outcome`; a `silence` says: look again."""

    __slots__ = ("_granted", "_limit", "_pause", "_pauses", "arriving", "plan", "since_yield")

    streamed: ClassVar[bool] = True

    def __init__(self, session: Session, plan: Plan) -> None:
        super().__init__(session)
        self.plan = plan
        self.arriving = Arriving(plan.window, plan.count)
        self.since_yield = 0
        self._granted: Ticket | None = None
        self._pauses: Iterator[float | None] = iter(())
        self._pause: float | None = None
        self._limit: float | None = None

    # -- the waiting side --------------------------------------------------------------------------------------------

    async def begin(self, message: Any) -> None:
        """Ask. Cancelled before the message was taken by the port's writer: it is never sent."""
        session = self.session
        if self.filled:
            super()._take()
        session._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        self.started = trio.current_time()
        exact = session.port._exact
        assert exact is not None
        if (session._owed or session._unsafe_until) and exact.peer is rules.CLASSIC:
            await self._make_safe(self.plan.patience.timeout)
        self.message = message
        exact.asker.begin(self, self.plan.total)
        if self.plan.patience.retry.budget != math.inf:
            session.port._bucket.put(self.plan.patience.retry.budget)
        self._be_patient(self.started)
        self._attempt()

    async def next(self) -> Any:
        """The next reply. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: There are no more.
            SessionError: There may have been more.
        """
        arriving = self.arriving
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if arriving.is_enough:
                raise trio.EndOfChannel
            if arriving.ready:
                break
            if self.filled:
                super()._take()
            await self._wait()
        reply = arriving.take()
        credit = None if self.filled else arriving.grant()
        if credit is not None:
            self._grant(credit)
        if self.due is not None:
            self.session.port._timekeeper.forget(self)
        self._limit = None
        self.since_yield += 1
        if self.since_yield >= REPLIES_A_PASS:
            self.since_yield = 0
            await trio.lowlevel.cancel_shielded_checkpoint()
        return reply

    async def _wait(self) -> None:
        """Until there is something to look at, or the time of an attempt is over: then the next attempt is made."""
        now = trio.current_time()
        if self._limit is None:
            self._be_patient(now)
        assert self._limit is not None
        self.since_yield = 0
        await self._wait_until(min(self._limit, self.deadline))
        now = trio.current_time()
        if self.filled or self.arriving.ready:
            return
        if now >= self.deadline:
            self._time_out(f"the stream was not over in {self.plan.total:g} s")
        if now < self._limit:
            return
        if self._pause is None:
            replies = f"no reply after the first {self.arriving.taken}" if self.arriving.taken else "no reply"
            self._time_out(f"{replies}: {self._advice()}")
        self._pause = next(self._pauses)
        self._limit = now + self.plan.patience.timeout + (self._pause or 0.0)
        if self.plan.patience.retry.budget == math.inf or self._is_paid():
            self._attempt()

    def _be_patient(self, now: float) -> None:
        """All attempts anew, the first of which was made before `now`."""
        patience = self.plan.patience
        self._pauses = patience.pauses(self.session.port._luck)
        self._pause = next(self._pauses)
        self._limit = now + patience.timeout + (self._pause or 0.0)

    def _attempt(self) -> None:
        exact = self.session.port._exact
        assert exact is not None
        try:
            self._transmit(exact.asker.request(self, self.message))
        except self.plan.patience.retry_on:
            if self._pause is None:
                raise

    def room(self, names: ExactFields) -> dict[str, Any]:
        """What a request says of the replies: for how many there is room, and which is the next."""
        return {names.credit: self.arriving.grant(at_once=True), names.part: self.arriving.next}

    @property
    def is_complete(self) -> bool:
        """Whether all replies came, and no error."""
        last = self.arriving.last
        return self.answered and last is not None and last.error is None

    def _grant(self, credit: int) -> None:
        session = self.session
        exact = session.port._exact
        if exact is not None and exact.can_tell() and session._ending is None:
            if self._granted is not None:
                session.port._outbox.withdraw(self._granted)
            frame = exact.frame(session.sid, exact.exchange(session).life, turn=self.number, credit=credit)
            self._granted = exact.put(frame, math.inf)  # one at a time: without it the peer may wait for ever

    def _take(self) -> Any:
        return SILENCE  # the outcome waits until the replies before it are taken

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def heard(self, header: Header, message: Any) -> None:
        """A message of the peer's that answers this turn."""
        arriving, counters = self.arriving, self.session.port._counters
        if self.deadline < trio.current_time():
            counters.late += 1
            return
        if header.error is None and header.wait is not None and header.turn is None:
            self.postpone(header.wait)
            return
        bare = header.end and self.session.port._envelope.is_bare(message)
        item = Item(None if bare or header.error is not None else message, header.end, header.error)
        if header.error is not None or header.part is None:
            item = item._replace(is_last=True)
        if header.part is None:
            arriving.close(item)
            event = rules.REPLY if header.error is None else rules.ERROR
        else:
            event = arriving.arrive(header.part, item)
        if event is rules.LAST and arriving.last is not None and arriving.last.error is not None:
            event = rules.ERROR
        self._do(rules.ASKER[rules.LISTENING, event].do, item)

    def _do(self, do: str, item: Item) -> None:
        counters = self.session.port._counters
        if do is rules.COUNT:
            counters.duplicate += 1
            return
        if do is rules.STOP_OVERRUN:
            counters.overrun += 1
            why = f"the peer sent more than the {self.arriving.credit} replies that it had credit for"
            self._over(self.session._error(errors.SessionOverrunError, why, self))
            return
        counters.matched += item.is_reply
        last = self.arriving.last
        if do is rules.RAISE:
            assert last is not None
            self.refused(*rules.split_error(last.error or ""))
        elif last is not None:
            self.answered = True
            self._over(trio.EndOfChannel())
        elif do is rules.HAND_OVER:
            self.silence()

    def answer(self, reply: Any) -> None:
        """A reply without a place among others: its sender knows no streams, so it is the only one."""
        self.arriving.close(Item(reply, is_last=True))
        self.answered = True
        self._over(trio.EndOfChannel())

    def refused(self, code: str, text: str) -> None:
        """The stream ends with an error of the peer's, after the replies that are there."""
        exact = self.session.port._exact
        assert exact is not None
        exact.exchange(self.session).opened = False
        self.answered = True
        self.session.port._counters.failed += 1
        self._over(self.remote_error(code, text))

    def postpone(self, wait: float) -> None:
        """The peer is at work on it: the next attempt need not come before so many seconds, nor the end any later."""
        if self._limit is not None:
            self._limit = max(self._limit, trio.current_time() + wait)
        super().postpone(wait)

    def end(self, ending: Ending) -> None:
        """The turn is over without an end of the stream; what the writer has not taken is never sent."""
        if self.ticket is not None:
            self.session.port._outbox.withdraw(self.ticket)
        self._over(self.session._ending_error(ending, self))

    def sender_failed(self, error: BaseException) -> None:
        """The sender raised on this turn's message: it is tried again where `retry_on` and the patience allow it."""
        if self.filled or self.session._turn is not self:
            return
        if self._pause is None or not isinstance(error, self.plan.patience.retry_on):
            self._over(error)

    def close(self) -> None:
        """Whoever waits for a reply has to look: there will be none."""
        if not self.filled:
            self._over(trio.ClosedResourceError())

    def _over(self, error: BaseException) -> None:
        self.filled = self.taken = True
        self.outcome = Error(error)
        self.silence()
