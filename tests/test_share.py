"""One channel, many writers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import MalformedMessageError, SessionManager, share
from psession.channels import lines, memory_pair

from .peers import plain_pair, settle

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_ports_on_one_bus_each_get_their_own_replies() -> None:
    here, there = memory_pair()
    manager = SessionManager()

    async def devices() -> None:
        async for message in there:
            await there.send({"from": message["to"], "sid": message["sid"], "n": message["n"]})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(devices)
        async with share(here) as bus:
            nursery.start_soon(partial(manager.listen, bus, port_of=lambda message: message.get("from")))

            async def ask(name: str) -> None:
                async with manager.port(name, lambda message: bus.send({**message, "to": name})) as port:
                    for n in range(20):
                        reply = await port.request({"n": n})
                        assert (reply["from"], reply["n"]) == (name, n)

            async with trio.open_nursery() as ports:
                for name in "abcdefgh":
                    ports.start_soon(ask, name)
    assert not manager.ports


async def test_a_cancelled_send_cuts_nothing_on_a_stream() -> None:
    left, right = trio.testing.lockstep_stream_pair()
    got: list[Any] = []

    async def read() -> None:
        got.extend([message["n"] async for message in lines(right)])

    async def hasty(bus: Any, n: int) -> None:
        with trio.move_on_after(0) as scope:
            await bus.send({"n": n, "text": "x" * 1000})
        sent[n] = not scope.cancelled_caught

    sent: dict[int, bool] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with share(lines(left), max_queued_bytes=3000) as bus:
            async with trio.open_nursery() as senders:
                for n in range(50):
                    senders.start_soon(hasty, bus, n)
            await bus.send({"n": "last"})
    assert got[-1] == "last"
    assert set(got[:-1]) == {n for n, went in sent.items() if went}


async def test_leaving_flushes_what_was_accepted_and_then_refuses() -> None:
    here, there = plain_pair()
    async with share(here) as bus:
        for n in range(3):
            await bus.send({"n": n})
    assert [(await there.receive())["n"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(trio.EndOfChannel):
        await there.receive()
    with pytest.raises(trio.ClosedResourceError):
        await bus.send({})


async def test_leaving_is_bounded_where_nobody_reads(autojump_clock: MockClock) -> None:
    here, _there = plain_pair(0)
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block under test is share's own
        async with share(here, grace=3) as bus:
            await bus.send({})
            await settle()
            raise KeyError("mine")
    assert trio.current_time() == 3.0


async def test_each_sender_is_told_that_the_channel_broke() -> None:
    here, there = plain_pair(0)
    async with share(here) as bus:
        await there.aclose()
        await bus.send({})
        await settle()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="the shared channel broke"):
                await bus.send({})


async def test_what_cannot_be_encoded_is_its_senders_error_alone() -> None:
    left, right = trio.testing.memory_stream_pair()
    async with share(lines(left)) as bus:
        with pytest.raises(MalformedMessageError):
            await bus.send({"n": float("nan")})
        await bus.send({"n": 1})
        assert await lines(right).receive() == {"n": 1}


@pytest.mark.parametrize("options", [{"grace": -1}, {"max_queued_bytes": 0}])
async def test_a_bound_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        async with share(memory_pair()[0], **options):
            pass
