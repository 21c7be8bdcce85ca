"""The table of ports, and the options that they share."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import trio

from psession import errors
from psession._life import live
from psession._listen import Listener
from psession._nursery import open_quiet_nursery
from psession._options import Options, seconds
from psession._port import Port
from psession._resume import LINE_ENDS, AcceptedLines, lines_of
from psession._sender_outbox import is_sender
from psession._statistics import Statistics
from psession._talk import credentials
from psession.channels._pushed_back import PushedBackChannel, receive_some

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self, Unpack

    from psession._options import PortOptions
    from psession._sender_outbox import Sender
    from psession._session import Session
    from psession.envelope import Envelope

DEFAULT = "default"
"""The name of the port that ``async with SessionManager(sender)`` holds open."""


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
        self._opening: set[str] = set()
        self._past = Statistics()
        self._listeners: list[Listener] = []
        self._default: AbstractAsyncContextManager[Port] | None = None

    def __repr__(self) -> str:
        return f"<psession.SessionManager, {len(self._ports)} ports>"

    @property
    def ports(self) -> Mapping[str, Port]:
        """The open ports by name: a live, read-only view."""
        return MappingProxyType(self._ports)

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
    async def _open(self, name: str, target: trio.abc.Channel[Any] | Sender, options: Options) -> AsyncIterator[Port]:
        if name in self._ports or name in self._opening:
            raise errors.PortExistsError("a port of that name is open already; choose another name", port=name)
        port = Port(name, options)
        self._opening.add(name)
        try:
            lines = await lines_of(port, target)
        finally:
            self._opening.discard(name)
        self._ports[name] = port
        try:
            async with live(port, lines):
                for listener in self._listeners:
                    listener.port_opened(port)
                yield port
        finally:
            del self._ports[name]
            self._past.add(port.statistics().without_gauges())

    async def __aenter__(self) -> Self:
        if self._default is not None:
            raise RuntimeError("this SessionManager is entered already")
        if self._sender is None:
            raise TypeError("async with SessionManager(...) needs a sender; without one, open ports with port()")
        default = self.port(DEFAULT)
        await default.__aenter__()
        self._default = default
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # No await before the port's own exit: its nursery must see the exception first.
        assert self._default is not None
        default, self._default = self._default, None
        return await default.__aexit__(kind, error, trace)

    # -- one's own receive loop --------------------------------------------------------------------------------------

    def is_session(self, message: Any) -> bool:
        """Whether `message` has a session's number where the manager's options say it stands."""
        return self._options.wire.read(message) is not None

    def get_session(self, message: Any, port: str = DEFAULT) -> Session | None:
        """The open session of `port` that `message` belongs to; ``None`` when the port or the session is not open.

        The port is the caller's to name: a field of the message could be forged.
        """
        found = self._ports.get(port)
        return None if found is None else found.get_session(message)

    def create_session(self, port: str = DEFAULT, **options: Any) -> Session:
        """A new session of `port`; arguments and errors as in `Port.create`.

        Raises:
            PortNotFoundError: No port of that name is open.
        """
        return self._find(port).create(**options)

    def dispatch(self, message: Any, port: str = DEFAULT) -> bool:
        """Give `message` to the session of `port` it belongs to, as `Port.dispatch`. ``False``: it is no session's.

        A session's message for a port that is not open is counted and dropped: a peer may speak after it was left.
        """
        found = self._ports.get(port)
        if found is not None:
            return found.dispatch(message)
        self._past.unknown_port += self.is_session(message)
        return self.is_session(message)

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
            Exception: What `on_unknown` raised.
        """
        listener = Listener(self._ports, self._past, port_of, on_unknown)
        self._listeners.append(listener)
        try:
            await listener.run(channel)
        finally:
            self._listeners.remove(listener)

    async def resume(
        self,
        channel: trio.abc.Channel[Any],
        *,
        timeout: float = 5.0,  # noqa: ASYNC109 - it is not the call's, which goes on for as long as the line
        envelope: Envelope | None = None,
    ) -> trio.abc.Channel[Any] | None:
        """Give a new line to the port that lost its own, if its peer proves to be that port's.

        For a server whose ports have ``resume_within``. ::

            async def serve(channel):
                fresh = await manager.resume(channel)
                if fresh is not None:
                    async with manager.port(name, fresh, resume_within=30, on_session=handle) as port:
                        await port.wait_closed()

        Args:
            channel: A line that a peer has just opened.
            timeout: Seconds to wait for the peer's first word; a peer that says nothing is a new one.
            envelope: Names of fields other than the manager's.

        Returns:
            A channel for a port of its own, where the peer is new: what was read from it is put back. ``None`` when an
            open port had the line, and is done with it; cancelling takes it away from that port.
        """
        seconds("timeout", timeout)
        batch: list[Any] = []
        with trio.move_on_after(timeout), suppress(*LINE_ENDS):
            batch = await receive_some(channel)
        if not batch:
            return channel
        found = credentials(batch[0], (envelope or self._options.wire).fields)
        if found is not None:
            name, secret, life = found
            port = self._ports.get(name)
            lines = port._lines if port is not None else None
            if isinstance(lines, AcceptedLines) and lines.accepts(secret, life):
                await lines.adopt(channel, batch[1:])
                return None
        return PushedBackChannel(channel, batch)

    # -- everything at once ------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """`Port.cancel` on every port."""
        for port in list(self._ports.values()):
            port.cancel()

    def abort(self, error: BaseException | None = None) -> None:
        """`Port.abort` on every port."""
        for port in list(self._ports.values()):
            port.abort(error)

    def timeout(self) -> None:
        """`Port.timeout` on every port."""
        for port in list(self._ports.values()):
            port.timeout()

    def clear(self, behavior: Literal["abort", "cancel", "timeout"] = "abort") -> None:
        """`Port.clear` on every port."""
        for port in list(self._ports.values()):
            port.clear(behavior)

    async def drain(self, timeout: float = math.inf) -> bool:  # noqa: ASYNC109 - as in Port.drain
        """`Port.drain` on every port at once. Whether all came to their end in `timeout` seconds."""
        drained: list[bool] = []

        async def one(port: Port) -> None:
            with suppress(errors.PortClosedError):
                drained.append(await port.drain(timeout))

        async with open_quiet_nursery() as nursery:
            for port in list(self._ports.values()):
                nursery.start_soon(one, port)
        return all(drained)

    def statistics(self) -> Statistics:
        """The sum over the open ports and those that are gone."""
        total = Statistics()
        total.add(self._past)
        for port in self._ports.values():
            total.add(port.statistics())
        return total

    def _find(self, name: str) -> Port:
        port = self._ports.get(name)
        if port is None:
            names = ", ".join(map(repr, self._ports)) or "none"
            raise errors.PortNotFoundError(f"no port of that name is open (open: {names})", port=name)
        return port


def _checked_target(name: str, target: object) -> Any:
    """A channel or a sender; else an error that says what to wrap it in."""
    if isinstance(target, trio.abc.Channel) or is_sender(target):
        return target
    if target is None:
        raise TypeError(f"port {name!r} needs a channel or a sender: it has none, and its manager has no sender")
    hint = "implement trio.abc.Channel"
    if isinstance(target, trio.abc.Stream):
        hint = "wrap it: psession.channels.lines(stream) or length_prefixed(stream)"
    elif hasattr(target, "get_message"):
        hint = "wrap it: psession.channels.trio_websocket(connection)"
    elif hasattr(target, "extra_attributes"):
        hint = "wrap it: psession.channels.anyio_stream(stream)"
    raise TypeError(f"port {name!r} needs a trio.abc.Channel or a callable, not {target!r}; {hint}")
