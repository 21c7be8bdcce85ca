"""Many replies to one turn: ``async with session.stream(payload) as replies``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never, final

import trio

from psession.shell.stream import StreamTurn
from psession.typed import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from psession.shell.live_session import LiveSession
    from psession.shell.stream import Plan
    from psession.typed import Form


@final
class Replies(trio.abc.ReceiveChannel[Reply]):
    """The replies to one message, in order and each once: use ``async with``, then ``async for`` or `receive`.

    ``Replies[Status]`` is what type checkers know of the replies; plain ``Replies`` is ``Replies[Any]``.

    `Session.stream` and `Port.stream` make it. They end, and ``async for`` with them, at the peer's end mark, or when
    ``count`` of them were received. A `SessionTimeoutError` says that no reply came in ``timeout`` seconds, all
    attempts included, or that the ``total`` is over; a `SessionRemoteError` that the peer's handler failed. What had
    come before is received first.

    Leaving the block before the end gives the turn up: the peer is told, and its handler cancelled. Whatever happens in
    the block, nothing of the turn is left in any table when it is over.
    """

    _live: LiveSession | None
    _open_session: Callable[[], Awaitable[LiveSession]]
    _is_own: bool
    _payload: Any
    _plan: Plan
    _form: Form | None
    _turn: StreamTurn | None
    _error: BaseException | None
    _is_over: bool
    _is_closed: bool
    _is_receiving: bool
    _left_by: type[BaseException] | None

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("Replies are made by `session.stream(payload)` or `port.stream(payload)`")

    def __repr__(self) -> str:
        turn = self._turn
        if turn is None:
            return "<psession.Replies, not asked for yet: use `async with`>"
        state = "over" if self._is_over else "open"
        return f"<psession.Replies to turn {turn.number}, {state}, {turn.parts.consumed} received>"

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Send the message.

        Cancelled before the port's writer had it, it is never sent.

        Raises:
            SessionError: As `Session.send` and, with a session of its own, `Port.request`.
        """
        if self._turn is not None:
            raise RuntimeError("a stream is entered once")
        live = self._live
        if live is None:
            live = self._live = await self._open_session()
        turn = self._turn = StreamTurn(live, self._plan)
        try:
            if live.dialogue.turn is not None:
                await live.line_up(turn)
            turn.__enter__()
        except BaseException:
            self._is_over = self._is_closed = True
            self._end_session()
            raise
        try:
            await turn.ask(self._payload)
        except BaseException as error:
            self._close(type(error))
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind)

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Give the turn up, as leaving the block does. Idempotent; a cancellation changes nothing about it."""
        self._close(None)
        await trio.lowlevel.checkpoint()

    # These two give their caller the coroutine of `_next`, and have none of their own: 0.25 us a reply.

    def __anext__(self) -> Coroutine[Any, Any, Reply]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._next(stops=True)

    def receive(self) -> Coroutine[Any, Any, Reply]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Receive the next reply. Cancelling loses nothing.

        The time without a reply begins when this is first called after the last reply. May return without yielding to
        other tasks; yields at least every 32nd call.

        Raises:
            trio.EndOfChannel: The peer has no more, or ``count`` replies were received.
            SessionTimeoutError: No reply came in time, or the total time is over.
            SessionRemoteError: The peer's handler failed.
            SessionOverrunError: The peer sent more than it had credit for.
            MalformedMessageError: The reply does not fit ``reply_type``; the turn is over, as on leaving the block.
            SessionError: What ended the turn, as in `Session.send`.
            trio.ClosedResourceError: The block was left, or not entered.
            trio.BusyResourceError: Another task receives.
        """
        return self._next(stops=False)

    @trio.lowlevel.enable_ki_protection
    async def _next(self, *, stops: bool) -> Reply:
        """The next reply; a clean end is `StopAsyncIteration` for a caller that `stops` there."""
        turn = self._turn
        if turn is not None and turn.has_reply and self._form is None and not self._is_over and not self._is_receiving:
            await trio.lowlevel.checkpoint_if_cancelled()
            reply: Reply = turn.take()
            if turn.answered:
                self._note_end(turn)
            return reply
        try:
            return await self._wait_for_next()
        except trio.EndOfChannel:
            if stops:
                raise StopAsyncIteration from None
            raise

    async def _wait_for_next(self) -> Reply:
        turn = self._turn
        if turn is None:
            raise trio.ClosedResourceError("use `async with session.stream(...) as replies`: it was not asked for yet")
        if self._is_closed:
            raise trio.ClosedResourceError("the block of the stream was left")
        if self._is_receiving:
            raise trio.BusyResourceError("another task receives these replies")
        if self._error is not None:
            await trio.lowlevel.checkpoint()
            raise self._error
        self._is_receiving = True
        try:
            reply: Reply = await turn.next()
            if self._form is not None:
                reply = turn.read(reply, self._form)
        except trio.Cancelled:
            raise
        except BaseException as error:
            if self._is_closed:
                raise trio.ClosedResourceError("another task left the block") from None
            if isinstance(error, trio.EndOfChannel):
                self._end(error, None)
                raise
            self._end(error, type(error))
            raise
        finally:
            self._is_receiving = False
            if self._is_closed:
                self._leave(self._left_by)
        self._note_end(turn)
        return reply

    def _note_end(self, turn: StreamTurn) -> None:
        """Leave the turn where its last reply was taken: a send in the block need not wait."""
        if turn.is_complete and not turn.parts.ready:
            self._end(trio.EndOfChannel(), None)

    def _end(self, error: BaseException, kind: type[BaseException] | None) -> None:
        """There are no more: the turn is over, whatever else is done in the block."""
        self._error = error
        self._leave(kind)

    def _leave(self, kind: type[BaseException] | None) -> None:
        turn = self._turn
        if turn is not None and not self._is_over:
            self._is_over = True
            turn.__exit__(kind, None, None)
            self._end_session()

    def _close(self, kind: type[BaseException] | None) -> None:
        if self._is_closed:
            return
        self._is_closed, self._left_by = True, kind
        if self._turn is not None:
            self._turn.parts.ready.clear()
        if self._is_receiving and self._turn is not None:
            self._turn.close()  # the other task waits for what the turn brings: it is the one to leave
        else:
            self._leave(kind)

    def _end_session(self) -> None:
        if self._is_own and self._live is not None:
            self._live.end()


def replies_to(
    payload: Any,
    plan: Plan,
    form: Form | None,
    live: LiveSession | None,
    open_session: Callable[[], Awaitable[LiveSession]],
) -> Replies:
    """Make the `Replies` to a payload, in the session `live` or in one that is opened for them and ended with them."""
    replies = Replies.__new__(Replies)
    replies._live = live
    replies._open_session = open_session
    replies._is_own = live is None
    replies._payload = payload
    replies._plan = plan
    replies._form = form
    replies._turn = None
    replies._error = None
    replies._is_over = False
    replies._is_closed = False
    replies._is_receiving = False
    replies._left_by = None
    return replies


def reply_now(replies: Replies[Reply]) -> tuple[Reply] | None:
    """Take the next reply where that need not wait, for calls from outside Trio; ``None`` where it does."""
    turn = replies._turn
    if turn is None or not turn.has_reply or replies._form is not None or replies._is_over or replies._is_receiving:
        return None
    reply: Reply = turn.take()
    if turn.answered:
        replies._note_end(turn)
    return (reply,)


def leave(replies: Replies, kind: type[BaseException] | None) -> None:
    """Leave the block of a stream by an exception of that kind, from outside Trio."""
    replies._close(kind)
