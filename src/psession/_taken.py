"""What this side remembers of the turns that its peer asked, so that none is run twice. Pure."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Any

from psession import _rules as rules
from psession._parts import Departing

PAGE = 256
"""Numbers of sessions that share one array of 2 KiB: a peer hands its numbers out in rotation, so they lie together."""

MAX_PAGES = 512
"""131,072 numbers, twice what 16 bits hold, at 1 MiB: what a peer with the default range uses is never forgotten."""

FRAME_OVERHEAD_BYTES = 200
"""What an answer costs beside its bytes: entries of two tables, a list, two objects."""


class LastTurn:
    """The last turn of one session's number, while a session of the peer's has it, or its answer is kept.

    Attributes:
        turn: Its number.
        frames: The messages that answered it.
        size: What these count.
        place: The turn that it had when it took its place in the line of those whose answers may have to go; 0: none.
        is_open: Whether a session has the number.
    """

    __slots__ = ("frames", "is_open", "place", "size", "turn")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.frames: list[Any] = []
        self.size = 0
        self.place = 0
        self.is_open = False


class TakenTurns:
    """The last turn of each session's number, what has become of it, and its answer.

    Turns of one number rise, so the last one is all there is to know: what is lower is over. Numbers fall out in the
    order in which they came; a turn that is not above what fell out may have been run, and is refused.

    Args:
        max_bytes: How much the stored answers may take, their overhead included; the oldest go first.
    """

    def __init__(self, max_bytes: int) -> None:
        self.stored_bytes = 0
        self.running: dict[int, int] = {}
        self.streams: dict[int, Departing] = {}
        self._max_bytes = max_bytes
        self._pages: OrderedDict[int, array[int]] = OrderedDict()
        self._held: dict[int, LastTurn] = {}
        self._line: OrderedDict[int, LastTurn] = OrderedDict()
        self._highest = 0
        self._forgotten = 0

    @property
    def highest(self) -> int:
        """The highest turn that was taken and no question back."""
        turns = [held.turn for held in self._held.values() if held.turn < rules.FIRST_BACK]
        return max([self._highest, *turns])

    def last(self, sid: int) -> int:
        """The last turn taken under this number, 0 where none is remembered."""
        held = self._held.get(sid)
        if held is not None:
            return held.turn
        page = self._pages.get(sid // PAGE)
        return (page[sid % PAGE] if page is not None else 0) or self.running.get(sid, 0)

    def state(self, sid: int) -> str:
        """What is remembered of this number."""
        if sid in self.running:
            return rules.STREAMING if sid in self.streams else rules.RUNNING
        held = self._held.get(sid)
        if held is not None and held.size:
            return rules.ANSWERED
        return rules.OVER if self.last(sid) else rules.NOTHING

    def asked(self, sid: int, turn: int, *, streamed: bool = False, part: int = 1) -> rules.Step:
        """What a message that asks `turn`, for many answers from `part` on or for one, leads to."""
        state, last = self.state(sid), self.last(sid)
        if turn > last:
            if not last and turn <= self._forgotten:
                return rules.ANSWERER[state, rules.ASK_FORGOTTEN]
            if streamed and part > 1:
                return rules.ANSWERER[state, rules.STREAM_REST]
            return rules.ANSWERER[state, rules.STREAM_NEXT if streamed else rules.ASK_NEXT]
        return rules.ANSWERER[state, rules.ASK_SAME if turn == last else rules.ASK_OLDER]

    def quit(self, sid: int, turn: int) -> rules.Step:
        """What a message that gives `turn` up leads to. Done here: the turn is over, and will not be run."""
        state, last = self.state(sid), self.last(sid)
        if turn > last and (last or turn > self._forgotten):
            event = rules.QUIT_NEXT
        else:
            event = rules.QUIT_SAME if turn == last else rules.QUIT_OLDER
        step = rules.ANSWERER[state, event]
        if event is not rules.QUIT_OLDER:
            self._remember(sid, turn)
        return step

    def stop(self, sid: int) -> None:
        """The turn that runs under this number, if one does, is over without an answer."""
        if sid in self.running:
            self.quit(sid, self.last(sid))

    def take(self, sid: int, turn: int) -> None:
        """`turn` is being run."""
        self._remember(sid, turn)
        self.running[sid] = turn

    def take_next(self, sid: int, held: LastTurn, turn: int) -> bool:
        """`turn` is being run, if it is above the last one of an open session. Else nothing is done.

        What `asked` and `take` come to for nearly every turn, in one step: rules.ASK_NEXT, where the last is known.
        """
        if not 0 < held.turn < turn:
            return False
        held.turn = self.running[sid] = turn
        if self.streams:
            self._stop_stream(sid)
        if held.size:
            self.stored_bytes -= held.size
            held.size = 0
            held.frames.clear()
        return True

    def pass_by(self, sid: int, turn: int) -> None:
        """`turn` was taken and wants no answer."""
        self._remember(sid, turn)

    def answer(self, sid: int, frame: Any, size: int) -> None:
        """The last turn is answered with `frame`, which is kept; what no longer fits is not."""
        self._remember(sid, self.last(sid))
        self.append(sid, frame, size)

    def answer_last(self, sid: int, held: LastTurn, turn: int, frame: Any, size: int) -> None:
        """What `answer` comes to in an open session, in one step. Nothing, where `turn` does not run."""
        if self.running.get(sid) != turn:
            return
        del self.running[sid]
        if not held.place:
            self.append(sid, frame, size)
            return
        size += FRAME_OVERHEAD_BYTES
        held.frames.append(frame)
        held.size += size
        self.stored_bytes += size
        if self.stored_bytes > self._max_bytes:
            self._make_room()

    def append(self, sid: int, frame: Any, size: int) -> None:
        """Keep one more message of the answer to the last turn."""
        held = self._held.get(sid) or self._hold(sid)
        size += FRAME_OVERHEAD_BYTES
        held.frames.append(frame)
        held.size += size
        self.stored_bytes += size
        if not held.place:
            held.place = held.turn
            self._line[sid] = held
        if self.stored_bytes > self._max_bytes:
            self._make_room()

    # -- many answers ------------------------------------------------------------------------------------------------

    def stream(self, sid: int, window: int) -> None:
        """The turn that runs is to have many answers."""
        self.streams[sid] = Departing(window)

    def granted(self, sid: int, turn: int) -> rules.Step:
        """What a message that gives credit for `turn` leads to."""
        same = self.last(sid) == turn != 0
        return rules.ANSWERER[self.state(sid), rules.GRANT_SAME if same else rules.GRANT_OTHER]

    def add_part(self, sid: int, stream: Departing, frame: Any, size: int, *, is_end: bool) -> None:
        """Keep one of many answers, or what ends them; the stream is the youngest of what is kept."""
        held = self._held.get(sid) or self._hold(sid)
        stream.made += 1
        stream.is_complete = is_end
        stream.sizes.append(size + FRAME_OVERHEAD_BYTES)
        if is_end:
            self.running.pop(sid, None)
        if held.place:
            self._line.move_to_end(sid)
        self.append(sid, frame, size)

    def forget_parts(self, sid: int, stream: Departing) -> None:
        """The asker has the first ones."""
        gone = stream.to_forget()
        if not gone:
            return
        held = self._held[sid]
        del held.frames[:gone]
        size = sum(stream.sizes.popleft() for _ in range(gone))
        held.size -= size
        self.stored_bytes -= size
        self._let_go(sid, held)

    def stop_streams(self) -> None:
        """Nobody wants any more of any of them."""
        for stream in self.streams.values():
            stream.stop()

    def _stop_stream(self, sid: int) -> None:
        stream = self.streams.pop(sid, None)
        if stream is not None:
            stream.stop()

    def unanswer(self, sid: int, turn: int) -> None:
        """The answer to `turn` was not sent after all."""
        if self.last(sid) == turn:
            held = self._held.get(sid)
            if held is not None:
                self._drop(sid, held)
            self.running[sid] = turn

    def stored(self, sid: int) -> list[Any]:
        """The messages that answered the last turn."""
        held = self._held.get(sid)
        return held.frames.copy() if held is not None else []

    # -- while a session is open -------------------------------------------------------------------------------------

    def open(self, sid: int) -> LastTurn:
        """The peer opens a session of this number: what is known of it is at hand until `close`."""
        held = self._held.get(sid) or self._hold(sid)
        held.is_open = True
        return held

    def close(self, sid: int) -> None:
        """The session is over; its answer is kept."""
        held = self._held.get(sid)
        if held is not None:
            held.is_open = False
            self._let_go(sid, held)

    def _hold(self, sid: int) -> LastTurn:
        held = self._held[sid] = LastTurn(self.last(sid))
        return held

    def _let_go(self, sid: int, held: LastTurn) -> None:
        """Of a number without a session and without an answer no more is kept than its last turn."""
        if not held.is_open and not held.size:
            del self._held[sid]
            if held.place:
                del self._line[sid]
            if held.turn:
                self._write(sid, held.turn)

    # -- the tables --------------------------------------------------------------------------------------------------

    def _remember(self, sid: int, turn: int) -> None:
        self.running.pop(sid, None)
        if self.streams:
            self._stop_stream(sid)
        held = self._held.get(sid)
        if held is None:
            self._write(sid, turn)
            return
        held.turn = turn
        self._drop(sid, held)

    def _write(self, sid: int, turn: int) -> None:
        if turn < rules.FIRST_BACK:
            self._highest = max(self._highest, turn)
        page = self._pages.get(sid // PAGE)
        if page is None:
            page = self._pages[sid // PAGE] = array("Q", bytes(8 * PAGE))
            if len(self._pages) > MAX_PAGES:
                self._forget(self._pages.popitem(last=False)[1])
        page[sid % PAGE] = turn

    def _forget(self, page: array[int]) -> None:
        """A page falls out. What runs is in `running`, and remembered until it is over; what is kept in `_held`."""
        self._forgotten = max(self._forgotten, *(turn for turn in page if turn < rules.FIRST_BACK), 0)

    def _drop(self, sid: int, held: LastTurn) -> None:
        """Drop the answer."""
        self.stored_bytes -= held.size
        held.size = 0
        held.frames.clear()
        if (stream := self.streams.get(sid)) is not None:
            stream.sizes.clear()
            if sid not in self.running:
                del self.streams[sid]
        self._let_go(sid, held)

    def _make_room(self) -> None:
        """Drop answers, the oldest first. Who has answered since it took its place has a new one at the end."""
        while self.stored_bytes > self._max_bytes:
            sid, held = next(iter(self._line.items()))
            if held.size and held.turn != held.place:
                held.place = held.turn
                self._line.move_to_end(sid)
                continue
            del self._line[sid]
            held.place = 0
            self._drop(sid, held)
