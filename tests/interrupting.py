"""A real SIGINT at any line of psession: a scenario is played again and again, and interrupted each time elsewhere.

Each time it has a loop of its own, in virtual time, with two ports of one manager. A trace function counts the places,
which are the calls and lines of psession's own code, and raises the signal at one of them.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Awaitable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio
import trio.testing

import psession
from psession import Exact, SessionError, SessionManager
from psession.channels import memory_pair

from .tables import assert_empty, assert_idle, assert_no_timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import TypeAlias

    from psession import Port, Session

    Play: TypeAlias = Callable[["Stage"], Awaitable[None]]

PACKAGE = str(Path(psession.__file__).parent)

LONGEST = 3000.0
"""Seconds, of virtual time, in which each scenario is over."""

PATIENCE = 100.0
"""Seconds in which every task that waits wakes by itself: more than the timeouts of a whole line of sends."""

OURS = range(1000, 2000)
"""The numbers of the sessions that the answering side opens."""


class Interrupter:
    """Counts the places, and raises a signal at one of them.

    Args:
        place: Where: a number, or the name of a function, whose first line it is; ``None``: nowhere.

    Attributes:
        passed: The number of places so far.
        marked: The number of places at the last `mark`.
        where: The place of the signal, for the eye.
    """

    def __init__(self, place: int | str | None) -> None:
        self._place = place
        self.passed = self.marked = 0
        self.where = ""

    def start(self) -> None:
        """Count from now on."""
        if not self.where:
            sys.settrace(self._called)

    def stop(self) -> None:
        """Count no more."""
        sys.settrace(None)

    def mark(self) -> None:
        """Here ends what the scenario is about: half of the signals come before."""
        self.marked = self.passed

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if frame.f_lineno == frame.f_code.co_firstlineno:
            self._pass(frame)  # else a coroutine goes on after an `await`, where Python looks for no signal
        return self._lines

    def _lines(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self._pass(frame)
        return self._lines

    def _pass(self, frame: FrameType) -> None:
        if self.where:
            return
        self.passed += 1
        code = frame.f_code
        if self._place in (self.passed, code.co_qualname):
            self.where = f"{code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno} in {code.co_qualname}"
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)


def is_interrupt(error: BaseException) -> bool:
    """Return True if an error is a KeyboardInterrupt, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_interrupt, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


class Stage:
    """Two ports that talk to each other, and the tasks that wait on them.

    Args:
        interrupter: What raises the signal.
        catches: True where the application catches the interrupt around what it does, and goes on.
        at_once: True where the signal may come while the ports are being opened.

    Attributes:
        manager: The manager of both ports.
        asker: The port that asks.
        answerer: The port that answers, by `answer`.
        asleep: The names of the tasks that wait.
        is_left: True where the ports are left while tasks still wait.
    """

    manager: SessionManager
    asker: Port
    answerer: Port

    def __init__(self, interrupter: Interrupter, *, catches: bool, at_once: bool) -> None:
        self.interrupter = interrupter
        self._catches = catches
        self._at_once = at_once
        self.asleep: set[str] = set()
        self.is_left = False
        self._kept: list[BaseException] = []
        self._ports: list[Port] = []
        self._nursery: trio.Nursery

    # -- what scenarios use ------------------------------------------------------------------------------------------

    def waits(self, name: str, call: Callable[..., Awaitable[object]], *arguments: object, **options: object) -> None:
        """Start a task that waits in a call of psession's."""

        async def wait() -> None:
            try:
                await self.attempt(lambda: call(*arguments, **options))
            finally:
                self.asleep.discard(name)

        self.asleep.add(name)
        self._nursery.start_soon(wait, name=name)

    async def attempt(self, call: Callable[[], object]) -> bool:
        """Do something as an application does. Return False if it was interrupted, and the application goes on."""
        try:
            result = call()
            if isinstance(result, Awaitable):
                await result
        except SessionError:
            return True
        except (KeyboardInterrupt, BaseExceptionGroup) as error:
            if not self._catches or not is_interrupt(error):
                raise
            return False
        return True

    async def settle(self) -> None:
        """Wait until every task waits."""
        await self.attempt(partial(trio.sleep, 0.1))

    # -- the play ----------------------------------------------------------------------------------------------------

    async def run(self, play: Play, options: dict[str, Any]) -> None:
        """Play a scenario, and see to it that everybody wakes and every table is empty."""
        self.manager = SessionManager(**options)
        if self._at_once:
            self.interrupter.start()
        with trio.fail_after(LONGEST):
            try:
                async with trio.open_nursery() as self._nursery:
                    try:
                        await self._play(play)
                    except (KeyboardInterrupt, BaseExceptionGroup) as error:
                        self._keep(error)
                    if not await self.attempt(self._everybody_wakes):
                        await self._everybody_wakes()
            except (KeyboardInterrupt, BaseExceptionGroup) as error:
                self._keep(error)
            self.interrupter.stop()
            assert not self.asleep
            assert_empty(self.manager, *self._ports)
        assert_no_timers()
        if self._kept and not self._catches:
            raise self._kept[0]

    def _keep(self, error: BaseException) -> None:
        if not is_interrupt(error):
            raise error
        self._kept.append(error)

    async def _play(self, play: Play) -> None:
        here, there = memory_pair(4)
        async with self.manager.port("answerer", there, on_session=answer, session_ids=OURS) as answerer:
            self._ports.append(answerer)
            async with self.manager.port("asker", here, on_session=answer) as asker:
                self._ports.append(asker)
                self.asker, self.answerer = asker, answerer
                await play(self)
                if not self.is_left:
                    if not await self.attempt(self._everybody_wakes):
                        await self._everybody_wakes()
                    self.interrupter.stop()
                    if not await self.attempt(self._works):
                        await self._works()
                self.interrupter.start()

    async def _everybody_wakes(self) -> None:
        deadline = trio.current_time() + PATIENCE
        while self.asleep and trio.current_time() < deadline:  # noqa: ASYNC110 - simple, since a signal may come here
            await trio.sleep(1)
        assert not self.asleep, f"still asleep: {sorted(self.asleep)}"

    async def _works(self) -> None:
        """The port that asks is idle when its sessions are over, and its peer answers; or it is closed."""
        await trio.sleep(PATIENCE)
        for session in list(self.asker.sessions.values()):
            session.end()
        await trio.sleep(1.3)  # not in step with what comes at regular times
        assert_idle(self.asker)
        try:
            assert await self.asker.request({"n": 99}, timeout=5) == {"echo": 99}
        except SessionError:
            assert self.asker.closed
        assert_idle(self.asker)


async def answer(session: Session) -> None:
    """Answer as the question says: after so many seconds, many times, or with a question in between."""
    async for message in session:
        if "ask" in message:
            await session.send({"n": message["ask"]}, timeout=5)
        for number in range(message.get("parts", 0)):
            await session.post({"number": number})
        if "after" in message:
            await trio.sleep(message["after"])
        if "n" in message:
            await session.post({"echo": message["n"]})


def count_places(play: Play, *, exact: bool, at_once: bool, **options: Any) -> tuple[int, int]:
    """The number of places of a scenario: in what it is about, and in all."""
    interrupter = Interrupter(None)
    for _ in range(2):  # once to fill what is made but once in a process
        interrupter = Interrupter(None)
        _run(play, interrupter, catches=False, exact=exact, at_once=at_once, options=options)
    return interrupter.marked or interrupter.passed, interrupter.passed


def interrupt(play: Play, place: int | str, *, catches: bool, exact: bool, at_once: bool, **options: Any) -> bool:
    """Play a scenario and raise SIGINT at a place. Return True if an interrupt came out of the run."""
    interrupter = Interrupter(place)
    try:
        _run(play, interrupter, catches=catches, exact=exact, at_once=at_once, options=options)
    except BaseException as error:
        if is_interrupt(error):
            return True
        error.add_note(f"interrupted at place {place}, {interrupter.where}")
        raise
    return False


def _run(
    play: Play, interrupter: Interrupter, *, catches: bool, exact: bool, at_once: bool, options: dict[str, Any]
) -> None:
    stage = Stage(interrupter, catches=catches, at_once=at_once)
    options = {"dialect": Exact() if exact else None, "session_timeout": 5.0, "session_id_rest": 1.0, **options}
    with _same_each_time():
        trio.run(stage.run, play, options, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def _same_each_time() -> Iterator[None]:
    """Python's own handler, which Trio replaces, no other trace function, and a scheduler that does not throw dice."""
    handler, trace = signal.signal(signal.SIGINT, signal.default_int_handler), sys.gettrace()
    scheduler = trio._core._run
    try:
        with (
            mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
            mock.patch.object(scheduler, "_r", random.Random(1)),
        ):
            yield
    finally:
        sys.settrace(trace)
        signal.signal(signal.SIGINT, handler)
