"""What a client has to write: messages in order, each of them taken once, many to a write."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.brokers._stream import BrokerStream

MAX_JOINED_BYTES: Final = 64 * 1024
"""The bytes that one write joins: past this a system call costs its copying, not its entry."""

FLUSHED_FRAMES: Final = 64
"""Messages that are joined at most before a write that need not wait for the writer's turn. A broker does as little for
many messages in one read as a port's peer, and more for each read: with 16 it cost a third more."""

PUBLISHES_A_PASS: Final = 16
"""Messages that go through before one yields to other tasks."""


class Outgoing:
    """The messages that wait to be written, whatever link is there; and the words about subscriptions, for this link.

    A message that was not taken stays for the next link, and may be withdrawn until then. Each has a number: those up
    to `taken` were handed to a link.

    Attributes:
        number: The number of the last message that was put.
        taken: The number of the last message that was taken.
        queued_bytes: What waits.
        burst: The number of messages that came with the last read: as many answers may be about to follow.
        words: How many of the numbered ones were no messages but words in their order: pings, ends of subscriptions.
        is_writing: True while a write is under way that waits.

    Args:
        limit_bytes: What may wait before there is no more room.
        is_message: Tells messages from words.
        is_of_link: Tells words that are for their own link alone, such as a ping, whose answer is nobody's after a
            reconnect.
    """

    def __init__(
        self, limit_bytes: int, is_message: Callable[[bytes], bool], is_of_link: Callable[[bytes], bool]
    ) -> None:
        self.number: int = 0
        self.taken: int = 0
        self.queued_bytes: int = 0
        self.burst: int = 0
        self.words: int = 0
        self.is_writing: bool = False
        self._limit_bytes = limit_bytes
        self._is_message = is_message
        self._is_of_link = is_of_link
        self._frames: deque[bytes] = deque()
        self._words: list[bytes] = []
        self._link: BrokerStream | None = None
        self._rests = False
        self._asleep = trio.lowlevel.ParkingLot()
        self._for_room = trio.lowlevel.ParkingLot()
        self._since_yield = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def has_link(self) -> bool:
        """True while what is put is written."""
        return self._link is not None

    @property
    def has_words(self) -> bool:
        """True while words that are written before all messages wait."""
        return bool(self._words)

    @property
    def has_room(self) -> bool:
        """True where there is a link, and a message may be put that nobody waits on."""
        return self._link is not None and self.queued_bytes < self._limit_bytes

    # -- putting -----------------------------------------------------------------------------------------------------

    def put(self, frame: bytes, together: int) -> int:
        """Accept a message, and write it at once where that is best. Return its number.

        Args:
            frame: The message.
            together: How many are worth a write. With fewer the writer takes them in the next pass of the scheduler.
        """
        self.number += 1
        frames = self._frames
        frames.append(frame)
        self.queued_bytes += len(frame)
        link = self._link
        if link is not None:
            if len(frames) >= together and link.is_free:
                link.write(self._take())
                if link.rest and self._rests:
                    self._rouse()
            elif self._rests:
                self._rouse()
        return self.number

    def put_word(self, word: bytes, together: int = 1) -> int:
        """Have a word written behind the messages that were put before it. Return its number."""
        self.words += 1
        return self.put(word, together)

    def say(self, word: bytes) -> None:
        """Have a word written before all messages; without a link it is for nobody."""
        if self._link is not None:
            self._words.append(word)
            if self._rests:
                self._rouse()

    def answers_together(self) -> int:
        """Return how many answers to what came with the last read are worth a write."""
        burst = self.burst
        return 1 if burst <= 1 else min(burst, FLUSHED_FRAMES)

    def takes_now(self) -> bool:
        """Count a message, and return True if it may be put at once; the point of cancellation is the caller's."""
        if self.queued_bytes >= self._limit_bytes or self._since_yield >= PUBLISHES_A_PASS - 1:
            return False
        self._since_yield += 1
        return True

    async def wait_for_room(self) -> None:
        """Wait until a message may be put that nobody waits on; a point of cancellation.

        Every `PUBLISHES_A_PASS` messages at the latest the other tasks have a turn.
        """
        while self.queued_bytes >= self._limit_bytes:
            await self._for_room.park()
        self._since_yield += 1
        if self._since_yield >= PUBLISHES_A_PASS:
            self._since_yield = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def room_for_all(self) -> None:
        """Wake all that wait for room: there is some, or there will be none."""
        self._for_room.unpark_all()

    def withdraw(self, number: int) -> bool:
        """Take a message back. Return True if it had not been taken: then it is never sent."""
        if number <= self.taken:
            return False
        place = number - self.taken - 1
        self.queued_bytes -= len(self._frames[place])
        self._frames[place] = b""
        return True

    def revise(self, revised: Callable[[bytes], bytes]) -> None:
        """Have another look at all that waits: `revised` gets each message, and returns what is written in its place.

        ``b""`` is nothing at all.
        """
        frames = self._frames
        for place, frame in enumerate(frames):
            made = revised(frame)
            if made is not frame:
                self.queued_bytes += len(made) - len(frame)
                frames[place] = made

    # -- taking ------------------------------------------------------------------------------------------------------

    def attach(self, link: BrokerStream, words: bytes) -> None:
        """Write to this link from now on, `words` first."""
        self._link = link
        self._words = [words] if words else []
        self._rouse()

    def detach(self) -> None:
        """Write to no link: what was not taken waits for the next one, the words for it alone aside."""
        self._link = None
        self._words.clear()
        self.revise(lambda frame: b"" if self._is_of_link(frame) else frame)

    def drop(self) -> int:
        """Let go of all that waits. Return how many messages it was."""
        dropped = sum(1 for frame in self._frames if self._is_message(frame))
        self._frames.clear()
        self._words.clear()
        self.taken = self.number
        self.queued_bytes = 0
        self.room_for_all()
        return dropped

    async def run(self, link: BrokerStream) -> None:
        """Write to this link as long as it is the one; raises what the link raises."""
        while True:
            if link.rest:
                await link.write_rest()
            elif self._link is link and (self._frames or self._words):
                if link.is_free:
                    link.write(self._take())
                else:
                    self.is_writing = True
                    try:
                        await link.send(self._take())
                    finally:
                        self.is_writing = False
            else:
                self._rests = True
                await self._asleep.park()

    def rouse(self) -> None:
        """Have the writer look: something is left to write, or was taken away."""
        self._rouse()

    def _rouse(self) -> None:
        self._rests = False
        self._asleep.unpark_all()

    def _take(self) -> bytes:
        frames = self._frames
        if self.queued_bytes <= MAX_JOINED_BYTES:
            self.taken = self.number
            if self._words:
                data = b"".join([*self._words, *frames])
                self._words.clear()
            else:
                data = b"".join(frames)
            frames.clear()
            self.queued_bytes = 0
        else:
            taken, size = self._words, 0
            self._words = []
            while frames and size <= MAX_JOINED_BYTES:
                frame = frames.popleft()
                taken.append(frame)
                size += len(frame)
                self.taken += 1
            self.queued_bytes -= size
            data = b"".join(taken)
        if self._for_room:
            self.room_for_all()
        return data
