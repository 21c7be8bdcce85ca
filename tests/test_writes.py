"""How many frames a write takes over a socket: a part of what is in flight, so that neither end waits for all of it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession import Port, Session, SessionManager
from psession.channels import lines

from .peers import Caught, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Recorded:
    """A port over one end of a pair of sockets, and how many frames each of its writes took."""

    def __init__(self, port: Port, peer: trio.SocketStream) -> None:
        self.port = port
        self.peer = peer
        self.writes: list[int] = []

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
        await later(frames)

    channel.send_frame_now, channel.send_frames = send_frame_now, send_frames  # type: ignore[method-assign]
    async with trio.SocketStream(there) as peer, SessionManager(**options).port("p", channel) as port:
        ends = Recorded(port, peer)
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


async def test_the_answers_to_one_read_go_back_in_two_writes() -> None:
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
        outbox = ends.port._outbox
        tickets = [outbox.put(b'{"n":%d}\n' % n, None) for n in range(3)]
        assert tickets[1] is not None
        outbox.withdraw(tickets[1])
        assert outbox.put(b'{"n":3}\n', None) is not None
        assert await ends.read(3) == [{"n": 0}, {"n": 2}, {"n": 3}]
        ends.port.close()


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
        assert sorted(one.value["sid"] for one in caught) == sorted([first["sid"], second["sid"]])
