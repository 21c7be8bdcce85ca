"""What a fleet needs of links over NATS: their last words, whether the other end answers, why there is none."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession.brokers.nats import Nats, NatsChannel, NatsConnectError, NatsServer

from .fleets import Way, a_world, settle, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock


@asynccontextmanager
async def serving(nats: Nats, handler: Callable[[NatsChannel], Awaitable[object]]) -> AsyncIterator[NatsServer]:
    """Links to "work", as long as the block lasts."""
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[NatsServer]) -> None:
            await nats.serve(None, handler, task_status=task_status)

        server: NatsServer = await nursery.start(serve)
        server.add("work")
        await nats.flush()
        yield server
        nursery.cancel_scope.cancel()


async def test_a_link_that_is_probed_hears_of_the_other_end_and_one_that_is_given_up_tells_it(
    autojump_clock: MockClock,
) -> None:
    ends: list[Any] = []

    async def hear(channel: NatsChannel) -> None:
        try:
            await channel.receive()
        except trio.BrokenResourceError as error:
            ends.append(str(error))

    async with a_world() as world:
        way = Way(world.broker)
        here, there = await world.nats(), await world.nats(open_stream=way.open_stream)
        async with serving(there, hear), here.connect("work") as channel:
            await trio.sleep(3)
            began = channel.heard
            channel.probe()
            await settle()
            assert channel.heard == began + 3
            way.stop()
            await trio.sleep(1)
            channel.probe()
            await settle()
            assert channel.heard == began + 3
            channel.give_up("it says nothing")
            channel.give_up("nor now")
            with pytest.raises(trio.BrokenResourceError, match="it says nothing"):
                await channel.receive()
            way.flows.set()
            await until(lambda: ends)
        assert "lost its connection" in ends[0]


async def test_who_serves_may_refuse_links_to_one_subject_and_says_why(autojump_clock: MockClock) -> None:
    async def talk(channel: NatsChannel) -> None:
        while True:
            await channel.send(await channel.receive())

    async with a_world() as world:
        here, there = await world.nats(), await world.nats()
        async with serving(there, talk) as server:
            server.add("more")
            async with here.connect("work") as standing:
                returning = here.returning("work")
                async with returning():
                    pass
                server.refuse("work", "moving")
                server.refuse("unknown", "moving")
                for opening in (here.connect("work"), returning()):  # by its door as well
                    with pytest.raises(NatsConnectError, match="refuses a link: moving") as caught:
                        async with opening:
                            raise AssertionError
                    assert (caught.value.reason, caught.value.outcome) == ("moving", "not_sent")
                await standing.send({"n": 1})
                assert await standing.receive() == {"n": 1}
            async with here.connect("more"):
                pass
            server.remove("work")
            server.add("work")
            async with here.connect("work"):
                pass
