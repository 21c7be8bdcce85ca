"""Numbers, waits and names of a hostile peer's: each costs its own message alone, whatever it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Classic, Dialect, Exact, Port, Session, SessionManager, SessionTimeoutError
from psession.channels import memory_pair

from ..tables import assert_empty

if TYPE_CHECKING:
    from trio.testing import MockClock

LIFE = 5
HUGE: tuple[Any, ...] = (
    10**400,
    2**64,
    2**53,
    1e300,
    -1,
    -(10**400),
    float("inf"),
    float("nan"),
    True,
    "9" * 5000,
    [],
    {},
    [[]],
)
"""Values for fields that are to be numbers."""

FIELDS = ("_turn", "_re", "_wait", "_life", "_part", "_credit", "_new", "_end", "_error", "_port", "_resume")


async def answer(session: Session) -> None:
    """Answer each message with its number."""
    async for message in session:
        await session.post({"n": message.get("n")})


def messages(field: str, value: Any) -> list[dict[str, Any]]:
    """Messages of every kind with one field that is not what it must be."""
    kinds: list[dict[str, Any]] = [
        {"sid": 70_000},
        {"sid": 70_000, "_turn": 1, "_new": True, "_life": LIFE, "_wait": 9},
        {"sid": 1, "_re": 1, "_life": LIFE},
        {"sid": 1, "_re": 1, "_life": LIFE, "_part": 1},
        {"sid": 70_000, "_turn": 1, "_life": LIFE, "_credit": 8, "_part": 1},
        {"_new": True, "_life": LIFE},
        {"_wait": 9, "_life": LIFE},
        {"_end": True, "_turn": 9, "_life": LIFE},
    ]
    return [{**kind, field: value} for kind in kinds]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: f"{value!r:.20}")
@pytest.mark.parametrize("field", ["sid", *FIELDS])
@pytest.mark.parametrize("dialect", [Classic(), Exact()], ids=["classic", "exact"])
async def test_a_value_that_a_field_cannot_have_costs_its_message_alone(
    dialect: Dialect, field: str, value: Any, autojump_clock: MockClock
) -> None:
    manager = SessionManager(on_session=answer, session_timeout=1, dialect=dialect)
    honest = SessionManager(dialect=dialect, session_ids=range(300, 400))
    here, there = memory_pair()
    async with manager.port("attacked", here) as port:
        for message in messages(field, value):
            port.dispatch(message)  # from a receive loop of one's own
            await there.send(message)
        await trio.sleep(3)
        assert not port.closed
        async with honest.port("honest", there) as client:
            assert await client.request({"n": 1}) == {"n": 1}
        await port.wait_closed()
    assert_empty(manager, port)


async def take_all(port: Port) -> None:
    """Take all replies of a stream."""
    async with port.stream({}) as replies:
        async for _ in replies:
            pass


@pytest.mark.parametrize("wait", [10**400, 1e300, 366 * 24 * 3600.0], ids=["10**400", "1e300", "a year"])
@pytest.mark.parametrize("streams", [False, True], ids=["request", "stream"])
async def test_a_peer_that_says_it_is_at_work_for_ever_is_given_up_all_the_same(
    streams: bool, wait: float, autojump_clock: MockClock
) -> None:
    here, there = memory_pair()

    async def be_at_work() -> None:
        question = await there.receive()
        header = {"sid": question["sid"], "_re": question["_turn"], "_life": question["_life"]}
        await trio.sleep(1)
        if streams:
            await there.send({**header, "_part": 1, "n": 1})
        await there.send({**header, "_wait": wait})

    manager = SessionManager(dialect=Exact(), session_timeout=2, retry_count=1, retry_interval=0)
    async with trio.open_nursery() as nursery, manager.port("asker", here) as port:
        nursery.start_soon(be_at_work)
        with pytest.raises(SessionTimeoutError):
            await (take_all(port) if streams else port.request({}))
        assert trio.current_time() <= 6


async def test_a_handlers_time_is_never_more_than_a_year(autojump_clock: MockClock) -> None:
    limits: list[float] = []

    async def handler(session: Session) -> None:
        await session.receive()
        await trio.sleep(1)
        limits.append(trio.current_effective_deadline() - trio.current_time())

    async with SessionManager(on_session=handler).port("p", memory_pair()[0]) as port:
        for n, wait in enumerate((10**400, 1e300, 5.0)):
            port.dispatch({"sid": 70_000 + n, "_turn": 1 + n, "_new": True, "_life": LIFE, "_wait": wait})
        await trio.sleep(2)
    assert sorted(limits) == [pytest.approx(4), *[pytest.approx(366 * 24 * 3600 - 1)] * 2]
