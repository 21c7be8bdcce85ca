"""What is remembered of the peer's turns: the short way of an open session comes to the same as the long one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psession.protocol.peer_turns import FRAME_OVERHEAD_BYTES, MAX_PAGES, PAGE
from psession.protocol.states import PeerDo, PeerTurn

from .machines import PEER_LIFE, machine
from .memories import Memory

ROOM = 5 * (FRAME_OVERHEAD_BYTES + 10)

DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["open", "close", "ask", "ask", "ask", "answer", "answer", "append", "quit", "pass", "undo"]),
        st.integers(1, 4),
        st.integers(1, 12),
    ),
    max_size=60,
)


class Both:
    """The same deeds done to two memories: one knows which sessions are open, and takes the short way where it can."""

    def __init__(self, room: int) -> None:
        self.short, self.long = Memory(room), Memory(room)
        self.open: dict[int, object] = {}

    def do(self, deed: str, sid: int, turn: int) -> None:
        getattr(self, deed)(sid, turn)

    def ask(self, sid: int, turn: int) -> None:
        do = self.long.asks(sid, turn)
        assert self.short.asks(sid, turn) == do
        held = self.short.open(sid) if sid in self.open else None
        if held is not None and self.short.ask_next(held, turn):
            assert do is PeerDo.RUN
            self.long.take(sid, turn)
        elif do is PeerDo.RUN:
            self.long.take(sid, turn)
            self.short.take(sid, turn)

    def answer(self, sid: int, turn: int) -> None:
        frame = f"{sid}/{turn}"
        if self.long.running(sid):
            self.short.reply(sid, frame, 10)
            self.long.reply(sid, frame, 10)

    def append(self, sid: int, turn: int) -> None:
        if self.long.state(sid) is PeerTurn.ANSWERED:
            for memory in (self.short, self.long):
                held = memory.held(sid)
                assert held is not None
                memory.store(held, f"more of {turn}", 10)

    def quit(self, sid: int, turn: int) -> None:
        assert self.short.give_up(sid, turn) == self.long.give_up(sid, turn)

    def undo(self, sid: int, turn: int) -> None:
        for memory in (self.short, self.long):
            memory.unanswer(sid, memory.last(sid))

    def agree(self) -> None:
        assert (self.short.stored_bytes, self.short.highest) == (self.long.stored_bytes, self.long.highest)
        for sid in range(1, 5):
            assert self.short.state(sid) == self.long.state(sid)
            assert self.short.running(sid) == self.long.running(sid)
            assert self.short.last(sid) == self.long.last(sid)
            assert self.short.stored(sid) == self.long.stored(sid)


@given(DEEDS)
def test_an_open_session_is_remembered_as_one_that_is_looked_up(deeds: list[tuple[str, int, int]]) -> None:
    both = Both(10**6)
    for deed, sid, turn in deeds:
        if deed == "open":
            both.open[sid] = both.short.open(sid)
        elif deed == "close":
            both.open.pop(sid, None)
            both.short.close(sid)
        elif deed == "pass":
            if both.long.asks(sid, turn) is PeerDo.RUN:
                both.short.pass_by(sid, turn)
                both.long.pass_by(sid, turn)
        else:
            both.do(deed, sid, turn)
        both.agree()


@given(DEEDS)
def test_the_answers_never_take_more_than_they_may(deeds: list[tuple[str, int, int]]) -> None:
    both = Both(ROOM)
    for deed, sid, turn in deeds:
        memory = both.short
        if deed == "open":
            memory.open(sid)
        elif deed == "close":
            memory.close(sid)
        elif deed == "ask" and memory.asks(sid, turn) is PeerDo.RUN:
            memory.take(sid, turn)
        elif deed == "answer" and memory.running(sid):
            memory.reply(sid, "frame", 10)
        elif deed == "append" and memory.state(sid) is PeerTurn.ANSWERED:
            held = memory.held(sid)
            assert held is not None
            memory.store(held, "frame", 10)
        elif deed == "quit":
            memory.give_up(sid, turn)
        frames = [len(memory.stored(sid)) for sid in range(1, 5)]
        assert memory.stored_bytes == sum(frames) * (FRAME_OVERHEAD_BYTES + 10) <= ROOM


def taken(memory: Memory, sid: int, turn: int) -> None:
    """A turn that was run and answered."""
    memory.take(sid, turn)
    memory.reply(sid, f"answer {turn}", 10)


def test_the_oldest_answer_goes_first_and_its_turn_is_still_never_run_again() -> None:
    memory = Memory(ROOM)
    for sid in range(1, 7):
        taken(memory, sid, sid)
    assert [memory.state(sid) for sid in range(1, 7)] == [PeerTurn.OVER] + [PeerTurn.ANSWERED] * 5
    assert memory.asks(1, 1) is PeerDo.DENY


def test_a_session_that_goes_on_answering_does_not_lose_its_new_answer_for_its_first_one() -> None:
    memory = Memory(ROOM)
    held = memory.open(1)
    taken(memory, 1, 1)
    for turn in range(2, 6):
        taken(memory, turn, turn)
    assert memory.ask_next(held, 6)
    memory.reply(1, "answer 6", 10)
    taken(memory, 7, 7)
    assert (memory.stored(1), memory.stored(2), memory.stored(3)) == (["answer 6"], [], ["answer 3"])


def test_a_number_is_held_no_longer_than_its_session_and_its_answer_last() -> None:
    memory = Memory(ROOM)
    for sid in range(1, 100):
        memory.open(sid)
        taken(memory, sid, sid)
        memory.close(sid)
    assert len(memory._held) == len(memory._queue) == 5
    for sid in range(95, 100):
        memory.give_up(sid, sid)
    assert (memory._held, len(memory._queue), memory.stored_bytes) == ({}, 0, 0)
    assert [memory.last(sid) for sid in range(1, 100)] == list(range(1, 100))


def test_what_fell_out_of_the_tables_is_refused_and_an_open_session_does_not_fall_out() -> None:
    memory = Memory(ROOM)
    held = memory.open(1)
    memory.take(1, 1)
    memory.give_up(2, 2)
    for page in range(1, MAX_PAGES + 1):
        memory.give_up(page * PAGE, 2 + page)
    assert memory.asks(2, 2) is PeerDo.DENY
    assert memory.asks(1, 1) is PeerDo.PROGRESS
    assert memory.ask_next(held, MAX_PAGES + 10)


@pytest.mark.parametrize("room", [1, ROOM])
def test_an_answer_that_was_not_sent_after_all_leaves_the_turn_to_be_answered_whatever_there_was_room_for(
    room: int,
) -> None:
    ports = machine(max_answer_bytes=room)
    question = {"sid": 9, "_turn": 1, "_new": True, "_life": PEER_LIFE}
    ports.receive(dict(question), 0.0)
    session = ports.sessions.peers[9]
    ports.hold(session, 1)
    _, answers, opened = ports.post(session, {"answer": "cancelled as it waits to be sent"})
    ports.not_posted(session, answers, opened=opened)
    assert ports._shared.turns.running(9) == 1
    assert ports.post(session, {"answer": 2})[:2] == ({"answer": 2, "sid": 9, "_re": 1, "_life": PEER_LIFE}, 1)
