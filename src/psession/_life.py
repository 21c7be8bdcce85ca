"""The life of a port: its nursery and its tasks, from opening to the last byte flushed."""

from __future__ import annotations

import inspect
import math
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from psession import errors
from psession._busywait import BusyWait
from psession._channel_outbox import ChannelOutbox
from psession._ending import port_closed, port_left
from psession._nursery import close_forcefully, close_quietly, open_quiet_nursery
from psession._resume import ConnectingLines, ResumingChannel
from psession._rules import EXACT
from psession._sender_outbox import SenderOutbox
from psession._timekeeper import Timekeeper
from psession.channels._base import FrameChannel
from psession.channels._pushed_back import UNKNOWN_HOPS, receive_some

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from psession._outbox import Outbox
    from psession._port import Port
    from psession._sender_outbox import Sender
    from psession._session import Session


@asynccontextmanager
async def live(port: Port, target: trio.abc.Channel[Any] | Sender) -> AsyncIterator[Port]:
    """Run `port` over a channel or a sender while the block lasts.

    What the body raises comes out as the same object; only when a task of the port's failed as well (a handler under
    ``strict``) is it an `ExceptionGroup`.
    """
    async with open_quiet_nursery() as nursery:
        life = _Life(port, target, nursery)
        try:
            yield port
        finally:
            await life.leave()


class _Life:
    """The tasks of one port.

    Reader, writer and timekeeper are shielded and end when the body has: what the body still says and hears in a
    shielded ``finally`` of its own works while everything around it is being cancelled.
    """

    def __init__(self, port: Port, target: trio.abc.Channel[Any] | Sender, nursery: trio.Nursery) -> None:
        self.port = port
        self.nursery = nursery
        self.context = copy_context()
        self.channel = target if isinstance(target, trio.abc.Channel) else None
        self.reading = trio.CancelScope(shield=True)
        self.timing = trio.CancelScope(shield=True)
        self.joins = isinstance(target, FrameChannel) and target.joins
        self.heard = 0
        self.awake = BusyWait()
        self.shut = False
        self.plain: trio.MemorySendChannel[Any] | None = None
        port._outbox = self._outbox(target)
        port._to_frame = target.encode if isinstance(target, FrameChannel) else port._outbox.encode
        port._start_handler = self._start_handler
        port._take_plain = self.take_plain
        port._timekeeper = Timekeeper(port, self._start_timekeeper)
        port._stop = self._stop
        port._lines = target
        if self.joins:
            port._awake = BusyWait()
            port._look = self._look
        port._hops = target.hops if isinstance(target, FrameChannel) else UNKNOWN_HOPS
        if self.channel is not None:
            self._spawn(self._read, name=f"psession reader of {port.name!r}")
            if port._options.keepalive_interval != math.inf:
                self._spawn(self._keep_alive, name=f"psession keepalive of {port.name!r}")
        if isinstance(target, ConnectingLines):
            self._spawn(target.greet_first, name=f"psession hello of {port.name!r}")

    def _spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any, name: str | None = None) -> None:
        """Start a task of the port's, in the context variables of who opened it, whoever's deed it follows from."""
        self.context.run(partial(self.nursery.start_soon, function, *arguments, name=name))

    def _outbox(self, target: trio.abc.Channel[Any] | Sender) -> Outbox:
        port = self.port
        limit, counters = port._options.max_queued_bytes, port._counters
        if isinstance(target, trio.abc.Channel):
            return ChannelOutbox(target, limit, counters, self._start_writer)
        return SenderOutbox(target, limit, counters, self._start_writer)

    @trio.lowlevel.enable_ki_protection
    def _look(self) -> bool:
        """Route what has come already, without waiting. Whether there was anything."""
        assert isinstance(self.channel, FrameChannel)
        batch = self.channel.receive_batch_now()
        if batch:
            self._route(batch)
        return bool(batch)

    # -- the tasks ---------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        self._spawn(self._write, name=f"psession writer of {self.port.name!r}")

    def _start_timekeeper(self) -> None:
        self._spawn(self._keep_time, name=f"psession timekeeper of {self.port.name!r}")

    async def _keep_time(self) -> None:
        with self.timing:
            await self.port._timekeeper.run()

    async def _keep_alive(self) -> None:
        """Ask a silent peer for a sign of life; one that gives none is gone, whatever the socket says."""
        port, channel = self.port, self.channel
        interval, patience = port._options.keepalive_interval, port._options.keepalive_patience
        while not port.closed:
            heard = self.heard
            await trio.sleep(interval)
            exact = port._exact
            if self.heard != heard or exact is None or exact.peer is not EXACT:
                continue
            if isinstance(channel, ResumingChannel) and not channel.stands:
                continue
            exact.talk.ask_for_life(patience)
            await trio.sleep(patience)
            if self.heard != heard:
                continue
            error = trio.BrokenResourceError(f"no sign of life for {interval + patience:g} s (keepalive)")
            if isinstance(channel, ResumingChannel):
                await channel.drop(error)
            else:
                self._lost(error)

    async def _write(self) -> None:
        try:
            await self.port._outbox.run()
        except Exception as error:
            self._lost(error)

    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        channel = self.channel
        assert channel is not None
        with self.reading:
            try:
                if isinstance(channel, FrameChannel):
                    await self._read_batches(channel)
                else:
                    await self._read_messages(channel)
            except trio.EndOfChannel:
                self.port._end(port_closed("the peer closed the channel"))
            except Exception as error:
                self._lost(error)
        self._stop()

    async def _read_batches(self, channel: FrameChannel) -> None:
        while True:
            self._route(await channel.receive_batch())
            while self._more_is_near() and await self.awake.until(self._look):
                pass

    def _more_is_near(self) -> bool:
        """Whether a local peer would say something soon: it has questions to answer, or is being answered.

        A turn that is alone looks for its answer itself.
        """
        port, turns = self.port, self.port._outbox.turns
        return port._awake is not None and (turns > 1 or (not turns and port._handlers.running > 0))

    def _route(self, batch: list[Any]) -> None:
        port = self.port
        port._outbox.burst = len(batch)
        self.heard += 1
        give, refused = port._give, errors.MessageError
        for message in batch:
            if isinstance(message, refused):
                port._malformed(message)
            else:
                give(message)

    async def _read_messages(self, channel: trio.abc.Channel[Any]) -> None:
        while True:
            self._route(await receive_some(channel))

    def _start_handler(self, session: Session) -> None:
        self._spawn(self.port._handlers.handle, session, name=f"psession handler of {self.port.name!r}")

    def take_plain(self, message: Any) -> None:
        """A message that is no session's."""
        port = self.port
        port._counters.plain += 1
        on_message = port._options.on_message
        if on_message is None:
            return
        if self.plain is not None:
            try:
                self.plain.send_nowait(message)
            except trio.WouldBlock:
                port._counters.overrun += 1
            return
        try:
            result = on_message(message)
        except Exception as error:
            self._crashed(error)
            return
        if inspect.isawaitable(result):
            self.plain, rest = trio.open_memory_channel[Any](port._options.inbox_limit)
            self._spawn(self._serve_plain, result, rest, name=f"psession on_message of {port.name!r}")

    def _crashed(self, error: Exception) -> None:
        """Count it and log it; under ``strict`` it is the port that fails, not who brought the message."""
        try:
            self.port._handlers.crashed(None, error)
        except Exception:
            self._spawn(_fail, error)

    async def _serve_plain(self, result: object, rest: trio.MemoryReceiveChannel[Any]) -> None:
        """Run an async ``on_message``, one message at a time, in order."""
        on_message = self.port._options.on_message
        assert on_message is not None
        while True:
            try:
                if inspect.isawaitable(result):
                    await result
                result = on_message(await rest.receive())
            except Exception as error:
                result = None
                self.port._handlers.crashed(None, error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _lost(self, error: Exception) -> None:
        """The channel failed under the port."""
        self.port._end(port_closed(f"the channel broke: {error}", error))
        self.port._outbox.discard()
        self._stop()

    def _stop(self) -> None:
        """The port is closed, its block not left yet: stop reading and close the channel at once."""
        self.reading.cancel()
        if not self.shut:
            self._spawn(self._shut)

    @trio.lowlevel.enable_ki_protection
    async def leave(self) -> None:
        """The block is left: everything ends, within ``grace`` seconds."""
        port = self.port
        port._end(port_left("the block of the port was left"))
        self.nursery.cancel_scope.cancel()
        self.reading.cancel()
        self.timing.cancel()
        await self._shut()

    @trio.lowlevel.enable_ki_protection
    async def _shut(self) -> None:
        """Flush what was accepted, then close the channel. Shielded; ``grace`` seconds in all."""
        if self.shut:
            return
        self.shut = True
        outbox = self.port._outbox
        try:
            with trio.CancelScope(deadline=trio.current_time() + self.port._options.grace, shield=True):
                await outbox.finished.wait()
                if self.channel is not None:
                    await close_quietly(self.channel)
                return
        finally:
            # Whatever got in between (a second Ctrl-C, say): the writer is shielded, and nobody else would end it.
            outbox.scope.cancel()
            outbox.discard()
        if self.channel is not None:
            await close_forcefully(self.channel)


async def _fail(error: Exception) -> None:
    raise error
