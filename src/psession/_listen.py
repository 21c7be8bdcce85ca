"""One channel, many ports: each message to its port, and nobody waits for anybody."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import trio

from psession import errors
from psession._nursery import open_quiet_nursery
from psession.channels._pushed_back import receive_some

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from psession._port import Port
    from psession._statistics import Statistics

log = logging.getLogger("psession")

MAX_UNKNOWN_NAMES = 1024
"""Names that `on_unknown` may be busy with at once: a flood of invented names must not become as many tasks."""

MAX_HELD_MESSAGES = 64
"""Messages held for one such name: what a peer says before it waits for an answer, and some."""


class Listener:
    """The state of one ``manager.listen``."""

    def __init__(
        self,
        ports: Mapping[str, Port],
        counters: Statistics,
        port_of: Callable[[Any], str | None],
        on_unknown: Callable[[str, Any], Awaitable[object] | object] | None,
    ) -> None:
        self._ports = ports
        self._counters = counters
        self._port_of = port_of
        self._on_unknown = on_unknown
        self._held: dict[str, list[Any]] = {}

    def port_opened(self, port: Port) -> None:
        """Deliver what came for a port while it was being opened."""
        for message in self._held.pop(port.name, ()):
            port._give(message)

    async def run(self, channel: trio.abc.Channel[Any]) -> None:
        """Read until the channel ends or this side closes it; what `on_unknown` still does then is cancelled."""
        async with open_quiet_nursery() as nursery:
            await self._read(channel, nursery)
            nursery.cancel_scope.cancel()

    async def _read(self, channel: trio.abc.Channel[Any], nursery: trio.Nursery) -> None:
        while True:
            try:
                batch = await receive_some(channel)
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            for message in batch:
                if isinstance(message, errors.MessageError):
                    self._malformed("%s", message)
                else:
                    self._route(message, nursery)

    def _route(self, message: Any, nursery: trio.Nursery) -> None:
        try:
            name = self._port_of(message)
        except Exception as error:
            self._malformed("port_of failed on %.200r: %r", message, error)
            return
        port = None if name is None else self._ports.get(name)
        if port is not None:
            port._give(message)
        elif name is None or self._on_unknown is None:
            self._counters.unknown_port += 1
        elif name in self._held:
            self._hold(self._held[name], message)
        elif len(self._held) >= MAX_UNKNOWN_NAMES:
            self._counters.refused += 1
        else:
            self._held[name] = [message]
            nursery.start_soon(self._ask, name, message, name=f"psession on_unknown for {name!r}")

    def _hold(self, held: list[Any], message: Any) -> None:
        if len(held) < MAX_HELD_MESSAGES:
            held.append(message)
        else:
            self._counters.overrun += 1

    async def _ask(self, name: str, message: Any) -> None:
        """Let the application open a port for `name`; what came for it is delivered as soon as it is open."""
        assert self._on_unknown is not None
        try:
            result = self._on_unknown(name, message)
            if inspect.isawaitable(result):
                await result
        finally:
            self._counters.unknown_port += len(self._held.pop(name, ()))

    def _malformed(self, text: str, *values: object) -> None:
        self._counters.malformed += 1
        log.warning(f"listen: message dropped: {text}", *values)
