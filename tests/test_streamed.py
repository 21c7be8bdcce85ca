"""The handler's side of a stream: full queues, tasks side by side, and what its asker is told meanwhile."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from psession import Exact, PortClosedError, Session, SessionManager

from .peers import Caught, Wire, settle

EXACT = Exact()


async def count_up(session: Session) -> None:
    """Reply ``to`` times, every ``every`` seconds."""
    async for message in session:
        for number in range(1, message.get("to", 3) + 1):
            await trio.sleep(message.get("every", 0))
            await session.post({"number": number})


class Slow:
    """An async sender that takes nothing before it is let."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.free = trio.Event()

    async def __call__(self, message: Any) -> None:
        await self.free.wait()
        self.sent.append(message)


async def test_an_asker_whose_grant_was_lost_is_told_of_progress_where_the_handler_is_at_work(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = Wire()
    async with SessionManager(dialect=EXACT).port("answerer", wire, on_session=count_up) as port:
        request = {"sid": 5, "_turn": 1, "_credit": 1, "_part": 1, "to": 2, "every": 10}
        port.dispatch(dict(request))
        await trio.sleep(13)
        port.dispatch({**request, "_credit": 2, "_part": 2})
        assert wire.sent[-1] == {"sid": 5, "_re": 1, "_wait": 3.0}


async def test_a_receive_whose_end_mark_waits_for_room_survives_that_the_stream_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow, caught = Slow(), Caught()
    manager = SessionManager(dialect=EXACT)
    async with manager.port("opener", slow, max_queued_bytes=1) as port, trio.open_nursery() as nursery:
        session = port.create()
        for number in (1, 2):
            nursery.start_soon(session.post, {"hello": number})
            await settle()
        life = {"sid": session.sid, "_life": port._engine.connection._shared.life}  # type: ignore[union-attr]
        port.dispatch({**life, "_turn": 2**49, "_credit": 9, "_part": 1, "q": 1})
        assert (await session.receive())["q"] == 1
        nursery.start_soon(caught.run, session.receive)
        await settle()
        port.dispatch({**life, "_turn": 2**49, "_error": "cancelled"})
        port.dispatch({**life, "_turn": 2**49 + 1, "q": 2})
        slow.free.set()
        await settle()
        assert (caught.error, caught.value and caught.value["q"]) == (None, 2)
        assert [message for message in slow.sent if "_re" in message] == []


async def test_two_tasks_that_receive_end_a_stream_once(autojump_clock: trio.testing.MockClock) -> None:
    slow, got = Slow(), list[Any]()

    async def take(session: Session) -> None:
        message = await session.receive()
        got.append(message["q"])
        await session.post({"answer": message["q"]})

    async def handler(session: Session) -> None:
        await session.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, session)
            nursery.start_soon(take, session)

    options: dict[str, Any] = {"on_session": handler, "max_queued_bytes": 1, "strict": True}
    async with SessionManager(dialect=EXACT).port("answerer", slow, **options) as port:
        for turn in (1, 2):
            port.dispatch({"sid": 9, "_turn": turn, "_error": "ended", "_end": True})
            await settle()  # the second confirmation fills the queue
        port.dispatch({"sid": 5, "_turn": 3, "_credit": 9, "_part": 1, "q": 0})
        await settle()
        slow.free.set()
        await settle()
        for turn in (4, 5):
            port.dispatch({"sid": 5, "_turn": turn, "_credit": 9, "_part": 1, "q": turn - 3})
            await settle()
        assert got == [1, 2]
        assert slow.sent[2:6] == [
            {"sid": 5, "_re": 3, "_part": 1, "_end": True},
            {"answer": 1, "sid": 5, "_re": 4, "_part": 1},
            {"answer": 2, "sid": 5, "_re": 5, "_part": 1},
            {"sid": 5, "_re": 5, "_part": 2, "_end": True},
        ]


async def test_the_last_turn_of_a_session_ends_it_also_where_the_end_mark_was_cut_short(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = Slow()
    ended: list[bool] = []

    async def handler(session: Session) -> None:
        await session.receive()
        with trio.move_on_after(1):
            await session.finish({"number": 1})
        ended.append(session.closed)

    async with SessionManager(dialect=EXACT).port("answerer", slow, on_session=handler) as port:
        port.dispatch({"sid": 5, "_turn": 1, "_credit": 9, "_part": 1, "_end": True, "q": 0})
        await trio.sleep(2)
        assert ended == [True]
        slow.free.set()
        await settle()
        assert slow.sent == [{"number": 1, "sid": 5, "_re": 1, "_part": 1, "_end": True}]


async def test_a_part_that_the_port_left_unsent_fails_its_post(autojump_clock: trio.testing.MockClock) -> None:
    slow, caught = Slow(), [Caught(), Caught()]
    async with trio.open_nursery() as nursery, SessionManager(dialect=EXACT).port("opener", slow, grace=1) as port:
        session = port.create()
        port.dispatch({"sid": session.sid, "_turn": 2**49, "_credit": 9, "_part": 1})
        await session.receive()
        for one in caught:
            nursery.start_soon(one.run, session.post, {"number": 1})
            await settle()
    assert slow.sent == []
    assert isinstance(caught[1].error, PortClosedError)
