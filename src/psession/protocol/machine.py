"""What every connection does, whatever its protocol: the sessions of both sides, their lives and their ends. Pure.

A `Machine` takes messages of the peer's by `receive`, which returns events for the shell to carry out; commands return
what is to be sent, or events. `connection` is the machine of PSession's two wires, `turns` that of protocols that know
no sessions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Protocol

from psession import errors
from psession.protocol import events
from psession.protocol.counters import Drop
from psession.protocol.deadlines import Deadlines
from psession.protocol.dialogue import Dialogue
from psession.protocol.endings import MADE_ROOM, RECYCLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.counters import Counters
    from psession.protocol.credit import Arriving
    from psession.protocol.dialogue import AskedTurn, ExactState
    from psession.protocol.endings import Ending
    from psession.protocol.sessions import Sessions
    from psession.protocol.shared import Ground
    from psession.protocol.states import Peer

SPARE: Final = 64
"""Sessions for one turn that are kept for the next ones: 1 kB each. To make a session anew, and an entry for it in the
heap of deadlines, was a fifth of what a request cost its asker."""

MOST_DISMISSED: Final = 32
"""Idle sessions that are ended at a time, 100 kB, where the budget is used up."""

HANDLER_BYTES: Final = 3200
"""What a session of the peer's takes with its handler's task (benchmarks/scale.py)."""


class Part(Protocol):
    """The command that makes the frame of one of many answers."""

    def __call__(self, dialogue: Dialogue, payload: Any, now: float, *, is_last: bool) -> Any:
        """Make it, numbered and kept: there is room for it, and it is sent at once."""
        ...


class Machine(ABC):
    """Both sides' sessions and turns on one port.

    Args:
        ground: What its parts stand on.

    Attributes:
        sessions: The open sessions.
        counters: Everything that is counted.
        deadlines: When something is due.
        handlers: How many handlers of the peer's sessions are at work; some may outlive their session.
        heard: The moment of the last message; minus infinity before the first.
        is_draining: True where this side opens no sessions any more.
        peer_closing: True where the peer takes none.
        begin: Command: a turn begins that has so many seconds from its start, and where it may have many, its answers.
        grant: Command: returns the frame that gives the peer more credit for a turn; ``None``: nobody is to be told.
        hold: Command: the application has the message that asks that turn; what it says next in the session answers it.
        part: Command: returns the frame of the next of many answers, sent at that moment; ``is_last`` with the end.
    """

    __slots__ = (
        "_dismissed",
        "_encode",
        "_ground",
        "_own",
        "_peers",
        "_settings",
        "_spare",
        "counters",
        "deadlines",
        "handlers",
        "heard",
        "is_draining",
        "peer_closing",
        "sessions",
    )

    # Attributes, and not methods: a machine may hand them on to a part of its own, and they are on the path of a turn.
    begin: Callable[[AskedTurn, float, Arriving | None], None]
    grant: Callable[[AskedTurn, int], Any]
    hold: Callable[[Dialogue, int], None]
    part: Part

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._settings = ground.settings
        self._encode = ground.encode
        self.sessions: Sessions = ground.sessions
        self.counters: Counters = ground.counters
        self.deadlines: Deadlines = Deadlines()
        self.handlers: int = 0
        self.heard: float = -math.inf
        self.is_draining: bool = False
        self.peer_closing: bool = False
        self._own, self._peers = ground.sessions.own, ground.sessions.peers
        self._spare: list[Dialogue] = []
        self._dismissed = 0

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def peer(self) -> Peer:
        """The wire that the peer is known to speak."""

    @property
    @abstractmethod
    def asks_exactly(self) -> bool:
        """True where this side numbers the turns that it asks."""

    @property
    @abstractmethod
    def streams(self) -> bool:
        """True where a turn may have many answers."""

    @property
    def answers_none(self) -> bool:
        """True where ``None`` is an answer, and not the lack of one."""
        return False

    @property
    def held_bytes(self) -> int:
        """What the peer makes this side hold: sessions whose handlers are at work."""
        return self._handler_bytes

    @property
    def _handler_bytes(self) -> int:
        """What handlers at work take, but those that will see at once that their session was ended for others."""
        return HANDLER_BYTES * (self.handlers - self._dismissed)

    @abstractmethod
    def is_exact(self, dialogue: Dialogue) -> bool:
        """Return True if what this side says in a session has exact fields."""

    @abstractmethod
    def is_empty(self, payload: Any) -> bool:
        """Return True if a payload has no members, so that a message with it could be taken for a bare one."""

    def take(self) -> list[events.Event]:
        """The events that commands have left since the last call."""
        left = self._ground.events
        if left:
            self._ground.events = []
        return left

    # -- messages that come ------------------------------------------------------------------------------------------

    @abstractmethod
    def receive(self, message: Any, now: float) -> list[events.Event]:
        """Take a message of the peer's. Never raises."""

    @abstractmethod
    def deliver(self, dialogue: Dialogue, message: Any, now: float) -> list[events.Event]:
        """Take a message that the caller says is this session's."""

    @abstractmethod
    def malformed(self, why: str) -> list[events.Event]:
        """Take note of what came in place of a message: it cannot be read."""

    # -- commands: sessions ------------------------------------------------------------------------------------------

    def open(
        self,
        max_life: float | None,
        now: float,
        *,
        recycles: bool,
        choose: Callable[[], object] | None = None,
        once: bool = False,
    ) -> Dialogue:
        """A new session of this side.

        Args:
            max_life: Seconds that it may be idle; ``None``: what the settings say.
            now: The moment.
            recycles: True where a session is ended when no number is free: the one opened first, or the one that
                `choose` names.
            choose: See `recycles`.
            once: True where it is for one turn alone.

        Raises:
            PortClosedError: This side or the peer takes no new ones.
            SessionOverflowError: There is no number for it.
        """
        if self.is_draining or self.peer_closing:
            why = "the port is being drained" if self.is_draining else "the peer takes none"
            raise errors.PortClosedError(f"no new session: {why}", outcome="not_sent")
        life = self._settings.session_max_life if max_life is None else max_life
        sid, unsafe_until = self.sessions.take(now), 0.0
        if sid is None:
            self._make_room(choose, now, recycles=recycles)
            sid = self.sessions.take(now)
        if sid is None:
            borrowed = self.sessions.pool.borrow()
            assert borrowed is not None, "a number that is neither free nor resting is in use, and one was just ended"
            sid, unsafe_until = borrowed
        self.counters.opened += 1
        return self.sessions.add(sid, life, unsafe_until, once=once)

    def open_once(self, now: float) -> Dialogue | None:
        """A session for one turn; ``None`` where there is no number for it at once: see `open`.

        One that `end_answered` has let go of is used again, and has its owner still.
        """
        sessions = self.sessions
        if self.is_draining or self.peer_closing:
            return None
        sid = sessions.take(now)
        if sid is None:
            return None
        self.counters.opened += 1
        if self._spare:
            dialogue = self._spare.pop()
            dialogue.sid, dialogue.exact = sid, None
        else:
            dialogue = Dialogue(sid, self._settings.session_max_life, incoming=False)
            dialogue.once = True
        self._own[sid] = dialogue
        return dialogue

    def _make_room(self, choose: Callable[[], object] | None, now: float, *, recycles: bool) -> None:
        """End a session as the policy says. With no session open, all numbers rest: there is nothing to end."""
        own = self.sessions.own
        if not recycles:
            self._raise_overflow("end sessions, or widen session_ids and max_session_count")
        if not own:
            return
        victim = self.sessions.oldest()
        if choose is not None:
            sid = choose()
            victim = own.get(sid) if type(sid) is int else None
            if victim is None:
                self._raise_overflow(
                    f"on_session_overflow returned {sid!r}, which is not the number of an open session of this side"
                )
        if victim is not None:
            self.counters.recycled += 1
            self._end(victim, RECYCLED, now)

    def _raise_overflow(self, advice: str) -> None:
        used, resting = len(self.sessions.own), self.sessions.pool.resting
        raise errors.SessionOverflowError(f"no session number is free, {used} are in use and {resting} rest: {advice}")

    def _has_place(self, sid: Any) -> bool:
        """Return True if one more handler may be at work, for what the peer opens under that number; count it then."""
        limit, ground = self._settings.max_incoming_sessions, self._ground
        if self.handlers >= limit:
            # At twice as many, sessions were ended for others and their handlers take their time to notice.
            idle = None if self.handlers >= 2 * limit else self.sessions.longest_idle()
            if idle is None:
                ground.drop(Drop.REFUSED, sid)
                return False
            self._dismiss(idle)
        self.counters.accepted += 1
        self.handlers += 1
        return True

    def _dismiss(self, idle: Dialogue) -> None:
        """End a session of the peer's for another: it is idle, and its handler waits for the next message."""
        self.counters.recycled += 1
        self._dismissed += 1
        self._end(idle, MADE_ROOM, idle.idle_since)

    def dismiss(self) -> int:
        """Let some go of what nobody may miss: end sessions of the peer's that are idle, the longest first.

        Return 0 where there is nothing.
        """
        for number in range(MOST_DISMISSED):
            idle = self.sessions.longest_idle()
            if idle is None:
                return number
            self._dismiss(idle)
        return MOST_DISMISSED

    def handler_done(self, dialogue: Dialogue | None = None) -> None:
        """A handler of the peer's session, or of a question that stood alone, is at work no more."""
        self.handlers -= 1
        if dialogue is not None and dialogue.ending is MADE_ROOM:
            self._dismissed -= 1

    def rests(self, dialogue: Dialogue, now: float) -> bool:
        """A session is idle from now on. Return True if its life is the next thing that is due."""
        dialogue.idle_since = now
        if dialogue.incoming:
            self.sessions.rests(dialogue)
        return self.deadlines.watch(dialogue, now + dialogue.max_life)

    def end(self, dialogue: Dialogue, ending: Ending, now: float) -> list[events.Event]:
        """End a session; the first ending counts."""
        self._end(dialogue, ending, now)
        return self.take()

    def end_answered(self, dialogue: Dialogue) -> bool:
        """Let go of a session of this side's that was for one turn, if that was answered and there is nobody to tell.

        Return True if so: its number is free, no event follows, and it may be the next one (see `open_once`), which has
        its entry in the heap of deadlines already. The fast way for nearly every request; what `end` comes to for it.
        """
        if dialogue.ending is not None or dialogue.turn is not None or dialogue.owed or dialogue.unsafe_until:
            return False
        if dialogue.exact is not None and not self._is_silent(dialogue, dialogue.exact):
            return False
        del self._own[dialogue.sid]
        if len(self._spare) < SPARE:
            self._spare.append(dialogue)
        else:
            self._let_go(dialogue)
        self.sessions.pool.give_back(dialogue.sid)
        return True

    def _let_go(self, dialogue: Dialogue) -> None:
        """Let go of a session that is over, and was to be used again."""
        self.deadlines.forget(dialogue)
        dialogue.owner = None  # no circle is left

    def _is_silent(self, dialogue: Dialogue, exact: ExactState) -> bool:
        """Return True if nobody need be told that a session is over whose turn was answered."""
        return True

    def _end(self, dialogue: Dialogue, ending: Ending, now: float, cancels: bool = False) -> None:
        if dialogue.ending is not None:
            return
        dialogue.ending = ending
        ground, turn = self._ground, dialogue.turn
        if turn is not None and ground.give_up(turn, ending):
            self.counters.add(ending.counter)
        self._ended(dialogue, ending)
        ground.emit(events.Ended(dialogue, ending, cancels))
        self.deadlines.forget(dialogue)
        if self.sessions.forget(dialogue, self._owed(dialogue), now):
            ground.emit(events.NumberFree())

    @abstractmethod
    def _ended(self, dialogue: Dialogue, ending: Ending) -> None:
        """Tell the peer that a session has ended, where the protocol has a word for it."""

    @abstractmethod
    def _owed(self, dialogue: Dialogue) -> int:
        """Replies that may still come to the number of a session, and be taken for another's."""

    # -- commands: this side's turns ---------------------------------------------------------------------------------

    @abstractmethod
    def ask(self, turn: AskedTurn, payload: Any, within: float) -> Any:
        """The frame of one attempt, of a turn that still waits for so many seconds; ``None``: there is no more to send.

        Raises:
            MessageError: It cannot travel.
        """

    @abstractmethod
    def is_unsafe(self, dialogue: Dialogue) -> bool:
        """Return True if a reply of the past may be taken for the answer to the next turn under this number."""

    def renew(self, dialogue: Dialogue, now: float) -> float | None:
        """Give a session a number that no late reply can reach: ``None``, or the moment to ask again."""
        return self.sessions.renew(dialogue, now)

    def give_up(self, turn: AskedTurn, ending: Ending) -> list[events.Event]:
        """A turn that waits is over without an answer."""
        if self._ground.give_up(turn, ending):
            self.counters.add(ending.counter)
        return self.take()

    def not_sent(self, turn: AskedTurn) -> None:  # noqa: B027 - where a number is the session's, it stays as it is
        """The sender refused the last attempt of a turn."""

    @abstractmethod
    def turn_over(self, turn: AskedTurn, code: str, now: float) -> list[events.Event]:
        """A turn leaves its session. Without its answer a peer that understands it is told `code`."""

    # -- commands: what this side says -------------------------------------------------------------------------------

    @abstractmethod
    def post(self, dialogue: Dialogue, payload: Any) -> tuple[Any, int, bool]:
        """Make the frame of a message that wants no reply.

        Returns:
            The frame, the turn of the peer's that it answers (0: none), and True where it opens the session.

        Raises:
            MessageError: It cannot travel.
        """

    @abstractmethod
    def not_posted(self, dialogue: Dialogue, answers: int, *, opened: bool) -> None:
        """A post was not sent after all, which would have answered that turn of the peer's, or opened its session."""

    @abstractmethod
    def answer_sent(self, dialogue: Dialogue, now: float) -> list[events.Event]:
        """The answer is on its way: a session whose opener wants no more is over."""

    @abstractmethod
    def answer(self, asked: events.Asked, payload: Any) -> Any:
        """The frame that answers a question which stands alone; ``None`` where nobody waits for it any more.

        Raises:
            MessageError: It cannot travel.
        """

    @abstractmethod
    def keep(self, asked: events.Asked) -> Dialogue:
        """A session for a question which stands alone: its answer takes time, or room.

        One that nobody waits for any more is over already.
        """

    @abstractmethod
    def leave(self, dialogue: Dialogue, code: str, text: str = "", data: Any = None) -> list[events.Event]:
        """No answer will come to the turn that runs in a session: its asker is told; `data` where there is a place."""

    @abstractmethod
    def stop(self, dialogue: Dialogue) -> None:
        """The time of the asker is over, by this side's clock: it waits no more, or will be told when it asks again."""

    @abstractmethod
    def plain(self, payload: Any) -> Any:
        """The frame of a message that is no session's.

        Raises:
            MessageError: It cannot travel, or would be taken for a session's.
        """

    # -- commands: the port ------------------------------------------------------------------------------------------

    @abstractmethod
    def drain(self) -> list[events.Event]:
        """Take no new sessions; a peer that understands it is told."""

    @abstractmethod
    def close(self, ending: Ending, now: float) -> list[events.Event]:
        """The port is over: every session ends."""

    def _close_all(self, ending: Ending, now: float) -> None:
        """End every session, and let go of those that were to be used again."""
        ground = self._ground
        ground.is_closing = True
        if ending.error is errors.PortClosedError:
            ground.is_connected = False
        for dialogue in self.sessions.all():
            self._end(dialogue, ending, now)
        for dialogue in self._spare:
            self._let_go(dialogue)
        self._spare.clear()

    @abstractmethod
    def forget(self) -> None:
        """Let go of what nobody will ask for, since this may be held for some time. No circle remains."""

    @abstractmethod
    def reopened(self, *, known: bool) -> list[events.Event]:
        """The link is back. What was on its way is asked again, where the peer still knows this side."""

    @abstractmethod
    def ask_for_life(self, patience: float) -> list[events.Event]:
        """Ask the peer for a sign of life within so many seconds."""
