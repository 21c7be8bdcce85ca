"""Opening and leaving a port: who is told, what comes out, what is closed, what remains."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    PortClosedError,
    PortExistsError,
    SessionAbortError,
    SessionError,
    SessionInvalidError,
    SessionManager,
)
from psession.channels import memory_pair

from .peers import Caught, PlainChannel, Wire, plain_pair, serve_echo, settle
from .tables import assert_empty, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Port, Session

PAIRS = pytest.mark.parametrize("pair", [memory_pair, plain_pair])


@PAIRS
async def test_leaving_aborts_waiters_in_other_nurseries_at_once(
    autojump_clock: MockClock, pair: Callable[[], tuple[Any, Any]]
) -> None:
    here, _ = pair()
    manager = SessionManager()
    waiters = [Caught() for _ in range(6)]
    async with trio.open_nursery() as elsewhere:
        async with manager.port("p", here) as port:
            session = port.create()
            elsewhere.start_soon(waiters[0].run, session.send, {})
            await settle()
            elsewhere.start_soon(waiters[1].run, session.send, {})
            elsewhere.start_soon(waiters[2].run, port.request, {})
            elsewhere.start_soon(waiters[3].run, port.create().receive)
            elsewhere.start_soon(
                lambda: waiters[4].run(lambda: port.request({}, timeout=1, retry_count=5, retry_interval=9))
            )
            elsewhere.start_soon(waiters[5].run, port.wait_closed)
            await trio.sleep(5)
        await settle()
        assert [waiter.at for waiter in waiters] == [5.0] * 6
    assert [type(waiter.error) for waiter in waiters[:5]] == [SessionAbortError] * 3 + [
        PortClosedError,
        SessionAbortError,
    ]
    assert waiters[5].error is None
    assert len({id(waiter.error) for waiter in waiters[:5]}) == 5
    assert [waiter.error.attempts for waiter in waiters[:5]] == [1, 0, 1, 0, 1]
    assert_empty(manager, port)
    assert_no_timers()


@PAIRS
async def test_the_name_is_free_after_the_block_and_taken_within(pair: Callable[[], tuple[Any, Any]]) -> None:
    manager = SessionManager()
    async with manager.port("p", pair()[0]):
        with pytest.raises(PortExistsError) as caught:
            async with manager.port("p", pair()[0]):
                raise AssertionError
        assert caught.value.port == "p"
        assert list(manager.ports) == ["p"]
    assert dict(manager.ports) == {}
    async with manager.port("p", pair()[0]) as port:
        assert manager.ports["p"] is port


class Mine(Exception):
    """What the body raises."""


@PAIRS
@pytest.mark.parametrize(
    "make",
    [
        lambda: Mine("x"),
        lambda: KeyboardInterrupt("x"),
        lambda: SystemExit(3),
        lambda: ExceptionGroup("mine", [Mine("a"), Mine("b")]),
        lambda: ExceptionGroup("one", [Mine("a")]),
        lambda: BaseExceptionGroup("mine", [KeyboardInterrupt(), Mine("b")]),
        lambda: StopAsyncIteration("x"),
        lambda: StopIteration("x"),
        lambda: trio.EndOfChannel("x"),
        lambda: trio.BrokenResourceError("x"),
        lambda: SessionAbortError("x"),
        lambda: AssertionError("x"),
    ],
)
async def test_what_the_body_raises_comes_out_bare_and_the_same_object(
    pair: Callable[[], tuple[Any, Any]], make: Callable[[], BaseException]
) -> None:
    here, there = pair()
    error = make()
    manager = SessionManager()

    async def handle(session: Session) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, there)
        with pytest.raises(type(error)) as caught:  # noqa: PT012 - the block under test is the port's own
            async with manager.port("p", here, on_session=handle) as port:
                await port.request({})
                port.dispatch({"sid": 5})
                await trio.lowlevel.checkpoint()
                raise error
        assert caught.value is error
        assert caught.value.__cause__ is None
    assert_empty(manager, port)


async def test_cancelled_passes_through_as_the_same_object(autojump_clock: MockClock) -> None:
    manager = SessionManager()
    inside: list[BaseException] = []
    outside: list[BaseException] = []

    async def handle(session: Session) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(3) as scope:
        try:
            async with manager.port("p", memory_pair()[0], on_session=handle) as port:
                port.dispatch({"sid": 5})
                try:
                    await port.request({})
                except trio.Cancelled as error:
                    inside.append(error)
                    raise
        except trio.Cancelled as error:
            outside.append(error)
            raise
    assert scope.cancelled_caught
    assert inside == outside
    assert inside[0] is outside[0]
    assert_empty(manager, port)


@pytest.mark.parametrize("why", ["channel never closes", "writer is stuck", "closing fails", "forced closing fails"])
async def test_the_bodys_error_survives_a_channel_that_cannot_be_closed_in_time(
    autojump_clock: MockClock, why: str
) -> None:
    class Bad(PlainChannel):
        async def aclose(self) -> None:
            self.outgoing.close()
            self.incoming.close()
            if why == "closing fails":
                raise OSError("closing failed")
            if why == "channel never closes":
                await trio.sleep_forever()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                if why == "forced closing fails":
                    raise OSError("closing failed") from None
                raise
            if why == "forced closing fails":
                await trio.sleep_forever()

        async def send(self, value: dict[str, Any]) -> None:
            if why == "writer is stuck":
                await trio.sleep_forever()
            await super().send(value)

    pair = plain_pair()[0]
    manager = SessionManager(grace=2)
    with pytest.raises(Mine) as caught:  # noqa: PT012 - the block under test is the port's own
        async with manager.port("p", Bad(pair.outgoing, pair.incoming)) as port:
            await port.create().post({})
            await settle()
            raise Mine
    assert type(caught.value) is Mine
    assert trio.current_time() == (0.0 if why == "closing fails" else 2.0)
    assert_empty(manager, port)


async def test_leaving_under_cancellation_with_a_stuck_writer_ends_within_grace(autojump_clock: MockClock) -> None:
    here, _there = plain_pair(0)
    manager = SessionManager(grace=2)
    with trio.move_on_after(5) as scope:
        async with manager.port("p", here) as port:
            await port.create().post({})
            await trio.sleep_forever()
    assert (scope.cancelled_caught, trio.current_time(), here.closed) == (True, 7.0, True)
    assert_empty(manager, port)


async def test_what_was_accepted_is_flushed_before_the_channel_closes(autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    got: list[int] = []
    async with trio.open_nursery() as nursery:

        async def slow_reader() -> None:
            async for message in there:
                got.append(message["n"])
                await trio.sleep(0.25)

        nursery.start_soon(slow_reader)
        async with SessionManager(grace=10).port("p", here) as port:
            session = port.create()
            for n in range(5):
                await session.post({"n": n})
    assert got == [0, 1, 2, 3, 4]


async def test_a_port_whose_peer_closes_ends_cleanly_and_says_so_to_each_waiter(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager()
    async with manager.port("p", here) as port, trio.open_nursery() as nursery:
        waiters = [Caught() for _ in range(3)]
        for waiter in waiters:
            nursery.start_soon(waiter.run, port.request, {})
        session = port.create()
        await trio.sleep(2)
        await there.aclose()
        await port.wait_closed()
        await settle()
        assert [type(waiter.error) for waiter in waiters] == [PortClosedError] * 3
        assert len({id(waiter.error) for waiter in waiters}) == 3
        assert [waiter.error.__cause__ for waiter in waiters] == [None] * 3
        assert {waiter.at for waiter in waiters} == {2.0}
        assert [message async for message in session] == []
        for call in (session.send, session.post, port.request, port.post):
            with pytest.raises(PortClosedError):
                await call({})
        with pytest.raises(PortClosedError):
            port.create()
        with pytest.raises(PortClosedError):
            async with port.session():
                raise AssertionError
    assert_empty(manager, port)


class Breaking(PlainChannel):
    """A channel whose reading or writing fails at a chosen message."""

    def __init__(self, where: str, error: Exception) -> None:
        pair = plain_pair()[0]
        super().__init__(pair.outgoing, pair.incoming)
        self.where = where
        self.error = error

    async def send(self, value: dict[str, Any]) -> None:
        await trio.sleep(1)
        if self.where == "send":
            raise self.error

    async def receive(self) -> dict[str, Any]:
        if self.where == "receive":
            await trio.sleep(1)
            raise self.error
        return await super().receive()


@pytest.mark.parametrize("where", ["send", "receive"])
@pytest.mark.parametrize("error", [trio.BrokenResourceError("reset"), OSError("no route"), ValueError("a bug")])
async def test_a_channel_that_breaks_gives_each_waiter_an_error_of_its_own_with_the_cause(
    autojump_clock: MockClock, where: str, error: Exception
) -> None:
    manager = SessionManager()
    channel = Breaking(where, error)
    async with manager.port("p", channel) as port, trio.open_nursery() as nursery:
        waiters = [Caught() for _ in range(4)]
        for waiter in waiters:
            nursery.start_soon(waiter.run, port.request, {})
        await port.wait_closed()
        await settle()
        assert [type(waiter.error) for waiter in waiters] == [PortClosedError] * 4
        assert len({id(waiter.error) for waiter in waiters}) == 4
        assert all(waiter.error.__cause__ is error for waiter in waiters)
        assert all(str(error) in str(waiter.error) for waiter in waiters)
        assert {waiter.at for waiter in waiters} == {1.0}
    assert channel.closed
    assert_empty(manager, port)


async def test_handlers_are_cancelled_when_the_block_is_left_and_may_clean_up() -> None:
    cleaned: list[int] = []

    async def handle(session: Session) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(session.sid)

    manager = SessionManager()
    async with manager.port("p", Wire(), on_session=handle) as port:
        for sid in (5, 6, 7):
            port.dispatch({"sid": sid})
        await settle()
    assert sorted(cleaned) == [5, 6, 7]
    assert_empty(manager, port)


async def test_a_handler_that_was_started_in_the_tick_of_leaving_runs_to_its_first_wait() -> None:
    seen: list[int] = []

    async def handle(session: Session) -> None:
        seen.append(session.sid)
        await trio.sleep_forever()

    manager = SessionManager()
    async with manager.port("p", Wire(), on_session=handle) as port:
        port.dispatch({"sid": 5})
    assert seen == [5]
    assert_empty(manager, port)


async def test_a_strict_handlers_crash_comes_out_of_the_block_bare(autojump_clock: MockClock) -> None:
    error = Mine("in the handler")

    async def handle(session: Session) -> None:
        await trio.sleep(1)
        raise error

    manager = SessionManager()
    with pytest.raises(Mine) as caught:  # noqa: PT012 - the block under test is the port's own
        async with manager.port("p", Wire(), on_session=handle, strict=True) as port:
            port.dispatch({"sid": 5})
            await trio.sleep_forever()
    assert caught.value is error
    assert trio.current_time() == 1.0
    assert_empty(manager, port)


async def test_a_strict_on_message_crash_comes_out_of_the_block_bare() -> None:
    error = Mine("in on_message")
    here, there = memory_pair()

    def plain(message: object) -> None:
        raise error

    manager = SessionManager()
    with pytest.raises(Mine) as caught:  # noqa: PT012 - the block under test is the port's own
        async with manager.port("p", here, on_message=plain, strict=True) as port:
            await there.send({"no": "session"})
            await trio.sleep_forever()
    assert caught.value is error
    assert_empty(manager, port)


async def test_two_things_that_failed_come_out_as_a_group_of_both() -> None:
    async def handle(session: Session) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Mine("handler")

    manager = SessionManager()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block under test is the port's own
        async with manager.port("p", Wire(), on_session=handle, strict=True) as port:
            port.dispatch({"sid": 5})
            await settle()
            raise KeyError("body")
    assert caught.group_contains(Mine)
    assert caught.group_contains(KeyError)
    assert len(caught.value.exceptions) == 2
    assert_empty(manager, port)


async def test_the_crash_of_a_handler_ends_its_session_alone_and_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(session: Session) -> None:
        message = await session.receive()
        if message["n"] == 1:
            raise Mine("boom")
        async for _ in session:
            pass

    manager = SessionManager()
    async with manager.port("p", Wire(), on_session=handle) as port:
        for n in range(3):
            port.dispatch({"n": n, "sid": 5 + n})
        await settle()
        assert sorted(port.sessions) == [5, 7]
        assert (port.statistics().crashed, port.closed) == (1, False)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "psession"
    assert "'p'" in record.getMessage()
    assert "6" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Mine)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in its own session", "in another session of the port"])
async def test_a_handler_that_ends_because_its_peer_left_is_no_crash(
    caplog: pytest.LogCaptureFixture, elsewhere: bool
) -> None:
    async def waits_for_a_reply(session: Session) -> None:
        await session.send({"q": 1})

    async def asks_in_another_session(session: Session) -> None:
        await session.port.request({"q": 1})

    handle = asks_in_another_session if elsewhere else waits_for_a_reply
    here, there = memory_pair()
    async with SessionManager().port("p", here, on_session=handle) as port:
        await there.send({"sid": 5})
        await settle()
        await there.aclose()
        await port.wait_closed()
        await settle()
        assert port.statistics().crashed == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_on_session_that_is_no_async_function_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async with SessionManager().port("p", Wire(), on_session=lambda session: None) as port:
        port.dispatch({"sid": 5})
        await settle()
        assert port.statistics().crashed == 1
    assert "on_session must be an async function" in caplog.text


async def test_plain_messages_go_to_on_message_sync_or_async_in_order(autojump_clock: MockClock) -> None:
    for is_async in (False, True):
        seen: list[int] = []

        def sync(message: dict[str, int], seen: list[int] = seen) -> None:
            seen.append(message["n"])

        async def slow(message: dict[str, int], seen: list[int] = seen) -> None:
            await trio.sleep(1)
            seen.append(message["n"])

        here, there = memory_pair()
        async with SessionManager().port("p", here, on_message=slow if is_async else sync) as port:
            for n in range(3):
                await there.send({"n": n})
            await trio.sleep(3.5)
            assert seen == [0, 1, 2]
            assert port.statistics().plain == 3


@pytest.mark.parametrize("kind", ["sync", "async", "mixed"])
async def test_an_on_message_that_raises_costs_that_message_alone(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    async def later(message: dict[str, Any]) -> None:
        if message["n"] == 1:
            raise Mine
        seen.append(message["n"])

    def now(message: dict[str, Any]) -> None:
        if message["n"] == 1:
            raise Mine
        seen.append(message["n"])

    def mixed(message: dict[str, Any]) -> Any:
        if message["n"] == 1:
            raise Mine
        return later(message)

    here, there = memory_pair()
    async with SessionManager().port("p", here, on_message={"sync": now, "async": later, "mixed": mixed}[kind]) as port:
        for n in range(4):
            await there.send({"n": n})
        await settle()
        assert (seen, port.statistics().crashed, port.closed) == ([0, 2, 3], 1, False)


async def test_an_on_message_may_be_async_for_some_messages_and_not_for_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[int] = []

    async def later(n: int) -> None:
        seen.append(n)

    def on_message(message: dict[str, Any]) -> Any:
        if message["n"] % 2:
            seen.append(message["n"])
            return None
        return later(message["n"])

    here, there = memory_pair()
    async with SessionManager().port("p", here, on_message=on_message) as port:
        for n in range(4):
            await there.send({"n": n})
        await settle()
        assert (seen, port.statistics().crashed) == ([0, 1, 2, 3], 0)
    assert "raised" not in caplog.text


async def test_a_flood_of_plain_messages_is_bounded_and_counted() -> None:
    async def stuck(message: object) -> None:
        await trio.sleep_forever()

    here, there = memory_pair()
    async with SessionManager().port("p", here, on_message=stuck, inbox_limit=3) as port:
        for n in range(10):
            await there.send({"n": n})
        await settle()
        assert (port.statistics().plain, port.statistics().overrun) == (10, 6)


async def test_closing_in_the_block_tells_the_waiters_and_is_idempotent(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager()
    async with manager.port("p", here) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {})
        await trio.sleep(1)
        port.close()
        port.close()
        await settle()
        assert (type(caught.error), caught.at, port.closed) == (SessionAbortError, 1.0, True)
        assert [await there.receive()] == [{"sid": 1}]
        with pytest.raises(trio.EndOfChannel):
            await there.receive()
        with pytest.raises(PortClosedError):
            await port.request({})
    port.close()
    assert_empty(manager, port)


async def test_a_closed_sender_port_takes_no_message() -> None:
    wire = Wire()
    manager = SessionManager()
    async with manager.port("p", wire) as port:
        session = port.create()
        port.close()
        for call in (session.send, session.post, port.request, port.post):
            with pytest.raises(SessionInvalidError):
                await call({})
        assert port.dispatch({"sid": 1}) is True
        assert wire.sent == []


async def test_two_thousand_ports_one_after_the_other_leave_nothing() -> None:
    manager = SessionManager()
    wire = Wire()
    for n in range(2_000):
        async with manager.port(f"p{n}", wire) as port:
            port.create()
    assert_empty(manager, port)
    assert_no_timers()
    assert (manager.statistics().opened, manager.statistics().open) == (2_000, 0)


async def test_a_port_that_was_left_is_freed_without_the_garbage_collector() -> None:
    manager = SessionManager()
    here, there = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, there)
        async with manager.port("p", here) as port:
            await port.request({})
            session = port.create()
    freed = [weakref.ref(session)]
    await trio.lowlevel.checkpoint()
    gc.collect()
    del session, port
    gc.collect()
    assert [ref() for ref in freed] == [None]


async def test_errors_of_ended_sessions_name_their_port_and_session(autojump_clock: MockClock) -> None:
    async with SessionManager().port("heater", Wire()) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {})
        await trio.sleep(1.5)
        port.abort(Mine("why"))
        await settle()
        error = caught.error
        assert isinstance(error, SessionError)
        assert (error.port, error.sid, error.attempts, error.waited) == ("heater", 1, 1, 1.5)
        assert isinstance(error.__cause__, Mine)
        assert "heater" in str(error)


async def test_ports_in_ports_end_from_the_inside_out(autojump_clock: MockClock) -> None:
    manager = SessionManager()
    order: list[str] = []

    async def wait(port: Port) -> None:
        try:
            await port.request({})
        except SessionAbortError as error:
            order.append(str(error.port))

    async with (
        trio.open_nursery() as nursery,
        manager.port("outer", Wire()) as outer,
        manager.port("inner", Wire()) as inner,
    ):
        nursery.start_soon(wait, outer)
        nursery.start_soon(wait, inner)
        await settle()
    assert order == ["inner", "outer"]
    assert_empty(manager, outer, inner)


async def test_a_timeout_around_the_port_beats_the_turns_own(autojump_clock: MockClock) -> None:
    manager = SessionManager()
    with pytest.raises(trio.TooSlowError):  # noqa: PT012 - the block under test is the port's own
        with trio.fail_after(2):
            async with manager.port("p", Wire()) as port:
                await port.request({}, timeout=30)
    assert trio.current_time() == 2.0
    assert_empty(manager, port)
