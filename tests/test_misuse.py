"""Calls of a port from where they cannot work, or when it is over: an error that says so, at the first call."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio

import psession.asyncio
from psession import Exact, Port, PortClosedError, Session, SessionError, SessionManager, SessionRemoteError
from psession.channels import memory_pair

from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def open_session(port: Port, session: Session) -> None:
    """Enter a session of the port."""
    async with port.session():
        pass


async def open_stream(port: Port, session: Session) -> None:
    """Enter a stream of the port."""
    async with port.stream({}):
        pass


WAITING: dict[str, Callable[[Port, Session], Awaitable[Any]]] = {
    "session.send": lambda port, session: session.send({}, timeout=0.1),
    "session.post": lambda port, session: session.post({}),
    "session.receive": lambda port, session: session.receive(timeout=0.1),
    "session.finish": lambda port, session: session.finish({}),
    "port.request": lambda port, session: port.request({}, timeout=0.1),
    "port.post": lambda port, session: port.post({}),
    "port.session": open_session,
    "port.stream": open_stream,
    "port.drain": lambda port, session: port.drain(0.1),
    "port.wait_closed": lambda port, session: port.wait_closed(),
}
AT_ONCE: dict[str, Callable[[Port, Session], object]] = {
    "port.create": lambda port, session: port.create(),
    "port.dispatch": lambda port, session: port.dispatch({"sid": 70_000}),
    "port.cancel": lambda port, session: port.cancel(),
    "port.abort": lambda port, session: port.abort(),
    "port.timeout": lambda port, session: port.timeout(),
    "port.clear": lambda port, session: port.clear(),
    "port.close": lambda port, session: port.close(),
    "session.next": lambda port, session: session.next({}),
    "session.cancel": lambda port, session: session.cancel(),
    "session.abort": lambda port, session: session.abort(),
    "session.timeout": lambda port, session: session.timeout(),
    "session.end": lambda port, session: session.end(),
}
ELSEWHERE = "port 'p' belongs to another trio.run: open a port in this one, or call this one from a thread by"


def in_another_run(call: Callable[[], Awaitable[Any]]) -> None:
    """Make a call in a ``trio.run`` of its own."""

    async def run() -> None:
        with pytest.raises(RuntimeError, match=ELSEWHERE):
            await call()

    trio.run(run)


def in_a_thread(call: Callable[[], object]) -> None:
    """Make a call where there is no ``trio.run``."""
    with pytest.raises(RuntimeError, match=ELSEWHERE):
        call()


@pytest.mark.parametrize("name", [*WAITING, *AT_ONCE])
async def test_a_port_that_is_used_from_another_run_or_thread_says_so_and_goes_on(name: str) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact(), session_timeout=math.inf)
    async with manager.port("p", here) as port, port.session() as session:
        if name in WAITING:
            await trio.to_thread.run_sync(in_another_run, lambda: WAITING[name](port, session))
        else:
            await trio.to_thread.run_sync(in_a_thread, lambda: AT_ONCE[name](port, session))

        async def answer() -> None:
            question = await there.receive()
            await there.send({**{key: question[key] for key in ("sid", "_life")}, "_re": question["_turn"], "n": 1})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await session.send({}) == {"n": 1}
    assert_empty(manager, port)


@pytest.mark.parametrize("name", [name for name in WAITING if name != "port.wait_closed"])
async def test_what_needs_an_open_port_was_not_sent_where_it_is_over(name: str) -> None:
    async with SessionManager(dialect=Exact()).port("p", memory_pair()[0]) as port:
        session = port.create()
        port.close()
        with pytest.raises(SessionError) as caught:
            await WAITING[name](port, session)
        assert caught.value.outcome == "not_sent"
        with pytest.raises(PortClosedError):
            port.create()


async def test_a_port_that_is_over_may_be_let_go_of_in_any_run() -> None:
    async with SessionManager().port("p", memory_pair()[0]) as port:
        session = port.create()

    def let_go() -> None:
        session.end()
        port.close()
        assert port.closed

    await trio.to_thread.run_sync(let_go)


async def test_a_session_that_is_not_entered_by_async_with_says_how() -> None:
    async with SessionManager().port("p", memory_pair()[0]) as port:
        assert_says_how_it_is_entered(port)


def test_so_does_a_session_for_asyncio() -> None:
    async def main() -> None:
        async with (
            psession.asyncio.bridge() as bridged,
            bridged.open(SessionManager().port("p", memory_pair()[0])) as port,
        ):
            assert_says_how_it_is_entered(port)
            port.close("enough")
            with pytest.raises(PortClosedError, match="the port was closed: enough"):
                await port.request({})

    asyncio.run(main())


def assert_says_how_it_is_entered(port: Any) -> None:
    """Misuse what ``port.session()`` returns in the two ways that come to mind."""
    how = r"^port.session\(\) is to be entered: `async with port.session\(\) as session`"
    with pytest.raises(AttributeError, match=f"{how}, then session.send"):
        port.session().send({})
    with pytest.raises(TypeError, match=f"{how}, not by a plain `with`"), port.session():
        pass


async def within_time() -> None:
    async with asyncio.timeout(1):
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["on_request", "on_session"])
@pytest.mark.parametrize("deed", [lambda: asyncio.sleep(0.01), within_time])
def test_a_handler_of_asyncios_that_is_not_wrapped_is_told_by_what_to_wrap_it(
    kind: str, deed: Callable[[], Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: Any) -> None:
        await deed()

    async def main() -> None:
        here, there = memory_pair()
        manager = SessionManager(dialect=Exact())
        async with (
            psession.asyncio.bridge() as bridged,
            bridged.open(manager.port("lamp", there, **{kind: handler})),
            bridged.open(manager.port("app", here)) as port,
        ):
            with pytest.raises(SessionRemoteError, match="crashed"):
                await port.request({"q": 1}, timeout=5)

    asyncio.run(main())
    assert "give bridged.handler(function) in its place" in caplog.text


async def test_other_errors_of_a_handler_have_no_such_hint(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_: Any) -> None:
        raise TypeError("of its own")

    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with manager.port("lamp", there, on_request=handler), manager.port("app", here) as port:
        with pytest.raises(SessionRemoteError, match="crashed"):
            await port.request({"q": 1}, timeout=5)
    assert "TypeError: of its own" in caplog.text
    assert "bridged.handler" not in caplog.text
