"""The cancel scope of a handler, and the deadline that its asker gives it."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from psession.protocol.dialogue import ExactState


class HandlerScope:
    """The cancel scope that a handler of an exact session runs in, and the deadline that its asker gives it.

    Attributes:
        is_watched: True while the timekeeper will see to it that the scope has its deadline.
        is_visible: True while the scope has its deadline.
    """

    __slots__ = ("_exact", "is_visible", "is_watched", "scope")

    def __init__(self, exact: ExactState) -> None:
        self.scope = trio.CancelScope()
        self.is_watched = False
        self._exact = exact
        self.is_visible = False

    def show_deadline(self) -> None:
        """Let the scope have its deadline, for `trio.current_effective_deadline`."""
        if not self.is_visible and self._exact.due != math.inf:
            self.is_visible = True
            self.scope.deadline = self._exact.due

    def lift_deadline(self) -> None:
        """Give the handler all the time it wants: its turn is answered."""
        if self.is_visible:
            self.is_visible = False
            self.scope.deadline = math.inf


answering: ContextVar[HandlerScope | None] = ContextVar("psession_answering", default=None)
"""The handler that the current task is, or one of whose tasks it is."""
