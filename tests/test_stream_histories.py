"""Random histories of streams and the network between, against a plain model: each is run once, and what comes is what
was posted, in order; the end is told of where the handler ended, and nowhere else.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from psession import Exact, Port, Replies, Session, SessionError, SessionManager

from .effort import examples
from .peers import Wire, settle
from .tables import assert_empty, assert_no_timers

MOVES = ["deliver", "deliver", "lose"]
ORDERS = ["post", *["post three"] * 4, "finish", "finish with", "return", "raise", "receive", "ask back"]
TAKERS = [*["take"] * 12, "leave", "cancel", "end"]
SEEDS = range(examples(150))


def deed(dice: random.Random) -> tuple[Any, ...]:
    """One step of a history."""
    kind = dice.choice(["stream", *["move"] * 8, "copy", "water", "water", *["order"] * 3, *["taker"] * 6, "wait"])
    if kind == "stream":
        credit, count = dice.randint(1, 4), dice.choice([None, None, 1, 3])
        return "stream", dice.randint(0, 5), credit, count, dice.randint(0, 3)
    if kind == "move":
        return dice.choice(MOVES), dice.randint(0, 1), dice.randint(0, 9)
    if kind == "copy":
        return "copy", dice.randint(0, 30)
    if kind == "water":
        return (dice.choice(["dam", "flow"]),)
    if kind == "wait":
        return "wait", dice.choice([0.5, 1.0, 3.0])
    return dice.choice(ORDERS if kind == "order" else TAKERS), dice.randint(0, 5)


class World:
    """An asker, an answerer, what is on its way between them, and the history's own book."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.wires = (Wire(), Wire())
        self.flows = True
        self.arrived: deque[tuple[int, Any]] = deque(maxlen=30)
        self.ports: list[Port] = []
        self.sessions: list[Session] = []
        self.orders: list[trio.MemorySendChannel[str]] = []
        self.takers: list[tuple[Session | None, trio.CancelScope, trio.MemorySendChannel[str]]] = []
        self.runs: Counter[int] = Counter()
        self.posted: Counter[int] = Counter()
        self.ended: set[int] = set()
        self.begun = self.over = self.untrue = 0

    async def handle(self, session: Session) -> None:
        """Runs what comes; the history says what it does next."""
        into, orders = trio.open_memory_channel[str](0)
        async for message in session:
            token = message.get("token")
            if token is None:
                continue
            self.runs[token] += 1
            self.orders.append(into)
            try:
                await self.obey(session, token, orders)
            finally:
                self.orders.remove(into)
            if token not in self.ended:
                return

    async def obey(self, session: Session, token: int, orders: trio.MemoryReceiveChannel[str]) -> None:
        async for order in orders:
            if order in ("post", "finish with"):
                self.ended.update([token] if order == "finish with" else [])
                await (session.post if order == "post" else session.finish)(self.next(token))
                if order == "post":
                    continue
                return
            if order == "post three":
                for _ in range(3):
                    await session.post(self.next(token))
                continue
            if order == "ask back":
                with suppress(SessionError):
                    async with session.stream({"back": token}, timeout=1, credit=1, retry_count=2) as replies:
                        got = [reply["number"] async for reply in replies]
                        assert got == list(range(1, 1 + len(got)))
                continue
            if order == "raise":
                raise SessionError("as the history says")
            if order == "finish":
                self.ended.add(token)
                await session.finish()
            elif order in ("receive", "return"):
                self.ended.add(token)  # the stream's end is sent by what comes next
            return

    def next(self, token: int) -> dict[str, int]:
        """The next reply, counted before it is sent: what is cancelled as it is sent may have been sent."""
        self.posted[token] += 1
        return {"token": token, "number": self.posted[token]}

    async def ask(self, streams: Any, session: Session | None, token: int, **options: Any) -> None:
        into, orders = trio.open_memory_channel[str](0)
        got: list[int] = []
        with trio.CancelScope() as scope:
            taker = (session, scope, into)
            self.takers.append(taker)
            try:
                async with streams({"token": token}, retry_interval=0, **options) as replies:
                    async for order in orders:
                        if order == "leave":
                            break
                        if await self.take(replies, token, got):
                            break
                        assert got == list(range(1, len(got) + 1))
            except SessionError as error:
                self.untrue += error.outcome in ("not_sent", "refused") and self.runs[token] > 0
            finally:
                self.takers.remove(taker)
                self.over += 1

    async def take(self, replies: Replies, token: int, got: list[int]) -> bool:
        """One reply, and whether it was the end."""
        try:
            reply = await replies.receive()
        except trio.EndOfChannel:
            enough = len(got) == replies._plan.count
            assert enough or (token in self.ended and len(got) == self.posted[token]), "an end that was none"
            return True
        assert reply["token"] == token, "another's reply"
        got.append(reply["number"])
        return False

    def move(self, side: int, index: int, *, lost: bool = False) -> None:
        """One message that `side` sent arrives, or is lost."""
        sent = self.wires[side].sent
        if sent:
            message = sent.pop(index % len(sent))
            if not lost:
                self.arrived.append((side, message))
                self.ports[1 - side].dispatch(dict(message))

    async def flow(self) -> None:
        """Where nothing is dammed up all that is sent arrives, in order."""
        await settle()
        while self.flows and any(wire.sent for wire in self.wires):
            for side in (0, 1):
                for _ in range(len(self.wires[side].sent)):
                    self.move(side, 0)
            await settle()

    async def do(self, what: str, *values: Any) -> None:
        """One step of the history, after which everybody reacts."""
        if what == "stream":
            which, credit, count, retries = values
            session = None if which > 2 else self.sessions[which]
            if session is not None and session.closed:
                session = self.sessions[which] = self.ports[0].create()
            self.begun += 1
            call = self.ports[0].stream if session is None else session.stream
            options = {"credit": credit, "count": count, "timeout": 1.0, "retry_count": retries}
            self.nursery.start_soon(lambda token: self.ask(call, session, token, **options), self.begun)
        elif what in MOVES:
            self.move(*values, lost=what == "lose")
        elif what == "copy":
            if self.arrived:
                side, message = self.arrived[values[0] % len(self.arrived)]
                self.ports[1 - side].dispatch(dict(message))
        elif what in ("dam", "flow"):
            self.flows = what == "flow"
        elif what == "wait":
            await trio.sleep(values[0])
        elif what in ORDERS:
            if self.orders:
                with suppress(trio.WouldBlock):
                    self.orders[values[0] % len(self.orders)].send_nowait(what)
        elif self.takers:
            session, scope, into = self.takers[values[0] % len(self.takers)]
            if what == "cancel":
                scope.cancel()
            elif what == "end":
                if session is not None:
                    session.end()
            else:
                with suppress(trio.WouldBlock):
                    into.send_nowait(what)
        await self.flow()

    def check(self) -> None:
        """What is true at any time."""
        assert max(self.runs.values(), default=0) <= 1, "run twice"
        assert self.untrue == 0, "an untrue outcome"
        for port in self.ports:
            taken = port._engine.connection._shared.turns
            open_keys = {one.key for one in port._engine.connection.sessions.all()}
            held = list(taken._held.values())
            assert {one.key for one in held if one.running} <= open_keys, "a turn that runs in no session"
            assert all(one.running or one.size for one in held if one.stream is not None)
            assert taken.stored_bytes == sum(one.size for one in held)


def tell(dice: random.Random, kept: int) -> None:
    """One history, from both ports' opening until they are empty."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            options: dict[str, Any] = {"dialect": Exact(), "session_id_rest": 3, "max_answer_bytes": kept}
            asker = SessionManager(world.wires[0], session_ids=range(1, 9), **options)
            answerer = SessionManager(world.wires[1], on_session=world.handle, session_ids=range(101, 109), **options)
            async with asker.port("answerer") as one, answerer.port("asker") as other:
                world.ports += [one, other]
                world.sessions += [one.create() for _ in range(3)]
                for _ in range(100):
                    await world.do(*deed(dice))
                    world.check()
            await settle()
            world.check()
            nursery.cancel_scope.cancel()
        assert world.over == world.begun
        assert_empty(asker, one)
        assert_empty(answerer, other)

    async def limited() -> None:
        with trio.fail_after(10_000):
            await main()
        assert_no_timers()

    trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("kept", [4 * 1024 * 1024, 1000, 1], ids=["all kept", "three kept", "none kept"])
def test_what_comes_of_a_stream_is_what_was_posted_whatever_happens(
    kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "psession")
    for seed in SEEDS:
        try:
            tell(random.Random(seed), kept)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
