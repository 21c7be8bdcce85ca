"""One ``send`` and its reply: the attempts, the waits, and what is left when they are over."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import trio
from outcome import Error

from psession import _rules as rules
from psession import errors
from psession._ending import UNANSWERED, Ending
from psession._handed import Handed

if TYPE_CHECKING:
    from typing import Self

    from outcome import Outcome

    from psession._outbox import Ticket
    from psession._retry import Patience
    from psession._session import Session
    from psession.envelope import ExactFields, Header

SILENCE: Final = object()
"""What a waiting task is woken with when its time is over, in place of a reply."""


class Turn:
    """Stands in its session exactly while its ``with`` lasts; one at a time."""

    __slots__ = (
        "answered",
        "answers",
        "attempts",
        "deadline",
        "due",
        "failed",
        "filled",
        "message",
        "number",
        "outcome",
        "revoked",
        "sent",
        "session",
        "silent",
        "started",
        "taken",
        "task",
        "ticket",
        "total",
    )

    streamed: ClassVar[bool] = False
    """Whether it may have many replies."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.started = 0.0
        """Seconds on Trio's clock: when it took its place in the line, then when it had its turn."""
        self.attempts = 0
        self.sent = 0
        """Attempts that left for the wire: each may be answered."""
        self.filled = False
        """Whether there is an outcome."""
        self.outcome: Outcome[Any] | None = None
        """It, where the task was not waiting for it."""
        self.task: trio.lowlevel.Task | None = None
        """Who waits for it, until it is woken."""
        self.taken = False
        """Whether the task has it, or is about to."""
        self.answered = False
        """Whether that outcome is the peer's reply."""
        self.failed = False
        """Whether that outcome is the sender's exception."""
        self.revoked: Ending | None = None
        """The end that came after the sender's exception and before this turn saw that."""
        self.silent = False
        """Whether the time is over, and the task has not seen that yet: an outcome still counts."""
        self.due: float | None = None
        """When it will be, for the timekeeper."""
        self.ticket: Ticket | None = None
        self.message: Any = None
        """What it asks, on the exact wire."""
        self.number = 0
        """Its number on the exact wire, 0 on the classic one."""
        self.answers = 0
        """The peer's turn that its message answers."""
        self.total = math.inf
        """Seconds that all its attempts may take, on the exact wire."""
        self.deadline = math.inf
        """When all its attempts are over, on the exact wire: the peer may postpone an attempt, but not that."""

    # -- in and out through the same with ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        session = self.session
        session._turn = self
        session.port._outbox.turns += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        session = self.session
        port = session.port
        if kind is trio.Cancelled:
            port._counters.cancelled += 1
        if self.ticket is not None:
            if not self.ticket.taken:
                port._outbox.withdraw(self.ticket)
            self.ticket = None  # the replies to a stream know their turn for as long as they live
        if self.due is not None:
            port._timekeeper.forget(self)
        self.outcome = None  # likewise
        session._turn = None
        exact = port._exact if self.number else None
        exchange = session._exchange
        if exact is not None and not (self.answered and exchange and exchange.known and not exchange.peer_done):
            exact.asker.over(self, kind)
        if exact is not None and exact.peer is rules.EXACT:
            if not self.answered and session._ending is None and port._options.on_unanswered == "end":
                session._end(UNANSWERED)
        elif session._ending is None:
            session._owed += self.sent - self.answered
            if session._owed and port._options.on_unanswered == "end":
                session._end(UNANSWERED)
        port._turn_ends(session)
        if session._line:
            following, task = session._line.popitem(last=False)
            session._turn = following
            trio.lowlevel.reschedule(task)

    async def stand_in_line(self) -> None:
        """Wait until the turns before this one are over. Cancelled: the place in the line is gone."""
        session = self.session
        line = session._line
        if line is None:
            line = session._line = OrderedDict()
        self.started = trio.current_time()
        line[self] = trio.lowlevel.current_task()

        def abort_fn(_: Any) -> trio.lowlevel.Abort:
            del line[self]
            session.port._counters.cancelled += 1
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort_fn)

    # -- the waiting side --------------------------------------------------------------------------------------------

    async def run(self, message: Any, patience: Patience) -> Any:
        """Attempt after attempt, until there is an outcome or no more patience."""
        session = self.session
        if self.filled:
            self._take()  # the end that came between its place in the line and its turn
        session._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        port = session.port
        self.started = now = port._now()
        exact = port._exact
        if exact is not None and session._exchange is None and not exact.asks(session):
            exact = None
        if (session._owed or session._unsafe_until) and (exact is None or exact.peer is rules.CLASSIC):
            await self._make_safe(patience.timeout)
            now = self.started
        if exact is not None:
            self.message = message
            exact.asker.begin(self, patience.total)
        frame = None
        budget = patience.retry.budget
        if budget != math.inf:
            port._bucket.put(budget)
        failure: Exception | None = None
        for pause in patience.pauses(port._luck):
            wait = patience.timeout + (pause or 0.0)
            if self.attempts:
                now = port._now()
                if budget != math.inf and not self._is_paid():
                    if failure is not None:
                        try:
                            raise failure
                        finally:
                            failure = None  # it knows this frame: they would keep each other
                    reply = await self._wait_until(min(now + wait, self.deadline))
                    if reply is not SILENCE:
                        return reply
                    if self.deadline <= port._now():
                        break
                    continue
                failure = None
            if exact is not None:
                frame = exact.asker.request(self, message)
            elif frame is None:
                frame = port._to_frame(port._envelope.stamp(message, session.sid))
            try:
                self._transmit(frame)
                if self.filled:
                    # A synchronous sender brought the reply with it: what is left is the one checkpoint that is due.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return self._take()
                if self.ticket is None and port._outbox.turns == 1 and port._awake is not None:
                    await port._awake.until(self._look)
                    if self.filled:
                        return self._take()
                due = now + wait
                if due > self.deadline:
                    due = self.deadline
                if self._is_silent_until(due):  # as `_wait_until`, whose coroutine would be 2 % of a turn
                    reply = await trio.lowlevel.wait_task_rescheduled(self._wait_no_more)
                    if reply is not SILENCE:
                        return reply
                else:
                    await self._pass()
                self.silent = False
                if self.filled:
                    return self._take()
                if self.deadline <= port._now():
                    break
                continue
            except patience.retry_on as error:
                if self.revoked is not None:
                    raise session._ending_error(self.revoked, self) from error
                ended = self.taken and not self.failed
                if pause is None or ended or self.answered:
                    raise
                failure = error
            self.filled = self.taken = self.failed = False
            reply = await self._wait_until(min(port._now() + pause, self.deadline))
            if reply is not SILENCE:
                return reply
        self._time_out(f"no reply: {self._advice()}")

    def _is_paid(self) -> bool:
        """Whether a retry is paid for out of the port's bucket; one whose last frame still waits to be sent is free."""
        port, ticket = self.session.port, self.ticket
        if (ticket is not None and not ticket.taken) or port._bucket.take():
            return True
        port._counters.unpaid += 1
        return False

    def _transmit(self, frame: Any) -> None:
        """One attempt, unless the last one's frame is still in the queue."""
        self.attempts += 1
        ticket = self.ticket
        if ticket is None or ticket.taken:
            self.ticket = self.session.port._outbox.put(frame, self)

    def _look(self) -> bool:
        return self.filled or (self.session.port._look() and self.filled)

    async def _wait_until(self, due: float) -> Any:
        """The reply, ``SILENCE`` when there was none at `due`; what comes before this task runs again still counts."""
        if self._is_silent_until(due):
            reply = await trio.lowlevel.wait_task_rescheduled(self._wait_no_more)
            if reply is not SILENCE:
                return reply
        else:
            await self._pass()
        self.silent = False
        return self._take() if self.filled else SILENCE

    def _is_silent_until(self, due: float) -> bool:
        """Have the turn woken at `due`, or by what comes. Not where there is something already."""
        if due != math.inf:
            self.session.port._timekeeper.watch(self, due)
        elif self.due is not None:
            self.session.port._timekeeper.forget(self)
        if self.filled or self.silent:
            return False
        self.task = trio.lowlevel.current_task()
        return True

    async def _pass(self) -> None:
        """The checkpoint of a wait that is over as it begins."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _wait_no_more(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _take(self) -> Any:
        """The reply; raises what came in its place."""
        outcome = self.outcome
        assert outcome is not None
        self.outcome = None
        self.taken = True
        return outcome.unwrap()

    async def _make_safe(self, within: float) -> None:
        """See to it that no reply of the past can answer this turn: a fresh number, or the old one when it is safe.

        Raises:
            SessionInvalidError: The number is the peer's, which this side cannot change.
            SessionTimeoutError: No safe number came free `within` so many seconds.
        """
        session = self.session
        port = session.port
        if port._options.on_unanswered == "keep" and not session._unsafe_until:
            return
        if session.incoming:
            raise session._error(
                errors.SessionInvalidError,
                "a turn was not answered, and its late reply could answer this one; the number is the peer's: "
                'let the peer open a new session, or choose on_unanswered="keep"',
            )
        deadline = self.started + within
        while (safe := port._table.renew(session)) is not None:
            if trio.current_time() >= deadline:
                self._time_out(
                    "not sent: all session numbers are in use or rest after unanswered turns; "
                    "widen session_ids, or shorten session_id_rest"
                )
            with port._table.told_when_free(self):
                await self._wait_until(min(safe, deadline))
        self.started = trio.current_time()

    def _time_out(self, why: str) -> NoReturn:
        self.session.port._counters.timed_out += 1
        raise self.session._error(errors.SessionTimeoutError, why, self)

    def _advice(self) -> str:
        """What the silence may mean."""
        if not self.sent:
            return "not sent, the channel took nothing in that time"
        if self.sent < self.attempts:
            return f"sent {self.sent} times, then the channel took nothing more"
        return "the peer is slow or gone; a longer timeout or more retries may help"

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def answer(self, reply: Any) -> None:
        """The peer's reply."""
        self.answered = True
        self._fill(Handed(reply))

    def refused(self, code: str, text: str) -> None:
        """The peer's answer is an error."""
        self.session.port._counters.failed += 1
        self.answered = True
        self._fill(Error(self.remote_error(code, text)))

    def remote_error(self, code: str, text: str) -> errors.SessionRemoteError:
        """The peer's error as one of ours."""
        why = f"the peer answered with the error {code!r}" + (f": {text}" if text else "")
        error = self.session._error(errors.SessionRemoteError, why, self)
        assert isinstance(error, errors.SessionRemoteError)
        error.code, error.text = code, text
        error.outcome = "refused" if rules.is_refusal(code) else "sent"
        return error

    def postpone(self, wait: float) -> None:
        """The peer is at work on it: the next attempt need not come before so many seconds, nor the end any later."""
        due = min(trio.current_time() + wait, self.deadline)
        if self.due is not None and due > self.due:
            self.session.port._timekeeper.watch(self, due)

    def ask_again(self) -> None:
        """Send the message again, which may have been lost: an attempt that no pause is due before."""
        port = self.session.port
        if port._exact is not None and (self.ticket is None or self.ticket.taken):
            self.attempts += 1
            self.ticket = port._outbox.put(port._exact.asker.request(self, self.message), self)

    def room(self, names: ExactFields) -> dict[str, Any]:
        """What the request of a streamed turn says beside its number."""
        raise NotImplementedError

    def heard(self, header: Header, message: Any) -> None:
        """One of the answers to a streamed turn."""
        raise NotImplementedError

    def silence(self) -> None:
        """Wake the turn without an outcome: its time is over, and there was none at the last look."""
        self.silent = True
        task = self.task
        if task is not None:
            self.task = None
            trio.lowlevel.reschedule(task, Handed(SILENCE))

    def end(self, ending: Ending) -> None:
        """The turn is over without a reply; what the writer has not taken is never sent."""
        if self.ticket is not None:
            self.session.port._outbox.withdraw(self.ticket)
        self._fill(Error(self.session._ending_error(ending, self)))

    def sender_failed(self, error: BaseException) -> None:
        """The sender raised on this turn's message; an outcome that is there already counts."""
        if not self.filled and self.session._turn is self:
            self.failed = True
            self._fill(Error(error))

    def _fill(self, outcome: Outcome[Any]) -> None:
        """There is an outcome: the task that waits is woken with it, or finds it when it looks."""
        self.filled = True
        task = self.task
        if task is None:
            self.outcome = outcome
        else:
            self.task = None
            self.taken = True
            trio.lowlevel.reschedule(task, outcome)
