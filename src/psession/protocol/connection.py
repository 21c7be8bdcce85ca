"""The machine of a port that speaks PSession: messages come in, events come out; commands return what to send. Pure.

``receive(message, now)`` finds the session that a message belongs to and takes it one step further. Nothing here waits,
wakes, sends or logs: the shell carries the events out, and asks `take` for those that a command has left.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from psession.checks import LARGEST
from psession.errors import MalformedMessageError, MessageError
from psession.protocol import events
from psession.protocol import states as codes
from psession.protocol.answering import Answering
from psession.protocol.asking import Asking
from psession.protocol.counters import Counters, Drop
from psession.protocol.dialogue import Dialogue, ExactState
from psession.protocol.endings import ENDED, GIVEN_UP, PEER_ENDED, PEER_RESTARTED, UNANSWERED
from psession.protocol.header import LONGEST_WAIT, trace_of
from psession.protocol.machine import Machine
from psession.protocol.peer_turns import PeerTurns
from psession.protocol.shared import Shared
from psession.protocol.states import ASKER, Opened, OpenedEvent, Peer, Turn, TurnEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.credit import Arriving
    from psession.protocol.dialect import Dialect
    from psession.protocol.dialogue import AskedTurn
    from psession.protocol.endings import Ending
    from psession.protocol.handshake import Handshake
    from psession.protocol.header import Header, Trace
    from psession.protocol.machine import Part
    from psession.protocol.settings import Settings

PAST_LIVES: Final = 16
"""Lives of the peer's that are remembered as over. One message of each older one could be taken for a new life."""

_WAITING: Final = Turn.WAITING
_LISTENING: Final = Turn.LISTENING
_REPLIED: Final = ASKER[Turn.WAITING, TurnEvent.REPLY].to
_OPEN: Final = Opened.OPEN
_EXACT: Final = Peer.EXACT
_NEVER: Final = float("inf")
_NUMBERS: Final = (float, int)
_NOTHING: Final[list[events.Event]] = []


class Connection(Machine):
    """Both sides' sessions and turns on one port, on the classic and on the exact wire.

    Args:
        dialect: How headers are written and read.
        settings: What the connection goes by.
        handshake: What the two ports tell each other about themselves.
        encode: Makes a frame of a message; raises a `MessageError` for one that cannot travel.
        size: The bytes that a frame takes.
        life: The epoch of this port: a number from 1 to 2**53 - 1 that no other life of it has had.
        first_back: The number of the first question back (see `Asking`).
        counters: Where everything is counted, where somebody else counts there too.

    Attributes:
        handshake: What the two ports have told each other about themselves.
    """

    __slots__ = (
        "_answering",
        "_asking",
        "_asks_exactly",
        "_dialect",
        "_end_name",
        "_exact_names",
        "_life",
        "_new",
        "_part",
        "_past_lives",
        "_re",
        "_shared",
        "_sid_name",
        "_tells_questions",
        "_turn",
        "_wait",
        "begin",
        "grant",
        "handshake",
        "hold",
        "part",
    )

    begin: Callable[[AskedTurn, float, Arriving | None], None]
    grant: Callable[[AskedTurn, int], Any]
    hold: Callable[[Dialogue, int], None]
    part: Part
    handlers: int
    heard: float
    peer_closing: bool

    def __init__(
        self,
        dialect: Dialect,
        settings: Settings,
        handshake: Handshake,
        *,
        encode: Callable[[Any], Any],
        size: Callable[[Any], int],
        life: int,
        first_back: int,
        counters: Counters | None = None,
    ) -> None:
        counters = Counters() if counters is None else counters
        shared = self._shared = Shared(dialect, settings, encode, size, life, counters)
        super().__init__(shared)
        self._dialect = dialect
        self._asking = Asking(shared, first_back)
        self._answering = Answering(shared, self._end, self._has_place)
        self.begin, self.grant = self._asking.begin, self._asking.grant
        self.hold, self.part = self._answering.hold, self._answering.part
        self._past_lives: tuple[int, ...] = ()
        self.handshake: Handshake = handshake
        # For the fast way of `receive`:
        names = dialect.fields
        self._sid_name = dialect.session_id_name
        self._turn, self._re, self._wait, self._life = names.turn, names.re, names.wait, names.life
        self._part = names.part
        self._exact_names = dialect.exact_names
        self._new, self._end_name = names.new, names.end
        self._asks_exactly = dialect.asks_exactly
        self._tells_questions = dialect.tells_questions

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """The wire that the peer is known to speak."""
        return self._shared.peer

    @property
    def can_tell(self) -> bool:
        """True where there is a peer that understands what it is told."""
        return self._shared.can_tell

    @property
    def asks_exactly(self) -> bool:
        """True where this side numbers the turns that it asks."""
        return self._dialect.asks_exactly

    @property
    def streams(self) -> bool:
        """True where this side numbers the turns that it asks, and the answers to each."""
        return self._dialect.asks_exactly

    @property
    def held_bytes(self) -> int:
        """What the peer makes this side hold: stored answers, and sessions whose handlers are at work."""
        return self._shared.turns.stored_bytes + self._handler_bytes

    def dismiss(self) -> int:
        """Let some go of what nobody may miss: stored answers, the oldest first, then idle sessions of the peer's."""
        return self._shared.turns.shrink() or super().dismiss()

    def is_empty(self, payload: Any) -> bool:
        """Return True if a payload has no members, so that a message with it could be taken for a bare one."""
        return self._dialect.is_empty(payload)

    def is_exact(self, dialogue: Dialogue) -> bool:
        """Return True if what this side says in a session has exact fields."""
        return dialogue.exact is not None or (self._dialect.asks_exactly and not dialogue.incoming)

    # -- messages that come ------------------------------------------------------------------------------------------

    def receive(self, message: Any, now: float) -> list[events.Event]:
        """Take a message of the peer's. Never raises.

        The fast way comes first: for the reply that a turn waits for, the next of many, the credit for those, and the
        next message of a session that is open. It changes nothing where it gives up and leaves a message to the long
        way, which would come to the same.
        """
        self.heard = now
        while type(message) is dict:  # once: `break` leads to the long way
            sid = message.get(self._sid_name)
            if type(sid) is not int:
                break
            dialogue = self._own.get(sid)
            if dialogue is None:
                dialogue = self._peers.get(sid)
                if dialogue is None:
                    asked = self._asked_alone(message, sid, now) if self._settings.takes_requests else None
                    if asked is None:
                        break
                    return [asked]
            payload = message.copy()
            del payload[self._sid_name]
            exact, turn = dialogue.exact, dialogue.turn
            if exact is None:
                if self._tells_questions or not self._exact_names.isdisjoint(payload):
                    break
                if turn is None:
                    if not dialogue.incoming:
                        break
                    return [events.Received(dialogue, payload)]
                if turn.state is not _WAITING or not turn.sent or (self._asks_exactly and not dialogue.incoming):
                    break
                turn.state = _REPLIED
                turn.answered = True
                self.counters.matched += 1
                return [events.Answered(turn, payload)]
            pop = payload.pop
            if pop(self._life, None) != exact.life:
                break
            if turn is not None and turn.state is _LISTENING:
                arriving, re, part = turn.arriving, pop(self._re, None), pop(self._part, None)
                if turn.number != re or type(re) is not int or not self._exact_names.isdisjoint(payload):
                    break
                if arriving is None or type(part) is not int or not turn.sent or turn.deadline < now:
                    break
                if not arriving.arrive_next(part, payload):
                    break
                if exact.opened is not _OPEN:
                    exact.advance(OpenedEvent.ANSWERED)
                self._shared.peer = _EXACT
                self.counters.matched += 1
                return [events.Heard(turn)] if len(arriving.ready) == 1 else _NOTHING
            number, wait = pop(self._turn, None), pop(self._wait, None)
            if number is None:
                re = pop(self._re, None)
                if wait is not None or turn is None or turn.number != re or type(re) is not int or not re:
                    break
                if turn.state is not _WAITING or not turn.sent or not self._exact_names.isdisjoint(payload):
                    break
                turn.state = _REPLIED
                turn.answered = True
                if exact.opened is not _OPEN:
                    exact.advance(OpenedEvent.ANSWERED)
                self._shared.peer = _EXACT
                self.counters.matched += 1
                return [events.Answered(turn, payload)]
            memory = exact.memory
            if memory is None or type(number) is not int or number > LARGEST:
                break
            trace = None
            if not self._exact_names.isdisjoint(payload):
                trace = self._take_trace(payload)
                if trace is None:
                    if wait is not None or not self._answering.granted_more(memory, number, payload):
                        break
                    return _NOTHING
                if not self._exact_names.isdisjoint(payload):
                    break
            if wait is not None and (type(wait) not in _NUMBERS or not 0 < wait <= LONGEST_WAIT):
                break
            if not self._shared.turns.ask_next(memory, number):
                break
            exact.is_final = False
            exact.began = now
            exact.due = now + wait if wait is not None and self._settings.deadlines else _NEVER
            self._shared.peer = _EXACT
            return [events.Received(dialogue, payload, number, wait, trace)]
        self._receive(message, now)
        return self.take()

    def _asked_alone(self, message: dict[str, Any], sid: int, now: float) -> events.Asked | None:
        """A question that stands alone; ``None`` where a message is none or takes the long way: nothing was changed."""
        shared = self._shared
        if shared.is_closing or self.handlers >= self._settings.max_incoming_sessions or not 0 < sid <= LARGEST:
            return None
        payload = message.copy()
        del payload[self._sid_name]
        if self._exact_names.isdisjoint(payload):
            if self._settings.takes_dialogues or self._tells_questions or sid in self.sessions.pool:
                return None
            asked = events.Asked(sid, payload)
        else:
            pop = payload.pop
            life, number, wait = pop(self._life, None), pop(self._turn, None), pop(self._wait, None)
            if life is None or life != shared.peer_life or life == shared.life or type(number) is not int:
                return None
            if pop(self._new, None) is not True or pop(self._end_name, None) is not True:
                return None
            trace = None
            if not self._exact_names.isdisjoint(payload):
                trace = self._take_trace(payload)
                if trace is None or not self._exact_names.isdisjoint(payload):
                    return None
            if number > LARGEST:
                return None
            if wait is not None and (type(wait) not in _NUMBERS or not 0 < wait <= LONGEST_WAIT):
                return None
            memory = shared.turns.ask_alone(sid, number)
            if memory is None:
                return None
            shared.peer = _EXACT
            self._answering.marks_openings = True
            asked = events.Asked(sid, payload, number, memory, life, now, wait, trace)
        self.counters.accepted += 1
        self.handlers += 1
        return asked

    def _take_trace(self, payload: dict[str, Any]) -> Trace | None:
        """Take the asker's place in a trace off a message; ``None`` where there is none to be read."""
        names = self._dialect.fields
        return trace_of(payload.pop(names.traceparent, None), payload.pop(names.tracestate, None))

    def _receive(self, message: Any, now: float) -> None:
        """The long way."""
        shared = self._shared
        fields = self._dialect.fields_of(message)
        sid = None if fields is None else self._dialect.sid_of(fields)
        if fields is None or sid is None:
            self._receive_plain(message, fields)
            return
        if not self._speaks_exactly(fields, sid):
            self._receive_classic(message, fields, sid, now)
            return
        header = self._dialect.header_of(fields)
        if header is None or type(sid) is not int:
            shared.drop(Drop.MALFORMED, sid, "a field of the exact wire is not what it must be")
            return
        own = self._is_own(header, sid)
        if own is not None:
            if header.turn is not None or header.re is not None or header.life is not None:
                shared.peer = Peer.EXACT
            self._receive_exact(message, header, sid, now, own=own)

    def _speaks_exactly(self, fields: dict[str, Any], sid: int) -> bool:
        """Return True if the exact names in a message mean something.

        They do not in a session that was asked classically, nor from a peer that has never spoken exactly: a plain
        device may have a field of that name. Such a peer begins with a question, or answers one.
        """
        if self._exact_names.isdisjoint(fields) or all(fields.get(name) is None for name in self._exact_names):
            return False
        turn, life = fields.get(self._turn), fields.get(self._life)
        own = self._own.get(sid)
        if own is not None and own.exact is None and not self.is_exact(own):
            # An exact peer's own session may have the same number: its questions say who opened it.
            if life is not None and life == self._shared.peer_life:
                return True
            return turn is not None and life is not None and life != self._shared.life and self._opens(fields)
        if self._shared.peer is Peer.EXACT:
            return True
        if not self._asks_exactly:
            return self._opens(fields)
        if turn is not None or life is not None or fields.get(self._re) is not None:
            return True
        # A small device that numbers its posts, and says no more; the reply to a turn it would not number. One that has
        # answered without exact fields is a plain one, whose field it is.
        is_count = type(fields.get(self._dialect.fields.part)) is int
        return is_count and self._shared.peer is Peer.UNKNOWN and own is not None and own.turn is None

    def _opens(self, fields: dict[str, Any]) -> bool:
        """Return True if a message is an exact question by which a peer can be known as exact."""
        header = self._dialect.header_of(fields)
        return header is not None and header.turn is not None

    # -- on the classic wire -----------------------------------------------------------------------------------------

    def _receive_classic(self, message: Any, fields: dict[str, Any], sid: int, now: float) -> None:
        """A session's message without exact fields: whose it is, its number says, or the dialect where it can tell."""
        shared, sessions = self._shared, self.sessions
        try:
            payload = self._dialect.payload_of(message, exact=False)
        except MalformedMessageError as error:
            shared.drop(Drop.MALFORMED, sid, error.why)
            return
        asks = self._dialect.tells_questions and self._dialect.is_question(fields)
        dialogue = (None if asks else sessions.own.get(sid)) or sessions.peers.get(sid)
        if dialogue is not None:
            self._deliver(dialogue, payload, now, asks=asks)
        elif sid in sessions.pool and not asks:
            self._stray(sid)
        elif not self._settings.takes_sessions:
            shared.drop(Drop.NO_HANDLER, sid)
        elif shared.is_closing:
            shared.drop(Drop.CLOSING, sid)
        elif not self._has_place(sid):
            return
        elif self._settings.takes_requests and not self._settings.takes_dialogues:
            shared.emit(events.Asked(sid, payload))
        else:
            dialogue = sessions.accept(sid)
            shared.emit(events.Opened(dialogue))
            shared.emit(events.Received(dialogue, payload))

    def deliver(self, dialogue: Dialogue, message: Any, now: float) -> list[events.Event]:
        """Take a message that the caller says is this session's."""
        self.heard = now
        fields = self._dialect.fields_of(message)
        if (
            fields is not None
            and self._dialect.sid_of(fields) is not None
            and self._speaks_exactly(fields, dialogue.sid)
        ):
            return self.receive(message, now)
        try:
            payload = self._dialect.payload_of(message, exact=False) if fields is not None else message
        except MalformedMessageError as error:
            self._shared.drop(Drop.MALFORMED, dialogue.sid, error.why)
        else:
            asks = fields is not None and self._dialect.tells_questions and self._dialect.is_question(fields)
            self._deliver(dialogue, payload, now, asks=asks)
        return self.take()

    def _deliver(self, dialogue: Dialogue, payload: Any, now: float, *, asks: bool) -> None:
        """A message without exact fields for a session: the reply that its turn waits for, or one for the inbox."""
        shared, turn = self._shared, dialogue.turn
        if dialogue.ending is not None:
            shared.drop(Drop.LATE, dialogue.sid)
            return
        if self.is_exact(dialogue):
            if self._asking.unmarked(dialogue, payload):
                return
        elif turn is not None and turn.sent and turn.state is Turn.WAITING and not asks:
            turn.advance(TurnEvent.REPLY)
            turn.answered = True
            self.counters.matched += 1
            shared.emit(events.Answered(turn, payload))
            return
        elif dialogue.unsafe_until > now and not asks:
            # The number's last owner was recycled with a turn waiting, and this session has not asked anything yet.
            shared.drop(Drop.LATE, dialogue.sid)
            return
        shared.emit(events.Received(dialogue, payload))

    def _stray(self, sid: int) -> None:
        """A reply for a number of this side's that no session has. It is never answered."""
        shared, heard = self._shared, self.sessions.pool.heard(sid)
        reason = {"late": Drop.LATE, "duplicate": Drop.DUPLICATE}.get(heard, Drop.UNKNOWN_SID)
        detail = ""
        if reason is Drop.LATE and self._settings.takes_sessions and not self.counters.matched + self.counters.accepted:
            # Nothing has ever gone right here: it may as well be a question.
            detail = "or the peer asks under a number of this side's, if both sides have the same session_ids"
        shared.drop(reason, sid, detail)

    # -- on the exact wire -------------------------------------------------------------------------------------------

    def _is_own(self, header: Header, sid: int) -> bool | None:
        """Return True if a message is about a session of this side's, False if about one of the peer's.

        A session's messages carry the life of the side that opened it, so that the two may use the same numbers.
        ``None``: its side lives no more; the message was dropped. A question that opens a session may begin a new life.
        """
        shared, life = self._shared, header.life
        if life is None:
            return sid in self.sessions.pool  # a small device that does not tell
        if life == shared.life:
            return True
        if life == shared.peer_life:
            return False
        if life in self._past_lives:
            shared.drop(Drop.STALE_PEER, sid)
            return None
        if sid in self.sessions.pool and not header.new:
            shared.drop(Drop.STALE_OWN, sid)
            return None
        if shared.peer_life is not None:
            self._past_lives = (*self._past_lives, shared.peer_life)[-PAST_LIVES:]
            self._forget_peer()
        shared.peer_life = life
        return False

    def _receive_exact(self, message: Any, header: Header, sid: int, now: float, *, own: bool) -> None:
        shared, dialogue = self._shared, self._shared.find(sid, own=own)
        if header.end and header.turn is None and header.error == (None if header.re is None else codes.ENDED):
            self._peer_done(dialogue, sid, header, now, own=own)
            return
        if header.turn is not None and header.error is not None and header.re is None:
            self._answering.given_up(dialogue, sid, header, now, own=own)
            return
        bare = self._dialect.is_bare(message)
        payload: Any = None
        if header.error is None:
            try:
                payload = self._dialect.payload_of(message, exact=True)
            except MalformedMessageError as error:
                if not (bare and _says_it_all(header)):
                    shared.drop(Drop.MALFORMED, sid, error.why)
                    self._refuse_malformed(header, sid, own=own)
                    turn = dialogue.turn if dialogue is not None else None
                    if turn is not None and header.re is not None and self._asking.takes(turn, header):
                        self._asking.unreadable(turn, error.why)
                    return
        if header.re is not None:
            self._replied(dialogue, sid, header, payload, now, own=own, bare=bare)
        elif header.turn is not None:
            self._answering.asked(dialogue, sid, header, payload, now, own=own, bare=bare)
        else:
            self._posted(dialogue, sid, header, payload)

    def _refuse_malformed(self, header: Header, sid: int, *, own: bool) -> None:
        """A question whose payload cannot be read is refused, rather than left to time out."""
        turn, key = header.turn, -sid if own else sid
        if turn is not None and header.re is None and turn > self._shared.turns.last(key):
            self._answering.refuse(key, header, codes.MALFORMED)

    def _replied(
        self, dialogue: Dialogue | None, sid: int, header: Header, payload: Any, now: float, *, own: bool, bare: bool
    ) -> None:
        """A message that answers a turn; it may ask one as well."""
        turn = dialogue.turn if dialogue is not None else None
        if dialogue is None or turn is None or not self._asking.takes(turn, header):
            self._asking.stray(header.re or 0, sid)
            if header.turn is not None:
                self._answering.asked_beside_a_stray_answer(dialogue, sid, header, now, own=own)
            return
        if header.turn is not None and header.error is None and self._answering.asked_back(dialogue, header):
            self._asking.exact(dialogue)
            self._answering.begin_back(dialogue, header, now)
        if turn.arriving is None:
            self._asking.replied(dialogue, turn, header, payload, now)
        else:
            self._asking.heard(dialogue, turn, header, payload, now, bare=bare and header.end)

    def _peer_done(self, dialogue: Dialogue | None, sid: int, header: Header, now: float, *, own: bool) -> None:
        """The peer says that it is done with a session, after the turn of this side's that it names."""
        if dialogue is None:
            if own and self.sessions.pool.wake(sid):
                self._shared.emit(events.NumberFree())
            return
        if not own:
            self._answering.give_up(dialogue, PEER_ENDED, now)
            return
        exact = self._asking.exact(dialogue)
        if header.re is not None and header.re != exact.last_turn:
            self._shared.drop(Drop.DUPLICATE, sid)  # it is about an earlier session of the number, or met the next turn
            return
        exact.advance(OpenedEvent.PEER_DONE)
        if dialogue.turn is None:  # else the answer may still come: the turn's end is the session's
            self._end(dialogue, PEER_ENDED, now)

    def _posted(self, dialogue: Dialogue | None, sid: int, header: Header, payload: Any) -> None:
        """A message that neither asks nor answers a turn."""
        shared = self._shared
        if dialogue is None:
            shared.drop(Drop.NO_SESSION, sid)
            return
        exact = dialogue.exact
        if exact is not None and header.part is not None:
            if header.part <= exact.heard:
                shared.drop(Drop.DUPLICATE, sid)
                return
            exact.heard = header.part
        shared.emit(events.Received(dialogue, payload))

    # -- about the port itself ---------------------------------------------------------------------------------------

    def _receive_plain(self, message: Any, fields: dict[str, Any] | None) -> None:
        """A message that is no session's: it may be about the port itself."""
        shared, handshake = self._shared, self.handshake
        header = handshake.read(fields) if type(message) is dict or fields is not None else None
        if header is None or not (shared.peer is Peer.EXACT or self._dialect.asks_exactly or header.new):
            try:
                payload = self._dialect.whole(message)
            except MalformedMessageError as error:
                shared.drop(Drop.MALFORMED, None, error.why)
                return
            shared.emit(events.Plain(payload))
            return
        shared.peer = Peer.EXACT
        if header.new:
            handshake.guest_life = header.life
            self._say_plain(handshake.welcome())
        elif header.end and header.turn is not None:
            if not self.peer_closing or header.turn < handshake.last_taken:
                handshake.last_taken = header.turn
                self._asking.refuse_openings(
                    header.turn
                )  # said again, it refuses nothing more: no look at all sessions
            self.peer_closing = True
            shared.emit(events.PeerClosing())
        elif header.end:
            handshake.peer_left = True
        elif header.wait is not None:
            self._say_plain(handshake.sign_of_life())
        else:
            before = handshake.host_life
            if handshake.welcomed(message) is False and before is not None:
                self._reopened(known=False)  # somebody else answers on the link that stands

    def _say_plain(self, message: dict[str, Any]) -> None:
        """Have a message about the port sent, where the codec has a form for it."""
        with suppress(MessageError):
            self._shared.emit(events.Say(self._encode(message)))

    def reopened(self, *, known: bool) -> list[events.Event]:
        """The link is back. What was on its way is asked again, where the peer still knows this side."""
        self.counters.resumed += known
        self._reopened(known=known)
        return self.take()

    def _reopened(self, *, known: bool) -> None:
        if known:
            self._asking.ask_again()
            return
        self.counters.forgotten += 1
        self.peer_closing = False
        self._forget_peer()
        self._asking.forgotten()

    def _forget_peer(self) -> None:
        """The peer began a new life: what it asked in the last one is over."""
        now = 0.0  # no number of this side's rests for a session of the peer's
        for dialogue in list(self._peers.values()):
            self._end(dialogue, PEER_RESTARTED, now)
        for dialogue in self._own.values():
            if dialogue.exact is not None:
                dialogue.exact.holding = 0  # a turn of the next life may have the same number
        self._shared.turns.stop_streams()
        self._shared.turns = PeerTurns(self._settings.max_answer_bytes)

    def malformed(self, why: str) -> list[events.Event]:
        """Take note of what came in place of a message: it cannot be read."""
        self._shared.drop(Drop.MALFORMED, None, why)
        return self.take()

    # -- commands: sessions ------------------------------------------------------------------------------------------

    def _is_silent(self, dialogue: Dialogue, exact: ExactState) -> bool:
        return exact.opened is _OPEN and self._shared.turns.held(-dialogue.sid) is None

    def _ended(self, dialogue: Dialogue, ending: Ending) -> None:
        exact = dialogue.exact
        if exact is not None:
            self._say_over(dialogue, exact, ending)
            if exact.stream is not None:
                exact.stream.wake()
            if dialogue.incoming:
                exact.memory = None
                self._shared.turns.close(dialogue.sid)

    def _say_over(self, dialogue: Dialogue, exact: ExactState, ending: Ending) -> None:
        """Tell the peer once that a session has ended here; a turn of its own is answered with an error."""
        shared, key = self._shared, dialogue.key
        if not shared.can_tell:
            shared.turns.stop(key)
            return
        if exact.opened is Opened.DONE:
            shared.turns.stop(key)
            return
        was_told = exact.opened is Opened.TOLD
        self._answering.leave(dialogue, ending.code or codes.UNANSWERED)
        if was_told or exact.is_over:
            return
        if dialogue.incoming:
            exact.advance(OpenedEvent.TELL)
            last = shared.turns.last(key)
            named: dict[str, Any] = {"re": last, "error": codes.ENDED} if last else {}
            shared.say(dialogue.sid, exact.life, **named, end=True)
        else:
            self._asking.end_session(dialogue, ending.code or codes.ENDED)

    def _owed(self, dialogue: Dialogue) -> int:
        """Replies that may still come to the number of a session, and be taken for another's."""
        if dialogue.exact is not None and self._shared.peer is Peer.EXACT:
            return 0
        turn = dialogue.turn
        return dialogue.owed + (turn.sent - turn.answered if turn is not None else 0)

    # -- commands: this side's turns ---------------------------------------------------------------------------------

    def is_unsafe(self, dialogue: Dialogue) -> bool:
        """Return True if a reply of the past may be taken for the answer to the next turn under this number."""
        if not dialogue.owed and not dialogue.unsafe_until:
            return False
        return not self.is_exact(dialogue) or self._shared.peer is Peer.CLASSIC

    def ask(self, turn: AskedTurn, payload: Any, within: float) -> Any:
        """The frame of one attempt (see `Asking.question`).

        Raises:
            MessageError: It cannot travel.
        """
        if not turn.number:
            return self._encode(self._dialect.open(payload, turn.dialogue.sid, exact=False)[0])
        frame = self._asking.question(turn, payload, within)
        if turn.answers:
            dialogue = turn.dialogue
            exact = self._asking.exact(dialogue)
            held = self._answering.owed_to(dialogue, exact, turn.answers)
            if held is not None:
                self._answering.answered(exact, held, frame)
        return frame

    def turn_over(self, turn: AskedTurn, code: str, now: float) -> list[events.Event]:
        """A turn leaves its session. Without its answer an exact peer is told `code`.

        The fast way is for nearly every turn: it was answered, in a session that both sides have.
        """
        dialogue = turn.dialogue
        dialogue.turn = None
        turn.due = _NEVER
        exact = dialogue.exact
        if turn.answered and turn.sent == 1 and not dialogue.owed and (exact is None or exact.opened is _OPEN):
            return self.take() if self._shared.events else _NOTHING
        if turn.answered and exact is not None and turn.number:
            if exact.opened is not _OPEN and self._asking.over(turn, code):
                self._end(dialogue, PEER_ENDED, now)
            if self._shared.peer is _EXACT:
                return self.take()
        elif turn.number and self._asking.over(turn, code):
            self._end(dialogue, PEER_ENDED, now)
        if turn.state is not Turn.IDLE:
            turn.advance(TurnEvent.GIVE_UP)
        if turn.number and self._shared.peer is Peer.EXACT:
            if dialogue.ending is None and self._settings.on_unanswered == "end":
                self._end(dialogue, UNANSWERED, now)
        elif dialogue.ending is None:
            dialogue.owed += turn.sent - turn.answered
            if dialogue.owed and self._settings.on_unanswered == "end":
                self._end(dialogue, UNANSWERED, now)
        return self.take()

    # -- commands: what this side says ---------------------------------------------------------------------------------

    def post(self, dialogue: Dialogue, payload: Any) -> tuple[Any, int, bool]:
        """Make the frame of a message that wants no reply.

        Returns:
            The frame, the turn of the peer's that it answers (0: none), and True where it opens the session.

        Raises:
            MessageError: It cannot travel.
        """
        exact = dialogue.exact
        if exact is None:
            if dialogue.incoming or not self._asks_exactly:
                return self._encode(self._dialect.open(payload, dialogue.sid, exact=False)[0]), 0, False
            exact = self._asking.exact(dialogue)
        names, asked = self._dialect.fields, exact.holding
        held = self._answering.owed_to(dialogue, exact, asked) if asked else None
        message, header = self._dialect.open(payload, dialogue.sid, exact=True)
        opens = False
        if held is not None:
            header[self._re] = asked
        elif exact.must_open and not dialogue.incoming and not (dialogue.turn is not None and dialogue.turn.is_asked):
            # What opens a session is a turn, so that a copy of it cannot open it again, but one that waits 0 seconds.
            header[names.turn], header[names.new], header[names.wait] = self._asking.number(dialogue, exact), True, 0
            opens = True
        else:
            exact.posted += 1
            header[names.part] = exact.posted
        if exact.life is not None:
            header[self._life] = exact.life
        frame = self._encode(message)
        if held is not None:
            self._answering.answered(exact, held, frame)
        elif opens:
            exact.advance(OpenedEvent.POSTED)
        return frame, asked if held is not None else 0, opens

    def answer(self, asked: events.Asked, payload: Any) -> Any:
        """The frame that answers a question which stands alone; ``None`` where nobody waits for it any more.

        Raises:
            MessageError: It cannot travel.
        """
        if asked.memory is None:
            return self._encode(self._dialect.open(payload, asked.sid, exact=False)[0])
        return self._answering.answer(asked, asked.memory, payload)

    def keep(self, asked: events.Asked) -> Dialogue:
        """A session for a question which stands alone: its answer takes time, or room.

        One of the classic wire, or that nobody waits for any more, is over already.
        """
        dialogue = None if asked.memory is None else self._answering.keep(asked, asked.memory)
        if dialogue is None:
            dialogue = Dialogue(asked.sid, 0.0, incoming=True)
            dialogue.ending = ENDED if asked.memory is None else GIVEN_UP
            dialogue.exact = None if asked.memory is None else ExactState(asked.life)
        return dialogue

    def not_posted(self, dialogue: Dialogue, answers: int, *, opened: bool) -> None:
        """A post was not sent after all.

        Args:
            dialogue: The session.
            answers: The turn of the peer's that it answered; 0: none.
            opened: True where it opened the session.
        """
        if opened and dialogue.exact is not None:
            dialogue.exact.advance(OpenedEvent.UNSENT)
        self._answering.not_answered(dialogue, answers)

    def answer_sent(self, dialogue: Dialogue, now: float) -> list[events.Event]:
        """The answer is on its way: a session whose opener wants no more is over."""
        exact = dialogue.exact
        if exact is not None and exact.is_final:
            exact.advance(OpenedEvent.PEER_DONE)
            self._end(dialogue, PEER_ENDED, now)
        return self.take()

    def leave(self, dialogue: Dialogue, code: str, text: str = "", data: Any = None) -> list[events.Event]:
        """No answer will come to the turn that runs in a session: its asker is told; `data` where there is a place."""
        self._answering.leave(dialogue, code, text)
        return self.take()

    def stop(self, dialogue: Dialogue) -> None:
        """The time of the asker is over, by this side's clock: it waits no more, or will be told when it asks again."""
        self._shared.turns.stop(dialogue.key)
        if dialogue.exact is not None:
            dialogue.exact.advance(OpenedEvent.PEER_DONE)

    def plain(self, payload: Any) -> Any:
        """The frame of a message that is no session's.

        Raises:
            MessageError: It cannot travel, or would be taken for a session's.
        """
        self._dialect.check_plain(payload)
        return self._encode(payload)

    # -- commands: the port ------------------------------------------------------------------------------------------

    def drain(self) -> list[events.Event]:
        """Take no new sessions; an exact peer is told the last turn that was taken."""
        self.is_draining = self._shared.is_closing = True
        if self._shared.peer is Peer.EXACT:
            self._say_plain(self.handshake.closing(self._shared.turns.highest))
        return self.take()

    def forget(self) -> None:
        """Let go of stored answers, which nobody will ask for: this may be held for some time. No circle remains."""
        self._answering.let_go()
        self._shared.turns = PeerTurns(self._settings.max_answer_bytes)

    def ask_for_life(self, patience: float) -> list[events.Event]:
        """Ask the peer for a sign of life within so many seconds."""
        self._say_plain(self.handshake.ask_for_life(patience))
        return self.take()

    def close(self, ending: Ending, now: float) -> list[events.Event]:
        """The port is over: every session ends."""
        handshake = self.handshake
        if self.peer_closing:  # what left this side after the peer had said so was not taken either
            self._asking.refuse_openings(handshake.last_taken)
        self._close_all(ending, now)
        if (handshake.ticket or handshake.secret) and self.can_tell:
            self._say_plain(handshake.goodbye())
        return self.take()


def _says_it_all(header: Header) -> bool:
    """Return True if a message without anything of the application's is a word of the protocol's alone."""
    if header.re is not None:
        return header.end or (header.wait is not None and header.turn is None)
    return header.turn is not None and header.credit is not None and header.part is None and not header.new
