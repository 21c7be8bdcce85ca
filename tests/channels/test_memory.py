"""A pair in memory: the same objects, a bound, and Trio's own manners at the end."""

import gc
import math
from typing import Any

import pytest
import trio
import trio.testing

from psession.channels import memory_pair


async def test_a_message_is_the_very_same_object() -> None:
    left, right = memory_pair()
    message = {"a": object()}
    await left.send(message)
    assert await right.receive() is message
    assert left.encode(message) is message


async def test_a_sender_waits_when_the_buffer_is_full(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair(2)
    await left.send(1)
    assert left.send_frame_now(2) == b""
    assert left.send_frame_now(3) is None
    with trio.move_on_after(1) as scope:
        await left.send(3)
    assert scope.cancelled_caught
    assert await right.receive_batch() == [1, 2]


async def test_the_default_buffer_holds_a_batch_of_64() -> None:
    left, _right = memory_pair()
    assert [left.send_frame_now({}) for _ in range(65)] == [b""] * 64 + [None]


async def test_a_batch_takes_those_who_wait_for_room_along() -> None:
    left, right = memory_pair(2)
    async with trio.open_nursery() as nursery:
        assert left.send_frame_now(1) == left.send_frame_now(2) == b""
        nursery.start_soon(left.send, 3)
        nursery.start_soon(left.send, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(await right.receive_batch()) == [1, 2, 3, 4]


async def test_several_tasks_may_receive() -> None:
    left, right = memory_pair()
    got: list[Any] = []

    async def receive() -> None:
        got.append(await right.receive())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await left.send_frames([1, 2, 3])
    assert sorted(got) == [1, 2, 3]


async def test_sending_to_a_side_that_closed_breaks_at_once() -> None:
    left, right = memory_pair()
    await right.aclose()
    assert left.send_frame_now(1) is None
    for call in (left.send(1), left.send_frames([1])):
        with pytest.raises(trio.BrokenResourceError):
            await call


async def test_who_waits_for_room_is_woken_when_the_other_side_closes() -> None:
    left, right = memory_pair(0)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await left.send(1)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await right.aclose()


async def test_iterating_ends_when_the_other_side_closes() -> None:
    left, right = memory_pair()
    await left.send_frames([1, 2])
    await left.aclose()
    assert [message async for message in right] == [1, 2]


async def test_no_limit_is_written_as_infinity() -> None:
    left, right = memory_pair(math.inf)
    await left.send_frames(range(10_000))
    assert len(await right.receive_batch()) == 10_000


@pytest.mark.parametrize(("max_buffer", "error"), [(-1, ValueError), (1.5, TypeError)])
def test_a_buffer_out_of_range_is_refused(max_buffer: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        memory_pair(max_buffer)


async def test_an_abandoned_pair_is_silent() -> None:
    memory_pair()
    gc.collect()
