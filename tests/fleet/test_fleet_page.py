"""The programs of docs/fleet.md run as they stand, with a broker and WebSockets in memory."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import psession.brokers.nats
import psession.channels
from psession.channels import memory_pair

from ..brokers.broker import a_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import pytest
    from trio.testing import MockClock

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^```python\n# (\w+)\.py[^\n]*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
SHOWN = re.findall(r"^```console\n\$ python service\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


class Net:
    """WebSockets in memory, on one port."""

    def __init__(self) -> None:
        self.handler: Any = None
        self.nursery: trio.Nursery | None = None

    async def serve_websocket(self, handler: Callable[[Any], Awaitable[object]], host: str, port: int) -> None:
        """Serve until cancelled."""
        assert (host, port) == ("127.0.0.1", 8080)
        async with trio.open_nursery() as self.nursery:
            self.handler = handler
            await trio.sleep_forever()

    @asynccontextmanager
    async def open_websocket(self, url: str) -> AsyncIterator[Any]:
        """Connect to it."""
        assert url == "ws://127.0.0.1:8080"
        if self.nursery is None:
            raise OSError("connection refused")
        near, far = memory_pair()
        self.nursery.start_soon(self.handler, far)
        async with near:
            yield near


def test_the_page_has_three_programs() -> None:
    assert list(PROGRAMS) == ["gateway", "lamp", "service"]
    assert len(re.findall("^```python", PAGE, re.MULTILINE)) == 3
    assert len(SHOWN) == 1


async def test_the_first_program_says_what_the_page_shows(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net, mains = Net(), {}
    async with a_broker() as broker:
        open_nats = partial(psession.brokers.nats.open_nats, open_stream=broker.open_stream)
        monkeypatch.setattr(psession.brokers.nats, "open_nats", open_nats)
        monkeypatch.setattr(psession.channels, "serve_websocket", net.serve_websocket)
        monkeypatch.setattr(psession.channels, "open_websocket", net.open_websocket)
        for name, code in PROGRAMS.items():
            with monkeypatch.context() as patched:
                patched.setattr(trio, "run", partial(mains.__setitem__, name))
                exec(compile(code, f"{name}.py", "exec"), {"__name__": "__main__"})
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mains["gateway"])
                nursery.start_soon(mains["lamp"])
                await trio.sleep(1)
                await mains["service"]()
                nursery.cancel_scope.cancel()
    assert capsys.readouterr().out == SHOWN[0]
