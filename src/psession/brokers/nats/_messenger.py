"""What a client of NATS does with messages: publish, ask, subscribe."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from psession import checks
from psession.brokers._outgoing import FLUSHED_FRAMES
from psession.brokers._subscription import checked_limits
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._subjects import pattern_bytes, queue_bytes, subject_bytes
from psession.errors import MessageTooLargeError
from psession.shell.waiting import SILENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from psession.brokers.nats._connection import Connection
    from psession.brokers.nats._headers import Headers
    from psession.brokers.nats._options import NatsOptions
    from psession.brokers.nats._subscription import Subscription
    from psession.brokers.nats._tap import Tap
    from psession.brokers.nats._wire import NatsMessage

_protected = trio.lowlevel.enable_ki_protection

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds for a request: some round trips through a cluster that loses a node meanwhile."""


class Messenger:
    """A client of core NATS, over a connection that somebody keeps."""

    def __init__(self, connection: Connection, options: NatsOptions) -> None:
        self._connection = connection
        self._options = options
        self._out = connection.out
        self._inbox = connection.inbox
        self._table = connection.table

    # -- publishing --------------------------------------------------------------------------------------------------

    @_protected
    async def publish(
        self, subject: str, data: bytes = b"", *, reply: str | None = None, headers: Headers | None = None
    ) -> None:
        """Publish a message; await it. It returns when the message is accepted for sending, in order.

        Whether somebody receives it is not known; that is NATS. Waits while ``max_queued_bytes`` are queued, also for
        the next connection while there is none. Cancelled before it was accepted, it is never sent. A point of
        cancellation always; lets other tasks have a turn at least every 16th time.

        Args:
            subject: Without wildcards.
            data: The payload.
            reply: The subject that answers are wanted on.
            headers: What travels beside the payload.

        Raises:
            TypeError, ValueError: What is no subject or no bytes; the text says why.
            MalformedMessageError: A header cannot travel.
            MessageTooLargeError: It is longer than the server's ``max_payload``; nothing was sent.
            NatsClosedError: The client is closed.
        """
        back = subject_bytes(reply, "reply") + b" " if reply else b""
        frame = self._frame(subject_bytes(subject), back, data, headers)
        await self._wait_for_room(frame)
        self._out.put(frame, FLUSHED_FRAMES)

    @_protected
    def publish_nowait(
        self, subject: str, data: bytes = b"", *, reply: str | None = None, headers: Headers | None = None
    ) -> bool:
        """Publish a message now or never: it waits neither for room nor for the next connection.

        Arguments as `publish`.

        Returns:
            ``False`` where there is no connection, or ``max_queued_bytes`` are queued: it is not sent.

        Raises:
            TypeError, ValueError, MessageError: As `publish`.
            NatsClosedError: The client is closed.
        """
        frame = self._frame(
            subject_bytes(subject), subject_bytes(reply, "reply") + b" " if reply else b"", data, headers
        )
        self._connection.check_open()
        if not self._out.has_room:
            return False
        self._out.put(frame, FLUSHED_FRAMES)
        return True

    @_protected
    async def respond(self, message: NatsMessage, data: bytes = b"", *, headers: Headers | None = None) -> None:
        """Publish the answer to a message that wants one. Waits and raises as `publish`.

        Raises:
            ValueError: The message wants no answer.
        """
        if not message.reply:
            raise ValueError(f"the message on {message.subject!r} wants no answer: it has no reply subject")
        frame = self._frame(subject_bytes(message.reply, "reply"), b"", data, headers)
        await self._wait_for_room(frame)
        self._out.put(frame, self._out.answers_together())

    def _frame(self, subject: bytes, reply: bytes, data: bytes, headers: Headers | None) -> bytes:
        """The bytes of a message.

        Raises:
            TypeError, MalformedMessageError, MessageTooLargeError: As `publish`.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        if headers:
            block = encode_headers(headers)
            size = len(block) + len(data)
            frame = wire.hpub(subject, reply, block, data)
        else:
            size = len(data)
            frame = wire.pub(subject, reply, data)
        limit = self._connection.info.max_payload
        if size > limit:
            raise _too_large(size, limit)
        return frame

    async def _wait_for_room(self, frame: bytes) -> None:
        """Return when a message may be put; a point of cancellation.

        One that has waited is checked again: it may be another server now, and another `max_payload`.

        Raises:
            MessageTooLargeError, NatsClosedError: As `publish`.
        """
        if self._out.takes_now():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._out.wait_for_room()
            limit = self._connection.info.max_payload
            _, gone = wire.split(frame, limit)
            if gone:
                raise _too_large(gone[0][1], limit)
        if self._connection.is_closed:
            self._connection.check_open()

    # -- requests ----------------------------------------------------------------------------------------------------

    @_protected
    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - for all requests one task keeps the time
        headers: Headers | None = None,
    ) -> NatsMessage:
        """Publish a message and return the first answer to it.

        Args:
            subject: Without wildcards.
            data: The payload.
            timeout: Seconds to wait, the wait for a connection included.
            headers: What travels beside the payload.

        Cancelled before it was written, it is never sent; after that it is sent whole, and its answer counts as late.

        Raises:
            NatsNoRespondersError: Nobody serves the subject; the outcome is ``"not_sent"``.
            NatsTimeoutError: No answer in `timeout` seconds; ``"not_sent"`` where there was no connection.
            NatsDisconnectedError: The connection broke after it was written: ``"sent"``.
            NatsPermissionError: The server does not allow the subject: ``"not_sent"``.
            NatsClosedError: The client is closed.
            TypeError, ValueError, MessageError: As `publish`.
        """
        checks.seconds("timeout", timeout)
        inbox = self._inbox
        token, reply = inbox.reply_to()
        frame = self._frame(subject_bytes(subject), reply, data, headers)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._connection.is_closed:
            self._connection.check_open()
        asked = inbox.ask(token, subject, frame, timeout)
        try:
            answer: NatsMessage = await asked.park()
        except trio.Cancelled:
            self._out.withdraw(asked.number)
            raise
        finally:
            inbox.forget(asked)
        if answer is SILENCE:
            raise inbox.timed_out(asked, timeout)
        if answer.header_bytes and answer.says_no_responders:
            raise inbox.nobody(subject)
        return answer

    def new_inbox(self) -> str:
        """Return a subject that nobody else has, to subscribe to and to name as ``reply``."""
        return f"{self._options.inbox_prefix}.{secrets.token_hex(11)}"

    # -- subscribing -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        limit: int | None = None,
        max_pending_messages: int | None = None,
        max_pending_bytes: float | None = None,
    ) -> AsyncIterator[Subscription]:
        """``async with nats.subscribe(subject) as subscription``: the messages of a subject, while the block lasts.

        It is made again after each reconnect. Messages that are published while there is no connection are lost to it.
        It is on its way to the server when the block begins; ``await nats.flush()`` waits until the server has it.

        Args:
            subject: A subject; ``*`` stands for one token, ``>`` at the end for one or more.
            queue: A queue group: of all its members one gets each message.
            limit: End the subscription after so many messages.
            max_pending_messages: How many messages may wait in it; by default the client's. One more, and it ends with
                `NatsOverrunError`, alone.
            max_pending_bytes: The bytes of these, likewise.

        Raises:
            TypeError, ValueError: An argument that will not do; the text says why.
            NatsClosedError: The client is closed, or being drained.
        """
        limits = checked_limits(self._options, limit, max_pending_messages, max_pending_bytes)
        pattern_bytes(subject)
        if queue is not None:
            queue_bytes(queue)
        self._connection.check_open()
        table = self._table
        subscription = table.subscribe(subject, queue or "", *limits)
        try:
            yield subscription
        finally:
            table.end(subscription)
            table.forget(subscription)
            subscription.forget()

    @_protected
    def tap(self, subject: str, take: Callable[[NatsMessage], None]) -> Tap:
        """Have the messages of a subject given to a function as they come, until `Tap.close`.

        For thousands of subjects: each takes 300 bytes, and no task. It is made again after each reconnect. Never
        waits.

        Args:
            subject: A subject, which may have wildcards.
            take: A plain function. It is called in the reader's own step, so it must be quick. What it raises is
                logged.

        Raises:
            NatsClosedError: The client is closed, or being drained.
            TypeError, ValueError: An argument that will not do; the text says why.
        """
        pattern_bytes(subject)
        if not callable(take):
            raise TypeError(f"take must be a function, not {take!r}")
        self._connection.check_open()
        return self._table.tap(subject, take)

    # -- waiting for the server --------------------------------------------------------------------------------------

    @_protected
    async def flush(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - as everywhere in this package
        """Return when the server has done all that it was told: messages published, subscriptions made.

        Args:
            timeout: Seconds to wait, the wait for a connection included.

        Raises:
            NatsTimeoutError: It did not say so in `timeout` seconds.
            NatsDisconnectedError: The connection broke meanwhile.
            NatsClosedError: The client is closed.
        """
        checks.seconds("timeout", timeout)
        await self._connection.flush(timeout=timeout)

    @_protected
    async def until_connected(self) -> None:
        """Return when there is a connection.

        Raises:
            NatsClosedError: There will be none any more.
        """
        await self._connection.until_connected()

    @_protected
    async def until_disconnected(self) -> None:
        """Return when there is no connection, or the client is closed; at once where that is so."""
        await self._connection.until_disconnected()


def _too_large(size: int, limit: int) -> MessageTooLargeError:
    text = f"{size} bytes with headers; the server's max_payload is {limit}"
    return MessageTooLargeError(text, outcome="not_sent")


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytearray | memoryview | bytes):
        return bytes(data)
    hint = ": encode the text, data.encode()" if isinstance(data, str) else ""
    raise TypeError(f"data must be bytes, not {type(data).__name__}{hint}")
