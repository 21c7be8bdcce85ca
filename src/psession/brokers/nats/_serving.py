"""Serving links to all who want one on a subject: a task for each, places for so many."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Protocol

from psession.brokers._serving import LinkServer
from psession.brokers.nats import _wire as wire
from psession.brokers.nats._channel import NatsChannel, Road, word, word_of
from psession.brokers.nats._headers import encode_headers
from psession.brokers.nats._subjects import subject_bytes
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import trio

    from psession.brokers.nats._subscription import Subscription
    from psession.brokers.nats._wire import NatsMessage


class ServingRoad(Road, Protocol):
    """A client, as far as serving needs it."""

    def subscribe(self, subject: str, *, queue: str | None = None) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a subject."""
        ...


class NatsServer(LinkServer[NatsChannel]):
    """The links that one ``nats.serve`` has; ``await nursery.start(nats.serve, subject, handler)`` gives it.

    Attributes:
        subject: The subject that is served.
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

    async def run(self, queue: str | None, task_status: trio.TaskStatus[NatsServer]) -> None:
        """Serve until cancelled, or until the client is drained or closed; then until all links are."""
        road = self._road
        async with open_quiet_nursery() as nursery:

            def knock(message: NatsMessage) -> None:
                self._knock(message, nursery)

            self._door = road.take_inbox(self._token, knock)
            try:
                async with road.subscribe(self.subject, queue=queue) as subscription:
                    task_status.started(self)
                    async for message in subscription:
                        self._knock(message, nursery)
            finally:
                road.leave_inbox(self._token)

    def _knock(self, message: NatsMessage, nursery: trio.Nursery) -> None:
        """Somebody wants a link, or something else."""
        out = self._road.outgoing
        try:
            back = subject_bytes(message.reply, "reply") if message.reply else b""
        except ValueError:
            back = b""
        if word_of(message) != "open" or not back:
            self._note_stranger()
            if back:
                why = f"{self.subject} is served by psession's sessions; a plain request is for nats.requests()"
                block = encode_headers({"Nats-Service-Error": why, "Nats-Service-Error-Code": "400"})
                out.put(wire.hpub(back, b"", block, b""), out.answers_together())
            return
        if not self._has_place():
            out.put(word("refused", back, why=f"there is no place: max_links is {self._max_links}"), 1)
            return
        channel = NatsChannel(self._road, self.subject, **self._options)
        channel.stand(message.reply)
        channel.say("welcome", door=self._door)
        self._start(channel, nursery)
