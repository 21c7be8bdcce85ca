"""The protocol's knowledge of one session, and of one turn that this side asks in it. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from psession.protocol.states import ASKER, SESSION, IllegalStepError, Opened, OpenedEvent, Turn, TurnDo, TurnEvent

if TYPE_CHECKING:
    from collections.abc import Hashable

    from psession.protocol.credit import Arriving, Departing
    from psession.protocol.endings import Ending
    from psession.protocol.header import Trace
    from psession.protocol.peer_turns import LastTurn

BUSY: Final = math.inf
"""Where `Dialogue.idle_since` says that something goes on in the session."""

_WAITING: Final = Turn.WAITING


class AskedTurn:
    """A turn of this side's: one question and its answer, or its many answers.

    Attributes:
        dialogue: The session that it is asked in.
        state: Its state; `advance` alone changes it.
        attempts: How often it was tried.
        sent: How many of its messages left: each may be answered.
        answered: True where the peer's answer, an error included, is why it is over.
        started: The moment that its time is counted from.
        due: The moment of the next silence; infinity while nobody waits for its answer, or waits for ever.
        deadline: The moment that all its attempts end. A peer at work may postpone an attempt, but not that.
        number: Its number on the exact wire, 0 on the classic one.
        answers: The peer's turn that its message answers, 0 where it answers none.
        total: Seconds that all its attempts may take.
        ending: The end that came after the sender's exception, and before the caller has seen that.
        arriving: Its many answers, where it may have many.
        ids: The ids that it has on the wire of a `TurnDialect`, while it is open.
        trace: Its place in a trace, where a listener gave it one.
    """

    __slots__ = (
        "answered",
        "answers",
        "arriving",
        "attempts",
        "deadline",
        "dialogue",
        "due",
        "ending",
        "ids",
        "number",
        "sent",
        "started",
        "state",
        "total",
        "trace",
    )

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue: Dialogue = dialogue
        self.state: Turn = _WAITING
        self.attempts: int = 0
        self.sent: int = 0
        self.answered: bool = False
        self.started: float = 0.0
        self.due: float = math.inf
        self.deadline: float = math.inf
        self.number: int = 0
        self.answers: int = 0
        self.total: float = math.inf
        self.ending: Ending | None = None
        self.arriving: Arriving | None = None
        self.ids: tuple[Hashable, ...] = ()
        self.trace: Trace | None = None

    @property
    def is_asked(self) -> bool:
        """True where its message is on its way, or before all that is said from now on."""
        return self.attempts > 0 and self.state is not Turn.FAILED

    def advance(self, event: TurnEvent) -> TurnDo:
        """Take the step from the table. Return what is to be done.

        Raises:
            IllegalStepError: The table has no such step. Nothing was changed.
        """
        try:
            step = ASKER[self.state, event]
        except KeyError:
            raise IllegalStepError(f"turn {self.number}: {self.state.value} when {event.value!r}") from None
        self.state = step.to
        return step.do

    def would(self, event: TurnEvent) -> TurnDo:
        """Look up what would be to be done, and take no step."""
        return ASKER[self.state, event].do


class ExactState:
    """The protocol's knowledge of a session on the exact wire.

    Attributes:
        life: What its messages carry as the life of the port that opened it; ``None`` where the peer gave none.
        opened: The peer's knowledge of it; `advance` alone changes it.
        last_turn: The number of this side's last turn.
        holding: The peer's turn that the application has and has not answered; 0: none.
        began: The moment at which the peer's last turn began here.
        due: The moment at which its asker gives up.
        is_final: True where that turn is the session's last.
        memory: What is remembered of the peer's last turn, in a session that the peer opened.
        is_cautious: True where a turn went unanswered before the peer was known to be exact: then no unmarked reply
            counts.
        posted: How many messages this side has posted.
        heard: The number of the last post of the peer's.
        stream: The answers to the turn `holding`, where it is to have many.
    """

    __slots__ = (
        "began",
        "due",
        "heard",
        "holding",
        "is_cautious",
        "is_final",
        "last_turn",
        "life",
        "memory",
        "opened",
        "posted",
        "stream",
    )

    def __init__(self, life: int | None, memory: LastTurn | None = None) -> None:
        self.life: int | None = life
        self.opened = Opened.FRESH if memory is None else Opened.OPEN
        self.last_turn: int = 0
        self.holding: int = 0
        self.began: float = 0.0
        self.due: float = math.inf
        self.is_final: bool = False
        self.memory: LastTurn | None = memory
        self.is_cautious: bool = False
        self.posted: int = 0
        self.heard: int = 0
        self.stream: Departing | None = None

    def advance(self, event: OpenedEvent) -> None:
        """Take the step from the table."""
        self.opened = SESSION[self.opened, event]

    @property
    def must_open(self) -> bool:
        """True where the next turn has to open the session, or to open it anew."""
        return self.opened is Opened.FRESH or self.opened is Opened.STALE

    @property
    def is_over(self) -> bool:
        """True where the peer knows that the session is over, or was told."""
        return self.opened is Opened.TOLD or self.opened is Opened.DONE


class Dialogue:
    """One session, as the protocol knows it.

    Attributes:
        sid: Its number.
        incoming: True where the peer opened it.
        owner: The application's side of it, which the protocol only carries.
        turn: This side's turn that is under way.
        ending: Why it is over; ``None`` while it is open.
        exact: What the exact wire knows of it; ``None`` on the classic one.
        once: True where it is for one turn alone.
        owed: Replies on the classic wire that may still come to turns that are over.
        unsafe_until: The moment before which its number must not be used, since its last owner's replies may come.
        max_life: Seconds that it may be idle.
        idle_since: The moment at which it became idle; `BUSY` while something goes on in it. Its owner may move it on
            at any time; the heap of deadlines need not be told.
        entry: The moment of its entry in that heap; infinity where it has none.
        is_ranked: True where it is among those of the peer's that may have to make room (`Sessions.longest_idle`).
    """

    __slots__ = (
        "ending",
        "entry",
        "exact",
        "idle_since",
        "incoming",
        "is_ranked",
        "max_life",
        "once",
        "owed",
        "owner",
        "sid",
        "turn",
        "unsafe_until",
    )

    def __init__(self, sid: int, max_life: float, *, incoming: bool) -> None:
        self.sid: int = sid
        self.incoming: bool = incoming
        self.owner: Any = None
        self.turn: AskedTurn | None = None
        self.ending: Ending | None = None
        self.exact: ExactState | None = None
        self.once: bool = False
        self.owed: int = 0
        self.unsafe_until: float = 0.0
        self.max_life: float = max_life
        self.idle_since: float = BUSY
        self.entry: float = math.inf
        self.is_ranked: bool = False

    @property
    def key(self) -> int:
        """Its number in the memory of the peer's turns: below 0 where this side opened it."""
        return self.sid if self.incoming else -self.sid

    @property
    def due(self) -> float:
        """The moment at which its turn falls silent, or its idle life is over; infinity where neither is watched."""
        turn = self.turn
        return self.idle_since + self.max_life if turn is None else turn.due
