"""Messages of QoS 1 on their way to the broker: each has a packet id until it is acknowledged, over all links."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from outcome import Error

from psession.brokers.mqtt import _packets as packets
from psession.brokers.mqtt._errors import MqttDisconnectedError, MqttError, MqttPermissionError, MqttRefusedError
from psession.errors import MessageTooLargeError
from psession.shell.waiting import Handed, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqtt5 import PubAckPacket

    from psession.brokers._outgoing import Outgoing
    from psession.errors import TurnOutcome
    from psession.shell.waiting import Delivery

TOO_LARGE: Final = 0x95
"""The reason code of a message that is longer than the broker takes; no broker acknowledges one with it."""

NOBODY: Final = 0x10
NOT_AUTHORIZED: Final = 0x87
_MAX_ID: Final = 65535
_YES: Final = Handed(True)
_NO: Final = Handed(False)


class Ids:
    """The packet ids of one client: 1 to 65,535, in turn, none of them twice at a time."""

    def __init__(self) -> None:
        self._used: set[int] = set()
        self._last = 0

    def take(self) -> int:
        """Return one that is free; messages and subscriptions in flight are always fewer."""
        made = self._last
        while True:
            made = made + 1 if made < _MAX_ID else 1
            if made not in self._used:
                self._used.add(made)
                self._last = made
                return made

    def give_back(self, packet_id: int) -> None:
        """Have one that is free again."""
        self._used.discard(packet_id)


class Sent(Waiter):
    """A message of QoS 1 that the broker has not acknowledged, and perhaps a task that waits for that.

    Attributes:
        frame: The message, with its packet id.
        failed: Called in place of waking a task, with this, where the broker did not take it, or nobody wants it.
        number: Its number among what is written; 0: it is not among that.
        was_sent: True where it was written to an earlier link.
    """

    __slots__ = ("code", "failed", "frame", "number", "outcome", "packet_id", "reason", "task", "was_sent")

    def __init__(self, frame: bytes, packet_id: int, failed: Callable[[Sent], None] | None) -> None:
        self.frame: bytes = frame
        self.packet_id: int = packet_id
        self.failed: Callable[[Sent], None] | None = failed
        self.number: int = 0
        self.was_sent: bool = False
        self.code: int = 0
        self.reason: str | None = None
        self.task: trio.lowlevel.Task | None = None
        self.outcome: Delivery | None = None

    def refusal(self) -> MqttRefusedError | MessageTooLargeError:
        """Return the error that the reason code stands for."""
        if self.code == TOO_LARGE:
            return MessageTooLargeError(self.reason or "", outcome=self.refused_as)
        kind = MqttPermissionError if self.code == NOT_AUTHORIZED else MqttRefusedError
        text = f"the broker refuses the message: {packets.said(self.code, self.reason)}"
        return kind(text, code=self.code, outcome=self.refused_as, attempts=1)

    @property
    def refused_as(self) -> TurnOutcome:
        """The outcome where the broker says that nothing was done: an earlier copy may have gone through."""
        return "sent" if self.was_sent else "not_sent"


class Flight:
    """The messages of QoS 1 that are not acknowledged: at most as many at once as the broker takes.

    Attributes:
        limit: How many the broker takes at once; 0 while there is no link.
        is_over: True once there will be no more links.
        no_subscribers: Messages that nobody had subscribed to the topic of.
        refused: Messages that the broker refused.
        sent_again: Messages that were sent once more.
        unknown: Acknowledgements of nothing that is in flight.
    """

    def __init__(self, out: Outgoing, ids: Ids, most: int) -> None:
        self.limit: int = 0
        self.is_over: bool = False
        self.no_subscribers: int = 0
        self.refused: int = 0
        self.sent_again: int = 0
        self.unknown: int = 0
        self._out = out
        self._ids = ids
        self._most = most
        self._max_bytes = packets.MAX_PACKET_BYTES
        self._sent: dict[int, Sent] = {}
        self._backlog: deque[Sent] = deque()
        self._out_there = 0
        self._asleep = trio.lowlevel.ParkingLot()
        self._landed = trio.Event()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def is_free(self) -> bool:
        """True where a message may be sent now, and none waits."""
        return self._out_there < self.limit and not self._backlog and not self._asleep

    async def wait_for_place(self) -> None:
        """Return when a message may be sent, or never will be again; a point of cancellation where it has to wait."""
        if self.is_free or self.is_over:
            return
        await self._asleep.park()
        while (self._out_there >= self.limit or self._backlog) and not self.is_over:
            await self._asleep.park()

    def send(self, frame: bytes, together: int, failed: Callable[[Sent], None] | None = None) -> Sent:
        """Send a message, for which there is a place."""
        packet_id = self._ids.take()
        sent = Sent(packets.numbered(frame, packet_id), packet_id, failed)
        self._sent[packet_id] = sent
        self._out_there += 1
        sent.number = self._out.put(sent.frame, together)
        return sent

    def post(self, frame: bytes, failed: Callable[[Sent], None] | None = None) -> None:
        """Send a message as soon as there is a place; its sender waits for nothing."""
        if self.is_free:
            self.send(frame, 1, failed)
            return
        packet_id = self._ids.take()
        sent = Sent(packets.numbered(frame, packet_id), packet_id, failed)
        self._sent[packet_id] = sent
        self._backlog.append(sent)

    def withdraw(self, sent: Sent) -> bool:
        """Take a message back. Return True if it was never written."""
        if sent.was_sent or self._sent.get(sent.packet_id) is not sent:
            return False
        if sent.number:
            if not self._out.withdraw(sent.number):
                return False
            self._out_there -= 1
        else:
            self._backlog.remove(sent)
        self._forget(sent)
        self._pump()
        return True

    def was_written(self, sent: Sent) -> bool:
        """Return True if a message may have reached the broker."""
        return sent.was_sent or 0 < sent.number <= self._out.taken

    def acknowledged(self, packet: PubAckPacket) -> None:
        """The broker has a message, or says why not."""
        sent = self._sent.get(packet.packet_id)
        if sent is None or not 0 < sent.number <= self._out.taken:
            self.unknown += 1
            return
        self._out_there -= 1
        self._forget(sent)
        code = int(packet.reason_code)
        if code:
            sent.code, sent.reason = code, packet.reason_str
            if code == NOBODY:
                self.no_subscribers += 1
            else:
                self.refused += 1
        if sent.failed is not None:
            if code:
                sent.failed(sent)
        elif not code:
            sent.wake(_YES)
        else:
            sent.wake(_NO if code == NOBODY else Error(sent.refusal()))
        if self._backlog:
            self._pump()
        elif self._asleep:
            self._asleep.unpark(count=1)

    # -- links -------------------------------------------------------------------------------------------------------

    def stand(self, receive_maximum: int, max_packet_bytes: int, *, session_present: bool) -> None:
        """There is a link: send again what it has to have, in order; let go of what the broker has forgotten."""
        self.limit = min(receive_maximum, self._most)
        self._max_bytes = max_packet_bytes
        if not session_present:
            for sent in [one for one in self._sent.values() if one.was_sent]:
                text = "the connection broke before the broker acknowledged the message, and it has kept no session"
                self._fail(sent, MqttDisconnectedError(text, outcome="sent", attempts=1))
        self._backlog = deque(self._sent.values())
        self._pump()
        self._wake_as_many_as_may()

    def lose(self) -> None:
        """The link broke."""
        self.limit = self._out_there = 0
        self._backlog.clear()
        for sent in self._sent.values():
            if sent.number:
                sent.was_sent |= not self._out.withdraw(sent.number)
                sent.number = 0

    def end(self, error: Callable[[], MqttError]) -> None:
        """There will be no more links."""
        self.is_over = True
        for sent in list(self._sent.values()):
            made = error()
            made.outcome = "sent" if self.was_written(sent) else "not_sent"
            self._fail(sent, made)
        self._backlog.clear()
        self._asleep.unpark_all()

    async def until_landed(self) -> None:
        """Return when nothing is in flight."""
        while self._sent:
            self._landed = trio.Event()
            await self._landed.wait()

    def _fail(self, sent: Sent, error: Exception) -> None:
        self._forget(sent)
        if sent.failed is None:
            sent.wake(Error(error))

    def _forget(self, sent: Sent) -> None:
        del self._sent[sent.packet_id]
        self._ids.give_back(sent.packet_id)
        if not self._sent:
            self._landed.set()

    def _pump(self) -> None:
        """Send what waits, as much of it as the broker takes."""
        while self._backlog and self._out_there < self.limit:
            sent = self._backlog.popleft()
            if len(sent.frame) > self._max_bytes:
                sent.code = TOO_LARGE
                sent.reason = f"a packet of {len(sent.frame)} bytes; the broker takes {self._max_bytes} at most"
                self._forget(sent)
                if sent.failed is not None:
                    sent.failed(sent)
                else:
                    sent.wake(Error(sent.refusal()))
                continue
            self._out_there += 1
            if sent.was_sent:
                self.sent_again += 1
                sent.number = self._out.put_word(packets.again(sent.frame))
            else:
                sent.number = self._out.put(sent.frame, 1)
        if not self._backlog:
            self._wake_as_many_as_may()

    def _wake_as_many_as_may(self) -> None:
        places = self.limit - self._out_there
        if places > 0 and self._asleep and not self._backlog:
            self._asleep.unpark(count=places)
