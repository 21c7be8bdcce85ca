"""The one place where a task is put to sleep and woken. Nothing else in the package reschedules a task.

Taking a task out of its table and waking it is one step, protected from KeyboardInterrupt: a signal between the two
would leave a task that nothing ever wakes. An abort function takes out what may be gone already, so it cannot raise.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import trio
from outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

SILENCE: Final = object()
"""The value that a task is woken with to look again, where there is no outcome for it."""

K = TypeVar("K")


class Handed(Outcome[Any]):
    """A value for a task that waits.

    `outcome.Value` sees to it that it cannot be changed and is unwrapped once only, with two writes around its own
    protection. One that goes from here straight to a task needs no such proof: 0.4 us less a message.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def unwrap(self) -> Any:
        """Return the value."""
        return self.value

    def send(self, gen: Generator[Any, Any, object]) -> Any:
        """Send the value to a generator."""
        return gen.send(self.value)

    async def asend(self, agen: AsyncGenerator[Any, Any]) -> Any:
        """Send the value to an async generator."""
        return await agen.asend(self.value)


_LOOK_AGAIN: Final = Handed(SILENCE)

_NONE: Final[tuple[str, ...]] = ()
"""A mix-in beside a class with slots may have none of its own."""


class Waiter:
    """A task that waits for one outcome. A mix-in: the class that waits declares the two attributes.

    Attributes:
        task: The task while it waits.
        outcome: The outcome, if it arrived while no task was waiting for it.
    """

    __slots__ = _NONE

    task: trio.lowlevel.Task | None
    outcome: Outcome[Any] | None

    def park(self) -> Awaitable[Any]:
        """Wait for the outcome, or for `SILENCE`; only while there is no outcome. Cancelling leaves nothing behind."""
        self.task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - a coroutine less on each turn

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    @trio.lowlevel.enable_ki_protection
    def wake(self, outcome: Outcome[Any]) -> None:
        """Give the waiting task its outcome, or keep that until the task looks."""
        task = self.task
        if task is None:
            self.outcome = outcome
        else:
            self.task = None
            trio.lowlevel.reschedule(task, outcome)

    @trio.lowlevel.enable_ki_protection
    def nudge(self) -> None:
        """Have the waiting task look again. Nothing happens where none waits: it looks before it does."""
        task = self.task
        if task is not None:
            self.task = None
            trio.lowlevel.reschedule(task, _LOOK_AGAIN)


class WaitingLine(Generic[K]):
    """Tasks that wait one behind the other, each under a key of its own."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: OrderedDict[K, trio.lowlevel.Task] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    def first(self) -> K:
        """The key of the task that waits longest."""
        return next(iter(self._tasks))

    def park(self, key: K, on_cancel: Callable[[], None] | None = None) -> Awaitable[Any]:
        """Wait at the end of the line. Cancelling leaves it, and calls `on_cancel`, which must not raise."""
        tasks = self._tasks
        tasks[key] = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            tasks.pop(key, None)
            if on_cancel is not None:
                on_cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - likewise

    @trio.lowlevel.enable_ki_protection
    def wake_first(self, outcome: Outcome[Any]) -> None:
        """Give the task that waits longest its outcome, out of the line."""
        _, task = self._tasks.popitem(last=False)
        trio.lowlevel.reschedule(task, outcome)
