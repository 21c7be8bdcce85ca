"""What a client of NATS may be told, checked; and what it tells of itself."""

from __future__ import annotations

import inspect
import logging
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict

from psession import checks
from psession.brokers.nats._subjects import subject_bytes
from psession.brokers.nats._wire import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._connecting import DEFAULT_CONNECT_TIMEOUT
from psession.channels._reconnect_options import DEFAULT_FIRST_DELAY
from psession.protocol.backoff import Backoff

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    import trio

log = logging.getLogger("psession")

DEFAULT_MAX_DELAY: Final = 5.0
"""Seconds: a cluster elects and restarts in a few; 1,000 clients that have got there knock 160 times a second."""

DEFAULT_PING_INTERVAL: Final = 20.0
"""Seconds between two signs of life: a dead server is noticed in a minute, by 8 bytes each."""

MAX_PINGS_OUT: Final = 2
"""Pings that may be unanswered when the next is due, as in the clients of NATS's own makers."""

DEFAULT_MAX_PENDING_MESSAGES: Final = 65536
"""Messages that wait in one subscription: 2 s of what a process in Python can take at all."""

DEFAULT_MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""Their bytes: sixteen messages of a server's default size."""

DEFAULT_MAX_QUEUED_BYTES: Final = 1024 * 1024
"""Bytes that wait to be written before a ``publish`` waits: one message of a server's default size."""

DEFAULT_GRACE: Final = 2.0
"""Seconds that leaving the block gives to what was accepted for sending."""

OpenStream: TypeAlias = "Callable[[str, int], Awaitable[trio.abc.Stream]]"
"""Opens a stream of bytes to a host and a port."""


@dataclass(frozen=True, slots=True)
class NatsState:
    """A step in the life of a client's connection.

    Attributes:
        state: ``"connecting"``: a server is tried; ``"open"``: it took this client; ``"lame_duck"``: the server will
            soon go, and this client moves to another; ``"broken"``: the connection is of no further use;
            ``"waiting"``: nothing happens for ``delay`` seconds; ``"closed"``: there will be no more connections.
        url: The server, without user and password; ``""`` where it is about none.
        error: What went wrong, if anything has.
        delay: Seconds until the next try, for ``"waiting"``.
    """

    state: Literal["connecting", "open", "lame_duck", "broken", "waiting", "closed"]
    url: str = ""
    error: Exception | None = None
    delay: float = 0.0


class NatsSettings(TypedDict, total=False):
    """Options of `open_nats`, each with a default.

    Attributes:
        ssl_context: For TLS, which is made of the connection after the server's INFO; with a client's certificate where
            the server wants one (``load_cert_chain``). ``None``: the default context, where the URL or the server wants
            TLS.
        tls_first: TLS before all else, for servers with ``handshake_first``.
        tls_hostname: What the server's certificate is for, where that is not its host.
        inbox_prefix: What the subjects of answers begin with; for users who may subscribe to that alone.
        echo: Whether this client's own messages come to its own subscriptions.
        connect_timeout: Seconds for each try of a server: TCP, TLS, handshake; by default 10.
        first_delay: Seconds between the first round of all servers and the second, by default 0.1; then twice as long
            each time.
        max_delay: Seconds that no wait between two rounds exceeds, by default 5, its random share aside.
        jitter: The largest random share of a wait; 0.5 adds up to half of it.
        max_rounds: Rounds in which no server takes this client, after which it is closed; by default no limit.
        ping_interval: Seconds between two signs of life, by default 20; a server that has not answered two is given up.
        grace: Seconds that leaving the block gives to what was accepted for sending, by default 2.
        max_pending_messages: Messages that may wait in each subscription, by default 65,536.
        max_pending_bytes: Their bytes, by default 16 MiB.
        max_queued_bytes: Bytes that wait to be written before a ``publish`` waits, by default 1 MiB; requests are
            queued at once, since who makes one waits anyway.
        max_message_bytes: What a message of the server's may have, by default 64 MiB, the servers' own highest.
        on_state: Called with a `NatsState` at each step of the connection's life.
        open_stream: Opens a stream to a host and a port, in place of TCP: through a proxy, or for tests.
        rng: Gives random numbers from 0 to 1.
    """

    ssl_context: ssl.SSLContext | None
    tls_first: bool
    tls_hostname: str | None
    inbox_prefix: str
    echo: bool
    connect_timeout: float
    first_delay: float
    max_delay: float
    jitter: float
    max_rounds: float
    ping_interval: float
    grace: float
    max_pending_messages: int
    max_pending_bytes: float
    max_queued_bytes: int
    max_message_bytes: int
    on_state: Callable[[NatsState], object] | None
    open_stream: OpenStream | None
    rng: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """The options of a client, checked; `NatsSettings` says what each means."""

    name: str = ""
    ssl_context: ssl.SSLContext | None = None
    tls_first: bool = False
    tls_hostname: str | None = None
    inbox_prefix: str = "_INBOX"
    echo: bool = True
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    first_delay: float = DEFAULT_FIRST_DELAY
    max_delay: float = DEFAULT_MAX_DELAY
    jitter: float = 0.5
    max_rounds: float = math.inf
    ping_interval: float = DEFAULT_PING_INTERVAL
    grace: float = DEFAULT_GRACE
    max_pending_messages: int = DEFAULT_MAX_PENDING_MESSAGES
    max_pending_bytes: float = DEFAULT_MAX_PENDING_BYTES
    max_queued_bytes: int = DEFAULT_MAX_QUEUED_BYTES
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    on_state: Callable[[NatsState], object] | None = None
    open_stream: OpenStream | None = None
    rng: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {self.name!r}")
        subject_bytes(self.inbox_prefix, "inbox_prefix")
        for name in ("tls_first", "echo"):
            checks.flag(name, getattr(self, name))
        for name in ("connect_timeout", "first_delay", "max_delay", "ping_interval", "grace"):
            checks.seconds(name, getattr(self, name))
        for name in ("connect_timeout", "ping_interval"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be above 0 seconds")
        if self.max_delay == math.inf or self.grace == math.inf:
            raise ValueError("max_delay and grace must be finite")
        if self.first_delay > self.max_delay:
            raise ValueError(f"first_delay must not exceed max_delay, as {self.first_delay} does {self.max_delay}")
        checks.number("jitter", self.jitter, at_least=0)
        if self.max_rounds != math.inf:
            checks.count("max_rounds", self.max_rounds)
        for name in ("max_pending_messages", "max_queued_bytes", "max_message_bytes"):
            checks.count(name, getattr(self, name))
        checks.number("max_pending_bytes", self.max_pending_bytes, at_least=1, or_inf=True)
        if self.on_state is not None:
            if not callable(self.on_state):
                raise TypeError(f"on_state must be callable, not {self.on_state!r}")
            if inspect.iscoroutinefunction(self.on_state):
                raise TypeError("on_state must be a plain function, since nobody would await it")

    @property
    def waits(self) -> Backoff:
        """The waits between two rounds of all servers."""
        return Backoff(self.first_delay, 2.0, self.max_delay, self.jitter)

    def tell(self, state: NatsState) -> None:
        """Call ``on_state``; what it raises is logged, since who is told must not break what it is told of."""
        if self.on_state is None:
            return
        try:
            self.on_state(state)
        except Exception:
            log.exception("on_state raised at %r", state, extra={"event_name": "on_state_raised"})


@dataclass(frozen=True, slots=True)
class NatsStatistics:
    """The counters of a client.

    Attributes:
        messages_in: Messages that came, answers to requests included.
        messages_out: Messages that were accepted for sending.
        bytes_in: Bytes read.
        bytes_out: Bytes written.
        reconnects: Connections after the first.
        requests: Requests made.
        no_responders: Requests that nobody serves the subject of.
        timeouts: Requests without an answer in time.
        late: Answers that nobody waits for any more, and messages for subscriptions that are over.
        overrun: Subscriptions and links that were ended since their reader was too slow.
        errors: Errors of a server's (``-ERR``).
        unsent: Messages that were accepted and never written, since the client was closed without a connection.
        too_large: Messages that were accepted and never written, since they waited for a connection and are longer than
            the next server's ``max_payload``. Requests among them fail with `MessageTooLargeError`.
        subscriptions: Subscriptions that are open.
        queued_bytes: Bytes that wait to be written.
        waiting_requests: Requests that wait for their answer.
        links: Links of ports that are open.
    """

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    reconnects: int
    requests: int
    no_responders: int
    timeouts: int
    late: int
    overrun: int
    errors: int
    unsent: int
    too_large: int
    subscriptions: int
    queued_bytes: int
    waiting_requests: int
    links: int
