"""Both ends of one connection ask, with the numbers that each has by default: whose a message is, and none is lost."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from psession import (
    Classic,
    Exact,
    Session,
    SessionCancelError,
    SessionError,
    SessionManager,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import memory_pair
from psession.options import PEER_ROOM
from psession.testing import lossy

from .effort import examples
from .peers import Caught, Wire, settle
from .tables import assert_empty, assert_idle, assert_no_timers
from .test_exact_histories import DEEDS, World
from .test_terrible import NETWORKS, Book

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from psession import Dialect, Port

PLAIN_NAMES = ("_error", "_port", "_end", "_part", "_new", "_wait", "_credit", "_resume")
TIMES = 5


async def work(session: Session) -> None:
    """A gateway's handler: it answers, asks back, counts, or ends the session, as it is told."""
    async for message in session:
        match message["do"]:
            case "ask back":
                reply = await session.send({"question": message["n"]})
                await session.post({"answer": reply["n"]})
            case "count":
                for place in range(message["n"]):
                    await session.post({"place": place})
                await session.finish()
            case "answer and end":
                await session.post({"answer": message["n"]})
                return
            case _:
                await session.post({"answer": message["n"]})


@asynccontextmanager
async def gateways(on_session: Any = work, **options: Any) -> AsyncIterator[tuple[Port, Port]]:
    """Two exact ports that both take sessions, neither told which numbers to use; in the end both are empty."""
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact(), on_session=on_session, **{"session_timeout": 5, **options})
    async with manager.port("left", here) as left, manager.port("right", there) as right:
        yield left, right
    assert_empty(manager, left, right)
    assert_no_timers()


async def requests(port: Port) -> None:
    for n in range(TIMES):
        assert await port.request({"do": "answer", "n": n}) == {"answer": n}


async def dialogue(port: Port) -> None:
    async with port.session() as session:
        for n in range(TIMES):
            assert await session.send({"do": "answer", "n": n}) == {"answer": n}


async def question_back(port: Port) -> None:
    async with port.session() as session:
        for n in range(TIMES):
            assert await session.send({"do": "ask back", "n": n}) == {"question": n}
            assert await session.send({"n": n + 100}) == {"answer": n + 100}


async def streams(port: Port) -> None:
    for n in range(TIMES):
        async with port.stream({"do": "count", "n": 3 * n}, credit=2) as replies:
            assert [reply["place"] async for reply in replies] == list(range(3 * n))


async def stream_in_a_dialogue(port: Port) -> None:
    async with port.session() as session:
        for n in range(TIMES):
            async with session.stream({"do": "count", "n": n}) as replies:
                assert [reply["place"] async for reply in replies] == list(range(n))
            assert await session.send({"do": "answer", "n": n}) == {"answer": n}


async def stream_left_early(port: Port) -> None:
    async with port.session() as session:
        for n in range(TIMES):
            async with session.stream({"do": "count", "n": 100}, credit=2) as replies:
                assert [await replies.__anext__() for _ in range(n)] == [{"place": place} for place in range(n)]


async def ends_by_the_asker(port: Port) -> None:
    for n in range(TIMES):
        session = port.create()
        assert await session.send({"do": "answer", "n": n}) == {"answer": n}
        session.end()
        await settle()


async def ends_by_the_handler(port: Port) -> None:
    for n in range(TIMES):
        session = port.create()
        assert await session.send({"do": "answer and end", "n": n}) == {"answer": n}
        await settle()
        assert session.closed


async def posts(port: Port) -> None:
    async with port.session() as session:
        for n in range(TIMES):
            await session.post({"do": "answer", "n": n})
        assert [(await session.receive())["answer"] for _ in range(TIMES)] == list(range(TIMES))


JOBS = [
    requests,
    dialogue,
    question_back,
    streams,
    stream_in_a_dialogue,
    stream_left_early,
    ends_by_the_asker,
    ends_by_the_handler,
    posts,
]


@pytest.mark.parametrize("one", JOBS)
@pytest.mark.parametrize("other", JOBS)
async def test_two_exact_gateways_with_the_default_numbers_ask_each_other_whatever_they_like(
    one: Callable[[Port], Awaitable[None]], other: Callable[[Port], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async with gateways() as (left, right):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, left)
            nursery.start_soon(other, right)
        await settle()
        assert trio.current_time() == 0.0
        for port in (left, right):
            statistics = port.statistics()
            assert (statistics.unknown_sid, statistics.no_session, statistics.no_handler) == (0, 0, 0)
            assert (statistics.stale_own, statistics.stale_peer, statistics.malformed) == (0, 0, 0)


async def test_a_gateways_session_and_its_peers_of_the_same_number_are_two() -> None:
    taken: list[Session] = []

    async def handle(session: Session) -> None:
        taken.append(session)
        async for message in session:
            await session.post({"for": message["from"]})

    async with gateways(handle) as (left, right), left.session() as one, right.session() as other:
        assert await one.send({"from": "left"}) == {"for": "left"}
        assert await other.send({"from": "right"}) == {"for": "right"}
        assert one.sid == other.sid == PEER_ROOM
        assert [(session.port, session.sid, session.incoming) for session in taken] == [
            (right, PEER_ROOM, True),
            (left, PEER_ROOM, True),
        ]
        assert (left.sessions[PEER_ROOM], right.sessions[PEER_ROOM]) == (one, other)
        assert (left.statistics().open, left.statistics().incoming) == (2, 1)
        one.end()
        await settle()
        assert [session.closed for session in taken] == [True, False]
        assert await other.send({"from": "right"}) == {"for": "right"}


async def test_two_gateways_that_ask_back_at_the_same_time_under_one_number_get_each_their_own_answer() -> None:
    met: list[int] = []
    both = trio.Event()

    async def handle(session: Session) -> None:
        message = await session.receive()
        met.append(session.sid)
        if len(met) == 2:
            both.set()
        await both.wait()  # from here on both own turns wait, and both handlers ask
        back = await session.send({"back": message["n"]})
        await session.post({"answer": back["n"]})

    async def ask(port: Port, n: int) -> None:
        async with port.session() as session:
            assert await session.send({"n": n}) == {"back": n}
            assert await session.send({"n": -n}) == {"answer": -n}

    async with gateways(handle) as (left, right), trio.open_nursery() as nursery:
        nursery.start_soon(ask, left, 1)
        nursery.start_soon(ask, right, 2)
    assert met == [PEER_ROOM] * 2


# -- on a bad network --------------------------------------------------------------------------------------------------

PATIENT: dict[str, Any] = {
    "dialect": Exact(),
    "session_timeout": 1,
    "retry_count": 30,
    "retry_interval": 0.2,
    "session_id_rest": 5,
    "session_max_life": 60,
}
TURNS = 120


def run_on(network: str, seed: int, on_session: Any, job: Callable[[Port, Port], Awaitable[None]]) -> None:
    """Run `job` with two gateways of the default numbers on a bad network; in the end both are empty."""

    async def main() -> None:
        here, there = memory_pair()
        manager = SessionManager(on_session=on_session, **PATIENT)
        async with (
            lossy(here, seed=seed, **NETWORKS[network]) as link,  # type: ignore[arg-type]
            manager.port("left", link) as left,
            manager.port("right", there) as right,
        ):
            await job(left, right)
            await trio.sleep(1000)
            for port in (left, right):
                assert_idle(port)
        assert_empty(manager, left, right)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_bad_network_no_turn_of_two_gateways_with_the_default_numbers_is_run_twice_or_answered_wrongly(
    network: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "psession")
    book = Book()

    async def job(left: Port, right: Port) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.drive, left, 0, TURNS // 2, seed)
            nursery.start_soon(book.drive, right, TURNS // 2, TURNS - TURNS // 2, seed)

    run_on(network, seed, book.handle, job)
    book.check(TURNS)
    assert list(book.outcomes.values()).count("answered") > TURNS * 0.2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_bad_network_two_gateways_with_the_default_numbers_stream_to_each_other_in_order_and_each_once(
    network: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "psession")
    whole = 0

    async def listen(port: Port, first: int) -> None:
        nonlocal whole
        for n in range(first, first + 10):
            got: list[Any] = []
            try:
                async with port.stream({"do": "count", "n": n}, credit=3) as replies:
                    async for reply in replies:
                        got.append(reply["place"])  # noqa: PERF401 - what came before an error stays
                whole += 1
                assert got == list(range(n))
            except SessionError:
                assert got == list(range(len(got)))

    async def job(left: Port, right: Port) -> None:
        async with trio.open_nursery() as nursery:
            for port in (left, right):
                nursery.start_soon(listen, port, 0)
                nursery.start_soon(listen, port, 10)

    run_on(network, seed, work, job)
    assert whole > 20


@pytest.mark.parametrize("numbers", [1, 2, 50])
@settings(max_examples=examples(150), deadline=None)
@given(history=st.lists(DEEDS, max_size=50))
def test_with_the_same_numbers_each_turn_is_run_once_and_answered_rightly_or_fails_truthfully(
    numbers: int, history: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"session_ids": range(1, 1 + numbers), "session_id_rest": 3, "strict": True}
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            options |= {"dialect": Exact(), "on_session": world.handle, "max_incoming_sessions": 2}
            managers = [SessionManager(wire, **options) for wire in world.wires]
            async with managers[0].port("other") as one, managers[1].port("one") as other:
                world.ports += [one, other]
                for step in history:
                    await world.do(*step)
                    world.check()
                    for port in world.ports:
                        tables = port._engine.connection.sessions
                        assert not any(session.incoming for session in tables.own.values())
                        assert all(session.incoming for session in tables.peers.values())
            await settle()
            world.check()
            assert world.settled == world.asked
        assert_empty(managers[0], one)
        assert_empty(managers[1], other)
        assert_no_timers()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# -- where nobody takes sessions ---------------------------------------------------------------------------------------


async def send_in_a_session(port: Port) -> None:
    async with port.session() as session:
        await session.send({})


async def listen_to_a_stream(port: Port) -> None:
    async with port.stream({}) as replies:
        async for _ in replies:
            raise AssertionError("nobody can have said that")


async def request(port: Port) -> None:
    await port.request({})


@pytest.mark.parametrize("ask", [send_in_a_session, listen_to_a_stream, request])
@pytest.mark.parametrize("peer", [Exact(), Classic()], ids=["exact peer", "classic peer"])
async def test_where_nobody_takes_sessions_a_question_is_refused_at_once(
    peer: Dialect, ask: Callable[[Port], Awaitable[None]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = memory_pair()
    manager = SessionManager(session_timeout=5, retry_count=3)
    async with manager.port("left", here, dialect=Exact()) as left, manager.port("right", there, dialect=peer) as right:
        asking = [left, right] if peer == Exact() else [left]
        for port in asking:
            for _ in range(2):
                with pytest.raises(SessionRemoteError) as caught:
                    await ask(port)
                assert (caught.value.code, caught.value.outcome, trio.current_time()) == (
                    "refused.no_handler",
                    "refused",
                    0.0,
                )
        assert [port.statistics().no_handler for port in (left, right)] == [2 * (len(asking) - 1), 2]
        await settle()
        assert left.statistics().resting == right.statistics().resting == 0
        for port in (left, right):
            assert_idle(port)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(":")[0] for text in warned] == ["port 'right'", "port 'left'"][: len(asking)]
    assert all("on_session=" in text for text in warned)


async def test_a_post_that_nobody_takes_is_counted_and_logged_though_nobody_waits_for_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with manager.port("left", here) as left, manager.port("right", there) as right, left.session() as session:
        await session.post({})
        await settle()
        assert right.statistics().no_handler == 1
    assert "port 'right': message of session 1 dropped (no_handler)" in caplog.text


# -- an exact and a classic gateway ------------------------------------------------------------------------------------


@asynccontextmanager
async def unlike(handle_exact: Any, handle_classic: Any) -> AsyncIterator[tuple[Port, Port]]:
    """Two gateways with the default numbers, of which one asks exactly and the other classically."""
    here, there = memory_pair()
    manager = SessionManager(session_timeout=5)
    async with (
        manager.port("exact", here, dialect=Exact(), on_session=handle_exact) as exact,
        manager.port("classic", there, on_session=handle_classic) as classic,
    ):
        yield exact, classic
    assert_empty(manager, exact, classic)


async def silent(session: Session) -> None:
    """Take what comes, and say nothing."""
    async for _ in session:
        pass


async def test_an_exact_gateways_post_is_never_the_answer_to_a_classic_ones_question_of_the_same_number(
    autojump_clock: MockClock,
) -> None:
    heard: list[Any] = []

    async def listen(session: Session) -> None:
        async for payload in session:
            heard.append(payload)
            await session.post({"heard": payload["n"]})

    async with unlike(silent, listen) as (exact, classic), exact.session() as session:
        assert await session.send({"n": 1}) == {"heard": 1}  # each knows by now what the other speaks
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: classic.request({"q": 1}, timeout=1)))
            await settle()
            assert [one.sid for one in exact.sessions.values()] == [session.sid]
            await session.post({"n": 2})
        assert isinstance(caught.error, SessionTimeoutError), caught.value
        assert heard == [{"n": 1}, {"n": 2}]


async def test_an_exact_gateways_answer_back_is_never_the_answer_to_a_classic_ones_question_of_the_same_number(
    autojump_clock: MockClock,
) -> None:
    answered: list[Any] = []

    async def ask_back(session: Session) -> None:
        async for payload in session:
            reply = await session.send({"back": payload["n"]})
            answered.append(reply)

    async with unlike(silent, ask_back) as (exact, classic), exact.session() as session:
        assert await session.send({"n": 1}) == {"back": 1}
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: classic.request({"q": 1}, timeout=1)))
            await settle()
            assert [one.sid for one in exact.sessions.values()] == [session.sid]
            await session.post({"n": 2})
            await settle()
            assert (answered, caught.value) == ([{"n": 2}], None)
        assert isinstance(caught.error, SessionTimeoutError)


async def test_an_exact_gateways_end_is_never_the_answer_to_a_classic_ones_question_of_the_same_number(
    autojump_clock: MockClock,
) -> None:
    ended = trio.Event()

    async def listen(session: Session) -> None:
        async for payload in session:
            await session.post({"heard": payload["n"]})
        ended.set()

    async with unlike(silent, listen) as (exact, classic):
        session, caught = exact.create(), Caught()
        assert await session.send({"n": 1}) == {"heard": 1}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: classic.request({"q": 1}, timeout=1)))
            await settle()
            session.end()
            await settle()
            assert ended.is_set()
        assert isinstance(caught.error, SessionTimeoutError), caught.value


# -- two classic gateways ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [{}, {"session_ids": range(1, 100)}], ids=["default", "given"])
async def test_two_classic_gateways_with_the_same_numbers_are_both_warned_and_each_timeout_says_why(
    numbers: dict[str, Any], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = memory_pair()
    manager = SessionManager(on_session=work, session_timeout=1, **numbers)
    async with manager.port("left", here) as left, manager.port("right", there) as right:
        for port in (left, right, right):  # right's first has a number whose reply left may still expect
            with pytest.raises(SessionTimeoutError, match=r"give the two disjoint session_ids, or use the exact wire"):
                await port.request({"do": "answer", "n": 1})
        assert [(port.statistics().unknown_sid, port.statistics().late) for port in (left, right)] == [(1, 1), (1, 0)]
        with pytest.raises(SessionTimeoutError, match="dropped messages of this peer so far: 1 late, 1 unknown_sid"):
            await left.request({"do": "answer", "n": 1})
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    said = [(text.split(":")[0], "(late)" in text) for text in warned]
    assert said == [("port 'right'", False), ("port 'left'", True), ("port 'left'", False), ("port 'right'", True)]
    for (_, is_late), text in zip(said, warned, strict=True):
        assert ("both sides have the same session_ids" if is_late else "Give them disjoint ones") in text


# -- plain devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [7, True, "open", None, 1.5, [1]], ids=repr)
@pytest.mark.parametrize("name", PLAIN_NAMES)
@pytest.mark.parametrize("dialect", [Classic(), Exact()], ids=["classic", "exact"])
async def test_a_plain_device_may_say_an_exact_name_in_answers_pushes_questions_and_outside_sessions(
    dialect: Dialect, name: str, value: Any, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    plain: list[Any] = []
    asked: list[Any] = []

    async def handle(session: Session) -> None:
        async for payload in session:
            asked.append(payload)
            await session.post({"ok": True})

    manager = SessionManager(dialect=dialect, on_session=handle, on_message=plain.append, session_timeout=5)
    async with manager.port("p", here) as port, port.session() as session:
        for n in range(2):

            async def reply(n: int = n) -> None:
                question = await there.receive()
                await there.send({"sid": question["sid"], name: value, "n": n})

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reply)
                assert await session.send({"n": n}) == {name: value, "n": n}
        await there.send({"sid": session.sid, name: value, "push": 1})
        assert await session.receive(timeout=1) == {name: value, "push": 1}
        await there.send({"sid": 5, name: value, "question": 1})
        assert await there.receive() == {"ok": True, "sid": 5}
        await there.send({name: value})
        await settle()
        assert (asked, plain) == ([{name: value, "question": 1}], [{name: value}])
        statistics = port.statistics()
        assert (statistics.matched, statistics.malformed) == (2, 0)
        with trio.move_on_after(1):
            raise AssertionError(f"the device was sent {await there.receive()}, which it does not understand")


# -- JSON-RPC ----------------------------------------------------------------------------------------------------------


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
PONG = {"jsonrpc": "2.0", "result": "pong"}


@pytest.mark.parametrize("dialect", [Classic("id"), Exact("id")], ids=["classic", "exact"])
async def test_a_json_rpc_servers_question_under_a_waiting_number_goes_to_the_handler_and_never_to_the_turn(
    dialect: Dialect,
) -> None:
    asked: list[Any] = []
    wire = Wire()

    async def handle(session: Session) -> None:
        async for question in session:
            asked.append(question)
            await session.post(PONG)

    manager = SessionManager(wire, dialect=dialect, on_session=handle, session_ids=range(1, 100))
    async with manager.port("server") as port, port.session() as session:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: session.send({"jsonrpc": "2.0", "method": "add"})))
            await settle()
            for _ in range(2):
                assert port.dispatch(dict(PING))
                await settle()
            assert (caught.value, caught.error) == (None, None)
            assert asked == [{"jsonrpc": "2.0", "method": "ping"}] * 2
            assert wire.sent[1:] == [{**PONG, "id": 1}] * 2
            port.dispatch({"jsonrpc": "2.0", "id": 1, "result": 5})
        assert caught.value == {"jsonrpc": "2.0", "result": 5}


@pytest.mark.parametrize("dialect", [Classic("id"), Exact("id")], ids=["classic", "exact"])
async def test_where_nobody_takes_a_json_rpc_servers_question_it_is_counted_and_logged_and_no_reply(
    dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    async with SessionManager(Wire(), dialect=dialect).port("server") as port, port.session() as session:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: session.send({"jsonrpc": "2.0", "method": "add"})))
            await settle()
            port.dispatch(dict(PING))
            await settle()
            assert (caught.value, caught.error) == (None, None)
            assert port.statistics().no_handler == 1
            assert "give on_request= or on_session=" in caplog.text
            port.dispatch({"jsonrpc": "2.0", "id": 1, "result": 5})
        assert caught.value == {"jsonrpc": "2.0", "result": 5}


async def test_a_json_rpc_servers_question_that_a_receive_loop_hands_to_next_is_never_the_reply() -> None:
    async with SessionManager(Wire(), session_id_name="id").port("server") as port, port.session() as session:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: session.send({"jsonrpc": "2.0", "method": "add"})))
            await settle()
            session.next(dict(PING))
            await settle()
            assert (caught.value, caught.error) == (None, None)
            session.next({"jsonrpc": "2.0", "id": 1, "result": 5})
        assert caught.value == {"jsonrpc": "2.0", "result": 5}


async def test_an_application_says_itself_what_asks_where_the_number_has_another_name() -> None:
    asked: list[Any] = []

    async def handle(session: Session) -> None:
        asked.append(await session.receive())

    dialect = Classic("key", is_question=lambda fields: fields.get("kind") == "ask")
    manager = SessionManager(Wire(), dialect=dialect, on_session=handle, session_ids=range(1, 100))
    async with manager.port("server") as port:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: caught.run(lambda: port.request({"kind": "ask"})))
            await settle()
            port.dispatch({"kind": "ask", "key": 1})
            await settle()
            assert (asked, caught.value, caught.error) == ([{"kind": "ask"}], None, None)
            port.dispatch({"kind": "tell", "key": 1})
        assert caught.value == {"kind": "tell"}


# -- a session that ends while both sides are in it --------------------------------------------------------------------


async def test_a_gateway_that_ends_its_session_gives_up_its_own_turn_alone(autojump_clock: MockClock) -> None:
    async def slow(session: Session) -> None:
        async for message in session:
            await trio.sleep(1)
            await session.post({"for": message["from"]})

    async with gateways(slow) as (left, right):
        one, other = left.create(), right.create()
        first, second = Caught(), Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: first.run(lambda: one.send({"from": "left"})))
            nursery.start_soon(lambda: second.run(lambda: other.send({"from": "right"})))
            await settle()
            assert one.sid == other.sid
            one.end()
        assert (type(first.error), first.at) == (SessionCancelError, 0.0)
        assert (second.value, second.at) == ({"for": "right"}, 1.0)
        other.end()
