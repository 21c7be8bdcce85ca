"""What a channel that reopens may be told, checked; what it tells of itself; and when its next try is due."""

from __future__ import annotations

import inspect
import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

import trio

from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.checks import count, exceptions, seconds
from psession.checks import number as check_number
from psession.protocol.backoff import Backoff
from psession.text import innermost, short

log = logging.getLogger("psession")

S = TypeVar("S")

DEFAULT_FIRST_DELAY: Final = 0.1
"""Seconds: a process that is started anew by its supervisor listens again after about that (systemd's RestartSec)."""

DEFAULT_MAX_DELAY: Final = 30.0
"""Seconds: soon enough for who looks at a clock, and 1,000 clients that have got there knock 27 times a second."""

DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one try: as `open_websocket` has, for the same round trips and lost packets."""

WORLD: Final = (OSError, trio.BrokenResourceError, trio.EndOfChannel, trio.TooSlowError)
"""What goes wrong out there, and may go well next time; TimeoutError and HandshakeError are OSErrors."""

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[trio.abc.Channel[Any]] | Awaitable[trio.abc.Channel[Any]]]
"""Gives a new open channel: an async context manager of one, or an awaitable that returns one."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """A step in the life of a link. ``str()`` puts it in words: ``next try in 0.143 s (try 2): the server is off``.

    Attributes:
        state: ``"connecting"``: a try begins; ``"open"``: it gave a link; ``"broken"``: the link is of no further use;
            ``"waiting"``: nothing happens for ``delay`` seconds; ``"closed"``: this channel opens no more links.
        attempt: Which try of this opening it is, from 1; the one to come for ``"waiting"``, 0 where there is none.
        error: What went wrong last, if anything has and it is known.
        delay: Seconds until the next try, for ``"waiting"``; 0 for the others.
    """

    state: Literal["connecting", "open", "broken", "waiting", "closed"]
    attempt: int = 0
    error: Exception | None = None
    delay: float = 0.0

    def __str__(self) -> str:
        words = f"next try in {self.delay:.3g} s" if self.state == "waiting" else self.state
        attempt = f" (try {self.attempt})" if self.attempt else ""
        why = "" if self.state == "connecting" or not self.why else f": {self.why}"
        return f"{words}{attempt}{why}"

    @property
    def why(self) -> str:
        """The last error in words with what underlies it, the same text for the same trouble; ``""`` without one."""
        return "" if self.error is None else reason_of(self.error)


def reason_of(error: BaseException) -> str:
    """An error in words, with what underlies it: a library says what it did, and the system why that failed."""
    inner = innermost(error)
    outer = "" if isinstance(error, BaseExceptionGroup) else str(error)
    text = str(inner) or type(inner).__name__
    return short(outer if text in outer else f"{outer}: {text}" if outer else text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectOptions:
    """The options of a channel that reopens, checked; `reconnecting` says what each means."""

    first_delay: float = DEFAULT_FIRST_DELAY
    max_delay: float = DEFAULT_MAX_DELAY
    backoff: float = 2.0
    jitter: float = 0.5
    max_attempts: float = math.inf
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT
    give_up_on: tuple[type[Exception], ...] = ()
    reopen_after_end: bool = True
    on_state: Callable[[LinkState], object] | None = None
    rng: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("first_delay", "max_delay", "connect_timeout", "close_timeout"):
            seconds(name, getattr(self, name))
        if self.max_delay == math.inf:
            raise ValueError("max_delay must be finite: a link that stood for so long starts at first_delay again")
        if self.first_delay > self.max_delay:
            raise ValueError(f"first_delay must not exceed max_delay, as {self.first_delay} does {self.max_delay}")
        if not self.connect_timeout:
            raise ValueError("connect_timeout must be above 0 seconds: no try would have any time")
        check_number("backoff", self.backoff, at_least=1)
        check_number("jitter", self.jitter, at_least=0)
        if self.max_attempts != math.inf:
            count("max_attempts", self.max_attempts)
        exceptions("give_up_on", self.give_up_on)
        if not isinstance(self.reopen_after_end, bool):
            raise TypeError(f"reopen_after_end must be True or False, not {self.reopen_after_end!r}")
        if self.on_state is not None:
            _check_plain_callable("on_state", self.on_state)
        _check_plain_callable("rng", self.rng)

    @property
    def waits(self) -> Backoff:
        """The waits between tries."""
        return Backoff(self.first_delay, self.backoff, self.max_delay, self.jitter)

    def is_worth_another_try(self, error: Exception) -> bool:
        """Return True if it was the world, which changes, not a mistake in the program; of a group, all of it."""
        if isinstance(error, ExceptionGroup):
            return all(self.is_worth_another_try(one) for one in error.exceptions)
        return isinstance(error, WORLD) and not isinstance(error, self.give_up_on)

    def tell(self, state: LinkState) -> None:
        """Call ``on_state``, where there is one."""
        tell_state(self.on_state, state)


def tell_state(on_state: Callable[[S], object] | None, state: S) -> None:
    """Call `on_state`; what it raises is logged, since who is told must not break what it is told of."""
    if on_state is None:
        return
    try:
        on_state(state)
    except Exception:
        log.exception("on_state raised at %r", state, extra={"event_name": "on_state_raised"})


class Pace:
    """When the next try is due. Failures in a row make it later; only a link that stood for long starts anew."""

    def __init__(self, options: ReconnectOptions) -> None:
        self._waits = options.waits
        self._rng = options.rng
        self._long = options.max_delay
        self._failures = 0
        self.due = -math.inf
        """A moment on Trio's clock. Who tries again after being cancelled waits for the rest alone."""

    def failed(self) -> None:
        """A try has failed."""
        self.due = trio.current_time() + self._waits.wait(self._failures, self._rng())
        self._failures += 1

    def broke(self, opened_at: float) -> None:
        """A link has broken. A server that accepts and drops at once is no better than one that does not accept."""
        if trio.current_time() - opened_at >= self._long:
            self._failures = 0
        self.failed()


def _check_plain_callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be a plain function, since nobody would await {value!r}")
