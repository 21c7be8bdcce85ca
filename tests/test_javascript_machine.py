"""The machine of clients/js against Python's: the same tables, and in each history the same words and state."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psession import Exact
from psession.options import Options
from psession.protocol import states
from psession.protocol.counters import ADVICE, EXPECTED
from psession.protocol.credit import Arriving, Departing
from psession.protocol.dialogue import AskedTurn, Dialogue
from psession.protocol.endings import Ending
from psession.protocol.states import ANSWERER, ASKER, SESSION, Turn, TurnEvent

from .effort import examples
from .machines import World, machine, pick
from .test_states import BEGINNING, DEEDS, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Node

SCRIPT = Path(__file__).parent / "interop" / "machine.mjs"
FOR_ITS_SHELL = {"wait", "outcome", "data", "is_refusal"}
"""Words of an event that one side has for its own shell."""

ONLY_HERE = ("unpaid", "retried", "latency", "unknown_port", "bytes_sent", "bytes_received")
"""Counters of what the client has not (budgets of retries, many ports on a channel), and of what its port counts, or
no machine does (retries, latency)."""


def camel(name: str) -> str:
    """The name as JavaScript writes it."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name.lower())


# -- the tables --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tables(node: Node) -> Any:
    """Those of clients/js."""
    done = subprocess.run([node.program, str(SCRIPT), "tables"], check=True, capture_output=True, timeout=60)
    return json.loads(done.stdout)


def rows(table: dict[Any, Any]) -> dict[str, dict[str, list[str]]]:
    """A table as JavaScript has it."""
    found: dict[str, dict[str, list[str]]] = {}
    for (state, event), step in table.items():
        found.setdefault(camel(state.name), {})[camel(event.name)] = [camel(step.to.name), camel(step.do.name)]
    return found


def test_who_answers_goes_by_the_same_table(tables: Any) -> None:
    assert tables["ANSWERER"] == rows(ANSWERER)


def test_who_asks_goes_by_the_same_table_but_for_senders_that_raise_which_a_websocket_has_not(tables: Any) -> None:
    sender = {TurnEvent.SENDER_FAILED, TurnEvent.TRY_AGAIN}
    table = {key: step for key, step in ASKER.items() if key[0] is not Turn.FAILED and key[1] not in sender}
    assert tables["ASKER"] == rows(table)


def test_the_peers_knowledge_of_a_session_goes_by_the_same_table(tables: Any) -> None:
    found: dict[str, dict[str, str]] = {}
    for (state, event), to in SESSION.items():
        found.setdefault(camel(state.name), {})[camel(event.name)] = camel(to.name)
    assert tables["SESSION"] == found


def test_messages_are_dropped_for_the_same_reasons(tables: Any) -> None:
    assert {*tables["reasons"], camel("unknown_port")} == {camel(reason.value) for reason in ADVICE}
    assert set(tables["expected"]) == {camel(reason.value) for reason in EXPECTED}


# -- histories ---------------------------------------------------------------------------------------------------------


class Machines:
    """A process of Node that lives through one history after the other."""

    def __init__(self, node: Node) -> None:
        command = [node.program, str(SCRIPT), "histories"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def live(self, options: Options, history: list[tuple[str, int, Any]]) -> Any:
        """Return what was told at each deed, and the state after it."""
        dialect = options.wire
        settings = {
            "asksExactly": dialect.asks_exactly,
            "isQuestion": dialect.tells_questions,
            "sessionIds": {"first": 1, "last": 4},
            "maxSessionCount": options.max_session_count,
            "maxIncomingSessions": options.max_incoming_sessions,
            "sessionIdRest": options.session_id_rest,
            "onUnanswered": options.on_unanswered,
            "takesSessions": options.takes_sessions,
            "maxAnswerBytes": options.max_answer_bytes,
            "deadlines": options.deadlines,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"options": settings, "history": history}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def machines(node: Node) -> Iterator[Machines]:
    """The process, which ends with its input."""
    made = Machines(node)
    with made.process:
        yield made


async def _handle(session: object) -> None:
    raise AssertionError("there is no loop to run a handler")


def told(world: World) -> list[Any]:
    """What Python's machine has told, in the words of the other."""
    words = []
    for one in world.told:
        if not isinstance(one, tuple):
            words.append(one.removeprefix("Session") if isinstance(one, str) else one)
            continue
        kind, contents = one
        words.append([kind[0].lower() + kind[1:], {name: _plain(value) for name, value in contents.items()}])
    return words


def _plain(value: Any) -> Any:
    if isinstance(value, Ending):
        kind = value.error.__name__.removeprefix("Session")
        return ["ending", kind, value.clean, camel(value.counter), value.code]
    if isinstance(value, states.State):
        return camel(value.value)
    return "never" if value == math.inf else value


def as_told(words: list[Any], *, of_javascript: bool) -> list[Any]:
    """What can be compared: the texts for people differ, and each side has a word more for its own shell."""
    found = []
    for one in words:
        if not isinstance(one, list):
            found.append(one)
            continue
        kind, contents = one
        contents = {name: value for name, value in contents.items() if name not in FOR_ITS_SHELL}
        if kind == "dropped":
            contents["detail"] = bool(contents.get("detail"))
            contents.setdefault("sid", None)
        contents.pop("trace", None)  # the client leaves traces to others
        contents.pop("is_unsent", None)  # no word of these wires: a broker says so
        if kind == "repeat" and not of_javascript:
            contents["frames"] = list(contents["frames"])
        found.append([kind, contents])
    return found


def state(world: World) -> dict[str, Any]:
    """The state of Python's machine, in the words of the other."""
    ports = world.ports
    turns = ports._shared.turns
    keys = range(-9, 10)
    counters = ports.counters
    return {
        "sessions": [_session(one) for one in ports.sessions.all()],
        "turns": [[turn.number, camel(turn.state.name), turn.answered] for turn in world.turns],
        "memory": [
            [turns.last(key), camel(turns.state(key).name), turns.running(key), held.frames if held else []]
            for key in keys
            for held in [turns.held(key)]
        ],
        "stored": turns.stored_bytes,
        "known": [ports.peer.value, ports._shared.peer_life, ports.sessions.pool.resting, ports.handlers],
        "counters": {camel(name): getattr(counters, name) for name in counters.__slots__ if name not in ONLY_HERE},
    }


def _session(session: Dialogue) -> Any:
    exact, turn = session.exact, session.turn
    known: Any = None
    if exact is not None:
        fields = [exact.life, camel(exact.opened.name), exact.last_turn, exact.holding, exact.began, _plain(exact.due)]
        fields += [exact.is_final, exact.is_cautious, exact.posted, exact.heard]
        known = [fields, _words(exact.stream)]
    asked = None
    if turn is not None:
        asked = [turn.number, camel(turn.state.name), turn.answered, turn.sent, _words(turn.arriving)]
    return [session.incoming, session.sid, known, asked, session.owed, session.unsafe_until]


def _words(value: Any) -> Any:
    if isinstance(value, Departing):
        return ["stream", value.credit, value.spent, value.made, value.acked, value.is_complete, value.is_over]
    if isinstance(value, Arriving):
        return ["replies", value.credit, value.next, value.consumed, list(value.ready)]
    return value


class Told(World):
    """As `World`, in words that JSON has."""

    def do_take(self, which: int, value: Any, now: float) -> None:
        turn = pick([turn for turn in self.turns if turn.arriving is not None and turn.arriving.ready], which)
        if turn is not None:
            assert turn.arriving is not None
            self.told.append(("Taken", {"reply": turn.arriving.take(), "credit": turn.arriving.grant()}))

    def tell(self, happened: Any) -> None:
        for event in happened:
            contents = {name: self._in_words(getattr(event, name)) for name in event.__struct_fields__}
            self.told.append((type(event).__name__, contents))

    def _in_words(self, value: Any) -> Any:
        if isinstance(value, Dialogue):
            return ["session", value.incoming, value.sid]
        if isinstance(value, AskedTurn):
            return ["turn", self._in_words(value.dialogue), value.number, camel(value.state.name), value.answered]
        return _words(value)


# With on_request Python keeps no session for a question that stands alone: another way to the same messages.
@pytest.mark.parametrize("options", [options for options in OPTIONS if "on_request" not in options], ids=repr)
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(DEEDS, min_size=10, max_size=40))
def test_both_machines_say_and_remember_the_same(
    machines: Machines, options: dict[str, Any], history: list[tuple[str, int, Any]]
) -> None:
    chosen = Options(**{"dialect": Exact(), "on_session": _handle, "session_ids": range(1, 5), **options})
    # A WebSocket does not raise on a message as a sender may.
    history = [*BEGINNING, *[(deed, which, "over" if how == "fails" else how) for deed, which, how in history]]
    world = Told(machine(**options))
    there = machines.live(chosen, history)
    for now, (deed, which, value) in enumerate(history):
        world.told.clear()
        world.do(deed, which, value, float(now))
        words, its_state = there[now]
        where = f"deed {now}: {deed} {which} {value}"
        assert as_told(words, of_javascript=True) == as_told(told(world), of_javascript=False), where
        assert its_state == state(world), where
