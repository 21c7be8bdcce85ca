"""The cancel scope of a handler, and the deadline that its asker gives it."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from psession.protocol.dialogue import ExactState

SOON: Final = 0.05
"""Seconds that a handler may run before its scope has its deadline: 40 wake-ups a second at the most, a port's all."""


class HandlerScope:
    """The cancel scope that a handler of an exact session runs in, and the deadline that its asker gives it.

    Attributes:
        scope: The scope.
        exact: What is known of the session.
        is_watched: True while the timekeeper will see to it that the scope has its deadline.
        is_visible: True while the scope has its deadline.
    """

    __slots__ = ("exact", "is_visible", "is_watched", "scope")

    def __init__(self, exact: ExactState) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        self.is_watched: bool = False
        self.exact: ExactState = exact
        self.is_visible: bool = False

    def begin(self, watch: Callable[[HandlerScope, float], None]) -> None:
        """The time of a turn's asker begins; `watch` sees to it that the scope has its deadline soon enough."""
        self.lift_deadline()  # it is that of the turn before, which was not answered
        exact = self.exact
        if exact.due == math.inf:
            return
        if exact.due - exact.began <= 2 * SOON:
            self.show_deadline()
        elif not self.is_watched:
            watch(self, exact.began)

    def show_deadline(self) -> None:
        """Let the scope have its deadline, for `trio.current_effective_deadline`."""
        if not self.is_visible and self.exact.due != math.inf:
            self.is_visible = True
            self.scope.deadline = self.exact.due

    def lift_deadline(self) -> None:
        """Give the handler all the time it wants: its turn is answered."""
        if self.is_visible:
            self.is_visible = False
            self.scope.deadline = math.inf


answering: ContextVar[HandlerScope | None] = ContextVar("psession_answering", default=None)
"""The handler that the current task is, or one of whose tasks it is."""
