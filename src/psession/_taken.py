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
"""What an answer costs beside its bytes: an entry of a table, a list, an object."""


class TakenTurns:
    """The last turn of each session's number, what has become of it, and its answer.

    Turns of one number rise, so the last one is all there is to know: what is lower is over. Numbers fall out in the
    order of their first use; a turn that is not above what fell out may have been run, and is refused.

    Args:
        max_bytes: How much the stored answers may take, their overhead included; the oldest go first.
    """

    def __init__(self, max_bytes: int) -> None:
        self.stored_bytes = 0
        self.highest = 0
        self.running: dict[int, int] = {}
        self.streams: dict[int, Departing] = {}
        self._max_bytes = max_bytes
        self._pages: OrderedDict[int, array[int]] = OrderedDict()
        self._answers: OrderedDict[int, list[Any]] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._forgotten = 0

    def last(self, sid: int) -> int:
        """The last turn taken under this number, 0 where none is remembered."""
        page = self._pages.get(sid // PAGE)
        return page[sid % PAGE] if page is not None else 0

    def state(self, sid: int) -> str:
        """What is remembered of this number."""
        if sid in self.running:
            return rules.STREAMING if sid in self.streams else rules.RUNNING
        if sid in self._answers:
            return rules.ANSWERED
        return rules.OVER if self.last(sid) else rules.NOTHING

    def asked(self, sid: int, turn: int, *, streamed: bool = False) -> rules.Step:
        """What a message that asks `turn`, for many answers or one, leads to."""
        state, last = self.state(sid), self.last(sid)
        if turn > last:
            if not last and turn <= self._forgotten:
                return rules.ANSWERER[state, rules.ASK_FORGOTTEN]
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

    def take(self, sid: int, turn: int) -> None:
        """`turn` is being run."""
        self._remember(sid, turn)
        self.running[sid] = turn

    def pass_by(self, sid: int, turn: int) -> None:
        """`turn` was taken and wants no answer."""
        self._remember(sid, turn)

    def answer(self, sid: int, frame: Any, size: int) -> None:
        """The turn that runs is answered with `frame`, which is kept; what no longer fits is not."""
        self.running.pop(sid, None)
        self.append(sid, frame, size)

    def append(self, sid: int, frame: Any, size: int) -> None:
        """Keep one more message of the answer to the last turn."""
        size += FRAME_OVERHEAD_BYTES
        self._answers.setdefault(sid, []).append(frame)
        self._sizes[sid] = self._sizes.get(sid, 0) + size
        self.stored_bytes += size
        while self.stored_bytes > self._max_bytes:
            self._drop(next(iter(self._answers)))

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
        stream.made += 1
        stream.is_complete = is_end
        stream.sizes.append(size + FRAME_OVERHEAD_BYTES)
        if is_end:
            self.running.pop(sid, None)
        if sid in self._answers:
            self._answers.move_to_end(sid)
        self.append(sid, frame, size)

    def forget_parts(self, sid: int, stream: Departing) -> None:
        """The asker has the first ones."""
        gone = stream.to_forget()
        if not gone:
            return
        del self._answers[sid][:gone]
        for _ in range(gone):
            size = stream.sizes.popleft()
            self._sizes[sid] -= size
            self.stored_bytes -= size
        if not stream.sizes:
            self._drop(sid)

    def stop_streams(self) -> None:
        """Nobody wants any more of any of them."""
        for stream in self.streams.values():
            stream.stop()

    def unanswer(self, sid: int, turn: int) -> None:
        """The answer to `turn` was not sent after all."""
        if self.last(sid) == turn and sid in self._answers:
            self._drop(sid)
            self.running[sid] = turn

    def stored(self, sid: int) -> list[Any]:
        """The messages that answered the last turn."""
        return self._answers.get(sid, [])

    def _remember(self, sid: int, turn: int) -> None:
        self.running.pop(sid, None)
        if self.streams and (stream := self.streams.pop(sid, None)) is not None:
            stream.stop()
        if sid in self._answers:
            self._drop(sid)
        if turn < rules.FIRST_BACK:
            self.highest = max(self.highest, turn)
        page = self._pages.get(sid // PAGE)
        if page is None:
            page = self._pages[sid // PAGE] = array("Q", bytes(8 * PAGE))
            if len(self._pages) > MAX_PAGES:
                _, gone = self._pages.popitem(last=False)
                self._forgotten = max(self._forgotten, *(one for one in gone if one < rules.FIRST_BACK), 0)
        page[sid % PAGE] = turn

    def _drop(self, sid: int) -> None:
        del self._answers[sid]
        self.stored_bytes -= self._sizes.pop(sid)
        stream = self.streams.get(sid)
        if stream is not None:
            stream.sizes.clear()
            if sid not in self.running:
                del self.streams[sid]
