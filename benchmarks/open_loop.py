"""Requests that come by a schedule, whether or not those before are answered: an open loop.

The schedule is one of Poisson's, the same for all, and a timer of the kernel's keeps it, to some microseconds: what
loops themselves offer is a millisecond late, and to look at the clock awake keeps a processor busy that the other end
may need. The time of a request counts from the moment that the schedule gives it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
from contestants.sharing import REQUEST, Ask
from harness import Skipped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

AT_ONCE = 1024
"""How many requests are under way at most; what is due beyond waits in line. At 20,000 a second: a stall of 50 ms."""


class Arrivals:
    """Requests by schedule, each a task of its own as a server's are.

    Args:
        asks: What they are sent by, each for one at a time.

    Attributes:
        took: How long each took from when it was due, in seconds.
    """

    def __init__(self, asks: list[Ask]) -> None:
        self.took: list[float] = []
        self._free = list(asks)
        self._line: deque[float] = deque()

    async def run(
        self,
        moments: Iterator[float],
        start: Callable[[Ask, float], object],
        sleep_until: Callable[[float], Awaitable[None]],
    ) -> None:
        """Have `ask` called in a task at each of the moments."""
        for due in moments:
            if time.monotonic() < due:
                await sleep_until(due)
            if self._free:
                start(self._free.pop(), due)
            else:
                self._line.append(due)

    async def ask(self, ask: Ask, due: float) -> None:
        """One request, and then those that wait in line."""
        while True:
            await ask(REQUEST)
            self.took.append(time.monotonic() - due)
            if not self._line:
                break
            due = self._line.popleft()
        self._free.append(ask)


def schedule(rate: float, seconds: float) -> Iterator[float]:
    """The moments of so many requests a second, for so long, on the clock of `time.monotonic`."""
    chance = random.Random(1)
    due = time.monotonic() + 0.01
    over = due + seconds
    while due < over:
        yield due
        due += chance.expovariate(rate)


async def on_trio(asks: list[Ask], moments: Iterator[float]) -> list[float]:
    """How long each request took, in seconds, in the order of the answers."""
    arrivals = Arrivals(asks)
    with timer() as (file, wake_at):

        async def sleep_until(due: float) -> None:
            wake_at(due)
            await trio.lowlevel.wait_readable(file)

        async with trio.open_nursery() as nursery:
            await arrivals.run(moments, lambda ask, due: nursery.start_soon(arrivals.ask, ask, due), sleep_until)
    return arrivals.took


async def on_asyncio(asks: list[Ask], moments: Iterator[float]) -> list[float]:
    """The same."""
    arrivals, loop = Arrivals(asks), asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        os.read(file, 8)
        woken.set_result(None)

    async def sleep_until(due: float) -> None:
        nonlocal woken
        woken = loop.create_future()
        wake_at(due)
        await woken

    with timer() as (file, wake_at):
        loop.add_reader(file, wake)
        try:
            async with asyncio.TaskGroup() as group:
                await arrivals.run(moments, lambda ask, due: group.create_task(arrivals.ask(ask, due)), sleep_until)
        finally:
            loop.remove_reader(file)
    return arrivals.took


class _Setting(ctypes.Structure):
    """The kernel's ``struct itimerspec``."""

    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


@contextmanager
def timer() -> Iterator[tuple[int, Callable[[float], None]]]:
    """A file that becomes readable at a moment, and how to set that. `os.timerfd_create` is there from Python 3.13 on.

    Raises:
        Skipped: This system has none: it is no Linux.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "timerfd_create"):
        raise Skipped("this system has no timerfd_create(), which Linux has")
    file = library.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if file < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    setting = _Setting()
    reference = ctypes.byref(setting)
    absolute = 1

    def wake_at(moment: float) -> None:
        seconds = int(moment)
        setting.value[0], setting.value[1] = seconds, int((moment - seconds) * 1e9)
        library.timerfd_settime(file, absolute, reference, None)

    try:
        yield file, wake_at
    finally:
        os.close(file)
