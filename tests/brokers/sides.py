"""The brokers that ports go over, each in the same words: for tests of what is the same over all of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Port, Session, SessionManager
from psession.brokers import mqtt, nats
from psession.dialects import MqttRequests, NatsRequests

from . import broker, mqtt_broker, test_mqtt_client, test_nats_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager


class NatsSide:
    """NATS."""

    name = "nats"
    module: Any = nats
    Nobody: type[Exception] = nats.NatsNoRespondersError
    ConnectError: type[Exception] = nats.NatsConnectError
    ProtocolError: type[Exception] = nats.NatsProtocolError
    TooLate: type[Exception] = nats.NatsTimeoutError
    Requests: Any = NatsRequests
    address = "subject"
    no_addresses = ("a.*", "a b")
    too_large = "2000 are the most"
    group = "queue"
    ways: tuple[dict[str, Any], ...] = ({},)
    separator = "."
    wild = "*"
    answering = staticmethod(test_nats_client.answering)
    both = staticmethod(test_nats_client.both)

    def broker(self, max_payload: int = 1048576) -> AbstractAsyncContextManager[Any]:
        """A server, whose messages may be so long."""
        return broker.a_broker(max_payload=max_payload)

    def client(self, there: Any, place: str = "one", **options: Any) -> AbstractAsyncContextManager[Any]:
        """A client, by a host that can be taken down."""
        return test_nats_client.a_client(there, f"nats://{place}", **options)

    async def kill(self, there: Any, place: str) -> None:
        """Break the connections by a host."""
        await there.kill(place)

    async def take_down(self, there: Any, place: str) -> None:
        """Break them, and refuse new ones."""
        there.down.add(place)
        await there.kill(place)

    def bring_up(self, there: Any) -> None:
        """Refuse none any more."""
        there.down.clear()

    def inbox(self, client: Any) -> int:
        """How many channels and doors a client's inbox has."""
        return len(client._inbox)

    def data(self, message: Any) -> bytes:
        """The payload."""
        return message.data

    def code(self, message: Any) -> str | None:
        """The code of the error that an answer is."""
        return message.header("Psession-Code") or message.header("Nats-Service-Error-Code")

    def text(self, message: Any) -> str | None:
        """Its text."""
        return message.header("Nats-Service-Error")


class MqttSide:
    """MQTT."""

    name = "mqtt"
    module: Any = mqtt
    Nobody: type[Exception] = mqtt.MqttNoSubscribersError
    ConnectError: type[Exception] = mqtt.MqttConnectError
    ProtocolError: type[Exception] = mqtt.MqttProtocolError
    TooLate: type[Exception] = mqtt.MqttTimeoutError
    Requests: Any = MqttRequests
    address = "topic"
    no_addresses = ("a/+", "a\0")
    too_large = "2000 at most"
    group = "shared"
    ways: tuple[dict[str, Any], ...] = ({"qos": 0}, {"qos": 1})
    separator = "/"
    wild = "+"
    answering = staticmethod(test_mqtt_client.answering)
    both = staticmethod(test_mqtt_client.both)

    def broker(self, max_payload: int | None = None) -> AbstractAsyncContextManager[Any]:
        """A broker, whose packets may be so long."""
        return mqtt_broker.a_broker(**({} if max_payload is None else {"max_packet_size": max_payload}))

    def client(self, there: Any, place: str = "", **options: Any) -> AbstractAsyncContextManager[Any]:
        """A client, by a host that can be taken down, with its name."""
        return test_mqtt_client.a_client(there, url=f"mqtt://{place or 'broker'}", client_id=place, **options)

    async def kill(self, there: Any, place: str) -> None:
        """Break the connection of a client."""
        await there.kill(place)

    async def take_down(self, there: Any, place: str) -> None:
        """Break it, and refuse new ones."""
        there.down_for = place
        await there.kill(place)

    def bring_up(self, there: Any) -> None:
        """Refuse none any more."""
        there.down_for = ""

    def inbox(self, client: Any) -> int:
        """How many channels and doors a client's inbox has."""
        return len(client.inbox)

    def data(self, message: Any) -> bytes:
        """The payload."""
        return message.payload

    def code(self, message: Any) -> str | None:
        """The code of the error that an answer is."""
        return message.user_property("Psession-Code")

    def text(self, message: Any) -> str | None:
        """Its text."""
        return message.user_property("Psession-Error")


Side = NatsSide | MqttSide
SIDES = [pytest.param(side, id=side.name) for side in (NatsSide(), MqttSide())]
on_each_side = pytest.mark.parametrize("side", SIDES)


class Worker:
    """A process that serves ports on "work": it counts, and remembers its dialogues."""

    def __init__(self, name: str = "w", **options: Any) -> None:
        self.name = name
        self.ports: list[Port] = []
        self.asked = 0
        self.manager = SessionManager(session_timeout=5, dialect=Exact(), **options)

    async def __call__(self, channel: Any) -> None:
        async with self.manager.accept(channel, on_session=self.dialogue) as port:
            self.ports.append(port)
            await port.wait_closed()

    async def dialogue(self, session: Session) -> None:
        """Each answer says who gave it, and how many there were before in the dialogue."""
        turn = 0
        async for message in session:
            self.asked += 1
            if message.get("wait"):
                await trio.sleep(message["wait"])
            if message.get("parts"):
                for number in range(message["parts"]):
                    await session.post({"part": number})
                await session.finish()
                continue
            await session.post({"worker": self.name, "turn": turn, "echo": message.get("text")})
            turn += 1


@asynccontextmanager
async def served(client: Any, worker: Callable[[Any], Awaitable[object]], **options: Any) -> AsyncIterator[Any]:
    """Serve "work" as long as the block lasts."""

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await client.serve("work", worker, task_status=task_status, **options)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        yield server
        nursery.cancel_scope.cancel()


def manager(**options: Any) -> SessionManager:
    """Who asks."""
    return SessionManager(session_timeout=5, dialect=Exact(), **options)
