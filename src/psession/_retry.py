"""How long a turn waits and how often it tries. Pure: yields durations, measures none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Patience:
    """What one turn may cost.

    With ``n = retry_count`` a turn that is never answered makes ``n + 1`` attempts and takes
    ``(n + 1) * timeout + n * retry_interval`` seconds.

    Attributes:
        timeout: Seconds that each attempt waits for the reply.
        retry_count: Attempts after the first; ``math.inf`` for no limit.
        retry_interval: Seconds between the end of one attempt and the next.
        retry_on: What the sender may raise and be tried again; silence is always retried.
    """

    timeout: float
    retry_count: float
    retry_interval: float
    retry_on: tuple[type[Exception], ...] = ()

    def replace(self, **changes: object) -> Patience:
        """The same with other values; ``None`` leaves a value as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    @property
    def total(self) -> float:
        """Seconds that a turn takes which is never answered; ``math.inf`` where it has no end."""
        pauses = self.retry_count * self.retry_interval if self.retry_count else 0.0
        return (self.retry_count + 1) * self.timeout + pauses if self.timeout else pauses

    def pauses(self) -> Iterator[float | None]:
        """The pause after each attempt in turn; ``None`` after the last."""
        if not self.retry_count:
            return iter((None,))
        if self.retry_count == float("inf"):
            return repeat(self.retry_interval)
        return chain(repeat(self.retry_interval, int(self.retry_count)), (None,))
