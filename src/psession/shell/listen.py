"""One channel, many ports: each message to its port, and nobody waits for anybody."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import trio

from psession import errors
from psession.budget import Account
from psession.channels._base import FrameChannel
from psession.channels._plain import receive_some
from psession.nursery import open_quiet_nursery
from psession.protocol.counters import Drop
from psession.shell.user_code import call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from psession.budget import Budget
    from psession.protocol.counters import Counters
    from psession.shell.said import Said

MAX_UNKNOWN_NAMES = 1024
"""The names that `on_unknown` may be busy with at once: a flood of invented names must not become as many tasks."""

MAX_HELD_MESSAGES = 64
"""Messages held for one such name: what a peer says before it waits for an answer, and some."""


class Listener:
    """One ``manager.listen``.

    Args:
        ports: For each open port what takes its messages.
        counters: Where what goes nowhere is counted.
        said: Where it is logged, the first time.
        port_of: The port's name for a message.
        on_unknown: Called for a name that no port has.
        budget: What all ports may hold together, and messages that wait for a port to be opened.
        most_bytes: How many bytes these messages may hold.
        strict: What it raises ends the listening; otherwise it is logged, and costs the messages for that name.
    """

    def __init__(
        self,
        ports: Mapping[str, Callable[[Any], None]],
        counters: Counters,
        said: Said,
        port_of: Callable[[Any], str | None],
        on_unknown: Callable[[str, Any], Awaitable[object] | object] | None,
        budget: Budget,
        most_bytes: float,
        *,
        strict: bool,
    ) -> None:
        self._ports = ports
        self._counters = counters
        self._said = said
        self._port_of = port_of
        self._on_unknown = on_unknown
        self._strict = strict
        self._account = Account(budget, most_bytes, MAX_HELD_MESSAGES, self._give_way)
        self._held: dict[str, list[tuple[Any, int]]] = {}

    def port_opened(self, name: str, take: Callable[[Any], None]) -> None:
        """Deliver what came for a port while it was being opened."""
        for message, size in self._held.pop(name, ()):
            self._account.give(size)
            take(message)

    async def run(self, channel: trio.abc.Channel[Any]) -> None:
        """Read until the channel ends or this side closes it; what `on_unknown` still does then is cancelled."""
        try:
            async with open_quiet_nursery() as nursery:
                await self._read(channel, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._account.close()

    async def _read(self, channel: trio.abc.Channel[Any], nursery: trio.Nursery) -> None:
        while True:
            try:
                batch = await receive_some(channel)
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            for message in batch:
                if isinstance(message, errors.MessageError):
                    self._drop(Drop.MALFORMED, str(message))
                else:
                    self._route(message, nursery)
            if isinstance(channel, FrameChannel):
                channel.pace()

    def _route(self, message: Any, nursery: trio.Nursery) -> None:
        try:
            name = cast("str | None", call(self._port_of, _readable(message)))
        except Exception as error:
            self._drop(Drop.MALFORMED, f"port_of failed on {message!r:.200}: {error!r}")
            return
        if name is not None and not isinstance(name, str):
            self._drop(Drop.MALFORMED, f"port_of returned {name!r:.100}, which is no str")
            return
        take = None if name is None else self._ports.get(name)
        if take is not None:
            take(message)
        elif name is None or self._on_unknown is None:
            self._drop(Drop.UNKNOWN_PORT, f"port {name!r}")
        elif name in self._held:
            self._hold(self._held[name], message)
        elif len(self._held) >= MAX_UNKNOWN_NAMES:
            self._drop(
                Drop.REFUSED,
                f"on_unknown is at work for {MAX_UNKNOWN_NAMES} names, and this is one more: {name!r:.100}",
            )
        else:
            self._held[name] = []
            self._hold(self._held[name], message)
            nursery.start_soon(self._ask, name, message, name=f"psession on_unknown for {name!r}")

    def _hold(self, held: list[tuple[Any, int]], message: Any) -> None:
        if len(held) >= MAX_HELD_MESSAGES:
            self._drop(Drop.OVERRUN, f"{MAX_HELD_MESSAGES} messages wait until on_unknown has opened their port")
        elif not (size := self._account.take(message)):
            self._drop(Drop.OVERRUN, "messages that wait until on_unknown has opened their ports hold max_held_bytes")
        else:
            held.append((message, size))

    def _give_way(self) -> bool:
        """Drop what is held for the name that has the most. Return False if nothing is."""
        most = max(self._held.values(), key=lambda held: sum(size for _, size in held), default=None)
        if not most:
            return False
        for _, size in most:
            self._account.give(size)
            self._drop(Drop.OVERRUN, "the budget is used up, and messages that wait for their ports held the most")
        most.clear()
        return True

    async def _ask(self, name: str, message: Any) -> None:
        """Let the application open a port for `name`; what came for it is delivered as soon as it is open."""
        assert self._on_unknown is not None
        try:
            result = self._on_unknown(name, _readable(message))
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            if self._strict:
                raise
            self._counters.crashed += 1
            self._said.raised("on_unknown_raised", "on_unknown", f" for port {name!r:.100}", error)
        finally:
            for _, size in self._held.pop(name, ()):
                self._account.give(size)
                self._drop(Drop.UNKNOWN_PORT, f"on_unknown did not open port {name!r:.100}")

    def _drop(self, reason: Drop, detail: str) -> None:
        """Count a message that goes nowhere, and log it the first time."""
        self._counters.drop(reason)
        self._said.dropped(reason, detail=detail)


def _readable(message: Any) -> Any:
    """A message as the application's functions see it: one whose payload has a type of its own, as all its fields."""
    fields = getattr(message, "fields", None)
    return fields if type(fields) is dict and hasattr(message, "payload") else message
