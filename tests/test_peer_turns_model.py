"""What is remembered of the peer's turns: none is run twice, whatever comes and whatever was forgotten."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession.protocol import peer_turns
from psession.protocol.peer_turns import FRAME_OVERHEAD_BYTES, MAX_PAGES, PAGE
from psession.protocol.states import ANSWERER, PeerDo, PeerEvent

from .effort import examples
from .memories import Memory

SIDS = st.sampled_from([1, 2, PAGE, 5 * PAGE, 9 * PAGE + 3, 2**60])
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "answer", "quit", "post", "unanswer"]), SIDS, st.integers(1, 12)),
    max_size=60,
)


@pytest.mark.parametrize("pages", [1, 2, 512])
@pytest.mark.parametrize("room", [0, 2 * FRAME_OVERHEAD_BYTES, 10**6])
@settings(max_examples=examples(150), deadline=None)
@given(steps=STEPS)
def test_no_turn_is_run_twice_and_an_answer_is_its_own_turns(
    pages: int, room: int, steps: list[tuple[str, int, int]]
) -> None:
    before = peer_turns.MAX_PAGES
    peer_turns.MAX_PAGES = pages  # type: ignore[misc]
    try:
        check(Memory(room), steps, forgets=pages < 512)
    finally:
        peer_turns.MAX_PAGES = before  # type: ignore[misc]


def check(memory: Memory, steps: list[tuple[str, int, int]], *, forgets: bool) -> None:
    """Tell the steps to the table and to a plain model that forgets nothing."""
    run: set[tuple[int, int]] = set()
    over: set[tuple[int, int]] = set()
    last: dict[int, int] = defaultdict(int)
    running: dict[int, int] = {}
    answered: dict[int, int] = {}
    for deed, sid, turn in steps:
        if deed in ("ask", "post"):
            do = memory.asks(sid, turn)
            if do is PeerDo.RUN:
                assert (sid, turn) not in run | over
                assert turn > last[sid]
                run.add((sid, turn))
                last[sid] = turn
                running.pop(sid, None)
                answered.pop(sid, None)
                if deed == "post":
                    memory.pass_by(sid, turn)
                else:
                    memory.take(sid, turn)
                    running[sid] = turn
            elif do is PeerDo.REPEAT:
                assert memory.stored(sid) == [(sid, turn)]
                assert turn == last[sid]
            elif do is PeerDo.PROGRESS:
                assert running.get(sid) == turn
            elif not forgets:
                assert turn <= last[sid]
        elif deed == "answer" and sid in running:
            answered[sid] = running.pop(sid)
            memory.reply(sid, (sid, answered[sid]), 0)
        elif deed == "unanswer" and sid in answered and memory.last(sid) == answered[sid]:
            running[sid] = answered.pop(sid)
            assert memory.unanswer(sid, running[sid])  # whether there was room to keep the answer or not
        elif deed == "quit":
            do = memory.give_up(sid, turn)
            over.add((sid, turn))
            if do is PeerDo.CANCEL:
                assert running.pop(sid) <= turn
            if turn >= last[sid]:
                answered.pop(sid, None)
            last[sid] = max(last[sid], turn)
        held = memory._held
        assert {key: one.running for key, one in held.items() if one.running} == running
        assert memory.stored_bytes == sum(one.size for one in held.values())
        assert all((one.size or one.running) and not one.is_open for one in held.values())
        for state_of in (*last, 77):
            assert (memory.state(state_of), PeerEvent.ASK_NEXT) in ANSWERER


def test_the_peers_whole_default_range_is_remembered() -> None:
    memory = Memory(10**6)
    for sid in range(1, 65536):
        memory.pass_by(sid, sid)
    assert all(memory.last(sid) == sid for sid in range(1, 65536))


def test_what_fell_out_is_not_run_again_and_what_runs_does_not_fall_out() -> None:
    memory = Memory(10**9)
    memory.take(1, 1)
    memory.take(2, 2)
    memory.reply(2, b"two", 3)
    for page in range(1, MAX_PAGES + 3):
        memory.take(page * PAGE, page + 2)
        memory.reply(page * PAGE, b"", 0)
        if page > 1:
            memory.give_up(page * PAGE, page + 2)
    assert memory.asks(PAGE, 3) is PeerDo.REPEAT
    assert memory.asks(1, 1) is PeerDo.PROGRESS
    assert memory.asks(2, 2) is PeerDo.REPEAT  # what is answered does not fall out before its answer
    assert memory.asks(3, 2) is PeerDo.DENY
    memory.reply(1, b"one", 3)
    assert memory.stored(1) == [b"one"]
    assert memory.asks(1, 1) is PeerDo.REPEAT
    assert len(memory._pages) <= MAX_PAGES


def test_answers_take_no_more_room_than_they_may() -> None:
    memory = Memory(10_000)
    for sid in range(1, 1000):
        memory.take(sid, sid)
        memory.reply(sid, b"x" * 100, 100)
        assert memory.stored_bytes <= 10_000
    assert len(memory._held) == 10_000 // (100 + FRAME_OVERHEAD_BYTES)
    assert memory.stored(999)
