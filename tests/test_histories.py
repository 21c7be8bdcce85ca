"""Random histories against a plain model: no reply ever reaches a turn that it does not answer.

Each request carries a token that occurs once; the peer answers with the number and the token of a request that it has
seen, in any order, late, twice, or never. The model needs to know nothing but the tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import Session, SessionError, SessionInvalidError, SessionManager, SessionOverflowError
from psession.channels import memory_pair

from .effort import examples
from .peers import Wire, plain_pair, settle
from .tables import assert_empty, assert_idle, assert_no_timers

REST = 60.0

DEEDS = st.one_of(
    st.tuples(st.just("open")),
    st.tuples(st.just("send"), st.integers(0, 7), st.sampled_from([0.0, 1.0, 5.0, 30.0]), st.integers(0, 2)),
    st.tuples(st.just("request"), st.sampled_from([0.0, 1.0, 5.0]), st.integers(0, 2)),
    st.tuples(st.just("reply"), st.integers(0, 30)),
    st.tuples(st.just("reply"), st.integers(0, 30)),
    st.tuples(st.just("reply to last"), st.integers(0, 2)),
    st.tuples(st.just("cancel task"), st.integers(0, 7)),
    st.tuples(st.sampled_from(["cancel", "abort", "timeout", "end"]), st.integers(0, 7)),
    st.tuples(st.just("clear")),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 1.0, 4.5, 29.0])),
    st.tuples(st.just("tick")),
)


class World:
    """The history's own book: what was asked, what came of it."""

    def __init__(self, port: Any, nursery: trio.Nursery, sent: list[dict[str, Any]]) -> None:
        self.port = port
        self.nursery = nursery
        self.sent = sent
        self.sessions: list[Session] = []
        self.scopes: list[trio.CancelScope] = []
        self.asked = 0
        self.settled = 0
        self.answered: set[int] = set()

    async def ask(self, call: Any, token: int, patience: float, retries: int) -> None:
        scope = trio.CancelScope()
        self.scopes.append(scope)
        try:
            with scope:
                reply = await call({"token": token}, timeout=patience, retry_count=retries, retry_interval=1.0)
                assert reply["token"] == token, "a wrong answer"
                assert token not in self.answered
                self.answered.add(token)
        except SessionError:
            pass
        finally:
            self.settled += 1

    def start(self, call: Any, timeout: float, retries: int) -> None:
        self.asked += 1
        self.nursery.start_soon(self.ask, call, self.asked, timeout, retries)

    def reply(self, index: int) -> None:
        """The peer's answer to one message.

        Where the numbers come round, or the session goes on, it answers each but once: who answers twice answers the
        next owner, or the next turn, and no number on this wire can tell.
        """
        once = len(self.port._engine.options.own_ids) < 10 or self.sent[index]["sid"] in self.port.sessions
        message = self.sent.pop(index) if once else self.sent[index]
        self.port.dispatch(dict(message))

    async def do(self, deed: str, *values: Any) -> None:
        """One step of the history."""
        if deed == "open":
            try:
                self.sessions.append(self.port.create())
            except SessionOverflowError:
                assert self.port._engine.options.on_session_overflow in ("refuse", "wait")
        elif deed == "send" and self.sessions:
            self.start(self.sessions[values[0] % len(self.sessions)].send, *values[1:])
        elif deed == "request":
            self.start(self.port.request, *values)
        elif deed == "reply" and self.sent:
            self.reply(values[0] % len(self.sent))
        elif deed == "reply to last" and self.sent:
            self.reply(len(self.sent) - 1 - values[0] % len(self.sent))
        elif deed == "cancel task" and self.scopes:
            self.scopes[values[0] % len(self.scopes)].cancel()
        elif deed in ("cancel", "abort", "timeout", "end") and self.sessions:
            getattr(self.sessions[values[0] % len(self.sessions)], deed)()
        elif deed == "clear":
            self.port.clear()
        elif deed == "wait":
            await trio.sleep(values[0])
        elif deed == "tick":
            await settle()


def check(port: Any) -> None:
    """What is true at any time: each open session stands in the tables once, under its own number."""
    table = port._engine.connection.sessions
    assert all(session.sid == sid and not session.closed for sid, session in port.sessions.items())
    assert len(set(port.sessions.values())) == len(port.sessions)
    assert {port.sessions[sid] for sid in table.own} == {one for one in port.sessions.values() if not one.incoming}
    assert not set(port.sessions) & table.pool._resting.keys()
    assert table.pool._state.count(1) == len(table.own)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"session_ids": range(1, 3)},
        {"session_ids": range(1, 4), "on_session_overflow": "wait"},
        {"session_ids": range(1, 4), "on_session_overflow": "refuse"},
        {"session_ids": range(1, 40), "max_session_count": 2},
        {"session_ids": range(1, 4), "on_unanswered": "end"},
        {"session_ids": range(1, 4), "session_max_life": 10},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "defaults",
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@settings(max_examples=examples(100), deadline=None)
@given(history=st.lists(DEEDS, max_size=40))
def test_no_reply_reaches_a_turn_that_it_does_not_answer(
    options: dict[str, Any], is_async: bool, history: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        wire = Wire()

        async def later(message: dict[str, Any]) -> None:
            await trio.sleep(0.25)
            wire(message)

        manager = SessionManager(later if is_async else wire, session_id_rest=REST, **options)
        async with trio.open_nursery() as nursery:
            async with manager.port("p") as port:
                world = World(port, nursery, wire.sent)
                for step in history:
                    await world.do(*step)
                    check(port)
            await settle()
            assert world.settled == world.asked
        assert_empty(manager, port)
        statistics = port.statistics()
        assert statistics.matched >= len(world.answered)

    async def limited() -> None:
        with trio.fail_after(10_000):
            await main()
        assert_no_timers()

    # A reply older than a number's rest is the peer's fault: a history that waits longer does not wait at all.
    if sum(step[1] for step in history if step[0] == "wait") >= REST:
        history = [step for step in history if step[0] != "wait"]
    trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("pair", [memory_pair, plain_pair])
@settings(max_examples=examples(40), deadline=None)
@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 1.0, 2.5]),  # the peer's delay
            st.integers(0, 2),  # how often it answers
            st.sampled_from([0.5, 1.0, 2.0]),  # the caller's timeout
            st.integers(0, 2),  # its retries
            st.sampled_from([None, 0.0, 0.5, 1.0, 1.5]),  # when its caller gives up
        ),
        min_size=1,
        max_size=12,
    ),
    grouped=st.booleans(),
)
def test_a_peer_that_answers_late_twice_or_never_answers_nobody_wrongly(
    pair: Any, plan: list[tuple[float, int, float, int, float | None]], grouped: bool
) -> None:
    async def main() -> None:
        here, there = pair()
        # More numbers than turns, since on this wire a second answer may reach the number's next owner.
        manager = SessionManager(session_ids=range(1, 40), max_session_count=8, session_id_rest=20)
        outcomes: list[str] = []

        async def answer(message: dict[str, Any], delay: float, times: int) -> None:
            await trio.sleep(delay)
            for _ in range(min(times, 1) if grouped else times):  # nor may it answer twice in a session that goes on
                await there.send(message)

        async def peer(nursery: trio.Nursery) -> None:
            async for message in there:
                delay, times, *_ = plan[message["token"]]
                nursery.start_soon(answer, message, delay, times)

        async def turn(port: Any, session: Session | None, token: int) -> None:
            _, _, timeout, retries, patience = plan[token]
            call = port.request if session is None else session.send
            with trio.move_on_after(float("inf") if patience is None else patience):
                try:
                    reply = await call({"token": token}, timeout=timeout, retry_count=retries, retry_interval=0.5)
                except (SessionInvalidError, SessionError):
                    outcomes.append("error")
                else:
                    assert reply["token"] == token, "a wrong answer"
                    outcomes.append("reply")
                return
            outcomes.append("cancelled")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer, nursery)
            async with manager.port("p", here) as port:
                shared = port.create() if grouped else None
                async with trio.open_nursery() as turns:
                    for token in range(len(plan)):
                        turns.start_soon(turn, port, shared, token)
                await trio.sleep(10)
                if shared is not None:
                    shared.end()
                assert_idle(port)
            nursery.cancel_scope.cancel()
        assert len(outcomes) == len(plan)
        assert_empty(manager, port)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
