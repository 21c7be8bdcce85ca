"""Which devices a gateway holds, and what becomes of that when another gateway claims one. Pure.

A gateway whose device has just connected serves it at once and publishes a `Claim`, and publishes it again at each
``announce_interval`` and after each break of its own connection. Whoever else holds the device compares epochs:

==================================== ==================================================================================
what it hears is a claim, and lower  it answers with its own epoch
higher and settled, and its own is   the clocks differ: a device's newer connection wins, so it claims again, with a
fresh                                number above that
higher, else                         it gives its own connection up
==================================== ==================================================================================

An epoch is fresh until ``settle`` seconds after it was first claimed, then it is settled. Of an answer the same holds.

So of any number of gateways that believe they hold a device one is left, the one with the highest epoch, as soon as one
claim and one answer of each have arrived; whatever was lost, repeated or overtaken before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from psession.fleet._epochs import Clock, Epoch
from psession.fleet._words import Claim, Held

if TYPE_CHECKING:
    from collections.abc import Iterator

Verdict = Literal["nothing", "give_up", "answer", "claim_again"]
"""What a gateway has to do about what it heard."""


@dataclass(slots=True)
class Holding:
    """A device that is held.

    Attributes:
        epoch: When it connected.
        since: The moment at which it was first claimed; ``math.inf``: not yet.
    """

    epoch: Epoch
    since: float


class Holdings:
    """The devices that one gateway holds.

    Args:
        gateway: Its id.
        settle: Seconds in which a claim is fresh; after that it is settled.
    """

    def __init__(self, gateway: str, settle: float) -> None:
        self.clock = Clock()
        self._gateway = gateway
        self._settle = settle
        self._held: dict[str, Holding] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __contains__(self, device: object) -> bool:
        return device in self._held

    def epoch(self, device: str) -> Epoch | None:
        """The epoch of a device that is held."""
        holding = self._held.get(device)
        return None if holding is None else holding.epoch

    def numbers(self) -> list[tuple[str, int]]:
        """All that is held, with the numbers of the epochs."""
        return [(device, holding.epoch.number) for device, holding in self._held.items()]

    # -- this gateway's devices --------------------------------------------------------------------------------------

    def take(self, device: str, wall_ns: int) -> Epoch:
        """Hold a device that has just connected; an older connection of it here is superseded. Return its epoch."""
        epoch = Epoch(self.clock.next(wall_ns), self._gateway)
        self._held[device] = Holding(epoch, math.inf)
        return epoch

    def leave(self, device: str, epoch: Epoch) -> bool:
        """Hold a connection of a device no more. Return False if it was superseded or given up already."""
        holding = self._held.get(device)
        if holding is None or holding.epoch != epoch:
            return False
        del self._held[device]
        return True

    def claim(self, device: str, now: float) -> Claim:
        """Return what is to be published of a device that is held; from the first time on it is claimed."""
        holding = self._held[device]
        if holding.since == math.inf:
            holding.since = now
        return Claim(device, holding.epoch.number, self._gateway, now - holding.since >= self._settle)

    # -- what others say ---------------------------------------------------------------------------------------------

    def hear(self, word: Claim | Held, wall_ns: int, now: float) -> Verdict:
        """Another gateway has a device, as it claims or answers to a claim. Return what is to be done."""
        self.clock.hear(word.number)
        holding = self._held.get(word.device)
        if holding is None or word.gateway == self._gateway:
            return "nothing"
        if (word.number, word.gateway) < holding.epoch:
            return "answer" if isinstance(word, Claim) else "nothing"
        if word.settled and not now - holding.since >= self._settle:
            holding.epoch = Epoch(self.clock.next(wall_ns, word.number), self._gateway)
            return "claim_again"
        return "give_up"

    def answer(self, device: str, now: float) -> Held:
        """Return what is to be told to a gateway whose claim is lower."""
        holding = self._held[device]
        return Held(device, holding.epoch.number, self._gateway, now - holding.since >= self._settle)
