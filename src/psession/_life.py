"""The life of a port: its nursery and its tasks, from opening to the last byte flushed."""

from __future__ import annotations

import inspect
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from psession import errors
from psession._ending import port_closed, port_left
from psession._outbox import ChannelOutbox, SenderOutbox
from psession.channels._base import FrameChannel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession._outbox import Outbox, Sender
    from psession._port import Port
    from psession._session import Session

log = logging.getLogger("psession")

UNKNOWN_HOPS = 3
"""Scheduler passes granted to a late reply on a channel that does not say how many tasks it passes through."""


@asynccontextmanager
async def live(port: Port, target: trio.abc.Channel[Any] | Sender) -> AsyncIterator[Port]:
    """Run `port` over a channel or a sender while the block lasts.

    What the body raises comes out as the same object; only when a task of the port's failed as well (a handler under
    ``strict``) is it an `ExceptionGroup`.
    """
    body: list[BaseException] = []
    failures: list[BaseException] = []
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            life = _Life(port, target, nursery)
            try:
                yield port
            except BaseException as error:
                body.append(error)
                raise
            finally:
                await life.leave()
    except BaseExceptionGroup as group:
        if group in body:
            raise
        failures.extend(group.exceptions)
    raise_clean(body, failures)


def raise_clean(body: list[BaseException], failures: list[BaseException]) -> None:
    """Raise what failed: one thing bare, more than one as a group. A `Cancelled` yields to a real error."""
    real = [error for error in failures if not isinstance(error, trio.Cancelled)]
    if len(real) > 1:
        raise BaseExceptionGroup("the body of a port and a task of it failed", real)
    if not failures:
        body.clear()
        return
    error = real[0] if real else (body or failures)[0]
    try:
        raise error
    finally:
        # The error keeps its frames, which keep these lists: without this each failure is a cycle.
        del error
        for errors_of in (real, body, failures):
            errors_of.clear()


class _Life:
    """The tasks of one port."""

    def __init__(self, port: Port, target: trio.abc.Channel[Any] | Sender, nursery: trio.Nursery) -> None:
        self.port = port
        self.nursery = nursery
        self.channel = target if isinstance(target, trio.abc.Channel) else None
        self.tasks = trio.CancelScope()
        self.burst = 0
        self.shut = False
        self.plain: trio.MemorySendChannel[Any] | None = None
        self.watching: trio.Event | None = None
        port._outbox = self._outbox(target)
        port._start_handler = self._start_handler
        port._take_plain = self.take_plain
        port._watch_life = self._watch_life
        port._stop = self._stop
        if self.channel is not None:
            frames = isinstance(self.channel, FrameChannel)
            port._hops = getattr(self.channel, "hops", UNKNOWN_HOPS) if frames else UNKNOWN_HOPS
            nursery.start_soon(self._read, name=f"psession reader of {port.name!r}")
        else:
            port._hops = UNKNOWN_HOPS

    def _outbox(self, target: trio.abc.Channel[Any] | Sender) -> Outbox:
        port = self.port
        limit, counters = port._options.max_queued_bytes, port._counters
        if isinstance(target, trio.abc.Channel):
            return ChannelOutbox(target, self._alone, limit, counters, self._start_writer)
        return SenderOutbox(target, limit, counters, self._start_writer)

    def _alone(self) -> bool:
        """Whether a message would travel alone: nothing else is under way that one write could take along."""
        return self.port._turns <= 1 and self.burst <= 1

    # -- the tasks ---------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        self.nursery.start_soon(self._write, name=f"psession writer of {self.port.name!r}")

    async def _write(self) -> None:
        try:
            await self.port._outbox.run()
        except Exception as error:
            self._lost(error)

    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        channel = self.channel
        assert channel is not None
        with self.tasks:
            try:
                if isinstance(channel, FrameChannel):
                    await self._read_batches(channel)
                else:
                    await self._read_messages(channel)
            except trio.EndOfChannel:
                self.port._end(port_closed("the peer closed the channel"))
            except _Failed as failure:
                raise failure.error from None
            except Exception as error:
                self._lost(error)
        self._stop()

    async def _read_batches(self, channel: FrameChannel) -> None:
        port = self.port
        dispatch = port.dispatch
        while True:
            batch = await channel.receive_batch()
            self.burst = len(batch)
            for message in batch:
                if isinstance(message, errors.MessageError):
                    port._malformed(message)
                elif not dispatch(message):
                    self.take_plain(message)

    async def _read_messages(self, channel: trio.abc.Channel[Any]) -> None:
        while True:
            try:
                message = await channel.receive()
            except errors.MessageError as error:
                self.port._malformed(error)
                continue
            if not self.port.dispatch(message):
                self.take_plain(message)

    def _start_handler(self, session: Session) -> None:
        self.nursery.start_soon(self._handle, session, name=f"psession handler of {self.port.name!r}")

    async def _handle(self, session: Session) -> None:
        await self.port._handle(session)

    def take_plain(self, message: Any) -> None:
        """A message that is no session's."""
        port = self.port
        port._counters.plain += 1
        if self.plain is not None:
            try:
                self.plain.send_nowait(message)
            except trio.WouldBlock:
                port._counters.overrun += 1
            return
        on_message = port._options.on_message
        if on_message is None:
            return
        try:
            result = on_message(message)
        except Exception as error:
            try:
                port._crashed(None, error)
            except Exception as strict:
                raise _Failed(strict) from None
            return
        if inspect.isawaitable(result):
            self.plain, rest = trio.open_memory_channel[Any](port._options.inbox_limit)
            self.nursery.start_soon(self._serve_plain, result, rest, name=f"psession on_message of {port.name!r}")

    async def _serve_plain(self, first: Any, rest: trio.MemoryReceiveChannel[Any]) -> None:
        """Run an async ``on_message``, one message at a time, in order."""
        on_message = self.port._options.on_message
        assert on_message is not None
        result = first
        while True:
            try:
                await result
            except Exception as error:
                self.port._crashed(None, error)
            result = on_message(await rest.receive())

    def _watch_life(self) -> None:
        """A session may now be idle for a shorter time than any before: look sooner."""
        if self.watching is None:
            self.nursery.start_soon(self._watch, name=f"psession idle watch of {self.port.name!r}")
        else:
            self.watching.set()

    async def _watch(self) -> None:
        # What becomes idle while this task sleeps is due later than it wakes: nothing needs to wake it but a shorter
        # life, so the watch costs a message nothing and a port one wake-up a life.
        while True:
            due = self.port._expire()
            self.watching = trio.Event()
            with trio.move_on_at(min(due, trio.current_time() + self.port._shortest_life)):
                await self.watching.wait()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _lost(self, error: Exception) -> None:
        """The channel failed under the port."""
        self.port._end(port_closed(f"the channel broke: {error}", error))
        self.port._outbox.discard()
        self._stop()

    def _stop(self) -> None:
        """The port is closed, its block not left yet: stop reading and close the channel at once."""
        self.tasks.cancel()
        if not self.shut:
            self.nursery.start_soon(self._shut)

    async def leave(self) -> None:
        """The block is left: everything ends, within ``grace`` seconds."""
        port = self.port
        port._end(port_left("the block of the port was left"))
        self.nursery.cancel_scope.cancel()
        await self._shut()

    async def _shut(self) -> None:
        """Flush what was accepted, then close the channel. Shielded; ``grace`` seconds in all."""
        if self.shut:
            return
        self.shut = True
        outbox = self.port._outbox
        with trio.CancelScope(deadline=trio.current_time() + self.port._options.grace, shield=True):
            await outbox.finished.wait()
            if self.channel is not None:
                await self._close_channel(self.channel)
            return
        outbox.scope.cancel()
        outbox.discard()
        if self.channel is not None:
            await trio.aclose_forcefully(self.channel)

    async def _close_channel(self, channel: trio.abc.Channel[Any]) -> None:
        try:
            await channel.aclose()
        except Exception:
            # The port is over either way, and its waiters have their errors: this one belongs to nobody.
            log.debug("port %r: closing the channel failed", self.port.name, exc_info=True)


class _Failed(Exception):
    """User code raised under ``strict``: it must pass by what catches a channel's errors."""

    def __init__(self, error: Exception) -> None:
        self.error = error
