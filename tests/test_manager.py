"""The table of ports: opening, finding, everything at once, one's own receive loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import (
    PortNotFoundError,
    SessionAbortError,
    SessionCancelError,
    SessionManager,
    SessionTimeoutError,
    share,
)
from psession.channels import memory_pair, open_websocket, reconnecting
from psession.testing import lossy

from .peers import Caught, Echo, Wire, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from psession import Session


async def test_entered_itself_a_manager_holds_the_port_default_open() -> None:
    echo = Echo()
    async with SessionManager(echo) as manager:
        echo.port = manager.ports["default"]
        async with manager.create_session() as session:
            assert (await session.send({"n": 1}))["n"] == 1
        assert list(manager.ports) == ["default"]
    assert_empty(manager)
    async with manager:
        assert list(manager.ports) == ["default"]
        with pytest.raises(RuntimeError, match="entered already"):
            await manager.__aenter__()
    assert_empty(manager)


async def test_entered_itself_a_manager_needs_a_sender() -> None:
    manager = SessionManager()
    with pytest.raises(TypeError, match="sender"):
        async with manager:
            raise AssertionError
    assert_empty(manager)


async def test_what_the_body_raises_passes_a_manager_as_the_same_object() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with SessionManager(Wire()):
            raise error
    assert caught.value is error


async def test_a_manager_may_be_made_outside_of_any_loop() -> None:
    made = SessionManager(Wire(), session_timeout=1)
    assert dict(made.ports) == {}


async def test_the_ports_are_a_live_view_that_nobody_can_change() -> None:
    manager = SessionManager(Wire())
    view = manager.ports
    async with manager.port("a") as a, manager.port("b") as b:
        assert dict(view) == {"a": a, "b": b}
        with pytest.raises(TypeError):
            view["c"] = a  # type: ignore[index]
    assert dict(view) == {}


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        (5, "trio.abc.Channel"),
        (trio.testing.memory_stream_pair()[0], "lines"),
        (None, "sender"),
    ],
)
async def test_what_is_no_channel_is_refused_with_what_to_wrap_it_in(target: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        SessionManager().port("p", target)


async def test_a_port_over_what_was_not_entered_says_to_enter_it() -> None:
    here, _there = memory_pair()
    contexts: list[Any] = [
        open_websocket("ws://127.0.0.1:1"),
        reconnecting(trio.sleep_forever),
        lossy(here, seed=1),
        share(here),
    ]
    for context in contexts:
        with pytest.raises(TypeError, match=r"enter it first: `async with \.\.\. as channel`"):
            SessionManager().port("p", context)
        with pytest.raises(TypeError, match="channels go to port"):
            SessionManager(context)


async def test_a_port_that_is_not_open_is_found_nowhere() -> None:
    manager = SessionManager(Wire())
    with pytest.raises(PortNotFoundError, match="none"):
        manager.create_session("gone")
    assert manager.get_session({"sid": 1}, "gone") is None
    assert manager.dispatch({"sid": 1}, "gone") is True
    assert manager.dispatch({"plain": 1}, "gone") is False
    assert manager.statistics().unknown_port == 1


async def test_a_receive_loop_of_ones_own_sorts_messages_the_guides_way() -> None:
    wire = Wire()
    others: list[object] = []
    async with SessionManager(wire) as manager, trio.open_nursery() as nursery:

        def received(message: dict[str, Any]) -> None:
            if not manager.is_session(message):
                others.append(message)
            elif (session := manager.get_session(message)) is not None:
                session.next(message)

        caught = Caught()
        nursery.start_soon(caught.run, manager.create_session(timeout=5).send, {"n": 1})
        await settle()
        for message in ({"plain": 1}, {"sid": 77}, {"sid": 1, "ok": 1}, {"sid": 1, "second": 1}):
            received(message)
        await settle()
        assert (caught.value, others) == ({"ok": 1}, [{"plain": 1}])


async def test_dispatch_does_the_three_in_one_and_opens_what_the_peer_opens() -> None:
    seen: list[int] = []

    async def handle(session: Session) -> None:
        seen.append((await session.receive())["n"])

    async with SessionManager(Wire(), on_session=handle) as manager:
        assert manager.dispatch({"sid": 5, "n": 1})
        assert not manager.dispatch({"n": 2})
        await settle()
        assert seen == [1]


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        (lambda manager: manager.cancel(), SessionCancelError),
        (lambda manager: manager.abort(), SessionAbortError),
        (lambda manager: manager.timeout(), SessionTimeoutError),
        (lambda manager: manager.clear(), SessionAbortError),
        (lambda manager: manager.clear("cancel"), SessionCancelError),
        (lambda manager: manager.clear("timeout"), SessionTimeoutError),
    ],
)
async def test_what_is_done_to_the_manager_is_done_to_every_port(
    autojump_clock: MockClock, deed: Callable[[SessionManager], None], error: type[Exception]
) -> None:
    manager = SessionManager(Wire())
    waiters = [Caught() for _ in range(6)]
    async with manager.port("a") as a, manager.port("b") as b, trio.open_nursery() as nursery:
        for n, waiter in enumerate(waiters):
            nursery.start_soon(waiter.run, (a, b)[n % 2].request, {})
        await trio.sleep(2)
        deed(manager)
        await settle()
        assert {(type(waiter.error), waiter.at) for waiter in waiters} == {(error, 2.0)}
    assert_empty(manager, a, b)


async def test_the_counters_of_ports_that_are_gone_stay_in_the_sum() -> None:
    echo = Echo()
    manager = SessionManager(echo)
    for _ in range(3):
        async with manager.port("p") as port:
            echo.port = port
            await port.request({})
            held = port.create()
            assert manager.statistics().open == 1
        assert held.closed
    total = manager.statistics()
    assert (total.opened, total.matched, total.open, total.resting) == (6, 3, 0, 0)


async def test_two_managers_do_not_share_names_or_numbers() -> None:
    a, b = SessionManager(Wire()), SessionManager(Wire())
    async with a.port("p") as pa, b.port("p") as pb:
        assert (pa.create().sid, pb.create().sid) == (1, 1)
        assert a.get_session({"sid": 1}, "p") is not b.get_session({"sid": 1}, "p")


async def test_a_port_can_be_opened_within_a_handler_of_another() -> None:
    here, there = memory_pair()
    manager = SessionManager()
    done: list[str] = []

    async def handle(session: Session) -> None:
        async with manager.port("inner", Wire()) as inner:
            done.append(inner.name)

    async with manager.port("outer", here, on_session=handle):
        await there.send({"sid": 5})
        await settle()
    assert done == ["inner"]
    assert_empty(manager)
