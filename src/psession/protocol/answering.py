"""Turns that the peer asks: each run once, answered as often as asked, given up when its asker gives it up. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from psession.checks import LARGEST
from psession.protocol import events
from psession.protocol import states as codes
from psession.protocol.counters import Drop
from psession.protocol.dialogue import ExactState
from psession.protocol.endings import GIVEN_UP, OUTGROWN, PEER_ENDED, REPLACED
from psession.protocol.peer_turns import AT_WORK
from psession.protocol.states import OpenedEvent, Peer, PeerDo, PeerEvent, PeerTurn

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.credit import Departing
    from psession.protocol.dialogue import Dialogue
    from psession.protocol.endings import Ending
    from psession.protocol.events import Asked
    from psession.protocol.header import Header
    from psession.protocol.peer_turns import LastTurn
    from psession.protocol.shared import Shared


class Answering:
    """The peer's turns; `PeerTurns` remembers them.

    Args:
        shared: The ground that the parts of the connection stand on.
        end: Ends a session at that moment, for that reason; with True its handler's work is not wanted any more.
        has_place: Returns True if one more handler may be at work, for what the peer opens under a number; counts it.
    """

    __slots__ = ("_end", "_has_place", "_shared", "marks_openings")

    def __init__(
        self,
        shared: Shared,
        end: Callable[[Dialogue, Ending, float, bool], None],
        has_place: Callable[[int], bool],
    ) -> None:
        self._shared = shared
        self._end = end
        self._has_place = has_place
        self.marks_openings: bool = False

    def let_go(self) -> None:
        """End nothing and take nothing in any more: the port is over. Who made this is not known to it any longer."""
        self._end, self._has_place = _end_nothing, _has_no_place

    # -- what comes --------------------------------------------------------------------------------------------------

    def asked(
        self, dialogue: Dialogue | None, sid: int, header: Header, payload: Any, now: float, *, own: bool, bare: bool
    ) -> None:
        """Take a message that asks a turn, for the first time or again."""
        shared, turn = self._shared, header.turn
        assert turn is not None
        key = -sid if own else sid
        streamed = header.credit is not None
        if streamed and header.part is None and not header.new and bare:
            self._granted(key, header)
            return
        event = shared.turns.asked(key, turn, streamed=streamed, part=header.part or 1, posts=header.wait == 0)
        if event in (PeerEvent.ASK_NEXT, PeerEvent.STREAM_NEXT, PeerEvent.PASS):
            self._run(dialogue, sid, header, payload, event, now, own=own)
        elif event is PeerEvent.STREAM_REST:
            self._give_up_turn(dialogue, key, turn, event, now)
            shared.say(sid, header.life, re=turn, error=codes.FORGOTTEN)
        else:
            self._asked_again(dialogue, key, header, shared.turns.advance(key, event), now)

    def asked_back(self, dialogue: Dialogue, header: Header) -> bool:
        """Take an answer that asks a turn. Return True if that is a new one."""
        shared, turn = self._shared, header.turn
        assert turn is not None
        event = shared.turns.asked(dialogue.key, turn, streamed=header.credit is not None, posts=header.wait == 0)
        return event in (PeerEvent.ASK_NEXT, PeerEvent.STREAM_NEXT, PeerEvent.PASS)

    def begin_back(self, dialogue: Dialogue, header: Header, now: float) -> None:
        """Begin a turn that an answer asks: what the application says next in the session answers it."""
        exact = dialogue.exact
        assert exact is not None
        assert header.turn is not None
        event = PeerEvent.ASK_NEXT if header.credit is None else PeerEvent.STREAM_NEXT
        self._begin(dialogue, exact, header, PeerEvent.PASS if header.wait == 0 else event, now)
        held = self._shared.turns.held(dialogue.key)
        exact.holding = held.running if held is not None else 0
        exact.stream = held.stream if held is not None else None

    def asked_beside_a_stray_answer(
        self, dialogue: Dialogue | None, sid: int, header: Header, now: float, *, own: bool
    ) -> None:
        """Take a turn in a message that answers one which nobody waits for: it is the same again, or too late."""
        shared, turn, key = self._shared, header.turn, -sid if own else sid
        assert turn is not None
        event = shared.turns.asked(key, turn)
        if event is PeerEvent.ASK_NEXT:
            shared.say(sid, header.life, re=turn, error=codes.LATE)
        else:
            self._asked_again(dialogue, key, header, shared.turns.advance(key, event), now)

    def _asked_again(self, dialogue: Dialogue | None, key: int, header: Header, do: PeerDo, now: float) -> None:
        shared, turn, sid = self._shared, header.turn, abs(key)
        held = shared.turns.held(key)
        stream = held.stream if held is not None and do in (PeerDo.RESEND, PeerDo.REPEAT) else None
        if held is not None and stream is not None and self._asked_for_parts(dialogue, held, stream, header, now):
            return
        if header.wait == 0:
            shared.drop(Drop.DUPLICATE, sid)  # a post: no answer is waited for
        elif do is PeerDo.PROGRESS or do is PeerDo.RESEND:
            shared.counters.repeated += 1
            began = dialogue.exact.began if dialogue is not None and dialogue.exact is not None else math.inf
            shared.say(sid, header.life, re=turn, wait=max(0.0, round(now - began, 3)))
        elif do is PeerDo.REPEAT:
            shared.counters.repeated += 1
            shared.emit(events.Repeat(held.frames.copy() if held is not None else []))
        elif do is PeerDo.DENY:
            shared.say(sid, header.life, re=turn, error=codes.FORGOTTEN)
        else:
            shared.drop(Drop.DUPLICATE, sid)

    def _asked_for_parts(
        self, dialogue: Dialogue | None, held: LastTurn, stream: Departing, header: Header, now: float
    ) -> bool:
        """Send parts again. Return False where there is nothing to send again."""
        shared, part, sid = self._shared, header.part or 1, abs(held.key)
        if part <= stream.acked:
            shared.drop(Drop.DUPLICATE, sid)  # a copy of an attempt that is long past
            return True
        waited = stream.waiting > 0 and stream.spent >= stream.credit
        stream.grant(header.credit or 0, part)
        shared.turns.forget_parts(held)
        if part < stream.first_kept():
            shared.say(sid, header.life, re=header.turn, error=codes.FORGOTTEN)
            self._cut(dialogue, held, now)
            return True
        again = held.frames[part - stream.first_kept() :]
        if again:
            shared.counters.repeated += 1
            shared.emit(events.Repeat(again, stream))
        # The handler was blocked on this credit and will answer now; do not also send "in progress".
        return bool(again) or stream.is_complete or (waited and stream.spent < stream.credit)

    def _cut(self, dialogue: Dialogue | None, held: LastTurn, now: float) -> None:
        """Cancel the work on an answer of which parts are lost; the asker was told."""
        if dialogue is not None and dialogue.incoming:
            self.give_up(dialogue, OUTGROWN, now)
        else:
            self._shared.turns.give_up(held.key, held.turn)

    def _granted(self, key: int, header: Header) -> None:
        """Take more credit for a turn with many answers."""
        turns = self._shared.turns
        assert header.turn is not None
        held = turns.held(key)
        do = turns.advance(key, turns.granted(key, header.turn))
        if do is PeerDo.ADVANCE and held is not None and held.stream is not None:
            held.stream.grant(header.credit or 0)
            turns.forget_parts(held)
        else:
            self._shared.drop(Drop.DUPLICATE, abs(key))

    def granted_more(self, held: LastTurn, turn: int, fields: dict[str, Any]) -> bool:
        """Take more credit for the last turn of an open session, if `fields` are that alone. Else do nothing.

        The fast way for nearly every grant: what `asked` comes to for it.
        """
        shared, stream = self._shared, held.stream
        credit = fields.get(shared.names.credit)
        if stream is None or held.turn != turn or type(credit) is not int or len(fields) > 1:
            return False
        if not 0 < credit <= LARGEST:
            return False
        shared.peer = Peer.EXACT
        stream.grant(credit)
        shared.turns.forget_parts(held)
        return True

    def _run(
        self,
        dialogue: Dialogue | None,
        sid: int,
        header: Header,
        payload: Any,
        event: PeerEvent,
        now: float,
        *,
        own: bool,
    ) -> None:
        """Give a turn that is above all before it to its session, which it may open."""
        shared, turn = self._shared, header.turn
        assert turn is not None
        self.marks_openings = self.marks_openings or header.new
        if dialogue is not None and header.new and not own:
            self.give_up(dialogue, REPLACED, now)
            dialogue = None
        if dialogue is None:
            refusal = self._refusal(header, sid, own=own)
            if refusal is not None or not self._has_place(sid):
                self.refuse(-sid if own else sid, header, refusal or codes.FULL)
                return
            if header.end and event is PeerEvent.ASK_NEXT and shared.settings.takes_requests:
                held = shared.turns.ask_alone(sid, turn)
                shared.emit(events.Asked(sid, payload, turn, held, header.life, now, header.wait, header.trace))
                return
            dialogue = shared.sessions.accept(sid)
            dialogue.exact = ExactState(header.life, shared.turns.open(sid))
            self._begin(dialogue, dialogue.exact, header, event, now)
            shared.emit(events.Opened(dialogue))
        else:
            exact = dialogue.exact
            if exact is None:  # it was opened without exact fields
                memory = shared.turns.open(sid) if dialogue.incoming else None
                exact = dialogue.exact = ExactState(header.life, memory)
            self._begin(dialogue, exact, header, event, now)
        assert dialogue.exact is not None
        dialogue.exact.is_final = header.end
        running = shared.turns.running(dialogue.key)
        shared.emit(events.Received(dialogue, payload, running, header.wait, header.trace))

    def _begin(self, dialogue: Dialogue, exact: ExactState, header: Header, event: PeerEvent, now: float) -> None:
        """Let the turn run from now on; or take note that it wants no answer."""
        assert header.turn is not None
        window = header.credit or 0 if event is PeerEvent.STREAM_NEXT else 0
        self._shared.turns.advance(dialogue.key, event, header.turn, window)
        if event is not PeerEvent.PASS:
            self._begun(exact, header.wait, now)

    def _begun(self, exact: ExactState, wait: float | None, now: float) -> None:
        """Note when a turn began, and when its asker gives up."""
        exact.began = now
        exact.due = now + wait if wait is not None and self._shared.settings.deadlines else math.inf

    def refuse(self, key: int, header: Header, code: str) -> None:
        """Do not run a turn, nor a copy of it that comes when it could be run: the refusal is its answer."""
        shared, turn, sid = self._shared, header.turn, abs(key)
        assert turn is not None
        if header.wait == 0:
            shared.turns.advance(key, PeerEvent.PASS, turn)
            return
        shared.turns.advance(key, PeerEvent.ASK_NEXT, turn)
        frame = shared.say(sid, header.life, re=turn, error=code)
        held = shared.turns.held(key)
        if frame is None or held is None:
            shared.turns.stop(key)
        else:
            shared.turns.answer(held, frame, shared.size(frame))

    def _refusal(self, header: Header, sid: int, *, own: bool) -> str | None:
        """The reason for which a session is not opened for a turn."""
        shared = self._shared
        if own or (self.marks_openings and not header.new):
            shared.drop(Drop.NO_SESSION, sid)
            return codes.NO_SESSION
        if not shared.settings.takes_sessions:
            shared.drop(Drop.NO_HANDLER, sid)
            return codes.NO_HANDLER
        if shared.is_closing:
            shared.drop(Drop.CLOSING, sid)
            return codes.CLOSING
        return None

    def given_up(self, dialogue: Dialogue | None, sid: int, header: Header, now: float, *, own: bool) -> None:
        """Take a message by which the asker gives a turn up, and with it perhaps the session."""
        shared, turn, key = self._shared, header.turn, -sid if own else sid
        assert turn is not None
        is_past = turn < shared.turns.last(key)  # its number may be another session's by now
        self._give_up_turn(dialogue, key, turn, shared.turns.quit(key, turn), now)
        if header.end and not own and not is_past:
            if dialogue is not None:
                if dialogue.exact is not None:
                    dialogue.exact.advance(OpenedEvent.PEER_DONE)
                self._end(dialogue, PEER_ENDED, now, False)
            shared.say(sid, header.life, re=turn, error=codes.ENDED, end=True)

    def _give_up_turn(self, dialogue: Dialogue | None, key: int, turn: int, event: PeerEvent, now: float) -> None:
        """A turn is over, and will not be run; what runs under its number is wanted no more."""
        turns = self._shared.turns
        was_running = turns.running(key)
        turns.advance(key, event, 0 if event is PeerEvent.QUIT_OLDER else turn)
        if not was_running or event is PeerEvent.QUIT_OLDER:
            return
        self._shared.counters.given_up += 1
        if dialogue is not None and dialogue.exact is not None:
            dialogue.exact.holding = 0
            if dialogue.incoming:
                self.give_up(dialogue, GIVEN_UP, now)

    def give_up(self, dialogue: Dialogue, ending: Ending, now: float) -> None:
        """End a session that nobody wants any more, nor the turn that runs in it."""
        if dialogue.exact is not None:
            dialogue.exact.advance(OpenedEvent.PEER_DONE)
            self._shared.turns.stop(dialogue.key)
        self._end(dialogue, ending, now, True)

    # -- what the application answers --------------------------------------------------------------------------------

    def hold(self, dialogue: Dialogue, question: int) -> None:
        """The application has the message that asks a turn: what it says next in the session answers that."""
        exact = dialogue.exact
        assert exact is not None
        held = self.owed_to(dialogue, exact, question)
        if held is not None:
            exact.holding = question
            exact.stream = held.stream

    def owed_to(self, dialogue: Dialogue, exact: ExactState, turn: int) -> LastTurn | None:
        """The memory of `turn`, while it runs: then it can be answered."""
        held = exact.memory or self._shared.turns.held(dialogue.key)
        return held if held is not None and held.turn == turn and held.state in AT_WORK else None

    def answer(self, asked: Asked, held: LastTurn, payload: Any) -> Any:
        """The frame that answers a question which stands alone; ``None`` where nobody waits for it any more.

        Raises:
            MessageError: It cannot travel.
        """
        shared, names = self._shared, self._shared.names
        if not self._is_at_work(asked, held):
            return None
        message, header = shared.dialect.open(payload, asked.sid, exact=True)
        header[names.re] = asked.turn
        if asked.life is not None:
            header[names.life] = asked.life
        frame = shared.encode(message)
        shared.turns.answer(held, frame, shared.size(frame))
        return frame

    def _is_at_work(self, asked: Asked, held: LastTurn) -> bool:
        """Return True if a question which stands alone is not answered, and not given up."""
        is_its_own = held.turn == asked.turn and held.state is PeerTurn.RUNNING
        return is_its_own and self._shared.turns.held(asked.sid) is held

    def keep(self, asked: Asked, held: LastTurn) -> Dialogue | None:
        """Keep a session for a question which stands alone: its answer takes time. ``None`` where nobody wants it."""
        shared, sid = self._shared, asked.sid
        if not self._is_at_work(asked, held) or sid in shared.sessions.peers:
            return None
        dialogue = shared.sessions.accept(sid)
        exact = dialogue.exact = ExactState(asked.life, shared.turns.open(sid))
        self._begun(exact, asked.wait, asked.began)
        exact.is_final = True
        exact.holding = asked.turn
        return dialogue

    def answered(self, exact: ExactState, held: LastTurn, frame: Any) -> None:
        """`frame` answers the turn that runs, and is kept for as long as that may be asked again."""
        self._shared.turns.answer(held, frame, self._shared.size(frame))
        exact.holding = 0
        exact.due = math.inf

    def not_answered(self, dialogue: Dialogue, turn: int) -> None:
        """The answer to `turn` was not sent after all."""
        exact = dialogue.exact
        if turn and exact is not None and dialogue.ending is None and self._shared.turns.unanswer(dialogue.key, turn):
            exact.holding = turn

    def leave(self, dialogue: Dialogue, code: str, text: str = "") -> None:
        """Tell the asker of the turn that runs in a session that no answer will come, rather than let it wait."""
        shared, exact = self._shared, dialogue.exact
        held = shared.turns.held(dialogue.key)
        if exact is None or held is None or not held.running:
            return
        if shared.find(dialogue.sid, own=not dialogue.incoming) is not dialogue:
            return  # the number is another session's by now
        turn, stream = held.turn, held.stream
        place = {} if stream is None else {"part": stream.made + 1}
        error = codes.join_error(code, text)
        frame = shared.say(dialogue.sid, exact.life, must=True, re=turn, error=error, end=True, **place)
        if frame is None:
            shared.turns.give_up(held.key, turn)
        elif stream is None:
            shared.turns.advance(held.key, PeerEvent.LEAVE)
            shared.turns.store(held, frame, shared.size(frame))
            exact.holding = 0
        else:
            shared.turns.add_part(held, frame, shared.size(frame), PeerEvent.LEAVE)
            self._completed(exact, stream)
        exact.advance(OpenedEvent.PEER_DONE)

    # -- one of many answers -----------------------------------------------------------------------------------------

    def part(self, dialogue: Dialogue, payload: Any, now: float, *, is_last: bool) -> Any:
        """The frame of the next of many answers, numbered and kept: there is room for it, and it is sent at once."""
        shared, exact, names = self._shared, dialogue.exact, self._shared.names
        assert exact is not None
        held, stream = exact.memory or shared.turns.held(dialogue.key), exact.stream
        assert held is not None
        assert stream is not None
        message, header = shared.dialect.open(payload, dialogue.sid, exact=True)
        header[names.re], header[names.part] = exact.holding, stream.made + 1
        if is_last:
            header[names.end] = True
        if exact.life is not None:
            header[names.life] = exact.life
        frame = shared.encode(message)
        exact.began = now  # how long it takes for the next: what an attempt is put off by
        event = PeerEvent.FINISH if is_last else PeerEvent.PART
        shared.turns.add_part(held, frame, shared.size(frame), event)
        if is_last:
            self._completed(exact, stream)
        return frame

    def _completed(self, exact: ExactState, stream: Departing) -> None:
        """The end is among the answers of a stream."""
        exact.holding = 0
        if exact.stream is stream:
            exact.stream = None
        exact.due = math.inf
        stream.stop()


def _end_nothing(_dialogue: Dialogue, _ending: Ending, _now: float, _cancels: bool) -> None:
    pass


def _has_no_place(_sid: int) -> bool:
    return False
