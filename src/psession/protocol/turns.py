"""The machine of a port whose protocol knows no sessions, only questions and answers: see `TurnDialect`. Pure.

A session of this side's is its application's alone: turns one after the other. The ids of the wire belong to turns,
this side's and the peer's in two tables.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from psession import errors
from psession.checks import LARGEST
from psession.errors import MalformedMessageError, MessageError
from psession.protocol import events
from psession.protocol import states as codes
from psession.protocol.counters import Drop
from psession.protocol.credit import Departing, Item
from psession.protocol.dialogue import Dialogue, ExactState
from psession.protocol.endings import GIVEN_UP, PEER_ENDED, UNANSWERED
from psession.protocol.machine import Machine
from psession.protocol.shared import Ground
from psession.protocol.states import ASKER, Peer, Turn, TurnDo, TurnEvent
from psession.protocol.turn_dialect import (
    Answer,
    End,
    Event,
    Failure,
    Part,
    Question,
    Withdrawn,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from psession.protocol.counters import Counters
    from psession.protocol.credit import Arriving
    from psession.protocol.dialogue import AskedTurn
    from psession.protocol.endings import Ending
    from psession.protocol.machine import Part as PartCommand
    from psession.protocol.settings import Settings
    from psession.protocol.turn_dialect import TurnDialect

MAX_GIVEN_UP: Final = 4096
"""Questions given up whose late answers are known as such; and, where answers come in order, that may be waited for."""

ALONE: Final = 1
"""The number of a question of the peer's in its session: there is one in each."""

_REPLIED: Final = ASKER[Turn.WAITING, TurnEvent.REPLY].to
_WORDS: Final = (Answer, Part, End, Failure, Question, Withdrawn, Event)
_NEVER: Final = float("inf")


class TurnConnection(Machine):
    """Both sides' turns on one port.

    Args:
        dialect: How messages are written and read; one for this link alone.
        settings: What the connection goes by.
        encode: Makes a frame of a message; raises a `MessageError` for one that cannot travel.
        counters: Where everything is counted.
    """

    __slots__ = ("_dialect", "_gone", "_latest", "_theirs", "_turns", "begin", "grant", "hold", "part")

    begin: Callable[[AskedTurn, float, Arriving | None], None]
    grant: Callable[[AskedTurn, int], Any]
    hold: Callable[[Dialogue, int], None]
    part: PartCommand

    def __init__(
        self, dialect: TurnDialect, settings: Settings, *, encode: Callable[[Any], Any], counters: Counters
    ) -> None:
        super().__init__(Ground(settings, encode, counters))
        self._dialect = dialect
        self._turns: dict[Hashable, AskedTurn | None] = {}
        self._gone: OrderedDict[Hashable, None] = OrderedDict()
        self._theirs: dict[Hashable, Dialogue | None] = {}
        self._latest: dict[AskedTurn, Any] = {}
        self.begin, self.grant, self.hold, self.part = self._begin, self._grant, self._hold, self._part

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """It speaks neither wire of PSession."""
        return Peer.UNKNOWN

    @property
    def asks_exactly(self) -> bool:
        """The messages have no exact fields."""
        return False

    @property
    def answers_none(self) -> bool:
        """True: whoever asks waits for an answer, and most such protocols have a word for none."""
        return True

    @property
    def streams(self) -> bool:
        """True where the dialect knows them."""
        return self._dialect.streams

    def is_exact(self, dialogue: Dialogue) -> bool:
        """Return True where a session's questions may have many answers: they count as those of the exact wire."""
        return self._dialect.streams

    def is_empty(self, payload: Any) -> bool:
        """Return True if a payload could be taken for the end of a stream."""
        return False

    # -- messages that come ------------------------------------------------------------------------------------------

    def receive(self, message: Any, now: float) -> list[events.Event]:
        """Take a message of the peer's. Never raises, whatever the dialect does."""
        self.heard = now
        try:
            words = self._dialect.read(message)
            read: Iterable[Word] = (words,) if isinstance(words, _WORDS) else words
            for word in read:
                self._take(word, now)
        except Exception as error:
            return self.malformed(error.why if isinstance(error, errors.SessionError) else f"{error!r}"[:200])
        return self.take()

    def deliver(self, dialogue: Dialogue, message: Any, now: float) -> list[events.Event]:
        """Take a message: whose it is, it says itself."""
        return self.receive(message, now)

    def malformed(self, why: str) -> list[events.Event]:
        """Take note of what cannot be read; the peer is told where the dialect has a word for it."""
        self._ground.drop(Drop.MALFORMED, None, why)
        self._say(self._dialect.malformed(why))
        return self.take()

    def _take(self, word: Word, now: float) -> None:
        kind = type(word)
        if kind is Event:
            self._ground.emit(events.Plain(word.payload))  # type: ignore[union-attr]
        elif kind is Question:
            self._asked(word.id, word.payload, now)  # type: ignore[union-attr]
        elif kind is Withdrawn:
            self._withdrawn(word.id, now)  # type: ignore[union-attr]
        else:
            self._answered(word, now)  # type: ignore[arg-type]

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answered(self, word: Answer | Part | End | Failure, now: float) -> None:
        id = word.id
        turn = self._turns.get(id)
        if turn is None or not turn.sent:
            self._stray(id, word.text if type(word) is Failure else "")
        elif turn.arriving is not None:
            self._heard(turn, word)
        elif type(word) is Part:
            if turn.advance(TurnEvent.BUSY) is TurnDo.POSTPONE:
                self._latest[turn] = word.payload
                longer = now + max(now - turn.started, 1.0)
                self._ground.emit(events.Postponed(turn, min(turn.deadline, longer)))
        elif type(word) is Failure:
            self._close(turn)
            if turn.advance(TurnEvent.ERROR) is TurnDo.RAISE:
                self._failed(turn, word)
        else:
            payload = word.payload if type(word) is Answer else self._latest.get(turn)
            self._close(turn)
            if turn.advance(TurnEvent.REPLY) is TurnDo.TAKE:
                turn.answered = True
                self.counters.matched += 1
                self._ground.emit(events.Answered(turn, payload))

    def _heard(self, turn: AskedTurn, word: Answer | Part | End | Failure) -> None:
        """Take one of many answers, or their end."""
        arriving, ground = turn.arriving, self._ground
        assert arriving is not None
        if type(word) is Part:
            arriving.credit = arriving.consumed + arriving.window  # without credit on the wire
            event = arriving.arrive(arriving.next, Item(word.payload, holds_none=True))
            if turn.advance(event) is TurnDo.STOP_OVERRUN:
                self.counters.overrun += 1
                ground.emit(events.Overrun(turn))
                return
            self.counters.matched += 1
        elif type(word) is Failure:
            self._close(turn)
            arriving.close(Item(None, is_last=True, error=str(word.code)))
            turn.advance(TurnEvent.ERROR)
            self._failed(turn, word)
            return
        else:
            self._close(turn)
            is_reply = type(word) is Answer
            arriving.close(Item(word.payload if is_reply else None, is_last=True, holds_none=is_reply))  # type: ignore[union-attr]
            turn.advance(TurnEvent.REPLY)
            turn.answered = True
            self.counters.matched += 1
        ground.emit(events.Heard(turn))

    def _failed(self, turn: AskedTurn, word: Failure) -> None:
        turn.answered = True
        self.counters.failed += 1
        self._ground.emit(events.Refused(turn, word.code, word.text, word.data, word.is_refusal, word.is_unsent))

    def _close(self, turn: AskedTurn) -> None:
        """A turn has its outcome: none of its ids is open any more."""
        for id in turn.ids:
            del self._turns[id]
            del self._dialect.asked[id]
            if len(turn.ids) > 1:
                self._note_gone(id)
        turn.ids = ()
        self._latest.pop(turn, None)

    def _note_gone(self, id: Hashable) -> None:
        self._gone[id] = None
        if len(self._gone) > MAX_GIVEN_UP:
            self._gone.popitem(last=False)

    def _stray(self, id: Hashable, detail: str = "") -> None:
        """Count an answer to no turn that waits."""
        if id in self._turns and self._turns[id] is None:  # in order: the place of one that was given up
            del self._turns[id]
            del self._dialect.asked[id]
            self._ground.drop(Drop.LATE, id)
        elif id in self._gone:
            del self._gone[id]
            self._ground.drop(Drop.LATE, id)
        else:
            self._ground.drop(Drop.UNKNOWN_SID, id, detail)

    # -- questions of the peer's -------------------------------------------------------------------------------------

    def _asked(self, id: Hashable, payload: Any, now: float) -> None:
        ground = self._ground
        if id in self._theirs:
            ground.drop(Drop.DUPLICATE, id)
            self._fail(id, f"{codes.REFUSED}.duplicate", "a question of this id is open")
        elif not self._settings.takes_requests:
            ground.drop(Drop.NO_HANDLER, id)
            self._fail(id, codes.NO_HANDLER, "nobody answers questions here")
        elif ground.is_closing:
            ground.drop(Drop.CLOSING, id)
            self._fail(id, codes.CLOSING)
        elif not self._has_place(id):
            self._fail(id, codes.FULL)
        else:
            self._theirs[id] = None
            ground.emit(events.Asked(id, payload, ALONE, began=now))

    def _withdrawn(self, id: Hashable, now: float) -> None:
        """The peer gives its question up; it is told that there is no answer, where its protocol wants that."""
        if id not in self._theirs:
            self._ground.drop(Drop.LATE, id)  # it crossed its answer
            return
        dialogue = self._theirs.pop(id)
        self.counters.given_up += 1
        self._fail(id, codes.CANCELLED)
        if dialogue is not None:
            self._end(dialogue, GIVEN_UP, now, cancels=True)

    def _fail(self, id: Hashable, code: str, text: str = "", data: Any = None) -> None:
        with suppress(MalformedMessageError):
            self._say(self._dialect.fail(id, code, text, data))

    def _say(self, message: Any) -> None:
        """Have a message of the dialect's own sent, where there is one and the codec has a form for it."""
        if message is not None and self._ground.is_connected:
            with suppress(MessageError):
                self._ground.emit(events.Say(self._encode(message), must=True))

    # -- commands: sessions ------------------------------------------------------------------------------------------

    def _ended(self, dialogue: Dialogue, ending: Ending) -> None:
        exact = dialogue.exact
        if exact is not None and exact.stream is not None:
            exact.stream.stop()
        if dialogue.incoming and dialogue.sid in self._theirs:
            del self._theirs[dialogue.sid]
            self._fail(dialogue.sid, ending.code or codes.UNANSWERED)

    def _owed(self, dialogue: Dialogue) -> int:
        return 0  # its number is not on the wire

    # -- commands: this side's turns ---------------------------------------------------------------------------------

    def _begin(self, turn: AskedTurn, total: float, arriving: Arriving | None) -> None:
        """Begin a turn; without credit on the wire its answers are held up to the limit of an inbox."""
        turn.total = total
        turn.deadline = turn.started + total
        if arriving is not None:
            arriving.window = arriving.credit = max(arriving.window, self._settings.inbox_limit)
            turn.state = Turn.LISTENING
            turn.arriving = arriving

    def ask(self, turn: AskedTurn, payload: Any, within: float) -> Any:
        """The frame of one attempt; ``None`` where the dialect does not ask again.

        Raises:
            MessageError: It cannot travel.
        """
        dialect = self._dialect
        if turn.ids and not dialect.repeats:
            return None
        if dialect.in_order and len(self._turns) >= MAX_GIVEN_UP:
            raise errors.SessionOverflowError(
                f"the peer answers in order, and owes {len(self._turns)} answers already", outcome="not_sent"
            )
        id = dialect.new_id()
        if id in self._turns:
            raise MalformedMessageError(f"{type(dialect).__name__}.new_id() gave {id!r}, which an open question has")
        frame = self._encode(dialect.ask(payload, id))
        self._turns[id] = turn
        dialect.asked[id] = payload
        turn.ids = (*turn.ids, id)
        return frame

    def _grant(self, turn: AskedTurn, credit: int) -> None:
        """There is no credit on the wire."""

    def is_unsafe(self, dialogue: Dialogue) -> bool:
        """An id is one turn's alone."""
        return False

    def not_sent(self, turn: AskedTurn) -> None:
        """The sender refused the last attempt: no answer comes to its id, and the next attempt asks under another."""
        *others, id = turn.ids
        turn.ids = tuple(others)
        del self._turns[id]
        del self._dialect.asked[id]
        if not self._dialect.in_order:
            self._note_gone(id)  # in case that it was sent after all
        self._dialect.unsent(id)

    def turn_over(self, turn: AskedTurn, code: str, now: float) -> list[events.Event]:
        """A turn leaves its session; without its answer the peer is told, where the dialect has a word for it."""
        dialogue = turn.dialogue
        dialogue.turn = None
        turn.due = _NEVER
        for id in turn.ids:
            self._leave_open(id, turn)
        turn.ids = ()
        self._latest.pop(turn, None)
        if turn.state is not Turn.IDLE:
            turn.advance(TurnEvent.GIVE_UP)
        if not turn.answered and dialogue.ending is None and self._settings.on_unanswered == "end":
            self._end(dialogue, UNANSWERED, now)
        return self.take()

    def _leave_open(self, id: Hashable, turn: AskedTurn) -> None:
        """Leave a question that was not answered."""
        dialect = self._dialect
        payload = dialect.asked[id]
        if turn.sent and dialect.in_order:
            self._turns[id] = None
        else:
            del self._turns[id]
            del dialect.asked[id]
        if not turn.sent:
            dialect.unsent(id)
            return
        if not dialect.in_order:
            self._note_gone(id)
        self._say(dialect.quit(id, payload))

    # -- commands: what this side says -------------------------------------------------------------------------------

    def post(self, dialogue: Dialogue, payload: Any) -> tuple[Any, int, bool]:
        """The frame that answers the peer's question, or a message that wants no answer.

        Raises:
            MessageError: It cannot travel.
        """
        if not dialogue.incoming:
            return self.plain(payload), 0, False
        message = self._dialect.answer(dialogue.sid, payload)
        frame = None if message is None else self._encode(message)
        self._theirs.pop(dialogue.sid, None)
        assert dialogue.exact is not None
        dialogue.exact.holding = 0
        return frame, ALONE, False

    def not_posted(self, dialogue: Dialogue, answers: int, *, opened: bool) -> None:
        """The answer was not sent after all."""
        if answers and dialogue.ending is None and dialogue.exact is not None:
            self._theirs[dialogue.sid] = dialogue
            dialogue.exact.holding = ALONE

    def answer_sent(self, dialogue: Dialogue, now: float) -> list[events.Event]:
        """The answer is on its way: the session of its question is over."""
        if dialogue.incoming and dialogue.sid not in self._theirs:
            self._end(dialogue, PEER_ENDED, now)
        return self.take()

    def answer(self, asked: events.Asked, payload: Any) -> Any:
        """The frame that answers a question; ``None`` where it was given up, or nothing is to be sent now.

        Raises:
            MessageError: It cannot travel.
        """
        if asked.sid not in self._theirs:
            return None
        message = self._dialect.answer(asked.sid, payload)
        frame = None if message is None else self._encode(message)
        del self._theirs[asked.sid]
        return frame

    def keep(self, asked: events.Asked) -> Dialogue:
        """A session for a question whose answer takes time."""
        if asked.sid not in self._theirs:
            dialogue = Dialogue(asked.sid, 0.0, incoming=True)
            dialogue.ending, dialogue.exact = GIVEN_UP, ExactState(None)
            return dialogue
        dialogue = self._theirs[asked.sid] = self.sessions.accept(asked.sid)
        exact = dialogue.exact = ExactState(None)
        exact.is_final = True
        exact.holding = ALONE
        if self._dialect.is_stream(asked.payload):
            exact.stream = Departing(LARGEST)
        return dialogue

    def _hold(self, dialogue: Dialogue, question: int) -> None:
        """It is held from the beginning."""

    def _part(self, dialogue: Dialogue, payload: Any, now: float, *, is_last: bool) -> Any:
        """The frame of one of many answers; an empty one that is the last is their end."""
        id, exact = dialogue.sid, dialogue.exact
        assert exact is not None
        assert exact.stream is not None
        if is_last:
            frame = self._encode(self._dialect.end(id))
            exact.stream.is_complete = True
            exact.stream.stop()
            exact.stream, exact.holding = None, 0
            self._theirs.pop(id, None)
            return frame
        frame = self._encode(self._dialect.part(id, payload))
        exact.stream.made += 1
        return frame

    def leave(self, dialogue: Dialogue, code: str, text: str = "", data: Any = None) -> list[events.Event]:
        """No answer will come to the peer's question: it is told."""
        if self._theirs.pop(dialogue.sid, None) is not None:
            self._fail(dialogue.sid, code, text, data)
            assert dialogue.exact is not None
            dialogue.exact.holding = 0
        return self.take()

    def stop(self, dialogue: Dialogue) -> None:
        """Nobody's time is over: the peer does not say how long it waits."""

    def plain(self, payload: Any) -> Any:
        """The frame of a message that wants no answer.

        Raises:
            MessageError: It cannot travel.
        """
        return self._encode(self._dialect.tell(payload))

    # -- commands: the port ------------------------------------------------------------------------------------------

    def drain(self) -> list[events.Event]:
        """Take no new questions; each is refused."""
        self.is_draining = self._ground.is_closing = True
        return self.take()

    def close(self, ending: Ending, now: float) -> list[events.Event]:
        """The port is over: every session ends, and every question of the peer's."""
        self._close_all(ending, now)
        for id in list(self._theirs):
            self._fail(id, ending.code or codes.UNANSWERED)
        self._theirs.clear()
        return self.take()

    def forget(self) -> None:
        """Nothing is kept for a peer that asks again."""

    def reopened(self, *, known: bool) -> list[events.Event]:
        """No link of such a protocol comes back."""
        return []

    def ask_for_life(self, patience: float) -> list[events.Event]:
        """The protocol has no word for it."""
        return []
