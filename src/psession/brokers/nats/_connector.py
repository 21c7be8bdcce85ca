"""The way to a connection: servers are tried, round after round, until one takes this client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from psession.brokers.nats._errors import NatsAuthError, NatsConnectError
from psession.brokers.nats._link import open_link
from psession.brokers.nats._options import NatsState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psession.brokers.nats._credentials import Credentials
    from psession.brokers.nats._link import Link
    from psession.brokers.nats._options import NatsOptions
    from psession.brokers.nats._servers import Server, ServerPool

AUTH_ROUNDS: Final = 2
"""Rounds in a row in which all servers refuse who this client is before it gives up: one may meet a reload."""


class Connector:
    """Opens the first link of a client, and the next when that broke.

    Attributes:
        pool: The servers that are known.
    """

    def __init__(self, pool: ServerPool, options: NatsOptions, credentials: Credentials) -> None:
        self.pool: ServerPool = pool
        self._options = options
        self._credentials = credentials

    async def first(self) -> Link:
        """Open the first link: each server is tried once, in random order.

        Raises:
            NatsConnectError: None took this client.
        """
        errors: list[NatsConnectError] = []
        link = await self._try_round(self.pool.round(), errors)
        if link is None:
            raise _none_took(errors)
        return link

    async def following(self, last: Server) -> Link:
        """Try all servers, round after round, with waits between, until one takes this client.

        Args:
            last: The server whose link broke; it is tried last.

        Raises:
            NatsConnectError: None did in ``max_rounds``, or all refused who it is `AUTH_ROUNDS` times.
        """
        options, rounds, refusals = self._options, 0, 0
        while True:
            errors: list[NatsConnectError] = []
            link = await self._try_round(self.pool.round(last), errors)
            if link is not None:
                return link
            rounds += 1
            refusals = refusals + 1 if all(isinstance(error, NatsAuthError) for error in errors) else 0
            if rounds >= options.max_rounds or refusals >= AUTH_ROUNDS:
                raise _none_took(errors)
            delay = options.waits.wait(rounds - 1, options.rng())
            options.tell(NatsState("waiting", error=errors[-1], delay=delay))
            await trio.sleep(delay)

    async def _try_round(self, servers: Iterable[Server], errors: list[NatsConnectError]) -> Link | None:
        for server in servers:
            self._options.tell(NatsState("connecting", server.url))
            try:
                return await open_link(server, self._options, self._credentials)
            except NatsConnectError as error:
                errors.append(error)
        return None


def _none_took(errors: list[NatsConnectError]) -> NatsConnectError:
    """One error for all servers of a round."""
    kind = NatsAuthError if all(isinstance(error, NatsAuthError) for error in errors) else NatsConnectError
    error = kind("no NATS server takes this client: " + "; ".join(one.why for one in errors), outcome="not_sent")
    error.__cause__ = errors[-1]
    return error
