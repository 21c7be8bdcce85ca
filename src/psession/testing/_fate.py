"""What became of each message on a bad network, and the record of it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, NamedTuple, TypeAlias, overload

Direction: TypeAlias = Literal["send", "receive"]
"""Which way a message goes, seen from the side that holds the lossy channel."""

DEFAULT_LOG_LIMIT: Final = 10_000
"""Messages that a log remembers: all of a run of 500 turns, each of which may be tried several times."""


class Moment(NamedTuple):
    """When something happened: seconds on Trio's clock, and what came before what within one of its ticks."""

    time: float
    order: int


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one message. Two are equal when the same became of the same message, whenever that was.

    Attributes:
        number: It was the so-manieth message of its direction, from 1.
        direction: ``"send"``: from the side that holds the lossy channel; ``"receive"``: to it.
        message: The message itself, not a copy.
        time: When it set out: seconds on Trio's clock.
        order: Its place among all that the log has seen happen.
        dropped: It never arrives.
        disconnected: The line broke at it, and it never arrives.
        duplicated: It arrives twice.
        delayed_by: Seconds that it was on its way, beside those that it waited for others.
        again_delayed_by: The same for its duplicate.
        reordered: How many later messages of its direction it lets go ahead, if they come in time; 0: none.
        arrived: When it did, and when its duplicate did; empty while it is on its way.
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
        """How often it is to arrive: 0, 1 or 2 times."""
        return 0 if self.dropped or self.disconnected else 2 if self.duplicated else 1


class FateLog(Sequence[Fate]):
    """The fates of the latest messages of both directions, in the order in which they set out.

    Attributes:
        limit: How many are remembered.
        forgotten: How many were, and are no longer.
    """

    def __init__(self, limit: int = DEFAULT_LOG_LIMIT) -> None:
        self.limit = limit
        self.forgotten = 0
        self._fates: deque[Fate] = deque(maxlen=limit)

    def add(self, fate: Fate) -> None:
        """Remember one more; the oldest is forgotten where there is no room."""
        self.forgotten += len(self._fates) == self.limit
        self._fates.append(fate)

    @overload
    def __getitem__(self, index: int) -> Fate: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fate]: ...
    def __getitem__(self, index: int | slice) -> Fate | list[Fate]:
        return list(self._fates)[index] if isinstance(index, slice) else self._fates[index]

    def __len__(self) -> int:
        return len(self._fates)

    def __iter__(self) -> Iterator[Fate]:
        return iter(self._fates)

    def __repr__(self) -> str:
        return f"<FateLog of {len(self)} messages, {self.forgotten} forgotten>"


@dataclass(slots=True)
class Tally:
    """How many messages of one direction met what. A message that met two faults counts in both.

    Attributes:
        messages: All of them.
        dropped: Lost one by one.
        duplicated: To arrive twice.
        reordered: To let others go ahead.
        delayed: To arrive later.
        disconnected: 1 when the line broke at one.
        waited_for_room: How often one had to wait because ``max_in_flight`` were on their way.
    """

    messages: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    delayed: int = 0
    disconnected: int = 0
    waited_for_room: int = 0

    def count(self, fate: Fate) -> None:
        """Add one message."""
        self.messages += 1
        self.dropped += fate.dropped
        self.duplicated += fate.duplicated
        self.reordered += fate.reordered > 0
        self.delayed += fate.delayed_by > 0
        self.disconnected += fate.disconnected

    def __str__(self) -> str:
        names = [each.name for each in fields(self)][1:]
        met = [f"{getattr(self, name)} {name.replace('_', ' ')}" for name in names if getattr(self, name)]
        return f"{self.messages} ({', '.join(met)})" if met else str(self.messages)
