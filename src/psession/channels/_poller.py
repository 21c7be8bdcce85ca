"""The sockets of a run, waited for by one of their readers: each is looked into as soon as there is something to read.

A reader that waits in ``trio.lowlevel.wait_readable`` costs a system call to wait and a step of its task for each read,
and where a thousand of them wake in one pass, Python's collector finds what all of them have made. The kernel can wait
for many files by one (epoll(7)). The reader that waits for that one leads, and looks into the sockets of the others as
well; where its own channel needs it, another reader leads on (Schmidt et al., "Leader/Followers", 2000). There is no
task of its own for that, so there is none that anybody would have to end.
"""

from __future__ import annotations

import select
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio
from outcome import Error, Value, capture

from psession.channels._pace import LONG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_AT_ONCE: Final = 64
"""Sockets that are looked into before other tasks have a turn: the answers of more would still be there when Python's
collector looks at what is young, each 700 objects."""


MANY: Final = 8
"""Channels of a run from which on their sockets are watched together. That takes one system call more, to ask which
sockets have something: with 2 a request costs 5 % more so, with 4 5 % less, with 8 10 %, with 64 33 %."""


class Watch:
    """A socket that is watched, for one reader.

    Args:
        poller: The sockets of this run.
        fileno: The socket's number.
        until: Reads what is there, without waiting. True ends the watch.
    """

    __slots__ = ("_fileno", "_found", "_is_over", "_leading", "_poller", "_until", "_woken")

    def __init__(self, poller: Poller, fileno: int, until: Callable[[], bool]) -> None:
        self._poller = poller
        self._fileno = fileno
        self._is_over = False
        self._woken = trio.Event()
        self._leading: trio.CancelScope | None = None
        self._found: Value[bool] | Error = Value(False)
        self._until = until

    def tell(self) -> None:
        """There is something to read. What `until` raises is its reader's, whoever leads."""
        found = capture(self._until)
        if type(found) is Error or found.value:
            self._found = found
            self.stop()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Watch the socket no more, from now on; before it is closed, since the next one may have its number."""
        self._is_over = True
        self._poller.forget(self._fileno, self)
        self.wake()

    def wake(self) -> None:
        """Have its reader look whether it leads, or is done."""
        self._woken.set()
        if self._leading is not None:
            self._leading.cancel()

    async def until_stopped(self) -> bool:
        """Return when the watch is over, True if `until` was; meanwhile lead, if nobody else does.

        Raises:
            BaseException: What `until` raised.
        """
        poller = self._poller
        try:
            while not self._is_over:
                if not poller.follows(self):
                    with trio.CancelScope() as self._leading:
                        await poller.lead(self)
                    self._leading = None
                else:
                    self._woken = trio.Event()
                    await self._woken.wait()
        finally:
            self._leading = None
            self.stop()
            poller.hand_on(self)
        return self._found.unwrap()

    @property
    def is_over(self) -> bool:
        """True once the socket is watched no more."""
        return self._is_over


class Poller:
    """The sockets of a run, and who leads.

    Attributes:
        channels: The number of channels that could be watched.
    """

    def __init__(self) -> None:
        self._epoll: Any = None
        self._watches: dict[int, Watch] = {}
        self._leader: Watch | None = None
        self.channels = 0

    @trio.lowlevel.enable_ki_protection
    def watch(self, fileno: int, until: Callable[[], bool]) -> Watch | None:
        """Have `until` called each time that there is something to read, until it is true or the watch is stopped.

        Returns:
            ``None`` where that cannot be: a process without a file for it.
        """
        before = self._watches.get(fileno)
        if before is not None:
            before.stop()  # somebody else closed it
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fileno, select.EPOLLIN)
        except OSError:  # no file is left, or no watch: /proc/sys/fs/epoll/max_user_watches
            return None
        watch = self._watches[fileno] = Watch(self, fileno, until)
        return watch

    def forget(self, fileno: int, watch: Watch) -> None:
        """Wait for a socket no more, if it is still that one."""
        if self._watches.get(fileno) is watch:
            del self._watches[fileno]
            with suppress(OSError):  # somebody else closed it
                self._epoll.unregister(fileno)

    def follows(self, watch: Watch) -> bool:
        """Return True if another one leads. Where nobody does, this one does from now on."""
        if self._leader is None:
            self._leader = watch
        return self._leader is not watch

    def hand_on(self, watch: Watch) -> None:
        """Let another reader lead, if this one did."""
        if self._leader is watch:
            self._leader = next(iter(self._watches.values()), None)
            if self._leader is not None:
                self._leader.wake()

    async def lead(self, watch: Watch) -> None:
        """Look into the sockets of all as they have something to read, until the leader's own watch is over."""
        epoll, watches = self._epoll, self._watches
        while not watch.is_over:
            await trio.lowlevel.wait_readable(epoll.fileno())
            until = perf_counter() + LONG_SECONDS
            for fileno, _ in epoll.poll(0, MOST_AT_ONCE):
                one = watches.get(fileno)
                if one is not None:
                    one.tell()
                    if perf_counter() > until:
                        await trio.lowlevel.checkpoint()
                        until = perf_counter() + LONG_SECONDS


_poller: trio.lowlevel.RunVar[Poller | None] = trio.lowlevel.RunVar("psession_poller", default=None)


def poller_of_this_run() -> Poller | None:
    """The poller that all channels of a run share; ``None`` on a system without epoll."""
    poller = _poller.get()
    if poller is None and hasattr(select, "epoll"):
        poller = Poller()
        _poller.set(poller)
    return poller
