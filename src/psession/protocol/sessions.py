"""Both sides' sessions by number, and who gets which number. Pure: time is an argument."""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from psession.protocol.dialogue import BUSY, Dialogue
from psession.protocol.numbers import SidPool
from psession.protocol.states import Opened

if TYPE_CHECKING:
    from psession.protocol.settings import Settings


class Sessions:
    """The open sessions of one port. The two sides may use the same numbers: each has a table of its own.

    Attributes:
        own: This side's, by number.
        peers: The peer's, by number.
        pool: This side's numbers.
        is_ranking: True once the peer has opened more sessions than there is room for.
    """

    __slots__ = ("_by_age", "_rank_numbers", "_ranks", "_settings", "is_ranking", "own", "peers", "pool")

    def __init__(self, settings: Settings) -> None:
        self.own: dict[int, Dialogue] = {}
        self.peers: dict[int, Dialogue] = {}
        self.pool: SidPool = SidPool(settings.own_ids)
        self._settings = settings
        self._by_age: deque[Dialogue] = deque()
        self.is_ranking: bool = False
        self._ranks: list[tuple[float, int, Dialogue]] = []
        self._rank_numbers = count()

    def __len__(self) -> int:
        return len(self.own) + len(self.peers)

    def all(self) -> list[Dialogue]:
        """Every open session."""
        return [*self.own.values(), *self.peers.values()]

    # -- this side's -------------------------------------------------------------------------------------------------

    def take(self, now: float) -> int | None:
        """A number for a new session; ``None`` where as many are open as may be, or no number is free."""
        if len(self.own) >= self._settings.max_session_count:
            return None
        return self.pool.take(now)

    def add(self, sid: int, max_life: float, unsafe_until: float, *, once: bool = False) -> Dialogue:
        """Enter a session of this side's, whose number was taken."""
        dialogue = self.own[sid] = Dialogue(sid, max_life, incoming=False)
        dialogue.unsafe_until = unsafe_until
        dialogue.once = once
        if once:
            return dialogue
        ages = self._by_age
        if len(ages) > 2 * len(self.own) + 32:  # those that are over are swept out at no more than two looks a session
            self._by_age = ages = deque(older for older in ages if older.ending is None)
        ages.append(dialogue)
        return dialogue

    def oldest(self) -> Dialogue | None:
        """The session of this side's that was opened first; where all are for one turn, the first of those."""
        ages = self._by_age
        while ages and ages[0].ending is not None:
            ages.popleft()
        return ages[0] if ages else next(iter(self.own.values()), None)

    def renew(self, dialogue: Dialogue, now: float) -> float | None:
        """Give a session a number that no late reply can reach.

        Returns:
            ``None`` when it has one, else the moment to ask again.
        """
        if not dialogue.owed and dialogue.unsafe_until <= now:
            dialogue.unsafe_until = 0.0
            return None
        if dialogue.owed:
            dialogue.unsafe_until = now + self._settings.session_id_rest
        fresh = self.pool.take(now)
        if fresh is None:
            # It keeps its number, which rests in its hands.
            dialogue.owed = 0
            return min(dialogue.unsafe_until, self.pool.next_safe() or math.inf)
        del self.own[dialogue.sid]
        self.pool.rest(dialogue.sid, dialogue.unsafe_until, dialogue.owed or math.inf)
        dialogue.sid = fresh
        dialogue.owed, dialogue.unsafe_until = 0, 0.0
        self.own[fresh] = dialogue
        return None

    # -- the peer's --------------------------------------------------------------------------------------------------

    def accept(self, sid: int) -> Dialogue:
        """Enter a session that the peer opened."""
        dialogue = self.peers[sid] = Dialogue(sid, self._settings.session_max_life, incoming=True)
        return dialogue

    def rests(self, dialogue: Dialogue) -> None:
        """Rank a session of the peer's that is idle, if anything is ranked at all."""
        if self.is_ranking and not dialogue.is_ranked:
            dialogue.is_ranked = True
            heappush(self._ranks, (dialogue.idle_since, next(self._rank_numbers), dialogue))

    def longest_idle(self) -> Dialogue | None:
        """The session of the peer's that has been idle longest; ``None`` where all are at work.

        Ranks are kept from the first call on, since most ports never have to make room. A session that is idle again
        keeps its place until it comes to the front; one that is at work leaves, and comes back with `rests`.
        """
        ranks = self._ranks
        if not self.is_ranking:
            self.is_ranking = True
            idle = [dialogue for dialogue in self.peers.values() if dialogue.idle_since != BUSY]
            ranks.extend((dialogue.idle_since, next(self._rank_numbers), dialogue) for dialogue in idle)
            heapify(ranks)
            for dialogue in idle:
                dialogue.is_ranked = True
        while ranks:
            since, _, dialogue = heappop(ranks)
            dialogue.is_ranked = False
            if dialogue.ending is not None or dialogue.idle_since == BUSY:
                continue
            if dialogue.idle_since == since:
                return dialogue
            self.rests(dialogue)
        return None

    # -- the end -----------------------------------------------------------------------------------------------------

    def forget(self, dialogue: Dialogue, owed: int, now: float) -> bool:
        """Take a session that is over out of its table; its number is free, or rests.

        Args:
            dialogue: The session.
            owed: Replies that may still come to its number, and be taken for another's.
            now: The moment.

        Returns:
            True where it had a number of this side's.
        """
        if dialogue.incoming:
            del self.peers[dialogue.sid]
            return False
        del self.own[dialogue.sid]
        rest = self._settings.session_id_rest
        exact = dialogue.exact
        if owed:
            self.pool.rest(dialogue.sid, now + rest, owed)
        elif exact is not None and exact.opened is Opened.TOLD:
            self.pool.rest(dialogue.sid, now + rest, 1)  # until the peer says that it is done too
        elif dialogue.unsafe_until:
            self.pool.rest(dialogue.sid, dialogue.unsafe_until, math.inf)  # how many are owed is not known any more
        else:
            self.pool.give_back(dialogue.sid)
        return True
