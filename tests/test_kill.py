"""The accepting process is killed with kill -9 in mid-load and started again: outcomes are true to what it wrote."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from psession import Exact, SessionError, SessionManager
from psession.channels import lines, reconnecting

from .ports import free_port

PROGRAM = Path(__file__).parent / "programs" / "valve.py"
KILLS = 3
TURNS = 600


async def start(port: int, log: Path, form: str) -> trio.Process:
    """The server, ready."""
    command = [sys.executable, str(PROGRAM), str(port), str(log), form]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"ready" in await process.stdout.receive_some()
    return process


@pytest.mark.parametrize("form", ["on_session", "async on_request", "plain on_request"])
async def test_a_server_killed_in_mid_load_is_back_and_every_outcome_is_true(tmp_path: Path, form: str) -> None:
    number, log = free_port(), tmp_path / "log"
    outcomes: dict[int, Any] = {}
    numbers = iter(range(TURNS))

    async def connect() -> trio.abc.Channel[Any]:
        return lines(await trio.open_tcp_stream("127.0.0.1", number))

    manager = SessionManager(dialect=Exact(), resume_within=20, session_timeout=20)
    with trio.fail_after(60):
        process = await start(number, log, form)
        try:
            async with (
                reconnecting(connect, first_delay=0.05, max_delay=0.2) as channel,
                manager.port("valve", channel) as port,
            ):
                progress = trio.lowlevel.ParkingLot()

                async def ask() -> None:
                    for turn in numbers:
                        try:
                            outcomes[turn] = (await port.request({"n": turn}))["done"]
                        except SessionError as error:
                            outcomes[turn] = error.outcome
                        progress.unpark_all()

                async with trio.open_nursery() as nursery:
                    for _ in range(16):
                        nursery.start_soon(ask)
                    for kill in range(1, KILLS + 1):
                        while len(outcomes) < kill * TURNS // (KILLS + 1):
                            await progress.park()
                        process.send_signal(signal.SIGKILL)
                        await process.wait()
                        process = await start(number, log, form)
                assert port.statistics().forgotten == KILLS
        finally:
            process.kill()
            await process.wait()
    written = Counter(log.read_text(encoding="utf-8").splitlines())
    assert len(outcomes) == TURNS
    assert max(written.values()) == 1  # nothing was run twice
    for turn, outcome in outcomes.items():
        begun, done = written[f"begun {turn}"], written[f"done {turn}"]
        assert outcome in (turn, "sent", "refused", "not_sent")
        assert outcome != turn or done
        assert outcome not in ("refused", "not_sent") or not begun
    assert sum(outcome == turn for turn, outcome in outcomes.items()) > TURNS - KILLS * 40
