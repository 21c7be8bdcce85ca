"""The settings that a connection goes by. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a connection.

    Attributes:
        own_ids: The numbers that this side hands out.
        max_session_count: How many sessions this side may have open.
        max_incoming_sessions: How many handlers of the peer's sessions may be at work.
        session_max_life: Seconds that a session may be idle.
        session_id_rest: Seconds that a number rests after a turn that was not answered.
        on_unanswered: What the next turn of a session does after one whose reply may still come.
        takes_sessions: True where this side answers what the peer opens.
        takes_requests: True where it answers a question that stands alone without a session.
        takes_dialogues: True where it has a handler for sessions.
        inbox_limit: How many answers to one turn are held that nobody has received, where there is no credit.
        max_answer_bytes: Bytes of answers that are kept for a peer that asks again.
        deadlines: True where turns say how long they wait, and handlers end when the time of their asker is over.
    """

    own_ids: range
    max_session_count: int
    max_incoming_sessions: int
    session_max_life: float
    session_id_rest: float
    on_unanswered: Literal["fresh", "keep", "end"]
    takes_sessions: bool
    takes_requests: bool
    takes_dialogues: bool
    inbox_limit: int
    max_answer_bytes: int
    deadlines: bool
