"""The two directions of a lossy channel, each with random numbers, messages in the air, and a task that lands them."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from psession.channels import FrameChannel
from psession.errors import MessageError
from psession.testing._events import Moment, Tally
from psession.testing._faults import DRAWS
from psession.testing._flight import Flight

if TYPE_CHECKING:
    from psession.testing._events import Direction, EventLog, NetworkEvent
    from psession.testing._faults import Faults


class Link:
    """The state that both directions share: the wrapped channel, the log, and whether the link has ended."""

    def __init__(
        self, channel: trio.abc.Channel[Any], log: EventLog, max_in_flight: int, reorder_within: float
    ) -> None:
        self.channel = channel
        self.frames = channel if isinstance(channel, FrameChannel) else None
        self.log = log
        self.max_in_flight = max_in_flight
        self.reorder_within = reorder_within
        self.closed = False
        self.broken = trio.Event()
        self.traffic: list[Traffic] = []
        self._happened = 0

    def moment(self) -> Moment:
        """Return the present moment, which comes after all moments before it."""
        self._happened += 1
        return Moment(trio.current_time(), self._happened)

    def snap(self) -> None:
        """Break the link: lose all that is in the air, and wake every task that waits."""
        self.broken.set()
        for traffic in self.traffic:
            traffic.lose_everything()

    @property
    def ended(self) -> bool:
        """True if this side closed the channel, or the link broke."""
        return self.closed or self.broken.is_set()

    def check_open(self) -> None:
        """Raise the error of a link that has ended, if it has."""
        if self.closed:
            raise trio.ClosedResourceError("this side closed the lossy channel")
        if self.broken.is_set():
            raise trio.BrokenResourceError("the link broke, as the seed would have it")


class Traffic:
    """The messages of one direction, and the tasks that wait for them."""

    def __init__(self, link: Link, direction: Direction, faults: Faults, seed: int | str) -> None:
        self.link = link
        link.traffic.append(self)
        self.direction: Direction = direction
        self.faults = faults
        self.tally = Tally()
        self.flight = Flight(link.reorder_within)
        self.landed: deque[Any] = deque()
        self.failure: Exception | None = None
        """The error with which the wrapped channel ended in this direction."""
        self._random = Random(f"{seed}/{direction}")  # from a text it is the same on every machine and in every process
        self._carrier = trio.lowlevel.ParkingLot()
        self._for_room = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """True if ``max_in_flight`` messages are on their way."""
        return len(self.flight) + len(self.landed) >= self.link.max_in_flight

    def start(self, message: Any, cargo: Any) -> None:
        """Let one message set out: decide what happens to it, count it and log it."""
        moment = self.link.moment()
        event = self.faults.decide(
            [self._random.random() for _ in range(DRAWS)],
            number=self.tally.messages + 1,
            direction=self.direction,
            message=message,
            time=moment.time,
            order=moment.order,
        )
        self.tally.count(event)
        self.link.log.add(event)
        if event.disconnected:
            self.link.snap()
            return
        self.flight.launch(moment.time, event, cargo)
        self._carrier.unpark()

    @property
    def ended(self) -> bool:
        """True if no more messages can set out in this direction."""
        return self.link.ended or self.failure is not None

    async def wait_for_room(self) -> None:
        """Wait until there is room, or never will be."""
        if self.full and not self.ended:
            self.tally.waited_for_room += 1
        while self.full and not self.ended:
            await self._for_room.park()

    async def wait_for_landing(self) -> None:
        """Wait until a message is due, or one more sets out."""
        with trio.move_on_at(self.flight.next_landing()):
            await self._carrier.park()

    def made_room(self) -> None:
        """Wake one task that waits for room, since one message is no longer on its way."""
        self._for_room.unpark()

    def stop_waiting(self) -> None:
        """Wake every task that waits for room, since there may never be any."""
        self._for_room.unpark_all()

    def lose_everything(self) -> None:
        """Lose all that is on its way, and wake every task that waits."""
        self.flight.clear()
        self.landed.clear()
        self.stop_waiting()


class Outgoing(Traffic):
    """Messages from this side into the wrapped channel. One task writes, so a cancelled sender cuts no message."""

    def __init__(self, link: Link, faults: Faults, seed: int | str) -> None:
        super().__init__(link, "send", faults, seed)
        self._writing = False
        self._for_silence = trio.lowlevel.ParkingLot()

    @property
    def open_now(self) -> bool:
        """True if a message can set out without waiting."""
        return not (self.ended or self.full or self._for_room)

    def check_open(self) -> None:
        """Raise an error if nothing can be sent any more."""
        self.link.check_open()
        if self.failure is not None:
            raise trio.BrokenResourceError(f"the wrapped channel broke: {self.failure!r}") from self.failure

    async def carry(self) -> None:
        """Write each message to the wrapped channel when it is due, until that channel fails."""
        try:
            while True:
                self.landed.extend(self.flight.land(trio.current_time()))
                while self.landed:
                    await self._write_next()
                if not self.flight:
                    self._for_silence.unpark_all()
                await self.wait_for_landing()
        except Exception as error:  # a MessageError too: its sender has left, and must not believe it was sent
            self.failure = error
        finally:
            self.lose_everything()
            self._for_silence.unpark_all()

    async def _write_next(self) -> None:
        event: NetworkEvent
        event, frame = self.landed.popleft()
        self._writing = True
        try:
            if self.link.frames is None:
                await self.link.channel.send(frame)
            else:
                await self.link.frames.send_frames([frame])
        finally:
            self._writing = False
        event.arrived.append(self.link.moment())
        self.made_room()

    @property
    def full(self) -> bool:
        """True if ``max_in_flight`` messages are on their way, with the one that is being written."""
        return len(self.flight) + len(self.landed) + self._writing >= self.link.max_in_flight

    async def wait_until_silent(self) -> None:
        """Wait until nothing is on its way, or nothing on its way can arrive."""
        while len(self.flight) + len(self.landed) + self._writing and self.failure is None:
            await self._for_silence.park()


class Incoming(Traffic):
    """Messages from the wrapped channel to the tasks that receive on this side."""

    def __init__(self, link: Link, faults: Faults, seed: int | str) -> None:
        super().__init__(link, "receive", faults, seed)
        self._for_message = trio.lowlevel.ParkingLot()

    async def fetch(self) -> None:
        """Read the wrapped channel until it ends. Messages that are in the air then still land."""
        try:
            while True:
                await self.wait_for_room()
                try:
                    message = await self.link.channel.receive()  # not a batch, for which there may be no room
                except MessageError as error:
                    message = error
                self._admit(message)
        except Exception as error:
            self.failure = error
        finally:
            self._for_message.unpark_all()

    def _admit(self, message: Any) -> None:
        if self.link.ended:
            return
        if isinstance(message, MessageError):  # it is no message, so no fault applies
            self.landed.append(message)
            self._for_message.unpark_all()
        else:
            self.start(message, message)
            self._land()

    async def carry(self) -> None:
        """Land each message when it is due."""
        while True:
            await self.wait_for_landing()
            self._land()

    def _land(self) -> None:
        for event, message in self.flight.land(trio.current_time()):
            event.arrived.append(self.link.moment())
            self.landed.append(message)
        if self.landed or self.failure is not None:
            self._for_message.unpark_all()

    async def wait_for_message(self) -> None:
        """Wait until a message has landed.

        Raises:
            trio.EndOfChannel: The wrapped channel ended, and nothing is in the air.
            trio.BrokenResourceError: It broke, or the link did.
            trio.ClosedResourceError: This side closed the channel, or the wrapped channel was closed.
        """
        while True:
            self.link.check_open()
            if self.landed:
                return
            if self.failure is not None and not self.flight:
                self._raise_end(self.failure)
            await self._for_message.park()

    def _raise_end(self, failure: Exception) -> None:
        if isinstance(failure, trio.EndOfChannel | trio.ClosedResourceError):
            raise type(failure)(*failure.args) from failure
        raise trio.BrokenResourceError(f"the wrapped channel broke: {failure!r}") from failure

    def pop_landed(self, count: int | None = None) -> list[Any]:
        """Remove and return up to `count` messages that have landed, by default all, without waiting."""
        count = len(self.landed) if count is None else min(count, len(self.landed))
        landed = [self.landed.popleft() for _ in range(count)]
        for _ in landed:
            self.made_room()
        return landed

    def lose_everything(self) -> None:
        super().lose_everything()
        self._for_message.unpark_all()
