"""Ports by name, and the options that they share."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import trio

from psession import checks, errors
from psession.budget import Budget
from psession.channels._plain import receive_some
from psession.nursery import check_on_trio, open_quiet_nursery
from psession.options import Options
from psession.protocol.counters import GAUGES, Counters, Drop, Statistics
from psession.protocol.handshake import Handshake, credentials
from psession.shell.links import LINK_ENDS, LinkedChannel, linked
from psession.shell.listen import Listener
from psession.shell.port_tasks import LIVES, live
from psession.shell.said import Said
from psession.shell.sender_outbox import is_sender
from psession.shell.told import Audience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self, Unpack

    from psession import hooks
    from psession.options import PortOptions
    from psession.shell.port import Port, Session
    from psession.shell.sender_outbox import Sender

_protected = trio.lowlevel.enable_ki_protection

DEFAULT = "default"
"""The name of the port that ``async with SessionManager(sender)`` holds open."""


class PortsView(Mapping[str, "Port"]):
    """The open ports of a manager by name, as they are at any time. It may be iterated while ports come and go."""

    def __init__(self, ports: dict[str, Port]) -> None:
        self._ports = ports

    def __getitem__(self, name: str) -> Port:
        return self._ports[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the ports that are open when it is their turn; those that come meanwhile are left out."""
        return (name for name in list(self._ports) if name in self._ports)

    def __len__(self) -> int:
        return len(self._ports)

    def __repr__(self) -> str:
        return f"<{len(self)} open ports: {', '.join(map(repr, self._ports))}>"


class SessionManager:
    """Ports by name, and the options that each port starts from.

    Used as ``async with SessionManager(sender, ...) as manager`` it holds the port ``"default"`` open.

    Args:
        sender: What sends the messages of ports that bring no channel or sender of their own: a callable, sync or
            async, that gets each message.
        options: See `PortOptions`: durations are seconds, ``None`` is the default. A port, a session and a call may
            override them; the nearest wins.

    Raises:
        TypeError, ValueError: An option that does not exist, or a value that it cannot have.
    """

    def __init__(self, sender: Sender | None = None, **options: Unpack[PortOptions]) -> None:
        if sender is not None and not is_sender(sender):
            raise TypeError(f"sender must be a callable that takes a message, not {sender!r}; channels go to port()")
        self._sender = sender
        self._options = Options().override(options)
        self._ports: dict[str, Port] = {}
        self._takers: dict[str, Callable[[Any], None]] = {}
        self._links: dict[str, LinkedChannel] = {}
        self._opening: set[str] = set()
        self._past = Statistics()
        self._budget = self._options.budget or Budget()
        self._strays = Counters()
        self._said = Said("manager")
        self._audience = Audience(self._said)
        self._names = count(1)
        self._listeners: list[Listener] = []
        self._default: AbstractAsyncContextManager[Port] | None = None

    def __repr__(self) -> str:
        return f"<psession.SessionManager, {len(self._ports)} ports>"

    @property
    def ports(self) -> Mapping[str, Port]:
        """The open ports by name, in a live, read-only view, which may be iterated while ports come and go."""
        return PortsView(self._ports)

    @property
    def budget(self) -> Budget:
        """The budget of its ports, unless a port was given another."""
        return self._budget

    def port(
        self,
        name: str,
        channel: trio.abc.Channel[Any] | Sender | None = None,
        **options: Unpack[PortOptions],
    ) -> AbstractAsyncContextManager[Port]:
        """``async with manager.port(name, channel) as port``: one peer, for as long as the block lasts.

        Args:
            name: The peer's name, unique among the open ports.
            channel: A `trio.abc.Channel` of messages, which the port then reads, writes and closes; or a sender, a
                callable that sends one message, for code with a receive loop of its own (see `dispatch`). ``None``:
                the manager's sender.
            options: On top of the manager's, for this port alone.

        Leaving the block ends every session at once: who waits in a ``send``, in whatever task, gets
        `SessionAbortError`; handlers are cancelled; what was accepted is flushed and the channel closed, shielded and
        within ``grace`` seconds. What the body raises comes out as it is, never in an `ExceptionGroup` of the port's
        making unless a handler failed as well (``strict``).

        Raises:
            PortExistsError: A port of that name is open (on entering).
            TypeError, ValueError: An option or channel that will not do.
        """
        if not isinstance(name, str):
            raise TypeError(f"a port's name must be a str, not {name!r}")
        target = channel if channel is not None else self._sender
        return self._open(name, _checked_target(name, target), self._options.override(options))

    @asynccontextmanager
    @_protected
    async def _open(
        self,
        name: str,
        target: trio.abc.Channel[Any] | Sender,
        options: Options,
        pending: Sequence[Any] = (),
    ) -> AsyncIterator[Port]:
        check_on_trio("a port")
        if name in self._ports or name in self._opening:
            raise errors.PortExistsError("a port of that name is open already; choose another name", port=name)
        life = secrets.randbelow(LIVES) + 1
        dialect = options.wire
        handshake = Handshake(dialect, name, life)
        budget = options.budget or self._budget
        said = self._said.of_port(name)
        self._opening.add(name)
        try:
            channel = await linked(
                target,
                handshake,
                budget.absences,
                within=options.resume_within,
                asks_exactly=dialect.asks_exactly,
                said=self._said,
                port=said,
                pending=pending,
            )
        finally:
            self._opening.discard(name)
        try:
            async with live(name, channel, options, budget, handshake, life, said, self._audience) as (port, take):
                self._ports[name] = port
                self._takers[name] = take
                if isinstance(channel, LinkedChannel):
                    self._links[name] = channel
                for listener in self._listeners:
                    listener.port_opened(name, take)
                yield port
        finally:
            self._takers.pop(name, None)
            self._links.pop(name, None)
            left = self._ports.pop(name, None)
            if left is not None:
                self._past += without_gauges(left.statistics())

    @asynccontextmanager
    @_protected
    async def accept(
        self,
        channel: trio.abc.Channel[Any],
        name: str | None = None,
        *,
        hello_timeout: float = 5.0,
        **options: Unpack[PortOptions],
    ) -> AsyncIterator[Port]:
        """``async with manager.accept(channel) as port``: the port of a peer that has just connected.

        For servers: it makes a name where none is given. With ``resume_within`` a peer that comes back, and proves to
        be the peer of a port that stands, gets that port: the body then runs with it for as long as this link of it
        lasts, and ends with the link, not with the port. ::

            async def serve(channel):
                async with manager.accept(channel, on_session=handle, resume_within=30) as port:
                    await port.wait_closed()

        Args:
            channel: A link that a peer has just opened.
            name: The peer's name, unique among the open ports; ``None``: ``"peer 1"``, ``"peer 2"`` and so on.
            hello_timeout: Seconds to wait for the first word of a peer that may be coming back; one that says nothing
                is a new one.
            options: As for `port`.

        Raises:
            PortExistsError: A port of that name is open, and the peer is not its peer.
            TypeError, ValueError: An option or channel that will not do.
        """
        checks.seconds("hello_timeout", hello_timeout)
        if not isinstance(channel, trio.abc.Channel):
            raise TypeError(f"accept() takes a channel that a peer has opened, not {channel!r}")
        chosen = self._options.override(options)
        batch: list[Any] = []
        if chosen.resume_within:
            with trio.move_on_after(hello_timeout), suppress(*LINK_ENDS):
                batch = await receive_some(channel)
            links = self._known(batch, chosen)
            if links is not None:
                async with self._resumed(*links, channel, batch[1:]) as port:
                    yield port
                return
        if name is None:
            name = next(made for made in (f"peer {number}" for number in self._names) if made not in self._ports)
        elif not isinstance(name, str):
            raise TypeError(f"a port's name must be a str, not {name!r}")
        async with self._open(name, channel, chosen, batch) as port:
            yield port

    def _known(self, batch: list[Any], options: Options) -> tuple[Port, LinkedChannel] | None:
        """The port whose peer has said this, and its links; ``None`` where the peer is a new one."""
        found = credentials(batch[0], options.wire) if batch and not isinstance(batch[0], errors.MessageError) else None
        if found is None:
            return None
        name, secret, life = found
        links = self._links.get(name)
        return (self._ports[name], links) if links is not None and links.accepts(secret, life) else None

    @asynccontextmanager
    @_protected
    async def _resumed(
        self, port: Port, links: LinkedChannel, link: trio.abc.Channel[Any], rest: list[Any]
    ) -> AsyncIterator[Port]:
        """Give a link to a port that stands, for as long as the block lasts, or the link."""
        try:
            with trio.CancelScope() as body:
                async with open_quiet_nursery() as nursery:
                    try:
                        await links.adopt(link, rest)
                    except LINK_ENDS:
                        body.cancel()

                    async def until_lost() -> None:
                        await links.until_lost(link)
                        body.cancel()

                    nursery.start_soon(until_lost)
                    yield port
                    nursery.cancel_scope.cancel()
        finally:
            links.lose(trio.BrokenResourceError("its server ended the link"), link)

    @_protected
    async def __aenter__(self) -> Self:
        if self._default is not None:
            raise RuntimeError("this SessionManager is entered already")
        if self._sender is None:
            raise TypeError("async with SessionManager(...) needs a sender; without one, open ports with port()")
        default = self.port(DEFAULT)
        await default.__aenter__()
        self._default = default
        return self

    @_protected
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # No await before the port's own exit: its nursery must see the exception first.
        assert self._default is not None
        default, self._default = self._default, None
        return await default.__aexit__(kind, error, trace)

    # -- one's own receive loop --------------------------------------------------------------------------------------

    def is_session(self, message: Any) -> bool:
        """Return True if `message` has a session's number where the manager's options say it stands."""
        dialect = self._options.wire
        fields = dialect.fields_of(message)
        return fields is not None and dialect.sid_of(fields) is not None

    def get_session(self, message: Any, port: str = DEFAULT) -> Session | None:
        """The open session of `port` that `message` belongs to; ``None`` when the port or the session is not open.

        The port is the caller's to name: a field of the message could be forged.
        """
        found = self._ports.get(port)
        return None if found is None else found.get_session(message)

    @_protected
    def create_session(self, port: str = DEFAULT, **options: Any) -> Session:
        """A new session of `port`; arguments and errors as in `Port.create`.

        Raises:
            PortNotFoundError: No port of that name is open.
        """
        return self._find(port).create(**options)

    @_protected
    def dispatch(self, message: Any, port: str = DEFAULT) -> bool:
        """Give `message` to the session of `port` it belongs to, as `Port.dispatch`. ``False``: it is no session's.

        A session's message for a port that is not open is counted and dropped: a peer may speak after it was left.
        """
        found = self._ports.get(port)
        if found is not None:
            return found.dispatch(message)
        is_session = self.is_session(message)
        if is_session:
            self._strays.drop(Drop.UNKNOWN_PORT)
            self._said.dropped(Drop.UNKNOWN_PORT, detail=f"port {port!r}")
        return is_session

    @_protected
    async def listen(
        self,
        channel: trio.abc.Channel[Any],
        *,
        port_of: Callable[[Any], str | None],
        on_unknown: Callable[[str, Any], Awaitable[object] | object] | None = None,
    ) -> None:
        """Read a channel that several ports share, until it ends or is closed, and give each message to its port.

        The ports send through senders of their own; `psession.share` makes a channel safe for many writers.
        No port holds up another: delivery never waits.

        Args:
            channel: What to read. It stays the caller's to close.
            port_of: The port's name for a message; ``None`` for a message that is nobody's.
            on_unknown: Called with the name and the message when no port of that name is open, as a task of its own. It
                may open one, inside itself or elsewhere: what came for that name is delivered once it is open, and
                dropped when the call returns without. Without it such messages are counted and dropped.

        What `on_unknown` still does when the channel ends is cancelled.

        Cancelling loses no message that the channel has not given out.

        Raises:
            trio.BrokenResourceError: The channel broke.
            Exception: What `on_unknown` raised, under ``strict``; otherwise it is logged, and costs the messages for
                that name alone.
        """
        options = self._options
        most = options.max_held_bytes
        listener = Listener(
            self._takers, self._strays, self._said, port_of, on_unknown, self._budget, most, strict=options.strict
        )
        self._listeners.append(listener)
        try:
            await listener.run(channel)
        finally:
            self._listeners.remove(listener)

    # -- everything at once ------------------------------------------------------------------------------------------

    @_protected
    def cancel(self) -> None:
        """`Port.cancel` on every port."""
        for port in list(self._ports.values()):
            port.cancel()

    @_protected
    def abort(self, error: BaseException | None = None) -> None:
        """`Port.abort` on every port."""
        for port in list(self._ports.values()):
            port.abort(error)

    @_protected
    def timeout(self) -> None:
        """`Port.timeout` on every port."""
        for port in list(self._ports.values()):
            port.timeout()

    @_protected
    def clear(self, behavior: Literal["abort", "cancel", "timeout"] = "abort") -> None:
        """`Port.clear` on every port."""
        for port in list(self._ports.values()):
            port.clear(behavior)

    async def drain(self, timeout: float = math.inf) -> bool:  # noqa: ASYNC109 - as in Port.drain
        """`Port.drain` on every port at once. Return True if all came to their end in `timeout` seconds."""
        drained: list[bool] = []

        async def one(port: Port) -> None:
            with suppress(errors.PortClosedError):
                drained.append(await port.drain(timeout))

        async with open_quiet_nursery() as nursery:
            for port in list(self._ports.values()):
                nursery.start_soon(one, port)
        return all(drained)

    @_protected
    def observe(self, listener: hooks.Listener, *kinds: type[hooks.Event]) -> hooks.Observation:
        """Call `listener` with each event of all ports, those of today and of tomorrow; see `psession.hooks`.

        Arguments, result and errors as in `Port.observe`. ``with manager.observe(listener): ...`` ends with its block;
        without ``with`` the listener is called for as long as the manager is used.
        """
        return self._audience.observe(listener, kinds)

    def statistics(self) -> Statistics:
        """The sum over the open ports and those that are gone. May be called from any thread."""
        total = self._past + self._strays.snapshot()
        for port in list(self._ports.values()):
            total += port.statistics()
        return total

    def _find(self, name: str) -> Port:
        port = self._ports.get(name)
        if port is None:
            names = ", ".join(map(repr, self._ports)) or "none"
            raise errors.PortNotFoundError(f"no port of that name is open (open: {names})", port=name)
        return port


def without_gauges(left: Statistics) -> Statistics:
    """The part of a port's statistics that stays true when the port is gone."""
    gauges: dict[str, Any] = {"oldest": 0.0, "silent": math.inf, **dict.fromkeys(GAUGES, 0)}
    return dataclasses.replace(left, **gauges)


def _checked_target(name: str, target: object) -> Any:
    """A channel or a sender; else an error that says what to wrap it in."""
    if isinstance(target, trio.abc.Channel) or is_sender(target):
        return target
    if target is None:
        raise TypeError(f"port {name!r} needs a channel or a sender: it has none, and its manager has no sender")
    hint = "implement trio.abc.Channel"
    if hasattr(type(target), "__aenter__") and not isinstance(target, trio.abc.Stream):
        hint = "enter it first: `async with ... as channel`"
    if isinstance(target, trio.abc.Stream):
        hint = "wrap it: psession.channels.lines(stream) or length_prefixed(stream)"
    elif hasattr(target, "get_message"):
        hint = "wrap it: psession.channels.trio_websocket(connection)"
    elif hasattr(target, "extra_attributes"):
        hint = "wrap it: psession.channels.anyio_stream(stream)"
    raise TypeError(f"port {name!r} needs a trio.abc.Channel or a callable, not {target!r}; {hint}")
