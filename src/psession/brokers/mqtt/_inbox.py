"""The topics of one client that answers come by: one subscription brings them all."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import trio
from outcome import Error

from psession.brokers._lanes import Lanes
from psession.brokers.mqtt._errors import MqttNoSubscribersError
from psession.brokers.mqtt._flight import NOBODY
from psession.brokers.mqtt._packets import correlation_of
from psession.brokers.mqtt._table import Wanted
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers.mqtt._errors import MqttError
    from psession.brokers.mqtt._flight import Flight, Sent
    from psession.brokers.mqtt._message import MqttMessage
    from psession.shell.waiting import Delivery

REPLIES: Final = "R"
"""The last level of the topic that the answers to `Mqtt.request` come by."""


class Asked(Waiter):
    """A request that waits for its answer.

    Attributes:
        due: When it is too late.
        sent: The message, where it was sent with QoS 1.
        number: Its number among what is written, where it was sent with QoS 0.
    """

    __slots__ = ("due", "number", "outcome", "sent", "task", "topic")

    def __init__(self, topic: str, due: float) -> None:
        self.topic: str = topic
        self.due: float = due
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
        asked: The requests that wait, by their correlation data.
        lanes: The same, by their deadlines.
        late: Answers that nobody waits for any more.
        wanted: The one subscription.
        is_opening: True while a task waits for the broker to make it.
        opened: Where others wait meanwhile.
    """

    def __init__(self, prefix: str, closed: Callable[[str], None]) -> None:
        self.topic: str = f"{prefix}/{secrets.token_hex(11)}/"
        self.reply_topic: str = f"{self.topic}{REPLIES}"
        self.asked: dict[bytes, Asked] = {}
        self.lanes: Lanes[bytes, Asked] = Lanes(self._too_late)
        self.late: int = 0
        self.wanted: Wanted = Wanted(f"{self.topic}+", "", 1, self.deliver, self._refused, retain_handling="never")
        self.is_opening: bool = False
        self.opened: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self._tell_closed = closed
        self._takers: dict[str, Callable[[MqttMessage], None]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._takers)

    def take(self, token: str, take: Callable[[MqttMessage], None]) -> str:
        """Have what comes for a token given to `take`; return the topic."""
        self._takers[token] = take
        return f"{self.topic}{token}"

    def leave(self, token: str) -> None:
        """Want nothing more for that token."""
        self._takers.pop(token, None)

    def next_id(self) -> bytes:
        """Return correlation data that no request has; digits, which need no second look."""
        self._last += 1
        return b"%d" % self._last

    def deliver(self, message: MqttMessage) -> None:
        """Give a message to who waits for it."""
        token = message.topic[len(self.topic) :]
        if token == REPLIES:
            asked = self.asked.pop(message.correlation_data or b"", None)
            if asked is not None:
                asked.wake(Handed(message))
                return
        else:
            taker = self._takers.get(token)
            if taker is not None:
                taker(message)
                return
        self.late += 1
        if token.startswith("L") and message.response_topic:  # the other end of a link that is over here
            self._tell_closed(message.response_topic)

    def failed(self, sent: Sent) -> None:
        """The broker did not take a request, or nobody is there."""
        asked = self.asked.pop(correlation_of(sent.frame), None)
        if asked is None:
            return
        if sent.code == NOBODY:
            text = f"nobody has subscribed to {asked.topic!r}"
            asked.wake(Error(MqttNoSubscribersError(text, code=NOBODY, outcome=sent.refused_as, attempts=1)))
        else:
            asked.wake(Error(sent.refusal()))

    def fail_all(self, error: Callable[[Asked], MqttError | None]) -> None:
        """End the requests for which there is an error."""
        for id, asked in list(self.asked.items()):
            made = error(asked)
            if made is not None:
                del self.asked[id]
                asked.wake(Error(made))

    def _too_late(self, id: bytes, asked: Asked) -> None:
        if self.asked.pop(id, None) is asked:
            asked.nudge()

    def _refused(self, error: Callable[[], MqttError]) -> None:
        self.fail_all(lambda _: error())
