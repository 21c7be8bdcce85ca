"""Streamed turns that the peer asks: the handler's posts are numbered, wait for credit, and are kept until it has them.

`psession._stream` says what the messages are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from psession import _rules as rules
from psession import errors
from psession._ending import OUTGROWN
from psession._outbox import size_of

if TYPE_CHECKING:
    from psession._exact import Exact
    from psession._exchange import Exchange
    from psession._parts import Departing
    from psession._session import Session
    from psession.envelope import Header


class Streamed:
    """What a port does with the streamed turns of its peer; `TakenTurns` keeps the answers."""

    def __init__(self, exact: Exact) -> None:
        self.exact = exact

    # -- what comes --------------------------------------------------------------------------------------------------

    def begin(self, sid: int, turn: int, credit: int) -> None:
        """The turn that was just taken is to have many answers, if it runs."""
        if self.exact.taken.running.get(sid) == turn:
            self.exact.taken.stream(sid, credit)

    def is_grant(self, header: Header, message: Any) -> bool:
        """Whether a message with credit only gives more of it: a request has a part as well, or something to say."""
        return header.part is None and not header.new and self.exact.port._envelope.is_bare(message)

    def granted(self, sid: int, header: Header) -> None:
        """More credit for a turn."""
        assert header.turn is not None
        taken = self.exact.taken
        stream = taken.streams.get(sid)
        if taken.granted(sid, header.turn).do is rules.ADVANCE and stream is not None:
            stream.grant(header.credit or 0)
            taken.forget_parts(sid, stream)
        else:
            self.exact.port._counters.duplicate += 1

    def asked_again(self, sid: int, stream: Departing, header: Header) -> bool:
        """The request came again. Whether that was all: ``False`` where there is nothing to send again."""
        exact, part = self.exact, header.part or 1
        if part <= stream.acked:
            exact.port._counters.duplicate += 1  # a copy of an attempt that is long past
            return True
        waited = stream.waiting > 0 and stream.spent >= stream.credit
        stream.grant(header.credit or 0, part)
        exact.taken.forget_parts(sid, stream)
        if part < stream.first_kept():
            exact.say(sid, header.life, re=header.turn, error=rules.FORGOTTEN)
            self._cut(sid)
            return True
        again = exact.taken.stored(sid)[part - stream.first_kept() :]
        if again and (stream.again is None or stream.again.taken):
            for frame in again:
                stream.again = exact.put(frame, exact.port._options.max_answer_bytes)
        exact.port._counters.repeated += bool(again)
        # A handler that waited for this very credit is about to answer: that is better than to be put off.
        return bool(again) or stream.is_complete or (waited and stream.spent < stream.credit)

    def _cut(self, sid: int) -> None:
        """What the asker lacks is kept no more: it was told, and what is still at work on it is cancelled."""
        exact = self.exact
        session = exact.port.sessions.get(sid)
        if session is not None and session.incoming:
            exact.answerer.give_up(session, OUTGROWN)
        else:
            exact.taken.quit(sid, exact.taken.last(sid))

    # -- the handler's side ------------------------------------------------------------------------------------------

    async def post(self, session: Session, message: Any, *, is_last: bool = False) -> None:
        """Send one of many answers, as soon as there is credit for it; with `is_last` the end mark in it.

        Cancelled before it was accepted, it is never sent, and its place is free; after that it is sent whole.

        Raises:
            SessionCancelError: The asker gave the turn up.
            Exception: As `Session.post`.
        """
        exchange = session._exchange
        assert exchange is not None
        stream = exchange.stream
        assert stream is not None
        await trio.lowlevel.checkpoint_if_cancelled()
        while not stream.is_over and session._ending is None and stream.spent >= stream.credit:
            await self._wait_for_credit(session, exchange, stream)
        stream.spent += 1
        numbered = False

        def make() -> Any:
            nonlocal numbered
            frame = self._make(session, exchange, stream, message, is_last=is_last)
            numbered = True
            return frame

        try:
            await self.exact.port._outbox.post_made(make, lambda: self._check(session, stream))
        finally:
            if not numbered:
                stream.spent -= 1
                stream.wake()

    async def finish(self, session: Session, message: Any = None) -> None:
        """The handler has no more answers: `message` is the last, or an end mark travels alone.

        Cancelled before that was accepted, the turn is not over.

        Raises:
            Exception: As `post`.
        """
        exchange = session._exchange
        assert exchange is not None
        stream = exchange.stream
        assert stream is not None
        if message is not None and not self.exact.port._envelope.is_bare(message):
            await self.post(session, message, is_last=True)
            return
        if message is not None:
            await self.post(session, message)  # alone it would be taken for an end mark
        await self.exact.port._outbox.post_made(
            lambda: self._make(session, exchange, stream, {}, is_last=True), lambda: self._check(session, stream)
        )

    async def over(self, session: Session) -> None:
        """The handler turns to something else: its stream, if it has one, is finished."""
        exchange = session._exchange
        assert exchange is not None
        stream = exchange.stream
        if stream is not None and session._ending is None and not stream.is_over:
            try:
                await self.finish(session)
            except errors.SessionError:
                if session._ending is None and not stream.is_over:
                    raise  # else somebody ended it, or the session, while this waited for room
        if exchange.stream is stream:
            exchange.stream = None

    def failed(self, session: Session, stream: Departing, frame: Any) -> None:
        """The asker was told by `frame` why there are no more answers."""
        assert session._exchange is not None
        self.exact.taken.add_part(session.sid, stream, frame, size_of(frame), is_end=True)
        self.completed(session._exchange, stream)

    async def _wait_for_credit(self, session: Session, exchange: Exchange, stream: Departing) -> None:
        """Wait for a word of the asker's. As for the next message no longer than a session may be idle: that the turn
        was given up may have been lost."""
        if exchange.for_credit is None:
            exchange.for_credit = trio.lowlevel.ParkingLot()
        stream.wake = exchange.for_credit.unpark_all
        self.exact.port._idle_enter(session)
        stream.waiting += 1
        try:
            await exchange.for_credit.park()
        finally:
            stream.waiting -= 1
        await trio.lowlevel.checkpoint_if_cancelled()  # the asker's giving up wakes it before it cancels it

    def _make(self, session: Session, exchange: Exchange, stream: Departing, message: Any, *, is_last: bool) -> Any:
        """The frame of the next answer, numbered and kept: there is room for it, and it is sent at once."""
        exact = self.exact
        names = exact.names
        fields: dict[str, Any] = {names.re: exchange.asked, names.part: stream.made + 1}
        if is_last:
            fields[names.end] = True
        if exchange.life is not None:
            fields[names.life] = exchange.life
        frame = exact.port._to_frame(exact.port._envelope.seal(message, session.sid, fields))
        exchange.began = trio.current_time()  # how long it takes for the next: what an attempt is put off by
        exact.taken.add_part(session.sid, stream, frame, size_of(frame), is_end=is_last)
        if is_last:
            self.completed(exchange, stream)
            exact.answerer.answer_sent(session)
        return frame

    def completed(self, exchange: Exchange, stream: Departing) -> None:
        """The end is among the answers of `stream`."""
        exchange.asked = 0
        if exchange.stream is stream:
            exchange.stream = None
        exchange.lift_deadline()
        stream.stop()

    def _check(self, session: Session, stream: Departing) -> None:
        session._check_open()
        if stream.is_over:
            why = "the turn is over: finish() was called" if stream.is_complete else "the peer gave the turn up"
            raise session._error(errors.SessionCancelError, why)
