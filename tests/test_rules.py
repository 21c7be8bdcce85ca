"""The two tables of the exact wire: complete, reachable, in the document, and what the code goes by."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Envelope, Session, SessionManager, SessionRemoteError
from psession import _rules as rules
from psession._taken import TakenTurns

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"

ANSWERER_STATES = (rules.NOTHING, rules.RUNNING, rules.STREAMING, rules.ANSWERED, rules.OVER)
OF_THE_HANDLER = {
    rules.ANSWER: {rules.RUNNING},
    rules.LEAVE: {rules.RUNNING, rules.STREAMING},
    rules.PART: {rules.STREAMING},
    rules.FINISH: {rules.STREAMING},
}
"""What only a turn that runs can come to: that is the handler's doing."""

ANSWERER_EVENTS = (
    rules.ASK_NEXT, rules.STREAM_NEXT, rules.STREAM_REST, rules.ASK_SAME, rules.ASK_OLDER, rules.ASK_FORGOTTEN,
    rules.QUIT_NEXT, rules.QUIT_SAME, rules.QUIT_OLDER, rules.GRANT_SAME, rules.GRANT_OTHER, *OF_THE_HANDLER,
)  # fmt: skip
ABSENT = {
    # Where nothing is remembered there is no last turn to be the same as, and none that is lower but by what fell out.
    *((rules.NOTHING, event) for event in (rules.ASK_SAME, rules.ASK_OLDER, rules.QUIT_SAME, rules.GRANT_SAME)),
    # What is remembered did not fall out.
    *((state, rules.ASK_FORGOTTEN) for state in ANSWERER_STATES if state != rules.NOTHING),
    # Only a turn that runs has a handler.
    *((state, event) for event, states in OF_THE_HANDLER.items() for state in ANSWERER_STATES if state not in states),
}


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_rules", DOCS / "render_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_shows_the_tables_as_they_are() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    module = renderer()
    assert module.BETWEEN.search(page) is not None
    assert module.updated(page) == page, "run docs/render_rules.py"


def test_every_state_and_event_has_a_step_or_is_absent_on_purpose() -> None:
    every = {(state, event) for state in ANSWERER_STATES for event in ANSWERER_EVENTS}
    assert rules.ANSWERER.keys() == every - ABSENT
    events = (rules.REPLY, rules.ERROR, rules.BUSY, rules.STRAY, rules.UNMARKED, rules.POST)
    states = (rules.IDLE, rules.WAITING, rules.LISTENING)
    parts = (rules.PART_NEXT, rules.PART_AHEAD, rules.PART_AGAIN, rules.PART_BEYOND, rules.LAST)
    assert rules.ASKER.keys() == {
        *((state, event) for state in states for event in events),
        *((rules.LISTENING, event) for event in parts),
    }


def test_every_state_is_left_and_reached() -> None:
    for table in (rules.ANSWERER, rules.ASKER):
        states = {state for state, _ in table}
        assert {step.to for step in table.values()} <= states
    assert {step.to for step in rules.ANSWERER.values()} == set(ANSWERER_STATES)
    assert {step.to for step in rules.ASKER.values()} == {rules.IDLE, rules.WAITING, rules.LISTENING}


class Recorded(dict[tuple[str, str], rules.Step]):
    """A table that knows who looked up what."""

    def __init__(self, steps: dict[tuple[str, str], rules.Step]) -> None:
        super().__init__(steps)
        self.asked: set[tuple[str, str]] = set()

    def __getitem__(self, key: tuple[str, str]) -> rules.Step:
        self.asked.add(key)
        return super().__getitem__(key)


STATES: dict[str, Callable[[TakenTurns], None]] = {
    rules.NOTHING: lambda taken: None,
    rules.RUNNING: lambda taken: taken.take(1, 10),
    rules.STREAMING: lambda taken: (taken.take(1, 10), taken.stream(1, 8))[0],  # type: ignore[func-returns-value]
    rules.ANSWERED: lambda taken: (taken.take(1, 10), taken.answer(1, b"", 0))[0],  # type: ignore[func-returns-value]
    rules.OVER: lambda taken: taken.pass_by(1, 10),
}


def test_what_is_remembered_takes_each_of_its_steps_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Recorded(rules.ANSWERER)
    monkeypatch.setattr(rules, "ANSWERER", table)
    for state, begin in STATES.items():
        for turn in (9, 10, 11):
            for deed in ("asked", "asked for many", "asked for the rest", "quit", "granted"):
                taken = TakenTurns(10**6)
                if state == rules.NOTHING:
                    taken._forgotten = 10
                begin(taken)
                assert taken.state(1) == state
                options: dict[str, Any] = {"streamed": True} if "for" in deed else {}
                if "rest" in deed:
                    options["part"] = 2
                before, step = set(table.asked), getattr(taken, deed.split()[0])(1, turn, **options)
                for key in table.asked - before:
                    assert key[0] == state
                    assert step is rules.ANSWERER[key]
                if deed == "quit":
                    assert taken.state(1) == step.to
    assert table.asked == {key for key in table if key[1] not in OF_THE_HANDLER}


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_handler_that_answers_or_leaves_does_what_the_table_says(leaves: bool) -> None:
    wire = Wire()

    async def handle(session: Session) -> None:
        await session.receive()
        if not leaves:
            await session.post({"answer": True})
            await session.receive()

    async with SessionManager(wire, on_session=handle).port("p") as port:
        port.dispatch({"sid": 1, "_turn": 1, "_life": 1})
        assert port._exact is not None
        taken = port._exact.taken
        assert taken.state(1) == rules.RUNNING
        await settle()
        step = rules.ANSWERER[rules.RUNNING, rules.LEAVE if leaves else rules.ANSWER]
        assert taken.state(1) == step.to
        assert step.do == (rules.FAIL if leaves else rules.SEND)
        assert taken.stored(1) == wire.sent
        assert ("_error" in wire.sent[0]) == leaves


EVENTS: dict[str, dict[str, Any]] = {
    rules.REPLY: {"_re": 1},
    rules.ERROR: {"_re": 1, "_error": "code"},
    rules.BUSY: {"_re": 1, "_wait": 5},
    rules.STRAY: {"_re": 7},
    rules.UNMARKED: {},
    rules.POST: {"_part": 1},
    rules.PART_NEXT: {"_re": 1, "_part": 1},
    rules.PART_AHEAD: {"_re": 1, "_part": 2},
    rules.PART_AGAIN: {"_re": 1, "_part": 0},
    rules.PART_BEYOND: {"_re": 1, "_part": 3},
    rules.LAST: {"_re": 1, "_part": 1, "_end": True},
}


async def listen(session: Session) -> None:
    async with session.stream({}, credit=2) as replies:
        async for _ in replies:
            pass


@pytest.mark.parametrize(("state", "event"), rules.ASKER)
async def test_who_asks_does_what_the_table_says(state: str, event: str) -> None:
    wire = Wire()
    step = rules.ASKER[state, event]
    async with (
        SessionManager(wire, envelope=Envelope.exact()).port("p") as port,
        trio.open_nursery() as nursery,
    ):
        session, caught = port.create(), Caught()
        ask = partial(listen, session) if state == rules.LISTENING else partial(session.send, {})
        nursery.start_soon(caught.run, ask)
        await settle()
        life = {"sid": 1, "_life": wire.sent[0]["_life"]}
        if state == rules.IDLE:
            port.dispatch({"sid": 1} if event == rules.UNMARKED else {**life, "_re": 1})
            await settle()
        before = port.statistics()
        port.dispatch({"sid": 1} if event == rules.UNMARKED else {**life, **EVENTS[event]})
        await settle()
        after = port.statistics()
        strays = sum(getattr(after, name) - getattr(before, name) for name in ("late", "duplicate", "unknown_sid"))
        assert strays == (step.do == rules.COUNT)
        assert session._inbox.kept == (step.do == rules.KEEP)
        assert after.classic - before.classic == (step.do == rules.TAKE_CLASSIC)
        taken = (rules.TAKE, rules.TAKE_CLASSIC, rules.HAND_OVER, rules.HOLD)
        assert after.matched - before.matched == (step.do in taken)
        assert after.overrun - before.overrun == (step.do == rules.STOP_OVERRUN)
        assert isinstance(caught.error, SessionRemoteError) == (step.do == rules.RAISE)
        assert (session._turn is not None) == (step.to != rules.IDLE)
        nursery.cancel_scope.cancel()
