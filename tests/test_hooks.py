"""Listeners are told of turns, sessions, links and messages on both sides, and harm nobody."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import (
    Exact,
    Session,
    SessionError,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
    hooks,
)
from psession.channels import memory_pair
from psession.protocol.counters import Drop
from psession.shell.port import engine_of
from psession.testing import lossy

from .links import Network, Work, client
from .peers import settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from psession import PortOptions

Log = list[hooks.Event]


def named(log: Log, port: str = "client") -> list[str]:
    """The kinds of the events of a port, in their order; of a turn's with its side's first letter."""
    return [type(event).__name__ for event in log if event.port == port]


def of_kind(log: Log, kind: type[Any]) -> list[Any]:
    """The events of that kind."""
    return [event for event in log if type(event) is kind]


async def lamp(session: Session) -> None:
    """Answer each message, or do as it says."""
    async for message in session:
        if "parts" in message:
            for number in range(message["parts"]):
                await session.post({"n": number})
        elif message.get("crash"):
            raise ValueError("broken")
        elif message.get("refuse"):
            raise SessionRefusedError("no", code="busy")
        elif message.get("sleep"):
            await trio.sleep(message["sleep"])
            await session.post({})
        elif not message.get("ignore"):
            await session.post({"status": "ok"})


async def answer(message: dict[str, Any]) -> dict[str, Any]:
    """Answer, in a task of its own."""
    await trio.sleep(message.get("sleep", 0))
    if message.get("crash"):
        raise ValueError("broken")
    return {"status": "ok"}


def answer_at_once(message: dict[str, Any]) -> dict[str, Any]:
    """Answer in the reader's own step."""
    if message.get("crash"):
        raise ValueError("broken")
    return {"status": "ok"}


async def parts(message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Answer a stream."""
    for number in range(message["parts"]):
        yield {"n": number}


EACH_WIRE = pytest.mark.parametrize("dialect", [None, Exact()], ids=["classic", "exact"])
EACH_HANDLER = pytest.mark.parametrize(
    "server",
    [{"on_session": lamp}, {"on_request": answer}, {"on_request": answer_at_once}],
    ids=["on_session", "async on_request", "plain on_request"],
)


@EACH_WIRE
@EACH_HANDLER
async def test_a_turn_is_told_of_on_both_sides(dialect: Any, server: PortOptions, autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=dialect)
    manager.observe(log.append, hooks.TurnStarted, hooks.TurnAttempted, hooks.TurnAnswered)
    async with manager.port("server", there, **server), manager.port("client", here) as port:
        question = {"command": "status"}
        reply = await port.request(question)
    assert named(log) == ["TurnStarted", "TurnAttempted", "TurnAnswered"]
    assert named(log, "server") == ["TurnStarted", "TurnAnswered"]
    asked, theirs = of_kind(log, hooks.TurnStarted)
    assert (asked.turn.side, theirs.turn.side) == ("asker", "answerer")
    assert asked.turn.payload is question
    assert theirs.turn.payload == question
    assert (asked.turn.sid, asked.turn.number) == (theirs.turn.sid, theirs.turn.number)
    assert (asked.turn.number > 0) == (dialect is not None)
    their_end, end = of_kind(log, hooks.TurnAnswered)
    assert (end.turn, their_end.turn) == (asked.turn, theirs.turn)
    assert end.payload is reply
    assert their_end.payload == reply


@EACH_WIRE
@EACH_HANDLER
async def test_a_turn_that_fails_says_why_on_both_sides(
    dialect: Any, server: PortOptions, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=dialect, session_timeout=2)
    manager.observe(log.append, hooks.TurnFailed)
    async with manager.port("server", there, **server), manager.port("client", here) as port:
        with pytest.raises((SessionTimeoutError, SessionRemoteError)) as caught:
            await port.request({"crash": True}, retry_count=0)
    theirs, ours = log
    assert isinstance(theirs, hooks.TurnFailed)
    assert isinstance(ours, hooks.TurnFailed)
    assert (theirs.reason, theirs.outcome, str(theirs.error)) == ("crashed", "sent", "broken")
    assert (ours.reason, ours.outcome) == ("timeout" if dialect is None else "remote", "sent")
    assert ours.error is caught.value
    assert ours.seconds == (2.0 if dialect is None else 0.0)
    assert ours.turn.attempts == 1


async def test_a_refusal_is_safe_to_ask_again_and_both_sides_are_told_so(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=Exact())
    manager.observe(log.append, hooks.TurnFailed)
    async with manager.port("server", there, on_session=lamp), manager.port("client", here) as port:
        with pytest.raises(SessionRemoteError):
            await port.request({"refuse": True})
    assert [(event.reason, event.outcome) for event in of_kind(log, hooks.TurnFailed)] == [
        ("refused.busy", "refused"),
        ("remote", "refused"),
    ]


@pytest.mark.parametrize("server", [{"on_session": lamp}, {"on_request": answer}], ids=["on_session", "on_request"])
async def test_a_turn_that_is_given_up_ends_on_both_sides(server: PortOptions, autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=Exact(), deadlines=False)
    manager.observe(log.append, hooks.TurnFailed)
    async with manager.port("server", there, **server), manager.port("client", here) as port:
        with trio.move_on_after(1):
            await port.request({"sleep": 10})
        await settle()
    assert [(event.port, event.reason, event.time) for event in of_kind(log, hooks.TurnFailed)] == [
        ("client", "cancelled", 1.0),
        ("server", "given_up", 1.0),
    ]


async def test_a_message_that_nobody_answered_is_told_as_unanswered_when_the_next_comes(
    autojump_clock: MockClock,
) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(on_unanswered="keep", session_timeout=1)
    async with manager.port("server", there, on_session=lamp) as server, manager.port("client", here) as port:
        with server.observe(log.append, hooks.TurnFailed, hooks.TurnAnswered):
            async with port.session() as session:
                with pytest.raises(SessionTimeoutError):
                    await session.send({"ignore": True})
                await session.send({})
    assert named(log, "server") == ["TurnFailed", "TurnAnswered"]
    assert of_kind(log, hooks.TurnFailed)[0].reason == "unanswered"


@pytest.mark.parametrize("server", [{"on_session": lamp}, {"on_request": parts}], ids=["on_session", "on_request"])
async def test_the_parts_of_a_stream_are_told_of_on_both_sides(server: PortOptions, autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=Exact())
    manager.observe(log.append, hooks.TurnStarted, hooks.TurnPart, hooks.TurnAnswered, hooks.TurnFailed)
    opened = manager.port("server", there, **server)
    async with opened, manager.port("client", here) as port, port.stream({"parts": 3}) as replies:
        taken = [reply async for reply in replies]
    for name in ("client", "server"):
        assert named(log, name) == ["TurnStarted", *["TurnPart"] * 3, "TurnAnswered"]
    ours = [event for event in of_kind(log, hooks.TurnPart) if event.port == "client"]
    assert [event.payload for event in ours] == taken == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {event.turn.parts for event in of_kind(log, hooks.TurnPart)} == {3}
    assert all(event.turn.streamed for event in of_kind(log, hooks.TurnStarted))


async def test_a_stream_that_is_left_early_is_told_as_cancelled_and_one_with_enough_as_answered(
    autojump_clock: MockClock,
) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=Exact())
    async with manager.port("server", there, on_request=parts), manager.port("client", here) as port:
        port.observe(log.append, hooks.TurnAnswered, hooks.TurnFailed)
        async with port.stream({"parts": 100}) as replies:
            await replies.receive()
        async with port.stream({"parts": 100}, count=2) as replies:
            assert [reply["n"] async for reply in replies] == [0, 1]
    assert named(log) == ["TurnFailed", "TurnAnswered"]
    assert of_kind(log, hooks.TurnFailed)[0].reason == "cancelled"


async def test_retries_are_attempts_of_the_same_turn(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    async with SessionManager().port("client", here) as port:
        port.observe(log.append, hooks.TurnAttempted)
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1, retry_count=2, retry_interval=0.5)
        attempts = of_kind(log, hooks.TurnAttempted)
        assert [(event.attempt, event.time) for event in attempts] == [(1, 0.0), (2, 1.5), (3, 3.0)]
        assert len({event.turn for event in attempts}) == 1
        assert port.statistics().retried == 2
    await there.aclose()


async def test_sessions_posts_and_drops_are_told_of(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    async with SessionManager(dialect=Exact()).port("client", here) as port:
        port.observe(log.append)
        with port.create() as session:
            await session.post({"hello": 1})
        await port.post({"plain": 1})
        await there.send({"sid": 9, "_re": 77, "_life": 5})
        await there.send({"plain": 2})
        await settle()
    assert [type(event) for event in log] == [
        hooks.SessionOpened,
        hooks.MessagePosted,
        hooks.SessionEnded,
        hooks.MessagePosted,
        hooks.MessageDropped,
        hooks.MessagePosted,
        hooks.MessageDropped,
        hooks.LinkDown,
        hooks.PortClosed,
    ]
    posts = [(event.sid, event.incoming, event.payload) for event in of_kind(log, hooks.MessagePosted)]
    assert posts == [(1, False, {"hello": 1}), (None, False, {"plain": 1}), (None, True, {"plain": 2})]
    assert [(event.reason, event.sid) for event in of_kind(log, hooks.MessageDropped)] == [
        ("stale_own", 9),
        ("unheard", None),
    ]


async def test_who_hears_of_ports_and_links_alone_costs_no_turn_anything(autojump_clock: MockClock) -> None:
    log: Log = []
    here, there = memory_pair()
    manager = SessionManager()
    manager.observe(log.append, hooks.LinkUp, hooks.PortClosed)
    async with SessionManager(on_request=answer_at_once).port("server", there), manager.port("client", here) as port:
        assert not engine_of(port).told.listens
        with manager.observe(log.append, hooks.TurnAnswered):
            assert engine_of(port).told.listens
            assert await port.request({}) == {"status": "ok"}
        assert not engine_of(port).told.listens
        assert await port.request({}) == {"status": "ok"}
    assert named(log) == ["LinkUp", "TurnAnswered", "PortClosed"]


async def test_a_port_and_its_link_are_told_of_with_the_reason_of_their_end(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager()
    manager.observe(log.append)
    async with manager.port("client", here) as port:
        await there.aclose()
        await port.wait_closed()
        with pytest.raises(Exception, match="closed"):
            await port.request({})
    assert named(log) == ["PortOpened", "LinkUp", "LinkDown", "PortClosed"]
    closed = of_kind(log, hooks.PortClosed)[0]
    assert (closed.reason, closed.error) == ("the peer closed the channel", None)


async def test_who_asks_for_some_kinds_hears_of_no_others_and_nobody_after_the_end(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    log: Log = []
    answered: Log = []
    manager = SessionManager()
    async with manager.port("server", there, on_session=lamp), manager.port("client", here) as port:
        observation = port.observe(answered.append, hooks.TurnAnswered)
        with manager.observe(log.append):
            await port.request({})
        await port.request({})
        observation.end()
        observation.end()
        await port.request({})
        assert not port._engine.told.listens
    assert len(answered) == 2
    assert len(of_kind(log, hooks.TurnAnswered)) == 2  # both sides' of the first


@EACH_WIRE
@EACH_HANDLER
async def test_a_listener_that_raises_harms_nobody_and_is_logged_within_a_budget(
    dialect: Any, server: PortOptions, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = memory_pair()
    log: Log = []

    def broken(event: hooks.Event) -> None:
        log.append(event)
        raise RuntimeError("a fault of the listener's")

    manager = SessionManager(dialect=dialect)
    manager.observe(broken)
    async with manager.port("server", there, **server), manager.port("client", here) as port:
        for _ in range(50):
            assert await port.request({}) == {"status": "ok"}
    assert len(log) > 250
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert lines[0] == "port 'server': a listener of PortOpened raised"
    assert len(lines) <= 5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda one: one.observe(5), "a listener must be callable with an event, which 5 is not"),
        (
            lambda one: one.observe(print, "TurnFailed"),
            "'TurnFailed' is no kind of event; psession.hooks has",
        ),
        (lambda one: one.observe(print, Exception), "is no kind of event"),
    ],
    ids=["no function", "a name", "another class"],
)
async def test_what_cannot_listen_is_refused(call: Callable[[Any], object], text: str) -> None:
    here, _ = memory_pair()
    manager = SessionManager()
    async with manager.port("client", here) as port:
        for one in (manager, port):
            with pytest.raises(TypeError, match=text):
                call(one)


async def test_waiting_turns_can_be_seen_with_their_questions_and_ages(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager(session_timeout=60)
    async with manager.port("client", here) as port, trio.open_nursery() as nursery:
        assert (port.waiting, port.statistics().waiting, port.statistics().oldest) == ([], 0, 0.0)
        for number in range(3):
            nursery.start_soon(port.request, {"n": number})
            await trio.sleep(1)
        seen = [(one.payload, one.seconds, one.attempts, one.sent) for one in port.waiting]
        assert seen == [({"n": 0}, 3.0, 1, 1), ({"n": 1}, 2.0, 1, 1), ({"n": 2}, 1.0, 1, 1)]
        assert (port.statistics().waiting, port.statistics().oldest) == (3, 3.0)
        assert (manager.statistics().waiting, manager.statistics().oldest) == (3, 3.0)
        assert port.statistics().silent == float("inf")
        await there.send({"hello": 1})
        await trio.sleep(2)
        assert port.statistics().silent == manager.statistics().silent == 2.0
        nursery.cancel_scope.cancel()
    assert (manager.statistics().waiting, manager.statistics().silent) == (0, float("inf"))


async def test_latency_is_counted_by_outcome_for_ports_and_managers(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact())
    async with manager.port("server", there, on_session=lamp), manager.port("client", here) as port:
        await port.request({"sleep": 0.2})
        await port.request({"sleep": 0.2})
        await port.request({})
        with pytest.raises(SessionTimeoutError):
            await port.request({"sleep": 9}, timeout=4)
        with trio.move_on_after(1):
            await port.request({"sleep": 9})
        with pytest.raises(SessionRemoteError):
            await port.request({"refuse": True})
        latency = port.statistics().latency
        assert {outcome: each.count for outcome, each in latency.items()} == {
            "answered": 3,
            "timed_out": 1,
            "cancelled": 1,
            "failed": 1,
        }
        answered = latency["answered"]
        assert answered.seconds == pytest.approx(0.4)
        assert (answered.quantile(0.5), answered.quantile(0.1)) == (0.25, 0.0001)
        assert latency["timed_out"].quantile(1) == 5.0
    assert manager.statistics().latency == latency


# -- a place in a trace ------------------------------------------------------------------------------------------------

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def give(**carrier: Any) -> Callable[[hooks.TurnStarted], None]:
    """A listener that gives each turn of an asker's this place in a trace."""

    def listener(event: hooks.TurnStarted) -> None:
        if event.turn.side == "asker":
            event.carrier.update(carrier)

    return listener


async def test_what_a_listener_says_of_the_trace_is_in_the_header_of_each_attempt(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=Exact()).port("client", here) as port:
        port.observe(give(traceparent=PARENT, tracestate="vendor=1", baggage="a=b"), hooks.TurnStarted)
        with pytest.raises(SessionTimeoutError):
            await port.request({"q": 1}, timeout=1, retry_count=1)
        for _ in range(2):
            question = await there.receive()
            assert (question["_traceparent"], question["_tracestate"]) == (PARENT, "vendor=1")
            assert "baggage" not in question
        async with port.stream({"q": 2}):
            await there.receive()  # the first turn is given up
            assert (await there.receive())["_traceparent"] == PARENT


@pytest.mark.parametrize(
    ("carrier", "there_is"),
    [
        ({}, []),
        ({"tracestate": "vendor=1"}, []),
        ({"traceparent": ""}, []),
        ({"traceparent": 5}, []),
        ({"traceparent": "x" * 129}, []),
        ({"traceparent": "x" * 128}, ["_traceparent"]),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, ["_traceparent"]),
        ({"traceparent": PARENT, "tracestate": "x" * 512}, ["_traceparent", "_tracestate"]),
    ],
)
async def test_what_is_no_place_in_a_trace_is_left_out(
    carrier: dict[str, Any], there_is: list[str], autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=Exact()).port("client", here) as port, trio.open_nursery() as nursery:
        port.observe(give(**carrier), hooks.TurnStarted)
        nursery.start_soon(port.request, {})
        question = await there.receive()
        assert [name for name in question if "trace" in name] == there_is
        await there.send({"sid": 1, "_re": 1, "_life": question["_life"]})


async def test_a_peer_that_is_known_to_be_classic_is_sent_no_trace(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=Exact()).port("client", here) as port, trio.open_nursery() as nursery:
        port.observe(give(traceparent=PARENT), hooks.TurnStarted)
        for sent in (True, False):
            nursery.start_soon(port.request, {})
            question = await there.receive()
            assert ("_traceparent" in question) == sent
            await there.send({"sid": question["sid"]})
            await settle()


@pytest.mark.parametrize("server", [{"on_session": lamp}, {"on_request": answer}], ids=["on_session", "on_request"])
@pytest.mark.parametrize(
    "more",
    [{}, {"_end": True}, {"_wait": 5}, {"_credit": 3, "_part": 1}, {"unknown": {"_x": 1}}],
    ids=["a question", "a request", "a wait", "a stream", "a field of its own"],
)
async def test_the_answerers_listener_finds_the_trace_and_its_application_does_not(
    server: PortOptions, more: dict[str, Any], autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    log: Log = []
    async with SessionManager().port("server", here, **server) as port:
        port.observe(log.append, hooks.TurnStarted)
        trace = {"_traceparent": PARENT, "_tracestate": "vendor=1"}
        for turn in (1, 2):
            fields = {"sid": 70_000 + turn * ("_end" in more), "_turn": turn, "_new": True, "_life": 5}
            if turn == 2 and "_end" not in more:
                del fields["_new"]  # the fast way of an open session
            await there.send({"q": 1, **fields, **more, **trace})
            await settle()
    started = of_kind(log, hooks.TurnStarted)
    assert [event.carrier for event in started] == [{"traceparent": PARENT, "tracestate": "vendor=1"}] * 2
    own = {name: value for name, value in more.items() if not name.startswith("_")}
    assert [event.turn.payload for event in started] == [{"q": 1, **own}] * 2


async def test_a_listener_sets_context_variables_for_the_handler(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    variable: ContextVar[str] = ContextVar("variable", default="nobody")
    seen: list[str] = []

    async def in_a_task(message: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(1)
        seen.append(variable.get())
        return {}

    def at_once(message: dict[str, Any]) -> dict[str, Any]:
        seen.append(variable.get())
        return {}

    async def dialogue(session: Session) -> None:
        async for _ in session:
            seen.append(variable.get())
            await session.post({})

    def listener(event: hooks.TurnStarted) -> None:
        if event.turn.side == "answerer":
            variable.set(event.turn.payload["name"])

    for options in ({"on_session": dialogue}, {"on_request": in_a_task}, {"on_request": at_once}):
        here, there = memory_pair()
        manager = SessionManager()
        manager.observe(listener, hooks.TurnStarted)
        server: Any = options
        async with manager.port("server", there, **server), manager.port("client", here) as port:
            async with trio.open_nursery() as nursery:
                for name in ("a", "b"):
                    nursery.start_soon(port.request, {"name": name})
            assert (sorted(seen), variable.get()) == (["a", "b"], "nobody")
            seen.clear()


# -- links, and bad networks -------------------------------------------------------------------------------------------


async def test_a_link_that_comes_back_is_told_of_on_both_sides_and_the_turn_is_asked_again(
    autojump_clock: MockClock,
) -> None:
    log: Log = []
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        network.server.observe(log.append, hooks.LinkUp, hooks.LinkDown)
        async with client(network) as port:
            port.observe(log.append, hooks.LinkUp, hooks.LinkDown, hooks.TurnAttempted, hooks.TurnAnswered)
            nursery.start_soon(port.request, {"n": 7, "sleep": 3})
            await trio.sleep(1)
            await network.cut()
            await trio.sleep(5)
            name = port.name
    assert named(log, name) == ["TurnAttempted", "LinkDown", "LinkUp", "TurnAttempted", "TurnAnswered", "LinkDown"]
    theirs = [event for event in log if event.port != name]
    assert [type(event).__name__ for event in theirs] == ["LinkUp", "LinkDown", "LinkUp", "LinkDown"]
    assert [event.resumed for event in of_kind(log, hooks.LinkUp) if event.port == name] == [True]
    assert [event.resumed for event in of_kind(theirs, hooks.LinkUp)] == [None, True]


@EACH_WIRE
@EACH_HANDLER
@pytest.mark.parametrize("seed", range(6))
async def test_each_turn_has_one_beginning_and_one_end_on_each_side_whatever_the_network_does(
    dialect: Any, server: PortOptions, seed: int, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()
    log: Log = []
    manager = SessionManager(dialect=dialect, session_timeout=1, retry_count=2)
    manager.observe(log.append)

    async def ask(port: Any, number: int) -> None:
        question = {"n": number, "sleep": number % 3 * 0.7, "crash": number % 7 == 5, "ignore": number % 9 == 8}
        with suppress(SessionError), trio.move_on_after(0.5 + number % 4):
            if number % 2:
                await port.request(question)
            else:
                async with port.session() as session:
                    for _ in range(3):
                        await session.send(question)

    network = lossy(here, seed=seed, drop=0.2, duplicate=0.2, delay=(0.0, 1.5), reorder=0.2)
    opened = manager.port("server", there, **server)
    async with network as bad, opened, manager.port("client", bad) as port:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(ask, port, number)
        await trio.sleep(10)
    under_way: dict[hooks.Turn, list[str]] = {}
    for event in log:
        if isinstance(event, hooks.TurnStarted):
            assert event.turn not in under_way
            under_way[event.turn] = []
        elif isinstance(event, hooks.TurnAttempted | hooks.TurnAnswered | hooks.TurnFailed):
            under_way[event.turn].append(type(event).__name__)
            assert event.time >= event.turn.started
    assert len(under_way) > 40
    for turn, told in under_way.items():
        *attempts, end = told
        assert end in ("TurnAnswered", "TurnFailed"), turn
        assert attempts == ["TurnAttempted"] * turn.attempts
        assert (turn.attempts > 0) == (turn.side == "asker")
    counted = port.statistics()
    ours = [event for event in log if event.port == "client"]
    assert len(of_kind(ours, hooks.TurnAnswered)) == counted.latency["answered"].count == counted.matched
    drops = [event.reason for event in of_kind(ours, hooks.MessageDropped)]
    assert len(drops) == sum(getattr(counted, reason.value) for reason in Drop)
