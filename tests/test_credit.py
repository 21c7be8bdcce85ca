"""The order and the credit of streamed replies, against plain models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psession.protocol.credit import Arriving, Departing, Item
from psession.protocol.peer_turns import FRAME_OVERHEAD_BYTES
from psession.protocol.states import ANSWERER, ASKER, PeerDo, PeerEvent, PeerTurn, Turn, TurnEvent

from .memories import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

END_MARK = Item(None, is_last=True)
FAILURE = Item(None, is_last=True, error="crashed")


def taken_all(arriving: Arriving) -> list[Any]:
    """What the application may take."""
    return [arriving.take() for _ in range(len(arriving.ready))]


def rolls(data: st.DataObject) -> Iterator[int]:
    """Numbers at random, many at a time: to draw one alone takes five times as long."""
    while True:
        yield from data.draw(st.lists(st.integers(0, 9999), min_size=20, max_size=20))


@settings(deadline=None)
@given(st.data(), st.integers(0, 40), st.integers(1, 9), st.sampled_from(["mark", "last", "error"]))
def test_parts_in_any_order_and_number_come_out_in_order_each_once(
    data: st.DataObject, total: int, window: int, end: str
) -> None:
    arriving = Arriving(window)
    items = {part: Item({"part": part}) for part in range(1, total + 1)}
    if end == "last" and total:
        items[total] = Item({"part": total}, is_last=True)
    else:
        items[total + 1] = FAILURE if end == "error" else END_MARK
    out: list[int] = []
    credit = arriving.credit
    dice = rolls(data)
    while arriving.last is None:
        allowed = [part for part, item in items.items() if part <= credit + (not item.is_reply)]
        if arriving.ready and (arriving.next not in allowed or next(dice) % 2):
            out.append(arriving.take()["part"])
            credit = arriving.grant() or credit
            assert credit == arriving.credit <= arriving.consumed + window
        else:
            choice = [arriving.next, *allowed]
            part = choice[next(dice) % len(choice)]
            assert arriving.arrive(part, items[part]) is not TurnEvent.PART_BEYOND
        assert arriving.in_hand <= window
    out += [message["part"] for message in taken_all(arriving)]
    assert out == list(range(1, total + 1))


@settings(deadline=None)
@given(st.integers(1, 40), st.one_of(st.just(math.inf), st.integers(1, 100)))
def test_a_peer_that_uses_all_its_credit_is_never_left_without(window: int, count: float) -> None:
    arriving, credit, grants = Arriving(window, count), int(min(window, count)), 0
    for part in range(1, int(min(count, 200)) + 1):
        assert part <= credit
        assert arriving.arrive(part, Item({})) is TurnEvent.PART_NEXT
        arriving.take()
        granted = arriving.grant()
        if granted is not None:
            assert granted > credit
            credit, grants = granted, grants + 1
    assert grants <= 200 / max(1, window // 2) + 1
    assert credit <= count


def test_half_a_window_is_granted_at_a_time() -> None:
    arriving = Arriving(8)
    granted = []
    for part in range(1, 17):
        arriving.arrive(part, Item({}))
        arriving.take()
        granted.append(arriving.grant())
    assert granted == [None, None, None, 12, None, None, None, 16, None, None, None, 20, None, None, None, 24]


@given(st.integers(1, 40), st.one_of(st.just(math.inf), st.integers(1, 60)))
def test_credit_is_due_when_half_a_window_or_all_that_is_wanted_fits(window: int, count: float) -> None:
    arriving, credit = Arriving(window, count), int(min(window, count))
    for part in range(1, int(min(count, 100)) + 1):
        arriving.arrive(part, Item({}))
        arriving.take()
        more = int(min(part + window, count)) - credit
        is_due = more > 0 and (2 * more >= window or credit + more == count)
        assert is_due == (arriving.consumed >= arriving.grants_at)
        assert arriving.grant() == (credit + more if is_due else None)
        credit += more * is_due
    assert arriving.credit == credit


def test_the_next_part_is_taken_in_one_step_where_it_fills_no_gap() -> None:
    arriving = Arriving(4)
    assert [arriving.arrive_next(part, part) for part in (2, 1, 1, 2)] == [False, True, False, True]
    assert arriving.arrive(4, Item(4)) is TurnEvent.PART_AHEAD
    assert not arriving.arrive_next(3, 3)
    assert arriving.arrive(3, Item(3)) is TurnEvent.PART_NEXT
    assert not arriving.arrive_next(5, 5)  # there is no credit for it
    assert (taken_all(arriving), arriving.in_hand) == ([1, 2, 3, 4], 0)


def test_an_answer_without_a_place_beyond_what_is_wanted_is_not_kept() -> None:
    arriving = Arriving(2, 2)
    assert [arriving.arrive_next(part, part) for part in (1, 2)] == [True, True]
    arriving.close(Item(3, is_last=True))
    assert taken_all(arriving) == [1, 2]


def test_no_credit_is_given_for_more_than_is_wanted() -> None:
    arriving = Arriving(4, 5)
    assert arriving.credit == 4
    arriving.arrive(1, Item({}))
    arriving.take()
    assert arriving.grant() == 5  # less than half a window, but all there will be
    assert arriving.grant() is None
    assert arriving.grant(at_once=True) == 5


@pytest.mark.parametrize("mark", [END_MARK, FAILURE])
def test_an_end_takes_a_place_and_no_credit(mark: Item) -> None:
    arriving = Arriving(2)
    assert arriving.arrive(3, mark) is TurnEvent.PART_AHEAD
    assert arriving.arrive(1, Item({})) is TurnEvent.PART_NEXT
    assert arriving.arrive(2, Item({})) is TurnEvent.LAST
    assert arriving.last is mark
    assert len(taken_all(arriving)) == 2


def test_one_reply_more_than_there_was_credit_for_is_beyond() -> None:
    arriving = Arriving(2)
    assert arriving.arrive(3, Item({})) is TurnEvent.PART_BEYOND
    assert arriving.arrive(4, END_MARK) is TurnEvent.PART_BEYOND


def test_what_comes_after_the_end_is_nothing_new() -> None:
    arriving = Arriving(8)
    assert arriving.arrive(2, END_MARK) is TurnEvent.PART_AHEAD
    assert arriving.arrive(3, Item({})) is TurnEvent.PART_AHEAD
    assert arriving.arrive(1, Item({})) is TurnEvent.LAST
    assert arriving.arrive(4, Item({})) is TurnEvent.PART_AGAIN
    assert arriving.in_hand == 1
    assert arriving.grant() is None


def streaming(window: int, max_bytes: int = 1_000_000) -> tuple[Memory, Departing]:
    """A turn 7 in session 1 that runs, with many answers."""
    taken = Memory(max_bytes)
    return taken, taken.stream(1, 7, window)


def test_the_answerer_keeps_a_window_of_answers_at_the_most() -> None:
    taken, stream = streaming(4)
    for part in range(1, 41):
        assert part <= stream.credit
        taken.part(1, b"%d" % part, 10)
        if part % 2 == 0:
            stream.grant(part + 4)
            taken.forget_acked(1)
        assert len(taken.stored(1)) <= 4
        assert taken.stored_bytes == len(stream.sizes) * (10 + FRAME_OVERHEAD_BYTES)
    stream.grant(44, 41)
    taken.forget_acked(1)
    assert (taken.stored(1), taken.stored_bytes) == ([], 0)
    assert taken.state(1) is PeerTurn.STREAMING


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60)))), st.integers(1, 20))
def test_no_grant_makes_the_answerer_forget_what_was_never_sent(
    grants: list[tuple[int, int | None]], window: int
) -> None:
    taken, stream = streaming(window)
    for credit, part in grants:
        taken.part(1, b"x", 1)
        stream.grant(credit, part)
        taken.forget_acked(1)
        assert len(taken.stored(1)) == len(stream.sizes) == stream.made - stream.first_kept() + 1
    taken.part(1, b"end", 3, is_end=True)
    stream.grant(1000, 1000)
    taken.forget_acked(1)
    assert taken.stored(1) == [b"end"]
    assert taken.state(1) is PeerTurn.ANSWERED


def test_a_running_stream_that_outgrows_the_limit_loses_its_answers_and_goes_on() -> None:
    taken, stream = streaming(64, max_bytes=1000)
    for _ in range(5):
        taken.part(1, b"x", 100)
    assert taken.stored_bytes <= 1000
    assert stream.first_kept() > 1
    assert taken.state(1) is PeerTurn.STREAMING
    assert not stream.is_over


def test_a_complete_stream_that_outgrows_the_limit_is_forgotten() -> None:
    taken, _ = streaming(64, max_bytes=1000)
    taken.part(1, b"x", 100, is_end=True)
    taken.take(2, 8)
    taken.reply(2, b"y", 700)
    assert taken.state(1) is PeerTurn.OVER
    assert taken.stream_of(1) is None


def test_the_next_turn_stops_the_stream_before_it() -> None:
    taken, stream = streaming(4)
    woken: list[bool] = []
    stream.wake = lambda: woken.append(stream.is_over)
    taken.part(1, b"x", 1)
    taken.take(1, 8)
    assert woken == [True]
    assert (taken.stream_of(1), taken.stored_bytes) == (None, 0)
    assert taken.state(1) is PeerTurn.RUNNING


def test_credit_for_a_turn_without_a_stream_does_nothing() -> None:
    taken = Memory(1000)
    assert taken.grants(1, 7) is PeerDo.DROP
    taken.take(1, 7)
    assert taken.grants(1, 7) is PeerDo.DROP
    assert taken.grants(1, 6) is PeerDo.DROP
    taken.pass_by(1, 8)
    assert taken.grants(1, 8) is PeerDo.DROP


def test_every_state_of_a_stream_has_a_rule_for_everything_that_may_come() -> None:
    states = {state for state, _ in ANSWERER}
    asked = {
        PeerEvent.ASK_NEXT,
        PeerEvent.STREAM_NEXT,
        PeerEvent.STREAM_REST,
        PeerEvent.ASK_SAME,
        PeerEvent.ASK_OLDER,
        PeerEvent.QUIT_NEXT,
        PeerEvent.QUIT_SAME,
        PeerEvent.QUIT_OLDER,
        PeerEvent.GRANT_SAME,
        PeerEvent.GRANT_OTHER,
    }
    assert {
        event for event in asked for state in states - {PeerTurn.NOTHING} if (state, event) not in ANSWERER
    } == set()
    heard = {event for state, event in ASKER if state is Turn.LISTENING}
    assert heard >= {event for state, event in ASKER if state is Turn.WAITING} - {TurnEvent.SENDER_FAILED}
