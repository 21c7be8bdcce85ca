"""What an attack on the sessions once found open, each as small as it can be brought about."""

from __future__ import annotations

import contextvars
import gc
import subprocess
import sys
import textwrap
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    Classic,
    MessageTooLargeError,
    PortClosedError,
    SessionAbortError,
    SessionCancelError,
    SessionManager,
    SessionTimeoutError,
)
from psession.channels import length_prefixed, lines, memory_pair

from .peers import Caught, PlainChannel, Wire, plain_pair, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Port, Session


async def test_a_number_owed_several_replies_is_not_lent_when_one_was_seen(autojump_clock: MockClock) -> None:
    manager = SessionManager(session_ids=range(1, 3), session_timeout=5, session_id_rest=60)
    async with manager.port("p", Wire(), on_session_overflow="wait") as port, trio.open_nursery() as nursery:
        first, second = port.create(), port.create()
        with pytest.raises(SessionTimeoutError):
            await first.send({}, timeout=0.01, retry_count=2, retry_interval=0)
        caught = Caught()
        nursery.start_soon(caught.run, first.send, {})  # nothing is free: the number rests in the session's hands
        await settle()
        second.end()  # and is given back for this one
        await settle()
        assert first.sid == 2
        port.dispatch({"sid": 1, "late": "one of three"})
        port.dispatch({"sid": 2})
        await settle()
        with trio.move_on_after(30) as scope:
            async with port.session():
                pytest.fail("number 1 was lent while two replies to it were on their way")
        assert scope.cancelled_caught


@pytest.mark.parametrize("deed", ["cancel", "end", "close", "leave"])
async def test_an_end_beats_the_retry_of_a_senders_error_in_the_same_tick(deed: str) -> None:
    sent: list[Any] = []
    caught = Caught()

    async def sender(message: dict[str, Any]) -> None:
        sent.append(message)
        await trio.lowlevel.checkpoint()
        deeds[deed]()
        raise OSError("the line is down")

    manager = SessionManager(sender)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            leave = trio.Event()
            async with manager.port("p") as port:
                session = port.create()
                deeds: dict[str, Callable[[], object]] = {
                    "cancel": session.cancel,
                    "end": session.end,
                    "close": port.close,
                    "leave": leave.set,
                }
                ask = partial(session.send, {}, retry_on=(OSError,), retry_count=3, retry_interval=0)
                nursery.start_soon(caught.run, ask)
                if deed == "leave":
                    await leave.wait()
                else:
                    await settle()
    expected = SessionCancelError if deed in ("cancel", "end") else SessionAbortError
    assert isinstance(caught.error, expected)
    assert len(sent) == 1
    assert_empty(manager, port)


def test_a_second_ctrl_c_within_grace_leaves_nothing_hanging() -> None:
    program = textwrap.dedent("""
        import os, signal, socket, threading, time, trio
        from psession import SessionManager
        from psession.channels import lines

        async def main():
            left, right = socket.socketpair()
            channel = lines(trio.SocketStream(trio.socket.from_stdlib_socket(left)))

            def interrupt():
                for _ in range(2):
                    time.sleep(0.3)
                    os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=interrupt, daemon=True).start()
            async with SessionManager().port("p", channel, grace=1) as port:
                while True:
                    await port.post({"x": "y" * 10000})

        try:
            trio.run(main)
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            print(type(error).__name__)
    """)
    done = subprocess.run([sys.executable, "-c", program], timeout=20, capture_output=True, text=True, check=False)
    assert done.stdout == "KeyboardInterrupt\n"


async def test_who_waits_for_a_number_takes_over_the_watch_of_who_was_cancelled(autojump_clock: MockClock) -> None:
    manager = SessionManager(session_ids=range(1, 2), on_session_overflow="wait", session_id_rest=7)
    async with manager.port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        scopes = [trio.CancelScope(), trio.CancelScope()]
        got: list[float] = []

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                async with port.session():
                    got.append(trio.current_time())

        for scope in scopes:
            nursery.start_soon(wait, scope)
            await settle()
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=1)
        session.end()
        await settle()
        scopes[0].cancel()
        await trio.sleep(30)
        assert got == [8.0]


async def test_cancelled_requests_leave_nothing_with_a_callable_that_returns_awaitables(
    autojump_clock: MockClock,
) -> None:
    here, _there = plain_pair(0)
    async with SessionManager(grace=0).port("p", lambda message: here.send(message)) as port:
        for _ in range(50):
            with trio.move_on_after(0.01):
                await port.request({})
        assert len(port._engine.outbox._queue) <= 1
        assert port.statistics().queued_bytes <= 256


async def test_handlers_that_outlive_their_sessions_are_bounded(autojump_clock: MockClock) -> None:
    running = 0
    most = 0

    async def slow_to_leave(session: Session) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        async for _ in session:
            pass
        await trio.sleep(5)
        running -= 1

    async with SessionManager(on_session=slow_to_leave, max_incoming_sessions=10).port("p", Wire()) as port:
        for sid in range(1, 500):
            port.dispatch({"sid": sid})
            await settle()
        assert most <= 20
        assert port.statistics().refused > 0


async def test_a_turn_that_is_over_lets_go_of_its_frame() -> None:
    class Heavy(dict[str, Any]):
        pass

    here, there = plain_pair()
    async with SessionManager().port("p", here) as port, trio.open_nursery() as nursery:
        seen: list[weakref.ref[Any]] = []

        async def peer() -> None:
            message = await there.receive()
            await there.send({"sid": message["sid"]})

        class Watched(Classic):
            """The classic wire, whose messages are watched."""

            __slots__ = ()

            def open(self, payload: Any, sid: int, *, exact: bool) -> tuple[Any, dict[str, Any]]:
                message = Heavy(super().open(payload, sid, exact=exact)[0])
                seen.append(weakref.ref(message))
                return message, message

        port._engine.connection._dialect = Watched()
        nursery.start_soon(peer)
        await port.request({}, timeout=100)
        await settle()
        gc.collect()
        assert [ref() for ref in seen] == [None]


async def test_lost_edges_found_by_a_look_end_the_port_at_once() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await stream.receive_some(1000)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
            async with SessionManager().port("p", length_prefixed(stream)) as port:
                with pytest.raises(PortClosedError, match="another protocol"):
                    await port.request({}, timeout=60)
                assert port.closed
            nursery.cancel_scope.cancel()


async def test_a_short_life_that_is_over_keeps_nobody_awake(autojump_clock: MockClock) -> None:
    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async with SessionManager().port("p", Wire()) as port:
        session = port.create(session_max_life=0.001)
        await trio.sleep(1)
        assert session.closed
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(0.1)
        trio.lowlevel.remove_instrument(steps)
        assert steps.count < 10


async def test_plain_messages_keep_their_order_while_turns_wait() -> None:
    here, there = memory_pair()
    got: list[int] = []
    async with SessionManager().port("p", here, on_message=lambda message: got.append(message["n"])) as port:
        for n in range(0, 60, 3):
            await there.send({"n": n})
            await there.send({"n": n + 1})
            with trio.move_on_after(0):
                await port.request({})
            await there.send({"n": n + 2})
        await settle()
    assert got == sorted(got)
    assert len(got) == 60


async def test_a_message_that_a_plain_channel_refuses_is_its_senders_error_alone() -> None:
    class Narrow(PlainChannel):
        async def send(self, value: dict[str, Any]) -> None:
            if "large" in value:
                raise MessageTooLargeError("too large for this line")
            await super().send(value)

    left, there = plain_pair()
    async with SessionManager().port("p", Narrow(left.outgoing, left.incoming)) as port:
        with pytest.raises(MessageTooLargeError):
            await port.request({"large": 1})
        await port.post({"large": 1})
        await port.post({"n": 1})
        assert await there.receive() == {"n": 1}
        assert not port.closed
        assert_idle(port)


async def test_a_post_that_leaving_discards_says_so(autojump_clock: MockClock) -> None:
    async def stuck(message: object) -> None:
        await trio.sleep_forever()

    posts = [Caught(), Caught()]
    async with trio.open_nursery() as nursery, SessionManager(stuck, grace=1).port("p") as port:
        for caught in posts:
            nursery.start_soon(caught.run, port.post, {})
            await settle()
    assert isinstance(posts[1].error, PortClosedError)


async def test_no_patience_is_enough_where_numbers_are_free() -> None:
    manager = SessionManager(on_session_overflow="wait")

    def answer(message: dict[str, Any]) -> None:
        manager.dispatch(message, "p")

    async with manager.port("p", answer) as port:
        assert (await port.request({"n": 1}, timeout=0))["n"] == 1


async def test_a_policy_of_ones_own_is_not_asked_where_no_session_is_open(autojump_clock: MockClock) -> None:
    def choose(port: Port) -> int:
        return min(port.sessions)

    manager = SessionManager(session_ids=range(1, 2), on_session_overflow=choose, session_timeout=1)
    async with manager.port("p", Wire()) as port:
        for _ in range(2):
            with pytest.raises(SessionTimeoutError):
                await port.request({})


async def test_a_peers_session_runs_in_the_context_of_who_opened_the_port() -> None:
    user = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    async def handle(session: Session) -> None:
        seen.append(user.get())

    async with SessionManager(on_session=handle).port("p", Wire()) as port:
        user.set("alice")
        port.dispatch({"sid": 1})
        await settle()
    assert seen == ["nobody"]


@pytest.mark.parametrize("options", [{"retry_count": 2**63}, {"timeout": 10**400}])
async def test_numbers_past_all_measure_are_told(options: dict[str, Any]) -> None:
    async with SessionManager().port("p", Wire()) as port:
        with pytest.raises(ValueError, match=next(iter(options))):
            await port.request({}, **options)


async def test_many_sends_in_line_are_cancelled_without_a_search() -> None:
    async with SessionManager().port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        for _ in range(3000):
            nursery.start_soon(session.send, {})
        await settle()
        nursery.cancel_scope.cancel()
    assert_idle(port)


async def test_a_reply_behind_much_else_is_still_the_reply(autojump_clock: MockClock) -> None:
    left, right = trio.testing.memory_stream_pair()
    async with SessionManager(session_timeout=1).port("p", lines(left)) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {})
        await trio.sleep(1 - 1e-9)
        await right.send_all(b'{"n":1}\n' * 40_000)
        await right.send_all(b'{"sid":1}\n')
        await trio.sleep(5)
        assert caught.value == {}
