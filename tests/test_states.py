"""The tables of states: complete, reachable, in the document, and the ones that the code goes by."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import Exact
from psession.options import Options
from psession.protocol import connection as machine
from psession.protocol import dialogue, peer_turns, states
from psession.protocol.connection import Connection
from psession.protocol.credit import Arriving
from psession.protocol.dialogue import AskedTurn, Dialogue, ExactState
from psession.protocol.endings import ENDED
from psession.protocol.handshake import Handshake
from psession.protocol.states import (
    ANSWERER,
    ASKER,
    SESSION,
    IllegalStepError,
    Opened,
    OpenedEvent,
    PeerDo,
    PeerEvent,
    PeerTurn,
    Turn,
    TurnDo,
    TurnEvent,
)

from .memories import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"

OF_THE_HANDLER = {
    PeerEvent.ANSWER: {PeerTurn.RUNNING},
    PeerEvent.LEAVE: {PeerTurn.RUNNING, PeerTurn.STREAMING},
    PeerEvent.PART: {PeerTurn.STREAMING},
    PeerEvent.FINISH: {PeerTurn.STREAMING},
}
"""What only a turn that runs can come to: that is the handler's doing."""

ABSENT = {
    # Where nothing is remembered there is no last turn to be the same as, and none that is lower but by what fell out.
    *(
        (PeerTurn.NOTHING, event)
        for event in (PeerEvent.ASK_SAME, PeerEvent.ASK_OLDER, PeerEvent.QUIT_SAME, PeerEvent.GRANT_SAME)
    ),
    # What is remembered did not fall out.
    *((state, PeerEvent.ASK_FORGOTTEN) for state in PeerTurn if state is not PeerTurn.NOTHING),
    # Only a turn that runs has a handler.
    *((state, event) for event, at in OF_THE_HANDLER.items() for state in PeerTurn if state not in at),
    # Only what is kept can outgrow the room for it.
    *((state, PeerEvent.OUTGROW) for state in PeerTurn if state not in (PeerTurn.ANSWERED, PeerTurn.STREAMING)),
}


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_rules", DOCS / "render_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recorded(dict[Any, Any]):
    """A table that knows what was looked up in it."""

    def __init__(self, steps: Any) -> None:
        super().__init__(steps)
        self.asked: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        step = super().__getitem__(key)
        self.asked.add(key)
        return step


def test_the_document_shows_the_tables_as_they_are() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    module = renderer()
    assert module.BETWEEN.search(page) is not None
    assert module.updated(page) == page, "run docs/render_rules.py"


def test_every_state_and_event_has_a_step_or_is_absent_on_purpose() -> None:
    assert ANSWERER.keys() == {(state, event) for state in PeerTurn for event in PeerEvent} - ABSENT
    of_any = {
        TurnEvent.REPLY,
        TurnEvent.ERROR,
        TurnEvent.BUSY,
        TurnEvent.STRAY,
        TurnEvent.UNMARKED,
        TurnEvent.POST,
    }
    parts = {
        TurnEvent.PART_NEXT,
        TurnEvent.PART_AHEAD,
        TurnEvent.PART_AGAIN,
        TurnEvent.PART_BEYOND,
        TurnEvent.LAST,
    }
    assert ASKER.keys() == {
        *((state, event) for state in Turn for event in of_any),
        *((Turn.LISTENING, event) for event in parts),
        *((state, TurnEvent.GIVE_UP) for state in Turn if state is not Turn.IDLE),
        (Turn.WAITING, TurnEvent.SENDER_FAILED),
        (Turn.FAILED, TurnEvent.TRY_AGAIN),
    }
    assert SESSION.keys() == {(state, event) for state in Opened for event in OpenedEvent}


def test_every_state_is_left_and_reached() -> None:
    assert {step.to for step in ANSWERER.values()} == set(PeerTurn)
    assert {step.to for step in ASKER.values()} == set(Turn)
    assert {step.do for step in ANSWERER.values()} == set(PeerDo)
    assert {step.do for step in ASKER.values()} == set(TurnDo)
    assert set(SESSION.values()) == set(Opened)
    assert {event for _, event in SESSION} == set(OpenedEvent)


BEGIN: dict[PeerTurn, Callable[[Memory], object]] = {
    PeerTurn.NOTHING: lambda memory: None,
    PeerTurn.RUNNING: lambda memory: memory.take(1, 10),
    PeerTurn.STREAMING: lambda memory: memory.stream(1, 10, 8),
    PeerTurn.ANSWERED: lambda memory: (memory.take(1, 10), memory.reply(1, b"", 0)),
    PeerTurn.OVER: lambda memory: memory.pass_by(1, 10),
}


@pytest.mark.parametrize(("state", "event"), ANSWERER, ids=lambda one: one.name)
def test_the_memory_of_a_turn_takes_each_step_from_the_table(
    monkeypatch: pytest.MonkeyPatch, state: PeerTurn, event: PeerEvent
) -> None:
    memory = Memory(10**6)
    if event is PeerEvent.ASK_FORGOTTEN:
        memory._forgotten = 11
    BEGIN[state](memory)
    assert memory.state(1) is state
    table = Recorded(ANSWERER)
    monkeypatch.setattr(peer_turns, "ANSWERER", table)
    asks = {PeerEvent.ASK_NEXT, PeerEvent.STREAM_NEXT, PeerEvent.STREAM_REST, PeerEvent.PASS, PeerEvent.QUIT_NEXT}
    if event in asks:
        do = memory.advance(1, event, 11, 8 if event is PeerEvent.STREAM_NEXT else 0)
    elif event is PeerEvent.ANSWER:
        memory.reply(1, b"", 0)
        do = ANSWERER[state, event].do
    else:
        do = memory.advance(1, event)
    assert table.asked == {(state, event)}
    assert do is ANSWERER[state, event].do
    to = ANSWERER[state, event].to
    assert memory.state(1) is to or (to is PeerTurn.OVER and state is PeerTurn.NOTHING)
    assert memory.last(1) == (11 if event in asks else 0 if state is PeerTurn.NOTHING else 10)


@pytest.mark.parametrize(("state", "event"), sorted(ABSENT, key=str), ids=lambda one: one.name)
def test_a_step_that_no_table_has_is_an_error_and_changes_nothing(state: PeerTurn, event: PeerEvent) -> None:
    memory = Memory(10**6)
    BEGIN[state](memory)
    before = (memory.state(1), memory.last(1), memory.stored(1), memory.stored_bytes)
    with pytest.raises(IllegalStepError, match="when"):
        memory.advance(1, event)
    assert (memory.state(1), memory.last(1), memory.stored(1), memory.stored_bytes) == before


@pytest.mark.parametrize("event", TurnEvent, ids=lambda event: event.name)
@pytest.mark.parametrize("state", Turn, ids=lambda state: state.name)
def test_a_turn_takes_each_step_from_the_table(monkeypatch: pytest.MonkeyPatch, state: Turn, event: TurnEvent) -> None:
    table = Recorded(ASKER)
    monkeypatch.setattr(dialogue, "ASKER", table)
    turn = AskedTurn(Dialogue(1, 60.0, incoming=False))
    turn.state = state
    if (state, event) not in ASKER:
        with pytest.raises(IllegalStepError, match="when"):
            turn.advance(event)
        assert turn.state is state
        return
    assert turn.advance(event) is ASKER[state, event].do
    assert turn.state is ASKER[state, event].to
    assert table.asked == {(state, event)}


@pytest.mark.parametrize(("state", "event"), SESSION, ids=lambda one: one.name)
def test_an_exact_session_takes_each_step_from_the_table(state: Opened, event: OpenedEvent) -> None:
    exact = ExactState(1)
    exact.opened = state
    exact.advance(event)
    assert exact.opened is SESSION[state, event]


# -- what comes, and what the connection makes of it -------------------------------------------------------------------


def connection(**options: Any) -> Connection:
    """A connection without a port: it needs no event loop."""

    async def handle(session: object) -> None:
        raise AssertionError

    chosen = Options(dialect=Exact(), on_session=handle, session_ids=range(1, 5), **options)
    return Connection(
        chosen.wire,
        chosen.settings,
        Handshake(chosen.wire, "p", 100),
        encode=lambda message: message,
        size=lambda frame: 100,
        life=100,
        first_back=states.FIRST_BACK,
    )


EVENTS: dict[TurnEvent, dict[str, Any]] = {
    TurnEvent.REPLY: {"_re": 1},
    TurnEvent.ERROR: {"_re": 1, "_error": "code"},
    TurnEvent.BUSY: {"_re": 1, "_wait": 5},
    TurnEvent.STRAY: {"_re": 7},
    TurnEvent.UNMARKED: {},
    TurnEvent.POST: {"_part": 1},
    TurnEvent.PART_NEXT: {"_re": 1, "_part": 1},
    TurnEvent.PART_AHEAD: {"_re": 1, "_part": 2},
    TurnEvent.PART_AGAIN: {"_re": 1, "_part": 0},
    TurnEvent.PART_BEYOND: {"_re": 1, "_part": 3},
    TurnEvent.LAST: {"_re": 1, "_part": 1, "_end": True},
}
DONE = {
    TurnDo.TAKE: ["Answered"],
    TurnDo.TAKE_CLASSIC: ["Answered"],
    TurnDo.RAISE: ["Refused"],
    TurnDo.HAND_OVER: ["Heard"],
    TurnDo.HOLD: [],
    TurnDo.STOP: ["Heard"],
    TurnDo.STOP_OVERRUN: ["Overrun"],
    TurnDo.POSTPONE: ["Postponed"],
    TurnDo.COUNT: ["Dropped"],
    TurnDo.KEEP: ["Received"],
}


@pytest.mark.parametrize(("state", "event"), [key for key in ASKER if key[1] in EVENTS], ids=lambda one: one.name)
def test_a_message_does_to_the_asker_what_the_table_says(state: Turn, event: TurnEvent) -> None:
    ports, step = connection(), ASKER[state, event]
    session = ports.open(None, 0.0, recycles=False)
    turn = AskedTurn(session)
    session.turn = turn
    ports.begin(turn, 60.0, Arriving(2) if state is Turn.LISTENING else None)
    turn.started, turn.deadline, turn.sent = 0.0, 60.0, 1
    turn.attempts = 1
    ports.ask(turn, {}, 60.0)
    if state is Turn.FAILED:
        turn.advance(TurnEvent.SENDER_FAILED)
    elif state is Turn.IDLE:
        turn.advance(TurnEvent.REPLY)
        turn.answered = True
    life = {} if event is TurnEvent.UNMARKED else {"_life": 100}
    happened = ports.receive({"sid": 1, **life, **EVENTS[event]}, 1.0)
    expected = DONE[step.do]
    if state is Turn.LISTENING and step.do in (TurnDo.TAKE, TurnDo.TAKE_CLASSIC):
        expected = ["Heard"]  # its only answer is one of many
    assert [type(one).__name__ for one in happened] == expected
    assert turn.state is step.to


MESSAGES = st.fixed_dictionaries(
    {"sid": st.integers(1, 8)},
    optional={
        "_turn": st.sampled_from([1, 2, 3, 4, 5, 0, "1", None]),
        "_re": st.sampled_from([1, 2, 3, 4, "1", True]),
        "_life": st.sampled_from([100, 100, 500, 500, 500, 501, None, "x"]),
        "_new": st.sampled_from([True, False, 1]),
        "_wait": st.sampled_from([0, 1.5, 5, -1, None]),
        "_end": st.sampled_from([True, False]),
        "_error": st.sampled_from(["ended", "code: text", 5]),
        "_part": st.integers(0, 4),
        "_credit": st.integers(0, 4),
        "n": st.integers(0, 3),
    },
)
PLAIN = st.fixed_dictionaries(
    {"sid": st.integers(1, 8), "_life": st.sampled_from([100, 500])},
    optional={"_turn": st.integers(1, 9), "_re": st.integers(1, 9), "_wait": st.just(5), "n": st.integers(0, 3)},
)
DEEDS = st.one_of(
    st.tuples(st.just("in"), MESSAGES),
    st.tuples(st.just("in"), PLAIN),
    st.tuples(st.just("in"), PLAIN),
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.integers(0, 3)),
    st.tuples(st.just("end"), st.integers(0, 5)),
)


class World:
    """A connection that is told deeds, and what came of them in words."""

    def __init__(self) -> None:
        self.ports = connection()
        self.turns: list[AskedTurn] = []
        self.told: list[Any] = []

    def do(self, deed: str, value: Any, now: float) -> None:
        ports = self.ports
        if deed == "in":
            self.tell(ports.receive(dict(value), now))
        elif deed == "ask":
            own = list(ports.sessions.own.values())
            session = own[value] if value < len(own) else None
            if session is None:
                session = ports.open(None, now, recycles=True)
                self.tell(ports.take())
            if session.turn is None:
                turn = session.turn = AskedTurn(session)
                turn.started = now
                ports.begin(turn, 60.0)
                self.told.append(ports.ask(turn, {"q": 1}, 60.0))
                turn.attempts = turn.sent = 1
                self.turns.append(turn)
        elif deed == "answer":
            peers = list(ports.sessions.peers.values())
            if value < len(peers):
                session = peers[value]
                if session.exact is not None and session.exact.memory is not None:
                    ports.hold(session, session.exact.memory.running)
                self.told.append(ports.post(session, {"a": 1}))
                self.tell(ports.answer_sent(session, now))
        elif deed == "leave":
            if value < len(self.turns):
                turn = self.turns.pop(value)
                if turn.dialogue.turn is turn:
                    self.tell(ports.turn_over(turn, "cancelled", now))
        else:
            every = ports.sessions.all()
            if value < len(every):
                self.tell(ports.end(every[value], ENDED, now))

    def tell(self, happened: list[Any]) -> None:
        """Note the events, with the numbers of turns and sessions in place of objects."""
        for event in happened:
            values = {name: getattr(event, name) for name in event.__struct_fields__}
            for name, value in values.items():
                if isinstance(value, Dialogue):
                    values[name] = ("session", value.incoming, value.sid)
                elif isinstance(value, AskedTurn):
                    values[name] = ("turn", value.number, value.state, value.answered)
            self.told.append((type(event).__name__, {name: repr(value) for name, value in values.items()}))

    def state(self) -> Any:
        """Everything that a fast way could leave otherwise than the long one."""
        ports = self.ports
        sessions = {}
        for one in ports.sessions.all():
            exact = one.exact
            known = None
            if exact is not None:
                known = (exact.life, exact.opened, exact.holding, exact.began, exact.due, exact.is_final, exact.heard)
            turn = (one.turn.number, one.turn.state, one.turn.answered) if one.turn is not None else None
            sessions[one.incoming, one.sid] = (known, turn, one.owed)
        turns = ports._shared.turns
        memory = {key: (turns.last(key), turns.state(key)) for key in range(-9, 9)}
        return sessions, memory, turns.stored_bytes, ports.peer, ports.counters.snapshot()


@settings(max_examples=400, deadline=None)
@given(history=st.lists(DEEDS, max_size=40))
def test_the_fast_way_of_receive_comes_to_the_same_as_the_long_one(history: list[tuple[str, Any]]) -> None:
    fast, long = World(), World()
    slow = long.ports

    def receive(message: Any, now: float) -> Any:
        slow._receive(message, now)
        return slow.take()

    slow.receive = receive  # type: ignore[method-assign]
    for now, (deed, value) in enumerate(history):
        fast.do(deed, value, float(now))
        long.do(deed, value, float(now))
        assert fast.told == long.told
        assert fast.state() == long.state()


def test_the_fast_way_takes_its_state_from_the_table() -> None:
    assert machine._REPLIED is ASKER[Turn.WAITING, TurnEvent.REPLY].to
    assert ANSWERER[PeerTurn.ANSWERED, PeerEvent.ASK_NEXT].to is PeerTurn.RUNNING is peer_turns._RUNNING
