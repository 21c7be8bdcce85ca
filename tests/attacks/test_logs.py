"""What a hostile peer can write into the log: a few lines, none of them forged."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import Exact, Session, SessionManager, SessionRemoteError
from psession.channels import WebSocketChannel, memory_pair, open_websocket, serve_websocket
from psession.text import printable

from ..peers import settle

if TYPE_CHECKING:
    from trio.testing import MockClock

FLOOD = 3_000
"""Messages, of the size of ``{"sid": 70000}``."""


async def careless(session: Session) -> None:
    """Read a field that is not there, as a first program does."""
    async for message in session:
        await session.post({"answer": message["question"]})


def bytes_of(records: list[logging.LogRecord]) -> int:
    """What lands in the log above the level for debugging, tracebacks included."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    return sum(len(formatter.format(record)) for record in records if record.levelno > logging.DEBUG)


@pytest.mark.parametrize("exact", [False, True], ids=["classic", "exact"])
async def test_a_handler_that_every_message_crashes_writes_a_few_lines_and_how_many_more(
    exact: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SessionManager(on_session=careless).port("lamp", memory_pair()[0]) as port:
        for n in range(FLOOD):
            header = {"_turn": n + 1, "_new": True, "_life": 5} if exact else {}
            port.dispatch({"sid": 1 + n, **header})
            if n % 100 == 99:
                await trio.sleep(0.01)
        await trio.sleep(31)
        port.dispatch({"sid": 60_000, **({"_turn": FLOOD + 1, "_new": True, "_life": 5} if exact else {})})
        await trio.sleep(1)
        assert port.statistics().crashed == FLOOD + 1
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 4
    assert said[3] == "port 'lamp': the handler of session 60000 raised (and 2,997 times more since the last such line)"
    assert bytes_of(caplog.records) < 10_000


async def test_what_was_not_said_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with SessionManager(on_session=careless).port("lamp", memory_pair()[0]) as port:
        for n in range(50):
            port.dispatch({"sid": 1 + n})
        await trio.testing.wait_all_tasks_blocked()
    assert caplog.records[-1].getMessage() == "port 'lamp': the handler raised 47 times more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("grüß 你好", "grüß 你好"),
        ("a\r\nERROR root: forged", "a\\r\\nERROR root: forged"),
        ("\x1b[2J\x00\u2028\u202e", "\\x1b[2J\\x00\\u2028\\u202e"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


async def test_the_text_of_a_peers_error_forges_no_line() -> None:
    here, there = memory_pair()
    async with SessionManager(dialect=Exact()).port("p", here) as port, trio.open_nursery() as nursery:

        async def refuse() -> None:
            question: dict[str, Any] = await there.receive()
            header = {"sid": question["sid"], "_re": question["_turn"], "_life": question["_life"]}
            await there.send({**header, "_error": "crashed: all\r\nERROR root: forged"})

        nursery.start_soon(refuse)
        with pytest.raises(SessionRemoteError) as caught:
            await port.request({})
    assert "\n" not in str(caught.value)
    assert caught.value.text == "all\r\nERROR root: forged"


async def test_many_ports_say_no_more_than_one(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    manager = SessionManager(on_session=careless)
    for n in range(50):
        async with manager.port(f"p{n}", memory_pair()[0]) as port:
            port.dispatch({"sid": 1})
            port._engine.receive({"no": "session"})
            await settle()
            assert port.statistics().crashed == 1
    assert caplog.text.count("Traceback") == 3
    assert caplog.text.count("dropped (unheard)") == 3
    caplog.clear()
    await trio.sleep(31)
    async with manager.port("later", memory_pair()[0]) as port:
        port.dispatch({"sid": 1})
        port._engine.receive({"no": "session"})
        await settle()
    assert "(and 47 times more since the last such line)" in caplog.text
    assert len(caplog.text) < 2500


def test_a_manager_that_lives_through_several_runs_logs_in_each_though_their_clocks_differ(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = SessionManager(on_session=careless)

    async def crash(begins: float) -> None:
        await trio.sleep(begins)
        async with manager.port("p", memory_pair()[0]) as port:
            port.dispatch({"sid": 1})
            await settle()

    for begins in (10_000.0, 0.0):
        caplog.clear()
        trio.run(crash, begins, clock=trio.testing.MockClock(autojump_threshold=0))
        assert caplog.text.count("Traceback") == 1


async def wait_closed(channel: WebSocketChannel) -> None:
    """Receive until the client has gone."""
    with suppress(trio.EndOfChannel):
        await channel.receive()


async def test_what_the_library_under_a_websocket_says_of_each_connection_is_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, wait_closed, "127.0.0.1", 0)
        for _ in range(3):
            async with open_websocket(f"ws://127.0.0.1:{server.port}"):
                pass
        nursery.cancel_scope.cancel()
    assert not caplog.text
