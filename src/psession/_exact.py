"""The exact wire of one port: whose message it is, of which life, and who deals with it."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from psession import _rules as rules
from psession._answerer import Answerer
from psession._asker import Asker
from psession._ending import PEER_ENDED, PEER_RESTARTED
from psession._exchange import Exchange
from psession._streamed import Streamed
from psession._taken import TakenTurns
from psession._talk import PortTalk
from psession.envelope import LARGEST, is_wait
from psession.errors import MalformedMessageError, PortClosedError

if TYPE_CHECKING:
    from psession._ending import Ending
    from psession._outbox import Ticket
    from psession._port import Port
    from psession._session import Session
    from psession.envelope import ExactFields, Header

log = logging.getLogger("psession")

LIVES: Final = 2**48
"""A life is one of so many, by chance: that two are the same is less likely than a bit that flips unnoticed in TCP."""

PAST_LIVES: Final = 16
"""Lives of the peer's that are remembered as over. One message of each older one could be taken for a new life."""


class Exact:
    """What a port knows of its peer on the exact wire. A port that asks classically has one from the first turn of an
    exact peer on.

    Attributes:
        life: The epoch of this port.
        peer: ``"unknown"``, ``"exact"`` once the peer sent an exact field, ``"classic"`` while all it did was to answer
            without.
        peer_life: The epoch of the peer's port, where it opened a session.
        taken: The turns that the peer asked.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        self._counters = port._counters
        self.names: ExactFields = port._envelope.fields
        self.life = secrets.randbelow(LIVES) + 1
        self.peer: str = rules.UNKNOWN
        self.peer_life: int | None = None
        self.taken = TakenTurns(port._options.max_answer_bytes)
        self.asker = Asker(self)
        self.answerer = Answerer(self)
        self.streamed = Streamed(self)
        self.talk = PortTalk(self)
        names = self.names
        self._turn, self._re, self._wait, self._life = names.turn, names.re, names.wait, names.life
        rare = (names.new, names.end, names.error, names.part, names.credit)
        self._none_with_turn = frozenset((*rare, names.re))
        self._none_with_answer = frozenset((*rare, names.wait))
        self._past: deque[int] = deque(maxlen=PAST_LIVES)

    def exchange(self, session: Session) -> Exchange:
        """The exact state of a session that this side opened, made when it is first asked for."""
        exchange = session._exchange
        if exchange is None:
            exchange = session._exchange = Exchange(self.life)
        return exchange

    def asks(self, session: Session) -> bool:
        """Whether what this side says in `session` has exact fields."""
        return session._exchange is not None or (self.port._envelope.is_exact and not session.incoming)

    # -- what comes --------------------------------------------------------------------------------------------------

    def take(self, sid: int, message: Any) -> None:
        """A message with exact fields. Never waits, never raises."""
        port = self.port
        header = port._envelope.header(message)
        if header is None:
            port._malformed(MalformedMessageError(f"session {sid}: an exact field is not what it must be"))
            return
        own = sid in port._table.pool
        if not self._is_alive(header.life, own=own):
            port._counters.other_life += 1
            return
        self.peer = rules.EXACT
        session = port.sessions.get(sid)
        if header.end and header.turn is None and header.error == (None if header.re is None else rules.ENDED):
            self._ended(session, sid, header, own=own)
        elif header.re is not None:
            self.asker.replied(session, sid, header, message)
        elif header.turn is not None and header.error is None:
            self.answerer.asked(session, sid, header, message, own=own)
        elif header.turn is not None:
            self.answerer.given_up(session, sid, header, own=own)
        else:
            self._posted(session, sid, header, message)

    def take_plainly(self, session: Session | None, message: Any) -> bool:
        """Whether `message` was one of the two that most of a dialogue consists of, and is dealt with.

        An answer that is waited for, or the next turn of a session. What it leaves goes the long way, through `take`.
        """
        if session is None or type(message) is not dict:
            return False
        exchange, get = session._exchange, message.get
        if exchange is None or get(self._life) != exchange.life:
            return False
        turn = get(self._turn)
        if turn is None:
            waiting, re = session._turn, get(self._re)
            if waiting is None or waiting.number != re or waiting.filled or not waiting.sent or type(re) is not int:
                return False
            if not self._none_with_answer.isdisjoint(message):
                return False
            exchange.opened = True
            self.peer = rules.EXACT
            self._counters.matched += 1
            waiting.answer(message)
            return True
        if not self._none_with_turn.isdisjoint(message):
            return False
        wait = get(self._wait)
        held = exchange.taken
        if held is None or type(turn) is not int or turn > LARGEST:
            return False
        if wait is not None and (wait == 0 or not is_wait(wait)):
            return False
        if not self.taken.take_next(session.sid, held, turn):
            return False
        exchange.final = False
        self.peer = rules.EXACT
        self.answerer.begun(exchange, message, wait)
        session._to_inbox(message)
        return True

    def _is_alive(self, life: int | None, *, own: bool) -> bool:
        """Whether a message belongs to this life of the port that opened its session; a peer may begin a new one."""
        if life is None:
            return True  # a small device that does not tell
        if own:
            return life == self.life
        if life == self.peer_life:
            return True
        if life in self._past:
            return False
        if self.peer_life is not None:
            self._past.append(self.peer_life)
            self._forget_peer()
        self.peer_life = life
        return True

    def _forget_peer(self) -> None:
        """The peer began a new life: what it asked in the last one is over."""
        for session in [session for session in self.port.sessions.values() if session.incoming]:
            session._end(PEER_RESTARTED)
        self.taken.stop_streams()
        self.taken = TakenTurns(self.port._options.max_answer_bytes)

    def line_reopened(self, known: bool) -> None:
        """The line is back. What was on its way is asked again, where the peer still knows this side."""
        if known:
            self.asker.ask_again()
            return
        self.port._counters.forgotten += 1
        self.talk.peer_closing = False
        self._forget_peer()
        self.asker.forgotten()

    def _ended(self, session: Session | None, sid: int, header: Header, *, own: bool) -> None:
        """The peer says that it is done with a session, after the turn of this side's that it names."""
        if session is None:
            if own:
                self.port._table.both_done(sid)
            return
        if not own:
            self.answerer.give_up(session, PEER_ENDED)
            return
        exchange = self.exchange(session)
        if header.re is not None and header.re != exchange.last_turn:
            self.port._counters.duplicate += 1  # it is about an earlier session of that number, or met the next turn
            return
        exchange.peer_done = True
        if session._turn is None:  # else the answer may still come: the turn's end is the session's
            session._end(PEER_ENDED)

    def _posted(self, session: Session | None, sid: int, header: Header, message: Any) -> None:
        """A message that neither asks nor answers a turn."""
        counters = self.port._counters
        if session is None:
            counters.unknown_sid += 1
            return
        exchange = session._exchange
        if exchange is not None and header.part is not None:
            if header.part <= exchange.heard:
                counters.duplicate += 1
                return
            exchange.heard = header.part
        session._to_inbox(message)

    # -- what goes ---------------------------------------------------------------------------------------------------

    def post(self, session: Session, message: Any) -> tuple[Any, int]:
        """The frame of a message that wants no reply, and the turn of the peer's that it answers, if any."""
        exchange, port, names = session._exchange or self.exchange(session), self.port, self.names
        asked = exchange.asked
        if asked and self.taken.running.get(session.sid) != asked:
            asked = 0
        fields: dict[str, Any]
        if asked:
            fields = {self._re: asked}
        elif not (exchange.opened or session.incoming):
            # What opens a session is a turn, so that a copy of it cannot open it again, but one that waits 0 seconds.
            fields = {names.turn: self.asker.number(session, exchange), names.new: True, names.wait: 0}
        else:
            exchange.posted += 1
            fields = {names.part: exchange.posted}
        if exchange.life is not None:
            fields[self._life] = exchange.life
        frame = port._to_frame(port._envelope.seal(message, session.sid, fields))
        if asked:
            self.answerer.answered(session, asked, frame)
        else:
            exchange.opened = exchange.known = True
        return frame, asked

    def not_posted(self, session: Session, answers: int, *, opens: bool) -> None:
        """A post was not sent after all."""
        if opens:
            self.exchange(session).opened = False
        self.answerer.not_answered(session, answers)

    def say(self, sid: int, life: int | None, *, beyond: float = 0, **fields: Any) -> Any:
        """Send what `frame` makes, as `put` does."""
        frame = self.frame(sid, life, **fields)
        self.put(frame, beyond)
        return frame

    def frame(self, sid: int, life: int | None, **fields: Any) -> Any:
        """A message of ours that carries nothing of the application's; ``None`` where it has no form."""
        names = self.names
        named = {getattr(names, field): value for field, value in fields.items()}
        if life is not None:
            named[names.life] = life
        try:
            return self.port._to_frame(self.port._envelope.seal({}, sid, named))
        except Exception:  # a typed codec of the user's may know no message without the application's fields
            log.debug("port %r: %r has no form on this channel", self.port.name, named, exc_info=True)
            return None

    def put(self, frame: Any, beyond: float = 0) -> Ticket | None:
        """Send a frame that nobody waits on, unless the channel is gone or has too much to write already.

        What is dropped the peer's next attempt repairs; what would leave it waiting goes `beyond` the limit.
        """
        outbox = self.port._outbox
        if frame is None or outbox.closed or outbox.queued_bytes >= self.port._options.max_queued_bytes + beyond:
            return None
        try:
            return outbox.put(frame, None)
        except Exception as error:  # what a sender of the user's raises has nobody to go to
            log.debug("port %r: a message of the session's own was not sent: %r", self.port.name, error)
            return None

    def can_tell(self) -> bool:
        """Whether there is a peer that understands what it is told."""
        ending = self.port._ending
        return self.peer is not rules.CLASSIC and (ending is None or ending.error is not PortClosedError)

    def session_over(self, session: Session, ending: Ending) -> None:
        """A session has ended here: its peer is told once, and a turn of the peer's is answered with an error."""
        exchange = session._exchange
        assert exchange is not None
        self._say_over(session, exchange, ending)
        if exchange.stream is not None:
            exchange.stream.wake()
        if session.incoming:
            exchange.taken = None
            self.taken.close(session.sid)

    def _say_over(self, session: Session, exchange: Exchange, ending: Ending) -> None:
        if not self.can_tell():
            self.taken.stop(session.sid)
            return
        if not exchange.peer_done:
            self.answerer.leave(session, ending.code or rules.UNANSWERED)
        else:
            self.taken.stop(session.sid)
        if exchange.told or exchange.peer_done:
            return
        if session.incoming:
            exchange.told = True
            last = self.taken.last(session.sid)
            named: dict[str, Any] = {"re": last, "error": rules.ENDED} if last else {}
            self.say(session.sid, exchange.life, **named, end=True)
        else:
            exchange.told = self.asker.end_session(session, ending.code or rules.ENDED)
