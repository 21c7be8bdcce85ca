"""Everything that is counted, and every reason for which a message is dropped. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from psession.protocol.states import State


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


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot. All but the first four only ever grow.

    Attributes:
        open: Sessions open now, both kinds.
        incoming: Of these, the ones that the peer opened.
        resting: Session numbers that rest after an unanswered turn.
        queued_bytes: Bytes accepted for sending that the writer has not taken yet.
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
        unpaid: Retries not made, because the budget for them was used up.
        resumed: Times that a broken link came back, and the peer still knew this side.
        forgotten: Times that it came back, and the peer did not.
        sent: Messages handed to the channel or sender, retries included.
        bytes_sent: Bytes written by the channel, 0 where it does not count.
        bytes_received: Bytes read by the channel, 0 where it does not count.
    """

    open: int = 0
    incoming: int = 0
    resting: int = 0
    queued_bytes: int = 0
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
    unpaid: int = 0
    resumed: int = 0
    forgotten: int = 0
    sent: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        """The sum of two, gauges included."""
        if not isinstance(other, Statistics):
            return NotImplemented
        return Statistics(*(getattr(self, name) + getattr(other, name) for name in NAMES))


NAMES: Final = tuple(field.name for field in dataclasses.fields(Statistics))
GAUGES: Final = ("open", "incoming", "resting", "queued_bytes")
BYTES: Final = ("bytes_sent", "bytes_received")


class Counters:
    """The counters of one port, which grow; `Statistics` is what users see of them."""

    __slots__ = tuple(name for name in NAMES if name not in GAUGES and name not in BYTES)

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
    unpaid: int
    resumed: int
    forgotten: int
    sent: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def add(self, name: str, times: int = 1) -> None:
        """Add `times` to the counter of that name."""
        setattr(self, name, getattr(self, name) + times)

    def drop(self, reason: Drop, times: int = 1) -> None:
        """Count messages that were dropped for this reason."""
        self.add(reason.value, times)

    def dropped(self) -> dict[Drop, int]:
        """The number of messages that were dropped for each reason there has been."""
        return {reason: number for reason in Drop if (number := getattr(self, reason.value))}

    def snapshot(self, **others: int) -> Statistics:
        """A frozen copy, with the gauges and bytes that the caller knows."""
        return Statistics(**{name: getattr(self, name) for name in self.__slots__}, **others)
