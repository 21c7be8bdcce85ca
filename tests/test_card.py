"""The real port against the card written literally (tests/card.py): the same deeds, outcomes and moments.

Each history runs twice on virtual time, once over each port, with the same scripted peer at the far end of a memory
pair. For every send the outcome (the reply, the class of the error, or that its caller cancelled it) and the exact
moment must be the same; so must every question that the peer sees, with its moment, and which sends shared a number.

What the real port adds on purpose, and what the comparison does about it:

* Its errors carry a text, data and a cause: classes alone are compared. What is asked of a port that was left raises
  `PortClosedError`, of a session that is over `SessionInvalidError`: the card raises the same.
* What comes while no question is out is kept for `Session.receive`; the card drops it. Nothing here receives.
* A number rests for ``session_id_rest``, an idle session ends after ``session_max_life``, and the oldest is recycled
  when there are no more numbers. The histories are shorter and smaller than that.
* Leaving flushes, for up to ``grace`` seconds. This peer takes all that is sent, so that leaving takes no time.
* One writer joins what is queued, and no retry is queued behind a first copy that was not written yet. This peer leaves
  nothing queued.

What the card does not say, and the histories therefore do not ask:

* In which order two sessions ask at one moment: questions are compared as a sorted list, the peer has a script for each
  send (it answers the n-th question that it sees of it), and of numbers it is compared who shares them.
* Which is first, where a caller calls ``scope.cancel()`` or ``send`` at the moment at which something comes: these two
  happen after it here. ``cancel()``, ``abort()``, ``end()`` and leaving come before or after it, as the history says,
  and a deadline of the caller's own scope before it.
* Whether a reply that comes at once is in hand where ``timeout=0``: it comes a little later here.
"""

from __future__ import annotations

import math
from collections import Counter
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest
import trio
import trio.testing
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from psession import PortClosedError, SessionError, SessionManager
from psession.channels import memory_pair

from .card import card_port
from .effort import examples
from .peers import settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

Message = dict[str, Any]


class Answer(NamedTuple):
    """The peer's answer to one question: never, or after some seconds, once or twice."""

    when: str = "never"
    seconds: float = 0.0
    again_after: float | None = None


class Send(NamedTuple):
    """A task that sends; its caller gives up after `patience` seconds."""

    session: int = 0
    timeout: float = 1.0
    retry_count: int = 0
    retry_interval: float = 0.5
    patience: float = math.inf
    answers: tuple[Answer, ...] = ()

    def delays(self, question: int) -> list[float]:
        """When the peer answers the n-th question that it sees of this send, seconds from when it sees it."""
        answer = self.answers[question] if question < len(self.answers) else Answer()
        delay = {
            "never": math.inf,
            "after": answer.seconds,
            "at the deadline": self.timeout,
            "in the pause": self.timeout + self.retry_interval / 2,
            "at the end of the pause": self.timeout + self.retry_interval,
        }[answer.when]
        if not self.timeout:
            delay = max(delay, 0.25)
        again = [] if answer.again_after is None else [delay + answer.again_after]
        return [one for one in (delay, *again) if one < math.inf]


class Deed(NamedTuple):
    """Something else that the caller does; `late`: after all that happens at that moment."""

    what: str
    session: int = 0
    late: bool = False


Step = Send | Deed | float
"""A number is a wait."""

OPEN, LEAVE = Deed("open"), Deed("leave")


class AnySession(Protocol):
    """What is asked of a session of either port."""

    async def send(self, payload: Message, *, timeout: float, retry_count: int, retry_interval: float) -> Message: ...  # noqa: ASYNC109 - psession's name
    def cancel(self) -> None: ...
    def abort(self) -> None: ...
    def end(self) -> None: ...


class AnyPort(Protocol):
    """What is asked of either port."""

    def create(self) -> AnySession: ...


def real_port(channel: trio.abc.Channel[Message]) -> AbstractAsyncContextManager[AnyPort]:
    return SessionManager().port("p", channel)


class Peer:
    """The far end: it answers by each send's script. One task, so that its answers of one moment have one order."""

    def __init__(self, channel: Any, sends: list[Send]) -> None:
        self.channel = channel
        self.sends = sends
        self.seen: list[tuple[float, int, int]] = []
        self.due: list[tuple[float, int, Message]] = []
        self.more = trio.Event()

    async def listen(self) -> None:
        questions: Counter[int] = Counter()
        async for message in self.channel:
            assert list(message)[-1] == "sid"
            now, token = trio.current_time(), message["token"]
            self.seen.append((now, token, message["sid"]))
            for delay in self.sends[token].delays(questions[token]):
                answer = {"answers": token, "question": questions[token], "sid": message["sid"]}
                heappush(self.due, (now + delay, len(self.seen), answer | {"delay": delay}))
            questions[token] += 1
            self.more.set()

    async def speak(self) -> None:
        while True:
            while self.due and self.due[0][0] <= trio.current_time():
                self.channel.send_frame_now(heappop(self.due)[-1])
            self.more = trio.Event()
            with trio.move_on_at(self.due[0][0] if self.due else math.inf):
                await self.more.wait()


class Life(NamedTuple):
    """All that is compared."""

    outcomes: dict[int, tuple[object, float]]
    questions: list[tuple[float, int]]
    sharing: list[list[int]]
    opened: list[str]


class World:
    """One history over one port."""

    def __init__(self) -> None:
        self.sends: list[Send] = []
        self.scopes: list[trio.CancelScope] = []
        self.sessions: list[AnySession] = []
        self.opened: list[str] = []
        self.outcomes: dict[int, tuple[object, float]] = {}

    async def ask(self, session: AnySession, send: Send, token: int, scope: trio.CancelScope) -> None:
        outcome: object = "cancelled"
        payload = {"token": token}
        scope.deadline = trio.current_time() + send.patience
        with scope:
            try:
                outcome = await session.send(
                    payload, timeout=send.timeout, retry_count=send.retry_count, retry_interval=send.retry_interval
                )
            except SessionError as error:
                outcome = type(error).__name__
        assert payload == {"token": token}
        self.outcomes[token] = outcome, trio.current_time()

    async def do(self, step: Step, port: AnyPort, nursery: trio.Nursery) -> None:
        if isinstance(step, float):
            await trio.sleep(step)
            return
        if isinstance(step, Send):
            await settle()
            if self.sessions:
                token, scope = len(self.sends), trio.CancelScope()
                self.sends.append(step)
                self.scopes.append(scope)
                nursery.start_soon(self.ask, self.sessions[step.session % len(self.sessions)], step, token, scope)
        elif step.what == "open":
            try:
                self.sessions.append(port.create())
                self.opened.append("open")
            except PortClosedError:
                self.opened.append("closed")
        elif step.what == "scope":
            await settle()
            if self.scopes:
                self.scopes[step.session % len(self.scopes)].cancel()
        elif self.sessions:
            if step.late:
                await settle()
            getattr(self.sessions[step.session % len(self.sessions)], step.what)()
        await settle()

    async def live(self, open_port: Callable[[Any], AbstractAsyncContextManager[AnyPort]], history: list[Step]) -> Life:
        here, there = memory_pair(math.inf)
        peer = Peer(there, self.sends)
        steps = iter(history)
        with trio.fail_after(10_000):
            async with trio.open_nursery() as peers:
                peers.start_soon(peer.listen)
                peers.start_soon(peer.speak)
                async with trio.open_nursery() as callers:
                    async with open_port(here) as port:
                        for step in steps:
                            if isinstance(step, Deed) and step.what == "leave":
                                if step.late:
                                    await settle()
                                break
                            await self.do(step, port, callers)
                        left_at = trio.current_time()
                    assert trio.current_time() == left_at
                    await settle()
                    for step in steps:
                        await self.do(step, port, callers)
                peers.cancel_scope.cancel()
        assert len(self.outcomes) == len(self.sends)
        shared: dict[int, list[int]] = {}
        for _, token, sid in peer.seen:
            shared.setdefault(sid, []).append(token)
        sharing = sorted(sorted(set(tokens)) for tokens in shared.values())
        return Life(self.outcomes, sorted((at, token) for at, token, _ in peer.seen), sharing, self.opened)


def life_with(open_port: Callable[[Any], AbstractAsyncContextManager[AnyPort]], history: list[Step]) -> Life:
    return trio.run(World().live, open_port, history, clock=trio.testing.MockClock(autojump_threshold=0))


SESSIONS = st.integers(0, 2)
ANSWERS = st.builds(
    Answer,
    when=st.sampled_from(
        ["never", "after", "after", "after", "at the deadline", "in the pause", "at the end of the pause"]
    ),
    seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0]),
    again_after=st.sampled_from([None, None, None, 0.0, 0.5, 2.0]),
)
SENDS = st.builds(
    Send,
    session=SESSIONS,
    timeout=st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, math.inf]),
    retry_count=st.integers(0, 2),
    retry_interval=st.sampled_from([0.0, 0.5, 1.0]),
    patience=st.sampled_from([math.inf] * 8 + [0.0, 0.5, 1.0, 2.5]),
    answers=st.tuples(ANSWERS, ANSWERS, ANSWERS),
)
STEPS: st.SearchStrategy[Step] = st.one_of(
    SENDS,
    SENDS,
    SENDS,
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.builds(Deed, st.sampled_from(["cancel", "abort", "end", "scope"]), st.integers(0, 7), st.booleans()),
    st.just(OPEN),
)
LEAVES: st.SearchStrategy[list[Step]] = st.one_of(
    st.just([]), st.builds(lambda late: [Deed("leave", late=late)], st.booleans())
)
HISTORIES = st.builds(
    lambda before, quiet, leave, after: [OPEN, *before, *quiet, *leave, *after],
    st.lists(STEPS, min_size=1, max_size=24),
    st.sampled_from([[], [30.0]]),
    LEAVES,
    st.lists(STEPS, max_size=4),
)


@settings(max_examples=examples(300), deadline=None)
@given(history=HISTORIES)
@example(history=[OPEN, Send(), Send(answers=(Answer("after", 0.5),)), 10.0])
def test_every_send_comes_to_the_same_at_the_same_moment_as_on_the_card(history: list[Step]) -> None:
    real = life_with(real_port, history)
    card = life_with(card_port, history)
    assert real == card
    for outcome, _ in real.outcomes.values():
        event(outcome if isinstance(outcome, str) else "reply")


def reply(token: int, question: int, delay: float) -> Message:
    return {"answers": token, "question": question, "delay": delay}


def after(seconds: float, again_after: float | None = None) -> tuple[Answer, ...]:
    return (Answer("after", seconds, again_after),)


@pytest.mark.parametrize("open_port", [real_port, card_port])
@pytest.mark.parametrize(
    ("history", "outcomes", "sharing"),
    [
        pytest.param(
            [OPEN, Send(timeout=1.0, answers=(Answer("at the deadline"),)), 5.0],
            [(reply(0, 0, 1.0), 1.0)],
            [[0]],
            id="a reply in the same tick as the deadline is the reply",
        ),
        pytest.param(
            [OPEN, Send(timeout=1.0, retry_count=1, retry_interval=0.5, answers=(Answer("in the pause"),)), 5.0],
            [(reply(0, 0, 1.25), 1.25)],
            [[0]],
            id="a reply in the pause is the reply",
        ),
        pytest.param(
            [OPEN, Send(timeout=1.0, retry_count=2, retry_interval=0.5), 9.0],
            [("SessionTimeoutError", 4.0)],
            [[0]],
            id="silence ends after all attempts and the pauses between them",
        ),
        pytest.param(
            [OPEN, Send(timeout=1.0, answers=after(1.5)), Send(timeout=1.0, answers=after(0.75)), 5.0],
            [("SessionTimeoutError", 1.0), (reply(1, 0, 0.75), 1.75)],
            [[0], [1]],
            id="a late reply answers nobody, since the next send has a fresh number and its own time",
        ),
        pytest.param(
            [OPEN, Send(retry_count=1, answers=after(1.75) + after(1.0)), 1.75, Send(answers=after(0.875)), 5.0],
            [(reply(0, 0, 1.75), 1.75), (reply(1, 0, 0.875), 2.625)],
            [[0], [1]],
            id="an answer that another attempt is still owed makes the number fresh",
        ),
        pytest.param(
            [OPEN, Send(answers=after(0.5)), Send(answers=after(0.5)), 5.0],
            [(reply(0, 0, 0.5), 0.5), (reply(1, 0, 0.5), 1.0)],
            [[0, 1]],
            id="one at a time, and the number stays while all is answered",
        ),
        pytest.param(
            [OPEN, Send(), Send(), 0.5, Deed("cancel"), Send(answers=after(0.25)), 5.0],
            [("SessionCancelError", 0.5), ("SessionCancelError", 0.5), (reply(2, 0, 0.25), 0.75)],
            [[0], [2]],
            id="cancel gives up those who wait, those in the line too, and the session lives on",
        ),
        pytest.param(
            [OPEN, Send(), 0.5, Deed("abort"), Send(), 0.25, Deed("end"), Send()],
            [("SessionAbortError", 0.5), ("SessionCancelError", 0.75), ("SessionInvalidError", 0.75)],
            [[0], [1]],
            id="abort and end have errors of their own, and after the end there is nothing to send",
        ),
        pytest.param(
            [OPEN, Send(timeout=1.0, answers=(Answer("at the deadline"),)), Send(patience=0.5), 1.0, LEAVE, Send()],
            [("SessionAbortError", 1.0), ("cancelled", 0.5), ("PortClosedError", 1.0)],
            [[0]],
            id="leaving the block aborts who waits, and a caller's own scope is the caller's",
        ),
    ],
)
def test_the_card_and_the_real_port_both_do_what_is_written(
    open_port: Callable[[Any], AbstractAsyncContextManager[AnyPort]],
    history: list[Step],
    outcomes: list[tuple[object, float]],
    sharing: list[list[int]],
) -> None:
    life = life_with(open_port, history)
    assert [life.outcomes[token] for token in sorted(life.outcomes)] == outcomes
    assert life.sharing == sharing
