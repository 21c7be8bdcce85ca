"""One channel, many ports: each message to its port, and nobody waits for anybody."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, cast

import trio

from psession import errors
from psession.channels._plain import receive_some
from psession.nursery import open_quiet_nursery
from psession.shell.user_code import call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from psession.protocol.counters import Counters

log = logging.getLogger("psession")

MAX_UNKNOWN_NAMES = 1024
"""The names that `on_unknown` may be busy with at once: a flood of invented names must not become as many tasks."""

MAX_HELD_MESSAGES = 64
"""Messages held for one such name: what a peer says before it waits for an answer, and some."""


class Listener:
    """One ``manager.listen``.

    Args:
        ports: For each open port what takes its messages.
        counters: Where what goes nowhere is counted.
        port_of: The port's name for a message.
        on_unknown: Called for a name that no port has.
    """

    def __init__(
        self,
        ports: Mapping[str, Callable[[Any], None]],
        counters: Counters,
        port_of: Callable[[Any], str | None],
        on_unknown: Callable[[str, Any], Awaitable[object] | object] | None,
    ) -> None:
        self._ports = ports
        self._counters = counters
        self._port_of = port_of
        self._on_unknown = on_unknown
        self._held: dict[str, list[Any]] = {}

    def port_opened(self, name: str, take: Callable[[Any], None]) -> None:
        """Deliver what came for a port while it was being opened."""
        for message in self._held.pop(name, ()):
            take(message)

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
            name = cast("str | None", call(self._port_of, _readable(message)))
        except Exception as error:
            self._malformed("port_of failed on %.200r: %r", message, error)
            return
        take = None if name is None else self._ports.get(name)
        if take is not None:
            take(message)
        elif name is None or self._on_unknown is None:
            self._counters.unknown_port += 1
        elif name in self._held:
            self._hold(self._held[name], message)
        elif len(self._held) >= MAX_UNKNOWN_NAMES:
            self._counters.add("refused")
        else:
            self._held[name] = [message]
            nursery.start_soon(self._ask, name, message, name=f"psession on_unknown for {name!r}")

    def _hold(self, held: list[Any], message: Any) -> None:
        if len(held) < MAX_HELD_MESSAGES:
            held.append(message)
        else:
            self._counters.add("overrun")

    async def _ask(self, name: str, message: Any) -> None:
        """Let the application open a port for `name`; what came for it is delivered as soon as it is open."""
        assert self._on_unknown is not None
        try:
            result = self._on_unknown(name, _readable(message))
            if inspect.isawaitable(result):
                await result
        finally:
            self._counters.unknown_port += len(self._held.pop(name, ()))

    def _malformed(self, text: str, *values: object) -> None:
        self._counters.add("malformed")
        log.warning(f"listen: message dropped: {text}", *values)


def _readable(message: Any) -> Any:
    """A message as the application's functions see it: one whose payload has a type of its own, as all its fields."""
    fields = getattr(message, "fields", None)
    return fields if type(fields) is dict and hasattr(message, "payload") else message
