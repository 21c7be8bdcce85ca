"""The tables of states: complete, reachable, in the document, and the ones that the code goes by."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import Classic, Exact
from psession.protocol import connection as connections
from psession.protocol import dialogue, events, peer_turns
from psession.protocol.connection import Connection
from psession.protocol.dialogue import AskedTurn, Dialogue, ExactState
from psession.protocol.endings import CANCELLED, ENDED
from psession.protocol.peer_turns import FRAME_OVERHEAD_BYTES, MAX_PAGES, PAGE
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

from .effort import examples
from .machines import FRAME_BYTES, LIFE, PEER_LIFE, World, begin_turn, machine
from .memories import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from psession.protocol.events import Event

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
    """A table that knows what was looked up in it, in order."""

    def __init__(self, steps: Any) -> None:
        super().__init__(steps)
        self.asked: list[Any] = []

    def __getitem__(self, key: Any) -> Any:
        step = super().__getitem__(key)
        self.asked.append(key)
        return step


def named(state: Any) -> str:
    """The name by which pytest shows a state or an event."""
    return str(state.name)


# -- the tables --------------------------------------------------------------------------------------------------------


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


# -- each thing that has a state, by itself ----------------------------------------------------------------------------


BEGIN: dict[PeerTurn, Callable[[Memory], object]] = {
    PeerTurn.NOTHING: lambda memory: None,
    PeerTurn.RUNNING: lambda memory: memory.take(1, 10),
    PeerTurn.STREAMING: lambda memory: (memory.stream(1, 10, 8), memory.part(1, b"one", 3)),
    PeerTurn.ANSWERED: lambda memory: (memory.take(1, 10), memory.reply(1, b"one", 3)),
    PeerTurn.OVER: lambda memory: memory.pass_by(1, 10),
}


@pytest.mark.parametrize(("state", "event"), ANSWERER, ids=named)
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
    assert table.asked == [(state, event)]
    assert do is ANSWERER[state, event].do
    to = ANSWERER[state, event].to
    assert memory.state(1) is to or (to is PeerTurn.OVER and state is PeerTurn.NOTHING)
    assert memory.last(1) == (11 if event in asks else 0 if state is PeerTurn.NOTHING else 10)


def remembered(memory: Memory) -> Any:
    """All that a memory knows."""
    held = {
        key: [list(value) if name == "frames" else value for name in one.__slots__ for value in [getattr(one, name)]]
        for key, one in memory._held.items()
    }
    pages = {number: page.tolist() for number, page in memory._pages.items()}
    return held, pages, list(memory._queue), memory.stored_bytes, memory.highest, memory._forgotten


@pytest.mark.parametrize("turn", [0, 11], ids=["of that turn", "of a new turn"])
@pytest.mark.parametrize(("state", "event"), sorted(ABSENT, key=str), ids=named)
def test_a_step_that_no_table_has_is_an_error_and_changes_nothing(state: PeerTurn, event: PeerEvent, turn: int) -> None:
    memory = Memory(10**6)
    BEGIN[state](memory)
    before = remembered(memory)
    with pytest.raises(IllegalStepError, match="when"):
        memory.advance(1, event, turn, 8 if turn else 0)
    assert remembered(memory) == before


@pytest.mark.parametrize("event", TurnEvent, ids=named)
@pytest.mark.parametrize("state", Turn, ids=named)
def test_a_turn_takes_each_step_from_the_table_and_no_other_changes_it(
    monkeypatch: pytest.MonkeyPatch, state: Turn, event: TurnEvent
) -> None:
    table = Recorded(ASKER)
    monkeypatch.setattr(dialogue, "ASKER", table)
    turn = AskedTurn(Dialogue(1, 60.0, incoming=False))
    turn.state = state
    before = {name: getattr(turn, name) for name in turn.__slots__}
    if (state, event) not in ASKER:
        with pytest.raises(IllegalStepError, match="when"):
            turn.advance(event)
        assert {name: getattr(turn, name) for name in turn.__slots__} == before
        return
    assert turn.advance(event) is ASKER[state, event].do
    assert {name: getattr(turn, name) for name in turn.__slots__} == {**before, "state": ASKER[state, event].to}
    assert table.asked == [(state, event)]


@pytest.mark.parametrize(("state", "event"), SESSION, ids=named)
def test_an_exact_session_takes_each_step_from_the_table(
    monkeypatch: pytest.MonkeyPatch, state: Opened, event: OpenedEvent
) -> None:
    table = Recorded(SESSION)
    monkeypatch.setattr(dialogue, "SESSION", table)
    exact = ExactState(1)
    exact.opened = state
    exact.advance(event)
    assert exact.opened is SESSION[state, event]
    assert table.asked == [(state, event)]


# -- the peer's turns: what comes or is told, and what the connection makes of it --------------------------------------

PEERS = 9
"""The number of a session of the peer's, which is none of this side's."""


def asks(turn: int, **fields: Any) -> dict[str, Any]:
    """A message of the peer's session about one of its turns."""
    return {"sid": PEERS, "_turn": turn, **fields, "_life": PEER_LIFE}


def come_to(ports: Connection, state: PeerTurn, *, many: bool = False) -> None:
    """Let the peer's turn 10 in its session come to a state; it may be asked for `many` answers."""
    if state is PeerTurn.NOTHING:
        return
    many = many or state is PeerTurn.STREAMING
    options = {"_wait": 0} if state is PeerTurn.OVER else {"_credit": 8, "_part": 1} if many else {"_wait": 60}
    ports.receive(asks(10, _new=True, n=1, **options), 0.0)
    session = ports.sessions.peers[PEERS]
    if state is not PeerTurn.OVER:
        ports.hold(session, 10)
    if many:
        ports.part(session, {"n": 1}, 0.0, is_last=False)
    if state is PeerTurn.ANSWERED:
        if many:
            ports.part(session, {"n": 2}, 0.0, is_last=True)
        else:
            ports.post(session, {"n": 1})
    assert ports._shared.turns.state(PEERS) is state


def forget_the_past(ports: Connection) -> None:
    """Hear of so many other numbers that what was asked up to turn 20 may have fallen out of memory."""
    for page in range(1, MAX_PAGES + 2):
        ports.receive({"sid": page * PAGE, "_turn": 20, "_error": "cancelled", "_life": PEER_LIFE}, 0.0)


def answer_another(ports: Connection) -> list[Event]:
    """Store the answer to a turn of another session."""
    ports.receive({"sid": PEERS + 1, "_turn": 30, "_new": True, "_life": PEER_LIFE}, 0.0)
    ports.hold(ports.sessions.peers[PEERS + 1], 30)
    ports.post(ports.sessions.peers[PEERS + 1], {"n": 1})
    return ports.take()


def part(ports: Connection, *, is_last: bool) -> list[Event]:
    """Give one of many answers."""
    ports.part(ports.sessions.peers[PEERS], {"n": 2}, 1.0, is_last=is_last)
    return ports.take()


def post(ports: Connection) -> list[Event]:
    """Answer."""
    ports.post(ports.sessions.peers[PEERS], {"n": 1})
    return ports.take()


def hears(turn: int, **fields: Any) -> Callable[[Connection], list[Event]]:
    """The peer says that about a turn."""
    return lambda ports: ports.receive(asks(turn, **fields), 1.0)


TOLD: dict[PeerEvent, Callable[[Connection], list[Event]]] = {
    PeerEvent.ASK_NEXT: hears(11, n=1, _end=True),  # with `_end` it takes the long way
    PeerEvent.STREAM_NEXT: hears(11, n=1, _credit=8, _part=1),
    PeerEvent.STREAM_REST: hears(11, n=1, _credit=8, _part=2),
    PeerEvent.ASK_SAME: hears(10, n=1),
    PeerEvent.ASK_OLDER: hears(9, n=1),
    PeerEvent.ASK_FORGOTTEN: hears(11, n=1),
    PeerEvent.QUIT_NEXT: hears(11, _error="cancelled"),
    PeerEvent.QUIT_SAME: hears(10, _error="cancelled"),
    PeerEvent.QUIT_OLDER: hears(9, _error="cancelled"),
    PeerEvent.GRANT_SAME: hears(10, _credit=12, _end=False),  # likewise
    PeerEvent.GRANT_OTHER: hears(11, _credit=12),
    PeerEvent.PART: lambda ports: part(ports, is_last=False),
    PeerEvent.FINISH: lambda ports: part(ports, is_last=True),
    PeerEvent.ANSWER: post,
    PeerEvent.LEAVE: lambda ports: ports.leave(ports.sessions.peers[PEERS], "crashed"),
    PeerEvent.PASS: hears(11, n=1, _wait=0),
    PeerEvent.OUTGROW: answer_another,
}
"""What lets a connection come to each event."""


def kinds(happened: list[Event]) -> list[str]:
    """The names of events."""
    return [type(event).__name__ for event in happened]


def said(happened: list[Event]) -> list[dict[str, Any]]:
    """The messages of the protocol's own among events, without number and life."""
    frames = [event.frame for event in happened if isinstance(event, events.Say)]
    return [{name: value for name, value in frame.items() if name not in ("sid", "_life")} for frame in frames]


def check_done(ports: Connection, do: PeerDo, event: PeerEvent, happened: list[Event]) -> None:
    """What was to be done was done, and nothing else."""
    held = ports._shared.turns.held(PEERS)
    kept = [] if held is None else held.frames
    match do:
        case PeerDo.RUN:
            assert kinds(happened)[-1] == "Received"
            assert happened[-1].question == (0 if event is PeerEvent.PASS else 11)  # type: ignore[union-attr]
        case PeerDo.PROGRESS:
            assert said(happened) == [{"_re": 10, "_wait": 1.0}]
        case PeerDo.REPEAT | PeerDo.RESEND:
            [repeat] = happened
            assert isinstance(repeat, events.Repeat)
            assert repeat.frames == kept != []
        case PeerDo.DENY:
            assert said(happened) == [{"_re": ports._shared.turns.last(PEERS) or 11, "_error": "forgotten"}]
        case PeerDo.QUIT_DENY:
            assert said(happened) == [{"_re": 11, "_error": "forgotten"}]
        case PeerDo.CANCEL:
            [ended] = happened
            assert isinstance(ended, events.Ended)
            assert ended.cancels
        case PeerDo.FORGET:
            assert kept == []
        case PeerDo.SEND:
            assert (happened, kept) == ([], [{"n": 1, "sid": PEERS, "_re": 10, "_life": PEER_LIFE}])
        case PeerDo.FAIL:
            [failure] = said(happened)
            assert failure.pop("_part", 2) == 2
            assert failure == {"_re": 10, "_error": "crashed", "_end": True}
            assert kept[-1]["_error"] == "crashed"
        case PeerDo.ADVANCE:
            assert happened == []
            assert held is not None
            assert held.stream is not None
            assert held.stream.credit == 12
        case PeerDo.SEND_PART | PeerDo.SEND_END:
            assert happened == []
            assert (kept[-1]["_part"], kept[-1].get("_end")) == (2, True if do is PeerDo.SEND_END else None)
        case PeerDo.DROP:
            assert set(kinds(happened)) <= {"Dropped"}


@pytest.mark.parametrize(("state", "event"), ANSWERER, ids=named)
def test_a_connection_does_to_the_peers_turn_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, state: PeerTurn, event: PeerEvent
) -> None:
    outgrows = {"max_answer_bytes": FRAME_BYTES + FRAME_OVERHEAD_BYTES} if event is PeerEvent.OUTGROW else {}
    ports, step = machine(**outgrows), ANSWERER[state, event]
    if (state, event) in ((PeerTurn.NOTHING, PeerEvent.ASK_FORGOTTEN), (PeerTurn.NOTHING, PeerEvent.QUIT_OLDER)):
        forget_the_past(ports)
    come_to(ports, state, many=event is PeerEvent.GRANT_SAME and step.do is PeerDo.ADVANCE)
    table = Recorded(ANSWERER)
    monkeypatch.setattr(peer_turns, "ANSWERER", table)
    happened = TOLD[event](ports)
    if event is PeerEvent.PART:  # it leaves the state as it is, and is not looked up
        assert step.to is state
    else:
        assert (state, event) in table.asked
    assert ports._shared.turns.state(PEERS) is step.to
    check_done(ports, step.do, event, happened)
    is_new = event.name.endswith("_NEXT") or event in (PeerEvent.STREAM_REST, PeerEvent.PASS)
    assert ports._shared.turns.last(PEERS) == (11 if is_new else 0 if state is PeerTurn.NOTHING else 10)


@pytest.mark.parametrize("state", [state for state in PeerTurn if state is not PeerTurn.NOTHING], ids=named)
def test_the_fast_way_of_a_question_comes_to_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, state: PeerTurn
) -> None:
    ports = machine()
    come_to(ports, state)
    table = Recorded(ANSWERER)
    monkeypatch.setattr(peer_turns, "ANSWERER", table)
    happened = ports.receive(asks(11, n=1), 1.0)
    step = ANSWERER[state, PeerEvent.ASK_NEXT]
    assert (table.asked, ports._shared.turns.state(PEERS)) == ([], step.to)
    check_done(ports, step.do, PeerEvent.ASK_NEXT, happened)
    assert (ports._shared.turns.last(PEERS), ports._shared.turns.held(PEERS).frames) == (11, [])  # type: ignore[union-attr]


@pytest.mark.parametrize("state", [PeerTurn.STREAMING, PeerTurn.ANSWERED], ids=named)
def test_the_fast_way_of_a_grant_comes_to_what_the_table_says(monkeypatch: pytest.MonkeyPatch, state: PeerTurn) -> None:
    ports = machine()
    come_to(ports, state, many=True)
    table = Recorded(ANSWERER)
    monkeypatch.setattr(peer_turns, "ANSWERER", table)
    happened = ports.receive(asks(10, _credit=12), 1.0)
    step = ANSWERER[state, PeerEvent.GRANT_SAME]
    assert (table.asked, ports._shared.turns.state(PEERS)) == ([], step.to)
    check_done(ports, step.do, PeerEvent.GRANT_SAME, happened)


@pytest.mark.parametrize("state", [PeerTurn.NOTHING, PeerTurn.RUNNING, PeerTurn.ANSWERED, PeerTurn.OVER], ids=named)
def test_a_part_of_a_turn_that_has_no_more_is_an_illegal_step_that_changes_nothing(state: PeerTurn) -> None:
    taken = Memory(10_000)
    stream = taken.stream(1, 7, 4)
    held = taken.held(1)
    assert held is not None
    held.state = state
    with pytest.raises(IllegalStepError, match="the handler gives one of many answers"):
        taken.add_part(held, b"x", 1, PeerEvent.PART)
    assert (stream.made, held.frames, held.state) == (0, [], state)


def test_an_answer_in_the_middle_of_many_is_an_illegal_step_that_changes_nothing() -> None:
    world = World(machine())
    come_to(world.ports, PeerTurn.STREAMING)
    before = world.state()
    with pytest.raises(IllegalStepError, match="streaming when 'the handler answers'"):
        world.ports.post(world.ports.sessions.peers[PEERS], {"n": 1})
    assert world.state() == before


# -- this side's turns -------------------------------------------------------------------------------------------------


HEARD: dict[TurnEvent, dict[str, Any]] = {
    TurnEvent.REPLY: {"_re": 1, "_end": True, "n": 1},  # with `_end` it takes the long way
    TurnEvent.ERROR: {"_re": 1, "_error": "code"},
    TurnEvent.BUSY: {"_re": 1, "_wait": 5},
    TurnEvent.STRAY: {"_re": 7},
    TurnEvent.UNMARKED: {},
    TurnEvent.PART_NEXT: {"_re": 1, "_part": 1, "_end": False},  # likewise
    TurnEvent.PART_AHEAD: {"_re": 1, "_part": 2},
    TurnEvent.PART_AGAIN: {"_re": 1, "_part": 0},
    TurnEvent.PART_BEYOND: {"_re": 1, "_part": 3},
    TurnEvent.LAST: {"_re": 1, "_part": 1, "_end": True},
}
"""What comes to a turn of the number 1 that has credit for two answers."""

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
    TurnDo.LEAVE: ["GivenUp"],
}


def turn_in(ports: Connection, state: Turn) -> AskedTurn:
    """The first turn of this side, in that state."""
    session = ports.open(None, 0.0, recycles=False)
    turn, _ = begin_turn(ports, session, {}, 0.0, window=2 if state is Turn.LISTENING else 0)
    if state is Turn.FAILED:
        turn.advance(TurnEvent.SENDER_FAILED)
    elif state is Turn.IDLE:
        turn.advance(TurnEvent.REPLY)
        turn.answered = True
    assert (turn.state, turn.number) == (state, 1)
    return turn


def of_session(**fields: Any) -> dict[str, Any]:
    """A message of the peer's in this side's session 1."""
    return {"sid": 1, "_life": LIFE, **fields}


@pytest.mark.parametrize(("state", "event"), [key for key in ASKER if key[1] in HEARD], ids=named)
def test_a_message_does_to_this_sides_turn_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, state: Turn, event: TurnEvent
) -> None:
    ports, step = machine(), ASKER[state, event]
    turn = turn_in(ports, state)
    table = Recorded(ASKER)
    monkeypatch.setattr(dialogue, "ASKER", table)
    happened = ports.receive({"sid": 1} if event is TurnEvent.UNMARKED else of_session(**HEARD[event]), 1.0)
    assert table.asked[-1] == (state, event)
    assert turn.state is step.to
    expected = DONE[step.do]
    if state is Turn.LISTENING and step.do in (TurnDo.TAKE, TurnDo.TAKE_CLASSIC):
        expected = ["Heard"]  # its only answer is one of many
    assert kinds(happened) == expected
    assert ports.counters.classic == (step.do is TurnDo.TAKE_CLASSIC)
    assert ports.counters.overrun == (step.do is TurnDo.STOP_OVERRUN)
    taken = (TurnDo.TAKE, TurnDo.TAKE_CLASSIC, TurnDo.HAND_OVER, TurnDo.HOLD)
    assert ports.counters.matched == (step.do in taken)


@pytest.mark.parametrize("leaves", [False, True], ids=["given up", "left"])
@pytest.mark.parametrize("state", [Turn.WAITING, Turn.LISTENING, Turn.FAILED], ids=named)
def test_a_command_gives_this_sides_turn_up_as_the_table_says(
    monkeypatch: pytest.MonkeyPatch, state: Turn, leaves: bool
) -> None:
    ports = machine()
    turn = turn_in(ports, state)
    table = Recorded(ASKER)
    monkeypatch.setattr(dialogue, "ASKER", table)
    step = ASKER[state, TurnEvent.GIVE_UP]
    happened = ports.turn_over(turn, "cancelled", 1.0) if leaves else ports.give_up(turn, CANCELLED)
    assert table.asked == [(state, TurnEvent.GIVE_UP)]
    assert turn.state is step.to
    if leaves:
        assert said(happened) == [{"_turn": 1, "_error": "cancelled"}]
        assert turn.dialogue.turn is None
    elif state is Turn.FAILED:
        assert (happened, turn.ending) == ([], CANCELLED)  # the caller has the sender's exception on its way
    else:
        assert kinds(happened) == DONE[step.do]


def test_the_fast_way_of_a_reply_comes_to_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = machine()
    turn = turn_in(ports, Turn.WAITING)
    table = Recorded(ASKER)
    monkeypatch.setattr(dialogue, "ASKER", table)
    happened = ports.receive(of_session(_re=1, n=1), 1.0)
    step = ASKER[Turn.WAITING, TurnEvent.REPLY]
    assert (table.asked, turn.state, kinds(happened)) == ([], step.to, DONE[step.do])
    assert (happened[0].payload, ports.counters.matched) == ({"n": 1}, 1)  # type: ignore[union-attr]


def test_the_fast_way_of_a_part_comes_to_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = machine()
    turn = turn_in(ports, Turn.LISTENING)
    table = Recorded(ASKER)
    monkeypatch.setattr(dialogue, "ASKER", table)
    step = ASKER[Turn.LISTENING, TurnEvent.PART_NEXT]
    assert kinds(ports.receive(of_session(_re=1, _part=1, n=1), 1.0)) == DONE[step.do]
    assert kinds(ports.receive(of_session(_re=1, _part=2, n=2), 1.0)) == []  # its task is awake already
    assert (table.asked, turn.state, ports.counters.matched) == ([], step.to, 2)
    assert turn.arriving is not None
    assert list(turn.arriving.ready) == [{"n": 1}, {"n": 2}]


# -- what the peer knows of a session of this side's -------------------------------------------------------------------


def session_in(ports: Connection, state: Opened) -> Dialogue:
    """A session of this side's that the peer knows as that; one that is `DONE` has a turn that waits."""
    session = ports.open(None, 0.0, recycles=False)
    if state is Opened.OPEN:
        answer(ports, session)
    elif state is Opened.STALE:
        leave_unanswered(ports, session)
    elif state is Opened.TOLD:
        session.once = True
        leave_unanswered(ports, session)
    elif state is Opened.DONE:
        begin_turn(ports, session, {}, 0.0)
        is_done(ports, session)
    else:
        ports._asking.exact(session)
    assert session.exact is not None
    assert session.exact.opened is state
    return session


def answer(ports: Connection, session: Dialogue) -> None:
    """The peer answers the session's turn, which is asked where none waits; with `_end` it takes the long way."""
    turn = session.turn or begin_turn(ports, session, {}, 0.0)[0]
    assert kinds(ports.receive(of_session(_re=turn.number, _end=True), 1.0)) == ["Answered"]
    if session.exact is not None and session.exact.opened is not Opened.DONE:
        ports.turn_over(turn, "ended", 1.0)


def leave_unanswered(ports: Connection, session: Dialogue) -> None:
    """The session's turn leaves without its answer, which is asked where none waits."""
    turn = session.turn or begin_turn(ports, session, {}, 0.0)[0]
    ports.turn_over(turn, "cancelled", 1.0)


def leave_unsent(ports: Connection, session: Dialogue) -> None:
    """The session's turn leaves before its message did."""
    turn = session.turn or begin_turn(ports, session, {}, 0.0)[0]
    turn.sent = 0
    ports.turn_over(turn, "cancelled", 1.0)


def end(ports: Connection, session: Dialogue) -> None:
    """This side ends the session, in which a turn waits."""
    if session.turn is None:
        begin_turn(ports, session, {}, 0.0)
    ports.end(session, ENDED, 1.0)


def is_done(ports: Connection, session: Dialogue) -> None:
    """The peer says that it is done with the session."""
    ports.receive(of_session(_end=True), 1.0)


LETS: dict[OpenedEvent, Callable[[Connection, Dialogue], None]] = {
    OpenedEvent.ANSWERED: answer,
    OpenedEvent.POSTED: lambda ports, session: ports.post(session, {"n": 1}) and None,
    OpenedEvent.UNSENT: leave_unsent,
    OpenedEvent.UNANSWERED: leave_unanswered,
    OpenedEvent.TELL: end,
    OpenedEvent.PEER_DONE: is_done,
}
"""What lets a connection come to each event."""

NEVER = {
    *((state, OpenedEvent.POSTED) for state in (Opened.OPEN, Opened.TOLD, Opened.DONE)),  # a post opens what is not
    *((state, OpenedEvent.TELL) for state in (Opened.TOLD, Opened.DONE)),  # it is told once, and not what it knows
}
"""What a connection does not come to. None of it changes the state."""


@pytest.mark.parametrize(("state", "event"), SESSION, ids=named)
def test_a_connection_knows_of_the_peer_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, state: Opened, event: OpenedEvent
) -> None:
    ports = machine()
    session = session_in(ports, state)
    table = Recorded(SESSION)
    monkeypatch.setattr(dialogue, "SESSION", table)
    LETS[event](ports, session)
    assert session.exact is not None
    if (state, event) in NEVER:
        assert SESSION[state, event] is state
        assert (state, event) not in table.asked
    else:
        assert (state, event) in table.asked
    if event is OpenedEvent.UNANSWERED and session.once:
        assert session.exact.opened is Opened.TOLD
    elif (event is OpenedEvent.TELL and state is Opened.TOLD) or len(table.asked) < 2:
        assert session.exact.opened is SESSION[state, event]


def test_a_post_that_was_not_sent_after_all_did_not_open_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = machine()
    session = session_in(ports, Opened.FRESH)
    _, answers, opens = ports.post(session, {"n": 1})
    assert (answers, opens) == (0, True)
    table = Recorded(SESSION)
    monkeypatch.setattr(dialogue, "SESSION", table)
    ports.not_posted(session, answers, opened=opens)
    assert table.asked == [(Opened.OPEN, OpenedEvent.UNSENT)]
    assert session.exact is not None
    assert session.exact.opened is SESSION[Opened.OPEN, OpenedEvent.UNSENT]


@pytest.mark.parametrize("state", [Opened.FRESH, Opened.STALE], ids=named)
def test_the_fast_way_of_a_reply_knows_of_the_peer_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, state: Opened
) -> None:
    ports = machine()
    session = session_in(ports, state)
    turn, _ = begin_turn(ports, session, {}, 0.0)
    monkeypatch.setattr(Connection, "_receive", None)
    table = Recorded(SESSION)
    monkeypatch.setattr(dialogue, "SESSION", table)
    assert kinds(ports.receive(of_session(_re=turn.number), 1.0)) == ["Answered"]
    assert table.asked == [(state, OpenedEvent.ANSWERED)]
    assert session.exact is not None
    assert session.exact.opened is SESSION[state, OpenedEvent.ANSWERED]


# -- the fast way of `receive` -----------------------------------------------------------------------------------------


ANYTHING = st.fixed_dictionaries(
    {"sid": st.integers(1, 8)},
    optional={
        "_turn": st.sampled_from([1, 2, 3, 4, 5, 2**49, 0, "1", None]),
        "_re": st.sampled_from([1, 2, 3, 4, 2**49, "1", True]),
        "_life": st.sampled_from([LIFE, LIFE, PEER_LIFE, PEER_LIFE, PEER_LIFE, PEER_LIFE + 1, None, "x"]),
        "_new": st.sampled_from([True, False, 1]),
        "_wait": st.sampled_from([0, 1.5, 5, -1, None]),
        "_end": st.sampled_from([True, False]),
        "_error": st.sampled_from(["ended", "code: text", 5]),
        "_part": st.integers(0, 4),
        "_credit": st.integers(0, 4),
        "_traceparent": st.sampled_from(["00-1", 5]),
        "n": st.integers(0, 3),
    },
)
PLAIN = st.fixed_dictionaries(
    {"sid": st.integers(1, 8), "_life": st.sampled_from([LIFE, PEER_LIFE])},
    optional={"_turn": st.integers(1, 9), "_re": st.integers(1, 9), "_wait": st.just(5), "n": st.integers(0, 3)},
)
ALONE = st.fixed_dictionaries(
    {
        "sid": st.integers(4, 12),
        "_turn": st.integers(1, 40),
        "_life": st.sampled_from([PEER_LIFE, PEER_LIFE, PEER_LIFE, PEER_LIFE, LIFE, PEER_LIFE + 1]),
        "_new": st.sampled_from([True, True, True, False]),
        "_end": st.sampled_from([True, True, True, False]),
    },
    optional={
        "_wait": st.sampled_from([0, 5]),
        "_part": st.integers(0, 1),
        "_traceparent": st.sampled_from(["00-1", 5]),
        "n": st.integers(0, 3),
    },
)
CLASSIC = st.fixed_dictionaries({"sid": st.integers(1, 8)}, optional={"n": st.integers(0, 3), "ask": st.just(True)})
REPLIES = [
    {"n": 1},
    {},
    {"_re": None, "_life": None, "n": 1},
    {"_wait": 5},
    {"_error": "code: text"},
    {"_end": True, "n": 1},
    {"_end": True, "_error": "ended"},
    {"_part": 1, "n": 1},
    {"_part": 2, "n": 2},
    {"_part": 3, "_end": True},
    {"_part": 9, "n": 1},
    {"_turn": 2**49 + 5, "_wait": 9, "n": 1},
    {"_turn": 2**49 + 6, "_credit": 3, "_part": 1, "n": 1},
    {"_turn": 2**49 + 7, "_wait": 0, "n": 1},
]
QUESTIONS = [
    {"n": 1},
    {"n": 1, "_wait": 5},
    {"n": 1, "_wait": 0},
    {"n": 1, "_end": True},
    {"n": 1, "_new": True},
    {"n": 1, "step": 0},
    {"n": 1, "step": -1},
    {"_credit": 3, "_part": 1, "n": 1},
    {"_credit": 3, "_part": 2, "n": 1},
    {"_credit": 9, "_part": 1, "n": 1, "step": 0},
    {"_credit": 9, "step": 0},
    {"_error": "cancelled", "step": 0},
    {"_error": "cancelled"},
    {"_error": "ended", "_end": True, "step": 0},
]
WHICH = st.sampled_from([0, 0, 0, 1, 2, 3])
REPLY = st.tuples(st.just("reply"), WHICH, st.one_of(st.just({"n": 1}), st.sampled_from(REPLIES)))
QUESTION = st.tuples(st.just("question"), WHICH, st.one_of(st.just({"n": 1}), st.sampled_from(QUESTIONS)))
ASK = st.tuples(st.just("ask"), WHICH, st.sampled_from([0, 0, 0, 2, 3]))
PART = st.tuples(st.just("part"), WHICH, st.sampled_from([{"n": 1}, {"n": 1}, {}, {"_end": True}, {"_life": None}]))
TAKE = st.tuples(st.just("take"), WHICH, st.none())
LEAVE = st.tuples(st.just("leave"), WHICH, st.sampled_from(["over", "over", "over", "unsent", "fails"]))
DEEDS = st.one_of(
    st.tuples(st.just("hear"), st.just(0), st.one_of(ANYTHING, PLAIN, CLASSIC)),
    *[REPLY, QUESTION, ASK, LEAVE] * 3,
    *[PART, PART, TAKE],
    st.tuples(st.just("open"), st.just(0), st.none()),
    st.tuples(st.just("answer"), WHICH, st.booleans()),
    st.tuples(st.sampled_from(["give_up", "fail", "end"]), WHICH, st.none()),
    *[st.tuples(st.just("hear"), st.just(0), ALONE)] * 3,
    st.tuples(st.just("alone"), WHICH, st.booleans()),
)
BEGINNING: list[tuple[str, int, Any]] = [
    ("open", 0, None),
    ("ask", 0, 0),
    ("open", 0, None),
    ("hear", 0, {"sid": 7, "_turn": 1, "_new": True, "_life": PEER_LIFE}),
    ("hear", 0, {"sid": 8, "n": 1}),
]
"""Each history begins with sessions of both sides, so that most of it happens in open ones."""


def is_question(fields: Any) -> bool:
    """Tell questions on the classic wire."""
    return "ask" in fields


OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_answer_bytes": 700, "max_incoming_sessions": 2, "on_unanswered": "end"},
    {"dialect": Classic()},
    {"dialect": Exact(is_question=is_question)},
    {"dialect": Classic(is_question=is_question), "on_unanswered": "keep"},
    {"on_session": None},
    {"on_session": None, "on_request": print, "max_answer_bytes": 700},
    {"on_request": print, "max_incoming_sessions": 2},
    {"dialect": Classic(), "on_session": None, "on_request": print, "max_incoming_sessions": 2},
    {"dialect": Classic(is_question=is_question), "on_session": None, "on_request": print},
]


class TheLongWay(Connection):
    """A connection that has no fast way."""

    __slots__ = ()

    def receive(self, message: Any, now: float) -> list[Event]:
        self._receive(message, now)
        return self.take()


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@settings(max_examples=examples(200), deadline=None)
@given(history=st.lists(DEEDS, min_size=10, max_size=40))
def test_the_fast_way_of_receive_comes_to_the_same_as_the_long_one(
    options: dict[str, Any], history: list[tuple[str, int, Any]]
) -> None:
    fast, long = World(machine(**options)), World(machine(TheLongWay, **options))
    for now, (deed, which, value) in enumerate([*BEGINNING, *history]):
        fast.do(deed, which, value, float(now))
        long.do(deed, which, value, float(now))
        assert fast.told == long.told
        assert fast.state() == long.state()


def test_an_answer_to_the_turn_0_is_malformed_though_a_turn_without_a_number_waits() -> None:
    ports = machine()
    ports.receive({"sid": PEERS, "n": 1}, 0.0)
    turn, _ = begin_turn(ports, ports.sessions.peers[PEERS], {}, 0.0)
    ports.receive(asks(1, n=1), 0.0)
    assert kinds(ports.receive({"sid": PEERS, "_re": 0, "_life": PEER_LIFE}, 1.0)) == ["Dropped"]
    assert (turn.number, turn.state, ports.counters.malformed) == (0, Turn.WAITING, 1)


@pytest.mark.parametrize("many", [False, True], ids=["one answer", "many answers"])
def test_what_was_asked_in_a_peers_last_life_is_not_taken_for_what_it_asks_in_the_next(many: bool) -> None:
    ports = machine()
    ports.receive(asks(1, _new=True), 0.0)
    session = ports.open(None, 0.0, recycles=False)
    turn, _ = begin_turn(ports, session, {}, 0.0)
    ports.receive(of_session(_re=1, _turn=1), 0.0)  # the answer asks, and what is said next would answer that
    ports.turn_over(turn, "ended", 0.0)
    assert session.exact is not None
    assert session.exact.holding == 1
    ports.receive({"sid": PEERS, "_turn": 1, "_new": True, "_life": PEER_LIFE + 1}, 0.0)
    ports.receive(of_session(_turn=1, **({"_credit": 3, "_part": 1} if many else {})), 0.0)
    assert ports._shared.turns.running(session.key) == 1
    frame, answers, _ = ports.post(session, {"n": 1})  # the application has not yet taken that question
    assert ("_re" in frame, answers) == (False, 0)
    asked, frame = begin_turn(ports, session, {"n": 2}, 0.0)
    assert ("_re" in frame, asked.answers) == (False, 0)
    assert ports._shared.turns.running(session.key) == 1


def test_nearly_every_message_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, classic = machine(), machine(dialect=Classic())
    exact.receive(asks(10, _new=True), 0.0)
    classic.receive({"sid": PEERS, "n": 0}, 0.0)
    monkeypatch.setattr(Connection, "_receive", None)
    for ports in (exact, classic):
        session = ports.open(None, 0.0, recycles=False)
        for n in range(3):
            turn, _ = begin_turn(ports, session, {}, 0.0)
            header = {"_re": turn.number, "_life": LIFE} if ports is exact else {}
            assert kinds(ports.receive({"sid": session.sid, "n": n, **header}, 1.0)) == ["Answered"]
            assert ports.turn_over(turn, "ended", 1.0) == []
            question = asks(11 + n, _wait=5, n=n) if ports is exact else {"sid": PEERS, "n": n}
            assert kinds(ports.receive(question, 1.0)) == ["Received"]


def test_the_fast_way_takes_its_states_from_the_tables() -> None:
    assert connections._REPLIED is ASKER[Turn.WAITING, TurnEvent.REPLY].to
    asked = {ANSWERER[state, PeerEvent.ASK_NEXT].to for state in PeerTurn}
    assert asked == {peer_turns._RUNNING}
    assert SESSION[Opened.OPEN, OpenedEvent.ANSWERED] is Opened.OPEN is connections._OPEN
