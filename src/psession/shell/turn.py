"""One ``send`` and its reply: the attempts, the waits, and the end."""

from __future__ import annotations

import math
from bisect import bisect_left
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import trio
from outcome import Error

from psession import errors
from psession.protocol import states as codes
from psession.protocol.counters import BOUNDS
from psession.protocol.dialogue import AskedTurn
from psession.protocol.states import Turn as State
from psession.protocol.states import TurnEvent
from psession.shell.handler_scope import answering
from psession.shell.user_code import call
from psession.shell.waiting import SILENCE, Waiter
from psession.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Self

    from psession import hooks
    from psession.protocol.endings import Ending
    from psession.protocol.events import Refused
    from psession.protocol.retry import Patience, Retry
    from psession.shell.busy_wait import BusyWait
    from psession.shell.live_session import LiveSession
    from psession.shell.outbox import Ticket
    from psession.shell.waiting import Delivery
    from psession.typed import Form


class Turn(Waiter, AskedTurn):
    """A turn, and the task that waits for its answer. It stands in its session while its ``with`` lasts."""

    __slots__ = ("answer", "live", "outcome", "payload", "task", "ticket", "told")

    keeps_deadline: ClassVar[bool] = True
    """True where the caller's own cancel scopes bound the turn's time."""

    cancelled: ClassVar[type[BaseException]] = trio.Cancelled
    """The exception by which the caller gives the turn up."""

    @staticmethod
    def checkpoint_if_cancelled() -> Awaitable[None]:
        """Give the caller's cancellation its chance."""
        return trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105 - a coroutine less on each turn

    attempts: int
    due: float
    started: float

    def __init__(self, live: LiveSession) -> None:
        AskedTurn.__init__(self, live.dialogue)  # `super()` takes 60 ns to find the same
        self.live: LiveSession = live
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None
        self.ticket: Ticket | None = None
        self.payload: Any = None
        self.told: hooks.Turn | None = None
        self.answer: Any = None

    # -- in and out through the same with ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.dialogue.turn = self
        self.live.engine.outbox.turns += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        live, dialogue = self.live, self.dialogue
        engine = live.engine
        if kind is not None and kind is self.cancelled:
            engine.connection.counters.cancelled += 1
        if self.ticket is not None:
            if not self.ticket.written:
                engine.outbox.withdraw(self.ticket)
            self.ticket = None
        self.outcome = None  # the replies to a stream know their turn for as long as they live
        is_prompt = self.answered and self.arriving is None  # then it is that moment still: a clock costs 0.2 us
        now = engine.connection.heard if is_prompt else engine.now()
        happened = engine.connection.turn_over(
            self, codes.ENDED if kind is None else _code_of(kind, self.cancelled), now
        )
        if happened:
            engine.perform(happened)
        if self.arriving is None:
            latency, seconds = engine.latency, now - self.started
            if kind is None:
                latency.answered[bisect_left(BOUNDS, seconds)] += 1
                latency.seconds += seconds
            elif self.attempts:
                latency.note(_outcome_of(kind, self.cancelled), seconds)
        engine.outbox.turns -= 1
        if not dialogue.once and dialogue.ending is None and (not dialogue.incoming or live.is_waiting_for_peer):
            engine.rests(dialogue, now)
        if live.waiting_turns:
            live.next_turn()
        if self.told is not None:
            if kind is None and (self.arriving is None or self.has_all):
                engine.told.over(self.told, self.answer, now)
            else:
                engine.told.without_answer(self, self.told, None if kind is self.cancelled else kind, error, now)

    @property
    def has_all(self) -> bool:
        """True where a turn that ended without an exception has all of its answer."""
        return True

    # -- the caller's side -------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(self, payload: Any, patience: Patience) -> Any:
        """Make one attempt after the other, until there is an outcome or no more patience."""
        live, retry = self.live, patience.retry
        engine = live.engine
        if get_ident() != engine.thread:
            engine.check_run()
        busy = engine.busy
        if live.dialogue.turn is not None:
            await live.line_up(self)
        with self:
            is_safe = self.start()
            caller_due = self.caller_due() if engine.tells_deadlines else None
            if caller_due is None or caller_due == -math.inf:
                await self.checkpoint_if_cancelled()  # else its caller is not cancelled
            if not is_safe:
                await self.make_safe(patience.timeout)
            self.begin(payload, patience.total, retry)
            failure: Exception | None = None
            now = self.started
            for pause in patience.pauses(engine.luck):
                is_paid = not self.attempts or self.is_paid(retry)
                if self.attempts:
                    now = engine.now()
                    if is_paid:
                        self.note_retry()
                if failure is not None and not is_paid:
                    self._raise(failure)
                failure = None
                try:
                    if is_paid:
                        self.transmit(caller_due)
                        caller_due = None  # it may be another one by the next attempt
                        if busy is not None and self.ticket is None and engine.outbox.turns == 1 and busy.is_due():
                            await self.look_awake(busy)  # it is alone: its peer may be near
                            if self.outcome is not None:
                                return self.reply_in_hand()
                    due = now + patience.timeout + (pause or 0.0)
                    reply = await self.reply_until(due if due < self.deadline else self.deadline)
                except patience.retry_on as error:
                    failure = self._to_be_retried(error, pause)
                    reply = await self.reply_until(min(engine.now() + (pause or 0.0), self.deadline))
                if reply is SILENCE and self.outcome is not None:
                    return self.reply_in_hand()  # it came between that word and this step
                if reply is not SILENCE:
                    if self.told is not None:
                        self.answer = reply
                    return reply
                if self.deadline <= engine.now():
                    break
            self.time_out(f"no reply: {self.advice()}")

    async def run_typed(self, payload: Any, patience: Patience, form: Form) -> Any:
        """Do as `run`, and return the reply as the type of that form. The turn is over then, whether it fits or not."""
        return self.read(await self.run(payload, patience), form)

    def read(self, reply: Any, form: Form) -> Any:
        """Return a reply as the type of that form. Ctrl-C may interrupt what the type itself does.

        Raises:
            MalformedMessageError: It does not fit.
        """
        try:
            return call(form.read, reply)
        except errors.MalformedMessageError as error:
            why = f"the reply does not fit reply_type: {error.why}"
            raise self.live.error(errors.MalformedMessageError, why, self) from error.__cause__

    def start(self) -> bool:
        """Begin the turn's time. Return False if a reply of the past may be taken for its answer."""
        dialogue, engine = self.dialogue, self.live.engine
        if self.outcome is not None:
            self.reply_in_hand()  # the end that came between its place in the line and its turn
        if dialogue.ending is not None:
            self.live.raise_ended()
        self.started = engine.now()
        return not (dialogue.owed or dialogue.unsafe_until) or not engine.connection.is_unsafe(dialogue)

    def begin(self, payload: Any, total: float, retry: Retry) -> None:
        """Give the turn its payload and, on the exact wire, its number and its whole time."""
        engine = self.live.engine
        self.payload = payload
        engine.connection.begin(self, total, self.arriving)
        if retry.budget != math.inf:
            engine.bucket.put(retry.budget)
        if engine.told.listens:
            self.told, self.answer = engine.told.began(self, payload), None

    def caller_due(self) -> float:
        """The moment at which the caller's own cancel scopes end; minus infinity where they have."""
        handler = answering.get()
        if handler is not None:
            handler.show_deadline()
        return trio.current_effective_deadline()

    def transmit(self, caller_due: float | None = None) -> None:
        """Make one attempt, unless the last one's frame is still in the queue.

        Args:
            caller_due: What `caller_due` says, where that is known.
        """
        if self.ticket is not None and not self.ticket.written:
            self.attempts += 1
            return
        engine = self.live.engine
        try:
            frame = self._frame(caller_due) if self.number else engine.connection.ask(self, self.payload, math.inf)
        except errors.MessageError as error:
            engine.place(error, self.dialogue.sid)
            raise
        self.attempts += 1
        if frame is not None:  # else it is not asked again, and waits on
            try:
                self.ticket = engine.outbox.put(frame, self)
            except Exception:
                engine.connection.not_sent(self)
                raise

    def note_retry(self) -> None:
        """Count another attempt, which is about to be made, and tell the listeners."""
        engine = self.live.engine
        engine.connection.counters.retried += 1
        if self.told is not None:
            engine.told.attempted(self.told, self.attempts + 1)

    def _frame(self, caller_due: float | None = None) -> Any:
        """The frame of an attempt on the exact wire: it says how long the turn still waits."""
        engine = self.live.engine
        if not engine.options.deadlines:
            return engine.connection.ask(self, self.payload, math.inf)
        due, within = math.inf, self.total
        if self.keeps_deadline:
            due = self.caller_due() if caller_due is None else caller_due
        if due < self.deadline or self.attempts:
            due = min(due, self.deadline)
            within = round(due - (engine.now() if self.attempts else self.started), 3)
        frame = engine.connection.ask(self, self.payload, within)
        if self.answers and self.live.handler is not None:
            self.live.handler.lift_deadline()
        return frame

    def look_awake(self, busy: BusyWait) -> Awaitable[bool]:
        """Look for the reply for a while, without going to sleep."""
        return busy.until(self.look)

    def look(self) -> bool:
        """Take what has come. Return True if the outcome is there."""
        return self.outcome is not None or (self.live.engine.look() and self.outcome is not None)

    def reply_until(self, due: float) -> Awaitable[Any]:
        """Wait for the reply; `SILENCE` when there was none at `due`."""
        if self.outcome is not None:
            return self._reply_at_once()
        self.due = due
        if due < self.dialogue.entry:
            self.live.engine.watch(self.dialogue, due)
        return self.park()

    async def _reply_at_once(self) -> Any:
        """The checkpoint of a wait that is over as it begins, and what it waited for."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self.reply_in_hand()

    def reply_in_hand(self) -> Any:
        """The reply; raises what came in its place."""
        outcome, self.outcome = self.outcome, None
        assert outcome is not None
        reply = outcome.unwrap()
        if self.told is not None:
            self.answer = reply
        return reply

    def is_paid(self, retry: Retry) -> bool:
        """Pay for a retry out of the port's bucket; one whose last frame still waits to be sent is free.

        Return False if there is not enough: then the turn goes on waiting.
        """
        engine, ticket = self.live.engine, self.ticket
        if retry.budget == math.inf or (ticket is not None and not ticket.written) or engine.bucket.take():
            return True
        engine.connection.counters.unpaid += 1
        return False

    def _raise(self, failure: Exception) -> NoReturn:
        """Raise the sender's exception, for want of a retry."""
        try:
            raise failure
        finally:
            del failure  # it knows this frame: they would keep each other

    def _to_be_retried(self, error: Exception, pause: float | None) -> Exception:
        """Go on after an exception of the sender's; raises where that is none, or there is no more patience."""
        if self.ending is not None:
            raise self.live.ending_error(self.ending, self) from error
        if pause is None or self.state is State.IDLE:
            raise error
        if self.state is State.FAILED:
            self.advance(TurnEvent.TRY_AGAIN)
        return error

    async def make_safe(self, within: float) -> None:
        """See to it that no reply of the past can answer this turn: a fresh number, or the old one when it is safe.

        Raises:
            SessionInvalidError: The number is the peer's, which this side cannot change.
            SessionTimeoutError: No safe number came free `within` so many seconds.
        """
        live, dialogue = self.live, self.dialogue
        engine = live.engine
        if engine.options.on_unanswered == "keep" and not dialogue.unsafe_until:
            return
        if dialogue.incoming:
            raise live.error(
                errors.SessionInvalidError,
                "a turn was not answered, and its late reply could answer this one; the number is the peer's: "
                'let the peer open a new session, or choose on_unanswered="keep"',
            )
        deadline = self.started + within
        while (safe := engine.connection.renew(dialogue, engine.now())) is not None:
            if engine.now() >= deadline:
                self.time_out(
                    "not sent: all session numbers are in use or rest after unanswered turns; "
                    "widen session_ids, or shorten session_id_rest"
                )
            engine.needy[self] = self.nudge
            try:
                await self.reply_until(min(safe, deadline))
            finally:
                del engine.needy[self]
            if self.outcome is not None:
                self.reply_in_hand()  # the end, which came between the word of a free number and this step
        self.started = engine.now()

    def time_out(self, why: str) -> NoReturn:
        """Raise the error of a turn that had no answer in time."""
        self.live.engine.connection.counters.timed_out += 1
        raise self.live.error(errors.SessionTimeoutError, why, self)

    def advice(self) -> str:
        """The likely meaning of the silence."""
        absence = self.live.engine.absence()
        if absence:
            times = "once" if self.sent == 1 else f"{self.sent} times"
            return f"sent {times}, but {absence}" if self.sent else f"not sent, {absence}"
        if not self.sent:
            return "not sent, the channel took nothing in that time"
        if self.sent < self.attempts:
            return f"sent {self.sent} times, then the channel took nothing more"
        hints = self.live.engine.hints()
        return f"the peer is slow or gone; a longer timeout or more retries may help{hints}"

    # -- the delivering side, synchronous ----------------------------------------------------------------------------

    def refused(self, event: Refused) -> None:
        """The peer's answer is an error."""
        self.wake(Error(self.remote_error(event)))

    def remote_error(self, event: Refused) -> errors.SessionRemoteError:
        """The peer's error as one of ours."""
        why = f"the peer answered with the error {event.code!r}" + (f": {printable(event.text)}" if event.text else "")
        error = self.live.error(errors.SessionRemoteError, why, self)
        assert isinstance(error, errors.SessionRemoteError)
        error.code, error.text, error.data = event.code, event.text, event.data
        error.outcome = "not_sent" if event.is_unsent else "refused" if event.is_refusal else "sent"
        return error

    def postponed(self, until: float) -> None:
        """The peer is at work on it: the next attempt need not come before that moment."""
        if self.due < until:
            self.due = until
            if until < self.dialogue.entry:
                self.live.engine.watch(self.dialogue, until)

    def ask_again(self) -> None:
        """Send the message again, which may have been lost: an attempt that no pause is due before."""
        if self.ticket is None or self.ticket.written:
            engine = self.live.engine
            self.note_retry()
            self.attempts += 1
            self.ticket = engine.outbox.put(self._frame(), self)

    def given_up(self, ending: Ending) -> None:
        """The turn is over without a reply; a frame that the writer does not have yet is never sent."""
        if self.ticket is not None:
            self.live.engine.outbox.withdraw(self.ticket)
        self.wake(Error(self.live.ending_error(ending, self)))

    def sender_failed(self, error: BaseException) -> None:
        """The sender raised on this turn's message; an outcome that is there already counts."""
        if self.state is State.WAITING and self.dialogue.turn is self:
            if isinstance(error, errors.MessageError):
                self.live.engine.place(error, self.dialogue.sid)
            self.advance(TurnEvent.SENDER_FAILED)
            self.live.engine.connection.not_sent(self)
            self.wake(Error(error))


def _outcome_of(kind: type[BaseException], cancelled: type[BaseException]) -> str:
    """The outcome of a turn that ended by an exception of this kind, as the counters name it."""
    if issubclass(kind, errors.SessionTimeoutError):
        return "timed_out"
    if issubclass(kind, (cancelled, errors.SessionCancelError)):
        return "cancelled"
    if issubclass(kind, errors.SessionRemoteError):
        return "failed"
    return "aborted" if issubclass(kind, errors.SessionAbortError) else "other"


def _code_of(kind: type[BaseException] | None, cancelled: type[BaseException]) -> str:
    """The word of the wire for a turn that ends by an exception of this kind."""
    if kind is None:
        return codes.ENDED
    if issubclass(kind, errors.SessionTimeoutError):
        return codes.TIMEOUT
    if issubclass(kind, (cancelled, errors.SessionCancelError)):
        return codes.CANCELLED
    return codes.OVERRUN if issubclass(kind, errors.SessionOverrunError) else codes.ABORTED
