"""The connection of a client: opened, used until it breaks, opened again."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import mqtt5
import trio

from psession.brokers._connection import BrokerConnection, LinkTasks
from psession.brokers._outgoing import Outgoing
from psession.brokers.mqtt import _packets as packets
from psession.brokers.mqtt._errors import (
    MqttAuthError,
    MqttClosedError,
    MqttConnectError,
    MqttDisconnectedError,
    MqttError,
    MqttProtocolError,
)
from psession.brokers.mqtt._flight import Flight, Ids
from psession.brokers.mqtt._link import FINAL_CODES, open_link, refusal, why
from psession.brokers.mqtt._options import MqttState
from psession.brokers.mqtt._table import Table
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from mqtt5 import ConnAckPacket, Packet

    from psession.brokers.mqtt._inbox import Asked, Inbox
    from psession.brokers.mqtt._link import Link
    from psession.brokers.mqtt._options import MqttOptions
    from psession.brokers.mqtt._server import Server

log = logging.getLogger("psession")
_protected = trio.lowlevel.enable_ki_protection

AUTH_TRIES: Final = 2
"""Tries in a row in which the broker refuses who this client is before it gives up: one may meet a reload."""

STEADY_SECONDS: Final = 60.0
"""Seconds that a connection has to last for the next try to come at once when it breaks. A broker that throws out a
client for another of the same id may do so without a word (mosquitto 2.0): then the two meet as seldom as the waits
say."""

UNSTEADY_BREAKS: Final = 5
"""Connections in a row that broke sooner, after which the log says what may be wrong."""

_RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
_MALFORMED: Final = 0x81


class Connection(BrokerConnection["Link"]):
    """One connection at a time, and what outlasts it: what is queued, in flight, subscribed.

    Attributes:
        flight: The messages of QoS 1 that are not acknowledged.
        table: The topic filters that are subscribed to.
        connack: What the broker said of itself last.
        client_id: The id of this client, the broker's own choice where the caller had none.
        given_up: Why the broker takes this client no more.
        messages_in: Messages that came.
        server: The broker.
    """

    is_closed: bool
    reconnects: int
    unsent: int
    too_large: int

    def __init__(self, server: Server, options: MqttOptions) -> None:
        super().__init__(Outgoing(options.max_queued_bytes, packets.is_message, packets.is_word), options.grace)
        ids = Ids()
        self.flight: Flight = Flight(self.out, ids, options.max_in_flight)
        self.table: Table = Table(self.out, ids, max(1, options.receive_maximum // 2))
        self.connack: ConnAckPacket = mqtt5.ConnAckPacket()
        self.client_id: str = options.client_id
        self.given_up: MqttConnectError | None = None
        self.messages_in: int = 0
        self.server: Server = server
        self._options = options
        self._early: list[Packet] = []
        self._unacknowledged = 0
        self._pings_out = 0
        self._said_unclaimed = False
        self._asks_for_will = False
        self._inbox: Inbox | None = None

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def max_packet_bytes(self) -> int:
        """The longest packet that the broker takes."""
        return self.connack.max_packet_size or packets.MAX_PACKET_BYTES

    def check_open(self) -> None:
        """Refuse what needs a client that lives.

        Raises:
            MqttClosedError: There will be no more connections.
        """
        if self.is_closed or self.given_up is not None:
            raise self.closed_error()

    def closed_error(self) -> MqttClosedError:
        """Return the error of a client that is over."""
        if self.given_up is None:
            return MqttClosedError("this client is closed", outcome="not_sent")
        text = f"the broker takes this client no more: {self.given_up.why}"
        error = MqttClosedError(text, code=self.given_up.code, outcome="not_sent")
        error.__cause__ = self.given_up
        return error

    # -- its life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the first connection, by one try.

        Raises:
            MqttConnectError: The broker did not take this client.
        """
        options = self._options
        options.tell(MqttState("connecting"))
        self._link, self._early = await open_link(self.server, options, self.client_id, clean_start=options.clean_start)
        self.table.keeps = self._link.connack.session_present

    async def abandon(self) -> None:
        """Close the first connection, which is not used."""
        if self._link is not None:
            await self._link.close()

    async def run(self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection, and open the next when it breaks, until the client is closed or the broker refuses it.

        Args:
            inbox: What answers come by.
            task_status: Started when the first connection is used.
        """
        self._inbox = inbox
        link = self._link
        assert link is not None
        failures = 0
        try:
            with self._scope:
                async with open_quiet_nursery() as nursery:
                    nursery.start_soon(inbox.lanes.keep_time)
                    nursery.start_soon(self.links.keep, self.out)
                    while True:
                        self._stand(link)
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                        began = trio.current_time()
                        error = await self._use(link)
                        self._lose(link, error)
                        if isinstance(error, MqttConnectError) and error.code in FINAL_CODES:
                            raise error
                        failures = failures + 1 if trio.current_time() - began < STEADY_SECONDS else 0
                        if failures == UNSTEADY_BREAKS:
                            log.warning(
                                "the connection to %s breaks again and again soon after it was made (%s); does another "
                                "client have the client id %r?",
                                self.server.url,
                                why(error),
                                self.client_id,
                                extra={"event_name": "connection_unsteady"},
                            )
                        link = await self._reconnect(failures, error)
                        self.reconnects += 1
        except MqttConnectError as error:
            self.given_up = error
            log.error("the broker takes this client no more: %s", error.why, extra={"event_name": "broker_refused"})
        finally:
            self.is_closed = True
            self._end_all(inbox)
            self._finished.set()

    async def close(self, *, with_will: bool = False) -> None:
        """Write what was accepted, say goodbye, end. Idempotent.

        Args:
            with_will: Whether the broker shall publish the will.
        """
        if not self.is_closed:
            self._asks_for_will = with_will
        await super().close()

    async def _until_written(self) -> None:
        await super()._until_written()
        if self.out.has_link:
            self.out.put_word(_goodbye(with_will=self._asks_for_will))
            await super()._until_written()

    def _stand(self, link: Link) -> None:
        connack = link.connack
        self._link = link
        self._pings_out = self._unacknowledged = 0
        self.connack = connack
        self.client_id = connack.assigned_client_id or self.client_id
        inbox, limit = self._inbox, self.max_packet_bytes
        assert inbox is not None
        self._let_go_of_too_large(
            lambda frame: packets.split(frame, limit),
            lambda packet: inbox.let_go(packet, limit),
            f"the broker takes packets of {limit} bytes at most",
        )
        self.out.attach(link, self.table.stand(connack))
        self.flight.stand(connack.receive_max, self.max_packet_bytes, session_present=connack.session_present)
        self._options.tell(MqttState("open", session_present=connack.session_present))
        self._tell_changed()

    async def _use(self, link: Link) -> Exception:
        """Read, write and ping until the connection is of no further use; return why."""

        async def read() -> None:
            early, self._early = self._early, []
            self._take(early)
            while True:
                self._take(await link.read())

        tasks: LinkTasks | None = None
        try:
            async with open_quiet_nursery() as nursery:
                tasks = LinkTasks(nursery, MqttError)
                tasks.start(read)
                tasks.start(partial(self.out.run, link))
                tasks.start(self._ping)
        finally:
            self.out.detach()
            error = tasks.error if tasks is not None else None
            if isinstance(error, MqttProtocolError) and link.is_free:
                code = mqtt5.DisconnectReasonCode(error.code or _MALFORMED)
                link.write(mqtt5.DisconnectPacket(reason_code=code).write())
            await link.close()
        assert error is not None
        return error

    async def _ping(self) -> None:
        """See to it that the broker is there, and that it hears of this client."""
        wished = self.connack.server_keep_alive
        keepalive = self._options.keepalive if wished is None else wished
        while keepalive:
            await trio.sleep(keepalive / 2)
            if self._pings_out:
                raise trio.BrokenResourceError(f"the broker has not answered in {keepalive / 2:g} s: it is gone")
            self._pings_out = 1
            self.out.say(packets.PINGREQ)
        await trio.sleep_forever()

    def _lose(self, link: Link, error: Exception) -> None:
        """The connection is over: who waits for what it should have brought hears of it at once."""
        text = f"the connection to {self.server.url} broke: {why(error)}"
        log.debug("%s", text, extra={"event_name": "link_broke"})
        code = error.code if isinstance(error, MqttError) else 0
        self._let_go()
        self.flight.lose()
        self.table.lose()
        self._options.tell(MqttState("broken", error))
        self.links.break_all(lambda: MqttDisconnectedError(text, code=code))
        if not self._options.session_expiry:
            self._fail_written(text, code)
        self._tell_changed()

    def _fail_written(self, text: str, code: int) -> None:
        """Requests whose answers the broker does not keep for this client get none."""
        assert self._inbox is not None
        taken = self.out.taken

        def error(asked: Asked) -> MqttError | None:
            if not asked.was_written(self.flight, taken):
                return None
            return MqttDisconnectedError(text, code=code, outcome="sent", attempts=1)

        self._inbox.fail_all(error)

    async def _reconnect(self, failures: int, error: Exception) -> Link:
        """Try again and again, with waits between, until the broker takes this client.

        Args:
            failures: Connections in a row that broke soon: so many waits are behind.
            error: What broke the last one.

        Raises:
            MqttConnectError: It did not in ``max_tries``, or refuses for good.
        """
        options, tries, refusals = self._options, 0, 0
        while True:
            if failures or tries:
                delay = options.waits.wait(failures + tries - 1, options.rng())
                options.tell(MqttState("waiting", error, delay))
                await trio.sleep(delay)
            options.tell(MqttState("connecting"))
            try:
                link, self._early = await open_link(
                    self.server, options, self.client_id, clean_start=not options.session_expiry
                )
            except MqttConnectError as caught:
                error = caught
                tries += 1
                refusals = refusals + 1 if isinstance(caught, MqttAuthError) else 0
                if tries >= options.max_tries or refusals >= AUTH_TRIES or caught.code in FINAL_CODES:
                    raise
            else:
                if not link.connack.session_present and options.session_expiry:
                    self._fail_written("the broker has not kept this client's session, nor the answer", 0)
                return link

    def _end_all(self, inbox: Inbox) -> None:
        """The client is over."""
        self._let_go()
        taken = self.out.taken

        def error(asked: Asked) -> MqttError:
            made = self.closed_error()
            made.outcome = "sent" if asked.was_written(self.flight, taken) else "not_sent"
            return made

        inbox.fail_all(error)
        self.flight.end(self.closed_error)
        self.unsent += self.out.drop()
        self.table.end(self.closed_error, failed=self.given_up is not None)
        self.links.break_all(self.closed_error)
        self._options.tell(MqttState("closed", self.given_up))
        self._tell_changed()

    # -- what comes, synchronous -------------------------------------------------------------------------------------

    @_protected
    def _take(self, came: list[Packet]) -> None:
        """Take the packets of one read; what they have to be told goes with the next write.

        Raises:
            MqttError: The broker hangs up, or breaks the rules.
        """
        out, table = self.out, self.table
        out.burst = len(came)
        self._pings_out = 0
        acks: list[bytes] = []
        for packet in came:
            if type(packet) is mqtt5.PublishPacket:
                self.messages_in += 1
                if packet.topic_alias is not None:
                    raise MqttProtocolError("a topic alias, where none was offered", code=0x94)
                if table.route(packet) and packet.packet_id is not None:
                    acks.append(packets.puback(packet.packet_id))
            elif type(packet) is mqtt5.PubAckPacket:
                self.flight.acknowledged(packet)
            elif type(packet) is mqtt5.SubAckPacket:
                table.granted(packet)
            elif type(packet) is mqtt5.UnsubAckPacket:
                table.ended(packet)
            elif type(packet) is mqtt5.DisconnectPacket:
                raise refusal(packet)
            elif type(packet) is not mqtt5.PingRespPacket:
                raise MqttProtocolError(f"a {type(packet).__name__} that no client gets then", code=0x82)
        if table.held:
            acks += [packets.puback(packet_id) for packet_id in table.overfull()]
            if table.unclaimed and not self._said_unclaimed:
                self._said_unclaimed = True
                log.warning(
                    "messages of an earlier time were let go, since nobody subscribes for them",
                    extra={"event_name": "messages_unclaimed"},
                )
        if acks:
            self._acknowledge(acks)

    def _acknowledge(self, acks: list[bytes]) -> None:
        if not self.out.has_words:
            self._unacknowledged = 0
        self._unacknowledged += len(acks)
        if self._unacknowledged + self.table.held > self._options.receive_maximum:
            raise MqttProtocolError(
                f"more than {self._options.receive_maximum} messages before this side has acknowledged the first",
                code=_RECEIVE_MAXIMUM_EXCEEDED,
            )
        self.out.say(b"".join(acks))


def _goodbye(*, with_will: bool) -> bytes:
    codes = mqtt5.DisconnectReasonCode
    code = codes.DISCONNECT_WITH_WILL_MESSAGE if with_will else codes.NORMAL_DISCONNECTION
    return mqtt5.DisconnectPacket(reason_code=code).write()
