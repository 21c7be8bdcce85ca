"""What a client of MQTT does with messages beside publishing: subscribe, ask, answer."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal

import trio

from psession import checks
from psession.brokers._subscription import checked_limits
from psession.brokers.mqtt._errors import MqttClosedError
from psession.brokers.mqtt._inbox import Inbox
from psession.brokers.mqtt._publishing import Publisher
from psession.brokers.mqtt._subscription import MqttSubscription
from psession.brokers.mqtt._table import Wanted
from psession.brokers.mqtt._topics import check_topic
from psession.shell.waiting import SILENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psession.brokers.mqtt._connection import Connection
    from psession.brokers.mqtt._message import MqttMessage
    from psession.brokers.mqtt._options import MqttOptions
    from psession.brokers.mqtt._publishing import Properties
    from psession.brokers.mqtt._table import RetainHandling

log = logging.getLogger("psession")
_protected = trio.lowlevel.enable_ki_protection

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds for a request: some round trips through a broker that restarts meanwhile."""


class Messenger(Publisher):
    """The part of `Mqtt` that is about messages."""

    def __init__(self, connection: Connection, options: MqttOptions) -> None:
        super().__init__(connection)
        self._options = options
        self._table = connection.table
        self._inbox = Inbox(options.inbox_prefix, connection.out, connection.flight)
        self._overrun = 0
        self._is_draining = False
        self._subscriptions: dict[MqttSubscription, Wanted] = {}

    # -- requests ----------------------------------------------------------------------------------------------------

    @_protected
    async def request(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - for all requests one task keeps the time
        qos: Literal[0, 1] = 1,
        content_type: str | None = None,
        user_properties: Properties = (),
    ) -> MqttMessage:
        """Publish a message with a Response Topic and return the first answer that carries its Correlation Data.

        Args:
            topic: Without wildcards.
            payload: The data.
            timeout: Seconds to wait, the wait for a connection and for a place among those in flight included.
            qos: With 1 the broker says where nobody is there, and tells of what it refuses; 0 costs half as much.
            content_type: What the payload is.
            user_properties: Names and texts that travel beside the payload.

        Cancelled before it was written, it is never sent; after that it is sent whole, and its answer counts as late.

        Raises:
            MqttNoSubscribersError: Nobody has subscribed to the topic, where the broker tells; ``"not_sent"``.
            MqttTimeoutError: No answer in `timeout` seconds; ``"not_sent"`` where it was never written.
            MqttDisconnectedError: The connection broke after it was written, and there is no session that the answer
                could come by: ``"sent"``.
            MqttRefusedError, MqttPermissionError: The broker refuses it, or the topic of answers: ``"not_sent"``.
            MqttClosedError: The client is closed.
            TypeError, ValueError, MessageError: As `publish`.
        """
        checks.seconds("timeout", timeout)
        check_topic(topic)
        inbox = self._inbox
        id = inbox.next_id()
        frame = self.frame(
            topic,
            payload,
            qos,
            response_topic=inbox.reply_topic,
            correlation_data=id,
            content_type=content_type,
            user_properties=user_properties,
        )
        due = trio.current_time() + timeout
        inbox.requests += 1
        if inbox.wanted.is_granted and (self._flight.is_free or not qos):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._connection.check_open()
        else:
            await self._until_ready(due, qos, topic, timeout)
            self.check_size(frame)
        asked = inbox.ask(id, topic, frame, qos, due, timeout)
        try:
            answer: MqttMessage = await asked.park()
        except trio.Cancelled:
            inbox.take_back(asked)
            raise
        finally:
            inbox.forget(asked)
        if answer is SILENCE:
            raise inbox.timed_out(asked, timeout)
        return answer

    async def _until_ready(self, due: float, qos: int, topic: str, timeout: float) -> None:  # noqa: ASYNC109 - its text
        """Wait for the topic of answers, and for a place among those in flight.

        Raises:
            MqttTimeoutError: It is too late.
        """
        with trio.move_on_at(due):
            await self.open_inbox()
            if qos:
                await self.wait_for_place()
            return
        raise self._inbox.not_asked(topic, timeout)

    @_protected
    async def respond(
        self,
        message: MqttMessage,
        payload: bytes = b"",
        *,
        qos: Literal[0, 1] = 0,
        content_type: str | None = None,
        user_properties: Properties = (),
    ) -> bool:
        """Publish the answer to a message that wants one, with its Correlation Data. As `publish`.

        Raises:
            ValueError: The message wants no answer, or on a topic that is none.
        """
        if message.response_topic is None:
            raise ValueError(f"the message on {message.topic!r} wants no answer: it has no response topic")
        check_topic(message.response_topic, "response topic")
        frame = self.frame(
            message.response_topic,
            payload,
            qos,
            correlation_data=message.correlation_data,
            content_type=content_type,
            user_properties=user_properties,
        )
        if qos:
            return await self._publish_surely(frame)
        await self._put(frame, self._out.answers_together())
        return True

    # -- subscribing -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self,
        filter: str,
        *,
        qos: Literal[0, 1] = 1,
        shared: str | None = None,
        limit: int | None = None,
        no_local: bool = False,
        retain_handling: RetainHandling = "always",
        retain_as_published: bool = False,
        durable: bool = False,
        max_pending_messages: int | None = None,
        max_pending_bytes: float | None = None,
    ) -> AsyncIterator[MqttSubscription]:
        """``async with mqtt.subscribe(filter) as subscription``: what is published to the topics of a filter.

        The block begins when the broker has subscribed this client. Where the broker loses the session, it is made
        again. A message of QoS 1 is acknowledged when it is in the subscription's queue, not when it was received
        there: it is lost with this process, and comes again after a break (`MqttMessage.duplicate`).

        Args:
            filter: A topic; ``+`` stands for one level, ``#`` at the end for all that follow. One that this client has
                already is refused: several tasks may receive from one subscription.
            qos: Messages come with this QoS at most.
            shared: A group: of all its members one gets each message.
            limit: End the subscription after so many messages.
            no_local: Whether this client's own messages stay away; not with `shared`.
            retain_handling: Messages that the broker kept come ``"always"``, where the subscription is ``"new"`` to the
                broker, or ``"never"``.
            retain_as_published: Whether `MqttMessage.retain` is as the publisher had it, in place of "an old one".
            durable: Whether the broker keeps the subscription when the block is left, and what comes for it, as long as
                the session lasts (``session_expiry``). Who subscribes to the filter again has it all.
            max_pending_messages: How many messages may wait in it; by default the client's. One more, and it ends with
                `MqttOverrunError`, alone.
            max_pending_bytes: The bytes of these, likewise.

        Raises:
            TypeError, ValueError: An argument that will not do; the text says why.
            MqttRefusedError, MqttPermissionError: The broker refuses it, or has no such subscriptions.
            MqttClosedError: The client is closed, or being drained.
        """
        limits = checked_limits(self._options, limit, max_pending_messages, max_pending_bytes)
        checks.flag("durable", durable)
        if durable and not self._options.session_expiry:
            raise ValueError("a durable subscription lasts as long as the session: give open_mqtt a session_expiry")
        made = MqttSubscription(self, filter, shared or "", *limits)
        wanted = Wanted(
            filter,
            shared,
            qos,
            made.deliver,
            made.end,
            stays=durable,
            no_local=no_local,
            retain_handling=retain_handling,
            retain_as_published=retain_as_published,
        )
        try:
            made.qos = await self._subscribe(made, wanted)
            yield made
        finally:
            self._subscriptions.pop(made, None)
            self._table.remove(wanted, stays=durable)
            made.forget()

    @_protected
    async def _subscribe(self, made: MqttSubscription, wanted: Wanted) -> int:
        self._connection.check_open()
        if self._is_draining:
            raise MqttClosedError("this client is being drained, and takes no new subscriptions")
        self._table.check(wanted)
        self._subscriptions[made] = wanted
        acks = self._table.add(wanted)
        if acks:
            self._out.say(acks)
        return int(await wanted.park())

    def end_subscription(self, subscription: MqttSubscription) -> None:
        """Want nothing more for it, and tell the broker. For subscriptions."""
        wanted = self._subscriptions.get(subscription)
        if wanted is not None:
            self._table.remove(wanted, stays=False)

    def note_overrun(self, subscription: MqttSubscription) -> None:
        """Count a subscription that was ended since its reader was too slow. For subscriptions."""
        self._overrun += 1
        log.warning("%r was ended: its reader is too slow", subscription, extra={"event_name": "subscription_overran"})

    # -- answers -----------------------------------------------------------------------------------------------------

    @_protected
    async def open_inbox(self) -> None:
        """Have the answers come, by one subscription; return when the broker has it. For channels.

        Raises:
            MqttRefusedError, MqttPermissionError: The broker refuses it; ``inbox_prefix`` may help.
            MqttClosedError: The client is closed.
        """
        await self._inbox.open(self._table, self._connection.check_open)
