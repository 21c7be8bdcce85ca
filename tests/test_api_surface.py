"""What is said to a user who calls something the wrong way, or looks at something: what it is, and what to write."""

from __future__ import annotations

import contextvars
import logging
import re
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
import trio.testing

from psession import Exact, Port, Replies, Session, SessionAbortError, SessionManager, SessionTimeoutError
from psession.channels import FramedChannel, lines, memory_pair, open_websocket, reconnecting

from .peers import Caught, Echo, Wire, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


async def answer(session: Session) -> None:
    """Say it back."""
    async for message in session:
        await session.post(message)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning or worse."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- what users do not make --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Port, r"async with manager\.port\(name, channel\)"),
        (Session, r"async with port\.session\(\)` or `port\.create\(\)"),
        (Replies, r"session\.stream\(payload\)` or `port\.stream\(payload\)"),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), {}), (("lamp",), {}), (("lamp", None), {}), ((1, 2, 3, 4, 5), {}), (("lamp", None), {"session_timeout": 5})],
    ids=["nothing", "one argument", "two", "five", "an option"],
)
def test_what_has_no_public_constructor_says_how_it_is_made(
    kind: Callable[..., object], text: str, arguments: tuple[object, ...], named: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match=text):
        kind(*arguments, **named)


@pytest.mark.parametrize("kind", [Port, Session, Replies])
def test_what_has_no_public_constructor_has_no_subclasses_for_type_checkers(kind: type) -> None:
    assert getattr(kind, "__final__", False)


# -- what was forgotten ------------------------------------------------------------------------------------------------


async def test_a_session_that_was_not_entered_says_to_enter_it() -> None:
    async with SessionManager(Wire()).port("p") as port:
        opening: Any = port.session()
        for name in ("send", "post", "receive", "stream", "sid", "end"):
            with pytest.raises(
                AttributeError, match=rf"async with port\.session\(\) as session`, then session\.{name}"
            ):
                getattr(opening, name)
        with pytest.raises(AttributeError, match=r"port\.create\(\), which makes a session at once"):
            await opening.send({"command": "status"})
        assert dict(port.sessions) == {}


async def test_a_stream_that_was_not_entered_says_to_enter_it() -> None:
    async with SessionManager(Wire(), dialect=Exact()).port("p") as port:
        replies = port.stream({"command": "update"})
        with pytest.raises(trio.ClosedResourceError, match=r"use `async with .*stream\(\.\.\.\) as replies`"):
            [reply async for reply in replies]
        with pytest.raises(trio.ClosedResourceError, match=r"use `async with"):
            await replies.receive()
        assert "use `async with`" in repr(replies)
        assert dict(port.sessions) == {}


async def test_reconnecting_to_what_was_opened_already_says_to_write_lambda() -> None:
    with pytest.raises(TypeError, match=r"give `lambda: open_websocket\(url\)`"):
        async with reconnecting(open_websocket("ws://127.0.0.1:1")):  # type: ignore[arg-type]
            pytest.fail("it was entered")


async def test_reconnecting_to_a_coroutine_says_to_write_lambda_and_leaves_no_warning() -> None:
    with pytest.raises(TypeError, match=r"give `lambda: open_websocket\(url\)`"):
        async with reconnecting(never()):  # type: ignore[arg-type]
            pytest.fail("it was entered")


async def never() -> FramedChannel:
    """Give no channel."""
    raise NotImplementedError


async def test_a_port_over_somebody_elses_stream_says_what_to_wrap_it_in() -> None:
    class Connection:
        """As trio-websocket's."""

        async def get_message(self) -> str:
            raise NotImplementedError

    near, far = socket.socketpair()
    with near, far:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(near))
        for target, hint in [(stream, "lines"), (Connection(), "trio_websocket"), (object(), "implement trio.abc")]:
            with pytest.raises(TypeError, match=hint):
                SessionManager().port("p", target)  # type: ignore[arg-type]


async def test_an_anyio_stream_under_a_port_says_what_to_wrap_it_in() -> None:
    send, receive = anyio.create_memory_object_stream[dict[str, Any]](1)
    with send, receive, pytest.raises(TypeError, match=r"psession\.channels\.anyio_stream\(stream\)"):
        SessionManager().port("p", send)  # type: ignore[arg-type]


# -- handlers ----------------------------------------------------------------------------------------------------------


async def test_a_synchronous_on_session_is_told_to_be_async(caplog: pytest.LogCaptureFixture) -> None:
    async with SessionManager(Wire(), on_session=lambda session: None).port("p") as port:  # type: ignore[arg-type,return-value]
        port.dispatch({"sid": 1})
        await settle()
        assert port.statistics().crashed == 1
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert "on_session must be an async function" in str(record.exc_info[1])
    assert "write `async def`" in str(record.exc_info[1])


async def test_an_on_session_that_returns_no_coroutine_is_told_what_it_returned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def five(session: Session) -> Any:
        return 5

    manager = SessionManager(Wire(), on_session=five)
    async with manager.port("p") as port:
        port.dispatch({"sid": 1})
        await settle()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert "it returned 5" in str(record.exc_info[1])


async def test_a_handler_that_returns_a_value_is_told_once_that_nobody_gets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(session: Session) -> Any:
        return {"status": "on"}

    async with SessionManager(Wire(), on_session=handle).port("lamp") as port:
        for sid in (1, 2, 3):
            port.dispatch({"sid": sid})
        await settle()
    (text,) = warnings(caplog)
    assert re.match(r"port 'lamp': the handler of session \d returned {'status': 'on'}, which nobody gets", text)
    assert "answer with `await session.post(...)`" in text


async def test_a_handler_that_returns_nothing_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with SessionManager(Wire(), on_session=answer).port("p") as port:
        port.dispatch({"sid": 1})
        await settle()
    assert warnings(caplog) == []


user = contextvars.ContextVar("user", default="nobody")


@pytest.mark.parametrize("busy_wait", [True, False])
@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_on_message_runs_in_the_context_of_the_port_whoever_waits_awake(turns: int, busy_wait: bool) -> None:
    """A turn that is alone looks into the socket itself: what it finds for others is not to meet its own context."""
    near, far = map(trio.socket.from_stdlib_socket, socket.socketpair())
    seen: list[str] = []
    all_came = trio.Event()

    def on_message(message: Any) -> None:
        seen.append(user.get())
        user.set("on_message")
        if len(seen) == 2 * max(turns, 1):
            all_came.set()

    async def ask(port: Port) -> None:
        user.set("asker")
        await port.request({"q": 1})
        assert user.get() == "asker"

    async def peer(channel: FramedChannel) -> None:
        for _ in range(max(turns, 1)):
            question = await channel.receive() if turns else {}
            await channel.send({"news": 1})
            await channel.send({"news": 2})
            if turns:
                await channel.send(question)

    user.set("port")
    channel = lines(trio.SocketStream(near))
    async with (
        lines(trio.SocketStream(far)) as other,
        SessionManager(on_message=on_message, busy_wait=busy_wait, session_timeout=5).port("p", channel) as port,
        trio.open_nursery() as nursery,
    ):
        user.set("body")
        nursery.start_soon(peer, other)
        for _ in range(turns):
            await ask(port)
            user.set("body")
        with trio.fail_after(5):
            await all_came.wait()
    assert set(seen) == {"port"}
    assert len(seen) == 2 * max(turns, 1)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy_wait", [True, False])
async def test_without_busy_wait_nobody_looks_into_the_channel_awake(
    busy_wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = map(trio.socket.from_stdlib_socket, socket.socketpair())
    looks: list[FramedChannel] = []
    look = FramedChannel.receive_batch_now

    def counted(channel: FramedChannel) -> list[Any]:
        looks.append(channel)
        return look(channel)

    monkeypatch.setattr(FramedChannel, "receive_batch_now", counted)
    manager = SessionManager(busy_wait=busy_wait, session_timeout=5)
    with trio.fail_after(5):
        async with (
            manager.port("asker", lines(trio.SocketStream(far)), on_session=answer),
            manager.port("answerer", lines(trio.SocketStream(near))) as port,
        ):
            assert await port.request({"n": 0}) == {"n": 0}
            async with port.session() as session:
                assert [await session.send({"n": n}) for n in range(20)] == [{"n": n} for n in range(20)]
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(lambda n: port.request({"n": n}), n)
    assert bool(looks) == busy_wait


# -- what is looked at -------------------------------------------------------------------------------------------------


async def test_the_ports_may_be_iterated_while_ports_come_and_go() -> None:
    manager = SessionManager(Wire())
    seen: list[str] = []
    async with manager.port("a"), manager.port("b"), AsyncExitStack() as more:
        for name in manager.ports:
            seen.append(name)
            await more.enter_async_context(manager.port(f"more {name}"))
        assert seen == ["a", "b"]
        assert repr(manager.ports) == "<4 open ports: 'a', 'b', 'more a', 'more b'>"
    assert repr(manager.ports) == "<0 open ports: >"


@pytest.mark.parametrize("look", [iter, Mapping.values, Mapping.items], ids=["names", "ports", "both"])
async def test_a_port_that_was_left_before_its_turn_is_left_out(look: Callable[[Any], Any]) -> None:
    manager = SessionManager(Wire())
    rest = AsyncExitStack()
    async with manager.port("a"), rest:
        for name in "bcd":
            await rest.enter_async_context(manager.port(name))
        seen = 0
        for _ in look(manager.ports):
            seen += 1
            await rest.aclose()
        assert (seen, list(manager.ports)) == (1, ["a"])


@pytest.mark.parametrize("incoming", [False, True], ids=["own", "the peer's"])
async def test_the_sessions_may_be_iterated_while_sessions_come_and_go(incoming: bool) -> None:
    async with SessionManager(Wire(), on_session=answer).port("p") as port:
        sids = count(1)

        def open_some() -> None:
            for _ in range(3):
                if incoming:
                    port.dispatch({"sid": next(sids)})
                else:
                    port.create()

        open_some()
        await settle()
        first = dict(port.sessions)
        assert repr(port.sessions) == "<3 open sessions of port 'p'>"
        for sid, session in port.sessions.items():
            assert session is first[sid]
            open_some()
            session.end()
            first.pop(sid)
            if len(first) == 1:
                first.popitem()[1].end()
        assert len(port.sessions) == 6


async def test_a_manager_says_how_many_ports_it_has() -> None:
    manager = SessionManager(Wire())
    assert repr(manager) == "<psession.SessionManager, 0 ports>"
    async with manager.port("a"), manager.port("b"):
        assert repr(manager) == "<psession.SessionManager, 2 ports>"


async def test_a_port_says_how_many_sessions_and_turns_wait_and_for_how_long(autojump_clock: MockClock) -> None:
    async with SessionManager(Wire(), session_timeout=60).port("lamp") as port, trio.open_nursery() as nursery:
        assert repr(port) == "<psession.Port 'lamp', open, 0 sessions>"
        sessions = [port.create() for _ in range(3)]
        assert repr(port) == "<psession.Port 'lamp', open, 3 sessions>"
        waiters = [Caught() for _ in sessions[:2]]
        for session, waiter in zip(sessions, waiters, strict=False):
            nursery.start_soon(waiter.run, session.send, {})
            await trio.sleep(1.5)
        assert repr(port) == "<psession.Port 'lamp', open, 3 sessions, 2 turns wait, the oldest for 3 s>"
        port.close()
        assert repr(port) == "<psession.Port 'lamp', closed: the port was closed by close()>"
        await settle()
        assert [type(waiter.error) for waiter in waiters] == [SessionAbortError] * 2


async def test_a_session_says_what_it_waits_for(autojump_clock: MockClock) -> None:
    async with (
        SessionManager(Wire(), session_timeout=1, retry_count=5, retry_interval=0.5).port("lamp") as port,
        trio.open_nursery() as nursery,
    ):
        session = port.create()
        assert repr(session) == "<psession.Session 1 of port 'lamp', open>"
        waiters = [Caught() for _ in range(3)]
        for waiter in waiters:
            nursery.start_soon(waiter.run, session.send, {})
        await trio.sleep(2)
        assert (
            repr(session)
            == "<psession.Session 1 of port 'lamp', open, a turn waits for 2 s (attempt 2), 2 more behind it>"
        )
        session.end()
        assert repr(session).startswith("<psession.Session 1 of port 'lamp', ended: ")
        await settle()


async def test_a_session_that_was_answered_is_open_again() -> None:
    echo = Echo()
    async with SessionManager(echo).port("p") as port, port.session() as session:
        echo.port = port
        await session.send({})
        assert repr(session) == "<psession.Session 1 of port 'p', open>"


async def test_a_stream_says_what_it_has_received() -> None:
    async def two(session: Session) -> None:
        async for _ in session:
            for number in range(2):
                await session.post({"n": number})
            await session.finish()

    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with (
        manager.port("far", there, on_session=two),
        manager.port("near", here) as port,
        port.stream({}) as replies,
    ):
        await replies.receive()
        assert repr(replies) == "<psession.Replies to turn 1, open, 1 received>"
        assert [reply async for reply in replies] == [{"n": 1}]
        assert repr(replies) == "<psession.Replies to turn 1, over, 2 received>"


async def test_an_error_says_port_session_attempts_and_age_and_so_does_its_repr(autojump_clock: MockClock) -> None:
    async with SessionManager(Wire(), session_timeout=1, retry_count=2, retry_interval=0.5).port("lamp") as port:
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({})
    text = str(caught.value)
    assert text.startswith("port 'lamp', session 1: no reply")
    assert text.endswith("(3 attempts, 4 s)")
    assert repr(caught.value).startswith("SessionTimeoutError(")
    assert "no reply" in repr(caught.value)
