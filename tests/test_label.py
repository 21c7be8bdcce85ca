"""A port's name and label, which is the application's word for it: wherever people read of a port, they say which."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair

import psession.asyncio
from psession import (
    Exact,
    MalformedMessageError,
    MessageError,
    PortClosedError,
    Session,
    SessionAbortError,
    SessionCancelError,
    SessionManager,
    SessionTimeoutError,
)
from psession._cli import watch
from psession.blocking import open_port
from psession.channels import lines, memory_pair
from psession.hooks import PortClosed
from psession.inspector import log_waiting, redact_secrets
from psession.inspector._look import Looker

from .peers import Caught, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from psession import Port


@asynccontextmanager
async def peer(**options: Any) -> AsyncIterator[tuple[Port, trio.abc.Channel[Any], SessionManager]]:
    """A port that a server accepted before its device logged in, the device's end of its channel, and its manager."""
    here, there = memory_pair()
    manager = SessionManager(**options)
    async with manager.accept(here, "peer 12") as port:
        yield port, there, manager


async def test_it_is_empty_at_first_and_may_be_set_at_any_time() -> None:
    async with peer() as (port, _, _):
        assert (port.label, repr(port)) == ("", "<psession.Port 'peer 12', open, 0 sessions>")
        port.label = "lamp"
        assert (port.label, repr(port)) == ("lamp", "<psession.Port 'peer 12' (lamp), open, 0 sessions>")
        assert repr(port.sessions) == "<0 open sessions of port 'peer 12' (lamp)>"
        async with port.session() as session:
            assert repr(session) == "<psession.Session 1 of port 'peer 12' (lamp), open>"
        port.label = ""
        assert repr(port) == "<psession.Port 'peer 12', open, 0 sessions>"


async def test_what_is_no_label_is_refused_and_the_one_before_stays() -> None:
    async with peer() as (port, _, _):
        port.label = "x" * 200
        with pytest.raises(TypeError, match="a port's label must be a str, not 7"):
            port.label = 7  # type: ignore[assignment]
        with pytest.raises(ValueError, match="a port's label must have 200 characters or less, not 201"):
            port.label = "y" * 201
        assert port.label == "x" * 200


async def test_errors_say_it_beside_the_name_and_keep_the_name_for_programs(autojump_clock: MockClock) -> None:
    async with peer() as (port, _, _):
        port.label = "lamp\n2"
        with pytest.raises(SessionTimeoutError) as late:
            await port.request({"q": 1}, timeout=1)
        assert str(late.value).startswith("port 'peer 12' (lamp\\n2), session 1: no reply: ")
        assert (late.value.port, late.value.label) == ("peer 12", "lamp\n2")
        port.close()
        with pytest.raises(PortClosedError, match=r"^port 'peer 12' \(lamp\\n2\): the port is closed: "):
            await port.request({"q": 1})


async def test_lines_of_the_log_say_it_and_have_it_as_a_field(caplog: pytest.LogCaptureFixture) -> None:
    def crash(_: Any) -> Any:
        raise RuntimeError("no")

    async with peer(on_request=crash) as (port, there, _):
        port.label = "lamp"
        await there.send({"q": 1, "sid": 7})
        await there.send({"lost": 1, "sid": 1})
        await settle()
    assert {(record.label, record.port) for record in caplog.records} == {("lamp", "peer 12")}  # type: ignore[attr-defined]
    assert len(caplog.messages) == 2
    assert all(line.startswith("port 'peer 12' (lamp): ") for line in caplog.messages)


async def test_who_closes_a_port_may_say_why_and_whoever_waits_reads_it(autojump_clock: MockClock) -> None:
    ends: list[PortClosed] = []
    async with trio.open_nursery() as nursery, peer() as (port, there, manager):
        manager.observe(ends.append, PortClosed)
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {"q": 1})
        await settle()
        with pytest.raises(TypeError, match=r"a reason is words, a str, not ValueError\('x'\); abort\(error\) gives"):
            port.close(ValueError("x"))  # type: ignore[arg-type]
        assert not port.closed
        port.close("the device was\nstarted anew")
        port.close("for another reason")
        await settle()
        why = "the port was closed: the device was\\nstarted anew"
        assert str(caught.error) == f"port 'peer 12', session 1: {why} (1 attempt, 0 s)"
        assert repr(port) == f"<psession.Port 'peer 12', closed: {why}>"
        assert [end.reason for end in ends] == [why]
        with pytest.raises(PortClosedError, match="the port is closed: the port was closed: the device was"):
            await port.request({"q": 2})
        assert await there.receive() == {"q": 1, "sid": 1}


async def test_turns_that_wait_and_the_end_of_a_port_say_it(autojump_clock: MockClock) -> None:
    ends: list[PortClosed] = []
    async with trio.open_nursery() as nursery, peer() as (port, _, manager):
        manager.observe(ends.append, PortClosed)
        port.label = "lamp"
        nursery.start_soon(given_up, port)
        await settle()
        assert [turn.label for turn in port.waiting] == ["lamp"]
        port.cancel()
        await settle()
    assert [(end.port, end.label) for end in ends] == [("peer 12", "lamp")]


async def test_the_inspector_and_its_lines_in_a_terminal_say_it(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery, peer() as (port, there, manager):
        looker = Looker(manager, redact_secrets)
        manager.observe(looker.record)
        port.label = "lamp"
        nursery.start_soon(given_up, port)
        await there.send({"lost": 1, "sid": 9})
        await settle()
        seen = looker.answer({"do": "look"})
        assert [one["label"] for one in (*seen["ports"], *seen["waiting"])] == ["lamp", "lamp"]
        text = "\n".join(watch.lines(seen))
        assert "peer 12 (lamp), session 1: since " in text
        assert "peer 12 (lamp): open, " in text
        assert "peer 12 (lamp): unknown_sid, 1 times" in text
        port.close()
        await trio.sleep(1)
        closed = looker.answer({"do": "look"})
        assert "peer 12 (lamp): at " in "\n".join(watch.lines(closed))
        for one in (*seen["ports"], *seen["waiting"]):
            del one["label"]  # a program of an older version has none
        assert "peer 12: open, " in "\n".join(watch.lines(seen))


async def test_the_line_about_turns_that_wait_says_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery, peer(session_timeout=600) as (port, _, manager):
        port.label = "lamp"
        nursery.start_soon(given_up, port)
        nursery.start_soon(log_waiting, manager)
        await trio.sleep(61)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage().startswith("port 'peer 12' (lamp): 1 turn waits for an answer")
        assert record.label == "lamp"  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()


async def given_up(port: Port) -> None:
    """Ask a deaf peer, until the turn is cancelled or its port is over."""
    try:
        await port.request({"q": 1})
    except (SessionAbortError, SessionCancelError):
        return


def test_ports_for_plain_functions_have_it() -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        yield memory_pair()[0]

    with open_port(connect, name="peer 12") as port:
        assert port.label == ""
        port.label = "lamp"
        assert (port.label, repr(port)) == ("lamp", "<psession.blocking.Port 'peer 12' (lamp), open, 0 sessions>")
        with pytest.raises(TypeError, match="must be a str"):
            port.label = 7  # type: ignore[assignment]


def test_ports_for_asyncio_have_it() -> None:
    async def main() -> None:
        async with psession.asyncio.bridge() as bridged:
            here, _ = memory_pair()
            async with bridged.open(SessionManager().port("peer 12", here)) as port:
                assert port.label == ""
                port.label = "lamp"
                assert repr(port) == "<psession.asyncio.Port 'peer 12' (lamp), open, 0 sessions>"
                with pytest.raises(SessionTimeoutError, match=r"^port 'peer 12' \(lamp\), session 1: "):
                    await port.request({"q": 1}, timeout=0)

    asyncio.run(main())


async def test_a_payload_that_cannot_travel_is_refused_with_port_and_session() -> None:
    here, there = (lines(end) for end in memory_stream_pair())

    async def handler(session: Session) -> None:
        async for message in session:
            try:
                await session.post({"x": object()})
            except MessageError as error:
                await session.post({"error": str(error)})
            assert message == {"q": 1}

    async with (
        SessionManager(dialect=Exact(), on_session=handler).port("asker", there) as asker,
        SessionManager(dialect=Exact()).port("peer 12", here) as port,
    ):
        port.label = "lamp"
        seen = []
        async with port.session() as session:
            for call in (
                port.request({"x": object()}),
                session.send({"x": object()}),
                session.post({"x": object()}),
                port.post({"x": object()}),
                port.stream({"x": object()}).__aenter__(),
            ):
                with pytest.raises(MessageError) as caught:
                    await call
                seen.append(str(caught.value))
                assert (caught.value.port, caught.value.label) == ("peer 12", "lamp")
        places = [text.partition(": no JSON for it: ")[0] for text in seen]
        at = "port 'peer 12' (lamp)"
        assert places == [f"{at}, session 2", f"{at}, session 1", f"{at}, session 1", at, f"{at}, session 3"]
        async with port.stream({"q": 1}) as replies:
            said = await replies.receive()
            assert said["error"].startswith("port 'asker', session 4: no JSON for it: ")
        reply = await port.request({"q": 1})
        assert reply["error"].startswith("port 'asker', session 5: no JSON for it: ")
        assert not asker.closed


async def test_so_it_is_by_a_channel_that_makes_no_frames() -> None:
    class Refusing(trio.abc.Channel[Any]):
        async def send(self, value: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise MalformedMessageError("no form for it")

        async def receive(self) -> Any:
            await trio.sleep_forever()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with SessionManager().port("peer 12", Refusing()) as port:
        with pytest.raises(MalformedMessageError, match=r"^port 'peer 12', session 1: no form for it"):
            await port.request({"q": 1})
