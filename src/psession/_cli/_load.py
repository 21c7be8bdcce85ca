"""``psession call --lines``: a request for each line of standard input, at a rate, and a summary."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from typing import TYPE_CHECKING, Any, Final

import trio

from psession import MessageError, Port, SessionError
from psession._cli._console import complain, has_status, show_status
from psession._cli._problem import Exit, Problem
from psession._cli._tally import Tally
from psession._cli.call import failure_of
from psession.channels import lines

if TYPE_CHECKING:
    from psession._cli.call import AnyPeer, Way
    from psession.channels import FramedChannel

READ_BYTES: Final = 65536

REFRESH: Final = 0.1
"""Seconds between two looks of the progress bar."""

BAR: Final = 30
"""The most columns that it takes."""


class StandardInput(trio.abc.Stream):
    """Standard input as a stream of lines, of which the last may lack its end.

    A thread reads, past Python's own buffer: that of ``sys.stdin`` would be locked when a Ctrl-C ends the process.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at_end = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what there is, at most 64 KiB."""
        if self._at_end:
            await trio.lowlevel.checkpoint()
            return b""
        data = await trio.to_thread.run_sync(os.read, self._fd, READ_BYTES, abandon_on_cancel=True)
        self._at_end = not data
        return data or b"\n"

    async def send_all(self, data: Any) -> None:
        """Refuse: nobody writes to standard input."""
        raise NotImplementedError("standard input is for reading")

    async def wait_send_all_might_not_block(self) -> None:
        """Refuse likewise."""
        raise NotImplementedError("standard input is for reading")

    async def aclose(self) -> None:
        """Leave it open: it is not this program's to close."""
        await trio.lowlevel.checkpoint()


async def run(peer: AnyPeer, *, rate: float | None, concurrency: int) -> Exit:
    """Send each line of standard input to the peer as a message, and write the replies as they come.

    A message that fails costs itself alone; the first of each kind is told. When the connection is lost nothing more
    is asked. However it ends, also by a Ctrl-C, a summary tells of it on standard error.

    Args:
        peer: The peer.
        rate: Messages a second; ``None``: each as soon as it may.
        concurrency: How many may wait for their reply at a time.

    Raises:
        Problem: No connection, or no standard input.
        OutputLost: Standard output cannot be written any more.
    """
    if sys.stdin is None:
        raise Problem("standard input is closed; --lines reads the messages from it", Exit.MESSAGE)
    fd, tally = sys.stdin.fileno(), Tally()
    shows = has_status() and not os.isatty(fd)
    expected = await trio.to_thread.run_sync(_count_lines, fd) if shows else None
    async with peer.open() as port:
        load = _Load(peer, port, tally, concurrency, 0.0 if rate is None else 1 / rate)
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                if shows:
                    nursery.start_soon(_show_progress, tally, expected)
                await load.run(lines(StandardInput(fd)))
                nursery.cancel_scope.cancel()
        finally:
            complain(tally.summary(trio.current_time() - began))
    return tally.status


class _Load:
    """One run.

    Args:
        peer: Whom to ask.
        port: The way to it.
        tally: Counts what becomes of the messages.
        concurrency: How many may wait for their reply at a time.
        interval: Seconds between two messages.
    """

    def __init__(self, peer: AnyPeer, port: Way, tally: Tally, concurrency: int, interval: float) -> None:
        self._peer = peer
        self._port = port
        self._tally = tally
        self._room = trio.Semaphore(concurrency)
        self._interval = interval

    async def run(self, source: FramedChannel) -> None:
        """Ask all that `source` gives, and return when each message has its reply or has failed."""
        async with trio.open_nursery() as watching:
            reading = trio.CancelScope()

            @watching.start_soon
            async def stop_when_the_connection_is_lost() -> None:
                if isinstance(self._port, Port):  # a device of a fleet may come back
                    await self._port.wait_closed()
                    reading.cancel()

            async with trio.open_nursery() as asking:
                with reading:
                    await self._read(source, asking)
            watching.cancel_scope.cancel()
        if reading.cancelled_caught:
            self._tally.stop(Exit.CONNECTION)
            complain("the connection was lost before the end of standard input; the rest of it was not asked")

    async def _read(self, source: FramedChannel, asking: trio.Nursery) -> None:
        """Start a task for each message, at its time.

        With a rate, the latency of a message counts from the moment that it was due: where a slow peer leaves no room
        for the next question, that one waits for the peer too. Only a late input moves that moment.
        """
        due = trio.current_time()
        while True:
            before = trio.current_time()
            try:
                message = await source.receive()
            except MessageError as error:
                self._tally.asked += 1
                self._failed(error, f"message {self._tally.asked}: ")
                continue
            except trio.EndOfChannel:
                return
            except trio.BrokenResourceError as error:
                raise Problem(f"cannot read standard input: {error.__cause__ or error}", Exit.MESSAGE) from error
            now = trio.current_time()
            due += max(0.0, min(now - due, now - before))
            await trio.sleep_until(due)
            await self._room.acquire()
            self._tally.asked += 1
            asking.start_soon(self._ask, message, due if self._interval else trio.current_time())
            due += self._interval

    async def _ask(self, message: Any, began: float) -> None:
        try:
            await self._peer.ask(self._port, message)
        except SessionError as error:
            self._failed(error)
        else:
            self._tally.answer(trio.current_time() - began)
        finally:
            self._room.release()

    def _failed(self, error: SessionError, where: str = "") -> None:
        status, kind = failure_of(error)
        if self._tally.fail(kind, status):
            complain(f"the first {kind}: {where}{error}")


async def _show_progress(tally: Tally, expected: int | None) -> None:
    began = trio.current_time()
    try:
        while True:
            show_status(progress(tally, trio.current_time() - began, expected))
            await trio.sleep(REFRESH)
    finally:
        show_status("")


def progress(tally: Tally, seconds: float, expected: int | None, columns: int | None = None) -> str:
    """Return a line for the terminal: a bar, where it is known how many messages there are, and figures."""
    columns = columns or shutil.get_terminal_size().columns
    done = tally.answered + tally.failed.total()
    figures = f"{done} done, {tally.failed.total()} failed, {done / seconds if seconds else 0:.0f}/s"
    if expected:
        done = min(done, expected)
        width = min(BAR, columns - len(figures) - 11)
        if width > 0:
            filled = done * width // expected
            figures = f"[{'#' * filled}{'.' * (width - filled)}] {100 * done // expected:3} %  {figures}"
    return figures[: columns - 1]


def _count_lines(fd: int) -> int | None:
    """Return how many lines are left to read in a file; ``None`` for a pipe or a terminal."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return None
    start, count, last = os.lseek(fd, 0, os.SEEK_CUR), 0, b"\n"
    while data := os.read(fd, READ_BYTES):
        count, last = count + data.count(b"\n"), data
    os.lseek(fd, start, os.SEEK_SET)
    return count + (not last.endswith(b"\n"))
