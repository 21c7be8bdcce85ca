"""The pool of session numbers: rotation, rest, overflow, and a plain model that it must agree with."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from psession.protocol.numbers import MAX_ROTATION, SidPool

from .effort import examples


def test_numbers_are_handed_out_in_rotation_not_lowest_first() -> None:
    pool = SidPool(range(1, 4))
    first = pool.take(0.0)
    pool.give_back(first)
    assert [first, pool.take(0.0), pool.take(0.0), pool.take(0.0)] == [1, 2, 3, 1]


def test_none_is_handed_out_when_all_are_in_use() -> None:
    pool = SidPool(range(1, 3))
    assert [pool.take(0.0), pool.take(0.0), pool.take(0.0)] == [1, 2, None]


def test_a_resting_number_is_free_at_the_very_moment_its_rest_ends_and_not_before() -> None:
    pool = SidPool(range(7, 8))
    pool.rest(pool.take(0.0), 60.0, 1)
    assert (pool.take(59.999), pool.next_safe(), pool.take(60.0)) == (None, 60.0, 7)


def test_the_last_of_the_range_is_followed_by_the_first_that_is_free_not_by_number_one() -> None:
    pool = SidPool(range(1, 6))
    taken = [pool.take(0.0) for _ in range(5)]
    pool.give_back(3)
    assert (taken, pool.take(0.0)) == ([1, 2, 3, 4, 5], 3)


def test_a_number_whose_late_replies_were_all_seen_is_taken_early_only_when_nothing_else_is_free() -> None:
    pool = SidPool(range(1, 3))
    pool.rest(pool.take(0.0), 60.0, 2)
    assert [pool.heard(1), pool.take(0.0), pool.take(0.0)] == ["late", 2, None]
    assert [pool.heard(1), pool.take(0.0)] == ["late", 1]


def test_a_borrowed_number_comes_with_the_moment_at_which_it_is_safe() -> None:
    pool = SidPool(range(1, 3))
    for until in (60.0, 61.0):
        pool.rest(pool.take(0.0), until, 1)
    assert [pool.borrow(), pool.borrow(), pool.borrow()] == [(1, 60.0), (2, 61.0), None]


def test_a_message_for_a_number_without_a_session_is_late_or_a_duplicate_or_unknown() -> None:
    pool = SidPool(range(1, 10))
    answered, given_up = pool.take(0.0), pool.take(0.0)
    pool.give_back(answered)
    pool.rest(given_up, 60.0, 1)
    assert [pool.heard(answered), pool.heard(given_up), pool.heard(9)] == ["duplicate", "late", "unknown"]


@pytest.mark.parametrize("ids", [range(5, 0, -1), range(2, 65536, 2), range(32768, 65536), range(1, 2**53)])
def test_any_range_serves_whatever_its_step_or_length(ids: range) -> None:
    pool = SidPool(ids)
    taken = [pool.take(0.0) for _ in range(5)]
    assert taken == list(ids[:5])


def test_a_range_longer_than_memory_serves_its_first_million_numbers() -> None:
    pool = SidPool(range(1, 2**64))
    assert [pool.take(0.0), pool.take(0.0)] == [1, 2]


def test_a_long_range_rotates_within_its_first_million_numbers() -> None:
    pool = SidPool(range(1, 2**40))
    for _ in range(MAX_ROTATION):
        pool.give_back(pool.take(0.0))
    assert pool.take(0.0) == 1


class PoolAgainstModel(RuleBasedStateMachine):
    """Random histories: what is handed out was free in the model, and what is refused was not."""

    @initialize(ids=st.sampled_from([range(1, 2), range(1, 5), range(2, 20, 2), range(9, 0, -1), range(100, 300)]))
    def start(self, ids: range) -> None:
        self.ids, self.pool, self.now = ids, SidPool(ids), 0.0
        self.in_use: set[int] = set()
        self.resting: dict[int, tuple[float, int]] = {}
        self.ever: set[int] = set()

    def free(self) -> set[int]:
        return {
            sid
            for sid in self.ids
            if sid not in self.in_use and (sid not in self.resting or self.resting[sid][0] <= self.now)
        }

    @rule()
    def take(self) -> None:
        free = self.free()
        sid = self.pool.take(self.now)
        self.resting = {one: rest for one, rest in self.resting.items() if rest[0] > self.now}
        if sid is None:
            assert not free
            assert all(owed > 0 for _, owed in self.resting.values())
            return
        if free:
            assert sid in free
        else:
            assert self.resting.pop(sid)[1] <= 0
        assert sid not in self.in_use
        self.in_use.add(sid)
        self.ever.add(sid)

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        sid = data.draw(st.sampled_from(sorted(self.in_use)))
        self.in_use.remove(sid)
        self.pool.give_back(sid)

    @precondition(lambda self: self.in_use)
    @rule(data=st.data(), owed=st.integers(1, 3))
    def rest(self, data: st.DataObject, owed: int) -> None:
        sid = data.draw(st.sampled_from(sorted(self.in_use)))
        self.in_use.remove(sid)
        self.resting[sid] = (self.now + 60.0, owed)
        self.pool.rest(sid, self.now + 60.0, owed)

    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        sid = data.draw(st.sampled_from(list(self.ids)[:8]))
        if sid in self.in_use:
            return
        kind = self.pool.heard(sid)
        if sid in self.resting:
            until, owed = self.resting[sid]
            assert kind == "late" or until <= self.now
            self.resting[sid] = (until, owed - 1)
        elif self.ids.step == 1:
            assert kind == ("duplicate" if sid in self.ever else "unknown")

    @rule()
    def borrow(self) -> None:
        borrowed = self.pool.borrow()
        if borrowed is None:
            return
        sid, until = borrowed
        assert self.resting.pop(sid)[0] == until
        self.in_use.add(sid)

    @rule(seconds=st.sampled_from([0.5, 59.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def every_number_is_in_one_state(self) -> None:
        if hasattr(self, "pool"):
            assert not self.in_use & self.resting.keys()
            assert self.pool.resting <= len(self.ids)


TestPoolAgainstModel = PoolAgainstModel.TestCase
TestPoolAgainstModel.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["take", "give", "rest"])), max_size=80))
def test_numbers_held_by_both_sides_are_disjoint_for_any_history(history: list[tuple[bool, str]]) -> None:
    pools = (SidPool(range(1, 40, 2)), SidPool(range(2, 40, 2)))
    held: tuple[list[int], list[int]] = ([], [])
    for now, (side, deed) in enumerate(history):
        pool, mine = pools[side], held[side]
        if deed == "take":
            if (sid := pool.take(now)) is not None:
                mine.append(sid)
        elif mine:
            sid = mine.pop(0)
            if deed == "give":
                pool.give_back(sid)
            else:
                pool.rest(sid, now + 10.0, 1)
        assert not set(held[0]) & set(held[1])
        assert len(set(mine)) == len(mine)


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(2, 50), st.integers(1, 200))
def test_a_number_given_back_is_the_last_to_come_again(size: int, rounds: int) -> None:
    pool = SidPool(range(1, size + 1))
    previous = [pool.take(0.0)]
    for _ in range(rounds):
        pool.give_back(previous[-1])
        previous.append(pool.take(0.0))
    for window in range(len(previous) - size + 1):
        assert len(set(previous[window : window + size])) == size
