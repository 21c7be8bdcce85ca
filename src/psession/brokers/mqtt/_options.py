"""What a client of MQTT may be told, checked; and what it tells of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from psession import checks
from psession.brokers._options import ClientOptions
from psession.brokers.mqtt._packets import MAX_PACKET_BYTES
from psession.brokers.mqtt._topics import check_topic

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from psession.brokers._options import OpenStream

DEFAULT_KEEPALIVE: Final = 30.0
"""Seconds in which a dead broker is noticed: two signs of life, of 2 bytes each, are due in them."""

DEFAULT_RECEIVE_MAXIMUM: Final = 1024
"""Messages of QoS 1 that the broker may send before this side has acknowledged the first of them."""

DEFAULT_MAX_IN_FLIGHT: Final = 1024
"""Messages of QoS 1 of this side's that the broker has not acknowledged: at 64 KiB each, 64 MiB are kept."""

DEFAULT_MAX_PACKET_BYTES: Final = 16 * 1024 * 1024
"""The longest packet that the broker may send: sixteen messages of a port's full size."""

DEFAULT_INBOX_PREFIX: Final = "psession"
"""The first level of the topics that answers come by."""

MAX_KEEPALIVE: Final = 65535
MAX_EXPIRY: Final = 0xFFFF_FFFF
MAX_COUNT: Final = 65535


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes for a client that is gone without a goodbye.

    Leaving the block of `open_mqtt` by its end takes the will back. It is published where the block is left by an
    exception, cancelling included, and where the connection breaks and is not there again in `delay` seconds.

    Attributes:
        topic: Without wildcards.
        payload: Its data.
        qos: 0 or 1.
        retain: Whether the broker keeps it for those who subscribe later.
        delay: Whole seconds that the broker waits first, for this client to come back. No longer than its session
            lasts: with ``session_expiry=0`` it does not wait.
        content_type: What the payload is, such as ``"application/json"``.
    """

    topic: str
    payload: bytes = b""
    qos: Literal[0, 1] = 0
    retain: bool = False
    delay: int = 0
    content_type: str | None = None

    def __post_init__(self) -> None:
        check_topic(self.topic, "topic of the will")
        if not isinstance(self.payload, bytes):
            raise TypeError(f"the payload of a will must be bytes, not {type(self.payload).__name__}")
        if self.qos not in (0, 1):
            raise ValueError(f"the qos of a will must be 0 or 1, not {self.qos!r}")
        checks.flag("retain", self.retain)
        whole_seconds("delay", self.delay, MAX_EXPIRY)


@dataclass(frozen=True, slots=True)
class MqttState:
    """A step in the life of a client's connection.

    Attributes:
        state: ``"connecting"``: the broker is tried; ``"open"``: it took this client; ``"broken"``: the connection is
            of no further use; ``"waiting"``: nothing happens for ``delay`` seconds; ``"closed"``: there will be no
            more connections.
        error: What went wrong, if anything has.
        delay: Seconds until the next try, for ``"waiting"``.
        session_present: True where the broker had kept this client's session, for ``"open"``: then what was in flight
            at QoS 1 is sent again. Else it fails as ``"sent"``, and subscriptions are made again.
    """

    state: Literal["connecting", "open", "broken", "waiting", "closed"]
    error: Exception | None = None
    delay: float = 0.0
    session_present: bool = False


class MqttSettings(TypedDict, total=False):
    """Options of `open_mqtt`, each with a default.

    Attributes:
        clean_start: Whether the broker shall forget an earlier session of this client id at the first connection, by
            default True. False needs a ``client_id``. A reconnect never does.
        session_expiry: Whole seconds that the broker keeps this client's session when the connection is gone, by
            default 0: subscriptions, and messages of QoS 1 for them. ``math.inf``: as long as it can. With 0 "nobody
            has subscribed" is exact; with more, a client that is gone counts as a subscriber for so long.
        will: The message that the broker publishes where this client is gone without a goodbye.
        ssl_context: For TLS; ``mqtts://`` without it takes the default context.
        tls_hostname: What the broker's certificate is for, where that is not its host.
        keepalive: Whole seconds in which a dead broker is noticed, by default 30; 0: never. The broker's own wish
            (Server Keep Alive) comes first.
        receive_maximum: Messages of QoS 1 that the broker may send unacknowledged, by default 1,024.
        max_in_flight: Messages of QoS 1 that this side has sent unacknowledged, by default 1,024; the broker's own
            ``receive_maximum`` comes first, which is 20 in mosquitto. One more waits.
        max_packet_bytes: The longest packet that the broker may send, by default 16 MiB. It is told so.
        inbox_prefix: What the topics of answers and links begin with, by default ``"psession"``; for users who may
            subscribe to that alone.
        connect_timeout: Seconds for each try: TCP, TLS, handshake; by default 10.
        first_delay: Seconds between the first try and the second, by default 0.1; then twice as long each time.
        max_delay: Seconds that no wait between two tries exceeds, by default 5, its random share aside.
        jitter: The largest random share of a wait; 0.5 adds up to half of it.
        max_tries: Tries in a row after which the client is closed; by default no limit.
        grace: Seconds that leaving the block gives to what was accepted for sending, by default 2.
        max_pending_messages: Messages that may wait in each subscription, by default 65,536.
        max_pending_bytes: Their bytes, by default 16 MiB.
        max_queued_bytes: Bytes that wait to be written before a ``publish`` waits, by default 1 MiB.
        on_state: Called with a `MqttState` at each step of the connection's life.
        open_stream: Opens a stream to a host and a port, in place of TCP: through a proxy, or for tests.
        rng: Gives random numbers from 0 to 1.
    """

    clean_start: bool
    session_expiry: float
    will: Will | None
    ssl_context: ssl.SSLContext | None
    tls_hostname: str | None
    keepalive: int
    receive_maximum: int
    max_in_flight: int
    max_packet_bytes: int
    inbox_prefix: str
    connect_timeout: float
    first_delay: float
    max_delay: float
    jitter: float
    max_tries: float
    grace: float
    max_pending_messages: int
    max_pending_bytes: float
    max_queued_bytes: int
    on_state: Callable[[MqttState], object] | None
    open_stream: OpenStream | None
    rng: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions(ClientOptions[MqttState]):
    """The options of a client, checked; `MqttSettings` says what each means."""

    client_id: str = ""
    user: str | None = None
    password: str | bytes | None = None
    clean_start: bool = True
    session_expiry: float = 0
    will: Will | None = None
    keepalive: int = int(DEFAULT_KEEPALIVE)
    receive_maximum: int = DEFAULT_RECEIVE_MAXIMUM
    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT
    max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    max_tries: float = math.inf

    def __post_init__(self) -> None:
        self._check_session()
        check_topic(self.inbox_prefix, "inbox_prefix")
        if self.will is not None and not isinstance(self.will, Will):
            raise TypeError(f"will must be a Will, not {self.will!r}")
        self.check()
        if self.max_tries != math.inf:
            checks.count("max_tries", self.max_tries)
        for name, most in (
            ("receive_maximum", MAX_COUNT),
            ("max_in_flight", MAX_COUNT),
            ("max_packet_bytes", MAX_PACKET_BYTES),
        ):
            checks.count(name, getattr(self, name))
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, as MQTT has it, not {getattr(self, name)}")

    def _check_session(self) -> None:
        for name in ("client_id", "user"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or "\0" in value):
                raise TypeError(f"{name} must be a str without NUL, not {value!r}")
        if self.password is not None and not isinstance(self.password, str | bytes):
            raise TypeError(f"password must be a str or bytes, not {type(self.password).__name__}")
        checks.flag("clean_start", self.clean_start)
        if self.session_expiry != math.inf:
            whole_seconds("session_expiry", self.session_expiry, MAX_EXPIRY)
        whole_seconds("keepalive", self.keepalive, MAX_KEEPALIVE)
        if not self.clean_start and not self.client_id:
            raise ValueError("clean_start=False goes on with a session of an earlier time: give its client_id")

    @property
    def expiry(self) -> int:
        """The session expiry interval as it travels."""
        return MAX_EXPIRY if self.session_expiry == math.inf else int(self.session_expiry)


def whole_seconds(name: str, value: object, most: int) -> None:
    """Refuse what is no whole number of seconds.

    Raises:
        TypeError, ValueError: It is not, or it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be whole seconds, not {value!r}")
    if not 0 <= value <= most or value != int(value):
        raise ValueError(f"{name} must be whole seconds from 0 to {most}, not {value!r}")


@dataclass(frozen=True, slots=True)
class MqttStatistics:
    """The counters of a client.

    Attributes:
        messages_in: Messages that came, answers to requests included.
        messages_out: Messages that were accepted for sending.
        bytes_in: Bytes read.
        bytes_out: Bytes written.
        reconnects: Connections after the first.
        requests: Requests made.
        no_subscribers: Messages of QoS 1 that nobody had subscribed to the topic of, requests included.
        refused: Messages of QoS 1 that the broker refused.
        sent_again: Messages of QoS 1 that were sent once more, after a reconnect.
        timeouts: Requests without an answer in time.
        late: Answers that nobody waits for any more, and messages that no subscription wants any more.
        unclaimed: Messages of QoS 1 of an earlier time that nobody subscribed for, so that they were let go.
        overrun: Subscriptions and links that were ended since their reader was too slow.
        unsent: Messages that were accepted and never written, since the client was closed without a connection.
        too_large: Messages of QoS 0 that were accepted and never written, since they waited for a connection and are
            longer than the broker takes now.
        subscriptions: Subscriptions that are open.
        queued_bytes: Bytes that wait to be written.
        in_flight: Messages of QoS 1 that the broker has not acknowledged.
        held: Messages of QoS 1 of an earlier time that wait for somebody to subscribe.
        waiting_requests: Requests that wait for their answer.
        links: Links of ports that are open.
    """

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    reconnects: int
    requests: int
    no_subscribers: int
    refused: int
    sent_again: int
    timeouts: int
    late: int
    unclaimed: int
    overrun: int
    unsent: int
    too_large: int
    subscriptions: int
    queued_bytes: int
    in_flight: int
    held: int
    waiting_requests: int
    links: int
