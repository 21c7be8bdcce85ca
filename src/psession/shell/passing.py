"""A question that is passed on to another port: by a task that awaits it, or by none."""

from __future__ import annotations

import math
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic

import trio

from psession import errors
from psession.checks import no_option
from psession.options import TurnOptions, checked
from psession.protocol import states as codes
from psession.shell.handler_scope import answering
from psession.shell.handlers import PassedOnError
from psession.shell.port import engine_of, open_at_once
from psession.shell.turn import Turn
from psession.shell.waiting import LOOK_AGAIN
from psession.text import printable
from psession.typed import Ask, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from psession.protocol.dialogue import ExactState
    from psession.protocol.retry import Patience, Retry
    from psession.shell.busy_wait import BusyWait
    from psession.shell.live_session import LiveSession
    from psession.shell.port import Port
    from psession.shell.waiting import Delivery

_ASKERS_TIME: Final[TurnOptions] = {"timeout": math.inf, "retry_count": 0}

_KINDS: Final = (
    (errors.SessionTimeoutError, "timeout"),
    (errors.SessionAbortError, "closed"),
    (errors.SessionOverflowError, "full"),
    (errors.MessageTooLargeError, "too_large"),
    (errors.MalformedMessageError, "malformed"),
)


class Onward(Generic[Ask, Reply]):
    """Where questions go on, and how long each may take.

    Args:
        port: The port to whose peer they go.
        options: What each may take; by default the time of its asker, and where it does not say, that of `port`.

    Raises:
        TypeError, ValueError: An option that will not do.
    """

    __slots__ = ("_askers_time", "_own_time", "options", "port")

    def __init__(self, port: Port[Ask, Reply], options: TurnOptions) -> None:
        unknown = options.keys() - TurnOptions.__annotations__.keys()
        if unknown:
            raise no_option(unknown, TurnOptions.__annotations__, "a relay has ")
        self.port: Port[Ask, Reply] = port
        self.options: TurnOptions = options
        self._own_time = _checked(port, options)
        self._askers_time = self._own_time if options else _checked(port, _ASKERS_TIME)

    def patience(self, asker: ExactState | None) -> Patience:
        """How long a question may take whose asker says this of its time."""
        return self._own_time if asker is None or asker.due == math.inf else self._askers_time

    def patience_now(self, asker: ExactState) -> Patience:
        """The same for a turn that ends by itself when the time of its asker does."""
        patience = self.patience(asker)
        return patience if asker.due == math.inf or self.options else patience.within(time_left(asker))

    def options_for(self, asker: ExactState | None) -> TurnOptions:
        """The same as options of a call."""
        return self.options or ({} if asker is None or asker.due == math.inf else _ASKERS_TIME)


def time_left(asker: ExactState) -> float:
    """Seconds that an asker still waits."""
    return max(0.0, asker.due - trio.current_time())


def _checked(port: Port, options: TurnOptions) -> Patience:
    return checked(
        engine_of(port).patience,
        options.get("timeout"),
        options.get("retry"),
        options.get("retry_count"),
        options.get("retry_interval"),
        options.get("retry_on"),
    )


class Passing(Generic[Reply]):
    """A question that is to be passed on; await it, or let the port begin it that answers by it."""

    __slots__ = ("_message", "_onward")

    def __init__(self, onward: Onward[Ask, Reply], message: Ask) -> None:
        self._onward: Onward[Any, Reply] = onward
        self._message = message

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._ask().__await__()

    async def _ask(self) -> Reply:
        handler = answering.get()
        options = self._onward.options_for(None if handler is None else handler.exact)
        try:
            return await self._onward.port.request(self._message, **options)
        except errors.SessionError as error:
            raise passed_on(error) from error

    def begin(self, asker: ExactState, done: Callable[[Any, BaseException | None], None]) -> PassedTurn | None:
        """Ask the question without a task.

        Args:
            asker: What is known of the session in which it was asked.
            done: Called once with the reply or what came in its place, perhaps before this returns; with `GaveUpError`
                where it was given up.

        Returns:
            ``None`` where that needs a task: no session number is free now. Then nothing was done.

        Raises:
            SessionError: The port is over.
        """
        patience = self._onward.patience(asker)
        live = open_at_once(engine_of(self._onward.port), patience)
        if live is None:
            return None
        turn = PassedTurn(live, asker.due, done)
        turn.ask(self._message, patience)
        return turn


class GaveUpError(BaseException):
    """The asker of a question that was passed on has given it up."""


class PassedTurn(Turn):
    """A turn that no task waits for: what would wake one takes its next step, in the same pass."""

    __slots__ = ("_asker_due", "_coroutine", "_done", "_is_given_up", "_is_parked")

    keeps_deadline: ClassVar[bool] = False
    cancelled: ClassVar[type[BaseException]] = GaveUpError

    deadline: float
    outcome: Delivery | None
    _coroutine: Coroutine[Any, Any, Any]

    def __init__(self, live: LiveSession, asker_due: float, done: Callable[[Any, BaseException | None], None]) -> None:
        super().__init__(live)
        self._asker_due = asker_due
        self._done = done
        self._is_parked = False
        self._is_given_up = False

    def ask(self, payload: Any, patience: Patience) -> None:
        """Send the question."""
        self._coroutine = self.run(payload, patience)
        self._step(self._coroutine.send, None)

    @property
    def is_waiting(self) -> bool:
        """True where it is not over."""
        return self._is_parked

    def give_up(self) -> None:
        """Nobody wants the answer any more. Idempotent."""
        self._is_given_up = True
        if self._is_parked:
            self._step(self._coroutine.throw, GaveUpError())

    def _step(self, resume: Callable[[Any], object], argument: object) -> None:
        """Take the steps of the turn up to its next wait."""
        self._is_parked = False
        reply, failure = None, None
        try:
            resume(argument)
            if self._is_given_up:
                self._is_parked = False
                self._coroutine.throw(GaveUpError())
            return
        except StopIteration as stop:
            reply = stop.value
        except (Exception, GaveUpError) as error:
            failure = error
        self.live.end_once()
        self._done(reply, failure)

    # -- what a turn does by its task ----------------------------------------------------------------------------------

    @staticmethod
    @coroutine
    def checkpoint_if_cancelled() -> Generator[Any, Any, None]:
        """Do nothing: nobody but `give_up` cancels it."""
        return
        yield

    def caller_due(self) -> float:
        """No caller's scope is around it."""
        return math.inf

    def begin(self, payload: Any, total: float, retry: Retry) -> None:
        """Give it no more time than its asker has."""
        left = self._asker_due - self.started
        super().begin(payload, min(total, left), retry)
        self.deadline = min(self.deadline, self._asker_due)

    async def look_awake(self, busy: BusyWait) -> bool:
        """Do not: others would wait for it."""
        return False

    def park(self) -> Awaitable[Any]:
        """Wait for the outcome, or for `SILENCE`."""
        self._is_parked = True
        return _parked()

    async def _reply_at_once(self) -> Any:
        return self.reply_in_hand()

    def wake(self, outcome: Delivery) -> None:
        """Go on with the outcome, or keep that until the turn looks."""
        if self._is_parked:
            self._step(self._coroutine.send, outcome)
        else:
            self.outcome = outcome

    def nudge(self) -> None:
        """Look again."""
        if self._is_parked:
            self._step(self._coroutine.send, LOOK_AGAIN)


@coroutine
def _parked() -> Generator[None, Delivery, Any]:
    """Wait for what the turn goes on with."""
    delivery = yield
    return delivery.unwrap()


def passed_on(error: errors.SessionError) -> PassedOnError:
    """Return what an asker is told of a question that failed further on."""
    if isinstance(error, PassedOnError):
        return error
    nothing_done = error.outcome in ("not_sent", "refused") or (
        isinstance(error, errors.MessageError) and error.outcome is None and not error.attempts
    )
    if isinstance(error, errors.SessionRemoteError) and error.code != codes.ENDED:
        code, text, data = str(error.code), error.text, error.data
        if nothing_done and not codes.is_refusal(code):
            code = f"{codes.REFUSED}.{code}"
        return PassedOnError(code, text, data, outcome=error.outcome)
    kind = next((name for kind, name in _KINDS if isinstance(error, kind)), "unsent" if nothing_done else "lost")
    code = f"{codes.REFUSED if nothing_done else 'relay'}.{kind}"
    return PassedOnError(code, printable(str(error)), outcome="refused" if nothing_done else "sent")


def lost(error: errors.SessionError) -> PassedOnError:
    """Return what an asker is told where what was done for it cannot be passed back."""
    return (
        error
        if isinstance(error, PassedOnError)
        else PassedOnError("relay.lost", printable(str(error)), outcome="sent")
    )
