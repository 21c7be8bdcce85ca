"""The connection of a client: opened, used until it breaks, opened again to another server."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from psession.brokers._connection import BrokerConnection, LinkTasks
from psession.brokers._outgoing import Outgoing
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._connector import Connector
from psession.brokers.nats._dispatcher import Dispatcher
from psession.brokers.nats._errors import (
    NatsClosedError,
    NatsConnectError,
    NatsDisconnectedError,
    NatsError,
    NatsTimeoutError,
)
from psession.brokers.nats._inbox import Inbox
from psession.brokers.nats._lame_duck import leave
from psession.brokers.nats._options import NatsState
from psession.brokers.nats._pings import Pings
from psession.brokers.nats._table import Table
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from psession.brokers.nats._credentials import Credentials
    from psession.brokers.nats._link import Link
    from psession.brokers.nats._options import NatsOptions
    from psession.brokers.nats._servers import ServerPool
    from psession.brokers.nats._wire import Info

log = logging.getLogger("psession")


class Connection(BrokerConnection["Link"]):
    """One connection at a time, and what outlasts it: what is queued, asked, subscribed.

    Attributes:
        inbox: The requests that wait, and the channels that answers come to.
        table: The subscriptions.
        dispatcher: What gives the words that come to these.
        pool: The servers that are known.
        info: What the server said of itself last.
    """

    is_closed: bool
    reconnects: int
    unsent: int
    too_large: int

    def __init__(self, pool: ServerPool, options: NatsOptions, credentials: Credentials) -> None:
        super().__init__(Outgoing(options.max_queued_bytes, wire.is_message, wire.PING.__eq__), options.grace)
        self.inbox: Inbox = Inbox(options.inbox_prefix, self.out)
        self.table: Table = Table(self.out, self.flush)
        self._pings = Pings(self.out)
        self.dispatcher: Dispatcher = Dispatcher(self.out, self.inbox, self.table, self._pings)
        self.pool: ServerPool = pool
        self.info: Info = wire.Info()
        self._options = options
        self._connector = Connector(pool, options, credentials)
        self._given_up: NatsConnectError | None = None

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The server that there is a connection to; ``""``: there is none."""
        return self._link.server.url if self._link is not None else ""

    def check_open(self) -> None:
        """Refuse what needs a client that lives.

        Raises:
            NatsClosedError: There will be no more connections.
        """
        if self.is_closed or self._given_up is not None:
            raise self._closed_error()

    def _closed_error(self) -> NatsClosedError:
        if self._given_up is None:
            return NatsClosedError("this client is closed", outcome="not_sent")
        error = NatsClosedError(f"no server takes this client any more: {self._given_up.why}", outcome="not_sent")
        error.__cause__ = self._given_up
        return error

    async def flush(self, *, timeout: float) -> None:  # noqa: ASYNC109 - as the public one has it
        """Return when the server has done all that it was told; wait for a connection where there is none.

        Raises:
            NatsTimeoutError: It did not say so in `timeout` seconds.
            NatsDisconnectedError: The connection broke meanwhile.
            NatsClosedError: There will be no more connections.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.move_on_after(timeout):
            while not self.out.has_link:
                self.check_open()
                await self._changed.wait()
            self.check_open()
            await self._pings.ask().park()
            return
        raise NatsTimeoutError(f"the server did not say that it is done in {timeout:g} s", waited=timeout)

    # -- its life ----------------------------------------------------------------------------------------------------

    async def open(self) -> Link:
        """Open the first link, for `run`.

        Raises:
            NatsConnectError: No server takes this client.
        """
        return await self._connector.first()

    async def run(self, link: Link, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection, and open the next when it breaks, until the client is closed or no server takes it."""
        try:
            with self._scope:
                async with open_quiet_nursery() as nursery:
                    nursery.start_soon(self.inbox.lanes.keep_time)
                    nursery.start_soon(self.links.keep, self.out)
                    while True:
                        self._stand(link)
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                        error = await self._use(link)
                        self._lose(link, error)
                        link = await self._connector.following(link.server)
                        self.reconnects += 1
        except NatsConnectError as error:
            self._given_up = error
            log.error("no server takes this client any more: %s", error.why, extra={"event_name": "servers_refused"})
        finally:
            self.is_closed = True
            self._end_all()
            self._finished.set()

    def _stand(self, link: Link) -> None:
        """There is a link: it is told of all subscriptions, and gets what waited, as far as its server takes that."""
        self._link = link
        self._take_info(link, link.info)
        limit = self.info.max_payload
        self._let_go_of_too_large(
            lambda frame: wire.split(frame, limit),
            lambda gone: self.inbox.let_go(*gone, limit),
            f"the max_payload of {link.server.url} is {limit}",
        )
        # The inbox first: who comes back by a door must not find what is served without the door.
        self.out.attach(link, self.inbox.words() + self.table.words())
        self._options.tell(NatsState("open", link.server.url))
        self._tell_changed()

    def _take_info(self, link: Link, info: Info) -> None:
        link.info = self.info = info
        self.pool.learn(info.connect_urls, link.server)

    async def _use(self, link: Link) -> Exception:
        """Read, write and ping until the link is of no further use; return why."""
        take = self.dispatcher.take

        def informed(info: Info) -> None:
            self._take_info(link, info)
            if info.ldm and not link.left and len(self.pool) > 1:
                link.left = True
                tasks.start(partial(leave, link, self._options, self.out, self.inbox, self.table, self._pings))

        async def read() -> None:
            while True:
                take(await link.read(), link, informed)

        try:
            async with open_quiet_nursery() as nursery:
                tasks = LinkTasks(nursery, NatsError)
                tasks.start(read)
                tasks.start(partial(self.out.run, link))
                tasks.start(partial(self._pings.keep, self._options.ping_interval))
        finally:
            self.out.detach()
            await link.close()
        assert tasks.error is not None
        return tasks.error

    def _lose(self, link: Link, error: Exception) -> None:
        """The link is over: who waits for what it should have brought hears of it at once."""
        why = f"the connection to {link.server.url} broke: {_why(error)}"
        log.debug("%s", why, extra={"event_name": "link_broke"})
        self._let_go()
        self._options.tell(NatsState("broken", link.server.url, error))
        self.inbox.lose(why)
        self._pings.fail(lambda: NatsDisconnectedError(why))
        self.links.break_all(lambda: NatsDisconnectedError(why))
        self._tell_changed()

    def _end_all(self) -> None:
        """There will be no more links."""
        self._let_go()
        self.inbox.end(self._closed_error)
        self.unsent += self.out.drop()
        self._pings.fail(self._closed_error)
        self.table.finish(self._closed_error if self._given_up is not None else None)
        self.links.break_all(lambda: NatsClosedError(self._closed_error().why))
        self._options.tell(NatsState("closed", error=self._given_up))
        self._tell_changed()


def _why(error: Exception) -> str:
    if isinstance(error, NatsError):
        return error.why
    if isinstance(error, trio.EndOfChannel):
        return "the server hung up"
    return str(error.__cause__ or error) or type(error).__name__
