"""Turns that this side asks: their numbers, their messages, and whose an answer is. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from psession.protocol import events
from psession.protocol import states as codes
from psession.protocol.counters import Drop
from psession.protocol.credit import Arriving, Item
from psession.protocol.dialogue import ExactState
from psession.protocol.endings import FORGOTTEN
from psession.protocol.header import LONGEST_WAIT
from psession.protocol.states import Opened, OpenedEvent, Peer, Turn, TurnDo, TurnEvent

if TYPE_CHECKING:
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.protocol.header import Header
    from psession.protocol.shared import Shared

MAX_GIVEN_UP: Final = 4096
"""Turns given up whose late answers are told from duplicates: only a word in the statistics hangs on it."""

SHORTEST_WAIT: Final = 0.001
"""The least that a turn says it waits, since 0 means that no answer is wanted."""


class Asking:
    """This side's turns. Each has a number that no other turn of this port's life has.

    Args:
        shared: The ground that the parts of the connection stand on.
        first_back: The first number for a question back, in a session whose life is the peer's: a random number from
            `FIRST_BACK` up, so that an answer to an earlier life of this side meets no question of this one.
    """

    __slots__ = ("_given_up", "_next", "_next_back", "_shared")

    def __init__(self, shared: Shared, first_back: int) -> None:
        self._shared = shared
        self._next = 1
        self._next_back = first_back
        self._given_up: OrderedDict[int, None] = OrderedDict()

    # -- what goes ---------------------------------------------------------------------------------------------------

    def exact(self, dialogue: Dialogue) -> ExactState:
        """The exact state of a session, made when it is first asked for."""
        exact = dialogue.exact
        if exact is None:
            exact = dialogue.exact = ExactState(self._shared.life)
        return exact

    def number(self, dialogue: Dialogue, exact: ExactState) -> int:
        """Give the next turn of a session its number."""
        if dialogue.incoming:
            exact.last_turn = self._next_back
            self._next_back += 1
        else:
            exact.last_turn = self._next
            self._next += 1
        return exact.last_turn

    def begin(self, turn: AskedTurn, total: float, arriving: Arriving | None) -> None:
        """Give a turn of the exact wire its number, and `total` seconds from its start.

        Args:
            turn: The turn. On the classic wire nothing happens.
            total: Seconds that all its attempts may take.
            arriving: Its many answers, where it may have many.
        """
        dialogue = turn.dialogue
        exact = dialogue.exact
        if exact is None:
            if dialogue.incoming or not self._shared.dialect.asks_exactly:
                return
            exact = self.exact(dialogue)
        turn.number = self.number(dialogue, exact)
        turn.total = total
        turn.deadline = turn.started + total
        if arriving is not None:
            turn.state = Turn.LISTENING
            turn.arriving = arriving
        if exact.holding and exact.stream is None and self._shared.turns.running(dialogue.key) == exact.holding:
            turn.answers = exact.holding

    def question(self, turn: AskedTurn, payload: Any, within: float) -> Any:
        """The frame of one attempt on the exact wire.

        Args:
            turn: The turn.
            payload: What it asks.
            within: Seconds that it still waits; of more than a year it says nothing.
        """
        shared, dialogue, names = self._shared, turn.dialogue, self._shared.names
        exact = dialogue.exact
        assert exact is not None
        message, header = shared.dialect.open(payload, dialogue.sid, exact=True)
        header[names.turn] = turn.number
        if turn.answers:
            header[names.re] = turn.answers
        elif exact.opened is not Opened.OPEN and exact.must_open and not dialogue.incoming:
            header[names.new] = True
        if dialogue.once:
            header[names.end] = True
        if turn.arriving is not None:
            header[names.credit] = turn.arriving.grant(at_once=True)
            header[names.part] = turn.arriving.next
        if within <= LONGEST_WAIT:
            header[names.wait] = within if within > SHORTEST_WAIT else SHORTEST_WAIT
        if exact.life is not None:
            header[names.life] = exact.life
        if turn.trace is not None and shared.peer is not Peer.CLASSIC:
            header[names.traceparent], state = turn.trace
            if state:
                header[names.tracestate] = state
        return shared.encode(message)

    def grant(self, turn: AskedTurn, credit: int) -> Any:
        """The frame that gives the peer more credit for a turn; ``None`` where nobody is to be told."""
        dialogue = turn.dialogue
        if not self._shared.can_tell or dialogue.ending is not None:
            return None
        return self._shared.frame(dialogue.sid, self.exact(dialogue).life, turn=turn.number, credit=credit)

    def over(self, turn: AskedTurn, code: str) -> bool:
        """A turn has left; without its answer the peer is told, once. Return True if the peer is done with the session.

        A turn that never left the queue is nothing to the peer.
        """
        shared, dialogue = self._shared, turn.dialogue
        exact = self.exact(dialogue)
        peer_done = exact.opened is Opened.DONE and not dialogue.incoming
        if turn.answered:
            return peer_done
        was_over = exact.is_over
        exact.advance(OpenedEvent.UNANSWERED if turn.sent else OpenedEvent.UNSENT)
        if shared.peer is not Peer.EXACT:
            exact.is_cautious = True
        self._given_up[turn.number] = None
        if len(self._given_up) > MAX_GIVEN_UP:
            self._given_up.popitem(last=False)
        if was_over or not turn.sent or not shared.can_tell:
            return peer_done
        end = {"end": True} if dialogue.once else {}
        if dialogue.once:
            exact.advance(OpenedEvent.TELL)
        shared.say(dialogue.sid, exact.life, turn=turn.number, error=code, **end)
        return peer_done

    def end_session(self, dialogue: Dialogue, code: str) -> None:
        """Tell the peer that a session of this side is over, its last turn included, where there is need to."""
        exact, turn = self.exact(dialogue), dialogue.turn
        if not exact.last_turn or not (exact.opened is not Opened.FRESH or (turn is not None and turn.sent)):
            return  # the peer has never heard of it
        if dialogue.once and (turn is None or turn.answered):
            return  # its only message said so
        self._shared.say(dialogue.sid, exact.life, turn=exact.last_turn, error=code, end=True)
        exact.advance(OpenedEvent.TELL)

    # -- when the link is back, or the peer takes no more --------------------------------------------------------------

    def _waiting(self) -> list[AskedTurn]:
        """Exact turns whose message left, and that wait for the answer."""
        turns = [dialogue.turn for dialogue in self._shared.sessions.all()]
        at_work = (Turn.WAITING, Turn.LISTENING)
        return [turn for turn in turns if turn is not None and turn.number and turn.sent and turn.state in at_work]

    def ask_again(self) -> None:
        """Ask the turns again whose question or answer may have been lost. The peer runs nothing twice."""
        for turn in self._waiting():
            self._shared.emit(events.AskAgain(turn))

    def forgotten(self) -> None:
        """End the turns that a peer which has lost its memory may have begun; none is asked again."""
        for turn in self._waiting():
            self._shared.counters.aborted += 1
            self._shared.give_up(turn, FORGOTTEN)

    def refuse_openings(self, last: int) -> None:
        """Refuse the turns above `last` that open a session: the peer took none of them, and will take none."""
        for turn in self._waiting():
            if turn.number > last and self.exact(turn.dialogue).must_open and not turn.dialogue.incoming:
                self._refused(turn, codes.CLOSING, "the peer takes no new sessions")

    # -- what comes --------------------------------------------------------------------------------------------------

    def takes(self, turn: AskedTurn, header: Header) -> bool:
        """Return True if an answer is for a turn, and that still waits for one."""
        is_its_own = turn.number == header.re and turn.sent > 0
        return turn.would(_event_of(header) if is_its_own else TurnEvent.STRAY) is not TurnDo.COUNT

    def replied(self, dialogue: Dialogue, turn: AskedTurn, header: Header, payload: Any, now: float) -> None:
        """Take an exact message that answers the turn which waits in a session."""
        exact, counters = self.exact(dialogue), self._shared.counters
        do = turn.advance(_event_of(header))
        if do is TurnDo.POSTPONE:
            self._postpone(turn, header.wait or 0.0, now)
        elif do is TurnDo.RAISE:
            exact.advance(OpenedEvent.UNANSWERED)  # what failed there is opened anew by the next turn
            self._failed(turn, header.error)
        else:
            exact.advance(OpenedEvent.ANSWERED)
            counters.matched += 1
            turn.answered = True
            self._shared.emit(events.Answered(turn, payload))

    def heard(
        self, dialogue: Dialogue, turn: AskedTurn, header: Header, payload: Any, now: float, *, bare: bool
    ) -> None:
        """Take an exact message that is one of many answers, or their end."""
        arriving, shared = turn.arriving, self._shared
        assert arriving is not None
        self.exact(dialogue).advance(OpenedEvent.ANSWERED)  # but where it fails
        if turn.deadline < now:
            shared.drop(Drop.LATE, dialogue.sid)
            return
        if header.error is None and header.wait is not None and header.turn is None:
            turn.advance(TurnEvent.BUSY)
            self._postpone(turn, header.wait, now)
            return
        is_end = header.end or header.error is not None or header.part is None
        item = Item(None if bare or header.error is not None else payload, is_end, header.error)
        is_awaited = not arriving.ready
        if header.part is None:
            arriving.close(item)
            event = TurnEvent.REPLY if header.error is None else TurnEvent.ERROR
        else:
            event = arriving.arrive(header.part, item)
        if event is TurnEvent.LAST and arriving.last is not None and arriving.last.error is not None:
            event = TurnEvent.ERROR
        self._listened(dialogue, turn, turn.advance(event), item, is_awaited=is_awaited)

    def _listened(self, dialogue: Dialogue, turn: AskedTurn, do: TurnDo, item: Item, *, is_awaited: bool) -> None:
        arriving, shared = turn.arriving, self._shared
        assert arriving is not None
        if do is TurnDo.COUNT:
            shared.drop(Drop.DUPLICATE, dialogue.sid)
            return
        if do is TurnDo.STOP_OVERRUN:
            shared.counters.add("overrun")
            shared.emit(events.Overrun(turn))
            return
        shared.counters.matched += item.is_reply
        if do is TurnDo.RAISE:
            assert arriving.last is not None
            self.exact(dialogue).advance(OpenedEvent.UNANSWERED)
            self._failed(turn, arriving.last.error)
            return
        turn.answered = arriving.last is not None
        if do is not TurnDo.HOLD and (is_awaited or turn.answered):
            shared.emit(events.Heard(turn))

    def unmarked(self, dialogue: Dialogue, payload: Any) -> bool:
        """Take a message without exact fields in an exact session of this side. Return False if it is for the inbox."""
        shared, turn = self._shared, dialogue.turn
        if turn is None or not turn.sent or shared.peer is Peer.EXACT or turn.would(TurnEvent.UNMARKED) is TurnDo.KEEP:
            return False
        shared.peer = Peer.CLASSIC
        if self.exact(dialogue).is_cautious:
            shared.drop(Drop.LATE, dialogue.sid)  # it may answer the turn before: the next one has a fresh number
            return True
        turn.advance(TurnEvent.UNMARKED)
        shared.counters.classic += 1
        shared.counters.matched += 1
        turn.answered = True
        if turn.arriving is None:
            shared.emit(events.Answered(turn, payload))
        else:
            turn.arriving.close(Item(payload, is_last=True))
            shared.emit(events.Heard(turn))
        return True

    def _postpone(self, turn: AskedTurn, wait: float, now: float) -> None:
        """Put the next attempt off; never past the whole time of the turn.

        Where that has no end, by no more than the turn has taken so far: the peer says how long it has been at work.
        """
        if turn.deadline == math.inf:
            wait = min(wait, now - turn.started)
        self._shared.emit(events.Postponed(turn, min(now + wait, turn.deadline)))

    def _failed(self, turn: AskedTurn, error: str | None) -> None:
        self._shared.counters.failed += 1
        turn.answered = True
        code, text = codes.split_error(error or "")
        self._shared.emit(events.Refused(turn, code, text, None, codes.is_refusal(code)))

    def unreadable(self, turn: AskedTurn, why: str) -> None:
        """Fail a turn whose answer came and cannot be read: asked again it would be the same.

        A peer that has more answers for it is told that it is given up.
        """
        turn.advance(TurnEvent.ERROR)
        if turn.arriving is None:
            self.exact(turn.dialogue).advance(OpenedEvent.ANSWERED)
            turn.answered = True
        else:
            turn.arriving.close(Item(None, is_last=True, error=codes.UNREADABLE))
        self._shared.counters.failed += 1
        self._shared.emit(events.Refused(turn, codes.UNREADABLE, why))

    def _refused(self, turn: AskedTurn, code: str, text: str) -> None:
        turn.advance(TurnEvent.ERROR)
        if turn.arriving is not None:
            turn.arriving.close(Item(None, is_last=True, error=code))
            self.exact(turn.dialogue).advance(OpenedEvent.UNANSWERED)
        self._failed(turn, codes.join_error(code, text))

    def stray(self, number: int, sid: int) -> None:
        """Count an answer to no turn that waits."""
        if number in self._given_up:
            del self._given_up[number]
            self._shared.drop(Drop.LATE, sid)
        elif number < self._next or codes.FIRST_BACK <= number < self._next_back:
            self._shared.drop(Drop.DUPLICATE, sid)
        else:
            self._shared.drop(Drop.UNKNOWN_SID, sid)


def _event_of(header: Header) -> TurnEvent:
    """The event that an answer is, to a turn that is to have one."""
    if header.error is not None:
        return TurnEvent.ERROR
    return TurnEvent.BUSY if header.wait is not None and header.turn is None else TurnEvent.REPLY
