"""A client of NATS: messages, and the sessions over them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

import trio

from psession import checks
from psession.brokers._channel import DEFAULT_KEEPALIVE
from psession.brokers._serving import DEFAULT_MAX_LINKS
from psession.brokers.nats._channel import Returning, open_channel
from psession.brokers.nats._connection import Connection
from psession.brokers.nats._credentials import read_credentials
from psession.brokers.nats._errors import NatsTimeoutError
from psession.brokers.nats._messenger import Messenger
from psession.brokers.nats._micro import DEFAULT_QUEUE, NatsService
from psession.brokers.nats._options import NatsOptions, NatsStatistics
from psession.brokers.nats._requests import open_requests
from psession.brokers.nats._servers import ServerPool
from psession.brokers.nats._serving import NatsServer
from psession.brokers.nats._subjects import queue_bytes, subject_bytes
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from psession.brokers._channel import Watched
    from psession.brokers._outgoing import Outgoing
    from psession.brokers.nats._channel import NatsChannel
    from psession.brokers.nats._options import NatsSettings
    from psession.brokers.nats._requests import RequestChannel
    from psession.brokers.nats._wire import Info, NatsMessage
    from psession.channels.codecs import Codec, CodecName
    from psession.service import Service
    from psession.shell.manager import SessionManager

_protected = trio.lowlevel.enable_ki_protection


@final
class Nats(Messenger):
    """A client of NATS; made by ``async with open_nats(servers) as nats``.

    Any number of tasks of one Trio run may use it.
    """

    def __init__(self, connection: Connection, options: NatsOptions) -> None:
        super().__init__(connection, options)
        self._links_overrun = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.connected_url or "no connection"
        return f"<psession.brokers.nats.Nats, {state}>"

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def connected_url(self) -> str:
        """The server that this client is connected to; ``""`` while it is to none."""
        return self._connection.url

    @property
    def servers(self) -> list[str]:
        """The servers that are known, those that were given first."""
        return self._connection.pool.urls

    @property
    def info(self) -> Info:
        """The server, as it describes itself; without a connection the last one."""
        return self._connection.info

    @property
    def max_payload(self) -> int:
        """The bytes that a message may have, headers included, as the server says."""
        return self._connection.info.max_payload

    @property
    def closed(self) -> bool:
        """True once there will be no more connections."""
        return self._connection.is_closed

    def statistics(self) -> NatsStatistics:
        """Return what was counted so far."""
        connection, inbox, table = self._connection, self._inbox, self._table
        came, went = connection.bytes_in_and_out
        return NatsStatistics(
            messages_in=connection.dispatcher.messages_in,
            messages_out=self._out.number - self._out.words,
            bytes_in=came,
            bytes_out=went,
            reconnects=connection.reconnects,
            requests=inbox.requests,
            no_responders=inbox.no_responders,
            timeouts=inbox.timeouts,
            late=inbox.late + table.late,
            overrun=table.overrun + self._links_overrun,
            errors=connection.dispatcher.errors,
            unsent=connection.unsent,
            too_large=connection.too_large,
            subscriptions=len(table),
            queued_bytes=self._out.queued_bytes,
            waiting_requests=inbox.waiting,
            links=len(connection.links),
        )

    # -- sessions ----------------------------------------------------------------------------------------------------

    def connect(
        self,
        subject: str,
        *,
        codec: Codec | CodecName = "json",
        max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        keepalive: float = DEFAULT_KEEPALIVE,
    ) -> AbstractAsyncContextManager[NatsChannel]:
        """``async with nats.connect(subject) as channel``: the channel of a port towards who serves that subject.

        Where several serve it in a queue group, one of them is at the other end of all that this channel carries, so
        all turns of a dialogue go to the same. The channel breaks where that process is gone, and where this client
        loses its connection, since what came meanwhile is lost; `reconnecting` opens the next, and `returning` goes
        back to the same process.

        Args:
            subject: Without wildcards.
            codec: ``"json"``, ``"msgpack"`` or a codec.
            max_message_bytes: How long an encoded message may be; the server's ``max_payload`` holds as well.
            connect_timeout: Seconds to wait for the welcome.
            close_timeout: Seconds that closing may take.
            keepalive: Seconds of silence after which the channel asks whether the other end is there.

        Raises:
            NatsNoRespondersError: Nobody serves the subject, said at once; the outcome is ``"not_sent"``.
            NatsConnectError: Who serves it has no place for a link.
            NatsProtocolError: Who serves it speaks no psession.
            NatsTimeoutError: No welcome came in time.
            NatsClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        self._connection.check_open()
        return open_channel(
            self,
            subject,
            codec=codec,
            max_message_bytes=max_message_bytes,
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            keepalive=keepalive,
        )

    def returning(self, subject: str, **options: Any) -> Returning:
        """Return what opens links for `reconnecting`: each goes to the process that served the last, if that is there.

        So a port with ``resume_within`` finds its peer again in a queue group. Takes the options of `connect`.
        """
        return Returning(self, subject, options)

    async def serve(
        self,
        subject: str | None,
        handler: Callable[[NatsChannel], Awaitable[object]],
        *,
        queue: str | None = None,
        codec: Codec | CodecName = "json",
        max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        keepalive: float = DEFAULT_KEEPALIVE,
        max_links: int = DEFAULT_MAX_LINKS,
        task_status: trio.TaskStatus[NatsServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Call ``handler(channel)`` for each port that connects to a subject, in a task of its own, until cancelled.

        It returns when the client is drained or closed, and all its links are. When the handler returns, its channel
        is closed. A handler that raises is logged and closes its own; the others live on. A message on the subject that
        wants no link is answered with an error, if it wants an answer.

        Args:
            subject: What to serve, without wildcards. ``None``: what is added to the `NatsServer`, which is then served
                until cancelled.
            handler: Gets a `NatsChannel`.
            queue: A queue group: each that connects gets one of its members. Without one all that serve the subject are
                asked, and the first to say welcome is it.
            codec: ``"json"``, ``"msgpack"`` or a codec.
            max_message_bytes: How long an encoded message may be.
            close_timeout: Seconds that closing a channel may take.
            keepalive: Seconds of silence after which a channel asks whether the other end is there.
            max_links: How many there may be at once; further ones are refused.
            task_status: Gets the `NatsServer` when it serves.

        Raises:
            NatsPermissionError: The broker does not allow the subject.
            NatsClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        if subject is not None:
            subject_bytes(subject)
        elif queue is not None:
            raise ValueError("queue is for the one subject that serve() is given")
        options = {
            "codec": codec,
            "max_message_bytes": max_message_bytes,
            "close_timeout": close_timeout,
            "keepalive": keepalive,
        }
        await NatsServer(self, subject or "", handler, max_links, options).run(queue, task_status)

    def requests(
        self,
        subject: str,
        *,
        serves: bool = False,
        queue: str | None = None,
        codec: Codec | CodecName = "json",
        max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    ) -> AbstractAsyncContextManager[RequestChannel]:
        """``async with nats.requests(subject) as channel``: plain requests, to and from programs that know no psession.

        For a port with the dialect `psession.dialects.NatsRequests`. Each request goes to who serves the subject, to
        one member of a queue group each; with ``serves=True`` the port answers what is asked there. It lives on when
        the connection breaks: what was asked then fails as ``"disconnected"``.

        Args:
            subject: What is asked on; with `serves` it may have wildcards.
            serves: Answer, in place of asking.
            queue: A queue group of those that answer.
            codec: ``"json"``, ``"msgpack"`` or a codec; an empty payload is ``None``.
            max_message_bytes: How long an encoded payload may be.
            close_timeout: Seconds that closing may take.

        Raises:
            NatsClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        return open_requests(
            self,
            subject,
            serves=serves,
            queue=queue,
            codec=codec,
            max_message_bytes=max_message_bytes,
            close_timeout=close_timeout,
        )

    async def micro(
        self,
        service: Service,
        name: str,
        version: str = "0.0.1",
        *,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        queue: str = DEFAULT_QUEUE,
        manager: SessionManager | None = None,
        task_status: trio.TaskStatus[NatsService] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve a `psession.Service` as a micro service of NATS, until cancelled, or the client is drained or closed.

        Each of its methods is asked on the subject ``name.method``, with its arguments as a JSON object, by any client
        of NATS. It answers to PING, INFO and STATS, so that ``nats micro ls`` and the like show it. A method of many
        results answers with their list.

        Args:
            service: Its methods are those that it has now.
            name: Letters, digits, ``-`` and ``_``.
            version: Such as ``"1.0.0"``.
            description: For people.
            metadata: For programs.
            queue: The queue group that all who serve it share.
            manager: Whose options and limits hold; by default those of a new one.
            task_status: Gets the `NatsService` when it serves.

        Raises:
            NatsPermissionError: The broker does not allow a subject.
            NatsClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        queue_bytes(queue)
        made = NatsService(self, service, name, version, description, metadata or {}, queue, manager)
        await made.run(task_status)

    @property
    def outgoing(self) -> Outgoing:
        """The queue of what is written: for channels over this client."""
        return self._out

    def take_inbox(self, token: str, take: Callable[[NatsMessage], None]) -> str:
        """Have what comes for a token of the inbox given to `take`; return the subject. For channels."""
        self._connection.check_open()
        return self._inbox.take(token, take)

    def leave_inbox(self, token: str) -> None:
        """Want nothing more for that token. For channels."""
        self._inbox.leave(token)

    def watch_link(self, link: Watched) -> None:
        """Tell a link when the connection breaks, and have it look after its other end. For channels."""
        self._connection.links.add(link)

    def forget_link(self, link: Watched) -> None:
        """Do so no more. For channels."""
        self._connection.links.remove(link)

    def note_link_overrun(self) -> None:
        """Count a link that was ended since its port was too slow. For channels."""
        self._links_overrun += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    @_protected
    async def drain(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - as everywhere in this package
        """Leave in good order: want no more messages, let those that came be received, write all answers, close.

        It waits until what came was received, and each ``async for`` over a subscription has come back for more. New
        subscriptions are refused from the beginning; publishing goes on until the end, for answers.

        Args:
            timeout: Seconds for all of it; after that the client is closed all the same.

        Raises:
            NatsTimeoutError: It was not done in `timeout` seconds; the client is closed.
            NatsDisconnectedError: The connection broke meanwhile; the client is closed.
        """
        if self._connection.is_closed:
            await trio.lowlevel.checkpoint()
            return
        checks.seconds("timeout", timeout)
        try:
            with trio.move_on_after(timeout):
                await self._table.drain()
                return
            raise NatsTimeoutError(f"not drained in {timeout:g} s", waited=timeout)
        finally:
            await self.aclose()

    @_protected
    async def aclose(self) -> None:
        """Write what was accepted, ``grace`` seconds at most, and close the connection. Idempotent.

        Who waits for an answer gets `NatsClosedError`, subscriptions end.
        """
        await self._connection.close()


@asynccontextmanager
async def open_nats(
    servers: str | Iterable[str] = "nats://127.0.0.1:4222",
    *,
    name: str = "",
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | os.PathLike[str] | None = None,
    nkey_seed: str | os.PathLike[str] | None = None,
    **options: Unpack[NatsSettings],
) -> AsyncIterator[Nats]:
    """``async with open_nats("nats://127.0.0.1:4222") as nats``: a client of a NATS server, or of a cluster of them.

    The block begins when a server has taken this client: each is tried once, in random order. When the connection
    breaks, the servers are tried again, those that the cluster told of too, in random order and in rounds with waits
    between, until one takes it. Then all subscriptions are made again. What was accepted for sending and not written
    yet is written then; requests that were written fail at once with `NatsDisconnectedError`.

    Leaving the block writes what was accepted, ``grace`` seconds at most, and closes the connection; `Nats.drain` also
    lets what came be received. Cancelled while connecting, nothing is left open. What the body raises comes out bare.

    Args:
        servers: A URL (``nats://host:4222``, ``tls://host``, with ``user:password@`` or ``token@`` where that is
            wanted), or several: the servers of one cluster.
        name: What the server's monitoring calls this client.
        user: The user's name.
        password: Its password.
        token: A token, in place of these.
        credentials: A file with a JWT and a seed (``.creds``), in place of these; needs the extra ``nats``.
        nkey_seed: A file with a seed alone (``SU...``), in place of these; needs the extra ``nats``.
        options: `NatsSettings` says what they mean.

    Raises:
        NatsAuthError: All servers refuse who this client says it is.
        NatsConnectError: No server takes this client; the text says of each why.
        TypeError, ValueError: An argument will not do; the text says why, and never has a secret in it.
        OSError: A file cannot be read.
        ImportError: A seed needs ``cryptography``.
    """
    checked = NatsOptions(name=name, **options)
    who = read_credentials(user, password, token, credentials, nkey_seed)
    connection = Connection(ServerPool(servers, checked.rng), checked, who)
    link = await connection.open()
    nats = Nats(connection, checked)
    async with open_quiet_nursery() as nursery:
        try:
            await nursery.start(connection.run, link)
        except BaseException:
            await link.close()
            raise
        try:
            yield nats
        finally:
            await nats.aclose()
