"""Turns that the peer asks on the exact wire: each run once, answered as often as asked, cancelled when given up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from psession import _rules as rules
from psession._ending import GIVEN_UP, PEER_ENDED, REPLACED
from psession._exchange import Exchange, answering
from psession._outbox import size_of
from psession._timekeeper import SOON
from psession.errors import SessionRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psession._ending import Ending
    from psession._exact import Exact
    from psession._session import Session
    from psession.envelope import Header


class Answerer:
    """What a port does with the turns of its peer; `TakenTurns` remembers them."""

    def __init__(self, exact: Exact) -> None:
        self.exact = exact
        self._marks_openings = False
        self._now = trio.lowlevel.current_clock().current_time
        self._deadlines = exact.port._options.deadlines

    # -- what comes --------------------------------------------------------------------------------------------------

    def asked(self, session: Session | None, sid: int, header: Header, message: Any, *, own: bool) -> None:
        """A message that asks a turn, for the first time or again."""
        assert header.turn is not None
        streamed = header.credit is not None
        if streamed and self.exact.streamed.is_grant(header, message):
            self.exact.streamed.granted(sid, header)
            return
        do = self.exact.taken.asked(sid, header.turn, streamed=streamed, part=header.part or 1).do
        if do is rules.RUN:
            self._run(session, sid, header, message, own=own)
        elif do is rules.QUIT_DENY:
            self.given_up(session, sid, header._replace(end=False), own=own)
            self.exact.say(sid, header.life, re=header.turn, error=rules.FORGOTTEN)
        else:
            self._asked_again(sid, header, do)

    def asked_beside_a_stray_answer(self, sid: int, header: Header) -> None:
        """A message that asks a turn and answers one that nobody waits for: the same again, or too late."""
        assert header.turn is not None
        do = self.exact.taken.asked(sid, header.turn).do
        if do is rules.RUN:
            self.exact.say(sid, header.life, re=header.turn, error=rules.LATE)
        else:
            self._asked_again(sid, header, do)

    def _asked_again(self, sid: int, header: Header, do: str) -> None:
        exact, turn = self.exact, header.turn
        counters, taken = exact.port._counters, exact.taken
        stream = taken.streams.get(sid) if do is rules.RESEND or do is rules.REPEAT else None
        if stream is not None and exact.streamed.asked_again(sid, stream, header):
            return
        if header.wait == 0:
            counters.duplicate += 1  # a post: nobody waits for an answer
        elif do is rules.PROGRESS or do is rules.RESEND:
            counters.repeated += 1
            session = exact.port.sessions.get(sid)
            began = session._exchange.began if session is not None and session._exchange is not None else math.inf
            exact.say(sid, header.life, re=turn, wait=max(0.0, round(trio.current_time() - began, 3)))
        elif do is rules.REPEAT:
            counters.repeated += 1
            for frame in taken.stored(sid):
                exact.put(frame, exact.port._options.max_answer_bytes)  # a line that is back may ask for many at once
        elif do is rules.DENY:
            exact.say(sid, header.life, re=turn, error=rules.FORGOTTEN)
        else:
            counters.duplicate += 1

    def _run(self, session: Session | None, sid: int, header: Header, message: Any, *, own: bool) -> None:
        exact = self.exact
        port, turn = exact.port, header.turn
        assert turn is not None
        self._marks_openings = self._marks_openings or header.new
        if session is not None and header.new and not own:
            self.give_up(session, REPLACED)
            session = None
        fresh = session is None
        if session is None:
            refusal = self._refusal(header, own=own)
            session = port._handlers.take_in(sid) if refusal is None else None
            if session is None:
                self._refuse(sid, header, refusal or rules.FULL)
                return
        exchange = session._exchange
        if exchange is None:
            exchange = session._exchange = Exchange(header.life)
            if session.incoming:
                exchange.scope = trio.CancelScope()
                exchange.taken = self.exact.taken.open(sid)
        exchange.final = header.end
        self.run_next(session, exchange, turn, header.wait, message)
        if header.credit is not None:
            self.exact.streamed.begin(session.sid, turn, header.credit)
        if fresh and session._ending is None:
            port._start_handler(session)

    def run_next(self, session: Session, exchange: Exchange, turn: int, wait: float | None, message: Any) -> None:
        """A turn that is above all before it is given to its session."""
        self.begin(session, exchange, turn, wait, message)
        session._to_inbox(message)

    def begin(self, session: Session, exchange: Exchange, turn: int, wait: float | None, message: Any) -> None:
        """From now on `turn` runs; its asker waits so long for the answer, or wants none."""
        if wait == 0:
            self.exact.taken.pass_by(session.sid, turn)
            return
        self.exact.taken.take(session.sid, turn)
        self.begun(exchange, message, wait)

    def _refuse(self, sid: int, header: Header, code: str) -> None:
        """A turn is not run, nor is a copy of it that comes when it could be: the refusal is its answer."""
        assert header.turn is not None
        taken = self.exact.taken
        taken.pass_by(sid, header.turn)
        if header.wait != 0:
            frame = self.exact.say(sid, header.life, re=header.turn, error=code)
            if frame is not None:
                taken.answer(sid, frame, size_of(frame))

    def begun(self, exchange: Exchange, message: Any, wait: float | None) -> None:
        """The turn that `message` asks runs from now on; its asker waits so many seconds for the answer."""
        exchange.asking = message
        exchange.began = now = self._now()
        if exchange.visible:
            exchange.lift_deadline()  # it is that of the turn before, which was not answered
        if wait is None or not self._deadlines or exchange.scope is None:
            exchange.due = math.inf
            return
        exchange.due = now + wait
        if wait <= 2 * SOON:
            exchange.show_deadline()
        elif not exchange.watched:
            self.exact.port._timekeeper.watch_handler(exchange, now)

    def _refusal(self, header: Header, *, own: bool) -> str | None:
        """Why a session is not opened for a turn."""
        port = self.exact.port
        if own or (self._marks_openings and not header.new):
            return rules.NO_SESSION
        if port._options.on_session is None:
            port._counters.unknown_sid += 1
            return rules.NO_HANDLER
        return rules.CLOSING if port._ending is not None or port._drained is not None else None

    def given_up(self, session: Session | None, sid: int, header: Header, *, own: bool) -> None:
        """A message by which the asker gives a turn up, and with it perhaps the session."""
        assert header.turn is not None
        exact = self.exact
        is_past = header.turn < exact.taken.last(sid)  # its number may be another session's by now
        do = exact.taken.quit(sid, header.turn).do
        if do is rules.CANCEL:
            exact.port._counters.given_up += 1
            if session is not None and session._exchange is not None:
                session._exchange.asked = 0
                if not own:
                    self.give_up(session, GIVEN_UP)
        if header.end and not own and not is_past:
            if session is not None:
                if session._exchange is not None:
                    session._exchange.peer_done = True
                session._end(PEER_ENDED)
            exact.say(sid, header.life, re=header.turn, error=rules.ENDED, end=True)

    def give_up(self, session: Session, ending: Ending) -> None:
        """Nobody waits for the turn that runs in `session`, nor wants the session."""
        exchange = session._exchange
        if exchange is not None:
            exchange.peer_done = True
            self.exact.taken.stop(session.sid)
            if exchange.scope is not None:
                exchange.scope.cancel()
        session._end(ending)

    # -- the handler's side ------------------------------------------------------------------------------------------

    def taken_out(self, session: Session) -> None:
        """The application has the message that asks the running turn out of the inbox: what it says next answers it."""
        exchange = session._exchange
        assert exchange is not None
        exchange.asking = None
        taken, sid = self.exact.taken, session.sid
        exchange.asked = taken.running.get(sid, 0)
        exchange.stream = taken.streams.get(sid) if exchange.asked else None

    def answered(self, session: Session, turn: int, frame: Any) -> None:
        """`frame` answers `turn`, and is kept for as long as it may be asked again."""
        exchange, taken = session._exchange, self.exact.taken
        assert exchange is not None
        if exchange.asked == turn:
            exchange.asked = 0
        if exchange.taken is not None:
            taken.answer_last(session.sid, exchange.taken, turn, frame, size_of(frame))
        elif taken.last(session.sid) == turn:
            taken.answer(session.sid, frame, size_of(frame))
        exchange.due = math.inf
        if exchange.visible:
            exchange.lift_deadline()

    def answer_sent(self, session: Session) -> None:
        """The answer is on its way: a session whose opener wants no more is over."""
        exchange = session._exchange
        if exchange is not None and exchange.final:
            exchange.peer_done = True
            session._end(PEER_ENDED)

    def not_answered(self, session: Session, turn: int) -> None:
        """The answer to `turn` was not sent after all."""
        exchange, taken = session._exchange, self.exact.taken
        if turn and exchange is not None and session._ending is None and taken.last(session.sid) == turn:
            taken.unanswer(session.sid, turn)
            exchange.asked = turn

    def leave(self, session: Session, code: str, text: str = "") -> None:
        """No answer will come to the turn that runs in `session`: its asker is told, rather than left waiting."""
        exact, sid = self.exact, session.sid
        turn = exact.taken.running.get(sid)
        exchange = session._exchange
        if turn is None or exchange is None or exact.port.sessions.get(sid) is not session:
            return  # or the number is another session's by now
        stream = exact.taken.streams.get(sid)
        place = {} if stream is None else {"part": stream.made + 1}
        error, beyond = rules.join_error(code, text), exact.port._options.max_answer_bytes
        frame = exact.say(sid, exchange.life, beyond=beyond, re=turn, error=error, end=True, **place)
        if frame is None:
            exact.taken.quit(sid, turn)
        elif stream is None:
            self.answered(session, turn, frame)
        else:
            exact.streamed.failed(session, stream, frame)
        exchange.peer_done = True

    async def handle(self, session: Session, result: Awaitable[object]) -> None:
        """Await a handler within the time that its asker gives it; what it raises becomes the asker's error."""
        exchange = session._exchange
        assert exchange is not None
        assert exchange.scope is not None
        options = self.exact.port._options
        answering.set(exchange)
        with exchange.scope:
            try:
                await result
                if exchange.stream is not None:
                    await self.exact.streamed.over(session)
            except SessionRefusedError as error:
                code = f"{rules.REFUSED}.{error.code}" if error.code else rules.REFUSED
                self.leave(session, code, error.why)
            except Exception as error:
                known = next((code for kind, code in options.error_codes.items() if isinstance(error, kind)), None)
                if known is not None:
                    self.leave(session, known, str(error))
                    return
                self.leave(session, rules.CRASHED, repr(error) if options.debug else "")
                raise
        if exchange.scope.cancelled_caught and session._ending is None:
            # The asker's time is over, by this side's clock: it waits no more, or will be told when it asks again.
            self.exact.taken.stop(session.sid)
            exchange.peer_done = True
