"""The bridge, as programs on asyncio see it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Never, TypeVar, final, overload

import trio

import psession
from psession.asyncio._guest import NOTHING, Body, Guest, closed, uninterrupted
from psession.asyncio._ports import Port, port_from, session_from
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from psession.typed import Ask, Reply

T = TypeVar("T")


@final
class Bridge:
    """Calls from asyncio into Trio, and back; made by `bridge`. It belongs to the event loop that opened it."""

    _guest: Guest

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Bridge is made by `async with psession.asyncio.bridge()`")

    @overload
    def open(
        self, block: AbstractAsyncContextManager[psession.Port[Ask, Reply]]
    ) -> AbstractAsyncContextManager[Port[Ask, Reply]]: ...
    @overload
    def open(self, block: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]: ...
    @asynccontextmanager
    async def open(self, block: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        """``async with bridged.open(open_websocket(url)) as channel``: a block of Trio's around one of asyncio's.

        It is entered and left in one Trio task, in the caller's context variables. A port comes out as a `Port` of
        asyncio's, anything else as it is: a channel is there to be given to ``manager.port``.

        Args:
            block: An async context manager for Trio, not entered yet.

        Leaving waits until the block has been left. Where the body was cancelled the block is, too: it is left as Trio
        leaves a cancelled one. Where the block ends before the body, because a task behind it failed, the body is
        cancelled, and the block's error comes out in place of that.

        Raises:
            BridgeClosedError: The bridge was left.
            Exception: What the block raises, as it is.
        """
        guest = self._guest
        guest.check()
        body, leave = Body(), trio.Event()
        over: asyncio.Future[Exception | None] = guest.loop.create_future()

        async def hold() -> None:
            failed: Exception | None = None
            try:
                with opened.scope:
                    try:
                        async with block as value:
                            opened.succeed(value)
                            await leave.wait()
                    except Exception as error:
                        failed = error
            finally:
                if opened.value is NOTHING:
                    opened.end(failed)
                else:
                    is_early = not leave.is_set() and not opened.scope.cancelled_caught
                    over.set_result(closed() if is_early and failed is None else failed)
                    body.cut()
                failed = None  # it knows this frame

        opened = guest.answer()
        guest.hold(hold)
        try:
            value = await opened
        except asyncio.CancelledError:
            opened.forget()
            if opened.value is not NOTHING:  # it came in the same moment
                opened.scope.cancel()
                await uninterrupted(over)
            raise
        try:
            with body:
                try:
                    yield port_from(guest, value) if isinstance(value, psession.Port) else value
                except asyncio.CancelledError:
                    opened.scope.cancel()
                    raise
        finally:
            leave.set()
            failed = await uninterrupted(over, opened.scope.cancel)
            if failed is not None:
                try:
                    raise failed
                finally:
                    failed = None

    def serve(
        self, server: Callable[..., Awaitable[object]], *args: Any, **options: Any
    ) -> AbstractAsyncContextManager[Any]:
        """``async with bridged.serve(serve_websocket, handler, host, port) as server``: a server, for the block.

        For whatever Trio starts by ``await nursery.start(server, ...)``, whose value this gives. Leaving cancels it.
        The handler is a Trio function, or one of asyncio's by `handler`.
        """
        return self.open(_started(functools.partial(server, *args, **options)))

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call an async function of Trio's and return its result, or raise what it raises.

        Cancelling cancels it, and waits for its end.

        Raises:
            BridgeClosedError: The bridge was left, before the call or in it.
        """
        result: T = await self._guest.result(function, *args)
        return result

    @overload
    def handler(
        self, function: Callable[[Any], AsyncGenerator[T, None]]
    ) -> Callable[[Any], AsyncGenerator[T, None]]: ...
    @overload
    def handler(self, function: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Coroutine[Any, Any, T]]: ...
    def handler(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """An asyncio function as a handler: for ``on_request``, ``on_session``, ``on_message``, or of a server.

        Each call is a task of asyncio's, in the context variables of the handler. It is cancelled when its asker gives
        up, which the exact wire tells, and what it raises goes the way of any handler's error. A session comes to it as
        a `Session` of asyncio's. What is not wrapped by this is Trio's, as everywhere in psession: an ``async def``
        does not say whose it is.

        Args:
            function: An async function of one argument, or an async generator function (``on_request`` alone).

        Raises:
            TypeError: It is neither. A plain function needs no wrapping.
        """
        guest = self._guest
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def parts(argument: Any) -> AsyncGenerator[Any, None]:
                made, context = function(argument), copy_context()
                try:
                    while (part := await guest.on_asyncio(_next(made), context)) is not NOTHING:
                        yield part
                finally:
                    with trio.CancelScope(shield=True):
                        await guest.on_asyncio(made.aclose(), context)

            return parts
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - not whether it can be called, but what that makes
        ):
            raise TypeError(
                f"handler() takes an async function of asyncio's, which {function!r} is not; "
                "give a plain function as it is"
            )

        @functools.wraps(function)
        async def called(argument: Any) -> Any:
            if isinstance(argument, psession.Session):
                argument = session_from(guest, argument)
            return await guest.on_asyncio(function(argument))

        return called


@asynccontextmanager
async def bridge() -> AsyncIterator[Bridge]:
    """``async with psession.asyncio.bridge() as bridged``: Trio beside asyncio, in the same thread, for this block.

    Leaving it, in whatever way, ends all that was opened through it: ports as on leaving their blocks, handlers and
    calls cancelled. Waits until Trio is done, for ports within their ``grace``, also when it is cancelled.

    Raises:
        RuntimeError: Trio runs in this thread already; or there is no event loop of asyncio's here.
        KeyboardInterrupt: Where nothing of asyncio's handles Ctrl-C.
    """
    body = Body()
    guest = Guest(body.cut)
    guest.start()
    made = Bridge.__new__(Bridge)
    made._guest = guest
    try:
        with body:
            await guest.started()
            yield made
    finally:
        (await guest.end()).unwrap()  # why Trio ended, if not by this, was first: what the body raises follows from it


@asynccontextmanager
async def _started(server: Callable[..., Awaitable[object]]) -> AsyncIterator[Any]:
    async with open_quiet_nursery() as nursery:
        yield await nursery.start(server)
        nursery.cancel_scope.cancel()


async def _next(parts: AsyncGenerator[Any, None]) -> Any:
    return await anext(parts, NOTHING)
