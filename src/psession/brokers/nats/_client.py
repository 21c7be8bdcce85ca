"""A client of NATS: one connection at a time, whatever server it is to."""

from __future__ import annotations

import logging
import math
import secrets
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

import trio
from outcome import Error

from psession import checks
from psession.brokers._channel import DEFAULT_KEEPALIVE, Links
from psession.brokers._lanes import Lanes
from psession.brokers._outgoing import FLUSHED_FRAMES, Outgoing
from psession.brokers._serving import DEFAULT_MAX_LINKS
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._channel import Returning, open_channel, word
from psession.brokers.nats._credentials import read_credentials
from psession.brokers.nats._errors import (
    NatsAuthError,
    NatsClosedError,
    NatsConnectError,
    NatsDisconnectedError,
    NatsError,
    NatsNoRespondersError,
    NatsPermissionError,
    NatsTimeoutError,
)
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._link import open_link
from psession.brokers.nats._micro import DEFAULT_QUEUE, NatsService
from psession.brokers.nats._options import MAX_PINGS_OUT, NatsOptions, NatsState, NatsStatistics
from psession.brokers.nats._requests import CODE_HEADER, ERROR_HEADER, OWN_CODE_HEADER, open_requests
from psession.brokers.nats._servers import ServerPool
from psession.brokers.nats._serving import NatsServer
from psession.brokers.nats._subjects import pattern_bytes, queue_bytes, subject_bytes
from psession.brokers.nats._subscription import Subscription
from psession.brokers.nats._tap import Tap
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.errors import MessageTooLargeError
from psession.nursery import open_quiet_nursery
from psession.shell.waiting import SILENCE, Handed, Waiter

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from psession.brokers._channel import Watched
    from psession.brokers.nats._channel import NatsChannel
    from psession.brokers.nats._credentials import Credentials
    from psession.brokers.nats._headers import Headers
    from psession.brokers.nats._link import Link
    from psession.brokers.nats._options import NatsSettings
    from psession.brokers.nats._requests import RequestChannel
    from psession.brokers.nats._servers import Server
    from psession.brokers.nats._wire import Info, NatsMessage, Word
    from psession.channels.codecs import Codec, CodecName
    from psession.service import Service
    from psession.shell.manager import SessionManager
    from psession.shell.waiting import Delivery

log = logging.getLogger("psession")
_protected = trio.lowlevel.enable_ki_protection

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds for a request: some round trips through a cluster that loses a node meanwhile."""

AUTH_ROUNDS: Final = 2
"""Rounds in a row in which all servers refuse who this client is before it gives up: one may meet a reload."""

LAME_DUCK_SPREAD: Final = 1.0
"""Seconds over which the clients of a server that will go spread their leave; it gives them 10 at least."""

LAME_DUCK_PATIENCE: Final = 5.0
"""Seconds that requests in flight have there meanwhile."""

INBOX_SID: Final = 1
"""The number of the one subscription that all answers come by."""

_SENT: Final = "sent"
_NOT_SENT: Final = "not_sent"


class _Asked(Waiter):
    """A request that waits for its answer."""

    __slots__ = ("due", "number", "outcome", "subject", "task")

    def __init__(self, subject: str, due: float) -> None:
        self.subject = subject
        self.due = due
        self.number = 0
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None


class _Flushing(Waiter):
    """A task that waits for the server's PONG."""

    __slots__ = ("outcome", "task")

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None


@final
class Nats:
    """A client of NATS; made by ``async with open_nats(servers) as nats``.

    Any number of tasks of one Trio run may use it.
    """

    def __init__(self, pool: ServerPool, options: NatsOptions, credentials: Credentials) -> None:
        self._pool = pool
        self._options = options
        self._credentials = credentials
        self._out = Outgoing(options.max_queued_bytes, wire.is_message, wire.PING.__eq__)
        self._link: Link | None = None
        self._past_bytes = (0, 0)
        self._info = wire.Info()
        self._subscriptions: dict[int, Subscription | Tap] = {}
        self._last_sid = INBOX_SID
        self._inbox = f"{options.inbox_prefix}.{secrets.token_hex(11)}"
        self._inbox_bytes = self._inbox.encode() + b"."
        self._skipped = len(self._inbox) + 1
        self._has_inbox = False
        self._asked: dict[str, _Asked] = {}
        self._lanes: Lanes[str, _Asked] = Lanes(self._too_late)
        self._takers: dict[str, Callable[[NatsMessage], None]] = {}
        self._links = Links()
        self._last_token = 0
        self._pongs: deque[_Flushing | None] = deque()
        self._pings_out = 0
        self._changed = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._finished = trio.Event()
        self._is_draining = False
        self._is_closed = False
        self._given_up: NatsConnectError | None = None
        self._in = 0
        self._reconnects = self._requests = self._no_responders = self._timeouts = 0
        self._late = self._overrun = self._errors = self._unsent = self._too_large = 0
        self._said: set[str] = set()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else self.connected_url or "no connection"
        return f"<psession.brokers.nats.Nats, {state}>"

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def connected_url(self) -> str:
        """The server that this client is connected to; ``""`` while it is to none."""
        return self._link.server.url if self._link is not None else ""

    @property
    def servers(self) -> list[str]:
        """The servers that are known, those that were given first."""
        return self._pool.urls

    @property
    def info(self) -> Info:
        """The server, as it describes itself; without a connection the last one."""
        return self._info

    @property
    def max_payload(self) -> int:
        """The bytes that a message may have, headers included, as the server says."""
        return self._info.max_payload

    @property
    def closed(self) -> bool:
        """True once there will be no more connections."""
        return self._is_closed

    def statistics(self) -> NatsStatistics:
        """Return what was counted so far."""
        link, (past_in, past_out) = self._link, self._past_bytes
        return NatsStatistics(
            messages_in=self._in,
            messages_out=self._out.number - self._out.words,
            bytes_in=past_in + (link.bytes_in if link else 0),
            bytes_out=past_out + (link.bytes_out if link else 0),
            reconnects=self._reconnects,
            requests=self._requests,
            no_responders=self._no_responders,
            timeouts=self._timeouts,
            late=self._late,
            overrun=self._overrun,
            errors=self._errors,
            unsent=self._unsent,
            too_large=self._too_large,
            subscriptions=len(self._subscriptions),
            queued_bytes=self._out.queued_bytes,
            waiting_requests=len(self._asked),
            links=len(self._links),
        )

    # -- publishing --------------------------------------------------------------------------------------------------

    @_protected
    async def publish(
        self, subject: str, data: bytes = b"", *, reply: str | None = None, headers: Headers | None = None
    ) -> None:
        """Publish a message; await it. It returns when the message is accepted for sending, in order.

        Whether somebody receives it is not known; that is NATS. Waits while ``max_queued_bytes`` are queued, also for
        the next connection while there is none. Cancelled before it was accepted, it is never sent. A point of
        cancellation always; lets other tasks have a turn at least every 16th time.

        Args:
            subject: Without wildcards.
            data: The payload.
            reply: The subject that answers are wanted on.
            headers: What travels beside the payload.

        Raises:
            TypeError, ValueError: What is no subject or no bytes; the text says why.
            MalformedMessageError: A header cannot travel.
            MessageTooLargeError: It is longer than the server's ``max_payload``; nothing was sent.
            NatsClosedError: The client is closed.
        """
        back = subject_bytes(reply, "reply") + b" " if reply else b""
        frame = self._frame(subject_bytes(subject), back, data, headers)
        out = self._out
        if out.takes_now():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await out.wait_for_room()
        if self._is_closed:
            self._check_open()
        out.put(frame, FLUSHED_FRAMES)

    @_protected
    def publish_nowait(
        self, subject: str, data: bytes = b"", *, reply: str | None = None, headers: Headers | None = None
    ) -> bool:
        """Publish a message now or never: it waits neither for room nor for the next connection.

        Arguments as `publish`.

        Returns:
            ``False`` where there is no connection, or ``max_queued_bytes`` are queued: it is not sent.

        Raises:
            TypeError, ValueError, MessageError: As `publish`.
            NatsClosedError: The client is closed.
        """
        frame = self._frame(
            subject_bytes(subject), subject_bytes(reply, "reply") + b" " if reply else b"", data, headers
        )
        self._check_open()
        if not self._out.has_room:
            return False
        self._out.put(frame, FLUSHED_FRAMES)
        return True

    @_protected
    async def respond(self, message: NatsMessage, data: bytes = b"", *, headers: Headers | None = None) -> None:
        """Publish the answer to a message that wants one. Waits and raises as `publish`.

        Raises:
            ValueError: The message wants no answer.
        """
        if not message.reply:
            raise ValueError(f"the message on {message.subject!r} wants no answer: it has no reply subject")
        frame = self._frame(subject_bytes(message.reply, "reply"), b"", data, headers)
        out = self._out
        if out.takes_now():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await out.wait_for_room()
        if self._is_closed:
            self._check_open()
        out.put(frame, out.answers_together())

    def _frame(self, subject: bytes, reply: bytes, data: bytes, headers: Headers | None) -> bytes:
        """The bytes of a message.

        Raises:
            TypeError, MalformedMessageError, MessageTooLargeError: As `publish`.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        if headers:
            block = encode_headers(headers)
            size = len(block) + len(data)
            frame = wire.hpub(subject, reply, block, data)
        else:
            size = len(data)
            frame = wire.pub(subject, reply, data)
        if size > self._info.max_payload:
            raise MessageTooLargeError(
                f"{size} bytes with headers; the server's max_payload is {self._info.max_payload}", outcome="not_sent"
            )
        return frame

    # -- requests ----------------------------------------------------------------------------------------------------

    @_protected
    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - for all requests one task keeps the time
        headers: Headers | None = None,
    ) -> NatsMessage:
        """Publish a message and return the first answer to it.

        Args:
            subject: Without wildcards.
            data: The payload.
            timeout: Seconds to wait, the wait for a connection included.
            headers: What travels beside the payload.

        Cancelled before it was written, it is never sent; after that it is sent whole, and its answer counts as late.

        Raises:
            NatsNoRespondersError: Nobody serves the subject; the outcome is ``"not_sent"``.
            NatsTimeoutError: No answer in `timeout` seconds; ``"not_sent"`` where there was no connection.
            NatsDisconnectedError: The connection broke after it was written: ``"sent"``.
            NatsPermissionError: The server does not allow the subject: ``"not_sent"``.
            NatsClosedError: The client is closed.
            TypeError, ValueError, MessageError: As `publish`.
        """
        checks.seconds("timeout", timeout)
        if not self._has_inbox:
            self._open_inbox()
        self._last_token += 1
        token = str(self._last_token)
        frame = self._frame(subject_bytes(subject), b"%b%b " % (self._inbox_bytes, token.encode()), data, headers)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            self._check_open()
        out, waiting = self._out, self._asked
        asked = _Asked(subject, trio.current_time() + timeout)
        lane = self._lanes.lane(timeout)
        waiting[token] = lane[token] = asked
        self._requests += 1
        try:
            if asked.due < self._lanes.asleep_until:
                self._lanes.wake()
            in_flight = len(waiting)
            asked.number = out.put(frame, min(in_flight >> 1, FLUSHED_FRAMES))
            reply: NatsMessage = await asked.park()
        except trio.Cancelled:
            out.withdraw(asked.number)
            raise
        finally:
            waiting.pop(token, None)
            lane.pop(token, None)
        if reply is SILENCE:
            raise self._timed_out(subject, timeout, asked)
        if reply.header_bytes and reply.says_no_responders:
            self._no_responders += 1
            raise NatsNoRespondersError(f"nobody serves {subject!r}", outcome="not_sent", attempts=1)
        return reply

    def _timed_out(self, subject: str, timeout: float, asked: _Asked) -> NatsTimeoutError:
        self._timeouts += 1
        if self._out.withdraw(asked.number):
            why = "there was no connection" if self._link is None else "the server took nothing in that time"
            return NatsTimeoutError(
                f"{subject!r} was not asked in {timeout:g} s: {why}", waited=timeout, outcome="not_sent"
            )
        return NatsTimeoutError(
            f"no answer from {subject!r} in {timeout:g} s: who serves it is slow, or sends no answers",
            waited=timeout,
            outcome="sent",
        )

    def _open_inbox(self) -> None:
        """Want the answers to all requests, by one subscription."""
        self._has_inbox = True
        self._out.say(wire.sub(self._inbox_bytes + b"*", b"", INBOX_SID))

    def new_inbox(self) -> str:
        """Return a subject that nobody else has, to subscribe to and to name as ``reply``."""
        return f"{self._options.inbox_prefix}.{secrets.token_hex(11)}"

    def _too_late(self, token: str, asked: _Asked) -> None:
        """The time of a request is over."""
        if self._asked.pop(token, None) is asked:
            asked.nudge()

    # -- subscribing -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        limit: int | None = None,
        max_pending_messages: int | None = None,
        max_pending_bytes: float | None = None,
    ) -> AsyncIterator[Subscription]:
        """``async with nats.subscribe(subject) as subscription``: the messages of a subject, while the block lasts.

        It is made again after each reconnect. Messages that are published while there is no connection are lost to it.
        It is on its way to the server when the block begins; ``await nats.flush()`` waits until the server has it.

        Args:
            subject: A subject; ``*`` stands for one token, ``>`` at the end for one or more.
            queue: A queue group: of all its members one gets each message.
            limit: End the subscription after so many messages.
            max_pending_messages: How many messages may wait in it; by default the client's. One more, and it ends with
                `NatsOverrunError`, alone.
            max_pending_bytes: The bytes of these, likewise.

        Raises:
            TypeError, ValueError: An argument that will not do; the text says why.
            NatsClosedError: The client is closed, or being drained.
        """
        options = self._options
        most = options.max_pending_messages if max_pending_messages is None else max_pending_messages
        most_bytes = options.max_pending_bytes if max_pending_bytes is None else max_pending_bytes
        checks.count("max_pending_messages", most)
        checks.number("max_pending_bytes", most_bytes, at_least=1, or_inf=True)
        if limit is not None:
            checks.count("limit", limit)
        pattern_bytes(subject)
        if queue is not None:
            queue_bytes(queue)
        subscription = self._subscribe(subject, queue or "", limit or 0, most, most_bytes)
        try:
            yield subscription
        finally:
            self.end_subscription(subscription)
            self.forget_subscription(subscription)
            subscription.forget()

    @_protected
    def _subscribe(
        self, subject: str, queue: str, limit: int, max_pending_messages: int, max_pending_bytes: float
    ) -> Subscription:
        self._check_open()
        if self._is_draining:
            raise NatsClosedError("this client is being drained, and takes no new subscriptions")
        self._last_sid += 1
        sid = self._last_sid
        made = Subscription(self, subject, queue, sid, limit, max_pending_messages, max_pending_bytes)
        self._subscriptions[sid] = made
        self._out.say(_word_for(made))
        return made

    @_protected
    def tap(self, subject: str, take: Callable[[NatsMessage], None]) -> Tap:
        """Have the messages of a subject given to a function as they come, until `Tap.close`.

        For thousands of subjects: each takes 300 bytes, and no task. It is made again after each reconnect. Never
        waits.

        Args:
            subject: A subject, which may have wildcards.
            take: A plain function. It is called in the reader's own step, so it must be quick. What it raises is
                logged.

        Raises:
            NatsClosedError: The client is closed, or being drained.
            TypeError, ValueError: An argument that will not do; the text says why.
        """
        pattern_bytes(subject)
        if not callable(take):
            raise TypeError(f"take must be a function, not {take!r}")
        self._check_open()
        if self._is_draining:
            raise NatsClosedError("this client is being drained, and takes no new subscriptions")
        self._last_sid += 1
        made = self._subscriptions[self._last_sid] = Tap(self, subject, self._last_sid, take)
        self._out.say(_word_for(made))
        return made

    def end_subscription(self, subscription: Subscription | Tap) -> None:
        """Tell the server that nothing more is wanted of a subscription; what is on its way still comes."""
        if self._subscriptions.get(subscription.sid) is not subscription:
            return
        self._end_at_server(subscription)
        if subscription.closed:
            del self._subscriptions[subscription.sid]

    def forget_subscription(self, subscription: Subscription | Tap) -> None:
        """Take nothing more for a subscription."""
        self._subscriptions.pop(subscription.sid, None)

    def _end_at_server(self, subscription: Subscription | Tap) -> None:
        if self._out.has_link:  # else the next link is not told of it
            self._out.put_word(wire.unsub(subscription.sid), FLUSHED_FRAMES)

    def note_overrun(self, subscription: Subscription) -> None:
        """Count a subscription that was ended since its reader was too slow."""
        self._subscriptions.pop(subscription.sid, None)
        self._overrun += 1
        log.warning("%r was ended: its reader is too slow", subscription, extra={"event_name": "subscription_overran"})

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
        self._check_open()
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
        self._check_open()
        if not self._has_inbox:
            self._open_inbox()
        self._takers[token] = take
        return f"{self._inbox}.{token}"

    def leave_inbox(self, token: str) -> None:
        """Want nothing more for that token."""
        self._takers.pop(token, None)

    def watch_link(self, link: Watched) -> None:
        """Tell a link when the connection breaks, and have it look after its other end."""
        self._links.add(link)

    def forget_link(self, link: Watched) -> None:
        """Do so no more."""
        self._links.remove(link)

    def note_link_overrun(self) -> None:
        """Count a link that was ended since its port was too slow."""
        self._overrun += 1

    # -- waiting for the server --------------------------------------------------------------------------------------

    @_protected
    async def flush(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - as everywhere in this package
        """Return when the server has done all that it was told: messages published, subscriptions made.

        Args:
            timeout: Seconds to wait, the wait for a connection included.

        Raises:
            NatsTimeoutError: It did not say so in `timeout` seconds.
            NatsDisconnectedError: The connection broke meanwhile.
            NatsClosedError: The client is closed.
        """
        checks.seconds("timeout", timeout)
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.move_on_after(timeout):
            while not self._out.has_link:
                self._check_open()
                await self._changed.wait()
            self._check_open()
            waiting = _Flushing()
            self._pongs.append(waiting)
            self._out.put_word(wire.PING)
            await waiting.park()
            return
        raise NatsTimeoutError(f"the server did not say that it is done in {timeout:g} s", waited=timeout)

    @_protected
    async def until_connected(self) -> None:
        """Return when there is a connection.

        Raises:
            NatsClosedError: There will be none any more.
        """
        await trio.lowlevel.checkpoint()
        while self._link is None:
            self._check_open()
            await self._changed.wait()

    @_protected
    async def until_disconnected(self) -> None:
        """Return when there is no connection, or the client is closed; at once where that is so."""
        await trio.lowlevel.checkpoint()
        while self._link is not None and not self._is_closed:
            await self._changed.wait()

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
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        checks.seconds("timeout", timeout)
        self._is_draining = True
        try:
            with trio.move_on_after(timeout):
                subscriptions = list(self._subscriptions.values())
                for subscription in subscriptions:
                    self._end_at_server(subscription)
                await self.flush(timeout=math.inf)
                for subscription in subscriptions:
                    subscription.end(None)
                for subscription in subscriptions:
                    await subscription.until_done()
                await self.flush(timeout=math.inf)
                return
            raise NatsTimeoutError(f"not drained in {timeout:g} s", waited=timeout)
        finally:
            await self.aclose()

    @_protected
    async def aclose(self) -> None:
        """Write what was accepted, ``grace`` seconds at most, and close the connection. Idempotent.

        Who waits for an answer gets `NatsClosedError`, subscriptions end.
        """
        if not self._is_closed:
            self._is_closed = True
            try:
                with trio.CancelScope(shield=True), trio.move_on_after(self._options.grace):
                    while self._link is not None and self._is_writing:
                        await trio.lowlevel.checkpoint()
                        if self._is_writing:
                            await trio.sleep(0.001)
            finally:
                self._scope.cancel()
        with trio.CancelScope(shield=True):  # what is left of it is the closing of a socket
            await self._finished.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    @property
    def _is_writing(self) -> bool:
        link = self._link
        return link is not None and (len(self._out) > 0 or self._out.is_writing or bool(link.rest))

    def _check_open(self) -> None:
        if self._is_closed or self._given_up is not None:
            raise self._closed_error()

    def _closed_error(self) -> NatsClosedError:
        if self._given_up is None:
            return NatsClosedError("this client is closed", outcome="not_sent")
        error = NatsClosedError(f"no server takes this client any more: {self._given_up.why}", outcome="not_sent")
        error.__cause__ = self._given_up
        return error

    # -- the connection ----------------------------------------------------------------------------------------------

    async def _first_link(self) -> Link:
        """Open the first connection: each server is tried once, in random order.

        Raises:
            NatsConnectError: None took this client.
        """
        errors: list[NatsConnectError] = []
        link = await self._try_round(self._pool.round(), errors)
        if link is None:
            raise _none_took(errors)
        return link

    async def _try_round(self, servers: Iterable[Server], errors: list[NatsConnectError]) -> Link | None:
        for server in servers:
            self._options.tell(NatsState("connecting", server.url))
            try:
                return await open_link(server, self._options, self._credentials)
            except NatsConnectError as error:
                errors.append(error)
        return None

    async def _run(self, link: Link, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection, and open the next when it breaks, until the client is closed or no server takes it."""
        try:
            with self._scope:
                async with open_quiet_nursery() as nursery:
                    nursery.start_soon(self._lanes.keep_time)
                    nursery.start_soon(self._links.keep, self._out)
                    while True:
                        self._stand(link)
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                        error = await self._use(link)
                        self._lose(link, error)
                        link = await self._reconnect(link.server)
                        self._reconnects += 1
        except NatsConnectError as error:
            self._given_up = error
            log.error("no server takes this client any more: %s", error.why, extra={"event_name": "servers_refused"})
        finally:
            self._is_closed = True
            self._end_all()
            self._finished.set()

    def _stand(self, link: Link) -> None:
        self._link = link
        self._pings_out = 0
        self._take_info(link.info)
        self._let_go_of_too_large(link)
        words = [_word_for(one) for one in self._subscriptions.values()]
        if self._has_inbox:  # first: who comes back by a door must not find what is served without the door
            words.insert(0, wire.sub(self._inbox_bytes + b"*", b"", INBOX_SID))
        self._out.attach(link, b"".join(words))
        self._options.tell(NatsState("open", link.server.url))
        self._tell_changed()

    def _let_go_of_too_large(self, link: Link) -> None:
        """What waits was checked against the servers before: each message that is too long for this one fails alone."""
        limit, dropped = link.info.max_payload, 0

        def revised(frame: bytes) -> bytes:
            nonlocal dropped
            kept, gone = wire.split(frame, limit)
            for reply, size in gone:
                self._too_large += 1
                dropped += not self._tell_too_large(reply, size, limit)
            return kept

        self._out.revise(revised)
        if dropped:
            log.warning(
                "%d messages that waited for a connection were let go: the max_payload of %s is %d",
                dropped,
                link.server.url,
                limit,
                extra={"event_name": "messages_too_large"},
            )

    def _tell_too_large(self, reply: str, size: int, limit: int) -> bool:
        """Tell who waits for the answer to a message that is not sent. Return False where nobody does."""
        token = reply.removeprefix(f"{self._inbox}.")
        text = f"{size} bytes with headers; the max_payload of the server that is connected to now is {limit}"
        asked = self._asked.pop(token, None)
        if asked is not None:
            asked.wake(Error(MessageTooLargeError(text, outcome="not_sent")))
            return True
        taker = self._takers.get(token.partition("-")[0])
        if taker is None:
            return False
        headers = {ERROR_HEADER: text, CODE_HEADER: "413", OWN_CODE_HEADER: "refused.too_large"}
        taker(wire.NatsMessage(reply, "", b"", encode_headers(headers), INBOX_SID))
        return True

    def _take_info(self, info: Info) -> None:
        assert self._link is not None
        self._link.info = self._info = info
        self._pool.learn(info.connect_urls, self._link.server)

    async def _use(self, link: Link) -> Exception:
        """Read, write and ping until the connection is of no further use; return why."""
        errors: list[Exception] = []

        async def run(task: Callable[[], Any]) -> None:
            try:
                await task()
            except (NatsError, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel) as error:
                errors.append(error)
                nursery.cancel_scope.cancel()

        try:
            async with open_quiet_nursery() as nursery:

                def leave() -> None:
                    nursery.start_soon(run, lambda: self._leave(link))

                async def read() -> None:
                    while True:
                        self._take(await link.read(), link, leave)

                nursery.start_soon(run, read)
                nursery.start_soon(run, lambda: self._out.run(link))
                nursery.start_soon(run, self._ping)
        finally:
            self._out.detach()
            await link.close()
        return errors[0]

    async def _ping(self) -> None:
        """See to it that the server is there."""
        while True:
            await trio.sleep(self._options.ping_interval)
            if not self._out.has_link:
                continue  # it is being left
            if self._pings_out >= MAX_PINGS_OUT:
                raise trio.BrokenResourceError(
                    f"the server has not answered {MAX_PINGS_OUT} pings in {self._options.ping_interval:g} s each"
                )
            self._pings_out += 1
            self._pongs.append(None)
            self._out.put_word(wire.PING)

    def _lose(self, link: Link, error: Exception) -> None:
        """The connection is over: who waits for what it should have brought hears of it at once."""
        why = f"the connection to {link.server.url} broke: {_why(error)}"
        log.debug("%s", why, extra={"event_name": "link_broke"})
        self._link = None
        came, went = self._past_bytes
        self._past_bytes = came + link.bytes_in, went + link.bytes_out
        self._options.tell(NatsState("broken", link.server.url, error))
        taken = self._out.taken
        for token, asked in list(self._asked.items()):
            if asked.number <= taken:
                del self._asked[token]
                asked.wake(Error(NatsDisconnectedError(why, outcome="sent", attempts=1)))
        while self._pongs:
            waiting = self._pongs.popleft()
            if waiting is not None:
                waiting.wake(Error(NatsDisconnectedError(why)))
        self._break_links(NatsDisconnectedError(why))
        self._tell_changed()

    def _break_links(self, error: NatsError) -> None:
        self._links.break_all(lambda: type(error)(error.why))

    async def _reconnect(self, last: Server) -> Link:
        """Try all servers, round after round, with waits between, until one takes this client.

        Raises:
            NatsConnectError: None did in ``max_rounds``, or all refused who it is `AUTH_ROUNDS` times.
        """
        options, rounds, refusals = self._options, 0, 0
        while True:
            errors: list[NatsConnectError] = []
            link = await self._try_round(self._pool.round(last), errors)
            if link is not None:
                return link
            rounds += 1
            refusals = refusals + 1 if all(isinstance(error, NatsAuthError) for error in errors) else 0
            if rounds >= options.max_rounds or refusals >= AUTH_ROUNDS:
                raise _none_took(errors)
            delay = options.waits.wait(rounds - 1, options.rng())
            options.tell(NatsState("waiting", error=errors[-1], delay=delay))
            await trio.sleep(delay)

    def _end_all(self) -> None:
        """The client is over."""
        taken = self._out.taken
        self._unsent += self._out.drop()
        link, self._link = self._link, None
        if link is not None:
            came, went = self._past_bytes
            self._past_bytes = came + link.bytes_in, went + link.bytes_out
        failed = self._given_up is not None
        for asked in self._asked.values():
            error = self._closed_error()
            error.outcome = _SENT if asked.number <= taken else _NOT_SENT
            asked.wake(Error(error))
        self._asked.clear()
        while self._pongs:
            waiting = self._pongs.popleft()
            if waiting is not None:
                waiting.wake(Error(self._closed_error()))
        for subscription in self._subscriptions.values():
            subscription.end(self._closed_error if failed else None)
        self._subscriptions.clear()
        self._break_links(self._closed_error())
        self._options.tell(NatsState("closed", error=self._given_up))
        self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- what comes, synchronous -------------------------------------------------------------------------------------

    @_protected
    def _take(self, words: list[Word], link: Link, leave: Callable[[], None]) -> None:
        self._out.burst = len(words)
        subscriptions = self._subscriptions
        for said in words:
            if type(said) is wire.NatsMessage:
                self._in += 1
                if said.sid == INBOX_SID:
                    self._answered(said)
                else:
                    subscription = subscriptions.get(said.sid)
                    if subscription is None:
                        self._late += 1
                    else:
                        subscription.deliver(said)
            elif type(said) is wire.Ping:
                if self._out.has_link:
                    self._out.say(wire.PONG)
                elif link.is_free:
                    link.write(wire.PONG)
                    self._out.rouse()
            elif type(said) is wire.Pong:
                self._pings_out = 0
                waiting = self._pongs.popleft() if self._pongs else None
                if waiting is not None:
                    waiting.wake(Handed(None))
            elif type(said) is wire.Info:
                self._take_info(said)
                if said.ldm and not link.left and len(self._pool) > 1:
                    link.left = True
                    leave()
            elif type(said) is wire.Failure:
                self._failed(said)

    def _answered(self, message: NatsMessage) -> None:
        token = message.subject[self._skipped :]
        asked = self._asked.pop(token, None)
        if asked is not None:
            asked.wake(Handed(message))
            return
        taker = self._takers.get(token) or self._takers.get(token.partition("-")[0])
        if taker is not None:
            taker(message)
            return
        self._late += 1
        if token.startswith("L") and message.reply and self._out.has_link:
            with suppress(ValueError):  # the other end of a link that is over here
                self._out.put_word(word("closed", subject_bytes(message.reply, "reply")))

    def _failed(self, failure: wire.Failure) -> None:
        """The server says that something is wrong.

        Raises:
            NatsError: It hangs up.
        """
        self._errors += 1
        text, small = failure.text, failure.text.lower()
        if small.startswith("permissions violation"):
            subject = _quoted(text)
            error = f"the server does not allow {subject!r} to this client ({text!r})"
            if "publish" in small:
                for token, asked in list(self._asked.items()):
                    if asked.subject == subject and asked.number <= self._out.taken:
                        del self._asked[token]
                        asked.wake(Error(NatsPermissionError(error, outcome="not_sent", attempts=1)))
            else:
                for one in [one for one in self._subscriptions.values() if one.subject == subject]:
                    del self._subscriptions[one.sid]
                    one.end(lambda: NatsPermissionError(error))
                if subject == f"{self._inbox}.*":
                    for asked in self._asked.values():
                        asked.wake(Error(NatsPermissionError(f"{error}; see inbox_prefix", outcome="sent", attempts=1)))
                    self._asked.clear()
                    self._has_inbox = False
            self._say_once(error)
        elif small.startswith("invalid"):
            self._say_once(f"the server says {text!r}")
        elif small.startswith(("authorization", "authentication", "user authentication", "account authentication")):
            raise NatsAuthError(f"the server says {text!r}")
        else:
            hint = ""
            if small.startswith("slow consumer"):
                hint = ": this program does not read as fast as messages come for it"
            raise NatsConnectError(f"the server says {text!r}{hint}")

    def _say_once(self, text: str) -> None:
        if text not in self._said and len(self._said) < 100:
            self._said.add(text)
            log.warning("%s", text, extra={"event_name": "server_error"})

    async def _leave(self, link: Link) -> None:
        """Move to another server: this one has said that it will go.

        What is put from now on waits for the next connection; here subscriptions end, and what is on its way comes.
        """
        self._options.tell(NatsState("lame_duck", link.server.url))
        await trio.sleep(LAME_DUCK_SPREAD * self._options.rng())
        with trio.move_on_after(LAME_DUCK_PATIENCE):
            for one in self._subscriptions.values():
                self._end_at_server(one)
            waiting = _Flushing()
            self._pongs.append(waiting)
            number = self._out.put_word(wire.PING)
            while self._out.taken < number:  # noqa: ASYNC110 - the writer has it in the next pass
                await trio.sleep(0.001)
            self._out.detach()
            if waiting.outcome is None:
                await waiting.park()
            while any(asked.number <= self._out.taken for asked in self._asked.values()):  # noqa: ASYNC110 - once
                await trio.sleep(0.01)
        raise NatsConnectError("it will go soon (lame duck mode), and this client moves to another server")


def _word_for(subscription: Subscription | Tap) -> bytes:
    """The words by which the server is told of a subscription."""
    queue = subscription.queue.encode()
    word = wire.sub(subscription.subject.encode(), queue, subscription.sid)
    left = subscription.left
    return word + wire.unsub(subscription.sid, left) if left else word


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytearray | memoryview | bytes):
        return bytes(data)
    hint = ": encode the text, data.encode()" if isinstance(data, str) else ""
    raise TypeError(f"data must be bytes, not {type(data).__name__}{hint}")


def _none_took(errors: list[NatsConnectError]) -> NatsConnectError:
    """One error for all servers of a round."""
    kind = NatsAuthError if all(isinstance(error, NatsAuthError) for error in errors) else NatsConnectError
    error = kind("no NATS server takes this client: " + "; ".join(one.why for one in errors), outcome="not_sent")
    error.__cause__ = errors[-1]
    return error


def _why(error: Exception) -> str:
    if isinstance(error, NatsError):
        return error.why
    if isinstance(error, trio.EndOfChannel):
        return "the server hung up"
    return str(error.__cause__ or error) or type(error).__name__


def _quoted(text: str) -> str:
    """The subject in an error of the server's."""
    parts = text.split('"')
    return parts[1] if len(parts) > 2 else ""


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
    nats = Nats(ServerPool(servers, checked.rng), checked, who)
    link = await nats._first_link()
    async with open_quiet_nursery() as nursery:
        try:
            await nursery.start(nats._run, link)
        except BaseException:
            await link.close()
            raise
        try:
            yield nats
        finally:
            await nats.aclose()
