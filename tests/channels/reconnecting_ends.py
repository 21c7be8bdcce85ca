"""What a channel that reopens is tested with: a fake network whose links open or fail by script; nothing left over."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import trio

from psession.channels import LinkState, MemoryChannel, ReconnectingChannel, memory_pair, reconnecting

from ..tables import assert_no_timers, tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

Step = Exception | Literal["open", "hang"]


class Net:
    """What `connect` reaches: each try meets the next step of the script, and opens a link where that is at its end.

    Attributes:
        tries: The moment of each.
        far: The far end of each link that was opened, the latest last.
        entered, left: How many links' contexts were.
    """

    def __init__(self, *script: Step, max_buffer: float = 8) -> None:
        self.script = list(script)
        self.max_buffer = max_buffer
        self.tries: list[float] = []
        self.near: list[MemoryChannel] = []
        self.far: list[MemoryChannel] = []
        self.entered = self.left = 0
        self._accepted, self._accept = trio.open_memory_channel[MemoryChannel](math.inf)
        self.tasks: list[trio.lowlevel.Task] = []

    async def dial(self) -> MemoryChannel:
        """`connect` as an async function."""
        self.tries.append(trio.current_time())
        step = self.script.pop(0) if self.script else "open"
        if step == "hang":
            await trio.sleep_forever()
        if isinstance(step, Exception):
            raise step
        near, far = memory_pair(self.max_buffer)
        self.near.append(near)
        self.far.append(far)
        self._accepted.send_nowait(far)
        return near

    async def accept(self) -> MemoryChannel:
        """The far end of the next link."""
        return await self._accept.receive()

    @asynccontextmanager
    async def link(self) -> AsyncIterator[MemoryChannel]:
        """`connect` as a context manager with a nursery inside, which must be entered and left by the same task."""
        async with trio.open_nursery() as nursery:
            near = await self.dial()
            nursery.start_soon(trio.sleep_forever)
            self.entered += 1
            self.tasks.append(trio.lowlevel.current_task())
            try:
                yield near
            finally:
                self.left += 1
                self.tasks.append(trio.lowlevel.current_task())
                await near.aclose()
                nursery.cancel_scope.cancel()

    def connect(self, form: str) -> AbstractAsyncContextManager[Any] | Awaitable[Any]:
        """Either."""
        return self.link() if form == "context" else self.dial()


class Log(list[LinkState]):
    """An `on_state` that keeps what it is told, says it in short, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._readers = trio.lowlevel.ParkingLot()

    def __call__(self, state: LinkState) -> None:
        self.append(state)
        self._readers.unpark_all()

    async def until(self, state: str) -> LinkState:
        """Wait until that is told the next time."""
        while True:
            await self._readers.park()
            if self[-1].state == state:
                return self[-1]

    def words(self) -> list[str]:
        """What was told since the last time: the state and its attempt, `connecting 1`."""
        told = [f"{one.state} {one.attempt}" if one.attempt else one.state for one in self]
        self.clear()
        return told


@asynccontextmanager
async def reopening(connect: Any, **options: Any) -> AsyncIterator[ReconnectingChannel]:
    """`reconnecting` without luck; nothing may be left of it afterwards."""
    async with reconnecting(connect, **{"jitter": 0.0} | options) as channel:
        yield channel
    assert_nothing_left()


def assert_nothing_left() -> None:
    """No task, no timer."""
    assert [task.name for task in tasks() if task.name.startswith("psession ")] == []
    assert_no_timers()
