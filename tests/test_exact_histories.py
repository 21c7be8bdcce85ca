"""Random histories of two exact ports and the network between them, against a plain model: each token is run at most
once, an answer is its own question's, and who is told that nothing was done is told the truth.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import Exact, Port, Session, SessionError, SessionManager, SessionRefusedError

from .effort import examples
from .peers import Wire, settle
from .tables import assert_empty, assert_no_timers

SIDE = st.integers(0, 1)
DEEDS = st.one_of(
    st.tuples(st.just("open"), SIDE),
    st.tuples(st.just("send"), SIDE, st.integers(0, 3), st.sampled_from([1.0, 5.0]), st.integers(0, 2)),
    st.tuples(st.just("request"), SIDE, st.sampled_from([1.0, 5.0]), st.integers(0, 2)),
    st.tuples(st.just("post"), SIDE, st.integers(0, 3)),
    st.tuples(
        st.sampled_from(["deliver", "deliver", "deliver first", "copy", "copy", "lose"]), SIDE, st.integers(0, 9)
    ),
    st.tuples(st.just("deliver all"), SIDE),
    st.tuples(st.sampled_from(["reply", "reply", "ask back", "refuse", "leave"]), st.integers(0, 5)),
    st.tuples(st.just("cancel task"), st.integers(0, 7)),
    st.tuples(st.sampled_from(["cancel", "abort", "timeout", "end"]), SIDE, st.integers(0, 3)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 4.5])),
)


class World:
    """Two ports, what is on its way between them, and the history's own book."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.wires = (Wire(), Wire())
        self.ports: list[Port] = []
        self.sessions: tuple[list[Session], list[Session]] = ([], [])
        self.scopes: list[trio.CancelScope] = []
        self.handlers: list[trio.MemorySendChannel[str]] = []
        self.runs: Counter[int] = Counter()
        self.asked = self.settled = 0

    async def handle(self, session: Session) -> None:
        """Runs what comes; the history says what it does with it."""
        into, orders = trio.open_memory_channel[str](0)
        async for message in session:
            if "token" not in message:
                continue
            self.runs[message["token"]] += 1
            self.handlers.append(into)
            try:
                order = await orders.receive()
            finally:
                self.handlers.remove(into)
            if order == "refuse":
                self.runs[message["token"]] -= 1
                raise SessionRefusedError
            if order == "leave":
                return
            if order == "ask back":
                try:
                    reply = await session.send({"question": message["token"]}, timeout=2, retry_count=1)
                except SessionError:
                    return
                assert reply.get("to", message["token"]) == message["token"], "a wrong answer to a question back"
                continue
            await session.post({"answer": message["token"]})

    async def ask(self, call: Any, token: int, patience: float, retries: int) -> None:
        scope = trio.CancelScope()
        self.scopes.append(scope)
        try:
            with scope:
                reply = await call({"token": token}, timeout=patience, retry_count=retries, retry_interval=0.5)
                if "question" in reply:
                    assert reply["question"] == token, "a wrong question"
                else:
                    assert reply["answer"] == token, "a wrong answer"
                assert self.runs[token] == 1
        except SessionError as error:
            if error.outcome in ("not_sent", "refused"):
                assert self.runs[token] == 0, "an untrue outcome"
        finally:
            self.settled += 1

    def start(self, call: Any, *values: Any) -> None:
        self.asked += 1
        self.nursery.start_soon(self.ask, call, self.asked, *values)

    def move(self, side: int, index: int, *, stays: bool = False, lost: bool = False) -> None:
        """One message that `side` sent arrives, or is lost."""
        sent = self.wires[side].sent
        if sent:
            index %= len(sent)
            message = dict(sent[index]) if stays else sent.pop(index)
            if not lost:
                self.ports[1 - side].dispatch(message)

    async def do(self, deed: str, *values: Any) -> None:
        """One step of the history, after which everybody reacts."""
        if deed in ("deliver", "deliver first", "copy", "lose"):
            self.move(values[0], 0 if deed == "deliver first" else values[1], stays=deed == "copy", lost=deed == "lose")
        elif deed == "deliver all":
            while self.wires[values[0]].sent:
                self.move(values[0], 0)
        elif deed in ("reply", "ask back", "refuse", "leave"):
            if self.handlers:
                self.handlers[values[0] % len(self.handlers)].send_nowait(deed)
        elif deed == "cancel task":
            if self.scopes:
                self.scopes[values[0] % len(self.scopes)].cancel()
        elif deed == "wait":
            await trio.sleep(values[0])
        elif deed == "open":
            self.sessions[values[0]].append(self.ports[values[0]].create())
        elif deed == "request":
            self.start(self.ports[values[0]].request, *values[1:])
        elif self.sessions[values[0]]:
            session = self.sessions[values[0]][values[1] % len(self.sessions[values[0]])]
            if deed == "send":
                self.start(session.send, *values[2:])
            elif deed == "post":
                if not session.closed:
                    await session.post({"posted": True})
            else:
                getattr(session, deed)()
        await settle()

    def check(self) -> None:
        """What is true at any time."""
        assert max(self.runs.values(), default=0) <= 1, "run twice"
        for port in self.ports:
            assert all(session.sid == sid and not session.closed for sid, session in port.sessions.items())
            connection = port._engine.connection
            open_keys = {one.key for one in connection.sessions.all()}
            running = {key for key, held in connection._shared.turns._held.items() if held.running}
            assert running <= open_keys, "a turn that runs in no session"


@pytest.mark.parametrize("numbers", [1, 2, 50])
@pytest.mark.parametrize("kept", [4 * 1024 * 1024, 1], ids=["answers kept", "answers forgotten"])
@settings(max_examples=examples(150), deadline=None)
@given(history=st.lists(DEEDS, max_size=50))
def test_each_turn_is_run_once_and_answered_rightly_or_fails_truthfully(
    numbers: int, kept: int, history: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            managers = [
                SessionManager(
                    world.wires[side],
                    dialect=Exact(),
                    on_session=world.handle,
                    session_ids=range(1 + 100 * side, 1 + 100 * side + numbers),
                    max_answer_bytes=kept,
                    max_incoming_sessions=2,
                    session_id_rest=3,
                    strict=True,
                )
                for side in (0, 1)
            ]
            async with managers[0].port("other") as one, managers[1].port("one") as other:
                world.ports += [one, other]
                for step in history:
                    await world.do(*step)
                    world.check()
            await settle()
            world.check()
            assert world.settled == world.asked
        assert_empty(managers[0], one)
        assert_empty(managers[1], other)

    async def limited() -> None:
        with trio.fail_after(10_000):
            await main()
        assert_no_timers()

    trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))
