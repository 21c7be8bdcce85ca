"""A dialogue in which both sides ask, cancelled at any step on one side or on both: nothing of it remains."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Classic, Dialect, Exact, SessionManager
from psession.channels import memory_pair

from .axe import Axe, every_step
from .peers import answers, plain_pair
from .tables import assert_empty, assert_idle, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession import Port


async def asks_its_server(port: Port) -> None:
    async with port.session() as session:
        reply = await session.send({"ask": True})
        assert reply["question"] == 1
        reply = await session.send({"answer": 1})
        assert reply["ok"]


@pytest.mark.parametrize("dialect", [Classic(), Exact()], ids=["classic", "exact"])
@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
def test_both_sides_of_a_dialogue_cancelled_at_any_step_leave_nothing(
    pair: Callable[[], Any], dialect: Dialect
) -> None:
    async def scenario(axe: Axe) -> bool:
        here, there = pair()
        client, server = SessionManager(dialect=dialect), SessionManager(on_session=answers)
        ports: list[Port] = []
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with AsyncExitStack() as stack:
                ports.append(await stack.enter_async_context(server.port("client", there)))
                ports.append(await stack.enter_async_context(client.port("server", here)))
                await asks_its_server(ports[1])
        axe.scope = None
        assert_empty(client, *ports[1:])
        assert_empty(server, *ports[:1])
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


@pytest.mark.parametrize("dialect", [Classic(), Exact()], ids=["classic", "exact"])
@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
def test_a_caller_cancelled_at_any_step_leaves_the_servers_port_working(
    pair: Callable[[], Any], dialect: Dialect
) -> None:
    async def scenario(axe: Axe) -> bool:
        here, there = pair()
        client = SessionManager(dialect=dialect)
        server = SessionManager(on_session=answers, session_max_life=30)
        async with server.port("client", there) as served, client.port("server", here) as port:
            with trio.CancelScope() as scope:
                axe.scope = scope
                await asks_its_server(port)
            axe.scope = None
            await trio.testing.wait_all_tasks_blocked()
            assert_idle(port)
            await asks_its_server(port)
            await trio.sleep(100)
            if not served.sessions:
                assert_idle(served)
        assert_empty(client, port)
        assert_empty(server, served)
        return axe.left <= 0

    assert every_step(scenario) > 1
