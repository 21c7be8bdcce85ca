"""The topic filters that a client has subscribed to, and which of them a message is for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from zlib import crc32

import mqtt5
import trio
from outcome import Error

from psession import checks
from psession.brokers.mqtt import _packets as packets
from psession.brokers.mqtt._errors import MqttError, MqttPermissionError, MqttRefusedError
from psession.brokers.mqtt._message import MqttMessage
from psession.brokers.mqtt._topics import SHARED, check_filter, check_group, has_wildcard, matches
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mqtt5 import ConnAckPacket, PublishPacket, SubAckPacket, UnsubAckPacket

    from psession.brokers._outgoing import Outgoing
    from psession.brokers.mqtt._flight import Ids
    from psession.shell.waiting import Delivery

MAX_SHORT_ID: Final = 127
"""Subscription identifiers of one byte, which are read fastest, as long as there are some."""

MAX_ID: Final = 268_435_455

MAX_SEEN: Final = 1024
"""Topics that a filter with wildcards remembers as its own."""

MAX_HELD_BYTES: Final = 16 * 1024 * 1024
"""The bytes of messages that wait for somebody to subscribe: one packet of full size."""

RetainHandling: TypeAlias = Literal["always", "new", "never"]
"""When messages that the broker kept come to a subscription."""

_RETAIN_HANDLING: Final = {
    "always": mqtt5.RetainHandling.SEND_ALWAYS,
    "new": mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
    "never": mqtt5.RetainHandling.SEND_NEVER,
}


class Wanted(Waiter):
    """A topic filter that is subscribed to, and the task that waits until the broker says so.

    Attributes:
        name: The filter with its group, by which the broker knows it.
        take: Called with each message.
        failed: Called where the broker refuses it after a reconnect.
        stays: True where the broker is to keep it when nobody here wants it any more.

    Raises:
        TypeError, ValueError: An argument that will not do; the text says why.
    """

    __slots__ = (
        "failed",
        "filter",
        "id",
        "is_granted",
        "is_wild",
        "name",
        "options",
        "outcome",
        "packet_id",
        "seen",
        "stays",
        "take",
        "task",
    )

    def __init__(
        self,
        filter: str,
        shared: str | None,
        qos: int,
        take: Callable[[MqttMessage], None],
        failed: Callable[[Callable[[], MqttError]], None],
        *,
        stays: bool = False,
        no_local: bool = False,
        retain_handling: RetainHandling = "always",
        retain_as_published: bool = False,
    ) -> None:
        check_filter(filter)
        if shared is not None:
            check_group(shared)
            if no_local:
                raise ValueError("no_local cannot be with shared (MQTT 5, 3.8.3.1): give one of them")
        checks.one_of("retain_handling", retain_handling, RetainHandling)
        checks.flag("no_local", no_local)
        checks.flag("retain_as_published", retain_as_published)
        if qos not in (0, 1):
            raise ValueError(f"qos must be 0 or 1, not {qos!r}")
        self.filter: str = filter
        self.name: str = f"{SHARED}{shared}/{filter}" if shared else filter
        self.take: Callable[[MqttMessage], None] = take
        self.failed: Callable[[Callable[[], MqttError]], None] = failed
        self.stays: bool = stays
        self.options: mqtt5.TopicFilter = mqtt5.TopicFilter(
            self.name,
            max_qos=packets.QOS[qos],
            no_local=no_local,
            retain_as_published=retain_as_published,
            retain_handling=_RETAIN_HANDLING[retain_handling],
        )
        self.id: int = 0
        self.packet_id: int = 0
        self.is_granted: bool = False
        self.is_wild: bool = has_wildcard(filter)
        self.seen: set[str] = set()
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None

    def is_for(self, topic: str) -> bool:
        """Return True for a topic that the filter stands for."""
        if not self.is_wild:
            return topic == self.filter
        if topic in self.seen:
            return True
        if not matches(self.filter, topic):
            return False
        if len(self.seen) >= MAX_SEEN:
            self.seen.clear()
        self.seen.add(topic)
        return True


class Table:
    """All filters of a client, over all its links; and messages of an earlier time that none of them is for yet.

    Attributes:
        late: Messages that no subscription wants any more.
        unclaimed: Messages of an earlier time that nobody has subscribed for, so that they were let go.
        keeps: True where messages of an earlier time may come, or for subscriptions that outlast their block.
    """

    def __init__(self, out: Outgoing, ids: Ids, max_held: int) -> None:
        self.late: int = 0
        self.unclaimed: int = 0
        self.keeps: bool = False
        self._out = out
        self._ids = ids
        self._max_held = max_held
        self._wanted: dict[str, Wanted] = {}
        self._by_id: dict[int, Wanted] = {}
        self._asked: dict[int, Wanted] = {}
        self._left: dict[str, int] = {}
        self._left_ids: dict[int, int] = {}
        self._held: deque[tuple[MqttMessage, int]] = deque()
        self._held_bytes = 0
        self._connack: ConnAckPacket | None = None
        self._all_left = trio.Event()

    def __len__(self) -> int:
        return len(self._wanted)

    @property
    def held(self) -> int:
        """The number of messages that wait for somebody to subscribe."""
        return len(self._held)

    # -- subscribing -------------------------------------------------------------------------------------------------

    def check(self, wanted: Wanted) -> None:
        """Refuse what this client has already, or the broker said that it does not offer.

        Raises:
            ValueError: The filter is subscribed to.
            MqttRefusedError: The broker has no wildcards, or no shared subscriptions.
        """
        if wanted.name in self._wanted:
            raise ValueError(
                f"this client has subscribed to {wanted.name!r} already: receive from that subscription in several "
                "tasks, or open another client"
            )
        said = self._connack
        if said is None:
            return
        if wanted.is_wild and not said.wildcard_subscription_available:
            raise MqttRefusedError(f"the broker has no wildcards, as in {wanted.filter!r}", code=0xA2)
        if wanted.name != wanted.filter and not said.shared_subscription_available:
            raise MqttRefusedError(f"the broker has no shared subscriptions, as {wanted.name!r}", code=0x9E)

    def add(self, wanted: Wanted) -> bytes:
        """Want a filter. Return the acknowledgements of messages that had waited for it."""
        wanted.id = self._new_id(wanted.name)
        self._wanted[wanted.name] = self._by_id[wanted.id] = wanted
        if self._out.has_link:
            self._out.say(self._subscribe(wanted))
        return self._claim(wanted)

    def remove(self, wanted: Wanted, *, stays: bool) -> None:
        """Want it no more; where it `stays`, the broker is not told, and keeps what comes for it."""
        if self._wanted.get(wanted.name) is not wanted:
            return
        del self._wanted[wanted.name], self._by_id[wanted.id]
        if stays:
            self.keeps = True
            return
        self._left[wanted.name] = wanted.id
        if self._out.has_link:
            self._out.say(self._unsubscribe(wanted.name, wanted.id))

    def granted(self, packet: SubAckPacket) -> None:
        """The broker has subscribed this client, or says why not."""
        wanted = self._asked.pop(packet.packet_id, None)
        if wanted is None:
            return
        self._ids.give_back(packet.packet_id)
        wanted.packet_id = 0
        code = int(packet.reason_codes[0]) if packet.reason_codes else 0x80
        if code <= 2:
            wanted.is_granted = True
            wanted.wake(Handed(min(code, 1)))
            return
        if self._wanted.get(wanted.name) is wanted:
            del self._wanted[wanted.name], self._by_id[wanted.id]
        kind = MqttPermissionError if code == 0x87 else MqttRefusedError
        text = f"the broker refuses the subscription to {wanted.name!r}: {packets.said(code, packet.reason_str)}"
        wanted.wake(Error(kind(text, code=code, outcome="not_sent")))
        wanted.failed(lambda: kind(text, code=code))

    def ended(self, packet: UnsubAckPacket) -> None:
        """The broker sends nothing more for a filter."""
        id = self._left_ids.pop(packet.packet_id, None)
        if id is not None:
            self._ids.give_back(packet.packet_id)
            self._left = {name: other for name, other in self._left.items() if other != id}
            self._look_at_left()

    def has(self, wanted: Wanted) -> bool:
        """Return True for a filter that is subscribed to."""
        return self._wanted.get(wanted.name) is wanted

    async def until_left(self) -> None:
        """Return when the broker sends nothing more for filters that were removed."""
        while self._left:
            self._all_left = trio.Event()
            await self._all_left.wait()

    def _look_at_left(self) -> None:
        if not self._left:
            self._all_left.set()

    # -- links -------------------------------------------------------------------------------------------------------

    def stand(self, connack: ConnAckPacket) -> bytes:
        """There is a link. Return the words that it needs first."""
        self._connack = connack
        words: list[bytes] = []
        if connack.session_present:
            if self._held:  # the broker sends them again
                self._held.clear()
                self._held_bytes = 0
            words += [self._unsubscribe(name, id) for name, id in self._left.items() if name not in self._wanted]
        else:
            self._left.clear()
        self._look_at_left()
        for wanted in self._wanted.values():
            wanted.is_granted &= connack.session_present
            if not wanted.is_granted:
                words.append(self._subscribe(wanted))
        return b"".join(words)

    def lose(self) -> None:
        """The link broke: what it was asked is not answered any more."""
        for packet_id in (*self._asked, *self._left_ids):
            self._ids.give_back(packet_id)
        self._asked.clear()
        self._left_ids.clear()
        self._held = deque((message, 0) for message, _ in self._held)  # those ids are of no link any more

    def end(self, error: Callable[[], MqttError], *, failed: bool) -> None:
        """There will be no more links."""
        for wanted in list(self._wanted.values()):
            if not wanted.is_granted:
                wanted.wake(Error(error()))
            if failed:
                wanted.failed(error)
        self._wanted.clear()
        self._by_id.clear()
        self._held.clear()
        self._left.clear()
        self._look_at_left()

    # -- what comes --------------------------------------------------------------------------------------------------

    def route(self, packet: PublishPacket) -> bool:
        """Give a message to those that it is for. Return False where it is held, and not to be acknowledged yet."""
        message = MqttMessage(packet)
        ids = packet.subscription_ids
        if len(ids) == 1:
            wanted = self._by_id.get(ids[0])
            if wanted is not None and wanted.is_for(message.topic):
                wanted.take(message)
                return True
        topic = message.topic
        found = [one for id in ids if (one := self._by_id.get(id)) is not None and one.is_for(topic)]
        if not found and not (ids and any(id in self._left.values() for id in ids)):
            found = [one for one in self._wanted.values() if one.is_for(topic)]
        for wanted in found:
            wanted.take(message)
        if found:
            return True
        if packet.packet_id is None or not self.keeps:
            self.late += 1
            return True
        self._held.append((message, packet.packet_id))
        self._held_bytes += message.size
        return False

    def overfull(self) -> Iterable[int]:
        """Let go of the oldest messages that are held, where these are too many: return their packet ids."""
        while self._held and (len(self._held) > self._max_held or self._held_bytes > MAX_HELD_BYTES):
            message, packet_id = self._held.popleft()
            self._held_bytes -= message.size
            self.unclaimed += 1
            if packet_id:
                yield packet_id

    def _claim(self, wanted: Wanted) -> bytes:
        if not self._held:
            return b""
        mine = [one for one in self._held if wanted.is_for(one[0].topic)]
        self._held = deque(one for one in self._held if not wanted.is_for(one[0].topic))
        self._held_bytes = sum(message.size for message, _ in self._held)
        for message, _ in mine:
            wanted.take(message)
        return b"".join(packets.puback(packet_id) for _, packet_id in mine if packet_id)

    # -- words -------------------------------------------------------------------------------------------------------

    def _new_id(self, name: str) -> int:
        """The same for a filter each time, as far as that goes: what came for an earlier process finds its way."""
        first = made = crc32(name.encode()) % MAX_SHORT_ID + 1
        while made in self._by_id or made in self._left.values():
            made = made % MAX_SHORT_ID + 1 if made <= MAX_SHORT_ID else made % MAX_ID + 1
            if made == first:
                made = MAX_SHORT_ID + 1
        return made

    def _subscribe(self, wanted: Wanted) -> bytes:
        self._left.pop(wanted.name, None)
        wanted.packet_id = self._ids.take()
        self._asked[wanted.packet_id] = wanted
        has_ids = self._connack is None or self._connack.subscription_id_available
        return mqtt5.SubscribePacket(
            wanted.packet_id, [wanted.options], subscription_id=wanted.id if has_ids else None
        ).write()

    def _unsubscribe(self, name: str, id: int) -> bytes:
        packet_id = self._ids.take()
        self._left_ids[packet_id] = id
        return mqtt5.UnsubscribePacket(packet_id, [name]).write()
