"""What happens to those who send and receive when the link breaks, when they are cancelled, when there is no room."""

from typing import Any

import pytest
import trio
import trio.testing

from psession.channels import memory_pair
from psession.testing import lossy

from .networks import receive_all

# -- the link breaks ---------------------------------------------------------------------------------------------------


async def test_a_broken_link_is_broken_both_ways_and_at_both_ends(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, disconnect=1.0, directions="send") as link, trio.open_nursery() as nursery:
        nursery.start_soon(receive_all, right, [])
        nursery.start_soon(receive_all, link, [])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await link.send("never")
        with pytest.raises(trio.BrokenResourceError):
            await link.send("nor this")
        with pytest.raises(trio.BrokenResourceError):
            await link.receive_batch()
        assert link.receive_batch_now() == []
        assert link.send_frame_now(link.encode("nor that")) is None
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await right.send("to nobody")
    assert [(event.message, event.disconnected) for event in link.log] == [("never", True)]
    assert trio.current_time() == 0.0
    with pytest.raises(trio.ClosedResourceError):
        await link.send("closed")


async def test_a_message_that_comes_can_break_the_link_too() -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, disconnect=1.0, directions="receive") as link:
        await link.send("out")
        assert await right.receive() == "out"
        await right.send("in")
        with pytest.raises(trio.BrokenResourceError):
            await link.receive()
        await link.aclose()


async def test_what_is_in_the_air_when_the_link_breaks_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    breaks_at = 0
    left, right = memory_pair()
    got: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all, right, got)
        async with lossy(left, seed=4, disconnect=0.1, delay=1.0) as link:
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - at one of them
                for breaks_at in range(1000):
                    await link.send(breaks_at)
                    await trio.sleep(0.3)
    assert breaks_at > 3
    assert got == list(range(len(got)))
    assert len(got) == breaks_at - 3  # three were sent 0.3, 0.6 and 0.9 s before
    assert [event.message for event in link.log if not event.arrived] == list(range(breaks_at - 3, breaks_at + 1))


async def test_who_waits_for_room_is_woken_by_a_break(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair(0)

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await link.send("waits")

    async with lossy(left, seed=1, disconnect=1.0, directions="receive", max_in_flight=1) as link:
        await link.send("unread")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await right.send("the end")
    assert trio.current_time() == 0.0


async def test_a_wrapped_channel_that_breaks_breaks_the_link() -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1) as link:
        await right.aclose()
        with pytest.raises(trio.EndOfChannel):
            await link.receive()
        with pytest.raises(trio.BrokenResourceError, match="wrapped channel broke") as caught:  # noqa: PT012 - in time
            for _ in range(10):
                await link.send("to nobody")
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


# -- cancelling and bounds ---------------------------------------------------------------------------------------------


async def test_a_send_cancelled_while_it_waits_for_room_never_set_out(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, delay=5.0, max_in_flight=2) as link:
        await link.send(1)
        await link.send(2)
        assert link.send_frame_now(link.encode(3)) is None
        with trio.move_on_after(1) as scope:
            await link.send(3)
        assert scope.cancelled_caught
        await link.send(4)
        assert trio.current_time() == 5.0
        assert [await right.receive() for _ in range(3)] == [1, 2, 4]
        assert link.statistics()["send"].waited_for_room == 2
        assert [event.number for event in link.log] == [1, 2, 3]


async def test_what_nobody_receives_is_left_with_the_sender(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair(0)
    async with lossy(left, seed=1, max_in_flight=3) as link:
        with trio.move_on_after(1):
            for number in range(100):
                await right.send(number)
        assert number == 3
        assert await link.receive_batch() == [0, 1, 2]
        await right.send(3)
        assert await link.receive() == 3


async def test_a_cancelled_receive_loses_nothing_that_is_late(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    got: list[Any] = []
    async with lossy(left, seed=1, delay=(0.0, 1.0)) as link:
        for number in range(30):
            await right.send(number)
        while len(got) < 30:
            with trio.move_on_after(0.01):
                got.append(await link.receive())
    assert sorted(got) == list(range(30))


async def test_leaving_the_block_cancelled_is_at_once(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    with trio.move_on_after(1):
        async with lossy(left, seed=1, delay=100.0) as link:
            await link.send("lost")
            await trio.sleep_forever()
    assert trio.current_time() == 1.0
    with pytest.raises(trio.EndOfChannel):
        await right.receive()


async def test_a_goodbye_in_a_shielded_finally_still_travels(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    with trio.move_on_after(1):
        async with lossy(left, seed=1, delay=0.5) as link:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await link.send("bye")
                    assert await right.receive() == "bye"
                    await right.send("bye bye")
                    assert await link.receive() == "bye bye"
    assert trio.current_time() == 2.0


async def test_a_cancelled_aclose_closes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, delay=100.0) as link:
        await link.send("lost")
        with trio.move_on_after(2):
            await link.aclose()
        assert trio.current_time() == 2.0
        with pytest.raises(trio.EndOfChannel):
            await right.receive()
