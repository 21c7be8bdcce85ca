"""What is remembered of the peer's turns: the short way of an open session comes to the same as the long one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from psession import _rules as rules
from psession._taken import FRAME_OVERHEAD_BYTES, MAX_PAGES, PAGE, TakenTurns

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
        self.short, self.long = TakenTurns(room), TakenTurns(room)
        self.open: dict[int, object] = {}

    def do(self, deed: str, sid: int, turn: int) -> None:
        getattr(self, deed)(sid, turn)

    def ask(self, sid: int, turn: int) -> None:
        step = self.long.asked(sid, turn)
        assert self.short.asked(sid, turn) == step
        held = self.short.open(sid) if sid in self.open else None
        if held is not None and self.short.take_next(sid, held, turn):
            assert step.do is rules.RUN
            self.long.take(sid, turn)
        elif step.do is rules.RUN:
            self.long.take(sid, turn)
            self.short.take(sid, turn)

    def answer(self, sid: int, turn: int) -> None:
        running, frame = self.long.running.get(sid), f"{sid}/{turn}"
        if sid in self.open:
            self.short.answer_last(sid, self.short.open(sid), running or 0, frame, 10)
        elif running is not None:
            self.short.answer(sid, frame, 10)
        if running is not None:
            self.long.answer(sid, frame, 10)

    def append(self, sid: int, turn: int) -> None:
        if self.long.state(sid) is rules.ANSWERED:
            for memory in (self.short, self.long):
                memory.append(sid, f"more of {turn}", 10)

    def quit(self, sid: int, turn: int) -> None:
        assert self.short.quit(sid, turn) == self.long.quit(sid, turn)

    def undo(self, sid: int, turn: int) -> None:
        for memory in (self.short, self.long):
            memory.unanswer(sid, memory.last(sid))

    def agree(self) -> None:
        assert self.short.running == self.long.running
        assert (self.short.stored_bytes, self.short.highest) == (self.long.stored_bytes, self.long.highest)
        for sid in range(1, 5):
            assert self.short.state(sid) == self.long.state(sid)
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
            if both.long.asked(sid, turn).do is rules.RUN:
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
        elif deed == "ask" and memory.asked(sid, turn).do is rules.RUN:
            memory.take(sid, turn)
        elif deed == "answer" and sid in memory.running:
            memory.answer(sid, "frame", 10)
        elif deed == "append" and memory.state(sid) is rules.ANSWERED:
            memory.append(sid, "frame", 10)
        elif deed == "quit":
            memory.quit(sid, turn)
        frames = [len(memory.stored(sid)) for sid in range(1, 5)]
        assert memory.stored_bytes == sum(frames) * (FRAME_OVERHEAD_BYTES + 10) <= ROOM


def taken(memory: TakenTurns, sid: int, turn: int) -> None:
    """A turn that was run and answered."""
    memory.take(sid, turn)
    memory.answer(sid, f"answer {turn}", 10)


def test_the_oldest_answer_goes_first_and_its_turn_is_still_never_run_again() -> None:
    memory = TakenTurns(ROOM)
    for sid in range(1, 7):
        taken(memory, sid, sid)
    assert [memory.state(sid) for sid in range(1, 7)] == [rules.OVER] + [rules.ANSWERED] * 5
    assert memory.asked(1, 1).do is rules.DENY


def test_a_session_that_goes_on_answering_does_not_lose_its_new_answer_for_its_first_one() -> None:
    memory = TakenTurns(ROOM)
    held = memory.open(1)
    taken(memory, 1, 1)
    for turn in range(2, 6):
        taken(memory, turn, turn)
    assert memory.take_next(1, held, 6)
    memory.answer_last(1, held, 6, "answer 6", 10)
    taken(memory, 7, 7)
    assert (memory.stored(1), memory.stored(2), memory.stored(3)) == (["answer 6"], [], ["answer 3"])


def test_a_number_is_held_no_longer_than_its_session_and_its_answer_last() -> None:
    memory = TakenTurns(ROOM)
    for sid in range(1, 100):
        memory.open(sid)
        taken(memory, sid, sid)
        memory.close(sid)
    assert len(memory._held) == len(memory._line) == 5
    for sid in range(95, 100):
        memory.quit(sid, sid)
    assert (memory._held, len(memory._line), memory.stored_bytes) == ({}, 0, 0)
    assert [memory.last(sid) for sid in range(1, 100)] == list(range(1, 100))


def test_what_fell_out_of_the_tables_is_refused_and_an_open_session_does_not_fall_out() -> None:
    memory = TakenTurns(ROOM)
    held = memory.open(1)
    memory.take(1, 1)
    memory.quit(2, 2)
    for page in range(1, MAX_PAGES + 1):
        memory.quit(page * PAGE, 2 + page)
    assert memory.asked(2, 2).do is rules.DENY
    assert memory.asked(1, 1).do is rules.PROGRESS
    assert memory.take_next(1, held, MAX_PAGES + 10)
