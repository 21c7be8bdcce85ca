"""A listener where the system has no more files: it goes on, frees what it can, and does not fill the log."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from psession._listeners import PatientListener
from psession.protocol.bucket import Lines

if TYPE_CHECKING:
    from trio.testing import MockClock


class Exhausted(trio.abc.Listener[trio.SocketStream]):
    """A listener that fails so often with a number of the system's, then has a connection."""

    def __init__(self, failures: int, number: int, connection: trio.SocketStream) -> None:
        self.tries: list[float] = []
        self.closed = False
        self.connection = connection
        self._failures = failures
        self._number = number

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        self.tries.append(trio.current_time())
        if len(self.tries) <= self._failures:
            raise OSError(self._number, os.strerror(self._number))
        return self.connection

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@pytest.fixture
async def connection() -> trio.SocketStream:
    here, there = trio.socket.socketpair()
    there.close()
    return trio.SocketStream(here)


def patient(listener: Exhausted, spare: int) -> tuple[PatientListener, list[float]]:
    """A patient listener that can free so many files, and when it did."""
    freed: list[float] = []

    def make_room() -> bool:
        if len(freed) == spare:
            return False
        freed.append(trio.current_time())
        return True

    return PatientListener(listener, make_room, Lines(trio.current_time())), freed


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_a_lack_of_files_is_waited_out(
    number: int, autojump_clock: MockClock, connection: trio.SocketStream, caplog: pytest.LogCaptureFixture
) -> None:
    async with connection:
        listener = Exhausted(100, number, connection)
        assert await patient(listener, 0)[0].accept() is connection
        assert listener.tries == pytest.approx([n / 10 for n in range(101)])
    assert len(caplog.records) == 3
    assert all(record.exc_info is None for record in caplog.records)
    assert os.strerror(number) in caplog.text


async def test_a_file_that_is_freed_serves_the_newcomer_at_once(
    autojump_clock: MockClock, connection: trio.SocketStream
) -> None:
    async with connection:
        listener, freed = patient(Exhausted(1, errno.EMFILE, connection), 5)
        assert await listener.accept() is connection
        assert (trio.current_time(), freed) == (0.0, [0.0])


async def test_where_freeing_does_not_help_no_more_than_one_is_freed_in_a_tenth_of_a_second(
    autojump_clock: MockClock, connection: trio.SocketStream
) -> None:
    async with connection:
        listener, freed = patient(Exhausted(5, errno.ENFILE, connection), 9)
        assert await listener.accept() is connection
        assert freed == pytest.approx([0, 0, 0.1, 0.2, 0.3])


async def test_other_errors_and_the_end_are_the_listeners_own(connection: trio.SocketStream) -> None:
    async with connection:
        inner = Exhausted(1, errno.EINVAL, connection)
        listener, freed = patient(inner, 1)
        with pytest.raises(OSError, match="Invalid argument"):
            await listener.accept()
        await listener.aclose()
        assert (inner.closed, freed) == (True, [])
