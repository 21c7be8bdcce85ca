"""Serving links to all who want one on a subject: a task for each, places for so many."""

from __future__ import annotations

import secrets
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import trio

from psession.brokers._channel import LinkRoad
from psession.brokers._serving import LinkServer
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._channel import NatsChannel, word, word_of
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._subjects import subject_bytes
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from psession.brokers.nats._subscription import Subscription
    from psession.brokers.nats._tap import Tap
    from psession.brokers.nats._wire import NatsMessage


class ServingRoad(LinkRoad, Protocol):
    """A client, as far as serving needs it."""

    def subscribe(self, subject: str, *, queue: str | None = None) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a subject."""
        ...

    def tap(self, subject: str, take: Callable[[NatsMessage], None]) -> Tap:
        """Have the messages of a subject given to a function."""
        ...


class NatsServer(LinkServer[NatsChannel]):
    """The links that one ``nats.serve`` has; ``await nursery.start(nats.serve, subject, handler)`` gives it.

    With `add` it serves further subjects, any number of them, for no task each; a channel's ``subject`` says which.

    Attributes:
        subject: The subject that is served; ``""``: those that were added alone.
        links: The number of links that are open.
        refused: The number of links so far for which there was no place.
        strangers: The number of messages so far that did not want a link.
    """

    def __init__(
        self,
        road: ServingRoad,
        subject: str,
        handler: Callable[[NatsChannel], Awaitable[object]],
        max_links: int,
        options: dict[str, Any],
    ) -> None:
        super().__init__(subject, handler, max_links)
        self.subject = subject
        self._road = road
        self._options = options
        self._token = f"D{secrets.token_hex(11)}"
        self._door = ""
        self._nursery: trio.Nursery | None = None
        self._numbers = count(1)
        self._added: dict[str, tuple[Tap, str]] = {}
        self._behind: dict[str, str] = {}
        self._refusing: dict[str, str] = {}

    def add(self, subject: str) -> None:
        """Serve one more subject, from now on.

        Raises:
            RuntimeError: Nothing is served yet, or no more.
            NatsClosedError: The client is closed.
            TypeError, ValueError: It is none.
        """
        if self._nursery is None:
            raise RuntimeError("add() is for a server that runs")
        if subject in self._added:
            return
        subject_bytes(subject)
        number = str(next(self._numbers))
        self._added[subject] = self._road.tap(subject, self._knock), number
        self._behind[number] = subject

    def refuse(self, subject: str, reason: str) -> None:
        """Refuse further links on an added subject, and say why, until it is removed; its links live on.

        Who asks for one gets a `NatsConnectError` at once, whose ``reason`` is this one.
        """
        if subject in self._added:
            self._refusing[subject] = reason

    def remove(self, subject: str) -> None:
        """Serve an added subject no more; its links live on. Idempotent."""
        self._refusing.pop(subject, None)
        tap, number = self._added.pop(subject, (None, ""))
        self._behind.pop(number, None)
        if tap is not None:
            tap.close()

    async def run(self, queue: str | None, task_status: trio.TaskStatus[NatsServer]) -> None:
        """Serve until cancelled, or until the client is drained or closed; then until all links are."""
        road = self._road
        async with open_quiet_nursery() as nursery:
            self._door = road.take_inbox(self._token, self._knock)
            self._nursery = nursery
            try:
                if not self.subject:
                    task_status.started(self)
                    await trio.sleep_forever()
                async with road.subscribe(self.subject, queue=queue) as subscription:
                    task_status.started(self)
                    async for message in subscription:
                        self._knock(message)
            finally:
                self._nursery = None
                road.leave_inbox(self._token)
                for subject in list(self._added):
                    self.remove(subject)

    def _knock(self, message: NatsMessage) -> None:
        """Somebody wants a link, or something else."""
        out, nursery = self._road.outgoing, self._nursery
        if nursery is None:
            return
        try:
            back = subject_bytes(message.reply, "reply") if message.reply else b""
        except ValueError:
            back = b""
        if word_of(message) != "open" or not back:
            self._note_stranger()
            if back:
                why = f"{message.subject} is served by psession's sessions; a plain request is for nats.requests()"
                block = encode_headers({"Nats-Service-Error": why, "Nats-Service-Error-Code": "400"})
                out.put(wire.hpub(back, b"", block, b""), out.answers_together())
            return
        subject, _, behind = message.subject.partition(f"{self._token}-")
        if subject not in self._added:
            # By a door: it is that of the subject which this server began with, or of one that was added.
            subject = self._behind.get(behind, "") if behind else self.subject
            if not subject:
                out.put(word("refused", back, why="what was served by this door is served here no more"), 1)
                return
        reason = self._refusing.get(subject)
        if reason is not None:
            out.put(word("refused", back, why=reason), 1)
            return
        if not self._has_place():
            out.put(word("refused", back, why=f"there is no place: max_links is {self._max_links}"), 1)
            return
        channel = NatsChannel(self._road, subject, **self._options)
        channel.stand(message.reply)
        number = self._added[subject][1] if subject in self._added else ""
        channel.say("welcome", door=f"{self._door}-{number}" if number else self._door)
        self._start(channel, nursery, subject)
