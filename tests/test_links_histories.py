"""Random histories of two exact ports whose link breaks, is away, comes back or is drained, against a plain model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import Exact, Port, PortClosedError, SessionError

from .effort import examples
from .links import Network, Work, client
from .peers import settle
from .tables import assert_empty

SIDE = st.integers(0, 1)
SECONDS = st.sampled_from([0.0, 1.0, 4.0])
DEEDS = st.one_of(
    st.tuples(st.just("request"), SIDE, SECONDS, st.integers(0, 2)),
    st.tuples(st.just("open"), SIDE),
    st.tuples(st.just("send"), SIDE, st.integers(0, 3), SECONDS, st.integers(0, 2)),
    st.tuples(st.just("cancel"), st.integers(0, 7)),
    st.tuples(st.just("end"), SIDE, st.integers(0, 3)),
    st.tuples(st.sampled_from(["cut", "cut", "down", "up"])),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, 7.0])),
    st.tuples(st.just("drain"), SIDE),
)


class World:
    """A client and a server that both ask, and the history's own book: who was told what of which work."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.works = (Work(), Work())
        self.network = Network(nursery, self.works[1], resume_within=30, dialect=Exact())
        self.port: Port | None = None
        self.sessions: tuple[list[Any], list[Any]] = ([], [])
        self.scopes: list[trio.CancelScope] = []
        self.drained = [False, False]
        self.asked = self.settled = 0

    def end_of(self, side: int) -> Port | None:
        """The port of that side; the server's is there once the client was heard, and while it lives."""
        if side == 0:
            return self.port
        ports = self.network.ports
        return ports[-1] if ports and not ports[-1].closed else None

    async def ask(self, side: int, call: Any, sleep: float, retries: int) -> None:
        self.asked += 1
        number, runs = self.asked, self.works[1 - side].runs
        scope = trio.CancelScope()
        self.scopes.append(scope)
        try:
            with scope:
                reply = await call({"n": number, "sleep": sleep}, timeout=3, retry_count=retries, retry_interval=0.5)
                assert reply["twice"] == 2 * number, "a wrong answer"
                assert runs.count(number) == 1
        except SessionError as error:
            if error.outcome in ("not_sent", "refused"):
                assert number not in runs, "an untrue outcome"
        finally:
            self.settled += 1

    async def drain(self, side: int, port: Port) -> None:
        """Let what is under way come to its end; a dialogue that the other side keeps open is cut off in the end."""
        if not self.drained[side]:
            self.drained[side] = True
            is_clean = await port.drain(20)
            assert port.closed
            assert not is_clean or not port.sessions

    async def do(self, deed: str, *values: Any) -> None:
        """One step, after which everybody reacts."""
        if deed == "cut":
            await self.network.cut()
        elif deed == "down":
            self.network.up = False
            await self.network.cut()
        elif deed == "up":
            self.network.up = True
        elif deed == "wait":
            await trio.sleep(values[0])
        elif deed == "cancel":
            if self.scopes:
                self.scopes[values[0] % len(self.scopes)].cancel()
        elif (port := self.end_of(values[0])) is not None and not port.closed:
            side = values[0]
            open_here = [session for session in self.sessions[side] if not session.closed]
            if deed == "request":
                self.nursery.start_soon(self.ask, side, port.request, *values[1:])
            elif deed == "open":
                with suppress(PortClosedError):  # one of the two is being drained
                    self.sessions[side].append(port.create())
            elif deed == "drain":
                for session in open_here:
                    session.end()
                self.nursery.start_soon(self.drain, side, port)
            elif open_here:
                session = open_here[values[1] % len(open_here)]
                if deed == "send":
                    self.nursery.start_soon(self.ask, side, session.send, *values[2:])
                else:
                    session.end()
        await settle()
        for work in self.works:
            assert len(work.runs) == len(set(work.runs)), "run twice"


@settings(max_examples=examples(150), deadline=None)
@given(history=st.lists(DEEDS, max_size=40))
def test_over_links_that_break_each_turn_is_run_once_and_answered_rightly_or_fails_truthfully(
    history: list[tuple[Any, ...]],
) -> None:
    async def main() -> None:
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                world = World(nursery)
                async with client(
                    world.network, on_session=world.works[0].handle, session_ids=range(1, 60_000)
                ) as port:
                    world.port = port
                    await settle()
                    for step in history:
                        await world.do(*step)
                    world.network.up = True
                    await trio.sleep(100)
                assert world.settled == world.asked
        assert_empty(world.network.server, *world.network.ports)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
