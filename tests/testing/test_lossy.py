"""A bad network keeps time exactly, loses nothing that it was not told to, and explains itself."""

import ast
import functools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import SessionManager
from psession.channels import FrameChannel, MemoryChannel, length_prefixed, memory_pair
from psession.errors import MalformedMessageError
from psession.testing import EventLog, NetworkEvent, check_channel, lossy, sequence_diagram

from ..effort import examples
from .networks import FAULTS, carry, receive_all, run


class PlainChannel(trio.abc.Channel[Any]):
    """A channel with no more than Trio asks for."""

    def __init__(self, channel: MemoryChannel) -> None:
        self._channel = channel

    async def send(self, value: Any) -> None:
        await self._channel.send(value)

    async def receive(self) -> Any:
        return await self._channel.receive()

    async def aclose(self) -> None:
        await self._channel.aclose()


# -- the contract ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def faultless(
    plain: bool = False, both: bool = False, **options: Any
) -> AsyncIterator[tuple[trio.abc.Channel[Any], trio.abc.Channel[Any]]]:
    left, right = memory_pair()
    ends: list[trio.abc.Channel[Any]] = [PlainChannel(left), PlainChannel(right)] if plain else [left, right]
    async with lossy(ends[0], seed=1, **options) as bad:
        if not both:
            async with ends[1]:
                yield bad, ends[1]
        else:
            async with lossy(ends[1], seed=2, **options) as other:
                yield bad, other


@pytest.mark.parametrize("both", [False, True])
async def test_without_faults_it_keeps_the_contract(both: bool, autojump_clock: trio.testing.MockClock) -> None:
    await check_channel(functools.partial(faultless, both=both))


async def test_around_a_plain_channel_it_keeps_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    await check_channel(functools.partial(faultless, plain=True))


async def test_with_a_constant_delay_it_keeps_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    # Room for 500: a sender that fills the air before the first message lands cannot know that nobody is there.
    await check_channel(functools.partial(faultless, delay=0.001, max_in_flight=500), patience=60)


async def test_with_room_for_one_message_it_keeps_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    await check_channel(functools.partial(faultless, max_in_flight=1))


async def test_it_can_stand_before_a_stream_of_bytes() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    far = length_prefixed(theirs, codec="msgpack")
    async with far, lossy(length_prefixed(ours, codec="msgpack"), seed=1) as link:
        await link.send({"a": 1})
        assert await far.receive() == {"a": 1}
        await far.send({"b": 2})
        assert await link.receive() == {"b": 2}
        with pytest.raises(MalformedMessageError):
            await link.send({"a": math.nan})  # its sender's fault, and its sender is told
        assert link.statistics()["send"].messages == 1


async def test_what_is_no_message_reaches_the_receiver_as_its_error() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with lossy(length_prefixed(ours), seed=1, drop=1.0) as link:
        await theirs.send_all(b"\0\0\0\3{{{")
        with pytest.raises(MalformedMessageError):
            await link.receive()
        await theirs.send_all(b"\0\0\0\3}}}")
        (error,) = await link.receive_batch()
        assert isinstance(error, MalformedMessageError)
        assert len(link.log) == 0


# -- every message -----------------------------------------------------------------------------------------------------


seeds = st.integers(0, 2**32)
probabilities = st.floats(0, 1)


@settings(max_examples=examples(20), deadline=None)
@given(seed=seeds, duplicate=probabilities, reorder=probabilities, high=st.floats(0, 10), count=st.integers(0, 40))
def test_what_is_not_dropped_arrives_at_least_once(
    seed: int, duplicate: float, reorder: float, high: float, count: int
) -> None:
    faults = {"duplicate": duplicate, "reorder": reorder, "delay": (0.0, high)}
    got, link = run(carry, list(range(count)), seed=seed, **faults)
    assert set(got) == set(range(count))
    assert len(got) == sum(event.copies for event in link.log) == sum(len(event.arrived) for event in link.log)


@settings(max_examples=examples(20), deadline=None)
@given(seed=seeds, reorder=probabilities, high=st.floats(0, 10), count=st.integers(0, 40))
def test_what_is_not_duplicated_arrives_once(seed: int, reorder: float, high: float, count: int) -> None:
    got, _ = run(carry, list(range(count)), seed=seed, reorder=reorder, delay=(0.0, high))
    assert sorted(got) == list(range(count))


@settings(max_examples=examples(20), deadline=None)
@given(seed=seeds, drop=probabilities, delay=st.floats(0, 10), count=st.integers(0, 40))
def test_what_is_neither_reordered_nor_delayed_unevenly_arrives_in_order(
    seed: int, drop: float, delay: float, count: int
) -> None:
    got, link = run(carry, list(range(count)), seed=seed, drop=drop, delay=delay)
    assert got == [event.message for event in link.log if not event.dropped]


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_delay_is_exact_on_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, delay=2.5) as link:
        await link.send("there")
        assert trio.current_time() == 0.0
        assert await right.receive() == "there"
        assert trio.current_time() == 2.5
        await right.send("back")
        assert await link.receive() == "back"
        assert trio.current_time() == 5.0
    assert trio.current_time() == 5.0
    assert [(event.time, event.arrived[0].time) for event in link.log] == [(0.0, 2.5), (2.5, 5.0)]


async def test_a_message_arrives_after_its_own_delay(autojump_clock: trio.testing.MockClock) -> None:
    _, link = await carry(list(range(50)), seed=3, pause=0.1, delay=(0.5, 2.0))
    for event in link.log:
        assert 0.5 <= event.delayed_by <= 2.0
        assert event.arrived[0].time == pytest.approx(event.time + event.delayed_by)


async def test_a_reordered_message_lets_later_ones_go_ahead(autojump_clock: trio.testing.MockClock) -> None:
    got, link = await carry(list(range(1, 41)), seed=5, reorder=0.3)
    assert got != sorted(got)
    assert trio.current_time() <= 0.1
    for event in link.log:
        overtook = [number for number in got[: got.index(event.number)] if number > event.number]
        assert len(overtook) <= event.reordered


async def test_a_reordered_message_does_not_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, reorder=1.0, reorder_within=0.25) as link:
        await link.send("alone")
        assert await right.receive() == "alone"
        assert trio.current_time() == 0.25


async def test_closing_lets_what_was_sent_arrive(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with trio.open_nursery() as nursery:
        got: list[Any] = []
        nursery.start_soon(receive_all, right, got)
        async with lossy(left, seed=1, delay=7.0) as link:
            await link.send("late")
            await link.aclose()
            assert trio.current_time() == 7.0
    assert got == ["late"]


async def test_closing_does_not_wait_for_who_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    left, _right = memory_pair(0)
    async with lossy(left, seed=1, delay=7.0, reorder_within=0.5, close_timeout=2.0) as link:
        await link.send("unread")
        await link.aclose()
        assert trio.current_time() == 9.5


async def test_the_end_comes_after_what_is_in_the_air(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, delay=3.0) as link:
        await right.send("last")
        await right.aclose()
        assert await link.receive() == "last"
        assert trio.current_time() == 3.0
        for _time in ("first", "second"):
            with pytest.raises(trio.EndOfChannel):
                await link.receive()


# -- a failure can be seen again ---------------------------------------------------------------------------------------


async def test_an_error_in_the_block_says_how_to_make_the_network_again() -> None:
    left, _right = memory_pair()
    failure = AssertionError("0 valves open")
    with pytest.raises(AssertionError) as caught:  # noqa: PT012 - the block is what is tested
        async with lossy(left, seed=7, drop=1.0, delay=(0, 0.5)) as link:
            await link.send({"q": 1})
            raise failure
    assert caught.value is failure
    assert failure.__notes__ == [
        "the network was lossy(channel, seed=7, drop=1.0, delay=(0, 0.5)): 1 (1 dropped) sent, 0 received"
    ]
    link.annotate(failure)
    assert len(failure.__notes__) == 1


async def test_its_repr_is_the_call_with_all_that_is_not_default() -> None:
    options: dict[str, Any] = {
        "seed": "a seed", "drop": 0.1, "duplicate": 0.2, "reorder": 0.3, "delay": 0.5, "disconnect": 0.01,
        "directions": "send", "reorder_within": 0.2, "max_in_flight": 5, "log_limit": 6, "close_timeout": 2,
    }  # fmt: skip
    left, right = memory_pair()
    async with lossy(left, **options) as link:
        call = ast.parse(repr(link), mode="eval").body
        assert isinstance(call, ast.Call)
        assert {each.arg: ast.literal_eval(each.value) for each in call.keywords} == options
    async with lossy(right, seed=1) as link:
        assert repr(link) == "lossy(channel, seed=1)"


async def test_being_cancelled_is_no_failure_to_explain() -> None:
    left, _right = memory_pair()
    with trio.CancelScope() as scope:
        async with lossy(left, seed=1):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_two_bad_networks_both_explain_themselves() -> None:
    left, right = memory_pair()
    with pytest.raises(KeyError) as caught:
        async with lossy(left, seed=1), lossy(right, seed=2):
            raise KeyError
    assert [note.split(":")[0] for note in caught.value.__notes__] == [
        "the network was lossy(channel, seed=2)",
        "the network was lossy(channel, seed=1)",
    ]


async def test_the_log_forgets_the_oldest_and_says_how_many() -> None:
    _, link = await carry(list(range(10)), seed=1, log_limit=3)
    assert isinstance(link.log, EventLog)
    assert ([event.message for event in link.log], link.log.forgotten, len(link.log)) == ([7, 8, 9], 7, 3)
    assert (link.log[-1].message, [event.message for event in link.log[1:]]) == (9, [8, 9])
    assert repr(link.log) == "<EventLog of 3 messages, 7 forgotten>"
    assert sequence_diagram(link.log).startswith("7 earlier messages forgotten\n")


# -- under a port ------------------------------------------------------------------------------------------------------


async def answer(session: Any) -> None:
    async for message in session:
        await session.post({"answer": message["question"]})


@pytest.mark.parametrize("seed", range(5))
async def test_a_port_gets_its_answers_over_a_bad_network_at_each_end(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    left, right = memory_pair()
    manager, server = SessionManager(session_timeout=1.5), SessionManager()
    async with (
        lossy(left, seed=seed, **FAULTS) as link,
        lossy(right, seed=seed, drop=0.1) as far,
        server.port("client", far, on_session=answer),
        manager.port("server", link) as port,
    ):
        for number in range(20):
            assert (await port.request({"question": number}, retry_count=30))["answer"] == number
    assert link.statistics()["send"].dropped > 0
    assert isinstance(far, FrameChannel)
    assert all(isinstance(event, NetworkEvent) for event in far.log)
