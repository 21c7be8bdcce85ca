"""The places of a server: for handshakes, for clients that are in, and for handlers, which may outlive their client."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from psession import checks

if TYPE_CHECKING:
    from collections.abc import Iterator


DEFAULT_MAX_CONNECTIONS: Final = 1000
"""Most systems let a process open 1,024 files."""

DEFAULT_MAX_HANDSHAKES: Final = 200
"""An honest handshake takes a few round trips: at 100 ms each, 200 places let in 500 clients a second over TLS."""

HANDLERS_A_CLIENT: Final = 3
"""A client that came back by ``resume_within`` has two handlers: of its port, and of its link. A third is for ports
whose client is awaited: of these there are `psession.Budget`'s ``absent_ports``, 1000 as well."""


class Places:
    """How many of each kind there are, and how many are taken.

    Args:
        max_handshakes: How many handshakes may be under way. One more, and the oldest is given up.
        max_connections: How many clients may be in.
        max_handlers: How many handlers may run, those included whose client is gone; ``None``: three for each client.

    Raises:
        TypeError: One of them is no whole number.
        ValueError: One of them is less than 1.

    Attributes:
        connections: How many clients are in.
        handlers: How many handlers run.
        refused: How many clients there was no place for, once their handshake was done.
        given_up: How many handshakes were given up in favour of newcomers.
    """

    def __init__(self, max_handshakes: int, max_connections: int, max_handlers: int | None) -> None:
        checks.count("max_connections", max_connections)
        checks.count("max_handshakes", max_handshakes)
        if max_handlers is None:
            max_handlers = HANDLERS_A_CLIENT * max_connections
        checks.count("max_handlers", max_handlers)
        self.connections = 0
        self.handlers = 0
        self.refused = 0
        self.given_up: int = 0
        self._max_handshakes = max_handshakes
        self._max_connections = max_connections
        self._max_handlers = max_handlers
        self._handshakes: OrderedDict[trio.CancelScope, None] = OrderedDict()
        """The first to go stands first."""

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return len(self._handshakes)

    @property
    def has_room(self) -> bool:
        """True while there is a place for one more client."""
        return self.connections < self._max_connections and self.handlers < self._max_handlers

    @contextmanager
    def visit(self) -> Iterator[Visit]:
        """One client, from its first byte to the end of its handler: whatever it takes, it leaves with this block."""
        visit = Visit(self)
        try:
            yield visit
        finally:
            visit.leave()

    @contextmanager
    def handshake(self, seconds: float) -> Iterator[trio.CancelScope]:
        """A handshake, given up after so many seconds, or as soon as its place is needed for a newcomer."""
        if len(self._handshakes) >= self._max_handshakes:
            self.give_up_handshake()
        with trio.move_on_after(seconds) as scope:
            self._handshakes[scope] = None
            try:
                yield scope
            finally:
                self._handshakes.pop(scope, None)

    def goes_first(self, scope: trio.CancelScope) -> None:
        """The client of this handshake has been refused, and merely reads why: it is the next to be given up."""
        if scope in self._handshakes:
            self._handshakes.move_to_end(scope, last=False)

    def give_up_handshake(self) -> bool:
        """Give up the oldest handshake. Return False where there is none."""
        if not self._handshakes:
            return False
        oldest, _ = self._handshakes.popitem(last=False)
        oldest.cancel()
        self.given_up += 1
        return True


class Visit:
    """The places that one client has."""

    __slots__ = ("_has_handler", "_is_in", "_places")

    def __init__(self, places: Places) -> None:
        self._places = places
        self._is_in = False
        self._has_handler = False

    def enter(self) -> bool:
        """Take a place among the clients that are in, and a handler's. Return False where there is none."""
        places = self._places
        if not places.has_room:
            return False
        self._is_in = self._has_handler = True
        places.connections += 1
        places.handlers += 1
        return True

    def disconnect(self) -> None:
        """The client's connection is closed; its handler may go on."""
        if self._is_in:
            self._is_in = False
            self._places.connections -= 1

    def leave(self) -> None:
        """The handler is done as well."""
        self.disconnect()
        if self._has_handler:
            self._has_handler = False
            self._places.handlers -= 1
