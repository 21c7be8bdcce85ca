"""The bridge from asyncio: calls, cancellation, errors and ends, in both directions, on asyncio's loop and uvloop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import threading
import traceback
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import psession
import psession.asyncio
from psession import (
    Exact,
    PortClosedError,
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionInvalidError,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
    hooks,
)
from psession.asyncio import Bridge, BridgeClosedError, bridge
from psession.channels import memory_pair, open_tcp, serve_tcp
from psession.nursery import in_trio_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

PATIENCE = 10.0
"""Seconds after which a test is a deadlock."""


def uvloop_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's."""
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine in a loop of each kind, and find nothing left of it."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        threads = set(threading.enumerate())
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:

            async def checked() -> Any:
                try:
                    async with asyncio.timeout(PATIENCE):
                        return await main
                finally:
                    assert asyncio.all_tasks() == {asyncio.current_task()}
                    assert not in_trio_run()

            result = runner.run(checked())
        new = [thread for thread in threading.enumerate() if thread not in threads]
        assert [thread for thread in new if "Trio thread" not in thread.name] == []  # one of those waits for more work
        gc.collect()  # an error that nobody asked for would be said now
        return result

    return run


async def until(true: Callable[[], bool]) -> None:
    """Wait on asyncio until something is so."""
    while not true():  # noqa: ASYNC110 - what changes it knows nothing of an asyncio.Event
        await asyncio.sleep(0.001)


class Peer:
    """The far end of a port, a psession of its own in the same Trio run. Says what became of its handlers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked = 0

    async def answer(self, session: Session) -> None:
        """Do what each message says."""
        async for message in session:
            self.asked += 1
            await self.do(session, message)

    async def do(self, session: Session, message: dict[str, Any]) -> None:
        """Do what one message says."""
        match message.get("do", "echo"):
            case "echo":
                await session.post({"echo": message.get("n")})
            case "wait":
                self.said.append("at work")
                try:
                    await trio.sleep_forever()
                finally:
                    self.said.append("cancelled")
            case "refuse":
                raise SessionRefusedError("not today", code="busy")
            case "count":
                for n in range(message["to"]):
                    await session.post({"n": n})
            case "ask":
                answer = await session.send({"question": "why"})
                await session.post({"because": answer["because"]})

    async def has_said(self, *words: str) -> None:
        """Wait until it has said just this; on asyncio."""
        await until(lambda: self.said == [*words])


@asynccontextmanager
async def a_port(
    made: Bridge, peer: Peer | None = None, *, manager: SessionManager | None = None, **options: Any
) -> AsyncIterator[tuple[psession.asyncio.Port, psession.asyncio.Port]]:
    """A port on the exact wire, and its peer's."""
    here, there = memory_pair()
    peer = peer or Peer()
    manager = manager or SessionManager(**{"dialect": Exact(), **options})
    far = SessionManager(on_session=peer.answer).port("far", there)
    async with made.open(far) as far_port, made.open(manager.port("lamp", here)) as port:
        yield port, far_port


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_request_a_dialogue_and_a_stream_are_awaited_on_asyncio(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _):
            assert await port.request({"n": 1}) == {"echo": 1}
            async with port.session() as session:
                assert [await session.send({"n": n}) for n in range(3)] == [{"echo": n} for n in range(3)]
                assert session.sid
            assert session.closed
            async with port.stream({"do": "count", "to": 100}) as replies:
                assert [reply["n"] async for reply in replies] == list(range(100))
            assert port.statistics().open == 0

    run(main())


def test_a_port_over_tcp_asks_a_server_of_the_bridge(run: Any) -> None:
    peer = Peer()

    async def main() -> None:
        async def serve(channel: Any) -> None:
            async with SessionManager(on_session=peer.answer).accept(channel) as port:
                await port.wait_closed()

        async with (
            bridge() as made,
            made.serve(serve_tcp, serve, 0, host="127.0.0.1") as server,
            made.open(open_tcp(*server.addresses[0][:2])) as channel,
            made.open(SessionManager().port("server", channel)) as port,
        ):
            many = [port.request({"n": n}, timeout=PATIENCE) for n in range(2000)]
            assert await asyncio.gather(*many) == [{"echo": n} for n in range(2000)]

    run(main())


def test_reply_type_is_read_and_a_reply_that_does_not_fit_is_an_error(run: Any) -> None:
    class Echo(msgspec.Struct):
        echo: int

    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _):
            assert await port.request({"n": 5}, reply_type=Echo) == Echo(5)
            with pytest.raises(psession.MalformedMessageError, match="Expected `int`"):
                await port.request({"n": "five"}, reply_type=Echo)
            async with port.session() as session, session.stream({"do": "echo", "n": 7}, reply_type=Echo) as replies:
                assert [reply async for reply in replies] == [Echo(7)]

    run(main())


def test_turns_of_one_session_come_one_after_the_other(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _), port.session() as session:
            replies = await asyncio.gather(*(session.send({"n": n}) for n in range(20)))
            assert replies == [{"echo": n} for n in range(20)]

    run(main())


def test_a_request_waits_for_a_number_where_the_port_has_none_free(run: Any) -> None:
    async def main() -> None:
        async with (
            bridge() as made,
            a_port(made, max_session_count=2, on_session_overflow="wait") as (port, _),
        ):
            replies = await asyncio.gather(*(port.request({"n": n}) for n in range(20)))
            assert replies == [{"echo": n} for n in range(20)]

    run(main())


def test_silence_is_tried_again_and_then_an_error(run: Any) -> None:
    async def main() -> None:
        sent: list[Any] = []
        async with bridge() as made, made.open(SessionManager().port("deaf", sent.append)) as port:
            with pytest.raises(SessionTimeoutError) as caught:
                await port.request({}, timeout=0.02, retry_count=2, retry_interval=0)
            assert (caught.value.attempts, len(sent)) == (3, 3)

    run(main())


def test_a_sender_that_answers_at_once_and_one_that_fails(run: Any) -> None:
    async def main() -> None:
        manager = SessionManager()

        def sender(message: dict[str, Any]) -> None:
            if message.get("fails"):
                raise OSError("no line")
            manager.dispatch(message, "here")

        async with bridge() as made, made.open(manager.port("here", sender)) as port:
            assert await port.request({"n": 1}) == {"n": 1}
            with pytest.raises(OSError, match="no line"):
                await port.request({"fails": True})

    run(main())


def test_what_the_peer_says_is_received_and_iterated(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _), port.session() as session:
            await session.post({"do": "count", "to": 3})
            assert await session.receive() == {"n": 0}
            assert [await anext(session), await session.receive(timeout=1)] == [{"n": 1}, {"n": 2}]
            with pytest.raises(SessionTimeoutError):
                await session.receive(timeout=0.01)
            session.end()
            assert [message async for message in session] == []

    run(main())


def test_a_function_of_trios_runs_and_its_error_comes_out_as_it_is(run: Any) -> None:
    failure = ValueError("from Trio")

    async def sleepy(value: int) -> int:
        await trio.sleep(0.001)
        return value + 1

    async def failing() -> None:
        async with trio.open_nursery():
            pass
        raise failure

    async def main() -> None:
        async with bridge() as made:
            assert await made.run(sleepy, 1) == 2
            with pytest.raises(ValueError, match="from Trio") as caught:
                await made.run(failing)
            assert caught.value is failure
            frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert frames[0] == "main"
            assert frames[-1] == "failing"

    run(main())


def test_context_variables_travel(run: Any) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def on_trio() -> str:
        return who.get()

    async def main() -> None:
        async with bridge() as made:

            async def answer(message: Any) -> Any:
                return {"who": who.get()}

            async def one(name: str) -> str:
                who.set(name)
                return await made.run(on_trio)

            assert await asyncio.gather(*map(one, "abc")) == ["a", "b", "c"]
            who.set("the opener")
            here, there = memory_pair()
            async with (
                made.open(SessionManager(on_request=made.handler(answer)).port("far", there)),
                made.open(SessionManager(dialect=Exact()).port("near", here)) as port,
            ):
                who.set("the caller")
                assert await port.request({}) == {"who": "the opener"}

    run(main())


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["request", "send", "stream", "second send"])
def test_a_timeout_of_asyncios_ends_the_turn_and_the_peer_is_told(run: Any, how: str) -> None:
    peer, failed = Peer(), list[hooks.TurnFailed]()
    manager = SessionManager(dialect=Exact())
    manager.observe(failed.append, hooks.TurnFailed)

    async def main() -> None:
        async with bridge() as made, a_port(made, peer, manager=manager) as (port, _), port.session() as session:

            async def ask() -> None:
                if how == "request":
                    await port.request({"do": "wait"})
                elif how == "stream":
                    async with port.stream({"do": "wait"}) as replies:
                        await anext(replies)
                else:
                    await session.send({"do": "wait"})

            if how == "second send":
                first = asyncio.create_task(ask())
                await peer.has_said("at work")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await session.send({"n": 2})
                assert port.statistics().cancelled == 1
                first.cancel()
                await asyncio.wait([first])
                assert first.cancelled()
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await ask()
            await peer.has_said("at work", "cancelled")
            assert peer.asked == 1
            assert await port.request({"n": 1}) == {"echo": 1}

    run(main())
    assert {event.reason for event in failed} == {"cancelled"}


def test_a_call_is_cancelled_only_when_its_function_has_ended(run: Any) -> None:
    steps: list[str] = []

    async def slow_to_leave() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
            steps.append("left")

    async def main() -> None:
        async with bridge() as made:
            task = asyncio.create_task(made.run(slow_to_leave))
            await asyncio.sleep(0.01)
            task.cancel("enough")
            await asyncio.sleep(0)
            task.cancel("once more")
            with pytest.raises(asyncio.CancelledError):
                await task
            steps.append("cancelled")

    run(main())
    assert steps == ["left", "cancelled"]


def test_a_message_that_comes_as_its_receiver_is_cancelled_is_received_by_the_next(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _), port.session() as session:
            seen: list[int] = []
            await session.post({"do": "count", "to": 200})
            luck = random.Random(4)
            while len(seen) < 200:
                task = asyncio.create_task(session.receive())
                for _ in range(luck.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    seen.append(task.result()["n"])
            assert seen == list(range(200))

    run(main())


def test_a_stream_whose_receivers_are_cancelled_loses_no_reply(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _):
            seen: list[int] = []
            luck = random.Random(5)
            async with port.stream({"do": "count", "to": 200}) as replies:
                while len(seen) < 200:
                    task = asyncio.create_task(replies.receive())
                    for _ in range(luck.randrange(6)):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled():
                        seen.append(task.result()["n"])
                with pytest.raises(trio.EndOfChannel):
                    await replies.receive()
            assert seen == list(range(200))

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_whenever_calls_are_cancelled_nothing_of_them_is_left(run: Any, seed: int) -> None:
    """Random histories: requests, dialogues and streams, each cancelled after some passes of the loop, or never."""
    luck = random.Random(seed)
    peer = Peer()

    async def main() -> None:
        async with bridge() as made, a_port(made, peer) as (port, far):

            async def dialogue() -> str:
                async with port.session() as session:
                    for n in range(3):
                        assert await session.send({"n": n}) == {"echo": n}
                return "done"

            async def stream() -> str:
                async with port.stream({"do": "count", "to": 40}) as replies:
                    assert [reply["n"] async for reply in replies] == list(range(40))
                return "done"

            async def request() -> str:
                assert await port.request({"n": 5}) == {"echo": 5}
                return "done"

            async def waiting() -> str:
                await port.request({"do": "wait"})
                return "never"

            async def refused() -> str:
                with pytest.raises(SessionRemoteError, match="not today"):
                    await port.request({"do": "refuse"})
                return "done"

            async def one() -> bool:
                kind = luck.choice([dialogue, stream, request, waiting, refused])
                passes = luck.choice([None, luck.randrange(4), luck.randrange(60)])
                task = asyncio.create_task(kind())
                if passes is not None or kind is waiting:
                    for _ in range(passes or 20):
                        await asyncio.sleep(0)
                    task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.result() == "done", task
                return task.cancelled()

            cancelled = sum(await asyncio.gather(*(one() for _ in range(150))))
            assert 20 < cancelled < 140
            assert port.statistics().open == 0
            assert await port.request({"n": 1}) == {"echo": 1}
            await until(lambda: not far.statistics().open)

    run(main())


def test_a_block_that_is_cancelled_while_it_opens_is_closed(run: Any) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[str]:
        steps.append("open")
        try:
            await trio.sleep(0.001)
            yield "opened"
        finally:
            steps.append("closed")

    async def main() -> None:
        async with bridge() as made:

            async def hold() -> None:
                async with made.open(slow()):
                    steps.append("body")
                    await asyncio.sleep(60)

            for passes in range(40):
                steps.clear()
                task = asyncio.create_task(hold())
                for _ in range(passes):
                    await asyncio.sleep(0.0001)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                assert [step for step in steps if step != "body"] in ([], ["open", "closed"])

    run(main())


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_port_that_dies_raises_in_every_task_that_waits(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made, dialect=None) as (port, far):
            waiting = [asyncio.create_task(port.request({"do": "wait"})) for _ in range(10)]
            closed = asyncio.create_task(port.wait_closed())
            await asyncio.sleep(0.01)
            far.close()
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(type(error) is PortClosedError for error in errors)
            assert len({id(error) for error in errors}) == 10
            await closed
            assert port.closed
            with pytest.raises(PortClosedError):
                await port.request({})

    run(main())


def test_leaving_the_bridge_ends_what_others_wait_for(run: Any) -> None:
    waits: list[asyncio.Task[Any]] = []

    async def main() -> None:
        ready = asyncio.Event()

        async def holds(made: Bridge) -> None:
            async with a_port(made) as (port, _):
                waits.append(asyncio.create_task(port.request({"do": "wait"})))
                waits.append(asyncio.create_task(port.wait_closed()))
                waits.append(asyncio.create_task(made.run(trio.sleep_forever)))
                await asyncio.sleep(0.01)
                ready.set()
                await asyncio.sleep(60)

        async with bridge() as made:
            holder = asyncio.create_task(holds(made))
            await ready.wait()
        with pytest.raises(BridgeClosedError):
            await holder
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [SessionAbortError, type(None), BridgeClosedError]
        with pytest.raises(BridgeClosedError, match="the bridge was left"):
            await made.run(trio.sleep, 0)

    run(main())


def test_what_the_body_raises_comes_out_as_it_is_and_everything_is_closed(run: Any) -> None:
    failure = LookupError("mine")
    ports: list[psession.asyncio.Port] = []

    async def main() -> None:
        with pytest.raises(LookupError) as caught:  # noqa: PT012 - what the block raises
            async with bridge() as made, a_port(made) as (port, _):
                ports.append(port)
                raise failure
        assert caught.value is failure
        assert ports[0].closed

    run(main())


def test_a_bridge_that_is_cancelled_ends_in_order(run: Any) -> None:
    peer = Peer()

    async def main() -> None:
        async def hold() -> None:
            async with bridge() as made, a_port(made, peer) as (port, _):
                await port.request({"do": "wait"})

        task = asyncio.create_task(hold())
        await peer.has_said("at work")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert peer.said == ["at work", "cancelled"]

    run(main())


def test_a_block_that_ends_before_its_body_cancels_it_and_raises_its_error(run: Any) -> None:
    failure = OSError("the task behind it")

    @asynccontextmanager
    async def fails_soon() -> AsyncIterator[None]:
        async def fail() -> None:
            await trio.sleep(0.01)
            raise failure

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                yield
        except* OSError as group:
            raise group.exceptions[0] from None

    async def main() -> None:
        async with bridge() as made:
            with pytest.raises(OSError, match="the task behind it") as caught:
                async with made.open(fails_soon()):
                    await asyncio.sleep(60)
            assert caught.value is failure
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0)  # nothing of the cancellation is left

    run(main())


def test_a_strict_port_whose_handler_crashes_fails_its_block(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made:

            async def crash(message: Any) -> Any:
                raise ZeroDivisionError("in the handler")

            here, there = memory_pair()
            async with made.open(SessionManager(dialect=Exact()).port("asker", here)) as port:
                with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what the block raises
                    async with made.open(
                        SessionManager(on_request=made.handler(crash), strict=True).port("far", there)
                    ):
                        with pytest.raises(SessionRemoteError):
                            await port.request({})
                        await asyncio.sleep(60)

    run(main())


# -- handlers ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def a_far_handler(made: Bridge, **options: Any) -> AsyncIterator[psession.asyncio.Port]:
    """A port whose peer has these options."""
    here, there = memory_pair()
    async with (
        made.open(SessionManager(**options).port("far", there)) as _,
        made.open(SessionManager(dialect=Exact()).port("near", here)) as port,
    ):
        yield port


def test_handlers_of_asyncios_answer_requests_dialogues_and_streams(run: Any) -> None:
    async def main() -> None:
        async def answer(message: Any) -> Any:
            await asyncio.sleep(0.001)
            if message.get("refuse"):
                raise SessionRefusedError("no", code="no")
            return {"loop": type(asyncio.get_running_loop()).__name__ != ""}

        async def ticks(message: Any) -> Any:
            for n in range(message["to"]):
                await asyncio.sleep(0)
                yield {"n": n}

        async def dialogue(session: psession.asyncio.Session) -> None:
            async for message in session:
                await asyncio.sleep(0)
                await session.post({"because": message["n"] + 1})

        async with bridge() as made:
            async with a_far_handler(made, on_request=made.handler(answer)) as port:
                assert await port.request({}) == {"loop": True}
                with pytest.raises(SessionRemoteError) as refused:
                    await port.request({"refuse": True})
                assert refused.value.code == "refused.no"
            async with (
                a_far_handler(made, on_request=made.handler(ticks)) as port,
                port.stream({"to": 100}) as replies,
            ):
                assert [reply["n"] async for reply in replies] == list(range(100))
            async with a_far_handler(made, on_session=made.handler(dialogue)) as port, port.session() as session:
                assert [await session.send({"n": n}) for n in (7, 8)] == [{"because": 8}, {"because": 9}]

    run(main())


def test_an_asker_that_gives_up_cancels_the_asyncio_task_that_answers(run: Any) -> None:
    steps: list[str] = []

    async def main() -> None:
        async def answer(message: Any) -> Any:
            steps.append("at work")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                steps.append("cancelled")
                raise

        async with bridge() as made, a_far_handler(made, on_request=made.handler(answer)) as port:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await port.request({})
            await until(lambda: len(steps) == 2)

    run(main())
    assert steps == ["at work", "cancelled"]


def test_a_stream_that_is_left_closes_the_generator_that_answers(run: Any) -> None:
    steps: list[Any] = []

    async def main() -> None:
        async def ticks(message: Any) -> Any:
            try:
                for n in range(10**6):
                    await asyncio.sleep(0)
                    yield {"n": n}
            finally:
                await asyncio.sleep(0.001)
                steps.append("closed")

        async with bridge() as made, a_far_handler(made, on_request=made.handler(ticks)) as port:
            async with port.stream({}) as replies:
                async for reply in replies:
                    if reply["n"] == 50:
                        break
            await until(lambda: bool(steps))

    run(main())


def test_a_handler_may_ask_elsewhere_within_the_time_of_its_asker(run: Any) -> None:
    peer = Peer()

    async def main() -> None:
        async with bridge() as made, a_port(made, peer) as (device, _):

            async def gateway(message: Any) -> Any:
                return await device.request(message)

            async with a_far_handler(made, on_request=made.handler(gateway)) as port:
                assert await port.request({"n": 3}) == {"echo": 3}
                with pytest.raises(SessionTimeoutError):
                    await port.request({"do": "wait"}, timeout=0.05)
                await peer.has_said("at work", "cancelled")

    run(main())


def test_a_handler_that_is_cancelled_by_others_is_a_crash_and_not_the_end_of_its_port(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def answer(message: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

        async with bridge() as made, a_far_handler(made, on_request=made.handler(answer)) as port:
            for _ in range(2):
                with pytest.raises(SessionRemoteError) as crashed:
                    await port.request({})
                assert crashed.value.code == "crashed"

    run(main())
    assert "its asyncio task was cancelled" in caplog.text


def test_only_async_functions_are_wrapped_as_handlers(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made:
            with pytest.raises(TypeError, match="an async function of asyncio's"):
                made.handler(lambda message: message)  # type: ignore[call-overload]

    run(main())


# -- misuse ------------------------------------------------------------------------------------------------------------


def test_a_second_bridge_in_a_thread_is_refused(run: Any) -> None:
    async def main() -> None:
        async with bridge():
            with pytest.raises(RuntimeError, match="Trio runs in this thread already"):
                async with bridge():
                    pass
        async with bridge() as again:  # one after the other
            await again.run(trio.sleep, 0)

    run(main())


def test_another_thread_and_another_loop_are_told_so(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _):

            async def asks() -> None:
                with pytest.raises(RuntimeError, match="another event loop"):
                    await port.request({})
                with pytest.raises(RuntimeError, match="another event loop"):
                    await made.run(trio.sleep, 0)

            await asyncio.to_thread(asyncio.run, asks())
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(partial(made.run(trio.sleep, 0).send, None))
            there = asyncio.run_coroutine_threadsafe(port.request({"n": 1}), asyncio.get_running_loop())
            assert await asyncio.to_thread(lambda: 1) == 1
            assert await asyncio.wrap_future(there) == {"echo": 1}

    run(main())


@pytest.mark.parametrize(
    "what",
    [
        lambda: SessionManager().port("lamp", memory_pair()[0]),
        lambda: open_tcp("127.0.0.1", 1),
        lambda: psession.channels.open_websocket("ws://127.0.0.1:1"),
    ],
    ids=["port", "open_tcp", "open_websocket"],
)
def test_what_is_trios_says_on_asyncio_what_to_do(run: Any, what: Any) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"psession\.asyncio\.bridge"):
            async with what():
                pass

    run(main())


def test_a_bridge_needs_asyncio() -> None:
    async def on_trio() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            async with bridge():
                pass

    trio.run(on_trio)


def test_nothing_of_the_bridge_is_made_by_hand() -> None:
    for kind in (Bridge, psession.asyncio.Port, psession.asyncio.Session, psession.asyncio.Replies):
        with pytest.raises(TypeError, match="made by"):
            kind()


def test_the_endings_of_a_session_reach_asyncio(run: Any) -> None:
    async def main() -> None:
        async with bridge() as made, a_port(made) as (port, _), port.session() as session:
            for ends, error in (
                (session.cancel, SessionCancelError),
                (session.abort, SessionAbortError),
                (session.timeout, SessionTimeoutError),
                (port.cancel, SessionCancelError),
                (port.clear, SessionAbortError),
            ):
                turn: Awaitable[Any] = asyncio.create_task(session.send({"do": "wait"}))
                await asyncio.sleep(0.01)
                ends()
                with pytest.raises(error):
                    await turn
            with pytest.raises(SessionInvalidError):
                await session.send({})
            assert "psession.asyncio.Port 'lamp'" in repr(port)

    run(main())
