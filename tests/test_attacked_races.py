"""What an attack found in one tick of the scheduler: each brought about at the very moment, not by chance."""

from __future__ import annotations

import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import PortClosedError, SessionAbortError, SessionCancelError, SessionManager, SessionTimeoutError
from psession.channels import length_prefixed
from psession.shell.engine import Engine

from .peers import Caught, Wire, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


@pytest.mark.parametrize("deed", ["cancel", "end", "close"])
async def test_an_end_after_the_senders_error_and_before_its_turn_runs_is_the_end(
    deed: str, autojump_clock: MockClock
) -> None:
    sent: list[Any] = []

    async def sender(message: dict[str, Any]) -> None:
        sent.append(message)
        await trio.sleep_forever()

    manager = SessionManager(sender, grace=0)
    caught = Caught()
    async with trio.open_nursery() as nursery, manager.port("p") as port:
        session = port.create()
        deeds: dict[str, Callable[[], None]] = {"cancel": session.cancel, "end": session.end, "close": port.close}
        ask = partial(session.send, {}, timeout=5, retry_on=(OSError,), retry_count=3, retry_interval=1)
        nursery.start_soon(caught.run, ask)
        await settle()
        turn = session._live.dialogue.turn
        assert turn is not None
        turn.sender_failed(OSError("the line is down"))  # as the writer says it
        deeds[deed]()
        await trio.sleep(100)
        assert caught.at == 0.0
    assert isinstance(caught.error, SessionAbortError if deed == "close" else SessionCancelError)
    assert len(sent) == 1
    assert_empty(manager, port)


async def test_lost_edges_that_a_look_finds_wake_the_reader_that_sleeps() -> None:
    left, right = socket.socketpair()
    with right, trio.fail_after(10):
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(left))
        async with SessionManager().port("p", length_prefixed(stream)) as port:
            await settle()
            right.send(b"GET / HTTP/1.1\r\n")  # no await from here to the look: the reader has not been woken
            with pytest.raises(PortClosedError, match="another protocol"):
                await port.request({}, timeout=5)
            assert port.closed


async def test_a_number_that_rested_in_its_sessions_hands_goes_on_resting_when_that_ends(
    autojump_clock: MockClock,
) -> None:
    manager = SessionManager(session_ids=range(1, 2), session_id_rest=60, on_session_overflow="wait")
    async with manager.port("p", Wire()) as port, trio.open_nursery() as nursery:
        session = port.create()
        with pytest.raises(SessionTimeoutError):
            await session.send({}, timeout=1, retry_count=2, retry_interval=0)
        nursery.start_soon(Caught().run, partial(session.send, {}, timeout=30))  # nothing is free: it rests where it is
        await trio.sleep(1)
        session.end()
        port.dispatch({"sid": 1, "late": "one of three"})
        async with port.session() as following:
            assert (following.sid, trio.current_time()) == (1, 63.0)


def test_an_interrupt_while_leaving_comes_when_the_port_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = SessionManager(Wire())
    close = Engine.close

    def interrupted(engine: Engine, ending: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        close(engine, ending)

    async def main() -> None:
        with trio.fail_after(10):
            async with manager.port("p") as port:
                port.create()  # the timekeeper runs: a shielded task that only leaving ends
                await settle()
                monkeypatch.setattr(Engine, "close", trio.lowlevel.enable_ki_protection(interrupted))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert not manager.ports


async def test_a_session_that_made_no_room_after_all_still_expires(autojump_clock: MockClock) -> None:
    async def slow_to_leave(session: Any) -> None:
        async for _ in session:
            pass
        await trio.sleep(1000)

    manager = SessionManager(Wire(), on_session=slow_to_leave, max_incoming_sessions=1, session_max_life=10)
    async with manager.port("p") as port:
        for sid in (1, 2, 3):  # 2 takes the room of 1, whose handler stays; 3 finds 2 idle, and too many handlers
            port.dispatch({"sid": sid})
            await settle()
        assert (list(port.sessions), port.statistics().refused) == ([2], 1)
        await trio.sleep(10)
        await settle()  # the timekeeper wakes in the same tick, before or after this task
        assert list(port.sessions) == []
