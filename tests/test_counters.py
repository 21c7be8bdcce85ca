"""Every reason for which a message is dropped has a counter and one line in the log, and a timeout tells of them."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Session, SessionManager, SessionOverrunError, SessionTimeoutError, Statistics
from psession.channels import memory_pair
from psession.protocol.counters import ADVICE, EXPECTED, Counters, Drop

from .peers import Caught, Wire, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from psession import Port

Peer = trio.abc.Channel[Any]
LIFE = 5

# -- two messages that are dropped, for each reason --------------------------------------------------------------------


async def tell(peer: Peer, *messages: dict[str, Any]) -> None:
    """Send them, and see them arrive."""
    for message in messages:
        await peer.send(message)
        await settle()


async def silent(session: Session) -> None:
    """Take what comes, and say nothing."""
    async for _ in session:
        pass


async def working(session: Session) -> None:
    """Be at work for ever."""
    await trio.sleep_forever()


async def late(port: Port, peer: Peer) -> None:
    with pytest.raises(SessionTimeoutError):
        await port.request({}, timeout=1)
    question = await peer.receive()
    await tell(peer, *[{"sid": question["sid"]}] * 2)


async def late_exactly(port: Port, peer: Peer) -> None:
    for _ in range(2):
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1)
        question = await peer.receive()
        assert (await peer.receive())["_error"] == "timeout"
        await tell(peer, {"sid": question["sid"], "_re": question["_turn"], "_life": question["_life"]})


async def duplicate(port: Port, peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.request, {})
        question = await peer.receive()
        await tell(peer, *[{"sid": question["sid"]}] * 3)


async def duplicate_exactly(port: Port, peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.request, {})
        question = await peer.receive()
        answer = {"sid": question["sid"], "_re": question["_turn"], "_life": question["_life"]}
        await tell(peer, *[answer] * 3)


async def unknown_sid(port: Port, peer: Peer) -> None:
    await tell(peer, {"sid": 7}, {"sid": 8})


async def no_session(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"sid": 70_000, "_part": 1, "_life": LIFE}] * 2)


async def no_session_for_a_question(port: Port, peer: Peer) -> None:
    await tell(peer, {"sid": 70_000, "_turn": 1, "_new": True, "_end": True, "_life": LIFE})
    await tell(peer, *[{"sid": 70_001 + n, "_turn": 2 + n, "_life": LIFE} for n in range(2)])


async def no_handler(port: Port, peer: Peer) -> None:
    await tell(peer, {"sid": 70_000}, {"sid": 70_001})


async def no_handler_exactly(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"sid": 70_000, "_turn": 1 + n, "_new": True, "_life": LIFE} for n in range(2)])


async def stale_own(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"sid": 1, "_re": 1, "_life": LIFE}] * 2)


async def stale_peer(port: Port, peer: Peer) -> None:
    for life in (LIFE, LIFE + 1):
        await tell(peer, {"sid": 70_000, "_turn": 1, "_new": True, "_life": life})
    await tell(peer, *[{"sid": 70_000, "_turn": 2, "_life": LIFE}] * 2)


async def malformed(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"sid": 70_000, "_turn": -1, "_life": LIFE}] * 2)


async def overrun(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"plain": n} for n in range(4)])


async def overrun_in_a_session(port: Port, peer: Peer) -> None:
    for _ in range(2):
        session = port.create()
        await tell(peer, *[{"sid": session.sid}] * 2)
        with pytest.raises(SessionOverrunError):
            await session.receive()


async def refused(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"sid": 1 + n} for n in range(3)])


async def refused_exactly(port: Port, peer: Peer) -> None:
    await tell(peer, *[{"sid": 70_000 + n, "_turn": 1 + n, "_new": True, "_life": LIFE} for n in range(3)])


async def closing(port: Port, peer: Peer) -> None:
    await drained(port, peer, {"sid": 2}, {"sid": 3})


async def closing_exactly(port: Port, peer: Peer) -> None:
    fields = {"_new": True, "_life": LIFE}
    await drained(port, peer, *[{"sid": 70_002 + n, "_turn": 1 + n, **fields} for n in range(2)])


async def drained(port: Port, peer: Peer, *messages: dict[str, Any]) -> None:
    """Tell a port that is being drained, and waits for a handler."""
    await tell(peer, {"sid": 1})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.drain, 1)
        await settle()
        await tell(peer, *messages)


async def unheard(port: Port, peer: Peer) -> None:
    await tell(peer, {"plain": 1}, {"plain": 2})


async def take_your_time(payload: Any) -> None:
    """Hear one message for ever."""
    await trio.sleep_forever()


EXACT: dict[str, Any] = {"dialect": Exact()}
CASES: list[tuple[Drop, Callable[[Port, Peer], Awaitable[None]], dict[str, Any]]] = [
    (Drop.LATE, late, {}),
    (Drop.LATE, late_exactly, EXACT),
    (Drop.DUPLICATE, duplicate, {}),
    (Drop.DUPLICATE, duplicate_exactly, EXACT),
    (Drop.UNKNOWN_SID, unknown_sid, {}),
    (Drop.NO_SESSION, no_session, EXACT),
    (Drop.NO_SESSION, no_session_for_a_question, {"on_session": silent}),
    (Drop.NO_HANDLER, no_handler, {}),
    (Drop.NO_HANDLER, no_handler_exactly, {}),
    (Drop.STALE_OWN, stale_own, EXACT),
    (Drop.STALE_PEER, stale_peer, {"on_session": silent}),
    (Drop.MALFORMED, malformed, EXACT),
    (Drop.OVERRUN, overrun, {"on_message": take_your_time, "inbox_limit": 1}),
    (Drop.OVERRUN, overrun_in_a_session, {"inbox_limit": 1}),
    (Drop.REFUSED, refused, {"on_session": working, "max_incoming_sessions": 1}),
    (Drop.REFUSED, refused_exactly, {"on_session": working, "max_incoming_sessions": 1}),
    (Drop.CLOSING, closing, {"on_session": working}),
    (Drop.CLOSING, closing_exactly, {"on_session": working}),
    (Drop.UNHEARD, unheard, {}),
]


@pytest.mark.parametrize(("reason", "cause", "options"), CASES, ids=[cause.__name__ for _, cause, _ in CASES])
async def test_each_reason_for_which_a_message_is_dropped_has_a_counter_and_one_line_in_the_log(
    reason: Drop,
    cause: Callable[[Port, Peer], Awaitable[None]],
    options: dict[str, Any],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "psession")
    here, there = memory_pair()
    manager = SessionManager()
    async with manager.port("p", here, **options) as port:
        await cause(port, there)
        counted = {one: getattr(port.statistics(), one.value) for one in Drop}
        assert {one: number for one, number in counted.items() if number} == {reason: 2}
        said = [record for record in caplog.records if f"({reason.value})" in record.getMessage()]
        assert [record.levelno for record in said] == [
            logging.INFO if reason in EXPECTED else logging.WARNING,
            logging.DEBUG,
        ]
        assert said[0].getMessage().startswith("port 'p': message ")
        assert ADVICE[reason] in said[0].getMessage()
    assert_empty(manager, port)


def test_every_reason_is_tested_and_has_a_counter_and_advice() -> None:
    assert {reason for reason, _, _ in CASES} | {Drop.UNKNOWN_PORT} == set(Drop) == set(ADVICE)  # a manager's: below
    assert {reason.value for reason in Drop} <= {*Statistics.__dataclass_fields__}


async def test_a_line_names_the_session_and_what_was_wrong(caplog: pytest.LogCaptureFixture) -> None:
    async with SessionManager(Wire(), dialect=Exact()).port("heater") as port:
        port.dispatch({"sid": 70_000, "_turn": -1, "_life": LIFE})
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("port 'heater': message of session 70000 dropped (malformed): a message that cannot be read")
    assert "a field of the exact wire is not what it must be" in line


async def test_a_hostile_peer_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with SessionManager(Wire(), dialect=Exact()).port("p") as port:
        for n in range(1000):
            port.dispatch({"sid": 1 + n})
            port.dispatch({"sid": 70_000 + n})
            port.dispatch({"sid": 1 + n, "_turn": -1, "_life": LIFE})
        statistics = port.statistics()
        assert (statistics.unknown_sid, statistics.no_handler, statistics.malformed) == (1000, 1000, 1000)
    assert len([record for record in caplog.records if record.levelno >= logging.INFO]) == 3


async def test_each_port_says_it_once_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    manager = SessionManager()
    async with manager.port("a", Wire()) as one, manager.port("b", Wire()) as other:
        for port in (one, other, one, other):
            port.dispatch({"sid": 7})
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["port 'a'", "port 'b'"]


# -- what a timeout says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["request", "stream"])
async def test_a_timeout_tells_of_every_message_of_this_peer_that_was_dropped(
    stream: bool, autojump_clock: MockClock
) -> None:
    async with SessionManager(Wire(), dialect=Exact()).port("p", session_timeout=1) as port:

        async def ask() -> None:
            if not stream:
                await port.request({})
                return
            async with port.stream({}) as replies:
                await replies.__anext__()

        with pytest.raises(SessionTimeoutError) as quiet:
            await ask()
        assert "dropped" not in str(quiet.value)
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(caught.run, ask))
            await settle()
            for _ in range(2):
                port.dispatch({"sid": 2, "_re": 2, "_life": LIFE})  # an answer, but to another life of this port
            port.dispatch({"sid": 70_000})
        assert isinstance(caught.error, SessionTimeoutError)
        assert str(caught.error).endswith(
            "; dropped messages of this peer so far: 1 no_handler, 2 stale_own (see statistics()) (1 attempt, 1 s)"
        )


async def test_a_timeout_on_the_classic_wire_tells_of_answers_under_a_number_that_was_never_given(
    autojump_clock: MockClock,
) -> None:
    async with SessionManager(Wire()).port("p") as port:
        caught = Caught()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught.run, partial(port.request, {}, timeout=2))
            await settle()
            port.dispatch({"sid": 9, "answer": 1})
        assert caught.at == 2.0
        assert "dropped messages of this peer so far: 1 unknown_sid (see statistics())" in str(caught.error)


async def test_what_another_peer_had_dropped_is_not_told(autojump_clock: MockClock) -> None:
    manager = SessionManager(session_timeout=1)
    async with manager.port("a", Wire()) as one, manager.port("b", Wire()) as other:
        other.dispatch({"sid": 9})
        with pytest.raises(SessionTimeoutError) as caught:
            await one.request({})
        assert "dropped" not in str(caught.value)


# -- the counters themselves -------------------------------------------------------------------------------------------


def test_what_was_dropped_is_told_by_reason_and_only_where_there_was_any() -> None:
    counters = Counters()
    assert counters.dropped() == {}
    counters.drop(Drop.LATE)
    counters.drop(Drop.MALFORMED, 3)
    counters.add("matched", 5)
    assert counters.dropped() == {Drop.LATE: 1, Drop.MALFORMED: 3}
    assert counters.snapshot(open=2) == Statistics(open=2, late=1, malformed=3, matched=5)


def test_a_snapshot_stays_as_it_was() -> None:
    counters = Counters()
    before = counters.snapshot()
    counters.add("sent")
    assert (before.sent, counters.snapshot().sent) == (0, 1)
    with pytest.raises(AttributeError):
        before.sent = 7  # type: ignore[misc]


def test_snapshots_add_up() -> None:
    one, other = Statistics(open=1, late=2), Statistics(open=3, sent=4)
    assert one + other == Statistics(open=4, late=2, sent=4)
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]


async def test_a_message_for_a_port_that_is_not_open_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "psession")
    manager = SessionManager()
    assert [manager.dispatch({"sid": 1}, "lamp"), manager.dispatch({"sid": 2}, "lamp"), manager.dispatch({})] == [
        True,
        True,
        False,
    ]
    assert manager.statistics().unknown_port == 2
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == [logging.WARNING, logging.DEBUG]
    assert said[0][1].startswith("manager: message dropped (unknown_port): ")
    assert "port 'lamp'" in said[0][1]
