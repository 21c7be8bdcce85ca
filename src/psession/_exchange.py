"""What a session on the exact wire knows beyond a classic one."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trio

    from psession._parts import Departing
    from psession._taken import LastTurn


class Exchange:
    """The state of one session on the exact wire.

    Attributes:
        life: What its messages carry as the life of the port that opened it; ``None`` where the peer gave none.
        opened: Whether the peer has the session as it is: what opens it, or opens it anew, says so.
        known: Whether a message of this side reached the wire.
        last_turn: The number of this side's last turn.
        asked: The peer's turn that the application holds and has not answered; 0: none.
        asking: The message that asks it, until the application has it out of the inbox.
        began: When the peer's last turn began here, on Trio's clock.
        due: When its asker gives up.
        visible: Whether the handler's scope has that as its deadline.
        watched: Whether the timekeeper will see to it that it has.
        final: Whether that turn is the session's last.
        scope: What the handler runs in.
        taken: What is known of the peer's last turn, in a session that the peer opened.
        peer_done: Whether the peer knows that the session is over, and needs no telling.
        told: Whether it was told.
        cautious: Whether a turn went unanswered before the peer was known to be exact: then no unmarked reply counts.
        posted: How many messages this side has posted.
        heard: The number of the last post of the peer's.
        stream: The answers to the turn `asked`, where it is to have many.
        for_credit: Where those wait that have one more of them.
    """

    __slots__ = (
        "asked",
        "asking",
        "began",
        "cautious",
        "due",
        "final",
        "for_credit",
        "heard",
        "known",
        "last_turn",
        "life",
        "opened",
        "peer_done",
        "posted",
        "scope",
        "stream",
        "taken",
        "told",
        "visible",
        "watched",
    )

    def __init__(self, life: int | None) -> None:
        self.life = life
        self.opened = False
        self.known = False
        self.last_turn = 0
        self.asked = 0
        self.asking: Any = None
        self.began = 0.0
        self.due = math.inf
        self.visible = False
        self.watched = False
        self.final = False
        self.scope: trio.CancelScope | None = None
        self.taken: LastTurn | None = None
        self.peer_done = False
        self.told = False
        self.cautious = False
        self.posted = 0
        self.heard = 0
        self.stream: Departing | None = None
        self.for_credit: trio.lowlevel.ParkingLot | None = None

    def show_deadline(self) -> None:
        """Let the handler's scope have its deadline, for `trio.current_effective_deadline`."""
        if not self.visible and self.due != math.inf and self.scope is not None:
            self.visible = True
            self.scope.deadline = self.due

    def lift_deadline(self) -> None:
        """The turn is answered: the handler has all the time it wants."""
        self.due = math.inf
        if self.visible and self.scope is not None:
            self.visible = False
            self.scope.deadline = math.inf


answering: ContextVar[Exchange | None] = ContextVar("psession_answering", default=None)
"""The session whose handler this is, or one of whose tasks this is."""
