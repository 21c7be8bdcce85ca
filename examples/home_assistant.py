"""Home Assistant as the peer: log in, switch a lamp, hear what changes. Its own protocol over a WebSocket.

python home_assistant.py URL TOKEN [LAMP]     such as ws://homeassistant.local:8123/api/websocket, and light.kitchen
"""

import sys

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import open_websocket
from psession.dialects import Answer, Event, Failure, Part, TurnDialect


class HomeAssistant(TurnDialect):
    """What is asked is ``{"type": ..., ...}``, the reply the ``result``. The first request is the access token.

    A subscription is a stream: its ``result`` is the first part, each event another. Giving it up unsubscribes.
    """

    streams = True

    def begin(self):
        self.last = 0  # 0 is the login, which has no id on the wire; the others must rise

    def new_id(self):
        self.last += 1
        return self.last - 1

    def ask(self, payload, id):
        return payload if id == 0 else {**payload, "id": id}

    def is_subscription(self, payload):
        return payload["type"].startswith("subscribe_")

    def quit(self, id, payload):
        if self.is_subscription(payload):
            return {"type": "unsubscribe_events", "subscription": id, "id": self.new_id()}
        return None

    def read(self, message):
        match message["type"]:
            case "auth_ok":
                return Answer(0, message)
            case "auth_invalid":
                return Failure(0, "auth_invalid", message["message"], is_refusal=True)
            case "event":
                return Part(message["id"], message["event"])
            case "result" if not message["success"]:
                error = message["error"]
                return Failure(message["id"], error["code"], error["message"])
            case "result" if message["id"] in self.asked and self.is_subscription(self.asked[message["id"]]):
                return Part(message["id"], message["result"])
            case "result":
                return Answer(message["id"], message["result"])
        return Event(message)


async def main(url, token, lamp="light.kitchen"):
    manager = SessionManager(dialect=HomeAssistant(), session_timeout=10, on_message=lambda message: None)
    async with open_websocket(url) as channel, manager.port("home", channel) as home:
        hello = await home.request({"type": "auth", "access_token": token})
        print("Home Assistant", hello["ha_version"])
        states = await home.request({"type": "get_states"})
        print(f"{lamp}:", next(state["state"] for state in states if state["entity_id"] == lamp))
        async with home.stream({"type": "subscribe_events", "event_type": "state_changed"}) as events:
            await anext(events)  # subscribed
            switch = {"type": "call_service", "domain": "light", "service": "toggle", "target": {"entity_id": lamp}}
            await home.request(switch)
            async for event in events:
                if event["data"]["entity_id"] == lamp:
                    print(f"{lamp} is now:", event["data"]["new_state"]["state"])
                    break
        try:
            await home.request({**switch, "service": "sing"})
        except SessionRemoteError as error:
            print(f"sing: {error.code}, {error.text}")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
