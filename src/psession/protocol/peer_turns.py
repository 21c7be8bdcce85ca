"""The memory of the turns that the peer asked, so that none is run twice: each number's last one. Pure."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Any, Final

from psession.protocol.credit import Departing
from psession.protocol.states import ANSWERER, FIRST_BACK, IllegalStepError, PeerDo, PeerEvent, PeerTurn

PAGE: Final = 256
"""Numbers of sessions that share one array of 2 KiB: a peer hands its numbers out in rotation, so they lie together."""

MAX_PAGES: Final = 512
"""131,072 numbers, twice what 16 bits hold, at 1 MiB: what a peer with the default range uses is never forgotten."""

LEAST_KEPT_BYTES: Final = 64 * 1024
"""Stored answers that stay with a port, whatever others need: the last 200 small ones, more than wait at one time."""

FRAME_OVERHEAD_BYTES: Final = 200
"""What an answer costs beside its bytes: entries of two tables, a list, two objects."""

_PART: Final = PeerEvent.PART
_NOTHING, _RUNNING, _STREAMING, _OVER = PeerTurn.NOTHING, PeerTurn.RUNNING, PeerTurn.STREAMING, PeerTurn.OVER
AT_WORK: Final = frozenset((PeerTurn.RUNNING, PeerTurn.STREAMING))
"""The states in which a handler owes an answer."""


class LastTurn:
    """The last turn of one session's number: while its session is open, while it runs, and while its answer is kept.

    Attributes:
        key: The number of the session, below 0 where this side opened it: the two sides may use the same numbers.
        turn: The number of the turn; 0: none yet.
        state: The turn's state.
        frames: The messages that answered it.
        size: The bytes that these count.
        queued_at: The turn that it had when it joined the queue of those whose answers may have to go; 0: not in it.
        is_open: True while a session has the number.
        stream: Its many answers, where it is to have many.
    """

    __slots__ = ("frames", "is_open", "key", "queued_at", "size", "state", "stream", "turn")

    def __init__(self, key: int, turn: int) -> None:
        self.key: int = key
        self.turn: int = turn
        self.state = _OVER if turn else _NOTHING
        self.frames: list[Any] = []
        self.size: int = 0
        self.queued_at: int = 0
        self.is_open: bool = False
        self.stream: Departing | None = None

    @property
    def running(self) -> int:
        """The number of the turn while its handler owes an answer, else 0."""
        return self.turn if self.state in AT_WORK else 0


class PeerTurns:
    """The last turn of each session's number, what has become of it, and its answer.

    Turns of one number rise, so the last one is all there is to know: what is lower is over. Numbers fall out in the
    order in which they came; a turn that is not above those that fell out may have been run, and is refused.

    Args:
        max_bytes: The bytes that stored answers may take, their overhead included; the oldest go first.

    Attributes:
        stored_bytes: The bytes that they take.
    """

    __slots__ = ("_forgotten", "_held", "_highest", "_max_bytes", "_pages", "_queue", "stored_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.stored_bytes: int = 0
        self._max_bytes = max_bytes
        self._pages: OrderedDict[int, array[int]] = OrderedDict()
        self._held: dict[int, LastTurn] = {}
        self._queue: OrderedDict[int, LastTurn] = OrderedDict()
        self._highest = 0
        self._forgotten = 0

    @property
    def highest(self) -> int:
        """The highest turn that was taken and no question back."""
        turns = [held.turn for held in self._held.values() if held.turn < FIRST_BACK]
        return max([self._highest, *turns])

    def held(self, key: int) -> LastTurn | None:
        """Everything known of a number; ``None`` where that is no more than its last turn."""
        return self._held.get(key)

    def last(self, key: int) -> int:
        """The last turn taken under this number, 0 where none is remembered."""
        held = self._held.get(key)
        if held is not None:
            return held.turn
        page = self._pages.get(key // PAGE)
        return page[key % PAGE] if page is not None else 0

    def running(self, key: int) -> int:
        """The turn that runs under this number, 0 where none does."""
        held = self._held.get(key)
        return held.running if held is not None else 0

    def state(self, key: int) -> PeerTurn:
        """The state of the last turn of this number."""
        held = self._held.get(key)
        if held is not None:
            return held.state
        return _OVER if self.last(key) else _NOTHING

    # -- what a message is to the last turn of its number ------------------------------------------------------------

    def asked(self, key: int, turn: int, *, streamed: bool = False, part: int = 1, posts: bool = False) -> PeerEvent:
        """The event that a message is which asks `turn`, for many answers from `part` on, for one, or for none."""
        last = self.last(key)
        if turn > last:
            if not last and turn <= self._forgotten:
                return PeerEvent.ASK_FORGOTTEN
            if posts:
                return PeerEvent.PASS
            if streamed:
                return PeerEvent.STREAM_REST if part > 1 else PeerEvent.STREAM_NEXT
            return PeerEvent.ASK_NEXT
        return PeerEvent.ASK_SAME if turn == last else PeerEvent.ASK_OLDER

    def quit(self, key: int, turn: int) -> PeerEvent:
        """The event that a message is which gives `turn` up."""
        last = self.last(key)
        if turn > last and (last or turn > self._forgotten):
            return PeerEvent.QUIT_NEXT
        return PeerEvent.QUIT_SAME if turn == last else PeerEvent.QUIT_OLDER

    def granted(self, key: int, turn: int) -> PeerEvent:
        """The event that a message is which gives credit for `turn`."""
        return PeerEvent.GRANT_SAME if self.last(key) == turn != 0 else PeerEvent.GRANT_OTHER

    # -- the one function that changes a state -----------------------------------------------------------------------

    def advance(self, key: int, event: PeerEvent, turn: int = 0, window: int = 0) -> PeerDo:
        """Take the step from the table, and keep the memory in line with it. Return what is to be done.

        Args:
            key: The session's number.
            event: What happened.
            turn: The turn that it happened to, where that is a new one.
            window: The credit that a turn with many answers begins with.

        Raises:
            IllegalStepError: The table has no such step. Nothing was changed.
        """
        held = self._held.get(key)
        state = held.state if held is not None else self.state(key)
        try:
            to, do, _ = ANSWERER[state, event]
        except KeyError:
            raise _illegal(key, state, event) from None
        if to is state and not turn:
            return do
        if to in AT_WORK and held is None:
            held = self._hold(key)
        if held is None:
            if turn:
                self._write(key, turn)
            return do
        held.state = to
        if turn:
            held.turn = turn
            self._drop(held)
            self._stop_stream(held)
            if window:
                held.stream = Departing(window)
        elif to is _OVER:
            self._drop(held)
            self._stop_stream(held)
        if to is _OVER:
            self._let_go(held)
        return do

    def give_up(self, key: int, turn: int) -> PeerDo:
        """`turn` is over, and will not be run. Return what is to be done."""
        event = self.quit(key, turn)
        return self.advance(key, event, 0 if event is PeerEvent.QUIT_OLDER else turn)

    def ask_next(self, held: LastTurn, turn: int) -> bool:
        """Take a turn that asks for one answer, if it is above the last one of its number. Else do nothing.

        The fast way for nearly every turn: what `asked` and `advance` come to for it, in one step.
        """
        if turn <= (held.turn or self._forgotten):
            return False
        held.turn = turn
        held.state = _RUNNING
        if held.stream is not None:
            self._stop_stream(held)
        if held.size:
            self.stored_bytes -= held.size
            held.size = 0
            held.frames.clear()
        return True

    def ask_alone(self, key: int, turn: int) -> LastTurn | None:
        """The same for a number of which no session is open; ``None`` where nothing was done."""
        held = self._held.get(key)
        if held is not None:
            return held if self.ask_next(held, turn) else None
        held = LastTurn(key, self.last(key))
        if not self.ask_next(held, turn):
            return None
        self._held[key] = held
        return held

    def stop(self, key: int) -> None:
        """End the turn that runs under this number, if one does, without an answer."""
        if self.running(key):
            self.advance(key, PeerEvent.QUIT_SAME)

    # -- stored answers ----------------------------------------------------------------------------------------------

    def answer(self, held: LastTurn, frame: Any, size: int) -> None:
        """The turn that runs is answered with `frame`, which is kept for as long as there is room."""
        self._answered(held, PeerEvent.ANSWER)
        self.store(held, frame, size)

    def _answered(self, held: LastTurn, event: PeerEvent) -> None:
        """Take the step from the table that the turn which runs is answered: all that `advance` would do."""
        try:
            held.state = ANSWERER[held.state, event].to
        except KeyError:
            raise _illegal(held.key, held.state, event) from None

    def store(self, held: LastTurn, frame: Any, size: int) -> None:
        """Keep one more message of the answer to the last turn."""
        size += FRAME_OVERHEAD_BYTES
        held.frames.append(frame)
        held.size += size
        self.stored_bytes += size
        if not held.queued_at:
            held.queued_at = held.turn
            self._queue[held.key] = held
        if self.stored_bytes > self._max_bytes:
            self._make_room(self._max_bytes)

    def add_part(self, held: LastTurn, frame: Any, size: int, event: PeerEvent) -> None:
        """Keep one of many answers, or what ends them; the stream is the youngest of what is kept.

        Args:
            held: The turn.
            frame: The message.
            size: Its bytes.
            event: `PART`, or `FINISH` or `LEAVE` where the answers end with it.
        """
        stream = held.stream
        assert stream is not None
        if event is not _PART or held.state is not _STREAMING:  # else the step from the table changes nothing
            self._answered(held, event)
            stream.is_complete = event is not _PART
        stream.made += 1
        stream.sizes.append(size + FRAME_OVERHEAD_BYTES)
        if held.queued_at:
            self._queue.move_to_end(held.key)
        self.store(held, frame, size)

    def forget_parts(self, held: LastTurn) -> None:
        """Forget the first parts, which the asker has."""
        stream = held.stream
        gone = stream.to_forget() if stream is not None else 0
        if stream is None or not gone:
            return
        del held.frames[:gone]
        size = sum(stream.sizes.popleft() for _ in range(gone))
        held.size -= size
        self.stored_bytes -= size
        self._let_go(held)

    def unanswer(self, key: int, turn: int) -> bool:
        """Take the answer to `turn` back, which was not sent after all: it runs again. Return True if it does.

        The answer may be gone already, where there was no room to keep it.
        """
        if self.last(key) != turn or self.state(key) in AT_WORK:
            return False
        held = self._held.get(key) or self._hold(key)
        held.state = _RUNNING
        self._drop(held)
        return True

    def stop_streams(self) -> None:
        """Wake whoever sends any of many answers: nobody wants any more of them."""
        for held in self._held.values():
            if held.stream is not None:
                held.stream.stop()

    # -- while a session is open -------------------------------------------------------------------------------------

    def open(self, key: int) -> LastTurn:
        """Keep what is known of a number at hand until `close`: the peer opens a session of it."""
        held = self._held.get(key) or self._hold(key)
        held.is_open = True
        return held

    def close(self, key: int) -> None:
        """The session is over; its answer is kept."""
        held = self._held.get(key)
        if held is not None:
            held.is_open = False
            self._let_go(held)

    # -- the tables --------------------------------------------------------------------------------------------------

    def _hold(self, key: int) -> LastTurn:
        held = self._held[key] = LastTurn(key, self.last(key))
        return held

    def _let_go(self, held: LastTurn) -> None:
        """Keep no more than the last turn of a number without a session, a turn that runs and an answer."""
        if held.is_open or held.size or held.state in AT_WORK:
            return
        if self._held.pop(held.key, None) is None:
            return
        if held.queued_at:
            del self._queue[held.key]
            held.queued_at = 0
        if held.turn:
            self._write(held.key, held.turn)

    def _write(self, key: int, turn: int) -> None:
        if turn < FIRST_BACK:
            self._highest = max(self._highest, turn)
        page = self._pages.get(key // PAGE)
        if page is None:
            page = self._pages[key // PAGE] = array("Q", bytes(8 * PAGE))
            if len(self._pages) > MAX_PAGES:
                self._forget(self._pages.popitem(last=False)[1])
        page[key % PAGE] = turn

    def _forget(self, page: array[int]) -> None:
        """Note the highest turn of a page that falls out; what runs, or has its answer kept, is held elsewhere."""
        self._forgotten = max(self._forgotten, *(turn for turn in page if turn < FIRST_BACK), 0)

    def _stop_stream(self, held: LastTurn) -> None:
        if held.stream is not None:
            held.stream.stop()
            held.stream = None

    def _drop(self, held: LastTurn) -> None:
        """Drop the stored answer."""
        self.stored_bytes -= held.size
        held.size = 0
        held.frames.clear()
        if held.stream is not None:
            held.stream.sizes.clear()

    def shrink(self) -> int:
        """Drop the older half of the stored answers, but for `LEAST_KEPT_BYTES`. Return the bytes that are free."""
        before = self.stored_bytes
        if before > LEAST_KEPT_BYTES:
            self._make_room(max(before // 2, LEAST_KEPT_BYTES))
        return before - self.stored_bytes

    def _make_room(self, most: int) -> None:
        """Drop answers, the oldest first. One given after it joined the queue is not as old as its place there says."""
        while self.stored_bytes > most:
            key, held = next(iter(self._queue.items()))
            if held.size and held.turn != held.queued_at:
                held.queued_at = held.turn
                self._queue.move_to_end(key)
                continue
            del self._queue[key]
            held.queued_at = 0
            if held.size:
                self._drop(held)
                self.advance(key, PeerEvent.OUTGROW)


def _illegal(key: int, state: PeerTurn, event: PeerEvent) -> IllegalStepError:
    return IllegalStepError(f"session {key}: a turn that is {state.value} when {event.value!r}")
