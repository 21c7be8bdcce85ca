"""What ``psession echo`` makes of the exact wire: it answers turns, and nothing that is no question."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from psession import Exact, SessionManager
from psession._cli._echoing import EchoingChannel, answer_to, is_for_a_port
from psession._cli.echo import Echo
from psession.channels import memory_pair

from .commands import connect, echoing, read_on
from .peers import Caught, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_an_exact_port_talks_to_echo(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    echo = Echo()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo.serve, there)
        manager = SessionManager(dialect=Exact(), session_ids=range(65536, 65540), keepalive_interval=5)
        async with manager.port("echo", here) as port:
            assert await port.request({"n": 1}) == {"n": 1}
            async with port.session() as session:
                for number in range(3):
                    assert await session.send({"n": number}) == {"n": number}
                    await trio.sleep(100)
                await session.post({"n": 3})
                assert await session.receive() == {"n": 3}
                async with session.stream({"n": 4}) as replies:
                    assert [reply async for reply in replies] == [{"n": 4}]
            assert (port.statistics().classic, port.statistics().unknown_sid) == (0, 0)
    assert_empty(manager, port)
    assert_empty(echo._manager)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"n": 1, "sid": 2}, {"n": 1, "sid": 2}),
        ({"n": 1, "id": 2, "_turn": 3, "_new": True, "_wait": 5, "_life": 4}, {"n": 1, "id": 2, "_re": 3, "_life": 4}),
        ({"sid": 2, "_turn": 3, "_error": "timeout", "_life": 4}, None),
        ({"n": 1, "sid": 2, "_turn": 3, "_wait": 0, "_life": 4}, None),
        ({"sid": 2, "_part": 1, "_life": 4}, None),
        ({"_new": True, "_life": 4}, None),
        ([1], [1]),
    ],
)
def test_what_is_no_question_is_not_answered(message: Any, answer: Any) -> None:
    assert answer_to(message) == answer


@pytest.mark.parametrize(
    ("message", "is_so"),
    [
        ({"n": 1, "sid": 2, "_turn": 3, "_life": 4}, True),
        ({"_new": True, "_life": 4}, True),
        ({"n": 1, "id": 2, "_turn": 3, "_life": 4}, False),
        ({"n": 1, "sid": 2, "_turn": 3}, False),
        ({"n": 1, "sid": 2}, False),
        ([1], False),
    ],
)
def test_what_psession_itself_would_say_is_for_a_port(message: Any, is_so: bool) -> None:
    assert is_for_a_port(message) is is_so


@pytest.mark.parametrize(
    "message", [{"n": 1, "sid": 1}, {"n": 1, "sid": 1, "_turn": 1, "_life": 7}], ids=["classic", "exact"]
)
async def test_a_peer_that_does_not_take_its_answers_is_not_read_from_any_further(
    message: Any, autojump_clock: MockClock
) -> None:
    into, came = trio.open_memory_channel[Any](1000)

    class Stuck(trio.abc.Channel[Any]):
        async def send(self, value: Any) -> None:
            await trio.sleep_forever()

        async def receive(self) -> Any:
            return await came.receive()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Echo().serve, Stuck())
        for number in range(20):
            await into.send({**message, "sid": number + 1, "_turn": number + 1} if "_turn" in message else message)
            await settle()
        assert came.statistics().current_buffer_used >= 18
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("last", "told"), [({"n": 1}, True), ({"sid": 1, "_turn": 1, "_error": "ended", "_end": True, "_life": 7}, False)]
)
async def test_a_break_is_told_but_of_a_peer_that_leaves(last: Any, told: bool) -> None:
    here, there = memory_pair()
    channel = EchoingChannel(there)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Caught().run, channel.receive)
        await here.send(last)
        await settle()
        await here.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await channel.send({})
        nursery.cancel_scope.cancel()
    assert (channel.broken is not None) is told


def test_who_closes_its_own_direction_gets_its_answers_all_the_same() -> None:
    questions = [{"n": turn, "sid": turn, "_turn": turn, "_new": True, "_life": 7} for turn in (1, 2, 3)]
    with echoing("tcp://127.0.0.1:0") as (url, _), connect(url) as connection:
        connection.sendall(b"".join(msgspec.json.encode(question) + b"\n" for question in questions))
        connection.shutdown(socket.SHUT_WR)
        answers = [msgspec.json.decode(line) for line in read_on(connection).splitlines()]
    assert [(answer["n"], answer["_re"]) for answer in answers if "n" in answer] == [(1, 1), (2, 2), (3, 3)]
