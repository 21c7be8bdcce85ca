"""What other systems lack is taken away here, and what is left still works, or says what to do."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import PortClosedError, SessionManager
from psession.channels import (
    open_tcp,
    open_unix,
    open_websocket,
    process,
    serve_tcp,
    serve_unix,
    serve_websocket,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONGEST_RUN = 10.0  # seconds, of the real clock; each takes a tenth of one
CHILD = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"
BYE = "import sys; sys.stdin.readline(); print('[1]', flush=True); sys.exit(3)"

manager = SessionManager(session_timeout=5, on_request=lambda message: message)


async def serve(channel: Any) -> None:
    """Answer with what was asked."""
    async with manager.accept(channel) as port:
        await port.wait_closed()


@pytest.fixture
def no_sockets_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that `os.write` and `os.read` do not take, as on Windows."""
    refuse = partial(pytest.fail, "a socket was used as a file")
    monkeypatch.setattr("psession.channels._framed.os", SimpleNamespace(name="nt", write=refuse, read=refuse))
    monkeypatch.setattr("psession.channels._websocket.os", SimpleNamespace(name="nt", write=refuse, read=refuse))


@asynccontextmanager
async def an_open(kind: str) -> AsyncIterator[Any]:
    """A channel to a server of this kind."""
    async with trio.open_nursery() as nursery:
        if kind == "tcp":
            server = await nursery.start(partial(serve_tcp, serve, 0, host="127.0.0.1"))
            opening: Any = open_tcp("127.0.0.1", server.port)
        else:
            server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0)
            opening = open_websocket(f"ws://127.0.0.1:{server.port}")
        async with opening as channel:
            yield channel
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("no_sockets_as_files")
@pytest.mark.parametrize("kind", ["tcp", "websocket"])
async def test_sockets_that_are_no_files_carry_messages_all_the_same(kind: str) -> None:
    with trio.fail_after(LONGEST_RUN):
        async with an_open(kind) as channel, SessionManager(session_timeout=5).port("server", channel) as port:
            assert await port.request({"n": 1}) == {"n": 1}
            replies: list[Any] = []

            async def ask(number: int) -> None:
                replies.append((await port.request({"n": number}))["n"])

            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(ask, number)
            assert sorted(replies) == list(range(100))


@pytest.mark.parametrize("opening", [open_unix, partial(serve_unix, serve)])
async def test_without_unix_sockets_one_is_told_what_to_use(opening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match=r"no Unix sockets on this system: use open_tcp and serve_tcp") as caught:  # noqa: PT012
        given = opening("/tmp/never-made")
        await (given.__aenter__() if hasattr(given, "__aenter__") else given)
    assert caught.value.errno == errno.EAFNOSUPPORT


async def test_pipes_that_are_no_files_carry_messages_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio's pipes on Windows have no ``fileno``: what a child left in one is not looked for without waiting."""
    monkeypatch.delattr(trio.lowlevel.FdStream, "fileno")
    with trio.fail_after(LONGEST_RUN):
        async with process([sys.executable, "-c", CHILD]) as channel, SessionManager().port("child", channel) as port:
            assert await port.request({"n": 1}) == {"n": 1}
        async with process([sys.executable, "-c", BYE]) as channel, SessionManager().port("child", channel) as port:
            with pytest.raises(PortClosedError, match="ended with status 3"):
                await port.request({"n": 1})
