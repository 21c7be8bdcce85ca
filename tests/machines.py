"""A connection without a port, an event loop or a clock, driven by the deeds of a history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psession import Exact
from psession.errors import SessionError
from psession.options import Options
from psession.protocol import states
from psession.protocol.connection import Connection
from psession.protocol.credit import Arriving, Departing
from psession.protocol.dialogue import AskedTurn, Dialogue
from psession.protocol.endings import CANCELLED, ENDED
from psession.protocol.events import Asked
from psession.protocol.handshake import Handshake
from psession.protocol.peer_turns import LastTurn
from psession.protocol.states import Turn, TurnEvent

if TYPE_CHECKING:
    from psession.protocol.events import Event

LIFE = 100
"""The life of this side's port."""

PEER_LIFE = 500
"""The life of the peer's."""

FRAME_BYTES = 100


async def _handle(session: object) -> None:
    raise AssertionError("there is no loop to run a handler")


def connection(options: Options | None = None, kind: type[Connection] = Connection) -> Connection:
    """A connection of these options; without any it asks exactly and takes sessions."""
    options = options or Options(dialect=Exact(), on_session=_handle, session_ids=range(1, 5))
    return kind(
        options.wire,
        options.settings,
        Handshake(options.wire, "p", LIFE),
        encode=lambda message: message,
        size=lambda frame: FRAME_BYTES,
        life=LIFE,
        first_back=states.FIRST_BACK,
    )


def machine(kind: type[Connection] = Connection, **options: Any) -> Connection:
    """A connection that asks exactly and takes sessions, with these options beside."""
    every = {"dialect": Exact(), "on_session": _handle, "session_ids": range(1, 5), **options}
    return connection(Options(**every), kind)


def begin_turn(
    ports: Connection, session: Dialogue, payload: Any, now: float, *, within: float = 60.0, window: int = 0
) -> tuple[AskedTurn, Any]:
    """Ask a turn in a session that has none, for many answers where there is a `window`. Return its message as well."""
    turn = session.turn = AskedTurn(session)
    turn.started = now
    if ports.is_exact(session):
        ports.begin(turn, within, Arriving(window) if window else None)
    frame = ports.ask(turn, payload, within)
    turn.attempts = turn.sent = 1
    return turn, frame


class World:
    """A connection that is told deeds, and what came of them in words that another one's can be compared with."""

    def __init__(self, ports: Connection) -> None:
        self.ports = ports
        self.turns: list[AskedTurn] = []
        self.told: list[Any] = []
        self.asked: list[Asked] = []

    def do(self, deed: str, which: int, value: Any, now: float) -> None:
        """Do a deed to the session, or the turn, of this place among those that there are; nothing where it is none."""
        getattr(self, f"do_{deed}")(which, value, now)

    # -- what comes --------------------------------------------------------------------------------------------------

    def do_hear(self, which: int, message: dict[str, Any], now: float) -> None:
        """A message comes as it is."""
        self.tell(self.ports.receive(dict(message), now))

    def do_reply(self, which: int, fields: dict[str, Any], now: float) -> None:
        """The peer answers a turn of this side's; those that wait come first, then those that are over."""
        turn = pick(sorted(self.turns, key=lambda turn: turn.state is not Turn.WAITING), which)
        if turn is not None:
            exact = turn.dialogue.exact
            header = {} if exact is None else {"_re": turn.number, "_life": exact.life}
            self.do_hear(0, {"sid": turn.dialogue.sid, **header, **fields}, now)

    def do_part(self, which: int, fields: dict[str, Any], now: float) -> None:
        """The peer gives the next of many answers, in a session of either side's; with `fields` it may end there."""
        turn = pick([turn for turn in self.turns if turn.state is Turn.LISTENING], which)
        if turn is not None:
            exact, arriving = turn.dialogue.exact, turn.arriving
            assert exact is not None
            assert arriving is not None
            header = {"_re": turn.number, "_part": arriving.next, "_life": exact.life}
            self.do_hear(0, {"sid": turn.dialogue.sid, **header, **fields}, now)

    def do_question(self, which: int, fields: dict[str, Any], now: float) -> None:
        """The peer asks the next turn in a session, or the same one again; its own sessions come first."""
        session = pick(sorted(self.ports.sessions.all(), key=lambda session: not session.incoming), which)
        if session is not None:
            exact = session.exact
            life = {} if exact is None or exact.life is None else {"_life": exact.life}
            turn = max(1, self.ports._shared.turns.last(session.key) + fields.get("step", 1))
            rest = {name: field for name, field in fields.items() if name != "step"}
            self.do_hear(0, {"sid": session.sid, "_turn": turn, **life, **rest}, now)

    # -- what this side asks -----------------------------------------------------------------------------------------

    def do_open(self, which: int, value: Any, now: float) -> None:
        """Open a session; one may have to end for it."""
        try:
            self.ports.open(None, now, recycles=True)
        except SessionError as error:
            self.told.append(type(error).__name__)
        self.tell(self.ports.take())

    def do_ask(self, which: int, window: int, now: float) -> None:
        """Ask a turn in a session that has none, for one answer or for many."""
        session = pick([session for session in self.ports.sessions.all() if session.turn is None], which)
        if session is not None:
            window = window if self.ports.is_exact(session) else 0
            turn, frame = begin_turn(self.ports, session, {"q": 1}, now, window=window)
            self.turns.insert(0, turn)
            self.told.append(frame)

    def do_leave(self, which: int, how: str, now: float) -> None:
        """Let a turn leave its session, with or without its answer, or before it was sent; or let the sender fail."""
        turn = pick([turn for turn in self.turns if turn.dialogue.turn is turn], which)
        if turn is None:
            return
        if how == "fails" and turn.state is Turn.WAITING:
            turn.advance(TurnEvent.SENDER_FAILED)
            return
        if how == "unsent" and not turn.answered:
            turn.sent = 0
        self.tell(self.ports.turn_over(turn, "cancelled", now))

    def do_give_up(self, which: int, value: Any, now: float) -> None:
        """Give a turn up that waits."""
        turn = pick([turn for turn in self.turns if turn.dialogue.turn is turn], which)
        if turn is not None:
            self.tell(self.ports.give_up(turn, CANCELLED))

    def do_take(self, which: int, value: Any, now: float) -> None:
        """The application takes one of many answers; where that frees half a window, the peer is told."""
        turn = pick([turn for turn in self.turns if turn.arriving is not None and turn.arriving.ready], which)
        if turn is not None:
            assert turn.arriving is not None
            self.told.append((turn.arriving.take(), turn.arriving.grant(), turn.arriving.grants_at))

    # -- what this side says -----------------------------------------------------------------------------------------

    def do_answer(self, which: int, is_last: bool, now: float) -> None:
        """Answer what the peer asked last in a session, or post; the last of many answers, or one that is not sent."""
        ports, session = self.ports, pick(self.ports.sessions.all(), which)
        if session is None:
            return
        running = ports._shared.turns.running(session.key)
        if running:
            ports.hold(session, running)
        exact = session.exact
        if exact is not None and exact.stream is not None:
            if not exact.stream.is_over:
                exact.stream.spent += 1
                self.told.append(ports.part(session, {"a": 1}, now, is_last=is_last))
        else:
            frame, answers, opens = ports.post(session, {"a": 1})
            self.told.append(frame)
            if is_last and (answers or opens):
                ports.not_posted(session, answers, opened=opens)
                return
        if exact is None or exact.stream is None:
            self.tell(ports.answer_sent(session, now))

    def do_alone(self, which: int, is_kept: bool, now: float) -> None:
        """Answer a question that stands alone, or keep a session for it."""
        asked = pick(self.asked, which)
        if asked is None:
            return
        self.asked.remove(asked)
        if is_kept:
            session = self.ports.keep(asked)
            self.told.append((_session_in_words(session), session.ending))
        else:
            self.told.append(self.ports.answer(asked, {"a": 1}))
            self.ports.handler_done()

    def do_fail(self, which: int, value: Any, now: float) -> None:
        """No answer will come to what the peer asked."""
        session = pick(self.ports.sessions.all(), which)
        if session is not None:
            self.tell(self.ports.leave(session, "crashed"))

    def do_end(self, which: int, value: Any, now: float) -> None:
        """End a session."""
        session = pick(self.ports.sessions.all(), which)
        if session is not None:
            self.tell(self.ports.end(session, ENDED, now))

    # -- what is compared --------------------------------------------------------------------------------------------

    def tell(self, happened: list[Event]) -> None:
        """Note events: their types, and what is in them."""
        for event in happened:
            contents = {name: _in_words(getattr(event, name)) for name in event.__struct_fields__}
            self.told.append((type(event).__name__, contents))
            if isinstance(event, Asked):
                self.asked.append(event)

    def state(self) -> Any:
        """Everything that one way could leave otherwise than another."""
        ports = self.ports
        sessions = {(one.incoming, one.sid): _session_in_words(one) for one in ports.sessions.all()}
        turns = ports._shared.turns
        memory = {
            key: (turns.last(key), turns.state(key), turns.running(key), _frames(ports, key)) for key in range(-9, 10)
        }
        return (
            sessions,
            [(turn.number, turn.state, turn.answered) for turn in self.turns],
            memory,
            (turns.stored_bytes, turns.highest, turns._forgotten),
            (ports.peer, ports._shared.peer_life, ports.sessions.pool.resting, ports.handlers),
            ports.counters.snapshot(),
        )


def pick(these: list[Any], which: int) -> Any:
    """The one of that place, ``None`` where there is none."""
    return these[which] if which < len(these) else None


def _frames(ports: Connection, key: int) -> list[Any]:
    held = ports._shared.turns.held(key)
    return [] if held is None else held.frames.copy()


def _session_in_words(session: Dialogue) -> Any:
    exact, turn = session.exact, session.turn
    known: Any = None
    if exact is not None:
        names = ("life", "opened", "last_turn", "holding", "began", "due", "is_final", "is_cautious", "posted", "heard")
        known = ({name: getattr(exact, name) for name in names}, _in_words(exact.stream))
    asked = None if turn is None else (turn.number, turn.state, turn.answered, turn.sent, _in_words(turn.arriving))
    return known, asked, session.owed, session.idle_since, session.unsafe_until


def _in_words(value: Any) -> Any:
    """The value, or what can be compared of an object that knows much."""
    if isinstance(value, Dialogue):
        return "session", value.incoming, value.sid
    if isinstance(value, AskedTurn):
        return "turn", value.number, value.state, value.answered
    if isinstance(value, LastTurn):
        return "memory", value.key, value.turn, value.state, value.size, value.is_open
    if isinstance(value, Departing):
        return "stream", value.credit, value.spent, value.made, value.acked, value.is_complete, value.is_over
    if isinstance(value, Arriving):
        last = None if value.last is None else tuple(value.last)
        return "replies", value.credit, value.next, value.consumed, list(value.ready), last
    return value
