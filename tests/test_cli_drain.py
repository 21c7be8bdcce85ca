"""SIGTERM ends ``psession echo`` when its sessions are over: in processes of its own, over both kinds of URL."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, PortClosedError, SessionManager, SessionRemoteError
from psession._cli._address import Address
from psession._cli._url import open_url

from .commands import LIMIT, connect, echoing, finish
from .peers import Caught, settle

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

    from psession import Port

SCHEMES = pytest.mark.parametrize("scheme", ["tcp", "ws"])


class Deaf(trio.abc.Channel[Any]):
    """A channel that loses what the peer says about its port.

    Attributes:
        told: Set when it said that it takes no new sessions.
    """

    def __init__(self, channel: trio.abc.Channel[Any]) -> None:
        self.channel = channel
        self.told = trio.Event()

    async def send(self, value: Any) -> None:
        await self.channel.send(value)

    async def receive(self) -> Any:
        while "sid" not in (message := await self.channel.receive()):
            if "_turn" in message:
                self.told.set()
        return message

    async def aclose(self) -> None:
        await self.channel.aclose()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[tuple[Port, Deaf]]:
    """An exact port of that echo, and its channel."""
    with trio.fail_after(LIMIT):
        async with open_url(Address.parse(url), within=LIMIT) as channel:
            deaf = Deaf(channel)
            async with SessionManager(dialect=Exact()).port("echo", deaf) as port:
                yield port, deaf


async def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output and complaints."""
    return await trio.to_thread.run_sync(finish, process)


@SCHEMES
async def test_who_is_at_work_goes_on_and_who_comes_new_is_refused(scheme: str) -> None:
    with echoing(f"{scheme}://127.0.0.1:0") as (url, process):
        async with client(url) as (port, channel):
            async with port.session() as session, trio.open_nursery() as nursery:
                assert (await session.send({"n": 1}))["n"] == 1
                under_way = Caught()
                nursery.start_soon(under_way.run, session.send, {"n": 2})
                await settle()
                process.send_signal(signal.SIGTERM)
                await channel.told.wait()
                with pytest.raises(SessionRemoteError) as refused:
                    await port.request({"n": 3})
                assert (refused.value.code, refused.value.outcome) == ("refused.closing", "refused")
                with pytest.raises(ConnectionRefusedError):
                    connect(url)
                assert (await session.send({"n": 4}))["n"] == 4
                assert under_way.value["n"] == 2
                assert process.poll() is None
            await port.wait_closed()
        assert await end_of(process) == (0, "", "")


@SCHEMES
async def test_what_does_not_end_in_time_is_cut_off_and_told(scheme: str) -> None:
    with echoing(f"{scheme}://127.0.0.1:0", "--drain", "0.01") as (url, process):
        async with client(url) as (port, _), port.session() as session:
            await session.send({"n": 1})
            process.send_signal(signal.SIGTERM)
            await port.wait_closed()
            with pytest.raises(PortClosedError):
                await port.request({"n": 2})
        told = "psession: sessions that had not ended in 0.01 s (--drain) were cut off\n"
        assert await end_of(process) == (0, "", told)


@SCHEMES
@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_second_signal_ends_it_at_once(scheme: str, second: signal.Signals, status: int) -> None:
    with echoing(f"{scheme}://127.0.0.1:0", "--drain", "inf") as (url, process):
        async with client(url) as (port, channel), port.session() as session:
            await session.send({"n": 1})
            process.send_signal(signal.SIGTERM)
            await channel.told.wait()
            process.send_signal(second)
            await port.wait_closed()
        assert await end_of(process) == (status, "", "")


async def test_ctrl_c_waits_for_nobody() -> None:
    with echoing("tcp://127.0.0.1:0", "--drain", "inf") as (url, process):
        async with client(url) as (port, channel), port.session() as session:
            await session.send({"n": 1})
            process.send_signal(signal.SIGINT)
            await port.wait_closed()
            assert not channel.told.is_set()
        assert await end_of(process) == (130, "", "")
