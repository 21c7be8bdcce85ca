"""Turns that this side asks on the exact wire: their numbers, their messages, and which answer is whose."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import _rules as rules
from psession import errors
from psession._ending import FORGOTTEN, PEER_ENDED
from psession._exchange import answering

if TYPE_CHECKING:
    from psession._exact import Exact
    from psession._exchange import Exchange
    from psession._session import Session
    from psession._turn import Turn
    from psession.envelope import Header

MAX_GIVEN_UP: Final = 4096
"""Turns given up whose late answers are told from duplicates: only a word in the statistics hangs on it."""

SHORTEST_WAIT: Final = 0.001
"""The least that a turn says it waits, since 0 means that no answer is wanted."""


class Asker:
    """Numbers turns, one after the other in the whole port, so that no two share a number in its life."""

    def __init__(self, exact: Exact) -> None:
        self.exact = exact
        self._next = 1
        self._next_back = rules.FIRST_BACK + secrets.randbelow(rules.FIRST_BACK)
        self._deadlines = exact.port._options.deadlines
        self._turn, self._wait, self._life = exact.names.turn, exact.names.wait, exact.names.life
        self._given_up: OrderedDict[int, None] = OrderedDict()

    # -- what goes ---------------------------------------------------------------------------------------------------

    def begin(self, turn: Turn, total: float) -> None:
        """`turn` gets its number, and `total` seconds from its start."""
        session = turn.session
        exchange = session._exchange or self.exact.exchange(session)
        turn.number = self.number(session, exchange)
        turn.total = total
        turn.deadline = turn.started + total
        asked = exchange.asked
        if asked and exchange.stream is None and self.exact.taken.running.get(session.sid) == asked:
            turn.answers = asked

    def number(self, session: Session, exchange: Exchange) -> int:
        """The next turn's number, for a session.

        In a session of the peer's, whose messages carry the peer's life, numbers begin at random, high above the
        others: if this side is started anew, an answer to its last life meets no question of this one.
        """
        if session.incoming:
            exchange.last_turn = self._next_back
            self._next_back += 1
        else:
            exchange.last_turn = self._next
            self._next += 1
        return exchange.last_turn

    def request(self, turn: Turn, message: Any) -> Any:
        """The frame of one attempt: it says how long the turn still waits."""
        exact, session = self.exact, turn.session
        exchange = session._exchange or exact.exchange(session)
        fields: dict[str, Any] = {self._turn: turn.number}
        if turn.answers:
            fields[exact.names.re] = turn.answers
        elif not exchange.opened and not session.incoming:
            fields[exact.names.new] = True
        if session._once:
            fields[exact.names.end] = True
        if turn.streamed:
            fields |= turn.room(exact.names)
        if self._deadlines:
            handler = answering.get()
            if handler is not None and not handler.visible:
                handler.show_deadline()
            due, within = math.inf if turn.streamed else trio.current_effective_deadline(), turn.total
            if due < turn.deadline or turn.attempts:
                due = due if due < turn.deadline else turn.deadline
                within = round(due - (trio.current_time() if turn.attempts else turn.started), 3)
            if within != math.inf:
                fields[self._wait] = within if within > SHORTEST_WAIT else SHORTEST_WAIT
        if exchange.life is not None:
            fields[self._life] = exchange.life
        frame = exact.port._to_frame(exact.port._envelope.seal(message, session.sid, fields))
        if turn.answers:
            exact.answerer.answered(session, turn.answers, frame)
        return frame

    def over(self, turn: Turn, kind: type[BaseException] | None) -> None:
        """`turn` has ended, by an exception of that `kind`; without its answer the peer is told, once.

        A turn that never left the queue is nothing to the peer.
        """
        session = turn.session
        exchange = self.exact.exchange(session)
        exchange.known = exchange.known or turn.sent > 0
        if exchange.peer_done and not session.incoming:
            session._end(PEER_ENDED)
        if turn.answered:
            return
        exchange.opened = False
        if self.exact.peer is not rules.EXACT:
            exchange.cautious = True
        self._given_up[turn.number] = None
        if len(self._given_up) > MAX_GIVEN_UP:
            self._given_up.popitem(last=False)
        if exchange.told or exchange.peer_done or not turn.sent or not self.exact.can_tell():
            return
        end = {"end": True} if session._once else {}
        exchange.told = session._once
        self.exact.say(session.sid, exchange.life, turn=turn.number, error=_code_of(kind), **end)

    def end_session(self, session: Session, code: str) -> bool:
        """Tell the peer that a session of this side is over, its last turn included; whether there was need to."""
        exchange, turn = self.exact.exchange(session), session._turn
        if not exchange.last_turn or not (exchange.known or (turn is not None and turn.sent)):
            return False  # the peer has never heard of it
        if session._once and (turn is None or turn.answered):
            return False  # its only message said so
        self.exact.say(session.sid, exchange.life, turn=exchange.last_turn, error=code, end=True)
        return True

    def _waiting(self) -> list[Turn]:
        """Turns whose message left, and that wait for the answer."""
        turns = [session._turn for session in self.exact.port.sessions.values()]
        return [turn for turn in turns if turn is not None and turn.number and turn.sent and not turn.filled]

    def ask_again(self) -> None:
        """The line is back: what was asked, or its answer, may have been lost with it. The peer runs nothing twice."""
        for turn in self._waiting():
            turn.ask_again()

    def forgotten(self) -> None:
        """The peer has lost its memory: what it may have begun is not asked again."""
        for turn in self._waiting():
            turn.session.port._counters.aborted += 1
            turn.end(FORGOTTEN)

    def refuse_openings(self, last: int) -> None:
        """The peer takes no new sessions: of those above the turn `last` it took none, and will take none."""
        for turn in self._waiting():
            if turn.number > last and not (turn.session.incoming or self.exact.exchange(turn.session).opened):
                turn.refused(rules.CLOSING, "the peer takes no new sessions")

    # -- what comes --------------------------------------------------------------------------------------------------

    def replied(self, session: Session | None, sid: int, header: Header, message: Any) -> None:
        """A message that answers a turn; it may ask one as well."""
        turn = session._turn if session is not None else None
        if session is None or turn is None or turn.number != header.re or turn.filled or not turn.sent:
            self._stray(header.re or 0)
            if header.turn is not None:
                self.exact.answerer.asked_beside_a_stray_answer(sid, header)
            return
        exchange = self.exact.exchange(session)
        if turn.streamed:
            exchange.opened = True  # but where it fails
            if header.turn is not None:
                self._asked_back(session, exchange, header, message)
            turn.heard(header, message)
            return
        if header.error is not None:
            event = rules.ERROR
        elif header.wait is not None and header.turn is None:
            event = rules.BUSY
        else:
            event = rules.REPLY
        do = rules.ASKER[rules.WAITING, event].do
        if do is rules.POSTPONE:
            turn.postpone(header.wait or 0.0)
            return
        exchange.opened = do is not rules.RAISE  # what failed there is opened anew by the next turn
        if do is rules.RAISE:
            turn.refused(*rules.split_error(header.error or ""))
            return
        if header.turn is not None:
            self._asked_back(session, exchange, header, message)
        self.exact.port._counters.matched += 1
        turn.answer(message)

    def _asked_back(self, session: Session, exchange: Exchange, header: Header, message: Any) -> None:
        """An answer that asks a turn: what the application says next answers that, unless it was asked before."""
        exact, sid, turn = self.exact, session.sid, header.turn
        assert turn is not None
        if exact.taken.asked(sid, turn, streamed=header.credit is not None).do is rules.RUN:
            exact.answerer.begin(session, exchange, turn, header.wait, message)
            exchange.asked = turn
            if header.credit is not None:
                exact.streamed.begin(sid, turn, header.credit)
            exchange.stream = exact.taken.streams.get(sid)

    def unmarked(self, session: Session, message: Any) -> None:
        """A message without exact fields in a session of this side."""
        turn, exact, counters = session._turn, self.exact, self.exact.port._counters
        if turn is None or not turn.sent or turn.filled or exact.peer is rules.EXACT:
            session._to_inbox(message)
            return
        exact.peer = rules.CLASSIC
        if exact.exchange(session).cautious:
            counters.late += 1  # it may answer the turn before: from the next turn on the number is a fresh one
            return
        counters.classic += 1
        counters.matched += 1
        turn.answer(message)

    def _stray(self, number: int) -> None:
        """An answer to no turn that waits."""
        counters = self.exact.port._counters
        if number in self._given_up:
            del self._given_up[number]
            counters.late += 1
        elif number < self._next or rules.FIRST_BACK <= number < self._next_back:
            counters.duplicate += 1
        else:
            counters.unknown_sid += 1


def _code_of(kind: type[BaseException] | None) -> str:
    """Why a turn was given up, in the words of the wire."""
    if kind is not None and issubclass(kind, errors.SessionTimeoutError):
        return rules.TIMEOUT
    if kind is not None and issubclass(kind, trio.Cancelled | errors.SessionCancelError):
        return rules.CANCELLED
    if kind is not None and issubclass(kind, errors.SessionOverrunError):
        return rules.OVERRUN
    return rules.ENDED if kind is None else rules.ABORTED
