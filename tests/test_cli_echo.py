"""What ``psession echo`` makes of the exact wire: it answers turns, and nothing that is no question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Envelope, SessionManager
from psession._cli.echo import answer_all, answer_to
from psession.channels import memory_pair

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_an_exact_port_talks_to_echo(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_all, there)
        async with SessionManager(envelope=Envelope.exact()).port("echo", here) as port:
            assert (await port.request({"n": 1}))["n"] == 1
            async with port.session() as session:
                for number in range(3):
                    assert (await session.send({"n": number}))["n"] == number
            assert port.statistics().classic == 0


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
