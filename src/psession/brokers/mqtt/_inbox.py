"""The topics of one client that answers come by: one subscription brings them all."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import mqtt5
import trio
from outcome import Error

from psession.brokers._lanes import Lanes
from psession.brokers._outgoing import FLUSHED_FRAMES
from psession.brokers.mqtt._channel import word
from psession.brokers.mqtt._errors import MqttNoSubscribersError, MqttTimeoutError
from psession.brokers.mqtt._flight import NOBODY
from psession.brokers.mqtt._packets import correlation_of
from psession.brokers.mqtt._table import Wanted
from psession.brokers.mqtt._topics import check_topic
from psession.errors import MessageTooLargeError
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._outgoing import Outgoing
    from psession.brokers.mqtt._errors import MqttError
    from psession.brokers.mqtt._flight import Flight, Sent
    from psession.brokers.mqtt._message import MqttMessage
    from psession.brokers.mqtt._table import Table
    from psession.shell.waiting import Delivery

REPLIES: Final = "R"
"""The last level of the topic that the answers to `Mqtt.request` come by."""


class Asked(Waiter):
    """A request that waits for its answer.

    Attributes:
        id: The data that its answer carries.
        topic: What it asks on.
        due: When it is too late.
        lane: Those with the same timeout.
        sent: The message, where it was sent with QoS 1.
        number: Its number among what is written, where it was sent with QoS 0.
    """

    __slots__ = ("due", "id", "lane", "number", "outcome", "sent", "task", "topic")

    def __init__(self, id: bytes, topic: str, due: float, lane: dict[bytes, Asked]) -> None:
        self.id: bytes = id
        self.topic: str = topic
        self.due: float = due
        self.lane: dict[bytes, Asked] = lane
        self.number: int = 0
        self.sent: Sent | None = None
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None

    def was_written(self, flight: Flight, taken: int) -> bool:
        """Return True if the request may have reached the broker."""
        return flight.was_written(self.sent) if self.sent is not None else 0 < self.number <= taken


class Inbox:
    """Requests that wait, and channels that answers come to.

    Attributes:
        topic: What all topics of this client begin with, ``/`` included; nobody else can guess it.
        reply_topic: The topic that answers to requests come by.
        lanes: The deadlines of the requests that wait.
        requests: Requests made.
        timeouts: Requests without an answer in time.
        late: Answers that nobody waits for any more.
        wanted: The one subscription.
    """

    def __init__(self, prefix: str, out: Outgoing, flight: Flight) -> None:
        self.topic: str = f"{prefix}/{secrets.token_hex(11)}/"
        self.reply_topic: str = f"{self.topic}{REPLIES}"
        self.lanes: Lanes[bytes, Asked] = Lanes(self._too_late)
        self.requests: int = 0
        self.timeouts: int = 0
        self.late: int = 0
        self.wanted: Wanted = Wanted(f"{self.topic}+", None, 1, self.deliver, self._refused, retain_handling="never")
        self._is_opening = False
        self._opened = trio.lowlevel.ParkingLot()
        self._out = out
        self._flight = flight
        self._asked: dict[bytes, Asked] = {}
        self._takers: dict[str, Callable[[MqttMessage], None]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._takers)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their answer."""
        return len(self._asked)

    async def open(self, table: Table, check_open: Callable[[], None]) -> None:
        """Have the answers come; return when the broker has made the subscription. One task asks for it, others wait.

        Raises:
            MqttRefusedError, MqttPermissionError: The broker refuses it.
            MqttClosedError: As `check_open`.
        """
        wanted = self.wanted
        await trio.lowlevel.checkpoint_if_cancelled()
        while not wanted.is_granted:
            check_open()
            if self._is_opening:
                await self._opened.park()
                continue
            self._is_opening = True
            try:
                wanted.outcome = None
                if not table.has(wanted):
                    table.check(wanted)
                    table.add(wanted)
                await wanted.park()
            finally:
                self._is_opening = False
                self._opened.unpark_all()

    # -- requests ----------------------------------------------------------------------------------------------------

    def next_id(self) -> bytes:
        """Return correlation data that no request has; digits, which need no second look."""
        self._last += 1
        return b"%d" % self._last

    def ask(self, id: bytes, topic: str, frame: bytes, qos: int, due: float, timeout: float) -> Asked:
        """Have a request written, for which there is a place. Whoever waits for its answer forgets it in the end."""
        lanes, waiting = self.lanes, self._asked
        lane = lanes.lane(timeout)
        waiting[id] = lane[id] = asked = Asked(id, topic, due, lane)
        if due < lanes.asleep_until:
            lanes.wake()
        together = min(len(waiting) >> 1, FLUSHED_FRAMES)
        if qos:
            asked.sent = self._flight.send(frame, together, self.failed)
        else:
            asked.number = self._out.put(frame, together)
        return asked

    def forget(self, asked: Asked) -> None:
        """Want no answer any more."""
        self._asked.pop(asked.id, None)
        asked.lane.pop(asked.id, None)

    def take_back(self, asked: Asked) -> bool:
        """Take a request back. Return True if it was never written."""
        if asked.sent is not None:
            return self._flight.withdraw(asked.sent)
        return self._out.withdraw(asked.number)

    def timed_out(self, asked: Asked, timeout: float) -> MqttTimeoutError:
        """Count a request whose time is over, and return its error; where it was not written, it never is."""
        if self.take_back(asked):
            return self.not_asked(asked.topic, timeout)
        self.timeouts += 1
        return MqttTimeoutError(
            f"no answer from {asked.topic!r} in {timeout:g} s: who serves it is slow, or sends no answers, or nobody "
            "is there and the broker does not say so",
            waited=timeout,
            outcome="sent",
        )

    def not_asked(self, topic: str, timeout: float) -> MqttTimeoutError:
        """Count a request that was not written in its time, and return its error."""
        self.timeouts += 1
        why = "the broker took nothing in that time" if self._out.has_link else "there was no connection"
        return MqttTimeoutError(f"{topic!r} was not asked in {timeout:g} s: {why}", waited=timeout, outcome="not_sent")

    # -- channels ----------------------------------------------------------------------------------------------------

    def take(self, token: str, take: Callable[[MqttMessage], None]) -> str:
        """Have what comes for a token given to `take`; return the topic."""
        self._takers[token] = take
        return f"{self.topic}{token}"

    def leave(self, token: str) -> None:
        """Want nothing more for that token."""
        self._takers.pop(token, None)

    # -- what comes, synchronous -------------------------------------------------------------------------------------

    def deliver(self, message: MqttMessage) -> None:
        """Give a message to who waits for it."""
        token = message.topic[len(self.topic) :]
        if token == REPLIES:
            asked = self._asked.pop(message.correlation_data or b"", None)
            if asked is not None:
                asked.wake(Handed(message))
                return
        else:
            taker = self._takers.get(token)
            if taker is not None:
                taker(message)
                return
        self.late += 1
        if token.startswith("L") and message.response_topic and self._out.has_link:
            with suppress(ValueError):  # the other end of a link that is over here
                check_topic(message.response_topic, "response topic")
                self._out.put(word("closed", message.response_topic), 1)

    def failed(self, sent: Sent) -> None:
        """The broker did not take a request, or nobody is there."""
        asked = self._asked.pop(correlation_of(sent.frame), None)
        if asked is None:
            return
        if sent.code == NOBODY:
            text = f"nobody has subscribed to {asked.topic!r}"
            asked.wake(Error(MqttNoSubscribersError(text, code=NOBODY, outcome=sent.refused_as, attempts=1)))
        else:
            asked.wake(Error(sent.refusal()))

    def let_go(self, frame: bytes, most: int) -> bool:
        """A message of QoS 0 is too long for the broker, and let go. Return False where nobody waits for it."""
        packet, _ = mqtt5.read(memoryview(frame))
        if type(packet) is not mqtt5.PublishPacket or packet.response_topic != self.reply_topic:
            return False
        asked = self._asked.pop(packet.correlation_data or b"", None)
        if asked is None:
            return False
        text = f"a packet of {len(frame)} bytes; the broker takes {most} at most"
        asked.wake(Error(MessageTooLargeError(text, outcome="not_sent")))
        return True

    def fail_all(self, error: Callable[[Asked], MqttError | None]) -> None:
        """End the requests for which there is an error."""
        for id, asked in list(self._asked.items()):
            made = error(asked)
            if made is not None:
                del self._asked[id]
                asked.wake(Error(made))

    def _too_late(self, id: bytes, asked: Asked) -> None:
        if self._asked.pop(id, None) is asked:
            asked.nudge()

    def _refused(self, error: Callable[[], MqttError]) -> None:
        self.fail_all(lambda _: error())
