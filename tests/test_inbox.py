"""What a session keeps of its peer's messages: in order, bounded, nothing lost to a cancelled receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import PortClosedError, SessionInvalidError, SessionManager, SessionTimeoutError
from psession.budget import Account, Budget
from psession.shell.inbox import OVER, Inbox

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Port, Session


def inbox_of(most: int) -> Inbox:
    """An inbox for so many messages."""
    return Inbox(Account(Budget(), 2**20, most, lambda: False))


async def message_of(inbox: Inbox) -> Any:
    """The next message, waited for as a session does."""
    return await inbox.next()


async def test_messages_come_out_in_order_and_no_more_than_the_limit_are_kept() -> None:
    inbox = inbox_of(2)
    assert [inbox.put(n, n) for n in range(3)] == [True, True, False]
    assert (inbox.kept, inbox.take(), inbox.take(), inbox.kept) == (2, 0, 1, 0)


async def test_who_waits_first_is_served_first_and_what_is_handed_over_needs_no_room() -> None:
    inbox, got = inbox_of(1), []

    async def receive(name: str) -> None:
        got.append((name, await message_of(inbox)))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(receive, name)
            await settle()
        assert [inbox.put(n, n) for n in range(5)] == [True, True, True, True, False]
        assert (inbox.is_awaited, inbox.kept) == (False, 1)
    assert sorted(got) == [("a", 0), ("b", 1), ("c", 2)]
    assert inbox.take() == 3


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (1, 0), (0, 2), (2, 1), (1, 2, 0)])
async def test_who_waits_behind_one_that_is_cancelled_moves_up(gone: tuple[int, ...]) -> None:
    inbox, got = inbox_of(4), dict[int, Any]()
    scopes = [trio.CancelScope() for _ in range(4)]

    async def receive(place: int) -> None:
        with scopes[place]:
            got[place] = await message_of(inbox)

    async with trio.open_nursery() as nursery:
        for place in range(4):
            nursery.start_soon(receive, place)
            await settle()
        for place in gone:
            scopes[place].cancel()
            await settle()
        for n in range(4 - len(gone)):
            assert inbox.put(n, n)
        assert (inbox.is_awaited, inbox.kept) == (False, 0)
    assert got == {place: n for n, place in enumerate(place for place in range(4) if place not in gone)}


async def test_a_receiver_that_is_cancelled_takes_nothing_with_it() -> None:
    inbox = inbox_of(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(message_of, inbox)
        await settle()
        nursery.cancel_scope.cancel()
    assert inbox.put(1, 1)
    assert (inbox.is_awaited, inbox.kept, inbox.take()) == (False, 1, 1)


async def test_what_was_handed_over_before_the_cancellation_is_received() -> None:
    inbox, got = inbox_of(1), []

    async def receive() -> None:
        got.append(await message_of(inbox))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await settle()
        assert inbox.put(1, 1)
        nursery.cancel_scope.cancel()
    assert got == [1]


async def test_who_waits_when_it_closes_is_told() -> None:
    inbox, told = inbox_of(1), []

    async def receive() -> None:
        told.append(await message_of(inbox))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await settle()
        inbox.close()
    assert told == [OVER, OVER]


async def test_who_is_cancelled_before_it_waits_takes_no_message_and_leaves_no_trace() -> None:
    async with SessionManager().port("p", Wire()) as port:
        session = port.create()
        for _ in range(2):
            with trio.CancelScope() as scope:
                scope.cancel()
                await session.receive()
            assert (scope.cancelled_caught, session._live.is_waiting_for_peer) == (True, False)
            port.dispatch({"sid": session.sid, "n": 1})
        assert [(await session.receive())["n"] for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda port, session: session.end(), None),
        (lambda port, session: port.clear(), SessionInvalidError),
        (lambda port, session: port.close(), PortClosedError),
    ],
)
async def test_async_for_stops_at_a_clean_end_and_raises_at_any_other(
    waits: bool, end: Callable[[Port, Session], None], error: type[Exception] | None
) -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, caught = port.create(), Caught()

        async def read() -> list[int]:
            return [message["n"] async for message in session]

        port.dispatch({"sid": session.sid, "n": 1})
        if waits:
            nursery.start_soon(caught.run, read)
            await settle()
        end(port, session)
        if not waits:
            nursery.start_soon(caught.run, read)
            await settle()
        await settle()
        assert (caught.value, type(caught.error)) == ([1] if error is None else None, error or type(None))


async def test_each_receive_is_a_checkpoint_with_messages_in_hand_and_after_the_end() -> None:
    async with SessionManager().port("p", Wire()) as port:
        session = port.create()
        for _ in range(2):
            port.dispatch({"sid": session.sid})
        with trio.testing.assert_checkpoints():
            await session.receive()
        session.end()
        with trio.testing.assert_checkpoints():
            await anext(session)
        with trio.testing.assert_checkpoints(), pytest.raises(SessionInvalidError):
            await session.receive()
        with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
            await anext(session)


async def test_after_the_end_what_had_come_is_received_and_then_the_end() -> None:
    async with SessionManager().port("p", Wire()) as port:
        session = port.create()
        port.dispatch({"sid": session.sid, "n": 1})
        session.end()
        assert (await session.receive())["n"] == 1
        with pytest.raises(SessionInvalidError, match="over"):
            await session.receive()


async def test_a_receive_whose_time_is_over_does_not_take_what_another_was_handed(autojump_clock: MockClock) -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session, got = port.create(), []

        async def receive() -> None:
            got.append(await session.receive())

        async def impatient() -> None:
            with pytest.raises(SessionTimeoutError):
                await session.receive(timeout=1)

        nursery.start_soon(receive)
        await settle()
        nursery.start_soon(impatient)
        await trio.sleep(1)
        port.dispatch({"sid": session.sid, "n": 1})
        await settle()
        assert [message["n"] for message in got] == [1]
