"""The options of a port: names, defaults, checks, and the rule by which one wins. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypedDict

from psession import checks
from psession.budget import Budget
from psession.checks import LARGEST
from psession.dialects import Classic, Dialect
from psession.protocol import states as codes
from psession.protocol.numbers import MAX_ROTATION
from psession.protocol.retry import Patience, Retry
from psession.protocol.settings import Settings
from psession.protocol.turn_dialect import TurnDialect

Overflow = Literal["recycle", "refuse", "wait"]
"""What is done when all numbers are in use or rest."""
Unanswered = Literal["fresh", "keep", "end"]
"""What becomes of a session whose turn was not answered."""
SessionHandler = Callable[[Any], Awaitable[None]]
"""An async function that gets each `Session` that the peer opens."""
MessageHandler = Callable[[Any], object]
"""A function, sync or async, that gets each message that is no session's."""
RequestHandler = Callable[[Any], object]
"""A function, sync, async or an async generator, that gets a question and gives its answer; or a `Service`."""
ErrorReply = Callable[[Exception], object]
"""A function that makes an answer for the classic wire of an exception, or returns ``None``."""
OverflowChooser = Callable[[Any], int]
"""A function that gets the `Port` and returns the number of the session to end."""

DURATIONS = (
    "session_timeout",
    "session_max_life",
    "session_id_rest",
    "grace",
    "resume_within",
    "keepalive_interval",
    "keepalive_patience",
)

COUNTS = ("max_session_count", "max_incoming_sessions", "inbox_limit", "max_queued_bytes", "max_answer_bytes")

PEER_ROOM = 65536
"""The first number that the guide's peers never use: they count 1 to 65535."""


class PortOptions(TypedDict, total=False):
    """The keyword arguments of `SessionManager` and `SessionManager.port`; `Options` says what each means."""

    session_timeout: float | None
    session_max_life: float | None
    session_id_name: str | None
    max_session_count: int | None
    on_session_overflow: Overflow | OverflowChooser | None
    retry: Retry | None
    retry_count: float | None
    retry_interval: float | None
    retry_on: tuple[type[Exception], ...] | None
    session_ids: range | None
    session_id_rest: float | None
    on_unanswered: Unanswered | None
    on_session: SessionHandler | None
    on_request: RequestHandler | None
    error_reply: ErrorReply | None
    on_message: MessageHandler | None
    max_incoming_sessions: int | None
    inbox_limit: int | None
    dialect: Dialect | TurnDialect | None
    max_queued_bytes: int | None
    grace: float | None
    strict: bool | None
    max_answer_bytes: int | None
    deadlines: bool | None
    error_codes: Mapping[type[Exception], str] | None
    debug: bool | None
    resume_within: float | None
    keepalive_interval: float | None
    keepalive_patience: float | None
    busy_wait: bool | None
    max_held_bytes: float | None
    budget: Budget | None


class TurnOptions(TypedDict, total=False):
    """The keyword arguments of `Session.send` and `Port.request` but for ``reply_type``, for type checkers."""

    timeout: float | None
    retry: Retry | None
    retry_count: float | None
    retry_interval: float | None
    retry_on: tuple[type[Exception], ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a port. Durations are seconds on Trio's clock, ``math.inf`` is no limit, 0 is 0.

    Attributes:
        session_timeout: How long one attempt waits for its reply.
        session_max_life: How long a session may be idle: no message either way, no turn waiting.
        session_id_name: The field of a message that holds the session's number.
        max_session_count: How many sessions this side may have open.
        on_session_overflow: What happens when no number is free. ``"recycle"``: the session opened first is ended, a
            request only where there are no others; ``"refuse"``: `SessionOverflowError`; ``"wait"``: ``port.session()``
            and ``port.request()`` wait for one; or a callable that gets the port and returns the number of the session
            to end.
        retry: How often a turn is tried again, when, and out of what budget; a reply that comes between two attempts
            counts.
        retry_count: The short form of its ``count``, and wins over it where both are given.
        retry_interval: The short form of its ``interval``, likewise.
        retry_on: Exceptions of the sender that are retried as silence is.
        session_ids: The numbers this side hands out; any other in a message was opened by the peer. By default 1 to
            ``max_session_count``; for a port with `on_session` or `on_request` as many from 65536 up, out of the way of
            a peer that uses the default. A wide range protects from a peer that answers twice: its second answer meets
            the next owner of the number, which the whole rotation lies before.
        session_id_rest: How long a number rests after a turn that was not answered, for its late reply to pass. 60 is
            the guide's default timeout: what no peer was ever given more than.
        on_unanswered: What the next ``send`` of a session does after a turn whose reply may still come: take a
            ``"fresh"`` number, ``"keep"`` the old one (for a peer that keeps state by number, and answers in time or
            not at all), or ``"end"`` the session.
        on_session: Called with each session that the peer opens, as a task of the port's.
        on_request: Called with each message that asks something by itself; what it returns is the answer. An async one
            runs as a task of the port's, within the time that an asker on the exact wire gives it; any other is called
            and answered in the reader's own step, so it must be quick. An async generator answers a stream: each
            ``yield`` is one part. What it raises reaches such an asker as from
            `on_session`. Beside `on_session` it gets what says that nothing will follow: on the exact wire what
            ``request`` asks.
        error_reply: What an asker on the classic wire gets, which has no errors, where `on_request` raised: called with
            the exception. ``None``, or one that returns ``None``: nothing, and the asker times out.
        on_message: Called with each message that is no session's; an async one has its messages one at a time.
        max_incoming_sessions: How many sessions of the peer may be open. At about 4 kB each, 4096 cost 16 MiB, which
            count in the `budget`. One more ends the one that has been idle longest; when all are at work it is not
            taken.
        inbox_limit: How many messages a session holds that nobody has received yet; one more ends it. 1024 small
            messages are about what one read of 64 KiB brings.
        dialect: How headers are written beside payloads, if `session_id_name` does not say it all: ``Exact()``, or
            ``Classic(...)`` with arguments.
        max_queued_bytes: How many bytes may wait for the writer before ``post`` waits. 256 KiB fill a loopback socket.
        grace: How long leaving may take to flush what was accepted and to close the channel.
        strict: A handler that raises brings the port down; for tests.
        max_answer_bytes: How many bytes of answers are kept for peers on the exact wire that ask again. 4 MiB hold
            14,000 answers of 100 bytes: what a busy port gives in about the second after which a turn is retried.
        deadlines: Whether turns on the exact wire say how long they still wait, and handlers are cancelled when the
            time that their asker gave is over.
        error_codes: What exceptions of a handler an asker on the exact wire is told of, with their text; by class, the
            first that fits. All others it knows as ``"crashed"``.
        resume_within: How long a break of the link may last without ending the port; 0: not at all. On the side that
            connects it needs ``dialect=Exact()`` and a channel made by `psession.channels.reconnecting`.
        keepalive_interval: How long an exact peer may be silent before it is asked for a sign of life. A WebSocket has
            pings of its own.
        keepalive_patience: How long it may take to give one before the link counts as broken.
        debug: True where such an asker is told what a handler crashed with.
        busy_wait: True where a turn that is alone looks for its answer awake for up to 16 passes of the scheduler,
            which is less than a wake-up costs where the peer is near. Where it is not, it is soon tried but once in 256
            turns. False never tries.
        max_held_bytes: How many bytes messages may take that came and nobody has received; one more ends its session.
            16 MiB are 16,000 messages of 1 kB; ``math.inf`` leaves it to the budget. With messages of more than 8 kB
            that handlers of the peer's sessions are at work on there may be three times as many. As many may wait in
            calls of ``post`` for a peer that does not read; one more fails.
        budget: What the peers of any number of ports may make this side hold together, by default 128 MiB for each
            manager's. Where it is used up, the port that holds the most gives way.
    """

    session_timeout: float = 60.0
    session_max_life: float = 600.0
    session_id_name: str = "sid"
    max_session_count: int = 65535
    on_session_overflow: Overflow | OverflowChooser = "recycle"
    retry: Retry = field(default_factory=Retry)
    retry_count: float | None = None
    retry_interval: float | None = None
    retry_on: tuple[type[Exception], ...] = ()
    session_ids: range | None = None
    session_id_rest: float = 60.0
    on_unanswered: Unanswered = "fresh"
    on_session: SessionHandler | None = None
    on_request: RequestHandler | None = None
    error_reply: ErrorReply | None = None
    on_message: MessageHandler | None = None
    max_incoming_sessions: int = 4096
    inbox_limit: int = 1024
    dialect: Dialect | TurnDialect | None = None
    max_queued_bytes: int = 256 * 1024
    grace: float = 1.0
    strict: bool = False
    max_answer_bytes: int = 4 * 1024 * 1024
    deadlines: bool = True
    error_codes: Mapping[type[Exception], str] = field(default_factory=dict[type[Exception], str])
    debug: bool = False
    resume_within: float = 0.0
    keepalive_interval: float = math.inf
    keepalive_patience: float = 10.0
    busy_wait: bool = True
    max_held_bytes: float = 16 * 1024 * 1024
    budget: Budget | None = None

    def __post_init__(self) -> None:
        for name in DURATIONS:
            checks.seconds(name, getattr(self, name))
        check_retry(self.retry, self.retry_count, self.retry_interval)
        for name in COUNTS:
            checks.count(name, getattr(self, name))
        Classic(self.session_id_name)
        checks.one_of("on_session_overflow", self.on_session_overflow, Overflow, or_callable=True)
        checks.one_of("on_unanswered", self.on_unanswered, Unanswered)
        checks.exceptions("retry_on", self.retry_on)
        for name in ("on_session", "on_request", "error_reply", "on_message"):
            if (value := getattr(self, name)) is not None and not callable(value):
                raise TypeError(f"{name} must be callable, not {value!r}")
        for name in ("strict", "deadlines", "debug", "busy_wait"):
            checks.flag(name, getattr(self, name))
        checks.number("max_held_bytes", self.max_held_bytes, at_least=1, or_inf=True)
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise TypeError(f"budget must be a psession.Budget, not {self.budget!r}")
        _check_codes(self.error_codes)
        if self.session_ids is not None:
            _check_range(self.session_ids)
        if self.dialect is not None:
            if isinstance(self.dialect, TurnDialect):
                self._check_turns(self.dialect)
                return
            if not isinstance(self.dialect, Dialect):
                hint = ": make one of it, with ()" if isinstance(self.dialect, type) else ""
                raise TypeError(f"dialect must be one such as psession.Exact(), not {self.dialect!r}{hint}")
            if self.session_id_name not in ("sid", self.dialect.session_id_name):
                raise ValueError(
                    f"session_id_name {self.session_id_name!r} contradicts {self.dialect!r}: give one of the two"
                )

    def _check_turns(self, dialect: TurnDialect) -> None:
        """Refuse what a protocol without sessions cannot do."""
        name = type(dialect).__name__
        if self.on_session is not None:
            raise TypeError(f"{name} knows no sessions, so the peer opens none: give on_request= for its questions")
        if self.error_reply is not None:
            raise TypeError(f"error_reply is for the classic wire: {name} says itself how an error is written")
        if self.resume_within:
            raise ValueError(f"{name} cannot resume: a link that breaks ends its port; leave resume_within out")
        if self.keepalive_interval != math.inf:
            raise ValueError(f"{name} has no sign of life of psession's: leave keepalive_interval out")

    def override(self, changes: PortOptions) -> Options:
        """These options with others on top; ``None`` leaves one as it is.

        Raises:
            TypeError: An option that does not exist, or a value of the wrong type.
            ValueError: A value out of range.
        """
        unknown = changes.keys() - PortOptions.__annotations__.keys()
        if unknown:
            raise checks.no_option(unknown, PortOptions.__annotations__)
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if "retry" in given:  # it is nearer than a count or an interval that these options have
            given = {"retry_count": None, "retry_interval": None, **given}
        return dataclasses.replace(self, **given) if given else self

    @property
    def patience(self) -> Patience:
        """The patience of a turn whose call does not say otherwise."""
        retry = self.retry.override(self.retry_count, self.retry_interval)
        return Patience.of(self.session_timeout, retry, self.retry_on)

    @property
    def own_ids(self) -> range:
        """The numbers that this side hands out."""
        if self.session_ids is not None:
            return self.session_ids
        first = PEER_ROOM if self.takes_sessions else 1
        return range(first, first + self.max_session_count)

    @property
    def takes_sessions(self) -> bool:
        """True where somebody answers what the peer opens."""
        return self.on_session is not None or self.on_request is not None

    @property
    def wire(self) -> Dialect:
        """The dialect of PSession in force."""
        return self.dialect if isinstance(self.dialect, Dialect) else _classic(self.session_id_name)

    @property
    def settings(self) -> Settings:
        """The settings of the protocol."""
        return Settings(
            own_ids=self.own_ids,
            max_session_count=self.max_session_count,
            max_incoming_sessions=self.max_incoming_sessions,
            session_max_life=self.session_max_life,
            session_id_rest=self.session_id_rest,
            on_unanswered=self.on_unanswered,
            takes_sessions=self.takes_sessions,
            takes_requests=self.on_request is not None,
            takes_dialogues=self.on_session is not None,
            inbox_limit=self.inbox_limit,
            max_answer_bytes=self.max_answer_bytes,
            deadlines=self.deadlines,
        )


@lru_cache(maxsize=64)
def _classic(session_id_name: str) -> Classic:
    """The classic dialect with that name: one for all ports, since one each took 4 kB."""
    return Classic(session_id_name)


def checked(
    patience: Patience,
    timeout: float | None,
    retry: Retry | None,
    retry_count: float | None,
    retry_interval: float | None,
    retry_on: tuple[type[Exception], ...] | None,
) -> Patience:
    """`patience` with what a call says on top.

    Raises:
        TypeError, ValueError: A value that is no duration, no number of retries, no tuple of exceptions.
    """
    if timeout is not None:
        checks.seconds("timeout", timeout)
    if retry is None and retry_count is None and retry_interval is None and retry_on is None:
        return patience if timeout is None else patience.within(timeout)  # as nearly every call does
    if retry is not None or retry_count is not None or retry_interval is not None:
        check_retry(retry, retry_count, retry_interval)
        retry = (retry or patience.retry).override(retry_count, retry_interval)
    if retry_on is not None:
        checks.exceptions("retry_on", retry_on)
    return Patience.of(
        patience.timeout if timeout is None else timeout,
        patience.retry if retry is None else retry,
        patience.retry_on if retry_on is None else retry_on,
    )


def check_retry(retry: object, retry_count: object, retry_interval: object) -> None:
    """Refuse what does not say how to retry; ``None`` says nothing."""
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, such as Retry(3, 0.5), not {retry!r}")
    if retry_count is not None:
        checks.retries("retry_count", retry_count)
    if retry_interval is not None:
        checks.seconds("retry_interval", retry_interval)


def checked_life(value: float | None) -> float | None:
    """``session_max_life`` of one session."""
    if value is not None:
        checks.seconds("session_max_life", value)
    return value


def _check_codes(error_codes: object) -> None:
    if not isinstance(error_codes, Mapping):
        raise TypeError(f"error_codes must be a mapping of Exception classes to codes, not {error_codes!r}")
    for kind, code in error_codes.items():
        checks.exceptions("error_codes", (kind,))
        if not isinstance(code, str) or not code or ": " in code:
            raise ValueError(f'error_codes must give text without ": ", not {code!r}')
        if code == codes.ENDED:
            raise ValueError(f"the code {code!r} says on the wire that a session is over: choose another")


def _check_range(ids: object) -> None:
    if not isinstance(ids, range):
        raise TypeError(f"session_ids must be a range, such as range(1, 65536), not {ids!r}")
    if not ids:
        raise ValueError(f"session_ids must not be empty, as {ids!r} is")
    if min(ids[0], ids[-1]) < 1:
        raise ValueError(f"session_ids must be 1 or more, which {ids!r} is not")
    if max(ids[0], ids[:MAX_ROTATION][-1]) > LARGEST:
        raise ValueError(f"session_ids must stay below 2**53, past which JavaScript loses digits; {ids!r} does not")
