"""A terrible network: each turn is answered rightly or fails with a truthful outcome, and none is run twice.

``PSESSION_TERRIBLE=200x500`` makes it 200 seeds of 500 turns instead of the suite's few; ``nox -s thorough`` has many.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Exact, Relay, Session, SessionError, SessionManager, SessionRefusedError, SessionRemoteError
from psession.channels import lines, memory_pair
from psession.testing import lossy

from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from psession import Port, TurnOptions

SEEDS, TURNS = map(int, os.environ.get("PSESSION_TERRIBLE", "7x200").split("x"))
WORKERS = 8
KINDS = ("echo", "slow", "asks back", "refuses", "crashes", "request", "cancelled", "posts")

NETWORKS = {
    "the whole lot": {"drop": 0.2, "duplicate": 0.2, "reorder": 0.2, "delay": (0.0, 2.0)},
    "loses half": {"drop": 0.5, "duplicate": 0.1, "delay": (0.0, 0.1)},
    "repeats all": {"duplicate": 1.0, "reorder": 0.5, "delay": (0.0, 5.0)},
    "late": {"delay": (0.5, 4.0), "reorder": 0.5},
}


class Book:
    """What was asked, what was run, and what came of it."""

    def __init__(self, pace: float = 1.0, form: str = "on_session") -> None:
        self.pace = pace
        self.form = form
        self.kinds = [kind for kind in KINDS if form == "on_session" or kind != "asks back"]
        self.runs: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.outcomes: dict[int, str] = {}
        self.wrong: list[Any] = []

    async def handle(self, session: Session) -> None:
        """The other side: each turn has a token that occurs once."""
        async for message in session:
            token, kind = message["token"], message["kind"]
            if "post" in message:
                continue
            self.runs[token] += 1
            if kind == "slow":
                await trio.sleep(message["work"] * self.pace)
            elif kind == "asks back":
                reply = await session.send({"question": token}, retry_count=30)
                self.expect(reply.get("answer"), token, "nested")
                if "token" not in reply:
                    continue
                self.runs[reply["token"]] += 1
                token = reply["token"]
            elif kind == "refuses":
                self.runs[token] -= 1  # it says that nothing was done
                self.refused[token] += 1
                raise SessionRefusedError("on purpose", code="busy")
            elif kind == "crashes":
                raise KeyError(token)
            await session.post({"token": token, "kind": kind})

    def answers(self) -> dict[str, Any]:
        """What makes a port the other side, in the form that is tried."""
        if self.form == "on_session":
            return {"on_session": self.handle}
        return {"on_request": self.answer if self.form == "plain on_request" else self.answer_later}

    def answer(self, message: Any) -> Any:
        """The same, one question at a time."""
        token, kind = message["token"], message["kind"]
        if "post" in message:
            return None
        self.runs[token] += 1
        if kind == "refuses":
            self.runs[token] -= 1
            self.refused[token] += 1
            raise SessionRefusedError("on purpose", code="busy")
        if kind == "crashes":
            raise KeyError(token)
        return {"token": token, "kind": kind}

    async def answer_later(self, message: Any) -> Any:
        """The same in a task."""
        reply = self.answer(message)
        if message["kind"] == "slow":
            await trio.sleep(message["work"] * self.pace)
        return reply

    def expect(self, got: Any, token: Any, what: str) -> None:
        if got != token:
            self.wrong.append((what, token, got))

    async def ask(self, port: Port, session: Session, token: int, kind: str, dice: random.Random) -> None:
        """One turn, or two where the other side asks back."""
        message = {"token": token, "kind": kind, "work": dice.random() * 3}
        patience = dice.random() * 2 * self.pace if kind == "cancelled" else float("inf")
        outcome = "cancelled"
        try:
            with trio.move_on_after(patience):
                if kind == "posts":
                    await session.post({**message, "post": True})
                    outcome = "answered"
                    self.runs[token] += 1
                    return
                reply = await (port.request if kind == "request" else session.send)(message)
                if kind == "asks back":
                    self.expect(reply.get("question"), token, "question")
                    token += 1_000_000
                    reply = await session.send({"token": token, "kind": kind, "answer": reply["question"]})
                self.expect(reply.get("token"), token, "answer")
                outcome = "answered"
        except SessionError as error:
            outcome = error.outcome or "over"
            if isinstance(error, SessionRemoteError):
                self.expect(outcome, "refused" if error.code.startswith("refused") else "sent", "outcome")
        finally:
            self.outcomes[token] = outcome

    async def drive(self, port: Port, first: int, turns: int, seed: int) -> None:
        """Some workers, each with a session of its own, share the turns."""
        tokens = iter(range(first, first + turns))

        async def work(number: int) -> None:
            dice = random.Random(f"{seed} {first} {number}")
            session = port.create()
            for token in tokens:
                if session.closed or dice.random() < 0.1:
                    session.end()
                    session = port.create()
                await self.ask(port, session, token, dice.choice(self.kinds), dice)
            session.end()

        async with trio.open_nursery() as nursery:
            for number in range(WORKERS):
                nursery.start_soon(work, number)

    def check(self, turns: int) -> None:
        """Exactly once, or truthfully less."""
        assert self.wrong == []
        assert {token: times for token, times in (self.runs + self.refused).items() if times > 1} == {}
        assert len([token for token in self.outcomes if token % 1_000_000 < turns]) >= turns
        for token, outcome in self.outcomes.items():
            if outcome == "answered":
                assert self.runs[token] == 1, token
            elif outcome in ("not_sent", "refused"):
                assert self.runs[token] == 0, token


def options(seed: int, ids: range) -> dict[str, Any]:
    return {
        "dialect": Exact(),
        "session_timeout": 1,
        "retry_count": seed % 3 * 15,
        "retry_interval": 0.2,
        "session_ids": ids,
        "session_id_rest": 5,
        "session_max_life": 60,
        "max_answer_bytes": 4 * 1024 * 1024 if seed % 2 else 2000,
        "max_incoming_sessions": 4096 if seed % 4 else 5,
    }


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["on_session", "async on_request", "plain on_request"])
def test_on_a_terrible_network_each_turn_is_answered_rightly_or_fails_truthfully_and_none_is_run_twice(
    form: str, network: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "psession")
    is_main = network == "the whole lot" and form == "on_session"
    seeds = range(SEEDS if SEEDS > 20 or is_main else 3)
    answered = 0
    for seed in seeds:
        book = Book(form=form)

        async def main(seed: int = seed, book: Book = book) -> None:
            here, there = memory_pair()
            left = SessionManager(**book.answers(), **options(seed, range(1, 60, 2)))
            right = SessionManager(**book.answers(), **options(seed + 1, range(2, 60, 2)))
            async with (
                lossy(here, seed=seed, **NETWORKS[network]) as line,  # type: ignore[arg-type]
                left.port("right", line) as one,
                right.port("left", there) as other,
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(book.drive, one, 0, TURNS // 2, seed)
                    nursery.start_soon(book.drive, other, TURNS // 2, TURNS - TURNS // 2, seed)
                await trio.sleep(1000)
                for port in (one, other):
                    assert_idle(port)
            assert_empty(left, one)
            assert_empty(right, other)

        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
            book.check(TURNS)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        answered += Counter(book.outcomes.values())["answered"]
    assert answered > len(seeds) * TURNS * 0.2


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["on_session", "async on_request"])
def test_what_is_passed_on_over_two_terrible_networks_is_answered_rightly_or_fails_truthfully(
    form: str, network: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "psession")
    seeds, turns = (range(SEEDS), TURNS) if SEEDS > 20 else (range(1), TURNS // 2)
    answered = 0
    for seed in seeds:
        book = Book(form=form)

        async def main(seed: int = seed, book: Book = book) -> None:
            user_end, gateway_end = memory_pair()
            onward_end, device_end = memory_pair()
            user, gateway, device = (
                SessionManager(**options(seed, range(1, 60))),
                SessionManager(**options(seed + 1, range(1, 60))),
                SessionManager(**book.answers(), **options(seed + 2, range(100, 160))),
            )
            spoilt: dict[str, Any] = NETWORKS[network]
            retries: TurnOptions = {"timeout": 1, "retry_count": 20, "retry_interval": 0.1} if seed % 3 else {}
            async with (
                lossy(user_end, seed=seed, **spoilt) as near,
                lossy(onward_end, seed=seed + 1, **spoilt) as far,
                device.port("gateway", device_end),
                gateway.port("device", far) as onward,
            ):
                relay = Relay(onward, **retries)
                by_request = {} if form == "on_session" else {"on_request": relay.request}
                async with (
                    gateway.port("user", gateway_end, on_session=relay.session, **by_request) as towards_user,
                    user.port("gateway", near) as port,
                ):
                    await book.drive(port, 0, turns, seed)
                    await trio.sleep(1000)
                    for one in (port, towards_user, onward):
                        assert_idle(one)
            for manager in (user, gateway, device):
                assert_empty(manager)

        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
            book.check(turns)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        answered += Counter(book.outcomes.values())["answered"]
    assert answered > len(seeds) * turns * 0.1


async def test_over_tcp_through_a_slow_proxy_no_turn_is_run_twice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "psession")
    book, dice = Book(pace=0.05), random.Random(1)
    turns = 200

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await trio.sleep(dice.random() * 0.03)
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def proxy(client: trio.SocketStream) -> None:
        upstream = await trio.open_tcp_stream("127.0.0.1", servers[0].socket.getsockname()[1])
        async with upstream, trio.open_nursery() as both:
            both.start_soon(pump, client, upstream)
            both.start_soon(pump, upstream, client)

    async def serve(stream: trio.SocketStream) -> None:
        async with server.port("client", lines(stream)) as port:
            await port.wait_closed()

    quick = {"session_timeout": 0.01, "retry_count": 300, "retry_interval": 0.0, "session_id_rest": 1.0}
    server = SessionManager(on_session=book.handle, **{**options(3, range(2, 600, 2)), **quick})
    client = SessionManager(**{**options(3, range(1, 600, 2)), **quick})
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            servers = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            proxies = await nursery.start(partial(trio.serve_tcp, proxy, 0, host="127.0.0.1"))
            stream = await trio.open_tcp_stream("127.0.0.1", proxies[0].socket.getsockname()[1])
            async with client.port("server", lines(stream)) as port:
                await book.drive(port, 0, turns, 1)
            nursery.cancel_scope.cancel()
    book.check(turns)
    assert Counter(book.outcomes.values())["answered"] > turns / 2
