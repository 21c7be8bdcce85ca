"""What a client of NATS may be told, checked; and what it tells of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from psession import checks
from psession.brokers._options import ClientOptions, OpenStream
from psession.brokers.nats._subjects import subject_bytes
from psession.brokers.nats._wire import DEFAULT_MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

DEFAULT_PING_INTERVAL: Final = 20.0
"""Seconds between two signs of life: a dead server is noticed in a minute, by 8 bytes each."""

MAX_PINGS_OUT: Final = 2
"""Pings that may be unanswered when the next is due, as in the clients of NATS's own makers."""


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
class NatsOptions(ClientOptions[NatsState]):
    """The options of a client, checked; `NatsSettings` says what each means."""

    name: str = ""
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    echo: bool = True
    max_rounds: float = math.inf
    ping_interval: float = DEFAULT_PING_INTERVAL
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {self.name!r}")
        subject_bytes(self.inbox_prefix, "inbox_prefix")
        for name in ("tls_first", "echo"):
            checks.flag(name, getattr(self, name))
        self.check()
        checks.seconds("ping_interval", self.ping_interval)
        if not self.ping_interval:
            raise ValueError("ping_interval must be above 0 seconds")
        if self.max_rounds != math.inf:
            checks.count("max_rounds", self.max_rounds)
        checks.count("max_message_bytes", self.max_message_bytes)


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
