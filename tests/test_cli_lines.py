"""`psession call --lines`: many messages from standard input, their rate, what becomes of them, and the summary."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import SessionManager, SessionRemoteError
from psession._cli import _load
from psession._cli._address import Address
from psession._cli._problem import Exit
from psession._cli._tally import MOST_KINDS, Tally
from psession._cli._wires import WIRES
from psession._cli.call import Peer, failure_of
from psession.channels import lines, memory_pair

from .commands import LIMIT, echoing, environment, finish, peer, read_on, start

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock


@pytest.fixture(scope="module")
def echo_url() -> Iterator[str]:
    with echoing("tcp://127.0.0.1:0") as (url, _):
        yield url


def call(url: str, given: str, *options: str) -> tuple[int, list[str], list[str]]:
    """Exit status, replies and complaints."""
    process = start("call", url, "-", "--lines", *options, stdin=subprocess.PIPE)
    out, err = process.communicate(given, timeout=LIMIT)
    return process.returncode, out.splitlines(), err.splitlines()


def test_each_line_is_a_message_and_each_reply_a_line_in_order(echo_url: str) -> None:
    given = [f'{{"n":{number}}}' for number in range(500)]
    status, out, (summary,) = call(echo_url, "\n".join(given))  # the last line lacks its end
    assert (status, out) == (0, given)
    assert summary.startswith("psession: 500 asked in ")
    assert "500 answered (p50 " in summary
    assert summary.endswith(", 0 failed")


def test_many_may_wait_at_a_time_and_all_get_their_replies(echo_url: str) -> None:
    given = [f'{{"n":{number}}}' for number in range(500)]
    status, out, _ = call(echo_url, "\n".join(given), "--concurrency", "64", "--exact")
    assert (status, sorted(out)) == (0, sorted(given))


def test_nothing_on_standard_input_is_nothing_asked(echo_url: str) -> None:
    status, out, (summary,) = call(echo_url, "\n\n")
    assert (status, out) == (0, [])
    assert "0 answered, 0 failed" in summary


def test_a_line_that_is_no_message_costs_itself_alone(echo_url: str) -> None:
    long = json.dumps({"a": "x" * 2**20})
    status, out, err = call(echo_url, f'{{"n":1}}\n[1]\nnonsense\n{long}\n{{"n":2}}\n')
    assert (status, out) == (Exit.MESSAGE, ['{"n":1}', '{"n":2}'])
    assert len(err) == 3
    assert err[0].startswith("psession: the first bad message: message 2: ")
    assert err[1].startswith("psession: the first too large: message 4: ")
    assert "2 answered" in err[2]
    assert err[2].endswith("3 failed (2 bad message, 1 too large)")


def test_silence_is_counted_and_told_once_and_the_rest_is_asked_all_the_same() -> None:
    came: list[bytes] = []
    with peer(lambda connection: came.append(read_on(connection))) as port:
        status, out, err = call(f"tcp://127.0.0.1:{port}", '{"n":1}\n{"n":2}\n', "--timeout", "0.1")
    assert came == [b'{"n":1,"sid":1}\n{"n":2,"sid":2}\n']
    assert (status, out, len(err)) == (Exit.TIMEOUT, [], 2)
    assert err[0].startswith("psession: the first timeout: ")
    assert (
        err[1].endswith("2 asked in 0.20 s (9.99 a second): 0 answered, 2 failed (2 timeout)") or "2 timeout" in err[1]
    )


def test_a_connection_that_is_lost_ends_it_and_what_was_not_asked_is_told() -> None:
    def once(connection: socket.socket) -> None:
        connection.sendall(connection.recv(4096))

    with peer(once) as port:
        process = start("call", f"tcp://127.0.0.1:{port}", "-", "--lines", stdin=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('{"n":1}\n')
        process.stdin.flush()
        assert process.stdout.readline() == '{"n":1}\n'
        assert process.wait(LIMIT) == Exit.CONNECTION  # though standard input is open
        _, _, err = finish(process)
    assert "the connection was lost before the end of standard input; the rest of it was not asked" in err
    assert "1 asked in " in err


@pytest.mark.parametrize("begun", ["", '{"n"'], ids=["between two lines", "within a line"])
def test_ctrl_c_ends_with_the_summary_though_standard_input_is_open(begun: str) -> None:
    def first(connection: socket.socket) -> None:
        connection.sendall(connection.recv(4096))
        read_on(connection)

    with peer(first) as port:
        options = ["--lines", "--concurrency", "9", "--timeout", "60"]
        process = start("call", f"tcp://127.0.0.1:{port}", "-", *options, stdin=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('{"n":1}\n')
        process.stdin.flush()
        assert process.stdout.readline() == '{"n":1}\n'
        process.stdin.write(f'{{"n":2}}\n{begun}')
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        status = process.wait(LIMIT)
        _, out, err = finish(process)
    assert (status, out, err.count("\n")) == (Exit.INTERRUPTED, "", 1)
    assert "1 answered" in err


def test_standard_output_that_closes_ends_it(echo_url: str) -> None:
    process = start("call", echo_url, "-", "--lines", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write('{"n":1}\n')
    process.stdin.flush()
    assert process.wait(LIMIT) == Exit.FAILED
    process.stdin.close()
    assert process.stderr is not None
    (summary,) = process.stderr.read().splitlines()
    process.stderr.close()
    assert "1 asked" in summary


def test_standard_input_that_is_closed_is_told_in_one_line(echo_url: str) -> None:
    process = start("call", echo_url, "-", "--lines", preexec_fn=lambda: os.close(0))
    status, out, err = finish(process)
    assert (status, out, err.count("\n")) == (Exit.MESSAGE, "", 1)


# ----------------------------------------------------------------------------------------------------- rate and latency
class Script(trio.abc.Stream):
    """Standard input whose lines come at certain moments."""

    def __init__(self, *moments: float) -> None:
        self._moments = iter(moments)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        moment = next(self._moments, None)
        if moment is None:
            return b""
        await trio.sleep_until(moment)
        return b'{"n":1}\n'

    async def send_all(self, data: Any) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def load(moments: list[float], *, concurrency: int, interval: float, takes: float) -> tuple[list[float], Tally]:
    """The moments when the peer was asked, and the count, of one run against a peer that takes its time."""
    asked: list[float] = []

    async def answer(message: Any) -> Any:
        asked.append(trio.current_time())
        await trio.sleep(takes)
        return message

    here, there = memory_pair()
    manager = SessionManager(session_timeout=100)
    address = Address("tcp", "x", 1)
    one = Peer(address=address, wire=WIRES["classic"], within=5, options={})
    tally = Tally()
    async with manager.port("far", there, on_request=answer), manager.port("near", here) as port:
        await _load._Load(one, port, tally, concurrency, interval).run(lines(Script(*moments)))
    return asked, tally


async def test_messages_go_out_at_the_rate_that_was_asked_for(autojump_clock: MockClock) -> None:
    asked, tally = await load([0] * 5, concurrency=9, interval=0.25, takes=1)
    assert asked == [0, 0.25, 0.5, 0.75, 1]
    assert (tally.answered, tally.slowest) == (5, 1)


async def test_a_slow_peers_queue_counts_as_its_latency(autojump_clock: MockClock) -> None:
    asked, tally = await load([0] * 4, concurrency=1, interval=0.5, takes=2)
    assert asked == [0, 2, 4, 6]
    assert tally.slowest == 8 - 1.5  # the last was due after 1.5 s


async def test_an_input_that_is_late_is_not_the_peers_latency(autojump_clock: MockClock) -> None:
    asked, tally = await load([0, 0, 10, 10], concurrency=9, interval=1, takes=2)
    assert asked == [0, 1, 10, 11]
    assert tally.slowest == 2


async def test_without_a_rate_a_message_counts_from_when_it_is_sent(autojump_clock: MockClock) -> None:
    asked, tally = await load([0] * 4, concurrency=2, interval=0, takes=3)
    assert asked == [0, 0, 3, 3]
    assert tally.slowest == 3


def test_percentiles_are_right_to_one_percent() -> None:
    tally = Tally()
    for number in range(1, 1001):
        tally.asked += 1
        tally.answer(number / 1000)
    assert tally.percentile(50) == pytest.approx(0.5, rel=0.0101)
    assert tally.percentile(99) == pytest.approx(0.99, rel=0.0101)
    assert tally.percentile(100) == 1.0
    assert tally.summary(2).startswith("1000 asked in 2.00 s (500 a second): 1000 answered (p50 50")


def test_a_peer_that_makes_up_kinds_of_errors_fills_no_memory() -> None:
    tally = Tally()
    for number in range(1000):
        tally.asked += 1
        tally.fail(f"error of the peer ({number})", Exit.FAILED)
    assert len(tally.failed) == MOST_KINDS + 1
    assert tally.failed["other"] == 1000 - MOST_KINDS
    assert (tally.status, tally.under_way) == (Exit.FAILED, 0)


def test_an_error_that_a_peer_gave_a_long_name_is_cut() -> None:
    error = SessionRemoteError("no")
    error.code = "x" * 10_000
    assert failure_of(error) == (Exit.FAILED, f"error of the peer ({'x' * 40})")


# ------------------------------------------------------------------------------------------------------------- progress
@pytest.mark.parametrize(
    ("columns", "expected", "shown"),
    [
        (80, 200, "[" + "#" * 15 + "." * 15 + "]  50 %  100 done, 10 failed, 50/s"),
        (50, 200, "[" + "#" * 7 + "." * 7 + "]  50 %  100 done, 10 failed, 50/s"),
        (50, None, "100 done, 10 failed, 50/s"),
        (20, 200, "100 done, 10 failed"),
        (80, 50, "[" + "#" * 30 + "] 100 %  100 done, 10 failed, 50/s"),
    ],
)
def test_the_progress_fits_its_line(columns: int, expected: int | None, shown: str) -> None:
    tally = Tally()
    for _ in range(90):
        tally.answer(1)
    for _ in range(10):
        tally.fail("timeout", Exit.TIMEOUT)
    assert _load.progress(tally, 2, expected, columns) == shown
    assert len(shown) < columns


def test_a_terminal_shows_a_bar_which_is_gone_in_the_end(echo_url: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text('{"n":1}\n' * 9 + '[1]\n{"n":1}')
    terminal, behind = pty.openpty()
    with given.open() as stdin:
        process = subprocess.Popen(
            [sys.executable, "-m", "psession", "call", echo_url, "-", "--lines", "--rate", "30"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=behind,
            env=environment() | {"TERM": "xterm", "COLUMNS": "80"},
        )
    out, _ = process.communicate(timeout=LIMIT)
    os.close(behind)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert (process.returncode, out.count(b"\n")) == (Exit.MESSAGE, 10)
    first, *_ = shown.split("\r\x1b[K")
    assert first == "[" + "." * 30 + "]   0 %  0 done, 0 failed, 0/s"
    assert "\r\x1b[Kpsession: the first bad message: message 10: " in shown
    assert shown.count("\r\x1b[K[") >= 1
    last = shown.rpartition("\r\x1b[K")[2].splitlines()
    assert all(line.startswith("psession: ") for line in last)
    assert last[-1].endswith("1 failed (1 bad message)")


def test_where_the_terminal_shows_the_replies_there_is_no_bar(echo_url: str) -> None:
    terminal, behind = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "psession", "call", echo_url, "-", "--lines"],
        stdin=subprocess.DEVNULL,
        stdout=behind,
        stderr=behind,
        env=environment() | {"TERM": "xterm"},
    )
    process.wait(LIMIT)
    os.close(behind)
    assert "\x1b" not in os.read(terminal, 65536).decode()
    os.close(terminal)
