"""A memory of the peer's turns, told what happens in the words of the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psession.protocol.peer_turns import PeerTurns
from psession.protocol.states import ANSWERER, PeerDo, PeerEvent

if TYPE_CHECKING:
    from psession.protocol.credit import Departing


class Memory(PeerTurns):
    """`PeerTurns`, with one call for each deed."""

    def asks(self, key: int, turn: int, **options: Any) -> PeerDo:
        """Look up what a question leads to, and do nothing."""
        return ANSWERER[self.state(key), self.asked(key, turn, **options)].do

    def take(self, key: int, turn: int) -> None:
        """The turn runs."""
        self.advance(key, PeerEvent.ASK_NEXT, turn)

    def stream(self, key: int, turn: int, window: int) -> Departing:
        """The turn runs, and is to have many answers."""
        self.advance(key, PeerEvent.STREAM_NEXT, turn, window)
        stream = self.stream_of(key)
        assert stream is not None
        return stream

    def pass_by(self, key: int, turn: int) -> None:
        """The turn wants no answer."""
        self.advance(key, PeerEvent.PASS, turn)

    def reply(self, key: int, frame: Any, size: int) -> None:
        """The turn that runs is answered."""
        held = self.held(key)
        assert held is not None
        self.answer(held, frame, size)

    def grants(self, key: int, turn: int) -> PeerDo:
        """The asker gives credit."""
        return self.advance(key, self.granted(key, turn))

    def part(self, key: int, frame: Any, size: int, *, is_end: bool = False) -> None:
        """The handler gives one of many answers, or the last."""
        held = self.held(key)
        assert held is not None
        self.add_part(held, frame, size, PeerEvent.FINISH if is_end else PeerEvent.PART)

    def forget_acked(self, key: int) -> None:
        """Forget the parts that the asker has."""
        held = self.held(key)
        assert held is not None
        self.forget_parts(held)

    def stored(self, key: int) -> list[Any]:
        """The messages that answered the last turn."""
        held = self.held(key)
        return held.frames.copy() if held is not None else []

    def stream_of(self, key: int) -> Departing | None:
        """The many answers of the last turn."""
        held = self.held(key)
        return held.stream if held is not None else None
