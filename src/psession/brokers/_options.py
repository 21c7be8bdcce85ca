"""What clients of brokers are told alike: time for connecting, waits between tries, sizes of queues; checked."""

from __future__ import annotations

import inspect
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from psession import checks
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._reconnect_options import DEFAULT_FIRST_DELAY, tell_state
from psession.protocol.backoff import Backoff

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    import trio

DEFAULT_MAX_DELAY: Final = 5.0
"""Seconds: a broker restarts, a cluster elects in a few; 1,000 clients that have got there knock 160 times a second."""

DEFAULT_MAX_PENDING_MESSAGES: Final = 65536
"""Messages that wait in one subscription: 2 s of what a process in Python can take at all."""

DEFAULT_MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""Their bytes: sixteen messages of a NATS server's default size, one of MQTT's full size."""

DEFAULT_MAX_QUEUED_BYTES: Final = 1024 * 1024
"""Bytes that wait to be written before a ``publish`` waits: one message of a NATS server's default size."""

DEFAULT_GRACE: Final = 2.0
"""Seconds that leaving the block gives to what was accepted for sending."""

OpenStream: TypeAlias = "Callable[[str, int], Awaitable[trio.abc.Stream]]"
"""Opens a stream of bytes to a host and a port."""

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions(Generic[S]):
    """The options that clients of all brokers have, checked; the settings of each client say what they mean."""

    ssl_context: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    first_delay: float = DEFAULT_FIRST_DELAY
    max_delay: float = DEFAULT_MAX_DELAY
    jitter: float = 0.5
    grace: float = DEFAULT_GRACE
    max_pending_messages: int = DEFAULT_MAX_PENDING_MESSAGES
    max_pending_bytes: float = DEFAULT_MAX_PENDING_BYTES
    max_queued_bytes: int = DEFAULT_MAX_QUEUED_BYTES
    on_state: Callable[[S], object] | None = None
    open_stream: OpenStream | None = None
    rng: Callable[[], float] = random.random

    def check(self) -> None:
        """Refuse what will not do; for ``__post_init__``, which finds no ``super()`` in a dataclass with slots.

        Raises:
            TypeError, ValueError: The text says why.
        """
        for name in ("connect_timeout", "first_delay", "max_delay", "grace"):
            checks.seconds(name, getattr(self, name))
        if not self.connect_timeout:
            raise ValueError("connect_timeout must be above 0 seconds")
        if self.max_delay == math.inf or self.grace == math.inf:
            raise ValueError("max_delay and grace must be finite")
        if self.first_delay > self.max_delay:
            raise ValueError(f"first_delay must not exceed max_delay, as {self.first_delay} does {self.max_delay}")
        checks.number("jitter", self.jitter, at_least=0)
        checks.count("max_pending_messages", self.max_pending_messages)
        checks.number("max_pending_bytes", self.max_pending_bytes, at_least=1, or_inf=True)
        checks.count("max_queued_bytes", self.max_queued_bytes)
        if self.on_state is not None:
            if not callable(self.on_state):
                raise TypeError(f"on_state must be callable, not {self.on_state!r}")
            if inspect.iscoroutinefunction(self.on_state):
                raise TypeError("on_state must be a plain function, since nobody would await it")

    @property
    def waits(self) -> Backoff:
        """The waits between two tries."""
        return Backoff(self.first_delay, 2.0, self.max_delay, self.jitter)

    def tell(self, state: S) -> None:
        """Call ``on_state``, where there is one."""
        tell_state(self.on_state, state)
