"""``on_request``: one question, one answer, on both wires, at once or from a task, with all guarantees of a session."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    Classic,
    Dialect,
    Exact,
    Port,
    SessionError,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import memory_pair

from .peers import Caught, Wire, plain_pair, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from psession import Session

WIRES: dict[str, Dialect] = {"classic": Classic(), "exact": Exact()}
KINDS = ("plain", "async")


def of_kind(kind: str, answer: Callable[[Any], Any], *, after: float = 0.0) -> Callable[[Any], Any]:
    """The same function, or an async one that answers after so many seconds."""
    if kind == "plain":
        return answer

    async def wait(message: Any) -> Any:
        await trio.sleep(after)
        return answer(message)

    return wait


@asynccontextmanager
async def pair(wire: str, answer: Any, **options: Any) -> AsyncIterator[tuple[Port, Port]]:
    """A port that asks and one that answers; both are empty when they are left."""
    here, there = memory_pair()
    asking = SessionManager(dialect=WIRES[wire], session_timeout=5)
    answering = SessionManager(on_request=answer, **options)
    async with answering.port("server", there) as server, asking.port("client", here) as client:
        yield client, server
    assert_empty(answering, server)
    assert_empty(asking, client)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_question_has_its_own_answer(wire: str, kind: str, autojump_clock: MockClock) -> None:
    answer = of_kind(kind, lambda message: {"twice": 2 * message["n"]}, after=0.1)
    got: dict[int, Any] = {}
    async with pair(wire, answer) as (client, server):

        async def ask(n: int) -> None:
            got[n] = await client.request({"n": n})

        async with trio.open_nursery() as nursery:
            for n in range(200):
                nursery.start_soon(ask, n)
        assert got == {n: {"twice": 2 * n} for n in range(200)}
        async with client.session() as session:
            assert [await session.send({"n": n}) for n in range(3)] == [{"twice": 0}, {"twice": 2}, {"twice": 4}]
        await settle()
        counted = server.statistics()
        assert (counted.open, counted.crashed, len(server.sessions)) == (0, 0, 0)
        assert server._engine.connection.handlers == 0
    assert trio.current_time() == (0.0 if kind == "plain" else pytest.approx(0.4))


@pytest.mark.parametrize("wire", WIRES)
async def test_a_plain_function_needs_no_task_and_is_called_in_the_ports_context(
    wire: str, autojump_clock: MockClock
) -> None:
    where = ContextVar("where", default="nowhere")
    seen: list[tuple[str, int]] = []

    def answer(message: Any) -> Any:
        seen.append((where.get(), trio.lowlevel.current_statistics().tasks_living))
        where.set("inside")
        return message

    where.set("at the port")
    async with pair(wire, answer) as (client, _server):
        where.set("later")
        await client.request({"n": 1})
        before = trio.lowlevel.current_statistics().tasks_living
        for n in range(50):
            await client.request({"n": n})
        assert trio.lowlevel.current_statistics().tasks_living == before
    assert {place for place, _ in seen} == {"at the port"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_asker_on_the_exact_wire_is_told_what_was_raised(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(message: Any) -> Any:
        if message["n"] == 1:
            raise SessionRefusedError("full", code="no_room")
        if message["n"] == 2:
            raise KeyError("lamp")
        if message["n"] == 3:
            raise ValueError("no number")
        return {"sid": 5} if message["n"] == 4 else None

    async with pair("exact", of_kind(kind, answer), error_codes={KeyError: "unknown"}) as (client, server):
        codes = {}
        for n in range(1, 6):
            with pytest.raises(SessionRemoteError) as caught:
                await client.request({"n": n})
            codes[n] = (caught.value.code, caught.value.outcome)
        assert codes[1] == ("refused.no_room", "refused")
        assert codes[2] == ("unknown", "sent")
        assert codes[3] == ("crashed", "sent")
        assert codes[4] == ("crashed", "sent")
        assert codes[5] == ("unanswered", "sent")
        assert server.statistics().crashed == 2
    assert "ValueError: no number" in caplog.text
    assert "on_request returned None" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_an_asker_on_the_classic_wire_gets_what_the_application_makes_of_an_error(
    kind: str, autojump_clock: MockClock
) -> None:
    def answer(message: Any) -> Any:
        return {"half": 2 // message["n"]}

    def reply(error: Exception) -> Any:
        return {"error": type(error).__name__} if isinstance(error, ZeroDivisionError) else None

    async with pair("classic", of_kind(kind, answer), error_reply=reply) as (client, server):
        assert await client.request({"n": 0}) == {"error": "ZeroDivisionError"}
        with pytest.raises(SessionTimeoutError):
            await client.request({"m": 0}, timeout=1)
        assert await client.request({"n": 1}) == {"half": 2}
        assert server.statistics().crashed == 2
    async with pair("classic", of_kind(kind, answer)) as (client, server):
        with pytest.raises(SessionTimeoutError):
            await client.request({"n": 0}, timeout=1)


async def test_an_async_one_is_cancelled_when_its_asker_gives_up_or_its_time_is_over(autojump_clock: MockClock) -> None:
    over: list[tuple[str, float]] = []

    async def answer(message: Any) -> Any:
        try:
            await trio.sleep(60)
        finally:
            over.append((message["why"], trio.current_time()))

    async with pair("exact", answer) as (client, server):
        with pytest.raises(SessionTimeoutError):
            await client.request({"why": "timeout"}, timeout=2)
        with trio.move_on_after(3):
            await client.request({"why": "cancelled"}, timeout=20)
        await settle()
        assert over == [("timeout", 2.0), ("cancelled", 5.0)]
        assert server.statistics().given_up + server.statistics().crashed <= 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Caught().run, client.request, {"why": "left"})
            await settle()
            server.close()
        await settle()
    assert over[2:] == [("left", 5.0)]


async def test_the_deadline_of_the_asker_shows(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(1)
        return {"left": trio.current_effective_deadline() - trio.current_time()}

    async with pair("exact", answer) as (client, _server):
        assert (await client.request({"n": 1}, timeout=10))["left"] == pytest.approx(9)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question_that_comes_again_is_not_answered_twice(kind: str, autojump_clock: MockClock) -> None:
    calls: list[Any] = []

    def count(message: Any) -> Any:
        calls.append(message)
        return {"calls": len(calls)}

    wire = Wire()
    async with SessionManager(wire, on_request=of_kind(kind, count, after=1)).port("server") as port:
        question = {"sid": 5, "n": 1, "_turn": 1, "_new": True, "_end": True, "_life": 7, "_wait": 30}
        port.dispatch(question)
        port.dispatch(question)
        await trio.sleep(2)
        port.dispatch(question)
        await settle()
        answers = [message for message in wire.sent if "calls" in message]
        assert calls == [{"n": 1}]
        assert [message["calls"] for message in answers] == [1] * len(answers)
        assert len(answers) >= 2
        assert port.statistics().repeated == 2


async def test_a_late_answer_reaches_no_other_question(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        with trio.CancelScope(shield=True):
            await trio.sleep(message["after"])
        return {"n": message["n"]}

    wire = Wire()
    async with SessionManager(wire, on_request=answer).port("server") as port:
        port.dispatch({"sid": 5, "n": 1, "after": 3, "_turn": 1, "_new": True, "_life": 7})
        await trio.sleep(1)
        port.dispatch({"sid": 5, "_turn": 1, "_error": "cancelled", "_life": 7})
        port.dispatch({"sid": 5, "n": 2, "after": 1, "_turn": 2, "_new": True, "_end": True, "_life": 7})
        await trio.sleep(5)
        assert [(message["n"], message["_re"]) for message in wire.sent if "n" in message] == [(2, 2)]
        assert port._engine.connection.handlers == 0


async def test_a_post_is_heard_and_not_answered(autojump_clock: MockClock) -> None:
    heard: list[Any] = []

    def answer(message: Any) -> Any:
        heard.append(message)
        return {"answer": 1}

    async with pair("exact", answer) as (client, _server):
        async with client.session() as session:
            await session.post({"n": 1})
            await session.post({"n": 2})
            await settle()
            assert not session._live.has_message
        await settle()
    assert heard == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("wire", WIRES)
async def test_beside_on_session_it_gets_what_says_that_nothing_will_follow(
    wire: str, autojump_clock: MockClock
) -> None:
    async def dialogue(session: Session) -> None:
        async for _ in session:
            await session.post({"by": "on_session"})

    async with pair(wire, lambda _: {"by": "on_request"}, on_session=dialogue) as (client, _server):
        asked = {"by": "on_request" if wire == "exact" else "on_session"}
        assert await client.request({"n": 1}) == asked
        async with client.session() as session:
            assert await session.send({"n": 1}) == {"by": "on_session"}


@pytest.mark.parametrize("wire", WIRES)
async def test_as_many_run_as_sessions_may_be_at_work_and_one_more_is_refused(
    wire: str, autojump_clock: MockClock
) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(1)
        return message

    async with pair(wire, answer, max_incoming_sessions=3) as (client, server):
        asked = [Caught() for _ in range(5)]
        async with trio.open_nursery() as nursery:
            for n, caught in enumerate(asked):
                nursery.start_soon(caught.run, client.request, {"n": n})
        refused = [caught.error for caught in asked if caught.error is not None]
        assert (len(refused), server.statistics().refused) == (2, 2)
        assert all(isinstance(error, SessionError) for error in refused)
        assert await client.request({"n": 9}) == {"n": 9}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_waits_for_room_where_the_peer_does_not_read(kind: str, autojump_clock: MockClock) -> None:
    here, there = plain_pair(0)
    manager = SessionManager(on_request=of_kind(kind, lambda message: {"n": message["n"]}), max_queued_bytes=1)
    async with manager.port("server", there) as port:
        for n in range(5):
            port.dispatch({"sid": n + 1, "n": n})
            await settle()
        got = [await here.receive() for _ in range(5)]
        assert [message["n"] for message in got] == [0, 1, 2, 3, 4]
        await settle()
        assert port._engine.connection.handlers == 0
    assert_empty(manager, port)


async def test_draining_waits_for_those_at_work(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(2)
        return message

    async with pair("exact", answer) as (client, server):
        async with trio.open_nursery() as nursery:
            caught = Caught()
            nursery.start_soon(caught.run, client.request, {"n": 1})
            await settle()
            await server.drain()
            assert trio.current_time() == 2.0
        assert caught.value == {"n": 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_under_strict_what_it_raises_fails_the_port_and_nobody_elses_task(kind: str) -> None:
    def answer(message: Any) -> Any:
        raise ValueError("no")

    async def ask() -> None:
        async with pair("exact", of_kind(kind, answer), strict=True) as (client, server):
            with pytest.raises(SessionError):
                await client.request({"n": 1})
            await server.wait_closed()

    with pytest.raises(ValueError, match="no"):
        await ask()


async def test_long_messages_count_while_it_is_at_work_on_them(autojump_clock: MockClock) -> None:
    async def answer(message: Any) -> Any:
        await trio.sleep(1)
        return {"n": message["n"]}

    wire = Wire()
    async with SessionManager(wire, on_request=answer, max_held_bytes=100_000).port("server") as port:
        for n in range(1, 50):
            port.dispatch({"sid": n, "n": n, "text": "x" * 20_000})
        account = port._engine.account
        assert 250_000 < account.lent <= 300_000
        await trio.sleep(2)
        assert (account.lent, account.used, port._engine.connection.handlers) == (0, 0, 0)
        assert port.statistics().overrun == 49 - len(wire.sent) > 30


def test_what_cannot_answer_is_refused() -> None:
    with pytest.raises(TypeError, match="on_request must be callable"):
        SessionManager(on_request=5)  # type: ignore[arg-type]


# -- generators: an answer of many parts ------------------------------------------------------------------------------


async def count_up(message: Any) -> AsyncIterator[Any]:
    """Yield as many numbers as asked for."""
    for n in range(message["count"]):
        yield {"n": n}


async def test_what_a_generator_yields_are_the_parts_of_a_stream(autojump_clock: MockClock) -> None:
    async with pair("exact", count_up) as (client, server):
        for count in (0, 1, 200):
            async with client.stream({"count": count}) as replies:
                assert [part["n"] async for part in replies] == list(range(count))
        async with client.session() as session:  # a dialogue goes on after a stream
            async with session.stream({"count": 3}) as replies:
                assert [part["n"] async for part in replies] == [0, 1, 2]
            async with session.stream({"count": 2}) as replies:
                assert [part["n"] async for part in replies] == [0, 1]
            assert not session.closed
        await settle()
        assert server._engine.connection.handlers == 0


async def test_a_generator_makes_no_more_than_there_is_credit_for(autojump_clock: MockClock) -> None:
    made: list[int] = []

    async def endless(message: Any) -> AsyncIterator[Any]:
        for n in range(message["most"]):
            made.append(n)
            yield {"n": n}

    async with pair("exact", endless) as (client, _server):
        async with client.stream({"most": 10**6}, credit=4) as replies:
            await settle()
            assert len(made) <= 4 + 1
            assert (await anext(aiter(replies)))["n"] == 0
        await settle()
        assert len(made) <= 8


async def test_a_generator_is_closed_when_its_asker_leaves_and_tells_what_it_raises(autojump_clock: MockClock) -> None:
    closed: list[float] = []

    async def ticks(message: Any) -> AsyncIterator[Any]:
        try:
            while True:
                await trio.sleep(1)
                if message["fails_at"] == trio.current_time():
                    raise SessionRefusedError("no more", code="over")
                yield {"at": trio.current_time()}
        finally:
            closed.append(trio.current_time())

    async with pair("exact", ticks) as (client, server):
        async with client.stream({"fails_at": 0}, timeout=30) as replies:
            async for part in replies:
                if part["at"] == 3:
                    break
        await settle()
        assert closed == [3.0]
        async with client.stream({"fails_at": 5}, timeout=30) as replies:
            assert (await anext(aiter(replies)))["at"] == 4.0
            with pytest.raises(SessionRemoteError) as caught:
                await anext(aiter(replies))
        assert (caught.value.code, closed) == ("refused.over", [3.0, 5.0])
        async with client.stream({"fails_at": 0}, timeout=30) as replies:
            assert (await anext(aiter(replies)))["at"] == 6.0
            server.close()
            with pytest.raises(SessionError):
                await anext(aiter(replies))
        await settle()
    assert closed == [3.0, 5.0, 6.0]


async def test_who_asks_a_generator_for_one_answer_is_told_to_ask_for_a_stream(autojump_clock: MockClock) -> None:
    started: list[Any] = []

    async def many(message: Any) -> AsyncIterator[Any]:
        started.append(message)
        yield {"n": 1}

    async with pair("exact", many) as (client, server):
        with pytest.raises(SessionRemoteError, match=r"ask for them with stream\(\)") as caught:
            await client.request({"n": 1})
        assert (caught.value.code, caught.value.outcome, started) == ("refused.stream", "refused", [])
        assert server.statistics().crashed == 0


async def test_a_function_that_gives_one_answer_answers_a_stream_with_one_part(autojump_clock: MockClock) -> None:
    for kind in KINDS:
        answer = of_kind(kind, lambda message: {"n": message["n"]}, after=1)
        async with pair("exact", answer) as (client, _server), client.stream({"n": 5}) as replies:
            assert [part async for part in replies] == [{"n": 5}]


async def test_on_the_classic_wire_each_part_is_a_message_of_its_session(autojump_clock: MockClock) -> None:
    async with pair("classic", count_up) as (client, server):
        async with client.session() as session:
            assert await session.send({"count": 3}) == {"n": 0}
            assert [await session.receive(timeout=1) for _ in range(2)] == [{"n": 1}, {"n": 2}]
        await settle()
        assert server._engine.connection.handlers == 0


# -- the function may do what it likes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_plain_function_may_close_its_port_or_drain_it_or_ask_for_what_it_answers(
    wire: str, autojump_clock: MockClock
) -> None:
    calls: list[str] = []
    ports: list[Port] = []

    def question(n: int, what: str) -> dict[str, Any]:
        header = {"_turn": n, "_new": True, "_end": True, "_life": 7} if wire == "exact" else {}
        return {"sid": n, "what": what, **header}

    def answer(message: Any) -> Any:
        calls.append(message["what"])
        if message["what"] == "again" and len(calls) < 3:
            ports[0].dispatch(question(2, "again"))
        if message["what"] == "close":
            ports[0].close()
        return {"answer": message["what"]}

    out = Wire()
    manager = SessionManager(out, on_request=answer, dialect=WIRES[wire], session_ids=range(100, 200))
    async with manager.port("server") as port:
        ports.append(port)
        for n, what in enumerate(["first", "again", "close"], 1):
            port.dispatch(question(n, what))
            await settle()
        assert port.closed
        # On the exact wire what came again while it ran was not run again; the classic one cannot tell.
        assert calls == ["first", "again", *(["again"] if wire == "classic" else []), "close"]
        assert [message["answer"] for message in out.sent if "answer" in message] == calls[:-1]
    assert_empty(manager, port)


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_peer_marked_what_opens_a_question_without_that_mark_is_refused(
    kind: str, autojump_clock: MockClock
) -> None:
    out = Wire()
    async with SessionManager(out, on_request=of_kind(kind, lambda message: message)).port("server") as port:
        port.dispatch({"sid": 1, "n": 1, "_turn": 1, "_life": 7, "_end": True})
        port.dispatch({"sid": 2, "n": 2, "_turn": 2, "_life": 7, "_end": True, "_new": True})
        port.dispatch({"sid": 3, "n": 3, "_turn": 3, "_life": 7, "_end": True})
        await settle()
        said = {message["_re"]: message.get("n", message.get("_error")) for message in out.sent if "_re" in message}
        assert said == {1: 1, 2: 2, 3: "refused.no_session"}
