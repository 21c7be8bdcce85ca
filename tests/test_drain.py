"""Leaving gracefully: no new sessions, the peer is told, the others come to their end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, PortClosedError, SessionManager, SessionRemoteError
from psession.channels import memory_pair
from psession.protocol.asking import Asking

from .links import Work
from .peers import Caught, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from psession import Port


@asynccontextmanager
async def both_ends(work: Work) -> AsyncIterator[tuple[Port, Port]]:
    """The port of a server that does `work`, and the exact port of its client; the server's tables are empty after."""
    here, there = memory_pair()
    client, server = SessionManager(dialect=Exact()), SessionManager(on_session=work.handle)
    async with server.port("client", there) as served, client.port("server", here) as port:
        yield served, port
    assert_empty(server, served)


async def test_who_is_at_work_finishes_and_who_comes_new_is_refused_unprocessed(autojump_clock: MockClock) -> None:
    work = Work()
    async with both_ends(work) as (served, port), trio.open_nursery() as nursery:
        first, drained = Caught(), Caught()
        nursery.start_soon(first.run, port.request, {"n": 1, "sleep": 5})
        await trio.sleep(1)
        nursery.start_soon(drained.run, served.drain, 60)
        await settle()
        with pytest.raises(PortClosedError, match="the peer takes none") as refused:
            await port.request({"n": 2})
        assert refused.value.outcome == "not_sent"
        await port.wait_closed()
        assert (first.value["twice"], first.at, work.runs) == (2, 5.0, [1])
        assert (drained.value, drained.at) == (True, 5.0)


async def test_a_turn_that_met_the_closing_on_its_way_fails_at_once_as_refused(autojump_clock: MockClock) -> None:
    work = Work()
    async with both_ends(work) as (served, port), trio.open_nursery() as nursery:
        nursery.start_soon(Caught().run, port.request, {"n": 1, "sleep": 5})
        await settle()
        caught = Caught()
        nursery.start_soon(partial(served.drain, 60))
        nursery.start_soon(caught.run, port.request, {"n": 2})
        await settle()
        assert isinstance(caught.error, SessionRemoteError | PortClosedError)
        assert caught.error.outcome in ("refused", "not_sent")
        assert caught.at == 0.0
        await port.wait_closed()
        assert work.runs == [1]


class Halting(trio.abc.Channel[Any]):
    """A channel whose writing may stand still, and that breaks after some more messages."""

    def __init__(self, channel: trio.abc.Channel[Any]) -> None:
        self._channel = channel
        self.flows = trio.Event()
        self.flows.set()
        self.left = 1000

    async def send(self, message: Any) -> None:
        """Send, unless it is broken."""
        await self.flows.wait()
        if not self.left:
            raise trio.BrokenResourceError("it broke")
        self.left -= 1
        await self._channel.send(message)

    async def receive(self) -> Any:
        """Receive."""
        return await self._channel.receive()

    async def aclose(self) -> None:
        """Close."""
        await self._channel.aclose()


async def test_a_turn_that_left_after_the_closing_fails_as_refused_when_the_channel_breaks_under_it(
    autojump_clock: MockClock,
) -> None:
    """It was queued as the peer's word came, and written when the peer had hung up: the peer has not taken it."""
    work, (here, there) = Work(), memory_pair()
    halting = Halting(here)
    client, server = SessionManager(dialect=Exact()), SessionManager(on_session=work.handle)
    async with (
        server.port("client", there) as served,
        client.port("server", halting) as port,
        trio.open_nursery() as nursery,
    ):
        working, meeting, queued = Caught(), Caught(), Caught()
        nursery.start_soon(working.run, port.request, {"n": 1, "sleep": 5})
        await settle()
        halting.flows = trio.Event()
        nursery.start_soon(meeting.run, port.request, {"n": 2})
        await settle()
        nursery.start_soon(queued.run, port.request, {"n": 3})
        await settle()
        nursery.start_soon(served.drain, 60)
        await settle()
        halting.left = 1
        halting.flows.set()
        await settle()
        assert [caught.error.outcome for caught in (working, meeting, queued)] == ["sent", "refused", "refused"]  # type: ignore[union-attr]
        assert work.runs == [1]


async def test_what_takes_too_long_is_cut_off(autojump_clock: MockClock) -> None:
    work = Work()
    async with both_ends(work) as (served, port), trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {"n": 1, "sleep": 50})
        await trio.sleep(1)
        assert await served.drain(3) is False
        assert trio.current_time() == 4.0
        await settle()
        assert caught.at == 4.0
        assert caught.error is not None


@pytest.mark.parametrize("how", ["create", "session", "request"])
async def test_this_side_opens_no_session_while_it_drains(how: str, autojump_clock: MockClock) -> None:
    async def never(message: Any) -> None:
        await trio.sleep_forever()

    async with SessionManager(never, grace=0).port("p") as port, trio.open_nursery() as nursery:
        session = port.create()
        nursery.start_soon(port.drain)
        await settle()

        async def opening() -> None:
            if how == "create":
                port.create()
            elif how == "session":
                await port.session().__aenter__()
            else:
                await port.request({})

        with pytest.raises(PortClosedError, match="being drained"):
            await opening()
        session.end()
        await settle()
        assert port.closed


async def test_a_classic_peer_is_not_told_and_its_new_sessions_are_not_taken(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    async with SessionManager(on_session=Work().handle).port("p", there) as port, trio.open_nursery() as nursery:
        await here.send({"n": 1, "sleep": 5, "sid": 1})
        await settle()
        drained = Caught()
        nursery.start_soon(drained.run, port.drain, 10)
        await settle()
        await here.send({"n": 2, "sid": 2})
        assert (await here.receive())["twice"] == 2
        await trio.sleep(10)
        assert (drained.value, drained.at) == (
            False,
            10.0,
        )  # its handler waits for more: nothing ends a classic dialogue
        assert port.statistics().closing == 1


async def test_a_manager_drains_all_its_ports_at_once(autojump_clock: MockClock) -> None:
    work = Work()
    client, server = SessionManager(dialect=Exact()), SessionManager(on_session=work.handle)
    ends = [memory_pair() for _ in range(3)]
    async with trio.open_nursery() as nursery:

        async def serve(number: int) -> None:
            async with server.port(f"client {number}", ends[number][1]) as port:
                await port.wait_closed()

        async def ask(number: int) -> None:
            async with client.port(f"server {number}", ends[number][0]) as port:
                assert (await port.request({"n": number, "sleep": 5 + number}))["twice"] == 2 * number

        for number in range(3):
            nursery.start_soon(serve, number)
            nursery.start_soon(ask, number)
        await trio.sleep(1)
        assert await server.drain(60) is True
        assert trio.current_time() == 7.0
    assert_empty(server)


async def test_cancelling_a_drain_closes_the_port_at_once(autojump_clock: MockClock) -> None:
    async with SessionManager(lambda message: None).port("p") as port:
        port.create()
        with trio.move_on_after(2):
            await port.drain()
        assert port.closed
        assert trio.current_time() == 2.0


async def test_a_closing_notice_that_comes_again_and_again_is_no_more_work(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = memory_pair()
    looks: list[int] = []
    real = Asking.refuse_openings
    monkeypatch.setattr(Asking, "refuse_openings", lambda self, last: (looks.append(last), real(self, last))[1])
    async with SessionManager(dialect=Exact()).port("server", here) as port, trio.open_nursery() as nursery:
        asked = [Caught() for _ in range(4)]
        for caught in asked:
            nursery.start_soon(caught.run, partial(port.request, {"n": 1}, timeout=9))
        await settle()
        for last in (3, 3, 4, 3, 2, 2, 3):
            await there.send({"_end": True, "_turn": last, "_life": 7})
            await settle()
        assert looks == [3, 2]
        refused = [type(caught.error) for caught in asked]
        assert refused.count(SessionRemoteError) == 2, "the turns 3 and 4"
        nursery.cancel_scope.cancel()
