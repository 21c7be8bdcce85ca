"""The parts of a streamed turn: their order and their credit, on both sides. Pure: no clock, no I/O.

Credit is counted from the turn's beginning: ``_credit: 40`` is room for the parts 1 to 40, whatever came before, so
that a grant that is lost, repeated or overtaken does no harm. The first credit of a turn is its *window*, and the asker
never has room for more: where it says ``c``, the parts up to ``c - window`` are with its application.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from psession.protocol.states import TurnEvent

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_WINDOW = 32
"""Replies that the asker has room for. It grants half of that at a time: one small message for 16 replies, and while
these are on their way the other 16 keep the peer at work. Over a WebSocket on loopback, a processor for each end, in
thousands of replies a second: 51 with a window of 4, 88 with 8, 143 with 16, 180 with 32, 223 with 64, 227 with 128.
More than 32 is for who knows that the replies are short: 32 that are as long as a message may be are 32 MiB."""


class Item(NamedTuple):
    """A reply, or an end, with a place among the replies to one turn.

    Attributes:
        message: The reply; ``None`` where there is none in it, or it is ``None``.
        is_last: Whether the stream ends with it.
        error: Why the stream ends with it, in the words of the wire.
        holds_none: True where a ``None`` in `message` is a reply, as some protocols have it.
    """

    message: Any
    is_last: bool = False
    error: str | None = None
    holds_none: bool = False

    @property
    def is_reply(self) -> bool:
        """Return True if it takes room, rather than being an end mark or an error alone."""
        return self.message is not None or self.holds_none


class Arriving:
    """The asker's side: replies in order, each once, and how many the peer may send.

    Args:
        window: How many replies there is room for.
        count: How many are wanted; ``math.inf``: all.

    Attributes:
        credit: How many the peer was told that it may send, from the first on.
        next: The place of the reply that is to come next.
        consumed: How many the application has.
        ready: Those that it may take; with what it has never more than are wanted.
        grants_at: How many the application has when more credit is due; infinity where no more is wanted.
        last: What the stream ended with, once all before it is there.
    """

    __slots__ = ("_held", "consumed", "count", "credit", "grants_at", "last", "next", "ready", "window")

    def __init__(self, window: int, count: float = math.inf) -> None:
        self.window: int = window
        self.count: float = count
        self.credit: int = int(min(window, count))
        self.next: int = 1
        self.consumed: int = 0
        self.ready: deque[Any] = deque()
        self.last: Item | None = None
        self._held: dict[int, Item] = {}
        self.grants_at: float = self._next_grant()

    @property
    def in_hand(self) -> int:
        """The number of replies that wait for the application, or for one before them."""
        return len(self.ready) + sum(item.is_reply for item in self._held.values())

    @property
    def is_enough(self) -> bool:
        """True where the application has all that it wants."""
        return self.consumed >= self.count

    def arrive(self, part: int, item: Item) -> TurnEvent:
        """The event that `item` is to the turn, which came with the place `part`."""
        if part < self.next or self.last is not None or part in self._held:
            return TurnEvent.PART_AGAIN
        if part > self.credit + (not item.is_reply):
            return TurnEvent.PART_BEYOND
        self._held[part] = item
        if part > self.next:
            return TurnEvent.PART_AHEAD
        while self.last is None and self.next in self._held:
            self._add(self._held.pop(self.next))
        return TurnEvent.PART_NEXT if self.last is None else TurnEvent.LAST

    def arrive_next(self, part: int, message: Any) -> bool:
        """Take a reply that is the next, with no other held behind it. Return False where it is not: then do nothing.

        The fast way for nearly every reply: what `arrive` comes to for it, in one step.
        """
        if part != self.next or part > self.credit or self._held:
            return False
        self.next = part + 1
        self.ready.append(message)
        return True

    def close(self, item: Item) -> None:
        """The stream ends here, whatever is still on its way."""
        self._add(item)
        self.last = item

    def _add(self, item: Item) -> None:
        self.next += 1
        if item.is_reply and self.consumed + len(self.ready) < self.count:
            self.ready.append(item.message)
        if item.is_last:
            self.last = item
            self._held.clear()

    def take(self) -> Any:
        """The next reply, which the application has from now on."""
        self.consumed += 1
        return self.ready.popleft()

    def grant(self, *, at_once: bool = False) -> int | None:
        """Return the credit to tell the peer, or ``None``; half a window at a time, but `at_once`."""
        if not at_once and (self.consumed < self.grants_at or self.last is not None):
            return None
        self.credit = max(int(min(self.consumed + self.window, self.count)), self.credit)
        self.grants_at = self._next_grant()
        return self.credit

    def _next_grant(self) -> float:
        """Return the part at which half a window is free, or room for the rest of what is wanted; one at the least."""
        if self.credit >= self.count:
            return math.inf
        return max(min(self.credit - self.window // 2, self.count - self.window), self.credit - self.window + 1)


class Departing:
    """The answerer's side: how many replies it may send, and which ones the asker has.

    Args:
        window: The credit that the turn was asked with.

    Attributes:
        credit: How many may be sent.
        spent: How many places are taken: by what was sent, and by what is about to be.
        made: The place of the last reply, or of the end mark behind it.
        acked: Up to here the asker has them all.
        is_complete: Whether the end is among them.
        is_over: Whether nobody wants any more of it.
        sizes: What the last ones take, which are kept.
        again: The place in the queue of the last one that was sent again.
        waiting: How many of the handler's tasks wait for credit.
        in_a_row: How many were sent since its other tasks had a turn.
        wake: Called when a task that waits for credit should look again.
    """

    __slots__ = (
        "acked",
        "again",
        "credit",
        "in_a_row",
        "is_complete",
        "is_over",
        "made",
        "sizes",
        "spent",
        "waiting",
        "wake",
        "window",
    )

    def __init__(self, window: int) -> None:
        self.window: int = window
        self.credit: int = window
        self.spent: int = 0
        self.made: int = 0
        self.acked: int = 0
        self.is_complete: bool = False
        self.is_over: bool = False
        self.sizes: deque[int] = deque()
        self.again: Any = None
        self.waiting: int = 0
        self.in_a_row: int = 0
        self.wake: Callable[[], object] = _nobody

    def grant(self, credit: int, part: int | None = None) -> None:
        """The asker has room for so many, and (where it says so) all before `part`."""
        self.credit = max(self.credit, credit)
        self.acked = min(max(self.acked, credit - self.window, (part or 1) - 1), self.made)
        self.wake()

    def first_kept(self) -> int:
        """The place of the first that is kept."""
        return self.made - len(self.sizes) + 1

    def to_forget(self) -> int:
        """The number of kept replies that the asker has; never the end."""
        return max(0, self.acked - self.first_kept() + 1 - (self.is_complete and self.acked == self.made))

    def stop(self) -> None:
        """Nobody wants any more of it."""
        self.is_over = True
        self.wake()


def _nobody() -> None:
    """Wakes nobody."""
