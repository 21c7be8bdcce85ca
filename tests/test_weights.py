"""Short messages are not weighed in Python, whatever carries them: to weigh each would cost a request a tenth."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from psession import Exact, SessionManager, budget
from psession.channels import open_tcp, reconnecting, serve_tcp

HERE = "127.0.0.1"


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that are weighed."""
    messages: list[Any] = []
    weigh = budget.weigh

    def noting(message: Any, *arguments: Any) -> Any:
        messages.append(message)
        return weigh(message, *arguments)

    monkeypatch.setattr(budget, "weigh", noting)
    return messages


Accept = Callable[[SessionManager, Any], Any]
WAYS: dict[str, Accept] = {
    "port": lambda manager, channel: manager.port(str(id(channel)), channel),
    "accept": lambda manager, channel: manager.accept(channel),
    "accept, to be resumed": lambda manager, channel: manager.accept(channel, resume_within=10),
}


@asynccontextmanager
async def a_server(manager: SessionManager, accept: Accept) -> AsyncIterator[int]:
    """A server on TCP; gives its port."""

    async def meet(channel: Any) -> None:
        async with accept(manager, channel) as port:
            await port.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_tcp, meet, 0, host=HERE))
        yield server.port
        nursery.cancel_scope.cancel()


async def later(message: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return message


@pytest.mark.parametrize("way", WAYS)
async def test_a_short_request_is_weighed_at_neither_end(way: str, weighed: list[Any]) -> None:
    async with a_server(SessionManager(dialect=Exact(), on_request=later), WAYS[way]) as number:
        connect = partial(open_tcp, HERE, number)
        options: dict[str, Any] = {"dialect": Exact()}
        async with connect() as channel, SessionManager().port("once", channel, **options) as port:
            assert [await port.request({"n": n}) for n in range(20)] == [{"n": n} for n in range(20)]
        if way == "accept, to be resumed":
            async with (
                reconnecting(connect) as links,
                SessionManager().port("again", links, resume_within=10, **options) as port,
            ):
                assert [await port.request({"n": n}) for n in range(20)] == [{"n": n} for n in range(20)]
    # What came before the port knew its peer is not known to be short.
    assert len(weighed) <= 2, weighed


async def test_a_long_one_is(weighed: list[Any]) -> None:
    rows = {"rows": [[number] for number in range(1000)]}
    async with (
        a_server(SessionManager(dialect=Exact(), on_request=later), WAYS["accept"]) as number,
        open_tcp(HERE, number) as channel,
        SessionManager().port("long", channel, dialect=Exact()) as port,
    ):
        await port.request({"n": 1})
        weighed.clear()
        assert await port.request(rows) == rows
    assert rows in weighed
