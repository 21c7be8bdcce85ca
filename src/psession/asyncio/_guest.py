"""Trio as the guest of an asyncio loop: one thread, and calls in both directions that end when the other side has."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

import trio

from psession.nursery import in_trio_run, open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context
    from types import TracebackType
    from typing import Self

    from outcome import Outcome

NOTHING: Final = object()
"""The value of a call that has none."""


class BridgeClosedError(RuntimeError):
    """The bridge was left, and with it everything that it opened; what is called through it needs another one."""


class Answer(asyncio.Future[Any]):
    """The result of a Trio function, for the asyncio task that waits for it.

    Cancelling it cancels the function, and it is cancelled when the function has come to its end: then nothing of the
    call is left. A result that comes all the same is in `value`, for what must not be lost.

    Attributes:
        scope: The cancel scope that the function runs in.
        value: The function's result; `NOTHING` while it has none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.scope: trio.CancelScope = trio.CancelScope()
        self.value: Any = NOTHING
        self._is_unwanted = False
        self._message: Any = None

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the function. Returns False if it has ended."""
        if self.done():
            return False
        self._is_unwanted, self._message = True, msg
        self.scope.cancel()
        return True

    def succeed(self, value: Any) -> None:
        """The function has returned."""
        self.value = value
        if self._is_unwanted:
            super().cancel(self._message)
        else:
            self.set_result(value)

    def end(self, error: BaseException | None) -> None:
        """The function has raised; ``None``: it was cancelled, from here or by the end of the bridge."""
        if error is not None:
            self.set_exception(error)
        elif self._is_unwanted:
            super().cancel(self._message)
        else:
            self.set_exception(closed())

    def forget(self) -> None:
        """The task that waited was cancelled when this was done already: nobody asks for its error."""
        if self.done() and not self.cancelled():
            self.exception()


class Body:
    """The body of an ``async with`` on asyncio, which is cancelled when what it stands in is over before it.

    The cancellation that this makes does not come out of the block; any other one does.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._before = task.cancelling()
        self._is_inside = False
        self._is_cut = False

    def cut(self) -> None:
        """Cancel what the body does, if it has not been left."""
        if self._is_inside and not self._is_cut:
            self._is_cut = True
            self._task.cancel()

    def __enter__(self) -> Self:
        self._is_inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._is_inside = False
        if not self._is_cut:
            return False
        others = self._task.uncancel() > self._before
        return kind is not None and issubclass(kind, asyncio.CancelledError) and not others


class Guest:
    """A guest run of Trio in the running asyncio loop.

    Attributes:
        loop: The loop.
    """

    def __init__(self, on_over: Callable[[], None]) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._on_over = on_over
        self._answers: set[Answer] = set()
        self._leaving: trio.Event | None = trio.Event()
        self._calls: trio.Nursery | None = None
        self._blocks: trio.Nursery | None = None
        self._started: asyncio.Future[None] = self.loop.create_future()
        self._over: asyncio.Future[Outcome[None]] = self.loop.create_future()

    # -- the run -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start Trio in this thread.

        Raises:
            RuntimeError: It runs here already.
        """
        if in_trio_run():
            raise RuntimeError(
                "Trio runs in this thread already, for another bridge or library, and a thread can have it once: "
                "share that bridge, or open this one in another thread"
            )
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self.loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self.loop.call_soon,
            done_callback=self._ended,
            # asyncio has the wakeup descriptor where a program needs it, and two cannot
            host_uses_signal_set_wakeup_fd=True,
        )

    async def started(self) -> None:
        """Wait until calls can be made."""
        both: list[asyncio.Future[Any]] = [self._started, self._over]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)

    async def _main(self) -> None:
        assert self._leaving is not None
        leaving = self._leaving
        async with open_quiet_nursery() as self._calls:
            async with open_quiet_nursery() as self._blocks:
                self._started.set_result(None)
                await leaving.wait()
                # Ports first: what waits in them then ends as their ends say, and their handlers may still call.
                self._blocks.cancel_scope.cancel()
            self._calls.cancel_scope.cancel()

    def _ended(self, outcome: Outcome[None]) -> None:
        self._calls = self._blocks = None
        for answer in self._answers:
            if not answer.done():
                answer.end(None)
        self._over.set_result(outcome)
        self._on_over()

    async def end(self) -> Outcome[None]:
        """End all that runs on Trio, and wait for it. A cancellation waits as well."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving.set()
        outcome: Outcome[None] = await uninterrupted(self._over)
        return outcome

    # -- asyncio calls Trio ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse a call that cannot be made.

        Raises:
            BridgeClosedError: The bridge was left.
            RuntimeError: The caller is in another thread, or another loop.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self.loop:
            raise RuntimeError(
                "this bridge belongs to another event loop: open one in this loop, or call that one by "
                "asyncio.run_coroutine_threadsafe"
                if loop is not None
                else "this bridge belongs to an event loop, and here is none: from another thread call it by "
                "asyncio.run_coroutine_threadsafe; inside Trio use psession's own ports"
            )
        if self._calls is None:
            raise closed()

    def answer(self) -> Answer:
        """Make the answer of a call, which fails if the bridge is left before there is any."""
        self.check()
        answer = Answer(self.loop)
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        return answer

    def hold(self, block: Callable[[], Awaitable[None]]) -> None:
        """Start a Trio task that holds a block open."""
        if self._leaving is None or self._blocks is None:
            raise closed()
        self._blocks.start_soon(block)

    def call(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Answer:
        """Call an async function of Trio's, as a task of its own in the caller's context variables."""
        answer = self.answer()
        assert self._calls is not None
        self._calls.start_soon(_carry_out, answer, function, arguments)
        return answer

    async def result(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Do as `call`, and wait for the result."""
        answer = self.call(function, *arguments)
        try:
            return await answer
        except asyncio.CancelledError:
            answer.forget()
            raise

    # -- Trio calls asyncio ------------------------------------------------------------------------------------------

    async def on_asyncio(self, coroutine: Coroutine[Any, Any, Any], context: Context | None = None) -> Any:
        """Run a coroutine of asyncio's as a task, from a Trio task. Cancelled, it is cancelled and waited for."""
        over = trio.Event()
        task = self.loop.create_task(coroutine, context=context or copy_context())
        task.add_done_callback(lambda _: over.set())
        try:
            await over.wait()
        except trio.Cancelled:
            task.cancel()
            with trio.CancelScope(shield=True):
                await over.wait()
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error from None  # as in any task that fails while it is being cancelled
            raise
        if task.cancelled():
            raise RuntimeError(f"its asyncio task was cancelled, by other than its caller: {task!r}")
        return task.result()


async def _carry_out(answer: Answer, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
    try:
        with answer.scope:
            try:
                value = await function(*arguments)
            except Exception as error:
                answer.end(error)
            else:
                answer.succeed(value)
    finally:
        if not answer.done():
            answer.end(None)


def closed() -> BridgeClosedError:
    """A fresh error for a caller."""
    return BridgeClosedError("the bridge was left, and what it opened is over: call inside `async with bridge()`")


async def uninterrupted(over: asyncio.Future[Any], hurry: Callable[[], object] = lambda: None) -> Any:
    """Wait for what must have ended before its caller goes on. A cancellation calls `hurry`, and comes out later."""
    cancelled: asyncio.CancelledError | None = None
    while not over.done():
        try:
            await asyncio.wait([over])
        except asyncio.CancelledError as error:
            cancelled = error
            hurry()
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            cancelled = None  # it knows this frame
    return over.result()
