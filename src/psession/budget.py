"""Bytes that peers make this side hold: by one port, and by all ports together. Pure."""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from psession import checks
from psession.absences import DEFAULT_ABSENT_PORTS, DEFAULT_ABSENT_PORTS_PER_ADDRESS, Absences

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_BYTES: Final = 128 * 2**20
"""An eighth of a server with 1 GiB: what is counted as one byte may take two, and the server has other things to do."""

MOST_WEIGHED: Final = 4096
"""Members of a message that are looked at, in half a millisecond: more than 1 KiB can have. One that has more came with
an estimate."""

FEW_WEIGHED: Final = 16
"""Members that are looked at of a message whose estimate is known: one that has more counts as that says. Looking at
all of 10 kB of rows took the server 400 us, of 500."""

FIRST_MESSAGE: Final = 2048
"""Bytes that a short message counts which is not weighed: 1 KiB of JSON takes 1 to 3 as a rule, of nested lists 22."""

LONG: Final = 8192
"""Bytes of a message that counts while a handler is at work on it. Shorter ones take no more than the handler does."""

IN_HAND: Final = 3
"""How many times the bytes that may wait there may be in all, with those that handlers are at work on."""

_FEW: Final = 16
_SCALARS: Final = frozenset((int, float, bool, bytes, type(None)))
_WEIGHTLESS: Final = frozenset((bool, type(None)))


class Budget:
    """A limit for what the peers of any number of ports make this side hold together: bytes, and ports that wait.

    The bytes are those of messages that nobody has received, as they take decoded, of messages that have come in part
    or wait for a peer which does not read, of stored answers, and 3 KiB for each session of a peer's whose handler is
    at work. Where they are used up, the port that holds the most gives way. If most of it are messages in one session,
    that session ends with `psession.SessionOverrunError`; otherwise the port closes.

    Of the ports that wait for their peer to come back (``resume_within``) the one that has waited longest is given up
    where there are too many: it ends with `psession.PortClosedError`. Give one budget to several managers, or leave
    each its own.

    Args:
        bytes: How many. 128 MiB by default.
        absent_ports: How many ports may wait for their peer, on the side that accepts. By default 1000, as many as
            `psession.channels.serve_websocket` lets in.
        absent_ports_per_address: How many of these for peers of one address, by default 100. The address is the host in
            the ``remote`` of the channel, of public IPv6 addresses the first 64 bits; without a ``remote`` only
            `absent_ports` counts. Behind a proxy all peers have its address: then give both the same value.

    Attributes:
        bytes: The same.
        used: How many are in use.
        gave_way: How often a port gave way.
        absences: The ports that wait; for psession's own use.

    Raises:
        TypeError, ValueError: Not a whole number above 0.
    """

    def __init__(
        self,
        bytes: int = DEFAULT_BYTES,
        *,
        absent_ports: int = DEFAULT_ABSENT_PORTS,
        absent_ports_per_address: int = DEFAULT_ABSENT_PORTS_PER_ADDRESS,
    ) -> None:
        checks.count("bytes", bytes)
        checks.count("absent_ports", absent_ports)
        checks.count("absent_ports_per_address", absent_ports_per_address)
        self.bytes = bytes
        self.used: int = 0
        self.gave_way: int = 0
        self.absences: Absences = Absences(absent_ports, absent_ports_per_address)
        self._accounts: dict[Account, None] = {}

    def __repr__(self) -> str:
        return f"<psession.Budget: {self.used} of {self.bytes} bytes in use, {self.absent} ports absent>"

    @property
    def absent(self) -> int:
        """The number of ports that wait for their peer now."""
        return len(self.absences)

    @property
    def given_up(self) -> int:
        """The number of ports so far that were given up, since more waited than may."""
        return self.absences.given_up

    def enter(self, account: Account) -> None:
        """Let an account take part."""
        self._accounts[account] = None

    def leave(self, account: Account) -> None:
        """Let it take part no more: what it held is free."""
        if account in self._accounts:
            del self._accounts[account]
            self.used -= account.all

    def make_room(self, size: int, asker: Account | None = None) -> bool:
        """Have those that hold the most give way until there is room. Return False where that is the asker itself.

        What good peers leave behind goes first: on the exact wire the answers that are kept for who asks again, and on
        the classic one, where sessions have no end, those whose handlers wait for more.
        """
        while self.used + size > self.bytes:
            largest = max(self._accounts, key=lambda account: account.all, default=None)
            if largest is not None and largest.dismiss():
                continue
            if largest is None or largest is asker or not largest.all or not largest.give_way():
                return False
            self.gave_way += 1
        return True

    def measure_next(self) -> None:
        """Measure the port whose turn it is: one that hears nothing any more may hold more than when it did."""
        account = next(iter(self._accounts))
        self._accounts[account] = self._accounts.pop(account)
        account.measure()


class Account:
    """The account of what one port holds.

    Args:
        budget: What all ports may hold together.
        most_bytes: What its messages may hold that nobody has received.
        most_messages: How many messages one session of it may hold.
        give_way: Ends the session of the port's that holds the most, or the port. Returns False if nothing can be done.
        rest: Measures what else the port holds, which is not counted as it comes.
        dismiss: Lets some of that go which nobody may miss. Returns 0 where there is nothing.

    Attributes:
        used: The bytes of messages that nobody has received.
        lent: The bytes of long messages that handlers of the peer's sessions are at work on.
        rest: The bytes of all else, when they were measured last.
        most_messages: As given.
        weight: Estimates what the message takes that is being delivered; 0: it is a short one, as those of a channel
            are that tells of long ones; ``None``: nobody knows.
    """

    __slots__ = (
        "_budget",
        "_dismiss",
        "_measure",
        "_most_bytes",
        "give_way",
        "lent",
        "most_messages",
        "rest",
        "used",
        "weight",
    )

    def __init__(
        self,
        budget: Budget,
        most_bytes: float,
        most_messages: int,
        give_way: Callable[[], bool],
        rest: Callable[[], int] = int,
        dismiss: Callable[[], int] = int,
    ) -> None:
        self.used: int = 0
        self.lent: int = 0
        self.rest: int = 0
        self._measure = rest
        self._dismiss = dismiss
        self.most_messages: int = most_messages
        self.weight: Callable[[], int] | Literal[0] | None = None
        self.give_way: Callable[[], bool] = give_way
        self._budget = budget
        self._most_bytes = most_bytes
        budget.enter(self)

    def take(self, message: Any) -> int:
        """Account for a message that is kept. Return its size; 0 where there is no room for it."""
        return self._take(self._weigh(message))

    def take_first(self) -> int:
        """Account for the first message of a session, a short one: its handler is about to take it.

        Most of all messages are such; to weigh each would cost a request 2 %.
        """
        return self._take(FIRST_MESSAGE)

    def _weigh(self, message: Any) -> int:
        estimated = self.weight
        size, is_all = weigh(message, FEW_WEIGHED if estimated else MOST_WEIGHED)
        return max(size, estimated()) if estimated and not is_all else size

    def _take(self, size: int, most: float | None = None) -> int:
        budget = self._budget
        if self.used + size > (self._most_bytes if most is None else most):
            return 0
        if self.lent and self.used + self.lent + size > self._most_bytes * IN_HAND:
            return 0
        if budget.used + size > budget.bytes and not budget.make_room(size, self):
            return 0
        self.used += size
        budget.used += size
        return size

    def lend(self, message: Any) -> int | None:
        """Account for a message that goes straight into the hands of a handler. Return its size; 0: a short one.

        Returns ``None`` where there is no room.
        """
        if self.weight == 0:
            return 0
        size = self._weigh(message)
        if size <= LONG:
            return 0
        if not self._take(size, self._most_bytes * IN_HAND):
            return None
        self.hand_over(size)
        return size

    def hand_over(self, size: int) -> None:
        """So many bytes that waited are in the hands of a handler now."""
        if self._most_bytes:
            self.used -= size
            self.lent += size

    def give_back(self, size: int) -> None:
        """A handler is done with so many bytes."""
        if self._most_bytes:
            self.lent -= size
            self._budget.used -= size

    def give(self, size: int) -> None:
        """So many bytes are free again."""
        if self._most_bytes:
            self.used -= size
            self._budget.used -= size

    @property
    def all(self) -> int:
        """The bytes that the port holds."""
        return self.used + self.lent + self.rest

    def measure(self) -> None:
        """Account for what is not counted as it comes; where the budget does not hold it, somebody gives way."""
        if not self._most_bytes:
            return
        self._note()
        if self._budget.used > self._budget.bytes:
            self._budget.make_room(0)

    def _note(self) -> None:
        rest = self._measure()
        self._budget.used += rest - self.rest
        self.rest = rest

    def dismiss(self) -> bool:
        """Let go of what nobody may miss. Return True if that made room."""
        if not self._most_bytes or not self._dismiss():
            return False
        before = self.rest
        self._note()
        return self.rest < before

    def measure_all(self) -> None:
        """Measure this port and, where half of the budget is used up, the others in their turn."""
        self.measure()
        if 2 * self._budget.used > self._budget.bytes:
            self._budget.measure_next()

    def close(self) -> None:
        """The port is over: it holds nothing any more, whatever its handlers still receive."""
        self._budget.leave(self)
        self.used = self.lent = self.rest = 0
        self._most_bytes = 0
        self.give_way, self._measure, self._dismiss = bool, int, int  # it knows its port no more


def weigh(message: Any, most: int = MOST_WEIGHED) -> tuple[int, bool]:
    """The bytes that a decoded message takes, about, and whether that is all of it, within `most` members.

    Within few, a message that is seen to have more is looked at no further: its estimate counts.
    """
    if type(message) is dict and len(message) <= _FEW:
        total = 64 + 232 + 64 * len(message)
        for value in message.values():
            kind = type(value)
            if kind is str or kind in _SCALARS:
                total += getsizeof(value)
            else:
                break
        else:
            return total, True  # as nearly every short message
    total, left = 0, most
    values: list[Any] = [message]
    while values and left:
        value = values.pop()
        left -= 1
        kind = type(value)
        if kind in _WEIGHTLESS:
            continue
        total += getsizeof(value)
        if kind is dict:
            mapping = cast("dict[Any, Any]", value)
            values += mapping.values()
            total += 64 * len(mapping)  # its keys, which are short, and most often the same in all messages
        elif kind is list or kind is tuple:
            members = cast("list[Any]", value)
            if most <= FEW_WEIGHED < len(members):
                return total + 64, False
            values += members
        elif hasattr(value, "__struct_fields__"):
            values += [getattr(value, name) for name in value.__struct_fields__]
    return total + 64, not values  # 64: its place in the inbox


_LISTS: Final = bytes([*range(0x90, 0xA0), 0x80])
_MAPPINGS: Final = bytes(range(0x81, 0x90))


def estimate(data: bytes | str, *, text: bool) -> int:
    """The bytes that a message of many members takes once it is decoded; rather too many than too few.

    In JSON each bracket may be an object of 64 bytes in a place of 8, each comma an integer or a short text, and each
    colon one of those among the members of an object, where a place takes more. In MessagePack a byte may be a
    container of 64 to 240, or one of the 5 of a short text.
    """
    if isinstance(data, str):
        data = data.encode()
    if text:
        marks = len(data) - len(data.translate(None, b"[{:,"))  # as fast as two counts
        return 2 * len(data) + 72 * marks + 88 * data.count(b":")
    lists = len(data) - len(data.translate(None, _LISTS))
    mappings = len(data) - len(data.translate(None, _MAPPINGS))
    return 10 * len(data) + 72 * lists + 240 * mappings
