"""Everything that is counted, and every reason for which a message is dropped. Pure."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from psession.protocol.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping


class Drop(State):
    """A reason for which a message of the peer's is dropped; the value is the name of its counter."""

    LATE = "late"
    DUPLICATE = "duplicate"
    UNKNOWN_SID = "unknown_sid"
    NO_SESSION = "no_session"
    NO_HANDLER = "no_handler"
    STALE_OWN = "stale_own"
    STALE_PEER = "stale_peer"
    MALFORMED = "malformed"
    OVERRUN = "overrun"
    REFUSED = "refused"
    CLOSING = "closing"
    UNHEARD = "unheard"
    UNKNOWN_PORT = "unknown_port"


EXPECTED: Final = frozenset((Drop.LATE, Drop.DUPLICATE, Drop.STALE_OWN, Drop.STALE_PEER, Drop.CLOSING))
"""Reasons that a good peer on a bad network gives; the others say that somebody made a mistake."""

ADVICE: Final = {
    Drop.LATE: "a reply came after its turn was given up; a longer timeout would have caught it",
    Drop.DUPLICATE: "a copy of a message that was there already: the network or the peer repeats itself",
    Drop.UNKNOWN_SID: (
        "a reply for a number that this side never gave. Do both sides open sessions from the same range? Give them "
        "disjoint ones, such as session_ids=range(1, 65536, 2) and range(2, 65536, 2), or use the exact wire"
    ),
    Drop.NO_SESSION: "a message for a session that is not open here; its peer missed the end, or was started anew",
    Drop.NO_HANDLER: (
        "the peer opened a session, and nobody takes it: give on_request= or on_session= to the port or its manager"
    ),
    Drop.STALE_OWN: "a message for an earlier life of this port, which was started anew",
    Drop.STALE_PEER: "a message from an earlier life of the peer, which was started anew",
    Drop.MALFORMED: "a message that cannot be read; does the peer speak another protocol?",
    Drop.OVERRUN: "more messages than somebody receives; receive them faster, or raise inbox_limit",
    Drop.REFUSED: "a session was not taken, since max_incoming_sessions are all at work; raise it, or work faster",
    Drop.CLOSING: "a session was not taken, since this port is closed or being drained",
    Drop.UNKNOWN_PORT: "a message for a port that is not open: open it first, or give on_unknown= to manager.listen",
    Drop.UNHEARD: "a message that is no session's, and nobody hears it: give on_message= to the port or its manager",
}
"""For each reason the line that is logged the first time: what happened, and what would be right."""


BOUNDS: Final = tuple(digits * 10.0**exponent for exponent in range(-4, 3) for digits in (1, 2.5, 5))[:-2]
"""The upper bounds of the buckets of a `Histogram`, in seconds: 0.0001, 0.00025, 0.0005, 0.001 and so on up to 100."""

OUTCOMES: Final = ("answered", "failed", "timed_out", "cancelled", "aborted", "other")
"""The outcomes of a turn, each of which has a histogram."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took, how often.

    Attributes:
        bounds: The upper bounds of the counts, in seconds.
        counts: How many took at most the first bound, more than that and at most the second, and so on; last those that
            took more than the last.
        seconds: The time that all of them took.
    """

    bounds: ClassVar[tuple[float, ...]] = BOUNDS
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """The number of all of them."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The bound that this share of them did not exceed, 0.99 for 99 %: in seconds, at most 2.5 times too high.

        ``math.inf`` where it lies beyond the last bound, ``math.nan`` where there is nothing.
        """
        total, so_far = self.count, 0
        if not total:
            return math.nan
        for bound, count in zip((*BOUNDS, math.inf), self.counts, strict=True):
            so_far += count
            if so_far >= share * total:
                return bound
        return math.inf

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        if not isinstance(other, Histogram):
            return NotImplemented
        counts = tuple(one + another for one, another in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot. All but the first seven, the gauges, only ever grow.

    Attributes:
        open: Sessions open now, both kinds.
        incoming: Of these, the ones that the peer opened.
        resting: Session numbers that rest after an unanswered turn.
        queued_bytes: Bytes accepted for sending that the writer has not taken yet.
        waiting: Turns of this side that wait for their answer, those that wait for the turn before them left out.
        oldest: Seconds that the oldest of these has waited; 0 where there is none. Of a manager: the greatest.
        silent: Seconds since the peer's last message; ``math.inf`` before the first. Of a manager: the least.
        opened: Sessions that this side opened.
        accepted: Sessions that the peer opened.
        matched: Replies that reached the turn they answer.
        late: Replies that came after their turn was given up.
        duplicate: Copies of messages, and messages for a turn or a session that is over.
        unknown_sid: Replies for a session's or turn's number that was never given.
        no_session: Messages for a session of the peer's that is not open here.
        no_handler: Messages that open a session where nobody takes any.
        stale_own: Messages for an earlier life of this port.
        stale_peer: Messages from an earlier life of the peer.
        unknown_port: Messages on a shared channel for a port that nobody opened.
        plain: Messages that are no session's.
        unheard: Of these, the ones that came where there is no ``on_message``.
        timed_out: Turns that got no reply in time.
        cancelled: Turns given up by ``cancel()``, ``end()``, overflow, or the caller's own cancel scope.
        aborted: Turns cut off by ``abort()``, ``clear()``, leaving the port, or a channel that ended or broke.
        overrun: Messages that ended their session because its inbox was full, and plain messages dropped likewise.
        malformed: Messages that could not be decoded, or were too large.
        refused: Sessions of the peer that were not taken because ``max_incoming_sessions`` were all at work.
        closing: Sessions of the peer that were not taken because the port is closed or being drained.
        recycled: Sessions ended to make room for another.
        expired: Sessions ended because they were idle for ``session_max_life``.
        crashed: Handlers that raised.
        classic: Replies taken without exact fields, from a peer that can do no better.
        failed: Turns that the peer answered with an error.
        unread: Posts that were not sent, since the peer does not read what waits for it already.
        repeated: Turns that the peer asked again: the one that ran was joined, or the stored answer sent again.
        given_up: Turns of the peer that it gave up while they ran.
        retried: Attempts after the first.
        unpaid: Retries not made, because the budget for them was used up.
        resumed: Times that a broken link came back, and the peer still knew this side.
        forgotten: Times that it came back, and the peer did not.
        sent: Messages handed to the channel or sender, retries included.
        bytes_sent: Bytes written by the channel, 0 where it does not count.
        bytes_received: Bytes read by the channel, 0 where it does not count.
        latency: How long this side's turns took by their outcome, streams left out: ``"answered"``, ``"failed"`` (the
            peer answered with an error), ``"timed_out"``, ``"cancelled"``, ``"aborted"`` or ``"other"``, those alone
            that there were.
    """

    open: int = 0
    incoming: int = 0
    resting: int = 0
    queued_bytes: int = 0
    waiting: int = 0
    oldest: float = 0.0
    silent: float = math.inf
    opened: int = 0
    accepted: int = 0
    matched: int = 0
    late: int = 0
    duplicate: int = 0
    unknown_sid: int = 0
    no_session: int = 0
    no_handler: int = 0
    stale_own: int = 0
    stale_peer: int = 0
    unknown_port: int = 0
    plain: int = 0
    unheard: int = 0
    timed_out: int = 0
    cancelled: int = 0
    aborted: int = 0
    overrun: int = 0
    malformed: int = 0
    refused: int = 0
    closing: int = 0
    recycled: int = 0
    expired: int = 0
    crashed: int = 0
    classic: int = 0
    failed: int = 0
    unread: int = 0
    repeated: int = 0
    given_up: int = 0
    retried: int = 0
    unpaid: int = 0
    resumed: int = 0
    forgotten: int = 0
    sent: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    latency: Mapping[str, Histogram] = field(default_factory=dict[str, Histogram])

    def __add__(self, other: Statistics) -> Statistics:
        """The sum of two, gauges included."""
        if not isinstance(other, Statistics):
            return NotImplemented
        latency = dict(self.latency)
        for outcome, histogram in other.latency.items():
            latency[outcome] = latency.get(outcome, _EMPTY) + histogram
        return Statistics(
            oldest=max(self.oldest, other.oldest),
            silent=min(self.silent, other.silent),
            latency=latency,
            **{name: getattr(self, name) + getattr(other, name) for name in NAMES},
        )


_EMPTY: Final = Histogram()
MEASURES: Final = ("oldest", "silent", "latency")
"""What is no whole number."""

NAMES: Final = tuple(each.name for each in dataclasses.fields(Statistics) if each.name not in MEASURES)
GAUGES: Final = ("open", "incoming", "resting", "queued_bytes", "waiting")
BYTES: Final = ("bytes_sent", "bytes_received")


class Latency:
    """How long the turns of one port took, by outcome: what a `Histogram` is a snapshot of.

    Attributes:
        answered: The counts of turns that were answered, by bucket.
        seconds: The time that these took in all.
    """

    __slots__ = ("_others", "answered", "seconds")

    def __init__(self) -> None:
        self.answered: list[int] = [0] * (len(BOUNDS) + 1)
        self.seconds: float = 0.0
        self._others: dict[str, Histogram] = {}

    def note(self, outcome: str, seconds: float) -> None:
        """Count a turn that was not answered."""
        counts = [0] * (len(BOUNDS) + 1)
        counts[bisect_left(BOUNDS, seconds)] = 1
        self._others[outcome] = self._others.get(outcome, _EMPTY) + Histogram(tuple(counts), seconds)

    def snapshot(self) -> dict[str, Histogram]:
        """A histogram for each outcome there was."""
        answered = Histogram(tuple(self.answered), self.seconds)
        return {"answered": answered, **self._others} if answered.count else dict(self._others)


class Counters:
    """The counters of one port, which grow; `Statistics` is what users see of them."""

    __slots__ = (*(name for name in NAMES if name not in GAUGES and name not in BYTES), "latency")

    latency: Latency

    opened: int
    accepted: int
    matched: int
    late: int
    duplicate: int
    unknown_sid: int
    no_session: int
    no_handler: int
    stale_own: int
    stale_peer: int
    unknown_port: int
    plain: int
    unheard: int
    timed_out: int
    cancelled: int
    aborted: int
    overrun: int
    malformed: int
    refused: int
    closing: int
    recycled: int
    expired: int
    crashed: int
    classic: int
    failed: int
    unread: int
    repeated: int
    given_up: int
    retried: int
    unpaid: int
    resumed: int
    forgotten: int
    sent: int

    def __init__(self) -> None:
        for name in _COUNTED:
            setattr(self, name, 0)
        self.latency = Latency()

    def add(self, name: str, times: int = 1) -> None:
        """Add `times` to the counter of that name."""
        setattr(self, name, getattr(self, name) + times)

    def drop(self, reason: Drop, times: int = 1) -> None:
        """Count messages that were dropped for this reason."""
        self.add(reason.value, times)

    def dropped(self) -> dict[Drop, int]:
        """The number of messages that were dropped for each reason there has been."""
        return {reason: number for reason in Drop if (number := getattr(self, reason.value))}

    def snapshot(self, *, oldest: float = 0.0, silent: float = math.inf, **others: int) -> Statistics:
        """A frozen copy, with the gauges and bytes that the caller knows."""
        counted: dict[str, int] = {name: getattr(self, name) for name in _COUNTED}
        return Statistics(oldest=oldest, silent=silent, latency=self.latency.snapshot(), **counted, **others)


_COUNTED: Final = tuple(name for name in NAMES if name not in GAUGES and name not in BYTES)
