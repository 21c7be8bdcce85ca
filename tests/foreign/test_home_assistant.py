"""Home Assistant's protocol, against a small server made after its documentation.

developers.home-assistant.io/docs/api/websocket: the login, ids that must rise, results, events, errors.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from psession import SessionManager, SessionRemoteError, SessionTimeoutError
from psession.channels import open_websocket

from .test_programs import LONGEST_RUN, check_said, example

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.foreign
VERSION = "2026.11.1"
NO_SERVICE = {"code": "not_found", "message": "Service light.sing not found."}
ID_REUSE = {"code": "id_reuse", "message": "Identifier values have to increase."}


class Home:
    """A house with one lamp; it keeps each message that it gets."""

    def __init__(self) -> None:
        self.lamp = "off"
        self.heard: list[dict[str, Any]] = []
        self.subscriptions: dict[int, WebSocketConnection] = {}
        self.refused = 0

    async def serve(self, request: WebSocketRequest) -> None:
        """One client, from its login to its end."""
        socket = await request.accept()
        await say(socket, type="auth_required", ha_version=VERSION)
        try:
            login = json.loads(await socket.get_message())
            if login != {"type": "auth", "access_token": "sesame"}:
                await say(socket, type="auth_invalid", message="Invalid access token or password")
                await socket.aclose()
                return
            await say(socket, type="auth_ok", ha_version=VERSION)
            last = 0
            while True:
                message = json.loads(await socket.get_message())
                self.heard.append(message)
                if message["id"] <= last:
                    self.refused += 1
                    await self.result(socket, message, error=ID_REUSE)
                    continue
                last = message["id"]
                await self.answer(socket, message)
        except ConnectionClosed:
            self.subscriptions.clear()

    async def answer(self, socket: WebSocketConnection, message: dict[str, Any]) -> None:
        """Do what a message says."""
        match message["type"]:
            case "ping":
                await say(socket, id=message["id"], type="pong")
            case "get_states":
                await self.result(socket, message, [{"entity_id": "light.kitchen", "state": self.lamp}])
            case "subscribe_events":
                self.subscriptions[message["id"]] = socket
                await self.result(socket, message)
            case "unsubscribe_events":
                del self.subscriptions[message["subscription"]]
                await self.result(socket, message)
            case "call_service" if message["service"] == "toggle":
                self.lamp = "on" if self.lamp == "off" else "off"
                await self.result(socket, message, {"context": {}, "response": None})
                data = {"entity_id": "light.kitchen", "new_state": {"state": self.lamp}}
                for id, subscriber in list(self.subscriptions.items()):
                    event = {"event_type": "state_changed", "data": data, "origin": "LOCAL"}
                    await say(subscriber, id=id, type="event", event=event)
            case "call_service":
                await self.result(socket, message, error=NO_SERVICE)

    async def result(
        self, socket: WebSocketConnection, message: dict[str, Any], result: Any = None, error: Any = None
    ) -> None:
        """Say how it went."""
        how = {"success": True, "result": result} if error is None else {"success": False, "error": error}
        await say(socket, id=message["id"], type="result", **how)


async def say(socket: WebSocketConnection, **message: Any) -> None:
    await socket.send_message(json.dumps(message))


@asynccontextmanager
async def home() -> AsyncIterator[tuple[Home, str]]:
    """A house and its URL, for as long as the block lasts."""
    house = Home()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, house.serve, "127.0.0.1", 0, None))
        yield house, f"ws://127.0.0.1:{server.port}/api/websocket"
        nursery.cancel_scope.cancel()


async def test_a_lamp_is_switched_and_its_change_heard(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(LONGEST_RUN):
        async with home() as (house, url):
            await example("home_assistant").main(url, "sesame")
    check_said(
        capsys.readouterr().out,
        r"version: 2026\.11\.1",
        r"light\.kitchen: off\nlight\.kitchen is now: on",
        r"sing: not_found, Service light\.sing not found\.",
    )
    assert [(said["id"], said["type"]) for said in house.heard] == [
        (1, "get_states"),
        (2, "subscribe_events"),
        (3, "call_service"),
        (4, "unsubscribe_events"),
        (5, "call_service"),
    ]
    assert house.heard[3]["subscription"] == 2


async def test_a_wrong_token_is_refused_in_words() -> None:
    with trio.fail_after(LONGEST_RUN):
        async with home() as (_, url):
            with pytest.raises(SessionRemoteError, match="Invalid access token") as caught:
                await example("home_assistant").main(url, "pepper")
    assert (caught.value.code, caught.value.outcome) == ("auth_invalid", "refused")


async def test_ids_rise_whatever_is_given_up_and_when() -> None:
    module = example("home_assistant")
    manager = SessionManager(dialect=module.HomeAssistant(), session_timeout=10, on_message=lambda message: None)
    with trio.fail_after(LONGEST_RUN):
        async with (
            home() as (house, url),
            open_websocket(url) as channel,
            manager.port("home", channel) as port,
        ):
            await port.request({"type": "auth", "access_token": "sesame"})

            async def listen(number: int) -> None:
                asked = {"type": "subscribe_events", "event_type": f"event_{number}"}
                with trio.move_on_after(number % 5 / 1000):
                    async with port.stream(asked) as events:
                        await anext(events)
                        if number % 2:
                            await anext(events)

            async def ask(number: int) -> None:
                with suppress(SessionTimeoutError):
                    await port.request({"type": "ping"}, timeout=0.0005 if number % 3 == 0 else 10)

            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(listen, number)
                    nursery.start_soon(ask, number)
            await port.request({"type": "ping"})
            ids = [said["id"] for said in house.heard]
            assert len(ids) > 300
            assert ids == sorted(set(ids))
            assert (house.refused, house.subscriptions) == (0, {})
            statistics = port.statistics()
            assert (statistics.malformed, statistics.unknown_sid) == (0, 0)
