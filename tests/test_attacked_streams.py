"""Streams under attack: peers that keep no rules, queues that are full, tasks in each other's way, bad lines."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Session, SessionError, SessionManager
from psession.channels import memory_pair
from psession.protocol.states import PeerTurn

from .links import Network, Work, client
from .peers import Caught, Wire, settle
from .tables import assert_empty, assert_idle

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession import Port, Replies

EXACT = Exact()


async def count_up(session: Session) -> None:
    """Reply ``to`` times to each message."""
    async for message in session:
        for number in range(1, message["to"] + 1):
            await session.post({"number": number})


def request(turn: int = 1, credit: int = 9, part: int = 1, **fields: Any) -> dict[str, Any]:
    return {"sid": 5, "_turn": turn, "_credit": credit, "_part": part, "_life": 7, "to": 3, **fields}


class Slow:
    """An async sender that takes nothing until it is let."""

    def __init__(self) -> None:
        self.let = trio.Event()
        self.sent: list[dict[str, Any]] = []

    async def __call__(self, message: dict[str, Any]) -> None:
        await self.let.wait()
        self.sent.append(message)


# -- two tasks and one stream -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [None, {"number": 1}, {"number": 1, "_end": True}, {"_end": True}])
async def test_closing_wakes_the_task_that_receives_and_leaves_the_next_turn_alone(
    reply: dict[str, Any] | None, autojump_clock: MockClock
) -> None:
    wire, caught, sent = Wire(), Caught(), Caught()
    async with SessionManager(dialect=EXACT).port("p", wire) as port, trio.open_nursery() as nursery:
        with port.create() as session:
            async with session.stream({}) as replies:
                nursery.start_soon(caught.run, replies.receive)
                await settle()
                if reply is not None:  # in the same pass: the other task has been told, and has not run yet
                    port.dispatch({"sid": session.sid, "_re": 1, "_part": 1, **reply})
                await replies.aclose()
            nursery.start_soon(sent.run, session.send, {"q": 1})
            await settle()
            assert isinstance(caught.error, trio.ClosedResourceError)
            number = wire.sent[-1]["_turn"]
            port.dispatch({"sid": session.sid, "_re": number, "answer": True})
            await settle()
            assert sent.value["answer"]
            told = [message["_error"] for message in wire.sent if "_error" in message]
            assert told == ([] if reply is not None and "_end" in reply else ["ended"])
        assert_idle(port)


async def test_closing_a_stream_with_a_session_of_its_own_ends_that(autojump_clock: MockClock) -> None:
    wire, caught = Wire(), Caught()
    async with SessionManager(dialect=EXACT).port("p", wire) as port, trio.open_nursery() as nursery:
        async with port.stream({}) as replies:
            nursery.start_soon(caught.run, replies.receive)
            await settle()
        await settle()
        assert isinstance(caught.error, trio.ClosedResourceError)
        assert [message.get("_error") for message in wire.sent] == [None, "ended"]
        assert_idle(port)


async def test_closing_and_cancelling_at_once_leaves_nothing(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("p", wire) as port:
        async with trio.open_nursery() as nursery, port.stream({}) as replies:
            nursery.start_soon(replies.receive)
            await settle()
            nursery.cancel_scope.cancel()
            replies._close(None)
        assert_idle(port)


# -- requests and credit ----------------------------------------------------------------------------------------------

BEFORE: dict[PeerTurn, list[dict[str, Any]]] = {
    PeerTurn.NOTHING: [],
    PeerTurn.RUNNING: [{"sid": 5, "_turn": 1, "_life": 7, "to": 0}],
    PeerTurn.STREAMING: [request(credit=2)],
    PeerTurn.ANSWERED: [{"sid": 5, "_turn": 1, "_life": 7, "to": 1}],
    PeerTurn.OVER: [{"sid": 5, "_turn": 1, "_life": 7, "_error": "timeout"}],
}


@pytest.mark.parametrize("state", BEFORE)
async def test_a_request_for_the_rest_of_what_this_side_never_began_runs_nothing(state: PeerTurn) -> None:
    runs: list[int] = []

    async def handle(session: Session) -> None:
        async for message in session:
            runs.append(session._live.dialogue.exact.memory.turn)
            for number in range(message["to"]):
                await session.post({"number": number})
            if message["to"] == 0:
                await trio.sleep_forever()

    wire = Wire()
    async with SessionManager(dialect=EXACT).port("p", wire, on_session=handle) as port:
        for message in BEFORE[state]:
            port.dispatch(message)
        await settle()
        assert port._engine.connection._shared.turns.state(5) is state
        before, told = runs.copy(), len(wire.sent)
        for _ in range(2):
            port.dispatch(request(turn=9, part=3))
            await settle()
        answers = [message for message in wire.sent[told:] if message.get("_re") == 9]
        assert answers == 2 * [{"sid": 5, "_re": 9, "_error": "forgotten", "_life": 7}]
        assert runs == before
        assert not any(last.running for last in port._engine.connection._shared.turns._held.values())
        port.dispatch(request(turn=10, to=1, _new=True))
        await settle()
        assert runs[-1] == 10


async def test_credit_for_nothing_is_malformed() -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("p", wire, on_session=count_up) as port:
        port.dispatch(request(credit=0))
        assert (port.statistics().malformed, port.sessions) == (1, {})


@pytest.mark.parametrize("hostile", [{"_credit": 2**53 - 1, "_part": 2**53 - 1}, {"_credit": 2**53 - 1}, {"_part": 0}])
async def test_no_number_of_a_peers_makes_a_stream_forget_its_end(hostile: dict[str, Any]) -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("p", wire, on_session=count_up) as port:
        port.dispatch(request(credit=2))
        for _ in range(3):
            await settle()
            message = request() | hostile
            if "_part" not in hostile:
                message = {key: value for key, value in message.items() if key not in ("_part", "to")}
            port.dispatch(message)
        await settle()
        taken = port._engine.connection._shared.turns
        held = taken.held(5)
        assert held is None or len(held.frames) <= 4
        if "_credit" in hostile:
            assert (taken.state(5), held and held.frames[-1]["_part"]) == (PeerTurn.ANSWERED, 4)


async def test_a_handler_that_waits_for_credit_is_idle_also_where_messages_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    wire = Wire()
    options: dict[str, Any] = {"on_session": count_up, "session_max_life": 10}
    async with SessionManager(dialect=EXACT).port("p", wire, **options) as port:
        port.dispatch(request(credit=1))
        await settle()
        port.dispatch({"sid": 5, "_part": 1, "_life": 7, "a post": True})
        await trio.sleep(25)
        assert port.statistics().expired == 1
        assert_idle(port)


# -- queues that are full ---------------------------------------------------------------------------------------------


async def test_a_grant_is_not_lost_where_the_queue_is_full(autojump_clock: MockClock) -> None:
    sender = Slow()
    async with SessionManager(dialect=EXACT).port("p", sender, max_queued_bytes=1) as port:
        async with trio.open_nursery() as nursery, port.session() as session, session.stream({}, credit=2) as replies:
            sender.let.set()
            await settle()
            sender.let = trio.Event()
            for _ in range(3):
                nursery.start_soon(port.post, {"plain": True})
            await settle()
            for part in (1, 2, 3, 4):
                port.dispatch({"sid": session.sid, "_re": 1, "_part": part})
                await replies.receive()
            assert port._engine.outbox.queued_bytes <= 2 * 256
            sender.let.set()
            await settle()
            assert [message["_credit"] for message in sender.sent if message.get("_turn")] == [2, 6]
        await settle()
        assert_idle(port)


async def test_what_is_sent_again_is_sent_whole_and_queued_once(autojump_clock: MockClock) -> None:
    sender = Slow()
    sender.let.set()
    options: dict[str, Any] = {"on_session": count_up, "max_queued_bytes": 600}
    async with SessionManager(dialect=EXACT).port("p", sender, **options) as port:
        port.dispatch(request(to=9))
        await settle()
        sender.let = trio.Event()
        for _ in range(5):
            port.dispatch(request(to=9))
        await settle()
        sender.let.set()
        await settle()
        assert [message["_part"] for message in sender.sent] == 2 * list(range(1, 11))
        port.dispatch(request(to=9, part=8))
        await settle()
        assert [message["_part"] for message in sender.sent[20:]] == [8, 9, 10]


async def test_who_repeats_all_requests_and_reads_nothing_fills_no_more_than_there_is_room_for(
    autojump_clock: MockClock,
) -> None:
    sender = Slow()
    sender.let.set()
    options: dict[str, Any] = {"on_session": count_up, "max_queued_bytes": 1000, "max_answer_bytes": 20000}
    async with SessionManager(dialect=EXACT).port("p", sender, **options) as port:
        for sid in range(1, 200):
            port.dispatch({**request(turn=sid, _new=True), "sid": sid})
        await settle()
        sender.let = trio.Event()
        for _ in range(3):
            for sid in range(1, 200):
                port.dispatch({**request(turn=sid, _new=True), "sid": sid})
        assert port._engine.outbox.queued_bytes <= 21000 + 256
        sender.let.set()


async def test_a_single_answer_asked_for_again_is_sent_also_where_the_queue_is_full_and_within_the_same_room() -> None:
    sender = Slow()
    sender.let.set()

    async def handle(session: Session) -> None:
        async for _ in session:
            await session.post({"ok": True})

    asked = {"sid": 5, "_turn": 1, "_life": 7}
    options: dict[str, Any] = {"on_session": handle, "max_queued_bytes": 1, "max_answer_bytes": 20000}
    async with SessionManager(dialect=EXACT).port("p", sender, **options) as port, trio.open_nursery() as nursery:
        port.dispatch(asked)
        await settle()
        sender.let = trio.Event()
        for _ in range(3):
            nursery.start_soon(port.post, {"plain": True})
        await settle()
        for _ in range(1000):
            port.dispatch(asked)
        assert 10_000 < port._engine.outbox.queued_bytes <= 20_000 + 256
        sender.let.set()
        await settle()
        assert sender.sent.count({"ok": True, "sid": 5, "_re": 1, "_life": 7}) > 10


@pytest.mark.parametrize("asked", [request(), {"sid": 5, "_turn": 1, "_life": 7}])
async def test_a_handler_that_fails_is_told_of_also_where_the_queue_is_full(asked: dict[str, Any]) -> None:
    sender = Slow()

    async def handle(session: Session) -> None:
        await session.receive()
        raise KeyError

    options: dict[str, Any] = {"on_session": handle, "max_queued_bytes": 1}
    async with SessionManager(dialect=EXACT).port("p", sender, **options) as port, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(port.post, {"plain": True})
        await settle()
        port.dispatch(asked)
        await settle()
        sender.let.set()
        await settle()
        assert [message["_error"] for message in sender.sent if "_error" in message] == ["crashed"]


# -- bad lines --------------------------------------------------------------------------------------------------------


async def test_a_stream_whose_line_breaks_goes_on_over_the_next_without_another_attempt(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Streams(), resume_within=60, max_queued_bytes=600)
        async with client(network) as port, port.stream({"to": 200}, timeout=100, credit=16) as replies:
            got = []
            async for reply in replies:
                got.append(reply["number"])
                if len(got) % 50 == 20:
                    await network.cut()
                    await settle()
        assert got == list(range(1, 201))
        assert_empty(network.server, *network.ports)


class Streams(Work):
    """Handlers that answer with many, ask for many in the middle, and keep a book of what was run."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[int, list[int]] = {}

    async def handle(self, session: Session) -> None:
        async for message in session:
            self.runs.append(message.get("n", 0))
            for number in range(1, message["to"] + 1):
                if number == message.get("asks at"):
                    options: dict[str, Any] = {"timeout": 1, "retry_count": 200, "retry_interval": 0, "credit": 3}
                    async with session.stream({"back": number}, **options) as replies:
                        self.heard[message["n"]] = [reply["number"] async for reply in replies]
                await session.post({"number": number})


async def answer_back(session: Session) -> None:
    """The opener's half: it is asked for many replies in the middle of those that it gets."""
    asked = await session.receive()
    for number in range(1, 1 + asked["back"]):
        await session.post({"number": number})
    await session.finish()


@pytest.mark.parametrize("seed", range(16))
async def test_on_a_terrible_network_that_also_breaks_streams_both_ways_come_whole_and_are_run_once(
    seed: int, autojump_clock: MockClock
) -> None:
    work, dice = Streams(), random.Random(seed)
    whole: dict[int, list[int]] = {}
    async with trio.open_nursery() as nursery:
        network = Network(nursery, work, resume_within=60)
        network.odds = {
            "seed": seed, "drop": 0.2, "duplicate": 0.2, "reorder": 0.2, "delay": (0, 0.5), "disconnect": 0.005,
        }  # fmt: skip
        numbers = iter(range(1, 13))

        async def ask(port: Port) -> None:
            for n in numbers:
                to, at = dice.randrange(0, 20), dice.randrange(1, 25)
                wanted = dice.choice([None, None, dice.randrange(1, 10)])
                options: dict[str, Any] = {"timeout": 1, "retry_count": 200, "retry_interval": 0, "count": wanted}
                message = {"n": n, "to": to, "asks at": at}
                try:
                    async with port.session() as session, trio.open_nursery() as beside:
                        async with session.stream(message, **options, credit=dice.choice([1, 4, 32])) as replies:
                            beside.start_soon(answer_back, session)
                            got = [reply["number"] async for reply in replies]
                        beside.cancel_scope.cancel()
                    whole[n] = got
                    assert got == list(range(1, 1 + min(to, wanted or to)))
                except* SessionError:
                    whole[n] = []

        async with client(network, resume_within=60) as port:
            async with trio.open_nursery() as askers:
                for _ in range(4):
                    askers.start_soon(ask, port)
            await trio.sleep(1300)
            assert_idle(port)
        nursery.cancel_scope.cancel()
    assert sorted(whole) == list(range(1, 13))
    assert len(work.runs) == len(set(work.runs))
    assert all(got == list(range(1, 1 + len(got))) for got in work.heard.values())
    for port in network.ports:
        assert not any(last.running for last in port._engine.connection._shared.turns._held.values())
    assert_empty(network.server, *network.ports)


async def test_draining_lets_a_stream_come_to_its_end(autojump_clock: MockClock) -> None:
    async def slowly(session: Session) -> None:
        async for message in session:
            for number in range(message["to"]):
                await trio.sleep(1)
                await session.post({"number": number})

    async def consume(replies: Replies) -> int:
        return len([reply async for reply in replies])

    here, there = memory_pair()
    manager, drained = SessionManager(dialect=EXACT), Caught()
    async with (
        manager.port("answerer", there, on_session=slowly) as answerer,
        manager.port("asker", here) as port,
        trio.open_nursery() as nursery,
    ):
        async with port.stream({"to": 5}) as replies:
            await replies.receive()
            nursery.start_soon(drained.run, answerer.drain)
            assert await consume(replies) == 4
        await settle()
        assert (drained.value, drained.at) == (True, 5.0)
