"""The port for plain functions: calls from any thread, errors as they are, Ctrl-C, and nothing left."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from anyio.from_thread import start_blocking_portal

import psession.blocking
from psession import (
    Exact,
    SessionManager,
    SessionRefusedError,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.blocking import open_port
from psession.channels import memory_pair, open_tcp, serve_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psession import Session

REQUEST_TIMEOUT = 10.0


async def handle(session: Session) -> None:
    """Do what each message says."""
    async for message in session:
        match message.get("do"):
            case "count":
                for n in range(message["to"]):
                    await session.post({"n": n})
            case "refuse":
                raise SessionRefusedError("not today", code="busy")
            case "wait":
                await trio.sleep_forever()
            case _:
                await session.post({"echo": message.get("n")})


@contextmanager
def a_port(**options: Any) -> Iterator[psession.blocking.Port]:
    """A port whose peer is in memory."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        here, there = memory_pair()
        async with SessionManager(on_session=handle).port("far", there):
            yield here

    before = set(threading.enumerate())
    with open_port(connect, **{"dialect": Exact(), **options}) as port:
        yield port
    new = [thread for thread in threading.enumerate() if thread not in before and "Trio thread" not in thread.name]
    for thread in new:
        thread.join(5)  # one that asked may not have ended yet
    assert [thread for thread in new if thread.is_alive()] == []


def test_requests_dialogues_and_streams_are_plain_calls() -> None:
    class Echo(msgspec.Struct):
        echo: int

    with a_port() as port:
        assert port.request({"n": 1}) == {"echo": 1}
        assert port.request({"n": 1}, reply_type=Echo, timeout=5) == Echo(1)
        with port.session(timeout=5) as session:
            assert [session.send({"n": n}) for n in range(3)] == [{"echo": n} for n in range(3)]
            session.post({"do": "count", "to": 2})
            assert [session.receive(timeout=5) for _ in range(2)] == [{"n": 0}, {"n": 1}]
        assert session.closed
        with port.stream({"do": "count", "to": 100}) as replies:
            assert [reply["n"] for reply in replies] == list(range(100))
        with port.stream({"do": "count", "to": 100}) as replies:
            assert replies.receive() == {"n": 0}
        assert port.statistics().open == 0
    assert port.closed


def test_many_threads_share_one_port() -> None:
    with a_port() as port, ThreadPoolExecutor(16) as pool:
        replies = pool.map(lambda n: port.request({"n": n}, timeout=REQUEST_TIMEOUT), range(2000))
        assert list(replies) == [{"echo": n} for n in range(2000)]


def test_errors_come_out_as_they_are() -> None:
    failure = KeyError("mine")
    with pytest.raises(KeyError) as caught, a_port() as port:  # noqa: PT012 - what the block raises
        with pytest.raises(SessionRemoteError, match="not today"):
            port.request({"do": "refuse"})
        with pytest.raises(SessionTimeoutError):
            port.request({"do": "wait"}, timeout=0.02)
        raise failure
    assert caught.value is failure
    with pytest.raises(RuntimeError, match="the block of open_port was left"):
        port.request({})


def test_leaving_the_block_ends_calls_of_other_threads() -> None:
    outcome: list[BaseException] = []

    def ask(port: psession.blocking.Port) -> None:
        try:
            port.request({"do": "wait"})
        except BaseException as error:
            outcome.append(error)

    with a_port() as port:
        thread = threading.Thread(target=ask, args=(port,))
        thread.start()
        while not port.statistics().open:
            pass
    thread.join()
    assert isinstance(outcome[0], psession.SessionAbortError), outcome


@contextmanager
def a_server() -> Iterator[int]:
    """A server of psession's in a thread of its own; gives its TCP port."""

    async def meet(channel: Any) -> None:
        async with SessionManager(on_session=handle).accept(channel) as port:
            await port.wait_closed()

    @asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_tcp, meet, 0, host="127.0.0.1"))
            yield server.addresses[0][1]
            nursery.cancel_scope.cancel()

    with start_blocking_portal("trio") as portal, portal.wrap_async_context_manager(serving()) as number:
        yield number


def test_a_url_or_a_function_opens_the_channel() -> None:
    with a_server() as number:
        with open_port(f"tcp://127.0.0.1:{number}") as port:
            assert port.request({"n": 1}) == {"echo": 1}
        with open_port(lambda: open_tcp("127.0.0.1", number), name="lamp") as port:
            assert port.request({"n": 2}) == {"echo": 2}
            assert "psession.blocking.Port 'lamp'" in repr(port)


@pytest.mark.parametrize("url", ["http://device", "tcp://device", "unix://host/path", "device"])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no address that open_port knows"), open_port(url):
        pass


def test_a_server_that_is_not_there_is_an_os_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError), open_port(f"tcp://127.0.0.1:{taken.getsockname()[1]}"):  # noqa: PT011 - any
            pass


async def test_a_task_of_trios_is_told_that_this_is_not_for_it() -> None:
    with pytest.raises(RuntimeError, match=r"use manager\.port\(\)"), open_port("tcp://127.0.0.1:1"):
        pass


def test_a_port_for_plain_functions_may_be_used_where_a_loop_of_asyncios_runs() -> None:
    async def main() -> None:
        with a_port() as port:
            assert port.request({"n": 1}) == {"echo": 1}

    asyncio.run(main())


CTRL_C = """
import os, signal, sys, threading
import trio
from contextlib import asynccontextmanager
from psession import Exact, SessionManager
from psession.blocking import open_port
from psession.channels import memory_pair

cancelled = threading.Event()

async def wait(session):
    async for message in session:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

@asynccontextmanager
async def connect():
    here, there = memory_pair()
    async with SessionManager(on_session=wait).port("far", there):
        yield here

with open_port(connect, dialect=Exact()) as port:
    try:
        port.request({})
    except KeyboardInterrupt:
        print("interrupted", cancelled.wait(5), port.closed)
"""


def test_ctrl_c_gives_the_turn_up_and_the_port_lives_on() -> None:
    ran = subprocess.run([sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=60, env=os.environ)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("interrupted True False\n", "", 0)
