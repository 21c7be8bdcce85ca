"""What waits to be written: whole frames, order, withdrawn tickets, room, and the errors of a sender."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Classic, Dialect, Exact, PortClosedError, SessionInvalidError, SessionManager, SessionTimeoutError
from psession.channels import memory_pair

from .peers import Caught, PlainChannel, Wire, plain_pair, serve_echo, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from psession import Port, Session


async def test_a_send_cancelled_before_the_writer_took_it_is_never_sent(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager().port("p", here) as port, trio.open_nursery() as nursery:
        first = Caught()
        nursery.start_soon(first.run, port.request, {"n": 1})
        await settle()
        with trio.move_on_after(1):
            await port.request({"n": 2})
        with pytest.raises(SessionTimeoutError, match="not sent"):
            await port.request({"n": 3}, timeout=1)
        assert port._engine.outbox.queued_bytes == 0
        nursery.start_soon(port.request, {"n": 4})
        await settle()
        assert [(await there.receive())["n"] for _ in range(2)] == [1, 4]
        await settle()
        port.dispatch({"sid": 1})
        port.dispatch({"sid": 4})
        await settle()
        assert_idle(port)


async def test_a_send_cancelled_after_the_writer_took_it_is_sent_whole(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager().port("p", here) as port:
        with trio.move_on_after(1):
            await port.request({"n": 1})
        await trio.sleep(1)
        assert (await there.receive())["n"] == 1
        await settle()
        assert_idle(port)
        assert port.statistics().resting == 1


async def test_attempts_that_could_not_be_written_are_not_queued_twice(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager().port("p", here) as port, trio.open_nursery() as nursery:
        await port.post({"blocks": True})
        caught = Caught()
        nursery.start_soon(
            lambda: caught.run(lambda: port.request({"n": 1}, timeout=1, retry_count=5, retry_interval=0))
        )
        await trio.sleep(3.5)
        assert len(port._engine.outbox._queue) == 1
        assert (await there.receive()) == {"blocks": True}
        assert (await there.receive())["n"] == 1
        port.dispatch({"sid": 1, "ok": 1})
        await settle()
        assert caught.value == {"ok": 1}


async def test_what_is_sent_keeps_its_order_across_posts_and_sends() -> None:
    for pair in (memory_pair, plain_pair):
        here, there = pair()
        async with SessionManager().port("p", here) as port, trio.open_nursery() as nursery:
            session = port.create()
            for n in range(10):
                await session.post({"n": n})
            nursery.start_soon(session.send, {"n": 10})
            await settle()
            await session.post({"n": 11})
            assert [(await there.receive())["n"] for _ in range(12)] == list(range(12))
            port.dispatch({"sid": 1})


async def test_post_waits_while_more_than_the_limit_is_queued(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager(max_queued_bytes=512).port("p", here) as port, trio.open_nursery() as nursery:
        posted: list[int] = []

        async def post(n: int) -> None:
            await port.post({"n": n})
            posted.append(n)

        for n in range(8):
            nursery.start_soon(post, n)
            await settle()
        assert posted == [0, 1, 2]
        assert port.statistics().queued_bytes == 512
        got = []
        for _ in range(8):
            got.append((await there.receive())["n"])
            await settle()
        assert (sorted(got), sorted(posted)) == (list(range(8)), list(range(8)))


async def test_a_post_cancelled_while_it_waits_for_room_is_never_sent(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager(max_queued_bytes=1).port("p", here) as port, trio.open_nursery() as nursery:
        await port.post({"n": 0})
        await settle()
        await port.post({"n": 1})
        with trio.move_on_after(1) as scope:
            await port.post({"n": 2})
        assert scope.cancelled_caught
        nursery.start_soon(port.post, {"n": 3})
        await settle()
        assert [(await there.receive())["n"] for _ in range(3)] == [0, 1, 3]


@dataclasses.dataclass
class Full:
    """A port whose queue is full of one turn's message, and the turn's session; what is read makes room."""

    port: Port
    session: Session
    there: PlainChannel
    nursery: trio.Nursery

    async def read(self, count: int) -> list[int]:
        """So many messages' ``n``; fewer where the port does not write so many."""
        got: list[int] = []
        with trio.move_on_after(10):
            while len(got) < count:
                got.append((await self.there.receive())["n"])
        return got

    async def start(self, n: int) -> trio.CancelScope:
        """Post this in a task of its own, which waits for room by now; the scope returned cancels it."""
        scope = trio.CancelScope()

        async def post() -> None:
            with scope:
                await self.port.post({"n": n})

        self.nursery.start_soon(post)
        await settle()
        return scope


@asynccontextmanager
async def full() -> AsyncIterator[Full]:
    here, there = plain_pair(0)
    async with SessionManager(max_queued_bytes=1).port("p", here) as port, trio.open_nursery() as nursery:
        await port.post({"n": 0})  # the writer has it, and waits for the peer
        await settle()
        session = port.create()
        nursery.start_soon(Caught().run, session.send, {"n": 1})
        await settle()
        yield Full(port, session, there, nursery)
        nursery.cancel_scope.cancel()


async def test_room_that_comes_for_a_post_as_it_is_cancelled_is_offered_to_later_ones(
    autojump_clock: MockClock,
) -> None:
    async with full() as queue:
        scope = await queue.start(2)
        scope.cancel()
        queue.session.cancel()  # there is room now, and the one that waited for it does not know yet that it may go
        await settle()
        for n in (3, 4, 5):
            await queue.start(n)
        assert await queue.read(4) == [0, 3, 4, 5]


async def test_a_post_behind_one_that_is_cancelled_does_not_wait_where_there_is_room(autojump_clock: MockClock) -> None:
    async with full() as queue:
        scope = await queue.start(2)
        scope.cancel()
        queue.session.cancel()
        with trio.fail_after(1):
            await queue.port.post({"n": 3})
        assert await queue.read(2) == [0, 3]


@pytest.mark.parametrize("way", ["a port's", "a session's", "one made late"])
async def test_a_post_that_comes_when_room_is_promised_to_another_does_not_overtake_it(
    autojump_clock: MockClock, way: str
) -> None:
    async with full() as queue:
        await queue.start(2)
        reader = Caught()
        queue.nursery.start_soon(reader.run, queue.read, 3)
        queue.session.cancel()
        # The next one comes before that other has had its turn.
        if way == "a port's":
            await queue.port.post({"n": 3})
        elif way == "a session's":
            await queue.session.post({"n": 3})
        else:
            await queue.port._engine.outbox.post_made(
                lambda: queue.port._engine.outbox.put({"n": 3}, None), queue.port._engine.check_open
            )
        await settle()
        assert reader.value == [0, 2, 3]


async def test_a_post_cancelled_after_room_was_promised_to_it_is_sent_and_the_next_one_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with full() as queue:
        scope = await queue.start(2)
        await queue.start(3)
        queue.session.cancel()
        scope.cancel()
        assert await queue.read(3) == [0, 2, 3]


async def test_who_waits_for_room_is_told_when_the_port_is_left(autojump_clock: MockClock) -> None:
    here, _there = plain_pair(0)
    manager = SessionManager(max_queued_bytes=1, grace=1)
    async with trio.open_nursery() as elsewhere:
        async with manager.port("p", here) as port:
            session = port.create()
            await port.post({"n": 0})
            await settle()
            await port.post({"n": 1})
            waiters = [Caught(), Caught()]
            elsewhere.start_soon(waiters[0].run, port.post, {"n": 2})
            elsewhere.start_soon(waiters[1].run, session.post, {"n": 2})
            await trio.sleep(3)
        await settle()
        assert [(type(waiter.error), waiter.at) for waiter in waiters] == [(PortClosedError, 3.0)] * 2
    assert_empty(manager, port)


async def test_a_post_of_a_session_that_ends_while_it_waits_for_room_is_not_sent(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    async with SessionManager(max_queued_bytes=1).port("p", here) as port, trio.open_nursery() as nursery:
        session, caught = port.create(), Caught()
        await port.post({"n": 0})
        await settle()
        await port.post({"n": 1})
        nursery.start_soon(caught.run, session.post, {"n": 2})
        await settle()
        session.end()
        got = [(await there.receive())["n"] for _ in range(2)]
        await settle()
        assert isinstance(caught.error, SessionInvalidError)
        with trio.move_on_after(1) as scope:
            got.append((await there.receive())["n"])
        assert (got, scope.cancelled_caught) == ([0, 1], True)


async def test_turns_are_written_by_one_task_alone(autojump_clock: MockClock) -> None:
    class Single(PlainChannel):
        writing = 0

        async def send(self, value: dict[str, Any]) -> None:
            assert self.writing == 0
            self.writing += 1
            await trio.sleep(0.01)
            await super().send(value)
            self.writing -= 1

    left, there = plain_pair()
    here = Single(left.outgoing, left.incoming)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, there)
        async with SessionManager().port("p", here) as port, trio.open_nursery() as turns:
            for n in range(30):
                turns.start_soon(port.request, {"n": n})
        assert here.writing == 0


@pytest.mark.parametrize("dialect", [Classic(), Exact()])
async def test_a_post_in_a_scope_that_is_cancelled_is_never_sent_though_there_is_room(dialect: Dialect) -> None:
    here, there = plain_pair()
    async with SessionManager(dialect=dialect).port("p", here) as port, port.session() as session:
        for use in (session.post, port.post):
            with trio.CancelScope() as scope:
                scope.cancel()
                await use({"n": 1})
            assert scope.cancelled_caught
        await session.post({"n": 2})
        assert (await there.receive())["n"] == 2


async def test_sixteen_posts_go_through_before_other_tasks_have_a_turn() -> None:
    here, _there = plain_pair()
    async with SessionManager().port("p", here) as port, port.session() as session, trio.open_nursery() as nursery:
        passes: list[int] = []

        async def count() -> None:
            while True:
                passes.append(len(passes))
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        seen = []
        for _ in range(48):
            await session.post({})
            seen.append(len(passes))
        assert (seen[14], seen[30] - seen[16], seen[46] - seen[32]) == (0, 0, 0)
        assert seen[15] <= seen[31] <= seen[47]
        assert 2 <= seen[47] <= 3
        nursery.cancel_scope.cancel()


# -- senders -----------------------------------------------------------------------------------------------------------


async def test_a_sync_senders_error_is_its_callers_alone() -> None:
    error = OSError("unplugged")

    def sender(message: dict[str, Any]) -> None:
        if message.get("bad"):
            raise error

    async with SessionManager(sender).port("p") as port, trio.open_nursery() as nursery:
        good = Caught()
        nursery.start_soon(good.run, port.request, {})
        await settle()
        session = port.create()
        for use in (port.request, session.send, session.post, port.post):
            with pytest.raises(OSError, match="unplugged") as caught:
                await use({"bad": True})
            assert caught.value is error
        port.dispatch({"sid": 1})
        await settle()
        assert (good.value, port.closed) == ({}, False)


async def test_a_sync_sender_may_return_an_awaitable() -> None:
    wire = Wire()

    async def later(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message.get("bad"):
            raise OSError("unplugged")
        wire(message)
        port.dispatch({**message, "ok": True})

    async with SessionManager(lambda message: later(message)).port("p") as port:
        assert (await port.request({"n": 1}))["ok"]
        with pytest.raises(OSError, match="unplugged"):
            await port.request({"bad": 1})
        with pytest.raises(OSError, match="unplugged"):
            await port.post({"bad": 1})
        await port.post({"n": 2})
        assert wire.sent == [{"n": 1, "sid": 1}, {"n": 2}]


async def test_an_awaitable_of_a_sender_that_was_never_awaited_is_closed_quietly(autojump_clock: MockClock) -> None:
    async def stuck(message: object) -> None:
        await trio.sleep_forever()

    manager = SessionManager(lambda message: stuck(message), grace=1)
    async with manager.port("p") as port, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(Caught().run, port.request, {})
        await settle()
        port.close()
    assert_empty(manager, port)


class Asynchronous:
    """An object that is called."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    async def __call__(self, message: object) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def method(self, name: str, message: object) -> None:
        await self(message)


@pytest.mark.parametrize("kind", ["object", "method", "partial"])
async def test_any_async_callable_is_a_sender(kind: str) -> None:
    target = Asynchronous()
    sender = {
        "object": target,
        "method": target.__call__,
        "partial": partial(target.method, "name"),
    }[kind]
    async with SessionManager(sender).port("p") as port, port.session() as session:
        await session.post({"n": 1})
        assert target.sent == [{"n": 1, "sid": 1}]


async def test_a_send_cancelled_before_an_async_sender_was_called_never_calls_it(autojump_clock: MockClock) -> None:
    called: list[int] = []

    async def slow(message: dict[str, Any]) -> None:
        called.append(message["n"])
        await trio.sleep(5)

    async with SessionManager(slow).port("p") as port, trio.open_nursery() as nursery:
        nursery.start_soon(Caught().run, port.request, {"n": 1})
        await settle()
        for use in (port.request, port.post):
            with trio.move_on_after(1):
                await use({"n": 2})
        await trio.sleep(10)
        assert called == [1]
        port.dispatch({"sid": 1})


async def test_an_async_senders_task_is_not_cut_by_a_turns_timeout(autojump_clock: MockClock) -> None:
    finished: list[float] = []

    async def slow(message: object) -> None:
        await trio.sleep(5)
        finished.append(trio.current_time())

    async with SessionManager(slow).port("p") as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1)
        await trio.sleep(10)
    assert finished == [5.0]
