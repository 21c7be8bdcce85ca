"""The nursery and the tasks of a port, from opening to the last byte flushed."""

from __future__ import annotations

import inspect
import logging
import math
import secrets
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from psession import errors
from psession.channels._base import FrameChannel
from psession.channels._plain import UNKNOWN_HOPS, receive_some
from psession.nursery import close_forcefully, close_quietly, open_quiet_nursery
from psession.protocol.connection import Connection
from psession.protocol.counters import Counters, Drop
from psession.protocol.endings import port_closed, port_left
from psession.protocol.events import Answered, Asked, Dropped, Received
from psession.protocol.states import FIRST_BACK, Peer
from psession.protocol.turn_dialect import TurnDialect
from psession.protocol.turns import TurnConnection
from psession.shell.busy_wait import BusyWait
from psession.shell.channel_outbox import ChannelOutbox
from psession.shell.engine import Engine
from psession.shell.handler_scope import HandlerScope
from psession.shell.handlers import Handlers
from psession.shell.links import HELLO_INTERVAL, LINK_ENDS, WELCOME_PATIENCE, LinkedChannel, Reopened
from psession.shell.live_session import LiveSession
from psession.shell.outbox import Outbox, size_of
from psession.shell.port import port_over, session_of
from psession.shell.requests import Requests
from psession.shell.sender_outbox import SenderOutbox
from psession.shell.user_code import await_, call
from psession.shell.waiting import Handed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextvars import Context

    from psession.budget import Budget
    from psession.options import Options
    from psession.protocol.dialogue import Dialogue
    from psession.protocol.handshake import Handshake
    from psession.protocol.machine import Machine
    from psession.shell.port import Port
    from psession.shell.said import Said
    from psession.shell.sender_outbox import Sender
    from psession.shell.told import Audience

log: logging.Logger = logging.getLogger("psession")

MANY = 8
"""Messages of one read whose time is taken: fewer are soon done, or long, and then less to read is no help."""

HANDLER_SECONDS = 10e-6
"""What a session costs that the peer opens, beside its message: its handler runs in a task of its own, later."""

MEASURED_EACH = 32
"""Reads, or sessions that the peer opened, after which what the port holds is measured again. At each read that would
be 2 % of a turn."""

MEASURED_LONG = 7
"""A read in which a message is long counts for so many more: it may be one of 64 KiB, and its answer as long."""

LIVES = 2**48
"""A life is one of so many, by chance: that two are the same is less likely than a bit that flips unnoticed in TCP."""


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def live(
    name: str,
    target: trio.abc.Channel[Any] | Sender,
    options: Options,
    budget: Budget,
    handshake: Handshake,
    life: int,
    said: Said,
    audience: Audience,
) -> AsyncIterator[tuple[Port, Callable[[Any], None]]]:
    """Run a port over a channel or a sender while the block lasts. Gives the port, and what takes its messages.

    What the body raises comes out as the same object; only when a task of the port's failed as well (a handler under
    ``strict``) is it an `ExceptionGroup`.
    """
    tasks = None
    try:
        async with open_quiet_nursery() as nursery:
            tasks = PortTasks(name, target, options, budget, handshake, life, said, audience, nursery)
            try:
                yield tasks.port, tasks.take
            finally:
                await tasks.leave()
    finally:
        if tasks is not None:
            tasks.left()


class PortTasks:
    """The tasks of one port.

    Reader, writer and timekeeper are shielded and end when the body has: what the body still says and hears in a
    shielded ``finally`` of its own works while everything around it is being cancelled.
    """

    __slots__ = (
        "_accepted",
        "_busy",
        "_channel",
        "_context",
        "_engine",
        "_frames",
        "_handler_name",
        "_handlers",
        "_handshake",
        "_heard",
        "_is_shut",
        "_name",
        "_nursery",
        "_options",
        "_outbox",
        "_plain",
        "_reading",
        "_requests",
        "_tells_weights",
        "_timing",
        "_unmeasured",
        "port",
    )

    def __init__(
        self,
        name: str,
        target: trio.abc.Channel[Any] | Sender,
        options: Options,
        budget: Budget,
        handshake: Handshake,
        life: int,
        said: Said,
        audience: Audience,
        nursery: trio.Nursery,
    ) -> None:
        self._name = name
        self._handler_name = f"psession handler of {name!r}"  # one for all: each took 80 bytes of its own
        self._options = options
        self._handshake = handshake
        self._nursery = nursery
        self._context = copy_context()
        self._channel = target if isinstance(target, trio.abc.Channel) else None
        self._reading = trio.CancelScope(shield=True)
        self._timing = trio.CancelScope(shield=True)
        self._heard = 0
        self._accepted = 0
        self._unmeasured = 0
        self._is_shut = False
        self._plain: trio.MemorySendChannel[Any] | None = None
        frames = self._frames = target if isinstance(target, FrameChannel) else None
        looks = frames is not None and frames.joins and options.busy_wait
        self._busy = BusyWait() if looks else None
        counters, limit, start = Counters(), options.max_queued_bytes, self._start_writer
        most, measure = options.max_held_bytes, self._measure
        outbox: Outbox
        if isinstance(target, trio.abc.Channel):
            outbox = ChannelOutbox(target, limit, counters, start, most, measure)
        else:
            outbox = SenderOutbox(target, limit, counters, start, most, measure)
        self._outbox = outbox
        encode = frames.encode if frames is not None else outbox.encode
        connection: Machine
        if isinstance(options.dialect, TurnDialect):
            connection = TurnConnection(options.dialect.for_link(), options.settings, encode=encode, counters=counters)
        else:
            connection = Connection(
                options.wire,
                options.settings,
                handshake,
                encode=encode,
                size=size_of,
                life=life,
                first_back=FIRST_BACK + secrets.randbelow(FIRST_BACK),
                counters=counters,
            )
        self._engine = Engine(
            name,
            options,
            connection,
            outbox,
            self,
            budget=budget,
            said=said,
            audience=audience,
            hops=frames.hops if frames is not None else UNKNOWN_HOPS,
            busy=BusyWait() if looks else None,
            look=self._look,
            kept_bytes=lambda: 0 if frames is None else frames.kept_bytes,
        )
        if frames is not None:
            frames.watch_kept_bytes(self._measure)
        self._tells_weights = frames is not None and frames.weights is not None
        if self._tells_weights:
            self._engine.account.weight = 0
        self._handlers = Handlers(self._engine)
        self._requests: Requests | None = None
        if options.on_request is not None:
            self._requests = Requests(self._engine, self._handlers, self._context, self._spawn, self._crashed)
        self.port: Port = port_over(self._engine)
        told = self._engine.told
        told.port_opened()
        if self._channel is not None:
            told.link_up()
        if isinstance(target, LinkedChannel):
            target.watch_links(told.link_down)
        if self._channel is not None:
            self._spawn(self._read, name=f"psession reader of {name!r}")
            if options.keepalive_interval != math.inf:
                self._spawn(self._keep_alive, name=f"psession keepalive of {name!r}")
        if isinstance(target, LinkedChannel) and target.connects:
            self._spawn(self._greet, name=f"psession hello of {name!r}")

    def _spawn(
        self,
        function: Callable[..., Awaitable[None]],
        *arguments: Any,
        name: str | None = None,
        context: Context | None = None,
    ) -> None:
        """Start a task of the port's, in the context variables of who opened it, whoever's deed it follows from.

        Where a listener may have set some for this task alone, `context` has them as well.
        """
        (context or self._context).run(partial(self._nursery.start_soon, function, *arguments, name=name))

    # -- reading -----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        channel, frames = self._channel, self._frames
        assert channel is not None
        receive = partial(receive_some, channel) if frames is None else frames.receive_batch
        watch, look = (None if frames is None else frames.watch), self._look_until_near
        with self._reading:
            try:
                while True:
                    self._route(await receive())
                    while True:
                        while (busy := self._awake()) is not None:
                            if self._outbox.burst == 1:  # whoever it woke may say something before this looks again
                                await trio.lowlevel.cancel_shielded_checkpoint()
                            if not await busy.until(self._look):
                                break
                        watching = None if watch is None else watch(look)
                        if watching is None or not await watching:
                            break
            except trio.EndOfChannel:
                self._engine.close(port_closed("the peer closed the channel"))
            except Exception as error:
                self._lost(error)
        self.stop()

    def _more_is_near(self) -> bool:
        """Return True if a local peer would say something soon: it has questions to answer, or is being answered.

        A turn that is alone looks for its answer itself.
        """
        turns = self._outbox.turns
        return turns > 1 or (not turns and self._engine.connection.handlers > 0)

    def _awake(self) -> BusyWait | None:
        """What waits awake for the next message; ``None`` where that is not worth it now."""
        busy = self._busy
        return busy if busy is not None and self._more_is_near() and busy.is_due() else None

    def _look(self) -> bool:
        """Take what has come already, without waiting. Return True if there was anything."""
        batch = self._frames.receive_batch_now() if self._frames is not None else []
        if batch:
            self._route(batch)
        return bool(batch)

    def _look_until_near(self) -> bool:
        """Take what has come already. Return True if the reader should wait awake for more."""
        return self._look() and self._awake() is not None

    def _route(self, batch: list[Any]) -> None:
        """Carry out what the messages of one read lead to, in order.

        The messages of a channel that encodes are short but for those that `FrameChannel.weights` names by their place.
        """
        self._outbox.burst = len(batch)
        self._heard += 1
        engine, frames = self._engine, self._frames
        connection, account = engine.connection, engine.account
        receive, now = connection.receive, engine.now()
        weights = None if frames is None else frames.weights
        weighs = weights or (weights is None and self._tells_weights)
        place = 0
        for message in batch:
            if weighs:
                account.weight = None if weights is None else weights.get(place, 0)
                place += 1
            if type(message) is not dict:
                self.take(message)
                continue
            for event in receive(message, now):
                kind = type(event)
                if kind is Answered:
                    event.turn.wake(Handed(event.payload))  # type: ignore[union-attr]
                elif kind is Received:
                    event.dialogue.owner.received(event)  # type: ignore[union-attr]
                elif kind is Asked:
                    self.asked(event)  # type: ignore[arg-type]
                else:
                    engine.carry_out(event)
        more = 1
        if weighs:
            more += MEASURED_LONG
            account.weight = 0 if self._tells_weights else None
            if weights is not None:
                weights.clear()
        if weighs or len(batch) >= MANY:
            opened = connection.counters.accepted - self._accepted
            self._accepted += opened
            more += opened
            if frames is not None:
                frames.pace(HANDLER_SECONDS * opened)
        self._unmeasured += more
        if self._unmeasured >= MEASURED_EACH:
            self._unmeasured = 0
            account.measure_all()

    def _measure(self) -> None:
        """Account for what the peer makes this side hold, where that is not counted as it comes."""
        self._engine.account.measure()

    @trio.lowlevel.enable_ki_protection
    def take(self, message: Any) -> None:
        """Take what came in place of a message, or a message that is no dict."""
        engine = self._engine
        if isinstance(message, errors.MessageError):
            engine.place(message)
            engine.perform(engine.connection.malformed(message.why))
        elif isinstance(message, Reopened):
            engine.told.link_up(resumed=message.known)
            engine.perform(engine.connection.reopened(known=message.known))
        else:
            engine.receive(message)

    @trio.lowlevel.enable_ki_protection
    async def _greet(self) -> None:
        """Say hello on the first link, until it is answered or has been said for long enough."""
        engine, handshake = self._engine, self._handshake
        until = trio.current_time() + WELCOME_PATIENCE
        while handshake.host_life is None and trio.current_time() < until:
            try:
                engine.say(self._outbox.encode(handshake.hello()))
            except errors.MessageError as error:
                engine.said.limited(
                    "no_hello", "its codec has no form for a hello, so a broken link is its end: %s", error
                )
                return
            await trio.sleep(HELLO_INTERVAL)

    @trio.lowlevel.enable_ki_protection
    async def _keep_alive(self) -> None:
        """Ask a silent peer for a sign of life; one that gives none is gone, whatever the socket says."""
        engine, channel = self._engine, self._channel
        interval, patience = self._options.keepalive_interval, self._options.keepalive_patience
        links = channel if isinstance(channel, LinkedChannel) else None
        while engine.ending is None:
            heard = self._heard
            await trio.sleep(interval)
            if self._heard != heard or engine.connection.peer is not Peer.EXACT or (links and not links.stands):
                continue
            engine.perform(engine.connection.ask_for_life(patience))
            await trio.sleep(patience)
            if self._heard != heard:
                continue
            error = trio.BrokenResourceError(f"no sign of life for {interval + patience:g} s (keepalive)")
            if links is not None:
                await links.drop(error)
            else:
                self._lost(error)

    # -- writing, time -----------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        self._spawn(self._write, name=f"psession writer of {self._name!r}")

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except Exception as error:
            self._lost(error)

    def start_timekeeper(self) -> None:
        """Start the task that sleeps for the deadlines."""
        self._spawn(self._keep_time, name=f"psession timekeeper of {self._name!r}")

    @trio.lowlevel.enable_ki_protection
    async def _keep_time(self) -> None:
        with self._timing:
            await self._engine.timekeeper.run()

    # -- the user's code ---------------------------------------------------------------------------------------------

    def opened(self, dialogue: Dialogue) -> None:
        """Start the handler of a session that the peer opened, or let its requests be answered one by one."""
        if self._requests is not None and self._options.on_session is None:
            self._requests.open(dialogue)
            return
        session = LiveSession(self._engine, dialogue, self._engine.patience)
        if self._engine.told.listens:
            self._engine.told.session_opened(dialogue)
        if dialogue.exact is not None:
            session.handler = HandlerScope(dialogue.exact)
        face = session_of(self.port, session)
        self._spawn(self._handlers.run, session, face, name=self._handler_name)

    def asked(self, event: Asked) -> None:
        """Answer a question that stands alone."""
        if self._requests is not None:
            self._requests.asked(event)

    def plain(self, payload: Any) -> None:
        """Give a message that is no session's to ``on_message``, in the port's context."""
        engine, on_message = self._engine, self._options.on_message
        engine.connection.counters.plain += 1
        if engine.told.listens:
            engine.told.posted(None, payload, incoming=True)
        if on_message is None:
            engine.connection.counters.drop(Drop.UNHEARD)
            engine.perform([Dropped(Drop.UNHEARD)])
            return
        if self._plain is not None:
            size = engine.account.take(payload)
            try:
                if not size:
                    raise trio.WouldBlock
                self._plain.send_nowait((payload, size))
            except trio.WouldBlock:
                engine.account.give(size)
                engine.connection.counters.drop(Drop.OVERRUN)
                engine.perform([Dropped(Drop.OVERRUN)])
            return
        try:
            result = self._context.copy().run(call, on_message, payload)
        except Exception as error:
            self._crashed(None, error)
            return
        if inspect.isawaitable(result):
            self._plain, rest = trio.open_memory_channel[Any](self._options.inbox_limit)
            self._spawn(self._serve_plain, result, rest, name=f"psession on_message of {self._name!r}")

    def _crashed(self, sid: int | None, error: Exception) -> None:
        """Count it and log it; under ``strict`` it is the port that fails, not the task that brought the message."""
        try:
            self._engine.crashed(sid, error)
        except Exception:
            self._spawn(_fail, error)

    @trio.lowlevel.enable_ki_protection
    async def _serve_plain(self, result: object, rest: trio.MemoryReceiveChannel[Any]) -> None:
        """Run an async ``on_message``, one message at a time, in order."""
        on_message = self._options.on_message
        assert on_message is not None
        while True:
            try:
                if inspect.isawaitable(result):
                    await await_(result)
                payload, size = await rest.receive()
                self._engine.account.give(size)
                result = call(on_message, payload)
            except Exception as error:
                result = None
                self._engine.crashed(None, error)

    # -- the end -----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def _lost(self, error: Exception) -> None:
        """The channel failed under the port."""
        if isinstance(error, LINK_ENDS):
            _forget_frames(error)
        self._engine.close(port_closed(f"the channel broke: {error}", error))
        self._outbox.discard()
        self.stop()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Stop reading and close the channel at once: the port is closed, its block not left yet."""
        self._reading.cancel()
        if not self._is_shut:
            self._spawn(self._shut)

    @trio.lowlevel.enable_ki_protection
    async def leave(self) -> None:
        """End everything, within ``grace`` seconds: the block is left."""
        self._engine.close(port_left("the block of the port was left"))
        self._nursery.cancel_scope.cancel()
        self._reading.cancel()
        self._timing.cancel()
        await self._shut()

    def left(self) -> None:
        """No task is left, whatever ended it."""
        self._requests = None
        self._engine.left()
        if self._frames is not None:
            self._frames.watch_kept_bytes(_measure_nothing)
        if isinstance(self._channel, LinkedChannel):
            self._channel.watch_links(_tell_nothing)

    @trio.lowlevel.enable_ki_protection
    async def _shut(self) -> None:
        """Flush what was accepted, then close the channel. Shielded; ``grace`` seconds in all."""
        if self._is_shut:
            return
        self._is_shut = True
        outbox = self._outbox
        try:
            with trio.CancelScope(deadline=trio.current_time() + self._options.grace, shield=True):
                await outbox.finished.wait()
                if self._channel is not None:
                    await close_quietly(self._channel)
                return
        finally:
            # Whatever got in between (a second Ctrl-C, say): the writer is shielded, and nobody else would end it.
            outbox.scope.cancel()
            outbox.discard()
        if self._channel is not None:
            await close_forcefully(self._channel)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the frames of an error that a broken connection is, and of its causes: they know the port it ends."""
    seen = set[int]()
    while error is not None and id(error) not in seen:  # a channel's own errors may be the causes of each other
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _measure_nothing() -> None:
    pass


def _tell_nothing(_: str) -> None:
    pass


async def _fail(error: Exception) -> None:
    raise error
