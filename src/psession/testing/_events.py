"""The record of a bad network: an event for each message. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, NamedTuple, TypeAlias, overload

Direction: TypeAlias = Literal["send", "receive"]
"""The direction of a message, seen from the side that holds the lossy channel."""

DEFAULT_LOG_LIMIT: Final = 10_000
"""A log remembers this many messages: all of a run of 500 turns, each of which may be tried several times."""


class Moment(NamedTuple):
    """The moment of an event: seconds on Trio's clock, and its place among the events of one tick."""

    time: float
    order: int


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """One message on its way through the network, and the faults that it met.

    Two events are equal when the same happened to equal messages, at whatever time.

    Attributes:
        number: Its sequence number within its direction, starting at 1.
        direction: ``"send"``: from the side that holds the lossy channel; ``"receive"``: to it.
        message: The message itself, not a copy.
        time: The moment when it set out, in seconds on Trio's clock.
        order: Its place among all events of the log.
        dropped: True where it was lost.
        disconnected: True where the link broke at it; it was lost as well.
        duplicated: True where it is to arrive twice.
        delayed_by: Seconds between setting out and arriving, without those that it waits for others.
        again_delayed_by: The same seconds for its duplicate.
        reordered: The number of later messages of its direction that it lets go ahead, if they come in time.
        arrived: The moments when it arrived and when its duplicate did; empty while it is on its way.
    """

    number: int
    direction: Direction
    message: Any
    time: float = field(default=0.0, compare=False)
    order: int = field(default=0, compare=False)
    dropped: bool = False
    disconnected: bool = False
    duplicated: bool = False
    delayed_by: float = 0.0
    again_delayed_by: float = 0.0
    reordered: int = 0
    arrived: list[Moment] = field(default_factory=list, compare=False)

    @property
    def copies(self) -> int:
        """The number of times that it is to arrive: 0, 1 or 2."""
        return 0 if self.dropped or self.disconnected else 2 if self.duplicated else 1


class EventLog(Sequence[NetworkEvent]):
    """A sequence of the latest events of both directions, in the order in which the messages set out.

    Attributes:
        limit: The number of events that are remembered.
        forgotten: The number of older ones that are no longer remembered.
    """

    def __init__(self, limit: int = DEFAULT_LOG_LIMIT) -> None:
        self.limit = limit
        self.forgotten: int = 0
        self._events: deque[NetworkEvent] = deque(maxlen=limit)

    def add(self, event: NetworkEvent) -> None:
        """Remember one more event, and forget the oldest where there is no room."""
        self.forgotten += len(self._events) == self.limit
        self._events.append(event)

    @overload
    def __getitem__(self, index: int) -> NetworkEvent: ...
    @overload
    def __getitem__(self, index: slice) -> list[NetworkEvent]: ...
    def __getitem__(self, index: int | slice) -> NetworkEvent | list[NetworkEvent]:
        return list(self._events)[index] if isinstance(index, slice) else self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[NetworkEvent]:
        return iter(self._events)

    def __repr__(self) -> str:
        return f"<EventLog of {len(self)} messages, {self.forgotten} forgotten>"


@dataclass(slots=True)
class Tally:
    """The number of messages of one direction by fault. A message that met two faults counts in both.

    Attributes:
        messages: The number of all messages.
        dropped: Messages lost one by one.
        duplicated: Messages that arrive twice.
        reordered: Messages that let others go ahead.
        delayed: Messages that arrive later.
        disconnected: 1 if the link broke at a message.
        waited_for_room: The number of waits because ``max_in_flight`` messages were on their way.
    """

    messages: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    delayed: int = 0
    disconnected: int = 0
    waited_for_room: int = 0

    def count(self, event: NetworkEvent) -> None:
        """Add one message to the numbers."""
        self.messages += 1
        self.dropped += event.dropped
        self.duplicated += event.duplicated
        self.reordered += event.reordered > 0
        self.delayed += event.delayed_by > 0
        self.disconnected += event.disconnected

    def __str__(self) -> str:
        names = [each.name for each in fields(self)][1:]
        met = [f"{getattr(self, name)} {name.replace('_', ' ')}" for name in names if getattr(self, name)]
        return f"{self.messages} ({', '.join(met)})" if met else str(self.messages)
