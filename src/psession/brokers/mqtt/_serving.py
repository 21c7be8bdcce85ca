"""Serving links to all who want one on a topic."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Protocol

from psession.brokers._serving import LinkServer
from psession.brokers.mqtt._channel import LINK_PROPERTY, MqttChannel, Road, word
from psession.brokers.mqtt._topics import check_topic
from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import trio

    from psession.brokers.mqtt._message import MqttMessage
    from psession.brokers.mqtt._subscription import MqttSubscription


class ServingRoad(Road, Protocol):
    """A client, as far as serving needs it."""

    def subscribe(self, filter: str, *, shared: str | None = None) -> AbstractAsyncContextManager[MqttSubscription]:
        """Subscribe to a topic."""
        ...


class MqttServer(LinkServer[MqttChannel]):
    """The links that one ``mqtt.serve`` has; ``await nursery.start(mqtt.serve, topic, handler)`` gives it.

    Attributes:
        topic: The topic that is served.
        links: The number of links that are open.
        refused: The number of links so far for which there was no place.
        strangers: The number of messages so far that did not want a link.
    """

    def __init__(
        self,
        road: ServingRoad,
        topic: str,
        handler: Callable[[MqttChannel], Awaitable[object]],
        max_links: int,
        options: dict[str, Any],
    ) -> None:
        super().__init__(topic, handler, max_links)
        self.topic: str = topic
        self._road = road
        self._options = options
        self._token = f"D{secrets.token_hex(11)}"
        self._door = ""

    async def run(self, shared: str | None, task_status: trio.TaskStatus[MqttServer]) -> None:
        """Serve until cancelled, or until the client is drained or closed; then until all links are."""
        road = self._road
        await road.open_inbox()
        async with open_quiet_nursery() as nursery:

            def knock(message: MqttMessage) -> None:
                self._knock(message, nursery)

            self._door = road.take_inbox(self._token, knock)
            try:
                async with road.subscribe(self.topic, shared=shared) as subscription:
                    task_status.started(self)
                    async for message in subscription:
                        self._knock(message, nursery)
            finally:
                road.leave_inbox(self._token)

    def _knock(self, message: MqttMessage, nursery: trio.Nursery) -> None:
        """Somebody wants a link, or something else."""
        out, back = self._road.outgoing, message.response_topic
        try:
            if back is not None:
                check_topic(back, "response topic")
        except ValueError:
            back = None
        if message.user_property(LINK_PROPERTY) != "open" or back is None:
            self._note_stranger()
            if back is not None:
                why = f"{self.topic} is served by psession's sessions; a plain request is for mqtt.requests()"
                frame = self._road.frame(
                    back,
                    b"",
                    correlation_data=message.correlation_data,
                    user_properties=[("Psession-Code", "400"), ("Psession-Error", why)],
                )
                out.put(frame, out.answers_together())
            return
        if not self._has_place():
            out.put(word("refused", back, why=f"there is no place: max_links is {self._max_links}"), 1)
            return
        channel = MqttChannel(self._road, self.topic, **self._options)
        channel.stand(back)
        channel.say("welcome", door=self._door)
        self._start(channel, nursery)
