"""A client of MQTT 5: messages, subscriptions, requests, and the sessions over it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, final

import trio

from psession import checks
from psession.brokers._channel import DEFAULT_KEEPALIVE
from psession.brokers._serving import DEFAULT_MAX_LINKS
from psession.brokers.mqtt._channel import Returning, open_channel
from psession.brokers.mqtt._connection import Connection
from psession.brokers.mqtt._errors import MqttTimeoutError
from psession.brokers.mqtt._messenger import Messenger
from psession.brokers.mqtt._options import MqttOptions, MqttStatistics
from psession.brokers.mqtt._requests import open_requests
from psession.brokers.mqtt._server import read_url
from psession.brokers.mqtt._serving import MqttServer
from psession.brokers.mqtt._topics import check_topic
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import TypeAlias, Unpack

    from psession.brokers._channel import Watched
    from psession.brokers._outgoing import Outgoing
    from psession.brokers.mqtt._channel import MqttChannel
    from psession.brokers.mqtt._flight import Flight
    from psession.brokers.mqtt._inbox import Inbox
    from psession.brokers.mqtt._message import MqttMessage
    from psession.brokers.mqtt._options import MqttSettings
    from psession.brokers.mqtt._requests import MqttRequestChannel
    from psession.channels.codecs import Codec, CodecName

    Properties: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

log = logging.getLogger("psession")
_protected = trio.lowlevel.enable_ki_protection

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds for a request: some round trips through a broker that restarts meanwhile."""


@final
class Mqtt(Messenger):
    """A client of MQTT 5; made by ``async with open_mqtt(url) as mqtt``.

    Any number of tasks of one Trio run may use it.
    """

    def __repr__(self) -> str:
        connection = self._connection
        state = "closed" if connection.is_closed else self.connected_url or "no connection"
        return f"<psession.brokers.mqtt.Mqtt, {state}>"

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def connected_url(self) -> str:
        """The broker that this client is connected to; ``""`` while it is not."""
        return self._connection.server.url if self._connection.has_link else ""

    @property
    def client_id(self) -> str:
        """The id that the broker knows this client by, the caller's or one that the broker gave."""
        return self._connection.client_id

    @property
    def session_present(self) -> bool:
        """True where the broker had kept this client's session when it last connected."""
        return self._connection.connack.session_present

    @property
    def max_payload(self) -> int:
        """The bytes that the broker takes in a packet, with topic, properties and payload."""
        return self._connection.max_packet_bytes

    @property
    def closed(self) -> bool:
        """True once there will be no more connections."""
        return self._connection.is_closed

    def statistics(self) -> MqttStatistics:
        """Return what was counted so far."""
        connection, flight, table = self._connection, self._flight, self._table
        came, went = connection.bytes_in_and_out
        return MqttStatistics(
            messages_in=connection.messages_in,
            messages_out=self._out.number - self._out.words,
            bytes_in=came,
            bytes_out=went,
            reconnects=connection.reconnects,
            requests=self._inbox.requests,
            no_subscribers=flight.no_subscribers,
            refused=flight.refused,
            sent_again=flight.sent_again,
            timeouts=self._inbox.timeouts,
            late=table.late + self._inbox.late,
            unclaimed=table.unclaimed,
            overrun=self._overrun,
            unsent=connection.unsent,
            too_large=connection.too_large,
            subscriptions=len(self._subscriptions),
            queued_bytes=self._out.queued_bytes,
            in_flight=len(flight),
            held=table.held,
            waiting_requests=self._inbox.waiting,
            links=len(connection.links),
        )

    # -- sessions ----------------------------------------------------------------------------------------------------

    def connect(
        self,
        topic: str,
        *,
        codec: Codec | CodecName = "json",
        qos: Literal[0, 1] = 1,
        max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        keepalive: float = DEFAULT_KEEPALIVE,
    ) -> AbstractAsyncContextManager[MqttChannel]:
        """``async with mqtt.connect(topic) as channel``: the channel of a port towards who serves that topic.

        Where several serve it in a group, one of them is at the other end of all that this channel carries, so all
        turns of a dialogue go to the same. The channel breaks where that process is gone, and where this client loses
        its connection; `reconnecting` opens the next, and `returning` goes back to the same process.

        Args:
            topic: Without wildcards.
            codec: ``"json"``, ``"msgpack"`` or a codec.
            qos: With 1 the broker says at once where the other end is gone; with 0 that is noticed by `keepalive`.
            max_message_bytes: How long an encoded message may be; what the broker takes holds as well.
            connect_timeout: Seconds to wait for the welcome.
            close_timeout: Seconds that closing may take.
            keepalive: Seconds of silence after which the channel asks whether the other end is there.

        Raises:
            MqttNoSubscribersError: Nobody serves the topic, said at once where the broker tells; ``"not_sent"``.
            MqttConnectError: Who serves it has no place for a link.
            MqttProtocolError: Who serves it speaks no psession.
            MqttTimeoutError: No welcome came in time.
            MqttRefusedError, MqttPermissionError: The broker refuses it, or the topic of answers.
            MqttClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        self._connection.check_open()
        return open_channel(
            self,
            topic,
            codec=codec,
            qos=qos,
            max_message_bytes=max_message_bytes,
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            keepalive=keepalive,
        )

    def returning(self, topic: str, **options: Any) -> Returning:
        """Return what opens links for `reconnecting`: each goes to the process that served the last, if that is there.

        So a port with ``resume_within`` finds its peer again in a group. Takes the options of `connect`.
        """
        return Returning(self, topic, options)

    async def serve(
        self,
        topic: str,
        handler: Callable[[MqttChannel], Awaitable[object]],
        *,
        shared: str | None = None,
        codec: Codec | CodecName = "json",
        qos: Literal[0, 1] = 1,
        max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        keepalive: float = DEFAULT_KEEPALIVE,
        max_links: int = DEFAULT_MAX_LINKS,
        task_status: trio.TaskStatus[MqttServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Call ``handler(channel)`` for each port that connects to a topic, in a task of its own, until cancelled.

        It returns when the client is drained or closed, and all its links are. When the handler returns, its channel
        is closed. A handler that raises is logged and closes its own; the others live on. A message on the topic that
        wants no link is answered with an error, if it wants an answer.

        Args:
            topic: What to serve, without wildcards.
            handler: Gets a `MqttChannel`.
            shared: A group: each that connects gets one of its members. Without one all that serve the topic are asked,
                and the first to say welcome is it.
            codec: ``"json"``, ``"msgpack"`` or a codec.
            qos: Of what this side sends.
            max_message_bytes: How long an encoded message may be.
            close_timeout: Seconds that closing a channel may take.
            keepalive: Seconds of silence after which a channel asks whether the other end is there.
            max_links: How many there may be at once; further ones are refused.
            task_status: Gets the `MqttServer` when it serves.

        Raises:
            MqttRefusedError, MqttPermissionError: The broker refuses the topic, or the group.
            MqttClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        check_topic(topic)
        options = {
            "codec": codec,
            "qos": qos,
            "max_message_bytes": max_message_bytes,
            "close_timeout": close_timeout,
            "keepalive": keepalive,
        }
        await MqttServer(self, topic, handler, max_links, options).run(shared, task_status)

    def requests(
        self,
        topic: str,
        *,
        serves: bool = False,
        shared: str | None = None,
        codec: Codec | CodecName = "json",
        qos: Literal[0, 1] = 1,
        max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    ) -> AbstractAsyncContextManager[MqttRequestChannel]:
        """``async with mqtt.requests(topic) as channel``: plain requests, to and from programs that know no psession.

        For a port with the dialect `psession.dialects.MqttRequests`. Each request goes to who has subscribed to the
        topic, to one member of a group each; with ``serves=True`` the port answers what is asked there. It lives on
        when the connection breaks: what was asked then fails as ``"disconnected"``.

        Args:
            topic: What is asked on; with `serves` it may have wildcards.
            serves: Answer, in place of asking.
            shared: A group of those that answer.
            codec: ``"json"``, ``"msgpack"`` or a codec; an empty payload is ``None``.
            qos: Of what this side sends.
            max_message_bytes: How long an encoded payload may be.
            close_timeout: Seconds that closing may take.

        Raises:
            MqttRefusedError, MqttPermissionError: The broker refuses a subscription.
            MqttClosedError: The client is closed.
            TypeError, ValueError: An argument will not do.
        """
        return open_requests(
            self,
            topic,
            serves=serves,
            shared=shared,
            codec=codec,
            qos=qos,
            max_message_bytes=max_message_bytes,
            close_timeout=close_timeout,
        )

    @property
    def inbox(self) -> Inbox:
        """The topics that answers come by: for the connection."""
        return self._inbox

    @property
    def outgoing(self) -> Outgoing:
        """The queue of what is written: for channels over this client."""
        return self._out

    @property
    def flight(self) -> Flight:
        """The messages of QoS 1 that are not acknowledged: for channels over this client."""
        return self._flight

    def take_inbox(self, token: str, take: Callable[[MqttMessage], None]) -> str:
        """Have what comes for a token of the inbox given to `take`; return the topic. For channels."""
        self._connection.check_open()
        return self._inbox.take(token, take)

    def leave_inbox(self, token: str) -> None:
        """Want nothing more for that token."""
        self._inbox.leave(token)

    def watch_link(self, link: Watched) -> None:
        """Tell a link when the connection breaks, and have it look after its other end."""
        self._connection.links.add(link)

    def forget_link(self, link: Watched) -> None:
        """Do so no more."""
        self._connection.links.remove(link)

    def note_link_overrun(self) -> None:
        """Count a link that was ended since its port was too slow."""
        self._overrun += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    @_protected
    async def until_connected(self) -> None:
        """Return when there is a connection.

        Raises:
            MqttClosedError: There will be none any more.
        """
        await self._connection.until_connected()

    @_protected
    async def drain(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - as everywhere in this package
        """Leave in good order: want no more messages, let those that came be received, write all answers, close.

        It waits until what came was received, each ``async for`` over a subscription has come back for more, and the
        broker has acknowledged what was sent with QoS 1. New subscriptions are refused from the beginning; publishing
        goes on until the end, for answers.

        Args:
            timeout: Seconds for all of it; after that the client is closed all the same.

        Raises:
            MqttTimeoutError: It was not done in `timeout` seconds; the client is closed.
        """
        if self._connection.is_closed:
            await trio.lowlevel.checkpoint()
            return
        checks.seconds("timeout", timeout)
        self._is_draining = True
        try:
            with trio.move_on_after(timeout):
                subscriptions = list(self._subscriptions.items())
                for _, wanted in subscriptions:
                    self._table.remove(wanted, stays=wanted.stays)
                await self._table.until_left()
                for subscription, _ in subscriptions:
                    subscription.end(None)
                for subscription, _ in subscriptions:
                    await subscription.until_done()
                await self._flight.until_landed()
                return
            raise MqttTimeoutError(f"not drained in {timeout:g} s", waited=timeout)
        finally:
            await self.aclose()

    @_protected
    async def aclose(self, *, with_will: bool = False) -> None:
        """Write what was accepted, ``grace`` seconds at most, say goodbye, close. Idempotent.

        Who waits for an answer gets `MqttClosedError`, subscriptions end.

        Args:
            with_will: Whether the broker shall publish the will, as it does where the connection breaks.
        """
        await self._connection.close(with_will=with_will)


@asynccontextmanager
async def open_mqtt(
    url: str = "mqtt://127.0.0.1:1883",
    *,
    client_id: str = "",
    user: str | None = None,
    password: str | bytes | None = None,
    **options: Unpack[MqttSettings],
) -> AsyncIterator[Mqtt]:
    """``async with open_mqtt("mqtt://127.0.0.1:1883") as mqtt``: a client of a broker of MQTT 5.

    The block begins when the broker has taken this client. When the connection breaks, it is tried again, with waits
    between that grow, until the broker takes it. Then what was accepted for sending and not written yet is written.
    Where the broker kept the session (``session_expiry``), messages of QoS 1 that it has not acknowledged are sent
    again, marked as duplicates; else they fail with `MqttDisconnectedError`, and subscriptions are made again.

    Leaving the block writes what was accepted, ``grace`` seconds at most, and says goodbye, which takes the will back.
    Left by an exception, cancelling included, the goodbye asks for the will. Cancelled while connecting, nothing is
    left open. What the body raises comes out bare.

    Args:
        url: ``mqtt://host:1883``, ``mqtts://host:8883``, with ``user:password@`` where that is wanted.
        client_id: What the broker knows this client by, one at a time; ``""``: it gives one.
        user: The user's name.
        password: Its password.
        options: `MqttSettings` says what they mean.

    Raises:
        MqttAuthError: The broker refuses who this client says it is.
        MqttConnectError: The broker does not take this client; the text says why.
        TypeError, ValueError: An argument will not do; the text says why, and never has a secret in it.
    """
    checked = MqttOptions(client_id=client_id, user=user, password=password, **options)
    connection = Connection(read_url(url), checked)
    await connection.open()
    mqtt = Mqtt(connection, checked)
    async with open_quiet_nursery() as nursery:
        try:
            await nursery.start(connection.run, mqtt.inbox)
        except BaseException:
            await connection.abandon()
            raise
        try:
            yield mqtt
        except BaseException:
            with trio.CancelScope(shield=True):
                await mqtt.aclose(with_will=True)
            raise
        await mqtt.aclose()
