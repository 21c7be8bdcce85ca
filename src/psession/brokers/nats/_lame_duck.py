"""Leaving a server that has said that it will go (lame duck mode), in good order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import trio

from psession.brokers.nats._errors import NatsConnectError
from psession.brokers.nats._options import NatsState

if TYPE_CHECKING:
    from psession.brokers._outgoing import Outgoing
    from psession.brokers.nats._inbox import Inbox
    from psession.brokers.nats._link import Link
    from psession.brokers.nats._options import NatsOptions
    from psession.brokers.nats._pings import Pings
    from psession.brokers.nats._table import Table

LAME_DUCK_SPREAD: Final = 1.0
"""Seconds over which the clients of a server that will go spread their leave; it gives them 10 at least."""

LAME_DUCK_PATIENCE: Final = 5.0
"""Seconds that requests in flight have there meanwhile."""


async def leave(link: Link, options: NatsOptions, out: Outgoing, inbox: Inbox, table: Table, pings: Pings) -> NoReturn:
    """End the subscriptions at the server of a link, and wait for what is on its way from there.

    What is put meanwhile waits for the next link.

    Raises:
        NatsConnectError: The link is of no further use.
    """
    options.tell(NatsState("lame_duck", link.server.url))
    await trio.sleep(LAME_DUCK_SPREAD * options.rng())
    with trio.move_on_after(LAME_DUCK_PATIENCE):
        table.leave()
        waiting = pings.ask()
        while out.taken < waiting.number:  # noqa: ASYNC110 - the writer has it in the next pass
            await trio.sleep(0.001)
        out.detach()
        if waiting.outcome is None:
            await waiting.park()
        while inbox.waits_for_written:  # noqa: ASYNC110 - once
            await trio.sleep(0.01)
    raise NatsConnectError("it will go soon (lame duck mode), and this client moves to another server")
