"""The two directions of a lossy channel: each has luck of its own, messages in the air, and a task that lands them."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from psession.channels import FrameChannel
from psession.errors import MessageError
from psession.testing._fate import Moment, Tally
from psession.testing._flight import Flight
from psession.testing._odds import DRAWS

if TYPE_CHECKING:
    from psession.testing._fate import Direction, Fate, FateLog
    from psession.testing._odds import Odds


class Line:
    """What both directions share: the wrapped channel, the log, and whether the line still stands."""

    def __init__(self, channel: trio.abc.Channel[Any], log: FateLog, max_in_flight: int, reorder_within: float) -> None:
        self.channel = channel
        self.frames = channel if isinstance(channel, FrameChannel) else None
        self.log = log
        self.max_in_flight = max_in_flight
        self.reorder_within = reorder_within
        self.closed = False
        self.broken = trio.Event()
        self.ways: list[Way] = []
        self._happened = 0

    def moment(self) -> Moment:
        """Now, and after everything that happened before."""
        self._happened += 1
        return Moment(trio.current_time(), self._happened)

    def snap(self) -> None:
        """The line breaks: what is in the air is lost, and everybody who waits hears of it."""
        self.broken.set()
        for way in self.ways:
            way.lose_everything()

    @property
    def ended(self) -> bool:
        """Whether this side closed the channel, or the line broke."""
        return self.closed or self.broken.is_set()

    def check_open(self) -> None:
        """Raise if it has ended."""
        if self.closed:
            raise trio.ClosedResourceError("this side closed the lossy channel")
        if self.broken.is_set():
            raise trio.BrokenResourceError("the line broke, as the seed would have it")


class Way:
    """One direction: what happens to each message, and who waits for what."""

    def __init__(self, line: Line, direction: Direction, odds: Odds, seed: int | str) -> None:
        self.line = line
        line.ways.append(self)
        self.direction: Direction = direction
        self.odds = odds
        self.tally = Tally()
        self.flight = Flight(line.reorder_within)
        self.landed: deque[Any] = deque()
        self.failure: Exception | None = None
        """What the wrapped channel ended with, in this direction."""
        self._random = Random(f"{seed}/{direction}")  # from a text it is the same on every machine and in every process
        self._carrier = trio.lowlevel.ParkingLot()
        self._for_room = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """Whether ``max_in_flight`` messages are on their way."""
        return len(self.flight) + len(self.landed) >= self.line.max_in_flight

    def take(self, message: Any, cargo: Any) -> None:
        """One message sets out, and meets its fate."""
        moment = self.line.moment()
        fate = self.odds.decide(
            [self._random.random() for _ in range(DRAWS)],
            number=self.tally.messages + 1,
            direction=self.direction,
            message=message,
            time=moment.time,
            order=moment.order,
        )
        self.tally.count(fate)
        self.line.log.add(fate)
        if fate.disconnected:
            self.line.snap()
            return
        self.flight.launch(moment.time, fate, cargo)
        self._carrier.unpark()

    @property
    def ended(self) -> bool:
        """Whether nothing more sets out in this direction."""
        return self.line.ended or self.failure is not None

    async def wait_for_room(self) -> None:
        """Return when there is room, or never will be."""
        if self.full and not self.ended:
            self.tally.waited_for_room += 1
        while self.full and not self.ended:
            await self._for_room.park()

    async def wait_for_landing(self) -> None:
        """Return when a message is due, or one more set out."""
        with trio.move_on_at(self.flight.next_landing()):
            await self._carrier.park()

    def made_room(self) -> None:
        """One message is no longer on its way: who waits for room may go on."""
        self._for_room.unpark()

    def stop_waiting(self) -> None:
        """Who waits for room looks again: there may never be any."""
        self._for_room.unpark_all()

    def lose_everything(self) -> None:
        """What is on its way is lost, and everybody who waits looks again."""
        self.flight.clear()
        self.landed.clear()
        self.stop_waiting()


class WayOut(Way):
    """From this side into the wrapped channel, by one task: who is cancelled cuts nothing."""

    def __init__(self, line: Line, odds: Odds, seed: int | str) -> None:
        super().__init__(line, "send", odds, seed)
        self._writing = False
        self._for_silence = trio.lowlevel.ParkingLot()

    @property
    def open_now(self) -> bool:
        """Whether a message can set out without waiting."""
        return not (self.ended or self.full or self._for_room)

    def check_open(self) -> None:
        """Raise if nothing can be sent any more."""
        self.line.check_open()
        if self.failure is not None:
            raise trio.BrokenResourceError(f"the wrapped channel broke: {self.failure!r}") from self.failure

    async def carry(self) -> None:
        """Give the wrapped channel what is due, until it takes no more."""
        try:
            while True:
                self.landed.extend(self.flight.land(trio.current_time()))
                while self.landed:
                    await self._write_next()
                if not self.flight:
                    self._for_silence.unpark_all()
                await self.wait_for_landing()
        except Exception as error:  # even one of a message's own: its sender is gone, and must not believe it was sent
            self.failure = error
        finally:
            self.lose_everything()
            self._for_silence.unpark_all()

    async def _write_next(self) -> None:
        fate: Fate
        fate, frame = self.landed.popleft()
        self._writing = True
        try:
            if self.line.frames is None:
                await self.line.channel.send(frame)
            else:
                await self.line.frames.send_frames([frame])
        finally:
            self._writing = False
        fate.arrived.append(self.line.moment())
        self.made_room()

    @property
    def full(self) -> bool:
        """Whether ``max_in_flight`` messages are on their way, that which is being written among them."""
        return len(self.flight) + len(self.landed) + self._writing >= self.line.max_in_flight

    async def wait_until_silent(self) -> None:
        """Return when nothing is on its way any more, or will get on."""
        while len(self.flight) + len(self.landed) + self._writing and self.failure is None:
            await self._for_silence.park()


class WayIn(Way):
    """From the wrapped channel to who receives on this side."""

    def __init__(self, line: Line, odds: Odds, seed: int | str) -> None:
        super().__init__(line, "receive", odds, seed)
        self._for_message = trio.lowlevel.ParkingLot()

    async def fetch(self) -> None:
        """Take from the wrapped channel what comes, until it ends. What is in the air then still lands."""
        try:
            while True:
                await self.wait_for_room()
                try:
                    message = await self.line.channel.receive()  # not a batch, for which there may be no room
                except MessageError as error:
                    message = error
                self._take(message)
        except Exception as error:
            self.failure = error
        finally:
            self._for_message.unpark_all()

    def _take(self, message: Any) -> None:
        if self.line.ended:
            return
        if isinstance(message, MessageError):  # no message: nothing happens to it
            self.landed.append(message)
            self._for_message.unpark_all()
        else:
            self.take(message, message)
            self._land()

    async def carry(self) -> None:
        """Land what is due."""
        while True:
            await self.wait_for_landing()
            self._land()

    def _land(self) -> None:
        for fate, message in self.flight.land(trio.current_time()):
            fate.arrived.append(self.line.moment())
            self.landed.append(message)
        if self.landed or self.failure is not None:
            self._for_message.unpark_all()

    async def wait_for_message(self) -> None:
        """Return when a message has landed.

        Raises:
            trio.EndOfChannel: The wrapped channel ended, and nothing is in the air.
            trio.BrokenResourceError: It broke, or the line did.
            trio.ClosedResourceError: This side closed the channel, or somebody the wrapped one.
        """
        while True:
            self.line.check_open()
            if self.landed:
                return
            if self.failure is not None and not self.flight:
                self._raise_end(self.failure)
            await self._for_message.park()

    def _raise_end(self, failure: Exception) -> None:
        if isinstance(failure, trio.EndOfChannel | trio.ClosedResourceError):
            raise type(failure)(*failure.args) from failure
        raise trio.BrokenResourceError(f"the wrapped channel broke: {failure!r}") from failure

    def take_landed(self, count: int | None = None) -> list[Any]:
        """Up to that many messages that have landed, without waiting; by default all."""
        count = len(self.landed) if count is None else min(count, len(self.landed))
        taken = [self.landed.popleft() for _ in range(count)]
        for _ in taken:
            self.made_room()
        return taken

    def lose_everything(self) -> None:
        super().lose_everything()
        self._for_message.unpark_all()
