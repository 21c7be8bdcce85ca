"""A hostile peer on the exact wire: nothing that it sends breaks, hangs or fills a port.

``python -m tests.test_attacked_exact 1000000`` sends so many messages and says what memory they took.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections import deque
from typing import Any

import pytest
import trio
import trio.testing

from psession import Exact, Session, SessionError, SessionManager
from psession.channels import memory_pair
from psession.protocol.asking import MAX_GIVEN_UP
from psession.protocol.peer_turns import MAX_PAGES

from .peers import Wire, settle
from .tables import assert_empty, assert_idle

WRONG: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    float("inf"),
    float("nan"),
    "1",
    "",
    [],
    {},
    2**53,
    2**64,
    2**200,
    b"x",
]
LIMITS = {"max_incoming_sessions": 20, "inbox_limit": 8, "max_answer_bytes": 20_000, "max_queued_bytes": 5000}


class Attacker:
    """Draws messages; it knows the life of its victim, its turns, and what it says."""

    def __init__(self, seed: int, life: int, *, one_life: bool) -> None:
        self.asked: deque[dict[str, Any]] = deque(maxlen=5)
        self.begun: deque[dict[str, Any]] = deque(maxlen=30)
        self.dice = random.Random(seed)
        self.life = life
        self.one_life = one_life
        self.turn = 0

    def sid(self) -> int:
        dice = self.dice
        return dice.choice([dice.randint(1, 50), dice.randint(100_000, 100_050), dice.randint(1, 2**53), 2**70])

    def number(self) -> int:
        dice = self.dice
        self.turn += 1
        return dice.choice([self.turn, self.turn - 1, dice.randint(1, 100), dice.randint(1, 2**53 - 1)])

    def lives(self, sid: int) -> int | None:
        dice = self.dice
        if self.one_life or dice.random() < 0.99:
            return dice.choice([7, 7, None]) if sid >= 51 else dice.choice([self.life, self.life, None])
        return dice.randint(1, 2**48)

    def about_a_stream(self) -> dict[str, Any] | None:
        """Credit for a stream of the attacker's, or its request again; or a part of one of the victim's."""
        dice = self.dice
        if self.asked and dice.random() < 0.5:
            to = dice.choice(self.asked)
            part = {"_re": to["_turn"], "_part": dice.choice([1, 2, 3, 4, 5, 6, self.number()]), "token": 1}
            ends = dice.choice([{}, {}, {}, {"_end": True}, {"_end": True, "_error": "x: y"}, {"_wait": 1e308}])
            return {"sid": to["sid"], "_life": to["_life"], **part, **ends}
        if not self.begun:
            return None
        request = {**dice.choice(self.begun), "_credit": dice.choice([1, 5, 40, self.number(), 2**53 - 1])}
        if dice.random() < 0.5:
            return {name: value for name, value in request.items() if name in ("sid", "_turn", "_credit", "_life")}
        return {**request, "_part": dice.choice([0, 1, 2, 3, 9, 30, self.number()])}

    def message(self) -> dict[str, Any]:
        dice, sid = self.dice, self.sid()
        if dice.random() < 0.3 and (told := self.about_a_stream()) is not None:
            return told
        fields = (
            ("_turn", 0.6, self.number()),
            ("_re", 0.3, self.number()),
            ("_new", 0.4, True),
            ("_end", 0.2, True),
            ("_error", 0.15, dice.choice(["ended", "timeout", "refused.full", "x: y"])),
            ("_wait", 0.3, dice.choice([0, 0.001, 5, 1e308])),
            ("_part", 0.2, dice.choice([1, 2, 5, self.number()])),
            ("_credit", 0.3, dice.choice([1, 2, 3, 30, self.number()])),
        )
        message: dict[str, Any] = {"sid": sid, "n": self.turn}
        message |= {field: value for field, odds, value in fields if dice.random() < odds}
        if (life := self.lives(sid)) is not None:
            message["_life"] = life
        if "_turn" in message and "_credit" in message:
            message["many"] = True  # for the handler, which gets the payload alone
            self.begun.append(message)
        if dice.random() < 0.05:
            message[dice.choice(list(message))] = dice.choice(WRONG)
        return message


async def handle(session: Session) -> None:
    """A handler that does one thing or another, by the message."""
    async for message in session:
        if message.get("many") is not None:
            for _ in range(message.get("n", 0) % 40 if type(message.get("n")) is int else 0):
                await session.post({"a": 1})
        match message.get("n", 0) % 6 if type(message.get("n")) is int else 0:
            case 0:
                await session.send({"q": 1}, timeout=1)
            case 1:
                return
            case 2:
                raise ValueError("as it likes")
            case 3:
                await trio.sleep(2)
        await session.post({"a": 1})


async def ask(port: Any, token: int) -> int:
    """One turn, or a stream; how many answers came."""
    if token % 2:
        return "token" in await port.request({"token": token}, timeout=0.5)
    async with port.stream({"token": token}, timeout=0.5, total=2, credit=4) as replies:
        return len([reply async for reply in replies])


async def attack(seed: int, count: int, *, one_life: bool) -> None:
    """So many messages at a port that asks as well."""
    wire = Wire()
    manager = SessionManager(wire, dialect=Exact(), on_session=handle, session_ids=range(1, 51), **LIMITS)
    asked = answered = longest = 0

    async def asks(port: Any) -> None:
        nonlocal asked, answered
        while True:
            asked += 1
            try:
                answered += await ask(port, asked)
            except SessionError:
                await trio.sleep(0.1)

    async with manager.port("victim") as port, trio.open_nursery() as nursery:
        nursery.start_soon(asks, port)
        await settle()
        attacker = Attacker(seed, port._engine.connection._shared.life, one_life=one_life)
        for number in range(count):
            assert port.dispatch(attacker.message()) in (True, False)
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
            if number % 100 == 0:
                await trio.sleep(0.1)
                parts = [message["_part"] for message in wire.sent if {"_re", "_part"} <= message.keys()]
                longest = max([longest, *parts])
                attacker.asked.extend(message for message in wire.sent if message.get("_credit") and "_life" in message)
                wire.sent.clear()
            if number % 1000 == 0:
                bounded(port)
        nursery.cancel_scope.cancel()
    assert asked > count / 3000
    assert longest > 10
    assert_empty(manager, port)


def bounded(port: Any) -> None:
    """Every table is within what the documents say."""
    taken = port._engine.connection._shared.turns
    assert len(port.sessions) <= 20 + 50
    assert port._engine.connection.handlers <= 2 * 20
    held = list(taken._held.values())
    assert sum(bool(last.running) for last in held) <= len(port.sessions)
    assert len(taken._pages) <= MAX_PAGES
    assert all(last.running or last.size for last in held if last.stream is not None)
    assert sum(len(last.stream.sizes) for last in held if last.stream is not None) <= 20_000 // 200
    assert taken.stored_bytes <= 20_000
    assert sum(last.size > 0 for last in held) <= 20_000 // 200
    assert len(port._engine.connection._asking._given_up) <= MAX_GIVEN_UP
    assert len(port._engine.connection._past_lives) <= 16


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_peer_sends_the_port_neither_breaks_nor_grows(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "psession")

    async def main() -> None:
        await attack(seed, 5000, one_life=seed % 2 == 0)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_forged_answer_is_nobodys(autojump_clock: Any) -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=Exact(), session_timeout=1).port("p", here) as port:
        async with trio.open_nursery() as nursery:
            got: list[Any] = []

            async def ask() -> None:
                got.append(await port.request({"q": 1}))

            nursery.start_soon(ask)
            question = await there.receive()
            life = question["_life"]
            for forged in (
                {"sid": 1, "_re": 2, "_life": life},
                {"sid": 2, "_re": 1, "_life": life},
                {"sid": 1, "_re": 1, "_life": life + 1},
                {"sid": 1, "_re": 2**53 - 1},
                {"sid": 1, "_re": True, "_life": life},
                {"sid": 1},
            ):
                await there.send(forged)
                await settle()
                assert got == []
            await there.send({"sid": 1, "_re": 1, "right": True})
        assert got[0]["right"]
        await settle()
        statistics = port.statistics()
        assert (statistics.matched, statistics.stale_own, statistics.malformed) == (1, 1, 1)
        assert_idle(port)


if __name__ == "__main__":
    messages = int(sys.argv[1])
    import logging

    logging.disable()
    for size in (messages // 10, messages):
        began = time.perf_counter()
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(lambda size=size: attack(1, size, one_life=True), clock=clock)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sys.stdout.write(f"{size} messages, {time.perf_counter() - began:.0f} s, at most {peak} KiB\n")
