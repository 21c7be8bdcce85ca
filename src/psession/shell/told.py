"""What listeners are told: who listens, and the turns of the peer's that they have been told of.

While nobody listens a port looks at `Audience.listens` a few times a turn, and does no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psession import errors
from psession.hooks import (
    EVENTS,
    Event,
    LinkDown,
    LinkUp,
    MessageDropped,
    MessagePosted,
    Observation,
    PortClosed,
    PortOpened,
    SessionEnded,
    SessionOpened,
    Turn,
    TurnAnswered,
    TurnAttempted,
    TurnFailed,
    TurnPart,
    TurnStarted,
)
from psession.protocol import states as codes
from psession.protocol.header import trace_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.errors import TurnOutcome
    from psession.hooks import Listener
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.protocol.endings import Ending
    from psession.protocol.events import Ended
    from psession.protocol.header import Trace
    from psession.shell.said import Said


RARE: Final = frozenset({PortOpened, PortClosed, LinkUp, LinkDown})
"""Kinds that are told without a look at `Audience.listens`: who hears these alone costs no turn anything."""


class Audience:
    """The listeners of a manager.

    Args:
        said: What is said about listeners that raise.

    Attributes:
        listens: True while anybody does to more than what is `RARE`.
    """

    __slots__ = (
        "_below",
        "_by_kind",
        "_listeners",
        "_said",
        "_to_answered",
        "_to_attempted",
        "_to_started",
        "listens",
    )

    def __init__(self, said: Said) -> None:
        self.listens: bool = False
        self._to_started: tuple[Listener, ...] = ()  # these three are looked up for each turn otherwise
        self._to_attempted: tuple[Listener, ...] = ()
        self._to_answered: tuple[Listener, ...] = ()
        self._said = said
        self._listeners: list[tuple[Listener, tuple[type[Event], ...]]] = []
        self._below: set[Told] = set()
        self._by_kind: dict[type[Event], tuple[Listener, ...]] = {}

    def observe(self, listener: Listener, kinds: tuple[type[Event], ...]) -> Observation:
        """Call a listener with all events of these kinds, or of any, from now on.

        Raises:
            TypeError: It is no function, or they are no kinds of events.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be callable with an event, which {listener!r} is not")
        for kind in kinds:
            if kind not in EVENTS:
                names = ", ".join(each.__name__ for each in EVENTS)
                raise TypeError(f"{kind!r} is no kind of event; psession.hooks has {names}")
        entry = listener, kinds or EVENTS

        def end() -> None:
            self._listeners = [each for each in self._listeners if each is not entry]
            self.changed()

        self._listeners.append(entry)
        self.changed()
        return Observation(end)

    def listeners(self) -> list[tuple[Listener, tuple[type[Event], ...]]]:
        """Everybody who is to be told of an event here, with the kinds that they hear."""
        return self._listeners

    def changed(self) -> None:
        """Note who is to be told of what from now on."""
        by_kind: dict[type[Event], tuple[Listener, ...]] = {}
        for listener, kinds in self.listeners():
            for kind in kinds:
                by_kind[kind] = (*by_kind.get(kind, ()), listener)
        self._by_kind = by_kind
        self.listens = not by_kind.keys() <= RARE
        self._to_started = by_kind.get(TurnStarted, ())
        self._to_attempted = by_kind.get(TurnAttempted, ())
        self._to_answered = by_kind.get(TurnAnswered, ())
        for told in self._below:
            told.changed()

    def join(self, told: Told) -> None:
        """Tell this audience what a port tells its own."""
        self._below.add(told)

    def leave(self, told: Told) -> None:
        """A port is over."""
        self._below.discard(told)

    def wants(self, kind: type[Event]) -> bool:
        """Return True if anybody hears events of this kind."""
        return kind in self._by_kind

    def tell(self, event: Event) -> None:
        """Call those who hear events of this kind. What they raise is logged."""
        self.call(self._by_kind.get(type(event), ()), event)

    def call(self, listeners: tuple[Listener, ...], event: Event) -> None:
        """Call these listeners. What they raise is logged."""
        for listener in listeners:
            try:
                listener(event)
            except Exception as error:
                self._said.raised("listener_raised", "a listener", f" of {type(event).__name__}", error)


class Told(Audience):
    """The listeners of one port, its manager's among them, and what they are told.

    Args:
        name: The port's name.
        said: What is said about the port.
        above: The audience of its manager.
        now: The clock.

    Attributes:
        lost: Why the port has no link, and since when; ``None`` where it has one.
    """

    __slots__ = ("_above", "_has_link", "_name", "_now", "_turns", "lost")

    def __init__(self, name: str, said: Said, above: Audience, now: Callable[[], float]) -> None:
        super().__init__(said)
        self._name = name
        self._above: Audience | None = above
        self._now = now
        self._turns: dict[object, Turn] = {}
        self._has_link = False
        self.lost: tuple[str, float] | None = None
        above.join(self)
        self.changed()

    def listeners(self) -> list[tuple[Listener, tuple[type[Event], ...]]]:
        """Return those of the manager, then those of the port."""
        above = [] if self._above is None else self._above.listeners()
        return [*above, *self._listeners]

    def changed(self) -> None:
        """Forget the turns under way too, where nobody listens any more."""
        super().changed()
        if not self.listens:
            self._turns.clear()

    def let_go(self) -> None:
        """The port is over."""
        if self._above is not None:
            self._above.leave(self)
            self._above = None
        self._listeners = []
        self.changed()

    # -- the port and its link ---------------------------------------------------------------------------------------

    def port_opened(self) -> None:
        """Tell that the port is open."""
        self.tell(PortOpened(self._now(), self._name))

    def link_up(self, *, resumed: bool | None = None) -> None:
        """Tell that there is a link, the first or another one."""
        self._has_link, self.lost = True, None
        self.tell(LinkUp(self._now(), self._name, resumed))

    def link_down(self, reason: str) -> None:
        """Tell that there is none any more, once."""
        if self._has_link:
            self._has_link, self.lost = False, (reason, self._now())
            self.tell(LinkDown(self._now(), self._name, reason))

    def port_closed(self, ending: Ending) -> None:
        """Tell that the port is over, and its link with it."""
        self.link_down(ending.why)
        self.tell(PortClosed(self._now(), self._name, ending.why, ending.cause, self._said.label))

    # -- sessions and messages ---------------------------------------------------------------------------------------

    def session_opened(self, dialogue: Dialogue) -> None:
        """Tell of a session that is no single request's."""
        if self.wants(SessionOpened):
            self.tell(SessionOpened(self._now(), self._name, dialogue.sid, dialogue.incoming))

    def session_ended(self, event: Ended) -> None:
        """Tell of the end of a session, and of the peer's turn that is under way in it."""
        dialogue = event.dialogue
        self.turn_ended(event)
        if not dialogue.once and self.wants(SessionEnded):
            self.tell(SessionEnded(self._now(), self._name, dialogue.sid, dialogue.incoming, event.ending.why))

    def dropped(self, reason: str, sid: Any, detail: str) -> None:
        """Tell of a message that goes nowhere."""
        if self.wants(MessageDropped):
            self.tell(MessageDropped(self._now(), self._name, reason, sid, detail))

    def posted(self, sid: Any, payload: Any, *, incoming: bool) -> None:
        """Tell of a message that is no turn's."""
        if self.wants(MessagePosted):
            self.tell(MessagePosted(self._now(), self._name, sid, incoming, payload))

    # -- turns that this side asks -----------------------------------------------------------------------------------

    def began(self, asked: AskedTurn, payload: Any) -> Turn:
        """Tell that a turn begins, and of its first attempt. What listeners say of its trace goes along on the wire."""
        streamed = asked.arriving is not None
        turn = Turn(self._name, "asker", asked.dialogue.sid, asked.number, streamed, payload, asked.started)
        if self._to_started:
            carrier: dict[str, str] = {}
            self.call(self._to_started, TurnStarted(asked.started, self._name, turn, carrier))
            if carrier:
                asked.trace = trace_of(carrier.get("traceparent"), carrier.get("tracestate"))
        turn.attempts = 1
        if self._to_attempted:
            self.attempted(turn, 1)
        return turn

    def attempted(self, turn: Turn, attempt: int) -> None:
        """Tell of an attempt, which may fail at once."""
        turn.attempts = attempt
        if self._to_attempted:
            self.call(self._to_attempted, TurnAttempted(self._now(), self._name, turn, attempt))

    def took_part(self, turn: Turn, payload: Any) -> None:
        """Tell of one of many answers that the application takes."""
        turn.parts += 1
        if self.wants(TurnPart):
            self.tell(TurnPart(self._now(), self._name, turn, payload))

    def over(self, turn: Turn, payload: Any, now: float) -> None:
        """Tell that a turn is answered."""
        if self._to_answered:
            self.call(self._to_answered, TurnAnswered(now, self._name, turn, payload))

    def without_answer(
        self, asked: AskedTurn, turn: Turn, kind: type[BaseException] | None, error: BaseException | None, now: float
    ) -> None:
        """Tell that a turn is over without its answer; `kind` is ``None`` where its caller was cancelled."""
        if not self.wants(TurnFailed):
            return
        outcome: TurnOutcome | None = error.outcome if isinstance(error, errors.SessionError) else None
        if outcome is None:
            outcome = "sent" if asked.sent else "not_sent"
        self.tell(TurnFailed(now, self._name, turn, _reason_of(kind), outcome, error))

    # -- turns that the peer asks ------------------------------------------------------------------------------------

    def asked(
        self,
        key: object,
        sid: Any,
        payload: Any,
        came: float,
        number: int = 0,
        streamed: bool = False,
        trace: Trace | None = None,
    ) -> None:
        """Tell that the application has a question; called in the context of who answers it.

        Args:
            key: What the turn is known by until it is over: its session, most often.
            sid: The number of the session.
            payload: The question.
            came: The moment it came.
            number: The number of the turn.
            streamed: True where it may have many answers.
            trace: Its asker's place in a trace.
        """
        if key in self._turns:
            self.failed(key, codes.UNANSWERED)  # its handler has taken the next one
        turn = self._turns[key] = Turn(self._name, "answerer", sid, number, streamed, payload, came)
        if self._to_started:
            carrier: dict[str, str] = {}
            if trace is not None:
                carrier["traceparent"], state = trace
                if state:
                    carrier["tracestate"] = state
            self.call(self._to_started, TurnStarted(self._now(), self._name, turn, carrier))

    def rename(self, key: object, to: object) -> None:
        """Know a turn by something else from now on."""
        turn = self._turns.pop(key, None)
        if turn is not None:
            self._turns[to] = turn

    def sent_part(self, key: object, payload: Any) -> None:
        """Tell of one of many answers that is on its way."""
        turn = self._turns.get(key)
        if turn is not None:
            self.took_part(turn, payload)

    def answered(self, key: object, payload: Any = None) -> bool:
        """Tell that a turn of the peer's has its answer. Return False if none is known by that."""
        turn = self._turns.pop(key, None)
        if turn is None:
            return False
        if self._to_answered:
            self.call(self._to_answered, TurnAnswered(self._now(), self._name, turn, payload))
        return True

    def failed(self, key: object, reason: str, error: BaseException | None = None) -> None:
        """Tell that a turn of the peer's gets no answer; nothing happens where none is known by that."""
        turn = self._turns.pop(key, None)
        if turn is not None and self.wants(TurnFailed):
            refused = codes.is_refusal(reason)
            self.tell(TurnFailed(self._now(), self._name, turn, reason, "refused" if refused else "sent", error))

    def turn_ended(self, event: Ended) -> None:
        """A session is over, and with it the peer's turn that is under way in it."""
        if event.dialogue in self._turns:
            self.failed(event.dialogue, _code_of(event.ending, cancels=event.cancels))


def _code_of(ending: Ending, *, cancels: bool) -> str:
    return "given_up" if cancels else ending.code or codes.UNANSWERED


def _reason_of(kind: type[BaseException] | None) -> str:
    """The word for what ended a turn: see `psession.hooks.REASONS`."""
    if kind is None or issubclass(kind, errors.SessionCancelError):
        return "cancelled"
    return next((reason for error, reason in _REASONS if issubclass(kind, error)), "error")


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (errors.SessionTimeoutError, "timeout"),
    (errors.SessionRemoteError, "remote"),
    (errors.PortClosedError, "closed"),
    (errors.SessionAbortError, "aborted"),
    (errors.SessionOverrunError, "overrun"),
    (errors.MessageError, "message"),
    (errors.SessionError, "invalid"),
)
