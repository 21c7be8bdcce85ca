"""What the parts of a connection share: tables, counters, the peer, and the events that they leave. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psession.errors import MessageError
from psession.protocol import events
from psession.protocol.peer_turns import PeerTurns
from psession.protocol.sessions import Sessions
from psession.protocol.states import Peer, Turn, TurnEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.counters import Counters, Drop
    from psession.protocol.dialect import Dialect, ExactFields
    from psession.protocol.dialogue import AskedTurn, Dialogue
    from psession.protocol.endings import Ending
    from psession.protocol.settings import Settings


class Ground:
    """The ground that a connection stands on, whatever its protocol.

    Args:
        settings: What the connection goes by.
        encode: Makes a frame of a message; raises a `MessageError` for one that cannot travel.
        counters: Where everything is counted.

    Attributes:
        sessions: The open sessions.
        is_connected: True while there is a channel on which the peer could be told something.
        is_closing: True where this side takes no new sessions of the peer's any more.
        events: What the shell is to carry out.
    """

    __slots__ = ("counters", "encode", "events", "is_closing", "is_connected", "sessions", "settings")

    def __init__(self, settings: Settings, encode: Callable[[Any], Any], counters: Counters) -> None:
        self.settings: Settings = settings
        self.encode: Callable[[Any], Any] = encode
        self.counters: Counters = counters
        self.sessions: Sessions = Sessions(settings)
        self.is_connected: bool = True
        self.is_closing: bool = False
        self.events: list[events.Event] = []

    def emit(self, event: events.Event) -> None:
        """Leave an event for the shell."""
        self.events.append(event)

    def drop(self, reason: Drop, sid: Any = None, detail: str = "") -> None:
        """Count a message that goes nowhere, and have it logged."""
        self.counters.drop(reason)
        self.events.append(events.Dropped(reason, sid, detail))

    def give_up(self, turn: AskedTurn, ending: Ending) -> bool:
        """A turn of this side's that waits is over without its answer. Return False if it was over already."""
        if turn.state is Turn.IDLE:
            return False
        failed = turn.state is Turn.FAILED
        turn.advance(TurnEvent.GIVE_UP)
        if failed:
            turn.ending = ending  # the caller has the sender's exception on its way, and may try again on it
        else:
            self.emit(events.GivenUp(turn, ending))
        return True


class Shared(Ground):
    """The ground that the parts of a connection of PSession's stand on.

    Args:
        dialect: How headers are written and read.
        settings: What the connection goes by.
        encode: Makes a frame of a message; raises a `MessageError` for one that cannot travel.
        size: The bytes that a frame takes.
        life: The epoch of this port, a number that no other life of it has had.
        counters: Where everything is counted.

    Attributes:
        peer: The wire that the peer is known to speak.
        peer_life: The epoch of the peer's port, where it opened a session.
        turns: The memory of the turns that the peer asked.
    """

    __slots__ = ("dialect", "life", "names", "peer", "peer_life", "size", "turns")

    def __init__(
        self,
        dialect: Dialect,
        settings: Settings,
        encode: Callable[[Any], Any],
        size: Callable[[Any], int],
        life: int,
        counters: Counters,
    ) -> None:
        super().__init__(settings, encode, counters)
        self.dialect: Dialect = dialect
        self.names: ExactFields = dialect.fields
        self.size: Callable[[Any], int] = size
        self.life: int = life
        self.turns: PeerTurns = PeerTurns(settings.max_answer_bytes)
        self.peer: Peer = Peer.UNKNOWN
        self.peer_life: int | None = None

    @property
    def can_tell(self) -> bool:
        """True where there is a peer that understands what it is told."""
        return self.peer is not Peer.CLASSIC and self.is_connected

    def frame(self, sid: int, life: int | None, **fields: Any) -> Any:
        """A frame with nothing of the application's; ``None`` where the codec has no form for one."""
        names = self.names
        header = {getattr(names, field): value for field, value in fields.items()}
        if life is not None:
            header[names.life] = life
        try:
            return self.encode(self.dialect.join({}, sid, header))
        except MessageError:
            return None

    def say(self, sid: int, life: int | None, *, must: bool = False, **fields: Any) -> Any:
        """Have such a frame sent, and return it."""
        frame = self.frame(sid, life, **fields)
        if frame is not None:
            self.events.append(events.Say(frame, must))
        return frame

    def find(self, sid: int, *, own: bool) -> Dialogue | None:
        """The open session of this number, of this side's or of the peer's."""
        return (self.sessions.own if own else self.sessions.peers).get(sid)
