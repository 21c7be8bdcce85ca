"""How many frames a write takes over a socket: a part of what is in flight, so that neither end waits for all of it."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from psession import Exact, Port, Session, SessionManager
from psession.channels import _framed, _pace, lines
from psession.shell.busy_wait import QUICK, BusyWait
from psession.shell.channel_outbox import LONG_FRAME

from .peers import Caught, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import pytest


class Recorded:
    """A port over one end of a pair of sockets, and how many frames each of its writes took.

    Attributes:
        writes: Those of every write.
        later: Those of the writes that may wait.
        write_now: Writes past the port.
    """

    def __init__(self, port: Port, peer: trio.SocketStream) -> None:
        self.port = port
        self.peer = peer
        self.writes: list[int] = []
        self.later: list[int] = []
        self.write_now: Callable[[bytes], bytes | None]

    async def read(self, frames: int) -> list[Any]:
        """So many messages, as the peer gets them."""
        data = b""
        while data.count(b"\n") < frames:
            data += await self.peer.receive_some()
        return [json.loads(line) for line in data.splitlines()]


@asynccontextmanager
async def recorded(**options: Any) -> AsyncIterator[Recorded]:
    """Both ends, open."""
    here, there = trio.socket.socketpair()
    channel = lines(trio.SocketStream(here))
    now, later = channel.send_frame_now, channel.send_frames

    def send_frame_now(frame: bytes) -> bytes | None:
        left = now(frame)
        if left is not None:
            ends.writes.append(frame.count(b"\n"))
        return left

    async def send_frames(frames: Any) -> None:
        ends.writes.append(len(frames))
        ends.later.append(len(frames))
        await later(frames)

    channel.send_frame_now, channel.send_frames = send_frame_now, send_frames  # type: ignore[method-assign]
    async with trio.SocketStream(there) as peer, SessionManager(**options).port("p", channel) as port:
        ends = Recorded(port, peer)
        ends.write_now = now
        yield ends


async def ask(ends: Recorded, nursery: trio.Nursery, turns: int) -> list[int]:
    """Start so many turns, and what their writes took."""
    ends.writes.clear()
    for _ in range(turns):
        nursery.start_soon(Caught().run, ends.port.request, {})
    await settle()
    await ends.read(turns)
    return ends.writes


async def test_with_few_turns_in_flight_each_is_a_write() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        assert await ask(ends, nursery, 1) == [1]
        assert await ask(ends, nursery, 2) == [1, 1]
        assert await ask(ends, nursery, 4) == [1] * 4
        ends.port.close()


async def test_with_many_turns_in_flight_a_write_takes_a_quarter_of_them_and_16_at_most() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        await ask(ends, nursery, 8)
        assert await ask(ends, nursery, 3) == [2, 1]  # 9 to 11 are in flight
        await ask(ends, nursery, 60)
        assert await ask(ends, nursery, 40) == [16, 16, 8]
        ends.port.close()


async def test_a_long_message_is_a_write_of_its_own_however_many_are_in_flight() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        await ask(ends, nursery, 64)
        ends.writes.clear()
        nursery.start_soon(Caught().run, ends.port.request, {"pad": "x" * LONG_FRAME})
        nursery.start_soon(Caught().run, ends.port.request, {"pad": "x" * LONG_FRAME})
        await settle()
        await ends.read(2)
        assert ends.writes == [1, 1]
        assert await ask(ends, nursery, 12) == [12]  # short ones still travel together, and behind those
        ends.port.close()


async def test_a_long_message_goes_behind_what_waits_already() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        await ask(ends, nursery, 64)
        await ends.port.post({"n": 1})
        await ends.port.post({"n": 2, "pad": "x" * LONG_FRAME})
        await settle()
        assert [message["n"] for message in await ends.read(2)] == [1, 2]
        ends.port.close()


async def test_the_answers_to_one_read_go_back_in_two_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pace, "perf_counter", lambda: 0.0)  # a slow machine would read less at once

    async def answer(session: Session) -> None:
        async for message in session:
            await session.post(message)

    async with recorded(on_session=answer) as ends:
        # The first round opens the sessions, whose handlers come to their first message a pass later.
        for burst, writes in ((64, None), (1, [1]), (2, [1, 1]), (8, [4, 4]), (64, [16] * 4)):
            ends.writes.clear()
            await ends.peer.send_all(b"".join(b'{"sid":%d}\n' % (sid + 1) for sid in range(burst)))
            await settle()
            got = await ends.read(burst)
            assert sorted(message["sid"] for message in got) == list(range(1, burst + 1))
            assert writes is None or ends.writes == writes


async def test_a_send_cancelled_while_it_waits_for_more_is_never_sent() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        await ask(ends, nursery, 64)
        outbox = ends.port._engine.outbox
        tickets = [outbox.put(b'{"n":%d}\n' % n, None) for n in range(3)]
        assert tickets[1] is not None
        outbox.withdraw(tickets[1])
        assert outbox.put(b'{"n":3}\n', None) is not None
        assert await ends.read(3) == [{"n": 0}, {"n": 2}, {"n": 3}]
        ends.port.close()


def flood(ends: Recorded) -> int:
    """Fill the socket; how many bytes it took."""
    took = 0
    while (left := ends.write_now(b"-" * 65536)) is not None:
        took += 65536 - len(left)
    return took


async def read_past(ends: Recorded, flooded: int, frames: int) -> list[Any]:
    """So many messages, behind what `flood` wrote."""
    while flooded:
        flooded -= len(await ends.peer.receive_some(flooded))
    return await ends.read(frames)


async def test_the_writer_writes_what_waits_for_more_at_once_and_takes_no_turn_to_wait() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        await ask(ends, nursery, 64)
        ends.writes.clear()
        ends.later.clear()
        for n in range(3):
            await ends.port.post({"n": n})
        assert ends.writes == []
        await settle()
        assert (ends.writes, ends.later) == ([3], [])
        assert await ends.read(3) == [{"n": n} for n in range(3)]
        ends.port.close()


async def test_what_a_full_socket_does_not_take_is_written_in_order_as_soon_as_it_does() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        flooded = flood(ends)
        for n in range(20):
            await ends.port.post({"n": n})
        await settle()
        assert ends.port._engine.outbox.writing
        nursery.start_soon(ends.port.post, {"n": 20})
        assert await read_past(ends, flooded, 21) == [{"n": n} for n in range(21)]
        assert ends.port._engine.outbox.queued_bytes == 0


async def test_what_waits_behind_a_full_socket_can_be_withdrawn_and_what_the_writer_has_cannot() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        flooded = flood(ends)
        scopes = [trio.CancelScope() for _ in range(3)]

        async def cancelled(n: int) -> None:
            with scopes[n]:
                await ends.port.request({"n": n})

        for n in range(3):
            nursery.start_soon(cancelled, n)
            await settle()
        scopes[0].cancel()
        scopes[1].cancel()
        await settle()
        assert [message["n"] for message in await read_past(ends, flooded, 2)] == [0, 2]
        scopes[2].cancel()


async def test_after_a_full_socket_many_turns_are_joined_again_without_the_writer() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        flooded = flood(ends)
        await ends.port.post({"n": 0})
        await settle()
        assert await read_past(ends, flooded, 1) == [{"n": 0}]
        await settle()
        await ask(ends, nursery, 60)
        ends.later.clear()
        assert await ask(ends, nursery, 40) == [16, 16, 8]
        assert ends.later == []
        ends.port.close()


async def test_the_rest_of_a_frame_that_the_socket_took_a_part_of_follows_before_all_else() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        big = "x" * 900_000
        nursery.start_soon(Caught().run, ends.port.request, {"big": big})
        await settle()
        for n in range(3):
            nursery.start_soon(Caught().run, ends.port.request, {"n": n})
            await settle()
        first, *others = await ends.read(4)
        assert (first["big"] == big, [message["n"] for message in others]) == (True, [0, 1, 2])
        ends.port.close()


async def test_who_waits_awake_can_be_cancelled_once_a_local_answer_would_have_come() -> None:
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            scope.cancel()
        return False

    with trio.CancelScope() as scope:
        await BusyWait().until(look)
    assert scope.cancelled_caught
    assert looks == 1 + QUICK  # one at once


class NotingOs:
    """The module `os`, and what was read and written in it: ``"read"``, ``"nothing"``, ``"write"``."""

    def __init__(self) -> None:
        self.deeds: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def read(self, descriptor: int, size: int) -> bytes:
        try:
            data = os.read(descriptor, size)
        except BlockingIOError:
            self.deeds.append("nothing")
            raise
        self.deeds.append("read")
        return data

    def write(self, descriptor: int, data: bytes) -> int:
        self.deeds.append("write")
        return os.write(descriptor, data)


async def test_a_handler_answers_before_the_reader_looks_for_the_next_message(monkeypatch: pytest.MonkeyPatch) -> None:
    noting = NotingOs()
    monkeypatch.setattr(_framed, "os", noting)

    async def answer(session: Session) -> None:
        async for message in session:
            await session.post(message)

    async with recorded(on_session=answer) as ends:
        early = 0
        for number in range(60):  # Trio runs the tasks of a pass in a random order
            noting.deeds.clear()
            await ends.peer.send_all(b'{"sid":1}\n')
            await ends.read(1)
            heard = noting.deeds.index("read")
            assert "write" in noting.deeds[heard:]
            early += number >= 20 and noting.deeds[heard + 1] == "nothing"
        assert early <= 2, "but for a look at once, which is tried in vain less and less often"


async def test_a_session_is_answered_while_the_reader_waits_awake_and_the_port_is_left() -> None:
    async with recorded() as ends, trio.open_nursery() as nursery:
        caught = [Caught() for _ in range(2)]
        for one in caught:
            nursery.start_soon(one.run, ends.port.request, {})
        first, second = await ends.read(2)
        await ends.peer.send_all(json.dumps(first).encode() + b"\n")
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        await ends.peer.send_all(json.dumps(second).encode() + b"\n")
        await settle()
        assert [one.value for one in caught] == [{}, {}]


# -- the parts of a stream --------------------------------------------------------------------------------------------


@asynccontextmanager
async def streaming(handler: Callable[[Session], Awaitable[None]], credit: int) -> AsyncIterator[Recorded]:
    """A port whose peer asked a stream with so much credit; the handler has begun."""
    async with recorded(on_session=handler) as ends:
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": credit, "_part": 1, "_life": 7})
        await settle()
        yield ends


async def test_parts_that_follow_one_another_make_one_write(mock_clock: trio.testing.MockClock) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        for n in range(100):
            await session.post({"n": n})
        await session.receive()

    async with streaming(handler, 200) as ends:
        assert ends.writes[0] == 1  # nothing tells that another will follow
        assert (len(ends.writes), max(ends.writes), sum(ends.writes)) == (5, 32, 101)
        assert [part["_part"] for part in await ends.read(101)] == list(range(1, 102))


async def test_parts_are_written_before_the_handler_waits_for_credit(mock_clock: trio.testing.MockClock) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        for n in range(20):
            await session.post({"n": n})

    async with streaming(handler, 8) as ends:
        assert ends.writes == [1, 7]
        for credit, writes in ((9, [1]), (12, [3])):
            ends.writes.clear()
            ends.port.dispatch({"sid": 5, "_turn": 1, "_credit": credit, "_life": 7})
            await settle()
            assert ends.writes == writes


async def test_a_part_that_comes_alone_is_written_at_once(mock_clock: trio.testing.MockClock) -> None:
    written: list[list[int]] = []

    async def handler(session: Session) -> None:
        await session.receive()
        for n in range(4):
            await session.post({"n": n})
            written.append(ends.writes.copy())
            mock_clock.jump(0.01)  # at work, and no other task has a turn

    async with recorded(on_session=handler) as ends:
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": 9, "_part": 1, "_life": 7})
        await settle()
    assert written == [[1], [1, 1], [1, 1, 1], [1, 1, 1, 1]]


async def test_long_parts_are_joined_to_no_more_than_a_write_takes(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        for _ in range(9):
            await session.post({"text": "x" * 30_000})
        await session.receive()

    async with streaming(handler, 9) as ends:
        assert ends.writes == [1, 3, 3, 3]
        assert [part["_part"] for part in await ends.read(10)] == list(range(1, 11))


async def test_a_part_waits_for_room_in_the_queue(autojump_clock: trio.testing.MockClock) -> None:
    posted: list[int] = []

    async def handler(session: Session) -> None:
        await session.receive()
        for n in range(50):
            await session.post({"n": n, "text": "x" * 1000})
            posted.append(n)
        await session.receive()

    async with recorded(on_session=handler, max_queued_bytes=5000) as ends:
        took = flood(ends)
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": 99, "_part": 1, "_life": 7})
        await settle()
        assert len(posted) == 10  # the writer has the first five in its hands
        assert [part.get("n") for part in await read_past(ends, took, 51)] == [*range(50), None]


async def test_parts_are_written_in_the_step_in_which_credit_runs_out(mock_clock: trio.testing.MockClock) -> None:
    seen: list[list[int]] = []

    class Steps(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if task in handlers:
                seen.append(ends.writes.copy())

    handlers: list[trio.lowlevel.Task] = []

    async def handler(session: Session) -> None:
        await session.receive()
        handlers.append(trio.lowlevel.current_task())
        for n in range(20):
            await session.post({"n": n})

    async with recorded(on_session=handler) as ends:
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": 8, "_part": 1, "_life": 7})
        await settle()
        trio.lowlevel.remove_instrument(steps)
        assert seen[0] == [1, 7]


async def test_credit_is_given_at_once_however_much_came_with_the_last_read(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with recorded(dialect=Exact()) as ends, ends.port.stream({}, credit=32) as replies:
        [asked] = await ends.read(1)
        header = {"sid": asked["sid"], "_re": asked["_turn"], "_life": asked["_life"]}
        parts = [{"n": part, **header, "_part": part} for part in range(1, 33)]
        await ends.peer.send_all(b"".join(json.dumps(part).encode() + b"\n" for part in parts))
        await settle()
        ends.writes.clear()
        for number in range(1, 16):
            assert await replies.receive() == {"n": number}
        assert ends.writes == []
        assert await replies.receive() == {"n": 16}
        assert ends.writes == [1]
        assert (await ends.read(1))[0]["_credit"] == 48


class ReaderSteps(trio.abc.Instrument):
    """The steps of the port's reader, which sleeps until the socket has something."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += "reader" in task.name


@contextmanager
def reader_steps() -> Iterator[ReaderSteps]:
    """Those in the block."""
    steps = ReaderSteps()
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


async def test_an_asker_that_is_alone_looks_for_the_next_part_itself() -> None:
    async with recorded(dialect=Exact()) as ends, ends.port.stream({}) as replies:
        [asked] = await ends.read(1)
        await settle()
        header = {"sid": asked["sid"], "_re": asked["_turn"], "_part": 1, "_life": asked["_life"]}
        os.write(ends.peer.socket.fileno(), json.dumps({"n": 1, **header}).encode() + b"\n")
        with reader_steps() as steps:
            assert await replies.receive() == {"n": 1}
        assert steps.count == 0


async def test_a_handler_that_is_alone_looks_for_credit_itself() -> None:
    counts: list[int] = []

    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"n": 1})
        await settle()
        os.write(ends.peer.socket.fileno(), b'{"sid":5,"_turn":1,"_credit":2,"_life":7}\n')
        with reader_steps() as steps:
            await session.post({"n": 2})
        counts.append(steps.count)

    async with recorded(on_session=handler) as ends:
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": 1, "_part": 1, "_life": 7})
        assert [part["n"] for part in (await ends.read(2))[:2]] == [1, 2]
    assert counts == [0]


async def test_a_handler_that_looks_for_credit_finds_that_nobody_wants_any_more() -> None:
    reached: list[str] = []

    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"n": 1})
        await settle()
        os.write(ends.peer.socket.fileno(), b'{"sid":5,"_turn":1,"_error":"cancelled","_life":7}\n')
        try:
            await session.post({"n": 2})
        except trio.Cancelled:
            reached.append("cancelled")
            raise

    async with recorded(on_session=handler) as ends:
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": 1, "_part": 1, "_life": 7})
        await ends.read(1)
        for _ in range(3):
            await settle()
        assert reached == ["cancelled"]
        assert ends.port._engine.connection.handlers == 0


async def test_a_session_whose_handler_found_something_else_as_it_looked_for_credit_is_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(session: Session) -> None:
        await session.receive()
        await session.post({"n": 1})
        await settle()
        os.write(ends.peer.socket.fileno(), b'{"sid":5,"n":9,"_part":1,"_life":7}\n')  # a post, which it does not take
        await session.post({"n": 2})

    async with recorded(on_session=handler, session_max_life=10) as ends:
        ends.port.dispatch({"sid": 5, "_turn": 1, "_new": True, "_credit": 1, "_part": 1, "_life": 7})
        await trio.sleep(11)
        assert ends.port.statistics().expired == 1
        assert ends.port._engine.connection.handlers == 0
