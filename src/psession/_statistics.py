"""Counters of a port and of a manager. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

_GAUGES = frozenset({"open", "incoming", "resting", "queued_bytes"})


@dataclass(slots=True)
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
        duplicate: Messages for a number whose turns were all answered and whose session is over.
        unknown_sid: Messages for a number that was never handed out, or that nobody here handles.
        unknown_port: Messages on a shared channel for a port that nobody opened.
        plain: Messages that are no session's.
        timed_out: Turns that got no reply in time.
        cancelled: Turns given up by ``cancel()``, ``end()``, overflow, or the caller's own cancel scope.
        aborted: Turns cut off by ``abort()``, ``clear()``, leaving the port, or a channel that ended or broke.
        overrun: Messages that ended their session because its inbox was full, and plain messages dropped likewise.
        malformed: Messages that could not be decoded, or were too large.
        refused: Sessions of the peer that were not taken because ``max_incoming_sessions`` were all at work.
        recycled: Sessions ended to make room for another.
        expired: Sessions ended because they were idle for ``session_max_life``.
        crashed: Handlers that raised.
        classic: Replies taken without exact fields, from a peer that can do no better.
        failed: Turns that the peer answered with an error.
        repeated: Turns that the peer asked again: the one that ran was joined, or the stored answer sent again.
        given_up: Turns of the peer that it gave up while they ran.
        unpaid: Retries not made, because the budget for them was used up.
        resumed: Times that a broken line came back, and the peer still knew this side.
        forgotten: Times that it came back, and the peer did not.
        other_life: Messages of or for a port that is gone, its peer's or this side's.
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
    unknown_port: int = 0
    plain: int = 0
    timed_out: int = 0
    cancelled: int = 0
    aborted: int = 0
    overrun: int = 0
    malformed: int = 0
    refused: int = 0
    recycled: int = 0
    expired: int = 0
    crashed: int = 0
    classic: int = 0
    failed: int = 0
    repeated: int = 0
    given_up: int = 0
    unpaid: int = 0
    resumed: int = 0
    forgotten: int = 0
    other_life: int = 0
    sent: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def count(self, counter: str, times: int) -> None:
        """Add `times` to the counter of that name."""
        setattr(self, counter, getattr(self, counter) + times)

    def add(self, other: Statistics) -> None:
        """Add the counters of `other`, and its gauges too."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def without_gauges(self) -> Statistics:
        """What stays true when the port is gone."""
        return dataclasses.replace(self, **dict.fromkeys(_GAUGES, 0))
