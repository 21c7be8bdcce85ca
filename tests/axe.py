"""Cancelling at any checkpoint: a scenario is cancelled at its first step, its second, and so on.

A scenario runs in a loop of its own, in virtual time, under an instrument that counts the steps of all tasks and
cancels one scope at the chosen step: the caller's alone (its port lives on and must work), or everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_STEPS = 400
"""No scenario here takes as many: more would mean that one never ends."""


class Axe(trio.abc.Instrument):
    """Cancels a scope after so many steps of the scheduler."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.scope: trio.CancelScope | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


def every_step(scenario: Callable[[Axe], Awaitable[bool]]) -> int:
    """Cancel the scenario at its first step, its second, ... until it ends by itself; returns how many there were."""
    for step in range(1, MOST_STEPS):
        axe = Axe(step)
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            if not trio.run(scenario, axe, clock=clock, instruments=[axe]):
                return step
        except BaseException as error:
            error.add_note(f"cancelled at step {step}")
            raise
    raise AssertionError("the scenario does not end")
