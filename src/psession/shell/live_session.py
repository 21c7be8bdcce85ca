"""The shell's side of one session: the tasks that wait in it, its inbox, and its handler's scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import trio
from outcome import Error

from psession import errors
from psession.protocol.counters import Drop
from psession.protocol.dialogue import BUSY
from psession.protocol.endings import ENDED, held_too_much, overrun
from psession.protocol.events import Dropped, Received
from psession.shell.inbox import OVER, Inbox
from psession.shell.outbox import PARTS_A_PASS
from psession.shell.waiting import Handed, WaitingLine

if TYPE_CHECKING:
    from psession.protocol.credit import Departing
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.protocol.endings import Ending
    from psession.protocol.events import Ended
    from psession.protocol.retry import Patience
    from psession.shell.engine import Engine
    from psession.shell.handler_scope import HandlerScope
    from psession.shell.outbox import Ticket


class LiveSession:
    """The shell's side of a `Dialogue`, which knows it as its owner.

    Attributes:
        engine: The middle of its port.
        dialogue: The protocol's side.
        patience: What its turns may cost.
        inbox: Messages for `receive`, made for the first of them.
        handler: The scope of its handler, where that has one: for an exact session of the peer's.
        waiting_turns: The turns that wait behind the one that is under way, made for the first of them.
        face: The `Session` by which users know it, while it is open.
    """

    __slots__ = ("_for_credit", "dialogue", "engine", "face", "handler", "inbox", "patience", "waiting_turns")

    def __init__(self, engine: Engine, dialogue: Dialogue, patience: Patience) -> None:
        self.engine: Engine = engine
        self.dialogue: Dialogue = dialogue
        self.patience: Patience = patience
        self.inbox: Inbox | None = None
        self.handler: HandlerScope | None = None
        self.face: Any = None
        self.waiting_turns: WaitingLine[AskedTurn] | None = None
        self._for_credit: trio.lowlevel.ParkingLot | None = None
        dialogue.owner = self

    # -- what the engine calls ---------------------------------------------------------------------------------------

    def received(self, event: Received) -> None:
        """Put a message into the inbox; a session that is flooded ends alone."""
        inbox, dialogue = self.inbox, self.dialogue
        if inbox is None:
            inbox = self.inbox = Inbox(self.engine.account, lends=dialogue.incoming)
        if dialogue.incoming:
            if not self._for_credit:  # a handler that waits for credit is idle, whatever waits for it
                dialogue.idle_since = BUSY
            if event.question and self.handler is not None:
                self.handler.begin(self.engine.timekeeper.watch_handler)
        elif dialogue.turn is None:
            self.engine.rests(dialogue)
        if not inbox.put(event if event.question else event.payload, event.payload):
            self.overrun()

    @property
    def held(self) -> int:
        """The bytes of messages that nobody has received."""
        return 0 if self.inbox is None else self.inbox.held

    def overrun(self) -> None:
        """End the session: what came for it and nobody has received is too much, and is let go of."""
        engine, dialogue, inbox = self.engine, self.dialogue, self.inbox
        assert inbox is not None
        is_many = inbox.kept >= engine.options.inbox_limit
        engine.connection.counters.drop(Drop.OVERRUN)
        engine.perform([Dropped(Drop.OVERRUN, dialogue.sid)])
        inbox.drop()
        engine.end(
            dialogue, overrun(engine.options.inbox_limit) if is_many else held_too_much(engine.options.max_held_bytes)
        )

    def handled(self) -> None:
        """The handler is at work no more: what it has not received is nobody's."""
        if self.inbox is not None:
            if self.inbox.kept:
                self.inbox.drop()
            self.inbox.give_back()
        self.end()
        self.dialogue.owner = None  # no circle is left

    def ended(self, event: Ended) -> None:
        """The session is over: give every send that waits behind its turn its own error, and wake who receives."""
        self.face = None
        if event.cancels and self.handler is not None:
            self.handler.scope.cancel()
        self._end_waiting(event.ending)
        if self.engine.told.listens:
            self.engine.told.session_ended(event)
        self.engine.outbox.turn_back(self)
        if self.inbox is not None:
            self.inbox.close()
            if not self.dialogue.incoming:
                self.inbox.release()
        if not self.dialogue.incoming:
            self.dialogue.owner = None  # no circle is left

    def _end_waiting(self, ending: Ending) -> None:
        line = self.waiting_turns
        while line:
            self.engine.connection.counters.add(ending.counter)
            line.wake_first(Error(self.ending_error(ending, line.first())))

    # -- turns -------------------------------------------------------------------------------------------------------

    async def line_up(self, turn: AskedTurn) -> None:
        """Wait until the turns before this one are over. Cancelled: the place in the line is gone."""
        line = self.waiting_turns
        if line is None:
            line = self.waiting_turns = WaitingLine()
        turn.started = self.engine.now()

        def cancelled() -> None:
            self.engine.connection.counters.cancelled += 1

        await line.park(turn, cancelled)

    def next_turn(self) -> None:
        """Let the first turn that waits have its place; it has it from now on."""
        line = self.waiting_turns
        if line:
            self.dialogue.turn = line.first()
            line.wake_first(Handed(None))

    @trio.lowlevel.enable_ki_protection
    def settle(self, ending: Ending) -> None:
        """Give every send that waits its own error. The session lives on."""
        self.engine.check_run()
        turn = self.dialogue.turn
        if turn is not None:
            self.engine.perform(self.engine.connection.give_up(turn, ending))
        self._end_waiting(ending)

    @property
    def is_waiting_for_peer(self) -> bool:
        """True while a task waits for a message, or for credit."""
        return (self.inbox is not None and self.inbox.is_awaited) or bool(self._for_credit)

    # -- messages ----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def next_message(self, *, stops: bool = False) -> Any:
        """The next message; a clean end is `StopAsyncIteration` for a caller that `stops` there."""
        dialogue, inbox = self.dialogue, self.inbox
        if not dialogue.incoming:
            self.engine.check_run()
        if dialogue.exact is not None and dialogue.exact.stream is not None:
            await self.finish_stream()
        if inbox is None:
            inbox = self.inbox = Inbox(self.engine.account, lends=dialogue.incoming)
        elif inbox.lent:
            inbox.give_back()
        if inbox.kept or dialogue.ending is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            item = inbox.take() if inbox.kept else OVER
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            if dialogue.incoming:
                self.engine.rests(dialogue)
            item = await inbox.next()
        if item is OVER:
            if stops and dialogue.ending is not None and dialogue.ending.clean:
                raise StopAsyncIteration
            self.raise_ended()
        return self.consumed(item)

    @property
    def has_message(self) -> bool:
        """True while a message is there that nobody has received."""
        return self.inbox is not None and self.inbox.kept > 0

    def take_message(self) -> Any:
        """The first of those, without waiting."""
        assert self.inbox is not None
        return self.consumed(self.inbox.take())

    def consumed(self, item: Any) -> Any:
        """The payload of what was in the inbox. The application has it, and the question that it asks."""
        if type(item) is Received:
            self.engine.connection.hold(self.dialogue, item.question)
            if self.engine.told.listens:
                self._tell_asked(item)
            return item.payload
        if self.engine.told.listens:
            self._tell_received(item)
        return item

    def _tell_asked(self, question: Received) -> None:
        """Tell the listeners of a question of the exact wire that the application has."""
        dialogue, exact = self.dialogue, self.dialogue.exact
        assert exact is not None
        self.engine.told.asked(
            dialogue,
            dialogue.sid,
            question.payload,
            exact.began,
            question.question,
            exact.stream is not None,
            question.trace,
        )

    def _tell_received(self, payload: Any) -> None:
        """Tell the listeners of another message. On the classic wire all that the peer says in its sessions asks."""
        dialogue, told = self.dialogue, self.engine.told
        if dialogue.incoming and dialogue.exact is None:
            told.asked(dialogue, dialogue.sid, payload, self.engine.now())
        else:
            told.posted(dialogue.sid, payload, incoming=True)

    @trio.lowlevel.enable_ki_protection
    async def post(self, payload: Any) -> None:
        """Send a message that wants no reply (see `Session.post`)."""
        if not self.dialogue.incoming:  # else it is its handler's, which the port started
            self.engine.check_run()
        if self.dialogue.ending is not None:
            self.raise_ended()
        engine, dialogue = self.engine, self.dialogue
        exact = dialogue.exact
        if exact is not None and exact.stream is not None:
            stream = exact.stream
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._post_part_now(payload, stream):
                await self._post_part(payload, stream)
            elif stream.in_a_row >= PARTS_A_PASS and stream.spent < stream.credit:  # without credit the next one waits
                stream.in_a_row = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            connection, outbox = engine.connection, engine.outbox
            try:
                frame, answers, opens = connection.post(dialogue, payload)
            except errors.MessageError as error:
                engine.place(error, dialogue.sid)
                raise
            if answers and self.handler is not None and self.handler.is_visible:
                self.handler.lift_deadline()
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                if not outbox.post_now(frame):
                    await outbox.post(frame, self.check_open, self)
            except BaseException as error:
                if isinstance(error, errors.SessionOverrunError) and error.sid is None:
                    engine.place(error, dialogue.sid)
                if answers or opens:
                    connection.not_posted(dialogue, answers, opened=opens)
                raise
            if engine.told.listens:
                self._tell_posted(payload, answers)
            if answers and exact is not None and exact.is_final:
                engine.perform(connection.answer_sent(dialogue, engine.now()))
        if not dialogue.incoming and dialogue.turn is None and dialogue.ending is None:
            engine.rests(dialogue)

    def _tell_posted(self, payload: Any, answers: int) -> None:
        """Tell the listeners of a post. On the classic wire it answers what its handler has received."""
        dialogue, told = self.dialogue, self.engine.told
        if not ((answers or dialogue.exact is None) and told.answered(dialogue, payload)):
            told.posted(dialogue.sid, payload, incoming=False)

    async def finish(self, payload: Any = None) -> None:
        """End the answer to the turn that was received (see `Session.finish`)."""
        exact = self.dialogue.exact
        if exact is not None and exact.stream is not None:
            await self._finish(exact.stream, payload)
        elif payload is not None:
            await self.post(payload)
        else:
            await trio.lowlevel.checkpoint()

    # -- one of many answers -----------------------------------------------------------------------------------------

    def _post_part_now(self, payload: Any, stream: Departing) -> bool:
        """Send one of many answers, if that need not wait; the checkpoint is the caller's. Return True if so."""
        engine = self.engine
        if stream.spent >= stream.credit or stream.is_over or not engine.outbox.has_room:
            return False
        now = engine.now()
        try:
            frame = engine.connection.part(self.dialogue, payload, now, is_last=False)
        except errors.MessageError as error:
            engine.place(error, self.dialogue.sid)
            raise
        stream.spent += 1
        stream.in_a_row += 1
        engine.outbox.put_part(frame, now)
        if engine.told.listens:
            engine.told.sent_part(self.dialogue, payload)
        return True

    async def _post_part(self, payload: Any, stream: Departing, *, is_last: bool = False) -> None:
        """Send one of many answers, as soon as there is credit for it; with `is_last` the end mark in it.

        Cancelled before it was accepted, it is never sent, and its place is free; after that it is sent whole.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._lacks_credit(stream):
            await self._wait_for_credit(stream)
        if not is_last and self.dialogue.ending is None and self._post_part_now(payload, stream):
            return
        stream.spent += 1
        is_numbered = False

        def put() -> Ticket | None:
            nonlocal is_numbered
            now = self.engine.now()
            frame = self._make_part(payload, now, is_last=is_last)
            is_numbered = True
            return self.engine.outbox.put_part(frame, now)

        try:
            await self.engine.outbox.post_made(put, lambda: self._check_stream(stream), self)
        finally:
            if not is_numbered:
                stream.spent -= 1
                stream.wake()

    async def _finish(self, stream: Departing, payload: Any) -> None:
        """End a stream, with `payload` as the last answer, or with an end mark alone.

        Cancelled before that was accepted, the turn is not over.
        """
        if payload is not None and not self.engine.connection.is_empty(payload):
            await self._post_part(payload, stream, is_last=True)
            return
        if payload is not None:
            await self._post_part(payload, stream)  # alone it would be taken for an end mark

        def put() -> Ticket | None:
            now = self.engine.now()
            return self.engine.outbox.put_part(self._make_part({}, now, is_last=True, is_mark=True), now)

        await self.engine.outbox.post_made(put, lambda: self._check_stream(stream), self)

    async def finish_stream(self) -> None:
        """The handler turns to something else: its stream, if it has one, is finished."""
        exact = self.dialogue.exact
        stream = exact.stream if exact is not None else None
        if exact is None or stream is None:
            return
        if self.dialogue.ending is None and not stream.is_over:
            try:
                await self._finish(stream, None)
            except errors.SessionError:
                if self.dialogue.ending is None and not stream.is_over:
                    raise  # else it, or the session, was ended while this waited for room
        if exact.stream is stream:
            exact.stream = None

    def _lacks_credit(self, stream: Departing) -> bool:
        return stream.spent >= stream.credit and not stream.is_over and self.dialogue.ending is None

    async def _wait_for_credit(self, stream: Departing) -> None:
        """Wait for a word of the asker's, no longer than a session may be idle: its last word may be lost."""
        if self._for_credit is None:
            self._for_credit = trio.lowlevel.ParkingLot()
        engine, busy = self.engine, self.engine.busy

        def look() -> bool:
            return not self._lacks_credit(stream) or (engine.look() and not self._lacks_credit(stream))

        stream.wake = self._for_credit.unpark_all
        stream.waiting += 1
        stream.in_a_row = 0
        engine.outbox.flush()
        try:
            # Where it is alone, its peer may be near.
            if busy is None or engine.connection.handlers > 1 or not await busy.until(look):
                engine.rests(self.dialogue)
                await self._for_credit.park()
        finally:
            stream.waiting -= 1
            self.dialogue.idle_since = BUSY
        await trio.lowlevel.checkpoint_if_cancelled()  # the asker's giving up wakes it before it cancels it

    def _make_part(self, payload: Any, now: float, *, is_last: bool, is_mark: bool = False) -> Any:
        engine = self.engine
        try:
            frame = engine.connection.part(self.dialogue, payload, now, is_last=is_last)
        except errors.MessageError as error:
            engine.place(error, self.dialogue.sid)
            raise
        if engine.told.listens and not is_mark:
            engine.told.sent_part(self.dialogue, payload)
        if is_last:
            if self.handler is not None:
                self.handler.lift_deadline()
            if engine.told.listens:
                engine.told.answered(self.dialogue)
            engine.perform(engine.connection.answer_sent(self.dialogue, now))
        return frame

    def _check_stream(self, stream: Departing) -> None:
        self.check_open()
        if stream.is_over:
            why = "the turn is over: finish() was called" if stream.is_complete else "the peer gave the turn up"
            raise self.error(errors.SessionCancelError, why)

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End the session. Idempotent."""
        if self.dialogue.ending is None:
            self.engine.check_run()
            self.engine.end(self.dialogue, ENDED)

    def end_once(self) -> None:
        """End a session that was for one turn, which is over; nobody has met it by name most often."""
        engine, dialogue = self.engine, self.dialogue
        if self.face is None and self.inbox is None and engine.connection.end_answered(dialogue):
            engine.number_free()
            if engine.drained is not None:
                engine.note_drained()
        else:
            self.end()

    def check_open(self) -> None:
        """Refuse what needs an open session."""
        if self.dialogue.ending is not None:
            self.raise_ended()

    def raise_ended(self) -> NoReturn:
        """Raise the error of a call after the end."""
        ending = self.dialogue.ending
        assert ending is not None
        raise self._error_after(ending) from ending.cause  # a name for it here would be a circle

    def _error_after(self, ending: Ending) -> errors.SessionError:
        error = self.error(ending.after, f"the session is over: {ending.why}")
        error.outcome = "not_sent"
        return error

    def ending_error(self, ending: Ending, turn: AskedTurn) -> errors.SessionError:
        """The error of a turn that was ended; each has its own."""
        error = self.error(ending.error, ending.why, turn)
        error.__cause__ = ending.cause
        return error

    def error(self, kind: type[errors.SessionError], why: str, turn: AskedTurn | None = None) -> errors.SessionError:
        """A fresh error that says what this session knows."""
        error = self.engine.error(kind, why, self.dialogue.sid)
        if turn is not None:
            error.attempts, error.waited = turn.attempts, self.engine.now() - turn.started
            error.outcome = "sent" if turn.sent else "not_sent"
        return error
