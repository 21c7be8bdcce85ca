"""What a manager does beside turns, cancelled at any step: listening, plain messages, its default port, leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import SessionManager
from psession.channels import memory_pair

from .axe import Axe, every_step
from .peers import Echo, Wire, answers, plain_pair
from .tables import assert_empty, assert_no_timers

if TYPE_CHECKING:
    from psession import Port


def test_listening_cancelled_at_any_step_leaves_no_listener_and_no_port() -> None:
    async def scenario(axe: Axe) -> bool:
        bus, into = plain_pair(0)
        manager = SessionManager()
        ports: list[Port] = []

        async def device(name: str, message: dict[str, Any]) -> None:
            async with manager.port(name, Wire(), on_session=answers) as port:
                ports.append(port)
                await trio.sleep(2)

        async def speak() -> None:
            for n in range(4):
                await into.send({"from": f"d{n % 2}", "sid": n + 1})
                await trio.sleep(0.5)
            await into.aclose()

        with trio.CancelScope() as scope:
            axe.scope = scope
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak)
                await manager.listen(bus, port_of=lambda message: message["from"], on_unknown=device)
        axe.scope = None
        assert_empty(manager, *ports)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


def test_an_async_on_message_cancelled_at_any_step_leaves_nothing() -> None:
    async def scenario(axe: Axe) -> bool:
        here, there = memory_pair()
        manager = SessionManager()
        ports: list[Port] = []

        async def plain(message: dict[str, Any]) -> None:
            await trio.sleep(0.5)

        with trio.CancelScope() as scope:
            axe.scope = scope
            async with manager.port("p", here, on_message=plain) as port:
                ports.append(port)
                for n in range(3):
                    await there.send({"n": n})
                await trio.sleep(3)
        axe.scope = None
        assert_empty(manager, *ports)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


def test_the_default_port_of_a_manager_cancelled_at_any_step_is_gone() -> None:
    async def scenario(axe: Axe) -> bool:
        echo = Echo()
        manager = SessionManager(echo)
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with manager:
                echo.port = manager.ports["default"]
                async with manager.create_session() as session:
                    await session.send({})
                await manager.ports["default"].request({})
        axe.scope = None
        assert_empty(manager)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1


@pytest.mark.parametrize("stuck", ["write", "close", "both"])
def test_leaving_with_a_stuck_channel_cancelled_at_any_step_ends_within_grace(stuck: str) -> None:
    async def scenario(axe: Axe) -> bool:
        here, _there = plain_pair(0 if stuck != "close" else 64)
        real_close = here.aclose

        async def aclose() -> None:
            await real_close()
            await trio.sleep_forever()

        if stuck != "write":
            here.aclose = aclose  # type: ignore[method-assign]
        manager = SessionManager(grace=2)
        ports: list[Port] = []
        with trio.CancelScope() as scope:
            axe.scope = scope
            async with manager.port("p", here) as port:
                ports.append(port)
                await port.create().post({})
                await trio.sleep(1)
        axe.scope = None
        assert trio.current_time() <= 3.0
        assert_empty(manager, *ports)
        assert_no_timers()
        return axe.left <= 0

    assert every_step(scenario) > 1
