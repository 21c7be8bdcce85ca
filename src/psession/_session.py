"""One dialogue: turns out, messages in, and an end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import trio
from outcome import Error

from psession import _rules as rules
from psession import errors
from psession._ending import CANCELLED, ENDED, TIMED_OUT, aborted, overrun
from psession._inbox import OVER, Inbox
from psession._options import checked, seconds
from psession._replies import replies_in
from psession._turn import Turn

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Coroutine
    from typing import Self, Unpack

    from psession._ending import Ending
    from psession._exchange import Exchange
    from psession._port import Port
    from psession._replies import Replies
    from psession._retry import Patience, Retry
    from psession._stream import StreamOptions


class Session:
    """One dialogue with the peer of a port, known by its number ``sid`` in the messages.

    Made by `Port.session`, `Port.create` or, for what the peer opens, handed to ``on_session``. Leaving its ``with`` or
    ``async with`` block ends it. Turns are one at a time: a second ``send`` waits for the first.

    Attributes:
        port: The port it belongs to.
        sid: Its number. After a turn whose reply may still come the next ``send`` takes a fresh one.
        incoming: Whether the peer opened it.
    """

    __slots__ = (
        "__weakref__",
        "_ending",
        "_exchange",
        "_inbox",
        "_line",
        "_max_life",
        "_once",
        "_owed",
        "_patience",
        "_turn",
        "_unsafe_until",
        "entry_due",
        "idle_entry",
        "idle_since",
        "incoming",
        "port",
        "sid",
    )

    def __init__(self, port: Port, sid: int, patience: Patience, max_life: float, *, incoming: bool = False) -> None:
        self.port = port
        self.sid = sid
        self.incoming = incoming
        self._patience = patience
        self._max_life = max_life
        self._turn: Turn | None = None
        self._line: OrderedDict[Turn, trio.lowlevel.Task] | None = None
        self._ending: Ending | None = None
        self._inbox = Inbox(port._options.inbox_limit)
        self._once = False
        self._owed = 0
        self._unsafe_until = 0.0
        self.entry_due = math.inf  # psession._timekeeper
        self.idle_since = 0.0  # psession._idle
        self.idle_entry = 0
        self._exchange: Exchange | None = None  # psession._exact makes it

    def __repr__(self) -> str:
        state = "open" if self._ending is None else "ended"
        return f"<psession.Session {self.sid} of port {self.port.name!r}, {state}>"

    # -- what the application calls ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._ending is not None

    async def send(
        self,
        message: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the guide's name; it counts each attempt, not the call
        retry: Retry | None = None,
        retry_count: float | None = None,
        retry_interval: float | None = None,
        retry_on: tuple[type[Exception], ...] | None = None,
    ) -> Any:
        """Send `message` and return the peer's reply to it.

        A second ``send`` in the same session waits until the first is over, and its own time starts then. The caller's
        message is not changed.

        Args:
            message: What to send; it goes out with the session's number in it.
            timeout: Seconds each attempt waits. Like the others: ``None`` takes the session's, the port's or the
                manager's value, 0 means 0, ``math.inf`` no limit.
            retry: How often it is tried again, and when; a reply that comes between two attempts is the reply. Only
                silence is retried, and what `retry_on` names.
            retry_count: Attempts after the first, on top of `retry`.
            retry_interval: Seconds between two attempts, likewise.
            retry_on: Exceptions of the sender that are tried again.

        Returns:
            The reply as it came, its number included.

        Cancelled before the message was taken by the port's writer, it is never sent; after that it is sent whole. The
        turn is gone from every table either way.

        Raises:
            SessionTimeoutError: No reply in ``(retry_count + 1) * timeout + retry_count * retry_interval`` seconds;
                `Retry` says how long it is with waits that grow.
            SessionCancelError: ``cancel()`` or ``end()`` was called, or the session was recycled.
            SessionAbortError: The port was left, or ``abort()`` or ``clear()`` called; `PortClosedError` when the
                channel ended or broke.
            SessionInvalidError: The session is over, or its peer's number may not be used again.
            SessionRemoteError: The peer answered with an error (exact wire).
            MessageError: The message cannot be encoded, or is too large.
            Exception: What the sender raised. Whether the message left then nobody knows: it counts as not answered.
        """
        patience = checked(self._patience, timeout, retry, retry_count, retry_interval, retry_on)
        turn = Turn(self)
        if self._turn is not None:
            await turn.stand_in_line()
        with turn:
            return await turn.run(message, patience)

    def stream(self, message: Any, **options: Unpack[StreamOptions]) -> Replies:
        """Send `message` and receive many replies to it: ``async with session.stream(message) as replies``.

        A stream is a turn: a ``send`` of the same session waits. `psession.Replies` says how it ends and what it
        raises, `psession.StreamOptions` what it may take. On the classic wire: SessionInvalidError.
        """
        return replies_in(self, message, options)

    async def post(self, message: Any) -> None:
        """Send `message` and want no reply. Returns when it is accepted for sending, in order with what else is.

        Cancelled before it was accepted, it is never sent. Waits while ``max_queued_bytes`` are queued; with an async
        sender, until that has returned.

        Raises:
            SessionInvalidError: The session is over.
            PortClosedError: The channel ended or broke.
            MessageError: The message cannot be encoded, or is too large.
            Exception: What the sender raised.
        """
        self._check_open()
        port = self.port
        exact = port._exact
        if exact is None or not (self._exchange is not None or exact.asks(self)):
            frame = port._to_frame(port._envelope.stamp(message, self.sid))
            await trio.lowlevel.checkpoint_if_cancelled()
            if not port._outbox.post_now(frame):
                await port._outbox.post(frame, self._check_open)
        elif self._exchange is not None and self._exchange.stream is not None:
            await exact.streamed.post(self, message)
        else:
            opened = exact.exchange(self).opened
            frame, answers = exact.post(self, message)
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                if not port._outbox.post_now(frame):
                    await port._outbox.post(frame, self._check_open)
            except BaseException:
                exact.not_posted(self, answers, opens=not (opened or answers or self.incoming))
                raise
            if answers and self._exchange is not None and self._exchange.final:
                exact.answerer.answer_sent(self)
        if self._turn is None and not self.incoming and self._ending is None:
            port._idle_enter(self)

    async def finish(self, message: Any = None) -> None:
        """End the answer to the turn that was received, with `message` if there is one. Waits and raises as `post`.

        To a `stream` each ``post`` is one answer, and this, the next ``receive`` or the handler's return the end. To a
        ``send`` it is `post`, or nothing. Cancelled before it was accepted, it has ended nothing.
        """
        if self._exchange is not None and self._exchange.stream is not None and self.port._exact is not None:
            await self.port._exact.streamed.finish(self, message)
        elif message is not None:
            await self.post(message)
        else:
            await trio.lowlevel.checkpoint()

    async def receive(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as in send
        """The next message of the peer that is no reply to a ``send``.

        Args:
            timeout: Seconds to wait; ``None``: until the session is over, which ``session_max_life`` sees to.

        Cancelling loses nothing.

        Raises:
            SessionTimeoutError: Nothing came in `timeout` seconds.
            SessionInvalidError: The session is over, and all that had come was received.
            SessionOverrunError: The peer sent more than the inbox holds.
            SessionAbortError: The port was left, or its channel broke.
        """
        if timeout is None:
            return await self._next_message()
        seconds("timeout", timeout)
        with trio.move_on_after(timeout):
            return await self._next_message()
        for _ in range(self.port._hops + 1):
            if self._inbox.kept:
                break
            await trio.lowlevel.checkpoint()
        if self._inbox.kept:
            return self._taken_out(self._inbox.take())
        raise self._error(errors.SessionTimeoutError, f"no message came in {timeout:g} s")

    def __aiter__(self) -> Self:
        """Iterate over what the peer says; stops when the session or the channel ends cleanly."""
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        return self._next_message(stops=True)

    def next(self, message: Any) -> None:
        """Hand in a message that came for this session, from a receive loop of one's own. Never waits, never raises.

        A turn that waits gets it as its reply; otherwise ``receive`` does. After the session's end it is counted, no
        more.
        """
        if self._ending is not None:
            self.port._counters.late += 1
        elif self.port._envelope.marks(message):
            self.port.dispatch(message)
        else:
            self._deliver(message)

    def cancel(self) -> None:
        """Give up the sends that wait: each gets `SessionCancelError`. The session lives on."""
        self._settle(CANCELLED)

    def abort(self, error: BaseException | None = None) -> None:
        """Cut off the sends that wait: each gets a `SessionAbortError` of its own, caused by `error`."""
        self._settle(aborted(error))

    def timeout(self) -> None:
        """Let the sends that wait time out now, their remaining attempts included."""
        self._settle(TIMED_OUT)

    def end(self) -> None:
        """End the session. Sends that wait get `SessionCancelError`; an exact peer is told. Idempotent."""
        self._end(ENDED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    # -- what the port calls -----------------------------------------------------------------------------------------

    def _deliver(self, message: Any) -> None:
        """A message of the peer: the waiting turn's reply, or one for the inbox. Synchronous: it cannot wait."""
        turn = self._turn
        if turn is not None and turn.sent and not turn.filled:
            self.port._counters.matched += 1
            turn.answer(message)
            return
        if self._unsafe_until and self._unsafe_until > trio.current_time():
            # The number's last owner was recycled with a turn waiting, and this session has not asked anything yet.
            self.port._counters.late += 1
            return
        self._to_inbox(message)

    def _to_inbox(self, message: Any) -> None:
        """A message for `receive`."""
        if not self._inbox.put(message):
            self.port._counters.overrun += 1
            self._end(overrun(self.port._options.inbox_limit))
            return
        if self._turn is None and not self.incoming:
            self.port._idle_enter(self)

    def _settle(self, ending: Ending) -> None:
        """Give every send that waits its own error."""
        turn = self._turn
        if turn is None:
            return
        settled = 0
        if not turn.filled:
            turn.end(ending)
            settled = 1
        elif turn.failed and turn.revoked is None:
            turn.revoked = ending  # its sender's error may be one that it tries again on
            settled = 1
        while self._line:
            following, task = self._line.popitem(last=False)
            trio.lowlevel.reschedule(task, Error(self._ending_error(ending, following)))
            settled += 1
        self.port._counters.count(ending.counter, settled)

    def _end(self, ending: Ending) -> None:
        """The session is over; the first ending counts."""
        if self._ending is not None:
            return
        self._ending = ending
        self._settle(ending)
        if self._exchange is not None and self.port._exact is not None:
            self.port._exact.session_over(self, ending)
        self._inbox.close()
        self.port._forget(self)

    @property
    def _replies_owed(self) -> int:
        """Replies that may still come to this number, and be taken for another's."""
        if self._exchange is not None and self.port._exact is not None and self.port._exact.peer is rules.EXACT:
            return 0
        turn = self._turn
        return self._owed + (turn.sent - turn.answered if turn is not None else 0)

    # -- the inbox and the end ---------------------------------------------------------------------------------------

    async def _next_message(self, *, stops: bool = False) -> Any:
        """What `receive` returns; a clean end is `StopAsyncIteration` for who `stops` there."""
        if self._exchange is not None and self._exchange.stream is not None and self.port._exact is not None:
            await self.port._exact.streamed.over(self)
        inbox = self._inbox
        if inbox.kept or self._ending is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            message = inbox.take() if inbox.kept else OVER
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            if self.incoming:
                self.port._idle_enter(self)
            message = await trio.lowlevel.wait_task_rescheduled(inbox.line_up())
        if message is OVER:
            assert self._ending is not None
            if stops and self._ending.clean:
                raise StopAsyncIteration
            self._raise_ended()
        return self._taken_out(message)

    def _taken_out(self, message: Any) -> Any:
        exchange = self._exchange
        if exchange is not None and message is exchange.asking and self.port._exact is not None:
            self.port._exact.answerer.taken_out(self)
        return message

    @property
    def _is_idle(self) -> bool:
        """Whether nothing goes on in it: no turn, and of the peer's only those whose handler waits for more."""
        return self._turn is None and (not self.incoming or self._waits_for_peer)

    @property
    def _waits_for_peer(self) -> bool:
        """Whether its handler waits for a message, or for credit."""
        exchange = self._exchange
        return self._inbox.receiver is not None or (exchange is not None and bool(exchange.for_credit))

    def _check_open(self) -> None:
        if self._ending is not None:
            self._raise_ended()

    def _raise_ended(self) -> NoReturn:
        ending = self._ending
        assert ending is not None
        raise self._error(ending.after, f"the session is over: {ending.why}") from ending.cause

    def _ending_error(self, ending: Ending, turn: Turn) -> errors.SessionError:
        error = self._error(ending.error, ending.why, turn)
        error.__cause__ = ending.cause
        return error

    def _error(self, kind: type[errors.SessionError], why: str, turn: Turn | None = None) -> errors.SessionError:
        """A fresh error that says what this session knows."""
        error = kind(why, port=self.port.name, sid=self.sid)
        if turn is not None:
            error.attempts, error.waited = turn.attempts, trio.current_time() - turn.started
            error.outcome = "sent" if turn.sent else "not_sent"
        return error
