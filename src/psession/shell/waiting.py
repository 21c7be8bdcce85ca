"""The one place where a task is put to sleep and woken. Nothing else in the package reschedules a task.

Taking a task out of its table and waking it is one step, protected from KeyboardInterrupt: a signal between the two
would leave a task that nothing ever wakes. An abort function takes out what may be gone already, so it cannot raise.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from trio.lowlevel import Abort, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outcome import Outcome
    from trio.lowlevel import Task

SILENCE: Final = object()
"""The value that a task is woken with to look again, where there is no outcome for it."""

K = TypeVar("K")


class Handed(msgspec.Struct, eq=False):
    """A value for a task that waits. Of an outcome it has all that Trio asks of one: `unwrap`.

    `outcome.Value` sees to it that it cannot be changed and is unwrapped once only, with two writes around its own
    protection. One that goes from here straight to a task needs no such proof: 0.5 us less a message.
    """

    value: Any

    def unwrap(self) -> Any:
        """Return the value."""
        return self.value


Delivery: TypeAlias = "Outcome[Any] | Handed"
"""What a task can be woken with."""

LOOK_AGAIN: Final = Handed(SILENCE)
"""The delivery of that."""

_NONE: Final[tuple[str, ...]] = ()
"""A mix-in beside a class with slots may have none of its own."""


class Waiter:
    """A task that waits for one outcome. A mix-in: the class that waits declares the two attributes.

    Attributes:
        task: The task while it waits.
        outcome: The outcome, if it arrived while no task was waiting for it.
    """

    __slots__ = _NONE

    task: Task | None
    outcome: Delivery | None

    def park(self) -> Awaitable[Any]:
        """Wait for the outcome, or for `SILENCE`; only while there is no outcome. Cancelling leaves nothing behind."""
        self.task = current_task()
        return wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - a coroutine less on each turn

    def _abort(self, _: object) -> Abort:
        self.task = None
        return Abort.SUCCEEDED

    @enable_ki_protection
    def wake(self, outcome: Delivery) -> None:
        """Give the waiting task its outcome, or keep that until the task looks."""
        task = self.task
        if task is None:
            self.outcome = outcome
        else:
            self.task = None
            reschedule(task, outcome)  # type: ignore[arg-type]

    @enable_ki_protection
    def nudge(self) -> None:
        """Have the waiting task look again. Nothing happens where none waits: it looks before it does."""
        task = self.task
        if task is not None:
            self.task = None
            reschedule(task, LOOK_AGAIN)  # type: ignore[arg-type]


class WaitingLine(Generic[K]):
    """Tasks that wait one behind the other, each under a key of its own."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: OrderedDict[K, Task] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    def first(self) -> K:
        """The key of the task that waits longest."""
        return next(iter(self._tasks))

    def park(self, key: K, on_cancel: Callable[[], None] | None = None) -> Awaitable[Any]:
        """Wait at the end of the line. Cancelling leaves it, and calls `on_cancel`, which must not raise."""
        tasks = self._tasks
        tasks[key] = current_task()

        def abort(_: object) -> Abort:
            tasks.pop(key, None)
            if on_cancel is not None:
                on_cancel()
            return Abort.SUCCEEDED

        return wait_task_rescheduled(abort)  # noqa: ASYNC105 - likewise

    @enable_ki_protection
    def wake(self, key: K, outcome: Delivery) -> None:
        """Give the task that waits under this key its outcome, if one still does."""
        task = self._tasks.pop(key, None)
        if task is not None:
            reschedule(task, outcome)  # type: ignore[arg-type]

    @enable_ki_protection
    def wake_first(self, outcome: Delivery) -> None:
        """Give the task that waits longest its outcome, out of the line."""
        _, task = self._tasks.popitem(last=False)
        reschedule(task, outcome)  # type: ignore[arg-type]
