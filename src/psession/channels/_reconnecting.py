"""A channel that opens itself again when its link breaks."""

from __future__ import annotations

import inspect
import math
import random
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from psession.channels._link import Link
from psession.channels._reconnect_options import (
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_FIRST_DELAY,
    DEFAULT_MAX_DELAY,
    Connect,
    LinkState,
    Pace,
    ReconnectOptions,
    log,
    reason_of,
)
from psession.channels._wire import DEFAULT_CLOSE_TIMEOUT
from psession.nursery import close_forcefully, open_quiet_nursery
from psession.text import innermost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LINK_ENDS = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)
"""How a link says that it is over. Closed: by who found it broken first, or by its own context."""

MAX_REASONS = 8
"""Kinds of failures that are logged before a link stands: there are as many statuses of HTTP as a server likes."""


class _Opening:
    """Tries under way. Cancelling ``scope`` gives them up; ``done`` is set when there is a link, or will be none."""

    def __init__(self, *, shield: bool) -> None:
        self.scope = trio.CancelScope(shield=shield)
        self.done = trio.Event()


class ReconnectingChannel(trio.abc.Channel[Any]):
    """A channel that opens itself again when its link breaks; `reconnecting` makes one. It has two faces.

    As a plain channel, `send` and `receive` go on across breaks, and tries go on behind them. Whoever would rather talk
    to each link directly asks `open` for one after the other. Nothing is opened before one of the three is called.
    """

    comes_back = True

    def __init__(self, connect: Connect, options: ReconnectOptions, nursery: trio.Nursery) -> None:
        self._connect = connect
        self._options = options
        self._nursery = nursery
        self._context = copy_context()
        self._pace = Pace(options)
        self._link: Link | None = None
        self._opening: _Opening | None = None
        self._went_wrong: Exception | None = None
        """What did so last: told with the next try."""
        self._closed = False
        self._failure: Exception | None = None
        """What there will be no more links for, although this side has not closed; ``_why`` in words."""
        self._why = ""
        self._unheard: Exception | None = None
        """The same, as long as nobody has been given it as it is."""
        self._said: set[str] = set()
        """The kinds of failures that were logged, since the last link that stood for long."""
        self._ended = False
        """Whether it is that the peer closed, and that is to be the end."""

    def __repr__(self) -> str:
        over = self._closed or self._failure is not None
        state = "closed" if over else "open" if self._standing_link() else "opening" if self._opening else "no link"
        return f"<psession.channels.ReconnectingChannel, {state}>"

    # -- one link after the other ------------------------------------------------------------------------------------

    async def open(self, broken_by: Exception | None = None) -> trio.abc.Channel[Any]:
        """Close the link before, if any, without a goodbye, and try until the next is open. One task at a time.

        The channel that is returned belongs to this one, which closes it with the next `open` or `aclose`. Cancelled,
        no half-open link is left behind, and a later call waits for what is left of the time until the next try.

        Args:
            broken_by: What the link before failed with, for ``on_state`` and for ``reopen_after_end``.

        Raises:
            trio.BrokenResourceError: No link came in ``max_attempts`` tries; ``__cause__`` is the last one's error.
                There are no more tries after that: each later call raises it too.
            trio.ClosedResourceError: This side closed the channel.
            trio.EndOfChannel: `broken_by` is one, and ``reopen_after_end`` is false.
            trio.BusyResourceError: Another task is opening it.
            Exception: What `connect` raised and ``give_up_on`` names, or is no fault of the world's.
        """
        self._check_open()
        if self._opening is not None:
            raise trio.BusyResourceError("another task is opening this channel")
        if self._link is not None:
            self._lose(self._link, broken_by or self._link.error)
            self._check_open()
        await self._try_until_open(self._begin(shield=False))
        self._check_open()
        assert self._link is not None
        assert self._link.channel is not None
        return self._link.channel

    # -- a plain channel ---------------------------------------------------------------------------------------------

    async def send(self, value: Any) -> None:
        """Send one message on the link there is, or on the next where there is none.

        A message is given to one link, once. Cancelled before there was a link: not sent; after that as the channel of
        the link has it. The tries for a link go on, whoever is cancelled. As many tasks as that channel allows: those
        of this package any number.

        Raises:
            MessageError: The channel of the link refused it; nothing was sent.
            trio.BrokenResourceError: The link broke at this message, and nobody knows whether it arrived: the caller
                may send it again, and that waits for the next link. Or there will be none, as in `open`.
            trio.ClosedResourceError: This side closed the channel.
            Exception: As in `open`, to the first caller alone; later ones get a `trio.BrokenResourceError`.
        """
        try:
            link, channel = await self._standing()
        except trio.EndOfChannel as end:
            raise trio.BrokenResourceError(self._why) from end
        try:
            await channel.send(value)
        except LINK_ENDS as error:
            self._reopen(link, error)
            if self._closed:
                raise trio.ClosedResourceError("this side closed the channel") from None
            raise trio.BrokenResourceError(
                f"the link broke, and whether this message has arrived is not known: {error!r}"
            ) from error

    async def receive(self) -> Any:
        """The next message, from whatever link brings it. Cancelling loses nothing; the tries for a link go on.

        What a link had brought and nobody had received when a `send` found it broken is lost with it. As many tasks as
        the channel of the link allows.

        Raises:
            MessageError: What came in its place is no message; the next call goes on after it.
            trio.EndOfChannel: The peer closed, and ``reopen_after_end`` is false.
            trio.BrokenResourceError: There will be no more links, as in `open`.
            trio.ClosedResourceError: This side closed the channel.
            Exception: As in `open`, to the first caller alone; later ones get a `trio.BrokenResourceError`.
        """
        while True:
            link, channel = await self._standing()
            try:
                return await channel.receive()
            except LINK_ENDS as error:
                self._reopen(link, error)

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close the link and open no more; who waits gets `trio.ClosedResourceError`. Idempotent.

        Takes ``close_timeout`` seconds at most, and what the link's context takes to be left although cancelled.
        Cancelled, the link is closed at once.
        """
        if not self._closed:
            self._closed = True
            if self._failure is None:
                self._options.tell(LinkState("closed"))
        if self._opening is not None:
            self._opening.scope.cancel()
            with trio.CancelScope(shield=True):  # what is left of it is the dropping of a link
                await self._opening.done.wait()
        link = self._link
        if link is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            link.leave()
            with trio.move_on_after(self._options.close_timeout):
                await link.gone.wait()
        finally:
            await link.drop()

    # -- how it goes on ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        """Raise if there will be no more links."""
        if self._closed:
            raise trio.ClosedResourceError("this side closed the channel")
        if self._failure is None:
            return
        if self._unheard is not None:
            try:
                raise self._unheard
            finally:
                self._unheard = None
        if self._ended:
            raise trio.EndOfChannel(self._why) from self._failure
        raise trio.BrokenResourceError(self._why) from self._failure

    def _standing_link(self) -> tuple[Link, trio.abc.Channel[Any]] | None:
        link = self._link
        if link is None or link.channel is None or link.lost or link.gone.is_set():
            return None
        return link, link.channel

    async def _standing(self) -> tuple[Link, trio.abc.Channel[Any]]:
        """The link there is, or the next; no checkpoint where there is one."""
        while True:
            self._check_open()
            if (standing := self._standing_link()) is not None:
                return standing
            if self._link is not None:
                self._lose(self._link, self._link.error)  # if its context ended by itself, and nobody has found out yet
            self._ensure_opening()
            if self._opening is not None:
                await self._opening.done.wait()

    def _reopen(self, link: Link, error: Exception) -> None:
        self._lose(link, link.error or error)
        self._ensure_opening()

    def _ensure_opening(self) -> None:
        """Have a task of this channel's own try, rather than one that waits: a wait is cancelled all the time."""
        over = self._closed or self._failure is not None
        if not over and self._opening is None and self._standing_link() is None:
            self._spawn(self._try_until_open, self._begin(shield=True), name="psession reopening of a channel")

    def _lose(self, link: Link, error: Exception | None) -> None:
        """The link is of no further use. Whoever says so first is heard."""
        if link.lost or self._closed:
            return
        link.lost = True
        if isinstance(error, trio.EndOfChannel) and not self._options.reopen_after_end:
            self._ended = True
            self._end(error, "the peer closed the channel")
            return
        self._went_wrong = error
        if trio.current_time() - link.opened_at >= self._options.max_delay:
            self._said.clear()
        self._pace.broke(link.opened_at)
        self._options.tell(LinkState("broken", error=error))

    def _end(self, failure: Exception, why: str) -> None:
        """There will be no more links."""
        self._failure = failure
        self._why = why
        self._options.tell(LinkState("closed", error=failure))

    def _begin(self, *, shield: bool) -> _Opening:
        self._opening = _Opening(shield=shield)
        return self._opening

    @trio.lowlevel.enable_ki_protection
    async def _try_until_open(self, opening: _Opening) -> None:
        """Returns when there is a link, or ``_failure`` says why there will be none, or ``aclose`` was called."""
        try:
            with opening.scope:
                if self._link is not None:
                    await self._link.drop()
                    self._link = None
                attempt = 1
                while not (self._link or self._failure):
                    await self._wait_until_due(attempt)
                    self._options.tell(LinkState("connecting", attempt, self._went_wrong))
                    self._judge(attempt, await self._try())
                    attempt += 1
        finally:
            self._opening = None
            opening.done.set()

    async def _wait_until_due(self, attempt: int) -> None:
        delay = self._pace.due - trio.current_time()
        if delay > 0:
            self._options.tell(LinkState("waiting", attempt, self._went_wrong, delay))
            await trio.sleep_until(self._pace.due)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _try(self) -> Link:
        """One try, which takes ``connect_timeout`` seconds at most. Cancelled, nothing of it is left."""
        link = Link(self._connect, self._options.connect_timeout)
        self._spawn(link.run, name="psession link of a channel")
        try:
            await link.settled.wait()
            await trio.lowlevel.checkpoint_if_cancelled()  # it may have opened in the very pass that cancels
        except BaseException:
            await link.drop()
            raise
        return link

    def _judge(self, attempt: int, link: Link) -> None:
        """Decide what comes of a try: a link, the next try, or the end."""
        if link.channel is not None:
            self._link, self._went_wrong = link, None
            self._options.tell(LinkState("open", attempt))
            return
        error, link.error = link.error, None  # whose traceback leads to the link: without this each failure is a cycle
        assert error is not None
        self._went_wrong = error
        if not self._options.is_worth_another_try(error):
            self._unheard = error
            self._end(error, f"opening a link failed, and is not tried again: {error!r}")
        elif attempt >= self._options.max_attempts:
            self._end(error, f"no link in {attempt} {'try' if attempt == 1 else 'tries'}, the last one: {error!r}")
        else:
            self._pace.failed()
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Log why there is no link, once for each kind of reason, unless the application is told of each step."""
        inner = innermost(error)
        kind = f"{type(inner).__name__} {getattr(inner, 'errno', None)} {getattr(inner, 'status', None)}"
        if self._options.on_state is not None or kind in self._said or len(self._said) >= MAX_REASONS:
            return
        self._said.add(kind)
        text = "no link yet, and it is tried again: %s (said once for each reason; on_state= is told of each try)"
        log.warning(text, reason_of(error), extra={"event_name": "no_link"})

    def _spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any, name: str) -> None:
        """Start a task in the context variables of who made this channel, whoever's deed it follows from."""
        self._context.run(partial(self._nursery.start_soon, function, *arguments, name=name))


@asynccontextmanager
async def reconnecting(
    connect: Connect,
    *,
    first_delay: float = DEFAULT_FIRST_DELAY,
    max_delay: float = DEFAULT_MAX_DELAY,
    backoff: float = 2.0,
    jitter: float = 0.5,
    max_attempts: float = math.inf,
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    give_up_on: tuple[type[Exception], ...] = (),
    reopen_after_end: bool = True,
    on_state: Callable[[LinkState], object] | None = None,
    rng: Callable[[], float] = random.random,
) -> AsyncIterator[ReconnectingChannel]:
    """``async with reconnecting(lambda: open_websocket(url)) as channel``: a channel that outlives its links.

    A *link* is what one call of `connect` opens. When it breaks, or ends, the next one is opened, after a wait that
    grows with each failure in a row. The first is opened by the first `send` or `receive`, not by entering the block.
    Leaving the block closes the link, in ``close_timeout`` seconds at most; by an error or cancelled, at once. What the
    body raises comes out as it is.

    What is on its way when a link breaks may or may not have arrived: the `send` that meets the break raises
    `trio.BrokenResourceError`, and no message is sent twice behind the caller's back. What was sent before it may be
    lost without an error, as on any link that breaks.

    Args:
        connect: Called for each link; gives an async context manager of an open channel, which is left when that link
            is done with, or an awaitable that returns one. Entered and left in one task.
        first_delay: Seconds before the first try after a link broke. ``wait = min(max_delay, first_delay * backoff **
            failures) * (1 + jitter * rng())``, where a link that broke less than `max_delay` seconds after it opened is
            one more failure in the row: a server that accepts and drops at once is not hammered.
        max_delay: Seconds; see `first_delay`.
        backoff: What each further failure multiplies the wait by, from 1.
        jitter: The largest random share that is added to a wait, so that not all clients of a server come back at once.
        max_attempts: Tries in a row for one link before it gives up; ``math.inf`` for no limit.
        connect_timeout: Seconds for one try, all that `connect` does included.
        close_timeout: Seconds that closing gives the link for its goodbye.
        give_up_on: Exceptions of `connect` that are not tried again. Others are if they are of the world: `OSError`
            (`TimeoutError` and `HandshakeError` are), `trio.BrokenResourceError`, `trio.EndOfChannel` and
            `trio.TooSlowError`. Any other is raised at once, since no patience mends a `TypeError`.
        reopen_after_end: Whether a link that its peer closed cleanly is opened again too, as a server that restarts
            would want it. A `send` that finds it closed first cannot tell: to it the link is broken.
        on_state: Called with a `LinkState` at each step, by whichever task makes it; must not wait. What it raises is
            logged. ``None``: why a try failed is logged as a warning, once for each kind of reason.
        rng: Gives random numbers from 0 to 1; for tests.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """
    if not callable(connect) or hasattr(type(connect), "__aenter__"):
        if inspect.iscoroutine(connect):
            connect.close()  # it would warn that nobody awaited it
        raise TypeError(
            f"connect is called for each link: give `lambda: open_websocket(url)`, not what it returns ({connect!r})"
        )
    options = ReconnectOptions(
        first_delay=first_delay,
        max_delay=max_delay,
        backoff=backoff,
        jitter=jitter,
        max_attempts=max_attempts,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        give_up_on=give_up_on,
        reopen_after_end=reopen_after_end,
        on_state=on_state,
        rng=rng,
    )
    async with open_quiet_nursery() as nursery:
        channel = ReconnectingChannel(connect, options, nursery)
        try:
            yield channel
            await channel.aclose()
        except BaseException:
            await close_forcefully(channel)
            raise
