"""What is remembered of the peer's turns: none is run twice, whatever comes and whatever was forgotten."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import _rules as rules
from psession import _taken
from psession._taken import FRAME_OVERHEAD_BYTES, MAX_PAGES, PAGE, TakenTurns

SIDS = st.sampled_from([1, 2, PAGE, 5 * PAGE, 9 * PAGE + 3, 2**60])
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "answer", "quit", "post", "unanswer"]), SIDS, st.integers(1, 12)),
    max_size=60,
)


@pytest.mark.parametrize("pages", [1, 2, 512])
@pytest.mark.parametrize("room", [0, 2 * FRAME_OVERHEAD_BYTES, 10**6])
@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_no_turn_is_run_twice_and_an_answer_is_its_own_turns(
    pages: int, room: int, steps: list[tuple[str, int, int]]
) -> None:
    before = _taken.MAX_PAGES
    _taken.MAX_PAGES = pages  # type: ignore[misc]
    try:
        check(TakenTurns(room), steps, forgets=pages < 512)
    finally:
        _taken.MAX_PAGES = before  # type: ignore[misc]


def check(taken: TakenTurns, steps: list[tuple[str, int, int]], *, forgets: bool) -> None:
    """Tell the steps to the table and to a plain model that forgets nothing."""
    run: set[tuple[int, int]] = set()
    over: set[tuple[int, int]] = set()
    last: dict[int, int] = defaultdict(int)
    running: dict[int, int] = {}
    for deed, sid, turn in steps:
        if deed in ("ask", "post"):
            do = taken.asked(sid, turn).do
            if do is rules.RUN:
                assert (sid, turn) not in run | over
                assert turn > last[sid]
                run.add((sid, turn))
                last[sid] = turn
                running.pop(sid, None)
                if deed == "post":
                    taken.pass_by(sid, turn)
                else:
                    taken.take(sid, turn)
                    running[sid] = turn
            elif do is rules.REPEAT:
                assert taken.stored(sid) == [(sid, turn)]
                assert turn == last[sid]
            elif do is rules.PROGRESS:
                assert running.get(sid) == turn
            elif not forgets:
                assert turn <= last[sid]
        elif deed == "answer" and sid in running:
            taken.answer(sid, (sid, running.pop(sid)), 0)
        elif deed == "unanswer" and sid not in running and (sid, turn) in run and taken.last(sid) == turn:
            taken.unanswer(sid, turn)
            running[sid] = turn
        elif deed == "quit":
            do = taken.quit(sid, turn).do
            over.add((sid, turn))
            if do is rules.CANCEL:
                assert running.pop(sid) <= turn
            last[sid] = max(last[sid], turn)
        assert taken.running == running
        assert taken.stored_bytes == sum(held.size for held in taken._held.values())
        assert all(held.size and not held.is_open for held in taken._held.values())
        assert not taken._held.keys() & running.keys()
        for state_of in (*last, 77):
            assert (taken.state(state_of), rules.ASK_NEXT) in rules.ANSWERER


def test_the_peers_whole_default_range_is_remembered() -> None:
    taken = TakenTurns(10**6)
    for sid in range(1, 65536):
        taken.pass_by(sid, sid)
    assert all(taken.last(sid) == sid for sid in range(1, 65536))


def test_what_fell_out_is_not_run_again_and_what_runs_does_not_fall_out() -> None:
    taken = TakenTurns(10**9)
    taken.take(1, 1)
    taken.take(2, 2)
    taken.answer(2, b"two", 3)
    for page in range(1, MAX_PAGES + 1):
        taken.take(page * PAGE, page + 2)
        taken.answer(page * PAGE, b"", 0)
    assert taken.asked(1, 1).do is rules.PROGRESS
    assert taken.asked(2, 2).do is rules.REPEAT  # what is answered does not fall out before its answer
    assert taken.asked(3, 2).do is rules.DENY
    taken.answer(1, b"one", 3)
    assert taken.stored(1) == [b"one"]
    assert taken.asked(1, 1).do is rules.REPEAT
    assert len(taken._pages) <= MAX_PAGES


def test_answers_take_no_more_room_than_they_may() -> None:
    taken = TakenTurns(10_000)
    for sid in range(1, 1000):
        taken.take(sid, sid)
        taken.answer(sid, b"x" * 100, 100)
        assert taken.stored_bytes <= 10_000
    assert len(taken._held) == 10_000 // (100 + FRAME_OVERHEAD_BYTES)
    assert taken.stored(999)
